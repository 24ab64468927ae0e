//! The two protocols, with every forecaster in its own lane.

use std::sync::atomic::AtomicBool;
use std::thread;

use rustix::time::ClockId;

use super::recorded::Recorded;
use super::report::{BacktestResult, RampResult};
use crate::features::Matrix;
use crate::models::baseline::Baseline;
use crate::models::interval::{Calibration, Coverage, Interval};
use crate::models::ramp::{Brier, RampLearner};
use crate::models::score::{Score, skill};
use crate::models::{LearnError, Learner, Model, product, product_ridge};
use crate::night::Mode;
use crate::reading::TimestampMs;

/// Share of the time that trains in a split.
const TRAIN_SHARE: f64 = 0.8;
/// Days learned before the first night is judged.
const WARM_UP_DAYS: usize = 14;
/// Days after which an incremental night is a full one, as the configuration has it by default.
const FULL_EVERY_DAYS: i32 = 30;
/// Rows that are enough to find out how wide errors are, and the days that show it.
const SCOUT_ROWS: u64 = 60_000;
const CALIBRATION_DAYS: usize = 28;
const SEED: u64 = 42;

/// What `live` is made of beside smart persistence, in the order of its model's parts. They are
/// fitted once, together, and so their lanes carry the training time of `live`.
const PARTS: [&str; 2] = ["boosted", "extra"];

/// One forecaster on its way through the data.
#[derive(Default)]
pub(super) struct Lane {
    pub name: &'static str,
    mode: String,
    pub score: Score,
    coverage: Coverage,
    train_cpu_s: f64,
    last_night_cpu_s: f64,
    predict_s: f64,
    model_bytes: u64,
}

impl Lane {
    fn new(name: &'static str, mode: impl Into<String>) -> Self {
        Self {
            name,
            mode: mode.into(),
            ..Self::default()
        }
    }

    /// Runs a piece of training on this lane's account.
    fn train<T>(&mut self, f: impl FnOnce() -> Result<T, LearnError>) -> Result<T, LearnError> {
        let start_s = cpu_s(ClockId::ProcessCPUTime);
        let outcome = f();
        self.last_night_cpu_s = cpu_s(ClockId::ProcessCPUTime) - start_s;
        self.train_cpu_s += self.last_night_cpu_s;
        outcome
    }

    /// Scores `model` on a day; of the interval, if one is wanted, that which the days before gave.
    fn test(&mut self, number: i32, day: &Matrix, model: &Model, errors: Option<&mut Calibration>) {
        let start_s = cpu_s(ClockId::ThreadCPUTime);
        let forecasts_w: Vec<f32> = day.iter().map(|(row, _)| model.predict(row)).collect();
        self.predict_s += cpu_s(ClockId::ThreadCPUTime) - start_s;
        let judged = || {
            day.iter()
                .zip(&forecasts_w)
                .map(|((row, truth), &w)| (row, truth, w))
        };
        judged().for_each(|(_, truth, forecast_w)| self.score.add(truth, forecast_w));
        let Some(errors) = errors else { return };
        if let Some(interval) = errors.interval() {
            for (row, truth, forecast_w) in judged() {
                self.coverage
                    .add(truth, interval.around(&row.facts, forecast_w));
            }
        }
        errors.observe(number, judged());
    }

    /// Scores `model` and, beside it, each of its parts that has a lane.
    fn test_with(
        &mut self,
        parts: &mut [Lane],
        (number, day): (i32, &Matrix),
        model: &Model,
        errors: &mut Calibration,
    ) {
        thread::scope(|scope| {
            scope.spawn(|| {
                for (lane, part) in parts.iter_mut().zip(model.parts()) {
                    lane.test(number, day, part, None);
                }
            });
            self.test(number, day, model, Some(errors));
        });
    }

    /// Notes the size of the model, and on the lanes of its parts theirs and the shared training.
    fn close(
        &mut self,
        parts: &mut [Lane],
        recorded: &Recorded,
        model: &Model,
        interval: Option<Interval>,
    ) {
        let bytes = |model, interval| recorded.artifact(model, interval).to_bytes().len() as u64;
        self.model_bytes = bytes(model, interval);
        for (lane, part) in parts.iter_mut().zip(model.parts()) {
            lane.model_bytes = bytes(part, None);
            lane.train_cpu_s = self.train_cpu_s;
            lane.last_night_cpu_s = self.last_night_cpu_s;
        }
    }

    fn test_baseline(&mut self, day: &Matrix, baseline: Baseline) {
        let start_s = cpu_s(ClockId::ThreadCPUTime);
        for (row, truth) in day.iter() {
            self.score.add(truth, baseline.forecast_w(&row.facts));
        }
        self.predict_s += cpu_s(ClockId::ThreadCPUTime) - start_s;
    }

    pub fn result(self, smart_mae: f64, smart_rmse: f64) -> BacktestResult {
        let (day, all) = (self.score.daylight(), self.score.all());
        BacktestResult {
            name: self.name.to_owned(),
            mode: self.mode,
            mae: day.mae,
            rmse: day.rmse,
            r2: day.r2,
            mae_all: all.mae,
            rmse_all: all.rmse,
            r2_all: all.r2,
            skill_mae: skill(day.mae, smart_mae),
            skill_rmse: skill(day.rmse, smart_rmse),
            train_cpu_s: self.train_cpu_s,
            last_night_cpu_s: self.last_night_cpu_s,
            peak_rss_mib: peak_rss_mib(),
            model_bytes: self.model_bytes,
            predict_row_us: self.predict_s * 1e6 / all.n.max(1) as f64,
            coverage_p10_p90: self.coverage.share(),
        }
    }
}

fn baselines() -> [(Lane, Baseline); 2] {
    [
        (Lane::new("naive", "none"), Baseline::Naive),
        (Lane::new("smart", "none"), Baseline::Smart),
    ]
}

/// The lane of what is served, and lanes for its parts.
fn live_lanes(mode: impl Into<String>) -> (Lane, Vec<Lane>) {
    let mode = mode.into();
    let parts = PARTS.map(|part| Lane::new(part, &*mode));
    (Lane::new("live", mode), parts.into())
}

pub(super) struct Judged {
    pub rows_train: u64,
    pub rows_test: u64,
    pub lanes: Vec<Lane>,
    pub ramp: Option<RampResult>,
}

fn rows_of(days: &[Matrix]) -> u64 {
    days.iter().map(|day| day.len() as u64).sum()
}

/// The rows up to the cut, and those after it; `None` without any.
pub(super) fn cut_in_two(recorded: &mut Recorded) -> Option<[Vec<Matrix>; 2]> {
    let mut times: Vec<i64> = recorded
        .days
        .values()
        .flat_map(|day| day.iter().map(|(row, _)| row.facts.ts.0))
        .collect();
    times.sort_unstable();
    let last = times.len().checked_sub(1)?;
    // Times are whole slots, so the order statistic below the quantile cuts at the same place.
    let cut = TimestampMs(times[(TRAIN_SHARE * last as f64) as usize]);
    drop(times);
    Some(recorded.split_at(cut))
}

pub(super) fn split(recorded: &mut Recorded) -> Result<Option<Judged>, LearnError> {
    let Some([train, test]) = cut_in_two(recorded) else {
        return Ok(None);
    };
    if train.is_empty() || test.is_empty() {
        return Ok(None);
    }

    let cancel = AtomicBool::new(false);
    let mut lanes = Vec::new();
    for (mut lane, baseline) in baselines() {
        test.iter()
            .for_each(|day| lane.test_baseline(day, baseline));
        lanes.push(lane);
    }
    let taught = |learner: &mut dyn Learner| {
        for (number, day) in (0..).zip(&train) {
            learner.learn(number, day, &cancel)?;
        }
        learner.model(&cancel)
    };
    let mut lane = Lane::new("ridge", "full");
    let model = lane.train(|| taught(&mut product_ridge()))?;
    for day in &test {
        lane.test(0, day, &model, None);
    }
    lane.close(&mut [], recorded, &model, None);
    lanes.push(lane);

    let (mut lane, mut parts) = live_lanes("full");
    let model = lane.train(|| taught(&mut product(SEED)))?;
    let mut errors = lane.train(|| calibrate(&train))?;
    for (number, day) in (0..).zip(&test) {
        lane.test_with(&mut parts, (number, day), &model, &mut errors);
    }
    lane.close(&mut parts, recorded, &model, errors.interval());
    lanes.append(&mut parts);
    lanes.push(lane);
    Ok(Some(Judged {
        rows_train: rows_of(&train),
        rows_test: rows_of(&test),
        lanes,
        ramp: warning(recorded, &train, &test),
    }))
}

/// How the ramp warning did; `None` further ahead than it reaches or with too little to learn from.
fn warning(recorded: &Recorded, train: &[Matrix], test: &[Matrix]) -> Option<RampResult> {
    let start_s = cpu_s(ClockId::ProcessCPUTime);
    let mut learner = RampLearner::new(SEED);
    for (number, day) in (0..).zip(train) {
        learner.learn(number, day, recorded.plan.horizon_min());
    }
    let warning = learner.warning(&recorded.plan, TimestampMs::default())?;
    let train_cpu_s = cpu_s(ClockId::ProcessCPUTime) - start_s;
    let mut brier = Brier::default();
    test.iter().for_each(|day| brier.judge(day, &warning));
    Some(RampResult {
        score: brier.score(),
        train_cpu_s,
        model_bytes: warning.to_bytes().len() as u64,
    })
}

/// The errors, on the last days of training, of a model of the kind that is served which has not seen
/// them: what the interval of the first test day comes from. It learns from evenly spread days only, and
/// if its errors are a little wider, the interval errs on the safe side.
fn calibrate(train: &[Matrix]) -> Result<Calibration, LearnError> {
    let (cancel, mut errors) = (AtomicBool::new(false), Calibration::default());
    let held_back = CALIBRATION_DAYS.min(train.len() / 4);
    let (before, held_back) = train.split_at(train.len() - held_back);
    let every = (rows_of(before) / SCOUT_ROWS + 1) as usize;
    let mut scout = product(SEED);
    for (number, day) in (0..).zip(before.iter().rev().step_by(every)) {
        scout.learn(number, day, &cancel)?;
    }
    let model = match scout.model(&cancel) {
        Err(LearnError::NoRows) => return Ok(errors),
        other => other?,
    };
    for (number, day) in (-(held_back.len() as i32)..).zip(held_back) {
        let judged = day
            .iter()
            .map(|(row, truth)| (row, truth, model.predict(row)));
        errors.observe(number, judged);
    }
    Ok(errors)
}

/// What was learned from on each night: rows with their target on the day before.
type Taught = Vec<(i32, Matrix)>;

pub(super) fn nightly(recorded: &Recorded) -> Result<Option<Judged>, LearnError> {
    let days: Vec<i32> = recorded.days.keys().copied().collect();
    let Some((&first_test, &last)) = days.get(WARM_UP_DAYS).zip(days.last()) else {
        return Ok(None);
    };
    let test_days = || {
        recorded
            .days
            .range(first_test..)
            .map(|(&day, rows)| (day, rows))
    };
    let mut lanes = Vec::new();
    for (mut lane, baseline) in baselines() {
        test_days().for_each(|(_, day)| lane.test_baseline(day, baseline));
        lanes.push(lane);
    }
    let taught: Taught = (days[0]..last)
        .map(|day| (day, recorded.with_target_on(day)))
        .filter(|(_, rows)| !rows.is_empty())
        .collect();
    for mode in [Mode::Full, Mode::Incremental] {
        let mut lane = Lane::new("ridge", mode.to_string());
        let mut ridge = (product_ridge(), 0);
        for (day, rows) in test_days() {
            if mode == Mode::Full {
                ridge = (product_ridge(), 0);
            }
            let model = lane.train(|| learn_until(day, &mut ridge, &taught))?;
            lane.test(day, rows, &model, None);
            if day == last {
                lane.close(&mut [], recorded, &model, None);
            }
        }
        lanes.push(lane);

        let (mut lane, mut parts) = live_lanes(mode.to_string());
        let mut errors = Calibration::default();
        let (mut live, mut full_day) = ((product(SEED), 0), first_test);
        for (day, rows) in test_days() {
            // As a night decides; see `night::run` and `Cache::is_stale`.
            let model = lane.train(|| {
                if mode == Mode::Full || live.0.is_stale() {
                    live = (product(SEED), 0);
                }
                if day - full_day >= FULL_EVERY_DAYS {
                    live.0.renew();
                }
                if !live.0.continues() {
                    full_day = day;
                }
                learn_until(day, &mut live, &taught)
            })?;
            lane.test_with(&mut parts, (day, rows), &model, &mut errors);
            if day == last {
                lane.close(&mut parts, recorded, &model, errors.interval());
            }
        }
        lanes.append(&mut parts);
        lanes.push(lane);
    }
    let rows_train = taught.iter().map(|(_, rows)| rows.len() as u64).sum();
    let rows_test = test_days().map(|(_, day)| day.len() as u64).sum();
    Ok(Some(Judged {
        rows_train,
        rows_test,
        lanes,
        ramp: None,
    }))
}

/// The model of everything before `day`, by a learner that knows the first so many days already.
fn learn_until<L: Learner>(
    day: i32,
    (learner, known): &mut (L, usize),
    taught: &Taught,
) -> Result<Model, LearnError> {
    let cancel = AtomicBool::new(false);
    let until = taught.partition_point(|(d, _)| *d < day);
    for (day, rows) in &taught[*known..until] {
        learner.learn(*day, rows, &cancel)?;
    }
    *known = until;
    learner.model(&cancel)
}

/// CPU time of this process, or of this thread, s: what a busy machine does besides does not count.
fn cpu_s(clock: ClockId) -> f64 {
    let t = rustix::time::clock_gettime(clock);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}
