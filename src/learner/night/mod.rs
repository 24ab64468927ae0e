//! One night, as a pure function: readings in, a scored candidate and a decision out.
//!
//! The last days with daylight are held back; the candidate learns from the days before them, is
//! scored on them beside both baselines and the live model, and **is** the artefact that would be
//! served: nothing is fitted again after scoring, so what was measured is what runs. A row belongs
//! to the local day of its *target*, so no target of a held-back day is ever learned from.

mod cache;
mod report;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use cache::Counting;
pub use cache::{Cache, MAX_CACHE_BYTES};
pub use report::{Decision, NightReport, Scored};

use crate::features::{FeatureSet, Matrix, Pipeline, Plan, PlanError, Row, Sink, Truth};
use crate::grid::infer_step_min;
use crate::models::ramp::{RampLearner, RampWarning};
use crate::models::score::Metrics;
use crate::models::{Artifact, Header, LearnError, Learner, TreesLearner};
use crate::reading::{DeviceId, TimestampMs, Values};
use crate::sun::Site;

/// Readings looked at to infer the grid step.
const STEP_SAMPLE: usize = 4096;

/// By which error models are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Mean absolute error.
    #[default]
    Mae,
    /// Root mean square error.
    Rmse,
}

impl Metric {
    fn of(self, metrics: &Metrics) -> f64 {
        match self {
            Metric::Mae => metrics.mae,
            Metric::Rmse => metrics.rmse,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Metric::Mae => "MAE",
            Metric::Rmse => "RMSE",
        }
    }
}

/// What a candidate has to show to replace the live model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Promote {
    /// By which error.
    pub metric: Metric,
    /// Its error must be below the live model's by more than this; negative tolerates a loss.
    pub min_improvement_percent: f64,
}

/// How the candidate is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The last candidate with its oldest pieces renewed, from the cache and the days since. Without
    /// a cache, and every so many days: in full.
    #[default]
    Incremental,
    /// All pieces anew.
    Full,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Incremental => "incremental",
            Mode::Full => "full",
        })
    }
}

/// The settings of a night.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NightParams {
    /// Minutes ahead.
    pub horizon_min: u32,
    /// Grid step, minutes; inferred from the rows when absent.
    pub step_min: Option<u32>,
    /// Where the devices are; without it there are no sun features.
    pub site: Option<Site>,
    /// Zone of local hours and days; UTC when absent.
    pub zone: Option<chrono_tz::Tz>,
    /// Which features.
    pub features: FeatureSet,
    /// Days with daylight at the end that are held back (0 counts as 1).
    pub holdback_days: u32,
    /// Fewer days with daylight before those: no training.
    pub min_train_days: u32,
    /// The gate.
    pub promote: Promote,
    /// Full or incremental.
    pub mode: Mode,
    /// Days after which an incremental night is a full one.
    pub full_every_days: u32,
    /// Days older than this are forgotten; none where everything counts.
    pub forget_before: Option<TimestampMs>,
    /// For learners that draw lots.
    pub seed: u64,
}

/// Why a night ended without a report.
#[derive(Debug, Error)]
pub enum NightError {
    /// The rows could not be read.
    #[error("reading the rows to train on")]
    Rows(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The settings contradict themselves.
    #[error("planning the features")]
    Plan(#[from] PlanError),
    /// A learner failed, or was cancelled.
    #[error("training the candidate")]
    Learn(#[from] LearnError),
}

/// A night's outcome, and what the next one starts from.
#[derive(Debug)]
pub struct Night {
    /// What it found out.
    pub report: NightReport,
    /// For the next night; none where there was nothing to learn.
    pub cache: Option<Cache>,
}

/// How readings become rows under these settings on a grid of `step_min`.
fn planned(params: &NightParams, step_min: u32) -> Result<Plan, PlanError> {
    Plan::new(
        params.horizon_min,
        step_min,
        params.features,
        params.site,
        params.zone,
    )
}

/// Rows by day of their target: the last days wait, older ones are taught.
struct Days<'a> {
    plan: &'a Plan,
    learner: &'a mut TreesLearner,
    ramp: &'a mut RampLearner,
    cancel: &'a AtomicBool,
    holdback_days: usize,
    /// Up to this day the learner knows everything.
    known: Option<i32>,
    held: BTreeMap<i32, (Matrix, bool)>,
    failed: Option<LearnError>,
    rows_train: u64,
    trained_until: TimestampMs,
    present: u64,
}

impl Days<'_> {
    fn lit(&self) -> usize {
        self.held.values().filter(|(_, lit)| *lit).count()
    }

    fn teach_oldest(&mut self) {
        let Some((day, (rows, _))) = self.held.pop_first() else {
            return;
        };
        // A device that falls silent leaves a row that is complete only when it speaks again, or at the end.
        self.known = Some(day);
        self.rows_train += rows.len() as u64;
        let newest = rows
            .iter()
            .map(|(row, _)| self.plan.target_ts(row.facts.ts))
            .max();
        self.trained_until = self.trained_until.max(newest.unwrap_or_default());
        self.ramp.learn(day, &rows, self.plan.horizon_min());
        if let Err(e) = self.learner.learn(day, &rows, self.cancel) {
            self.failed.get_or_insert(e);
        }
    }
}

impl Sink for Days<'_> {
    fn take(&mut self, row: Row<'_>, truth: Truth) {
        let target = self.plan.target_ts(row.facts.ts);
        self.present |= !row.facts.missing;
        let day = self.plan.local_day(target);
        if self.known.is_some_and(|known| day <= known) {
            return;
        }
        let (rows, lit) = self.held.entry(day).or_default();
        rows.take(row, truth);
        let dawned = truth.daylight && !*lit;
        *lit |= truth.daylight;
        if dawned {
            // A day counts from its first light: at two in the morning today holds nothing yet.
            while self.lit() > self.holdback_days {
                self.teach_oldest();
            }
        }
    }
}

/// The live version's parts for the night's horizon, which candidates are judged beside.
#[derive(Clone, Copy, Debug, Default)]
pub struct Live<'a> {
    /// The power model.
    pub power: Option<&'a Artifact>,
    /// The ramp warning.
    pub ramp: Option<&'a RampWarning>,
}

impl<'a> From<Option<&'a Artifact>> for Live<'a> {
    fn from(power: Option<&'a Artifact>) -> Self {
        Self { power, ramp: None }
    }
}

/// Carries out one night over `rows` (time ordered, devices interleaved).
///
/// With a `cache` the rows start where it [needs them](Cache::needs_from). Too little data is a
/// report with [`Decision::Skip`], not an error. The same rows, cache and settings give the same
/// report and the same bytes.
pub fn run<'a, E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    rows: impl IntoIterator<Item = Result<(DeviceId, TimestampMs, Values), E>>,
    live: impl Into<Live<'a>>,
    cache: Option<Cache>,
    params: &NightParams,
    cancel: &AtomicBool,
) -> Result<Night, NightError> {
    let mut rows = rows
        .into_iter()
        .map(|r| r.map_err(|e| NightError::Rows(e.into())));
    let head = rows
        .by_ref()
        .take(STEP_SAMPLE)
        .collect::<Result<Vec<_>, _>>()?;
    let mut cache = match cache {
        Some(cache) => cache,
        None => {
            let inferred = || infer_step_min(head.iter().map(|(device, ts, _)| (device, *ts)));
            let Some(step_min) = params.step_min.or_else(inferred) else {
                return Ok(Night {
                    report: NightReport::empty(params, "No device has two readings yet."),
                    cache: None,
                });
            };
            Cache::new(planned(params, step_min)?, params.seed)
        }
    };
    let plan = cache.plan.clone();
    let live = live.into();
    let live_ramp = live.ramp.filter(|live| live.header.fits(&plan));
    let live = live.power.filter(|live| live.header.fits(&plan));

    let rows_known = cache.learner.rows() as u64;
    let mut days = Days {
        plan: &plan,
        known: cache.learner.last_day(),
        learner: &mut cache.learner,
        ramp: &mut cache.ramp,
        cancel,
        holdback_days: params.holdback_days.max(1) as usize,
        held: BTreeMap::new(),
        failed: None,
        rows_train: 0,
        trained_until: cache.trained_until,
        present: 0,
    };
    let known = days.known;
    let mut pipeline = Pipeline::new(plan.clone());
    // The first day read may have begun before: only what is read whole is counted.
    let mut counting = Counting::default();
    for row in head.into_iter().map(Ok).chain(rows) {
        let (device, ts, values) = row?;
        counting.add(&plan, ts);
        pipeline.push(&device, ts, &values, &mut days);
        if let Some(e) = days.failed.take() {
            return Err(e.into());
        }
        if cancel.load(Ordering::Relaxed) {
            return Err(LearnError::Cancelled.into());
        }
    }
    pipeline.finish(&mut days);
    if let Some(e) = days.failed.take() {
        return Err(e.into());
    }
    let held = std::mem::take(&mut days.held);
    let (rows_train, trained_until, present) = (days.rows_train, days.trained_until, days.present);
    cache.trained_until = trained_until;
    cache.note_readings(counting, known);
    if let Some(from) = params.forget_before {
        cache.forget_before(from);
    }

    let mut report = NightReport {
        mode: Mode::Full,
        counts: pipeline.counts(),
        devices: pipeline.devices(),
        step_min: plan.step_min(),
        days_train: cache.learner.days() as u32,
        days_held_back: held.values().filter(|(_, lit)| *lit).count() as u32,
        rows_train,
        rows_known,
        features: plan
            .names()
            .enumerate()
            .filter(|(i, _)| present >> i & 1 == 1)
            .map(|(_, name)| name.to_owned())
            .collect(),
        ..NightReport::empty(params, "")
    };
    report.rows_held_back = held.values().map(|(m, _)| m.len() as u64).sum();
    let skip = |mut report: NightReport, reason: String| {
        report.reason = reason;
        Ok(Night {
            report,
            cache: None,
        })
    };
    if report.days_train < params.min_train_days.max(1) {
        let reason = format!(
            "There are {} days to learn from before the {} held back; {} are needed.",
            report.days_train,
            report.days_held_back,
            params.min_train_days.max(1)
        );
        return skip(report, reason);
    }
    let Some((&newest, _)) = held.iter().rev().find(|(_, (_, lit))| *lit) else {
        let reason = "No day after those already learned has daylight to score on.";
        return skip(report, reason.to_owned());
    };
    let is_due = newest - cache.full_day >= params.full_every_days.max(1) as i32;
    if params.mode == Mode::Full || is_due {
        cache.learner.renew();
    }
    if cache.learner.continues() {
        report.mode = Mode::Incremental;
    } else {
        cache.full_day = newest;
    }
    let model = match cache.learner.model(cancel) {
        Err(LearnError::NoRows) => {
            return skip(report, "No row has power to learn from.".to_owned());
        }
        other => other?,
    };
    let mut candidate = Artifact {
        header: Header::new(&plan, trained_until),
        model,
        interval: None,
    };
    report.judge(&mut candidate, live, &held, &mut cache.calibration);
    report.decide(&params.promote);
    report.model = Some(candidate.to_bytes());
    report.judge_ramp(cache.ramp.warning(&plan, trained_until), live_ramp, &held);
    Ok(Night {
        report,
        cache: Some(cache),
    })
}

#[cfg(test)]
mod tests;
