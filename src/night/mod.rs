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
use crate::models::{Artifact, LearnError, Learner, TreesLearner};
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
    let live_ramp = live.ramp.filter(|live| live.fits(&plan));
    let live = live.power.filter(|live| live.fits(&plan));

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
        features: plan.names().map(str::to_owned).collect(),
        horizon_min: plan.horizon_min(),
        step_min: plan.step_min(),
        trained_until,
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
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::models::Model;
    use crate::reading::Field;
    use crate::testing::{Lots, readings};

    type Rows = Vec<(DeviceId, TimestampMs, Values)>;

    fn params() -> NightParams {
        NightParams {
            horizon_min: 10,
            step_min: None,
            site: None,
            zone: None,
            features: FeatureSet::Core,
            holdback_days: 4,
            min_train_days: 5,
            promote: Promote::default(),
            mode: Mode::Incremental,
            full_every_days: 30,
            forget_before: None,
            seed: 1,
        }
    }

    fn night(rows: &Rows, live: Option<&Artifact>, params: &NightParams) -> NightReport {
        after(None, rows, live, params).report
    }

    /// A night after the one that left `cache`, over the rows of `rows` that it needs.
    fn after(
        cache: Option<Cache>,
        rows: &Rows,
        live: Option<&Artifact>,
        params: &NightParams,
    ) -> Night {
        let from = cache.as_ref().map(Cache::needs_from).unwrap_or_default();
        let needed = rows.iter().filter(|(_, ts, _)| *ts >= from);
        let needed = needed.cloned().map(Ok::<_, Infallible>);
        run(needed, live, cache, params, &AtomicBool::new(false)).unwrap()
    }

    /// The readings before a day.
    fn until(rows: &Rows, days: i64) -> Rows {
        let end = rows[0].1.plus_min(days * 1440);
        rows.iter()
            .filter(|(_, ts, _)| *ts < end)
            .cloned()
            .collect()
    }

    fn artifact(report: &NightReport) -> Artifact {
        Artifact::from_bytes(report.model.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn a_candidate_that_learned_something_is_promoted_and_crosses_the_pipe() {
        let rows = readings(&["a", "b"], 25, 10, 0.02, 1);
        let report = night(&rows, None, &params());
        assert_eq!(report.decision, Decision::Promote, "{}", report.reason);
        assert_eq!(
            (report.devices, report.step_min, report.days_held_back),
            (2, 10, 4)
        );
        assert!(
            report
                .coverage_p10_p90
                .is_some_and(|c| (0.7..0.95).contains(&c)),
            "{report:?}"
        );
        assert!(report.features.iter().any(|f| f == "lux"));
        assert!(
            !report.features.iter().any(|f| f == "humidity"),
            "never sent"
        );
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(
            serde_json::from_str::<NightReport>(&json).unwrap().model,
            report.model
        );
        assert!(artifact(&report).interval.is_some());
        let again = night(&rows, None, &params());
        assert_eq!(report, again, "same rows, same report, same bytes");
    }

    #[test]
    fn an_equal_candidate_is_kept_out_unless_a_loss_is_tolerated() {
        let rows = readings(&["a", "b"], 25, 10, 0.02, 1);
        let live = artifact(&night(&rows, None, &params()));
        let report = night(&rows, Some(&live), &params());
        assert_eq!(report.decision, Decision::Keep, "{}", report.reason);
        assert!(report.reason.contains("live model"), "{}", report.reason);
        let mut tolerant = params();
        tolerant.promote.min_improvement_percent = -1.0;
        assert_eq!(
            night(&rows, Some(&live), &tolerant).decision,
            Decision::Promote
        );
    }

    #[test]
    fn an_incremental_night_reads_a_bounded_tail_and_renews_one_piece_of_the_candidate_before() {
        let rows = readings(&["a", "b"], 46, 10, 0.0, 4);
        let first = after(None, &until(&rows, 44), None, &params());
        assert_eq!(first.report.mode, Mode::Full);
        let known = first.report.rows_train;
        let cache = first.cache.unwrap();
        let second = after(Some(cache.clone()), &until(&rows, 45), None, &params());
        let report = &second.report;
        assert_eq!(report.mode, Mode::Incremental);
        assert!(report.counts.readings < first.report.counts.readings / 2);
        assert_eq!(report.rows_train, 2 * 144, "one day of both devices");
        assert!(report.rows_known > 0 && report.rows_known < known);
        assert_eq!(report.days_train, first.report.days_train + 1);
        let boosters = |report: &NightReport| match &artifact(report).model.parts()[0] {
            Model::Boosted { boosters, .. } => boosters.clone(),
            other => panic!("{other:?}"),
        };
        let (old, new) = (boosters(&first.report), boosters(report));
        assert_eq!(old[1..], new[..new.len() - 1]);
        // What went over the disk goes on the same.
        let bytes = cache.to_bytes(&params());
        let stored = Cache::from_bytes(&bytes, &params()).unwrap();
        let again = after(Some(stored), &until(&rows, 45), None, &params());
        assert_eq!(again.report, second.report);
        // The same readings once more: nothing to learn, and the same candidate.
        let idle = after(second.cache, &until(&rows, 45), None, &params());
        assert_eq!(artifact(&idle.report).model, artifact(report).model);
        // The rows of a day are the same whether all was read or the tail.
        let whole = after(None, &until(&rows, 45), None, &params());
        assert_eq!(report.rows_held_back, whole.report.rows_held_back);
        let baseline = |r: &NightReport| r.score("smart").unwrap().daylight.mae;
        assert!((baseline(report) - baseline(&whole.report)).abs() < 1e-6);
        let of = |r: &NightReport| r.score("candidate").unwrap().daylight.mae;
        assert!(of(report) < 1.05 * of(&whole.report));
    }

    #[test]
    fn full_nights_come_when_due_or_asked_for_and_do_without_the_readings() {
        let rows = readings(&["a"], 50, 10, 0.0, 4);
        let first = after(None, &until(&rows, 47), None, &params()).cache;
        let full = NightParams {
            mode: Mode::Full,
            ..params()
        };
        let asked = after(first.clone(), &until(&rows, 48), None, &full);
        assert_eq!(asked.report.mode, Mode::Full);
        assert!(asked.report.rows_train < asked.report.rows_known);
        let soon = NightParams {
            full_every_days: 3,
            ..params()
        };
        let modes: Vec<Mode> = (48..=50)
            .scan(first, |cache, day| {
                let night = after(cache.take(), &until(&rows, day), None, &soon);
                *cache = night.cache;
                Some(night.report.mode)
            })
            .collect();
        assert_eq!(modes, [Mode::Incremental, Mode::Incremental, Mode::Full]);
    }

    #[test]
    fn readings_that_come_late_are_learned_and_old_days_forgotten() {
        let rows = readings(&["a"], 48, 10, 0.0, 4);
        let late = rows[0].1.plus_min(40 * 1440)..rows[0].1.plus_min(40 * 1440 + 720);
        let mut torn = until(&rows, 47);
        torn.retain(|(_, ts, _)| !late.contains(ts));
        let mut cache = after(None, &torn, None, &params()).cache.unwrap();
        let count = |from: TimestampMs, to: TimestampMs| {
            let counted = rows.iter().filter(|(_, ts, _)| (from..to).contains(ts));
            Ok::<u64, Infallible>(counted.count() as u64)
        };
        let before = cache.learner.last_day().unwrap();
        let same = |from: TimestampMs, to: TimestampMs| {
            let counted = torn.iter().filter(|(_, ts, _)| (from..to).contains(ts));
            Ok::<u64, Infallible>(counted.count() as u64)
        };
        cache.forget_changed(rows[0].1, same).unwrap();
        assert_eq!(cache.learner.last_day(), Some(before), "nothing came");
        cache.forget_changed(rows[0].1, count).unwrap();
        let day = cache.plan.local_day(late.start);
        assert_eq!(cache.learner.last_day(), Some(day - 1));
        let rows_torn = cache.learner.rows();
        let forgetful = NightParams {
            forget_before: Some(rows[0].1.plus_min(30 * 1440)),
            ..params()
        };
        let whole = after(None, &rows, None, &params()).cache.unwrap();
        let mended = after(Some(cache.clone()), &rows, None, &params());
        assert_eq!(mended.cache.unwrap().learner.rows(), whole.learner.rows());
        let short = after(Some(cache), &rows, None, &forgetful).cache.unwrap();
        assert!(short.learner.rows() < rows_torn / 2);
    }

    #[test]
    fn a_cache_that_is_damaged_cut_or_of_other_settings_is_refused() {
        let rows = readings(&["a"], 14, 30, 0.0, 4);
        let cache = after(None, &rows, None, &params()).cache.unwrap();
        let bytes = cache.to_bytes(&params());
        assert!(Cache::from_bytes(&bytes, &params()).is_ok());
        for at in (0..bytes.len()).step_by(101) {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(Cache::from_bytes(&bad, &params()).is_err(), "byte {at}");
            assert!(Cache::from_bytes(&bytes[..at], &params()).is_err());
        }
        let other = NightParams {
            horizon_min: 20,
            ..params()
        };
        let refused = Cache::from_bytes(&bytes, &other).unwrap_err().to_string();
        assert!(refused.contains("other settings"), "{refused}");
    }

    #[test]
    fn nothing_is_found_in_noise() {
        let mut rows = readings(&["a"], 25, 10, 0.0, 6);
        // Each day's power is dealt out anew: nothing before a slot says anything about it.
        let mut lots = Lots(8);
        for i in (1..rows.len()).rev() {
            let j = (lots.unit() * (i + 1) as f64) as usize;
            let (a, b) = (rows[i].2, rows[j].2);
            rows[i].2.set(Field::Power, b.get(Field::Power));
            rows[j].2.set(Field::Power, a.get(Field::Power));
        }
        let report = night(&rows, None, &params());
        let candidate = report.score("candidate").unwrap().daylight;
        assert!(candidate.r2 < Some(0.1), "{candidate:?}");
    }

    #[test]
    fn a_leaked_target_would_show() {
        let rows = readings(&["a"], 25, 10, 0.0, 6);
        let half_an_hour = NightParams {
            horizon_min: 30,
            ..params()
        };
        let mae = |rows| {
            let report = night(rows, None, &half_an_hour);
            report.score("candidate").unwrap().daylight.mae
        };
        let honest = mae(&rows);
        // The power of the target time smuggled in as a measurement.
        let mut leaked = rows.clone();
        for i in 0..rows.len() - 3 {
            leaked[i]
                .2
                .set(Field::Humidity, rows[i + 3].2.get(Field::Power));
        }
        let leak = mae(&leaked);
        assert!(leak < 0.8 * honest, "{leak} {honest}");
    }

    #[test]
    fn too_little_or_dull_data_never_panics() {
        let none = night(&Vec::new(), None, &params());
        assert_eq!((none.decision, none.model), (Decision::Skip, None));
        let one = night(
            &readings(&["a"], 1, 10, 0.0, 1)[..1].to_vec(),
            None,
            &params(),
        );
        assert_eq!(one.decision, Decision::Skip);
        let few = night(&readings(&["a"], 6, 10, 0.0, 1), None, &params());
        assert_eq!(few.decision, Decision::Skip);
        assert!(few.reason.contains("2 days"), "{}", few.reason);
        for constant_w in [0.0, 5.0] {
            let mut rows = readings(&["a"], 20, 10, 0.0, 1);
            for (_, _, values) in &mut rows {
                *values = Values::default();
                values.set(Field::Power, Some(constant_w));
            }
            let report = night(&rows, None, &params());
            assert_ne!(report.decision, Decision::Promote, "{}", report.reason);
        }
    }

    #[test]
    fn a_week_is_enough_for_a_night() {
        let first_week = NightParams {
            holdback_days: 1,
            min_train_days: 3,
            ..params()
        };
        let rows = readings(&["a"], 7, 10, 0.0, 1);
        let report = night(&rows, None, &first_week);
        assert_ne!(report.decision, Decision::Skip, "{}", report.reason);
        assert!(artifact(&report).model.parts().len() == 3);
    }

    #[test]
    fn cancelling_and_unreadable_rows_are_errors() {
        let rows = readings(&["a"], 20, 10, 0.0, 1);
        let all = || rows.iter().cloned().map(Ok::<_, Infallible>);
        let cancelled = run(all(), None, None, &params(), &AtomicBool::new(true));
        assert!(matches!(
            cancelled,
            Err(NightError::Learn(LearnError::Cancelled))
        ));
        let torn = rows.iter().cloned().map(Ok).chain([Err("disk gone")]);
        let outcome = run(torn, None, None, &params(), &AtomicBool::new(false));
        assert!(matches!(outcome, Err(NightError::Rows(_))), "{outcome:?}");
    }
}
