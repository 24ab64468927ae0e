//! One night, as a pure function: readings in, a scored candidate and a decision out.
//!
//! The last days with daylight are held back; the candidate learns from the days before them, is
//! scored on them beside both baselines and the live model, and **is** the artefact that would be
//! served: nothing is fitted again after scoring, so what was measured is what runs. A row belongs
//! to the local day of its *target*, so no target of a held-back day is ever learned from.

mod report;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use report::{Decision, NightReport, Scored};

use crate::features::{FeatureSet, Matrix, Pipeline, Plan, PlanError, Row, Sink, Truth};
use crate::grid::infer_step_min;
use crate::models::score::Metrics;
use crate::models::{Artifact, LearnError, Learner, product};
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// From all rows given.
    #[default]
    Full,
    /// From what the live model has learned, where its family keeps that, and the days since. The
    /// rows must reach back fifteen days before the first new one, for the envelope. Without such
    /// a live model: in full.
    Incremental,
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

/// Rows by day of their target: the last days wait, older ones are taught.
struct Days<'a> {
    plan: &'a Plan,
    learner: &'a mut dyn Learner,
    cancel: &'a AtomicBool,
    holdback_days: usize,
    /// Up to here the resumed model knows everything.
    known_until: Option<TimestampMs>,
    held: BTreeMap<i32, (Matrix, bool)>,
    failed: Option<LearnError>,
    days_train: u32,
    rows_train: u64,
    rows_known: u64,
    trained_until: TimestampMs,
    present: u64,
}

impl Days<'_> {
    fn lit(&self) -> usize {
        self.held.values().filter(|(_, lit)| *lit).count()
    }

    fn teach_oldest(&mut self) {
        let Some((_, (rows, lit))) = self.held.pop_first() else {
            return;
        };
        self.days_train += u32::from(lit);
        self.rows_train += rows.len() as u64;
        let newest = rows
            .iter()
            .map(|(row, _)| self.plan.target_ts(row.facts.ts))
            .max();
        self.trained_until = self.trained_until.max(newest.unwrap_or_default());
        if let Err(e) = self.learner.learn(&rows, self.cancel) {
            self.failed.get_or_insert(e);
        }
    }
}

impl Sink for Days<'_> {
    fn take(&mut self, row: Row<'_>, truth: Truth) {
        let target = self.plan.target_ts(row.facts.ts);
        self.present |= !row.facts.missing;
        if self.known_until.is_some_and(|known| target <= known) {
            self.rows_known += 1;
            return;
        }
        let (rows, lit) = self.held.entry(self.plan.local_day(target)).or_default();
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

/// Carries out one night over `rows` (time ordered, devices interleaved).
///
/// Too little data is a report with [`Decision::Skip`], not an error. The same rows and settings
/// give the same report and the same bytes.
pub fn run<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    rows: impl IntoIterator<Item = Result<(DeviceId, TimestampMs, Values), E>>,
    live: Option<&Artifact>,
    params: &NightParams,
    cancel: &AtomicBool,
) -> Result<NightReport, NightError> {
    run_with(|| product(params.seed), rows, live, params, cancel)
}

/// [`run`] with learners that know nothing from `fresh`.
fn run_with<L: Learner, E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    fresh: impl Fn() -> L,
    rows: impl IntoIterator<Item = Result<(DeviceId, TimestampMs, Values), E>>,
    live: Option<&Artifact>,
    params: &NightParams,
    cancel: &AtomicBool,
) -> Result<NightReport, NightError> {
    let mut rows = rows
        .into_iter()
        .map(|r| r.map_err(|e| NightError::Rows(e.into())));
    let head = rows
        .by_ref()
        .take(STEP_SAMPLE)
        .collect::<Result<Vec<_>, _>>()?;
    let inferred = || infer_step_min(head.iter().map(|(device, ts, _)| (device, *ts)));
    let Some(step_min) = params.step_min.or_else(inferred) else {
        return Ok(NightReport::empty(
            params,
            "No device has two readings yet.",
        ));
    };
    let plan = Plan::new(
        params.horizon_min,
        step_min,
        params.features,
        params.site,
        params.zone,
    )?;
    let live = live.filter(|live| live.fits(&plan));

    let mut learner = fresh();
    let mut resumed = live.filter(|_| params.mode == Mode::Incremental);
    if resumed.is_some_and(|live| !learner.resume(&live.model)) {
        learner = fresh();
        resumed = None;
    }
    let mut days = Days {
        plan: &plan,
        learner: &mut learner,
        cancel,
        holdback_days: params.holdback_days.max(1) as usize,
        known_until: resumed.map(|live| live.trained_until),
        held: BTreeMap::new(),
        failed: None,
        days_train: 0,
        rows_train: 0,
        rows_known: 0,
        trained_until: resumed.map(|live| live.trained_until).unwrap_or_default(),
        present: 0,
    };
    let mut pipeline = Pipeline::new(plan.clone());
    for row in head.into_iter().map(Ok).chain(rows) {
        let (device, ts, values) = row?;
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

    let mut report = NightReport {
        mode: if resumed.is_some() {
            Mode::Incremental
        } else {
            Mode::Full
        },
        counts: pipeline.counts(),
        devices: pipeline.devices(),
        step_min,
        days_train: days.days_train,
        days_held_back: days.lit() as u32,
        rows_train: days.rows_train,
        rows_known: days.rows_known,
        features: plan
            .names()
            .enumerate()
            .filter(|(i, _)| days.present >> i & 1 == 1)
            .map(|(_, name)| name.to_owned())
            .collect(),
        ..NightReport::empty(params, "")
    };
    let held: Vec<Matrix> = std::mem::take(&mut days.held)
        .into_values()
        .map(|(m, _)| m)
        .collect();
    report.rows_held_back = held.iter().map(|m| m.len() as u64).sum();
    let trained_until = days.trained_until;
    if resumed.is_none() && report.days_train < params.min_train_days.max(1) {
        report.reason = format!(
            "There are {} days to learn from before the {} held back; {} are needed.",
            report.days_train,
            report.days_held_back,
            params.min_train_days.max(1)
        );
        return Ok(report);
    }
    if report.days_held_back == 0 {
        report.reason = "No day after those already learned has daylight to score on.".to_owned();
        return Ok(report);
    }
    let model = match learner.model(cancel) {
        Err(LearnError::NoRows) => {
            report.reason = "No row has power to learn from.".to_owned();
            return Ok(report);
        }
        other => other?,
    };
    let mut candidate = Artifact {
        features: plan.names().map(str::to_owned).collect(),
        horizon_min: plan.horizon_min(),
        step_min,
        trained_until,
        model,
        interval: None,
    };
    report.judge(&mut candidate, live, &held);
    report.decide(&params.promote);
    report.model = Some(candidate.to_bytes());
    Ok(report)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::models::product_ridge;
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
            mode: Mode::Full,
            seed: 1,
        }
    }

    fn night(rows: &Rows, live: Option<&Artifact>, params: &NightParams) -> NightReport {
        let rows = rows.iter().cloned().map(Ok::<_, Infallible>);
        run(rows, live, params, &AtomicBool::new(false)).unwrap()
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
    fn an_incremental_night_equals_a_full_one_and_learns_only_what_is_new() {
        let rows = readings(&["a", "b"], 30, 10, 0.0, 4);
        let cut = rows[0].1.plus_min(28 * 1440);
        let first: Rows = rows
            .iter()
            .filter(|(_, ts, _)| *ts < cut)
            .cloned()
            .collect();
        let ridge = |rows: &Rows, live: Option<&Artifact>, params: &NightParams| {
            let rows = rows.iter().cloned().map(Ok::<_, Infallible>);
            run_with(product_ridge, rows, live, params, &AtomicBool::new(false)).unwrap()
        };
        let days_since = NightParams {
            mode: Mode::Incremental,
            ..params()
        };
        let live = artifact(&ridge(&first, None, &params()));
        let full = ridge(&rows, Some(&live), &params());
        let incremental = ridge(&rows, Some(&live), &days_since);
        assert_eq!(incremental.mode, Mode::Incremental);
        assert!(incremental.rows_train < full.rows_train / 5);
        assert_eq!(
            incremental.rows_train + incremental.rows_known,
            full.rows_train
        );
        assert_eq!(incremental.scores, full.scores);
        assert_eq!(incremental.model, full.model);
        // Trees cannot be taken up, so the product's night is a full one whatever was asked.
        let live = artifact(&night(&first, None, &params()));
        let asked = night(&rows, Some(&live), &days_since);
        assert_eq!(asked.mode, Mode::Full);
        assert_eq!(asked, night(&rows, Some(&live), &params()));
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
        let cancelled = run(all(), None, &params(), &AtomicBool::new(true));
        assert!(matches!(
            cancelled,
            Err(NightError::Learn(LearnError::Cancelled))
        ));
        let torn = rows.iter().cloned().map(Ok).chain([Err("disk gone")]);
        let outcome = run(torn, None, &params(), &AtomicBool::new(false));
        assert!(matches!(outcome, Err(NightError::Rows(_))), "{outcome:?}");
    }
}
