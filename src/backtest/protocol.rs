//! The two protocols, with every forecaster in its own lane.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Instant;

use super::recorded::Recorded;
use super::report::BacktestResult;
use crate::features::Matrix;
use crate::models::baseline::Baseline;
use crate::models::interval::{Coverage, Interval, Residuals};
use crate::models::score::{Score, skill};
use crate::models::{LearnError, Learner, Model, product, product_ridge};
use crate::reading::TimestampMs;

/// Share of the time that trains in a split.
const TRAIN_SHARE: f64 = 0.8;
/// Days learned before the first night is judged.
const WARM_UP_DAYS: usize = 14;
/// Rows that are enough to find out how wide residuals are.
const SCOUT_ROWS: u64 = 60_000;
/// The newest days whose residuals make the interval: long enough for all weathers.
const INTERVAL_DAYS: usize = 28;
const SEED: u64 = 42;

/// The learners that are judged; the last is what the product serves, judged part by part too.
fn families() -> Vec<(&'static str, Box<dyn Learner>)> {
    vec![
        ("ridge", Box::new(product_ridge())),
        (LIVE, Box::new(product(SEED))),
    ]
}

const LIVE: &str = "live";

/// What `live` is made of beside smart persistence, in the order of its model's parts. They are
/// fitted once, together, and so their lanes carry the training time of `live`.
const PARTS: [&str; 2] = ["boosted", "extra"];

/// One forecaster on its way through the data.
#[derive(Default)]
pub(super) struct Lane {
    pub name: &'static str,
    mode: &'static str,
    pub score: Score,
    coverage: Coverage,
    train_cpu_s: f64,
    last_night_cpu_s: f64,
    predict_s: f64,
    model_bytes: u64,
}

impl Lane {
    fn new(name: &'static str, mode: &'static str) -> Self {
        Self {
            name,
            mode,
            ..Self::default()
        }
    }

    /// Runs a piece of training on this lane's account.
    fn train<T>(&mut self, f: impl FnOnce() -> Result<T, LearnError>) -> Result<T, LearnError> {
        let start_s = cpu_s();
        let outcome = f();
        self.last_night_cpu_s = cpu_s() - start_s;
        self.train_cpu_s += self.last_night_cpu_s;
        outcome
    }

    /// Scores `model` on a day; returns the residuals.
    fn test(&mut self, day: &Matrix, model: &Model, interval: Option<&Interval>) -> Residuals {
        let start = Instant::now();
        let forecasts_w: Vec<f32> = day.iter().map(|(row, _)| model.predict(row)).collect();
        self.predict_s += start.elapsed().as_secs_f64();
        let mut residuals = Residuals::default();
        for ((row, truth), forecast_w) in day.iter().zip(forecasts_w) {
            self.score.add(truth, forecast_w);
            residuals.add(row, truth, forecast_w);
            if let Some(interval) = interval {
                self.coverage
                    .add(truth, interval.around(&row.facts, forecast_w));
            }
        }
        residuals
    }

    /// Scores `model` and, beside it, each of its parts that has a lane; returns the residuals.
    fn test_with(
        &mut self,
        parts: &mut [Lane],
        day: &Matrix,
        model: &Model,
        interval: Option<&Interval>,
    ) -> Residuals {
        thread::scope(|scope| {
            scope.spawn(|| {
                for (lane, part) in parts.iter_mut().zip(model.parts()) {
                    lane.test(day, part, None);
                }
            });
            self.test(day, model, interval)
        })
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
        let start = Instant::now();
        for (row, truth) in day.iter() {
            self.score.add(truth, baseline.forecast_w(&row.facts));
        }
        self.predict_s += start.elapsed().as_secs_f64();
    }

    pub fn result(self, smart_mae: f64, smart_rmse: f64) -> BacktestResult {
        let (day, all) = (self.score.daylight(), self.score.all());
        BacktestResult {
            name: self.name.to_owned(),
            mode: self.mode.to_owned(),
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

/// The lane of a family, and lanes for its parts.
fn lanes_of(name: &'static str, mode: &'static str) -> (Lane, Vec<Lane>) {
    let parts: &[&str] = if name == LIVE { &PARTS } else { &[] };
    let parts = parts.iter().map(|part| Lane::new(part, mode)).collect();
    (Lane::new(name, mode), parts)
}

/// Rows trained on, rows tested on, and the lanes; `None` with too little data.
pub(super) type Judged = Option<(u64, u64, Vec<Lane>)>;

fn rows_of(days: &[Matrix]) -> u64 {
    days.iter().map(|day| day.len() as u64).sum()
}

pub(super) fn split(recorded: &mut Recorded) -> Result<Judged, LearnError> {
    let mut times: Vec<i64> = recorded
        .days
        .values()
        .flat_map(|day| day.iter().map(|(row, _)| row.facts.ts.0))
        .collect();
    times.sort_unstable();
    let Some(last) = times.len().checked_sub(1) else {
        return Ok(None);
    };
    // Times are whole slots, so the order statistic below the quantile cuts at the same place.
    let cut = TimestampMs(times[(TRAIN_SHARE * last as f64) as usize]);
    drop(times);
    let [train, test] = recorded.split_at(cut);
    let calibration_days = INTERVAL_DAYS.min(train.len() / 4);
    let (before, calibration) = train.split_at(train.len() - calibration_days);
    if before.is_empty() || test.is_empty() {
        return Ok(None);
    }

    let cancel = AtomicBool::new(false);
    let mut lanes = Vec::new();
    for (mut lane, baseline) in baselines() {
        test.iter()
            .for_each(|day| lane.test_baseline(day, baseline));
        lanes.push(lane);
    }
    for (name, mut learner) in families() {
        let (mut lane, mut parts) = lanes_of(name, "full");
        let (model, interval) = lane.train(|| {
            let interval = if name == LIVE {
                scout(before, &cancel)?.and_then(|model| held_back(&model, calibration).interval())
            } else {
                None
            };
            train
                .iter()
                .try_for_each(|day| learner.learn(day, &cancel))?;
            Ok((learner.model(&cancel)?, interval))
        })?;
        for day in &test {
            lane.test_with(&mut parts, day, &model, interval.as_ref());
        }
        lane.close(&mut parts, recorded, &model, interval);
        lanes.append(&mut parts);
        lanes.push(lane);
    }
    Ok(Some((rows_of(&train), rows_of(&test), lanes)))
}

/// A model of the kind that is served which has not seen the calibration days, for the residuals that
/// the interval comes from. It learns from evenly spread days only: half the time of a second full
/// fit, and if its residuals are a little wider, the interval errs on the safe side.
fn scout(before: &[Matrix], cancel: &AtomicBool) -> Result<Option<Model>, LearnError> {
    let Some((_, mut learner)) = families().into_iter().find(|(name, _)| *name == LIVE) else {
        return Ok(None);
    };
    let every = (rows_of(before) / SCOUT_ROWS + 1) as usize;
    for day in before.iter().rev().step_by(every) {
        learner.learn(day, cancel)?;
    }
    learner.model(cancel).map(Some)
}

fn held_back(model: &Model, days: &[Matrix]) -> Residuals {
    let mut residuals = Residuals::default();
    for (row, truth) in days.iter().flat_map(Matrix::iter) {
        residuals.add(row, truth, model.predict(row));
    }
    residuals
}

pub(super) fn nightly(recorded: &Recorded) -> Result<Judged, LearnError> {
    let days: Vec<i32> = recorded.days.keys().copied().collect();
    let Some((&first_test, &last)) = days.get(WARM_UP_DAYS).zip(days.last()) else {
        return Ok(None);
    };
    let cancel = AtomicBool::new(false);
    let test_days = || recorded.days.range(first_test..);
    let mut lanes = Vec::new();
    for (mut lane, baseline) in baselines() {
        test_days().for_each(|(_, day)| lane.test_baseline(day, baseline));
        lanes.push(lane);
    }
    // What each night adds: the rows with their target on the day before.
    let taught: Vec<(i32, Matrix)> = (days[0]..last)
        .map(|day| (day, recorded.with_target_on(day)))
        .filter(|(_, rows)| !rows.is_empty())
        .collect();
    // A family that cannot take up its model of the night before has no incremental nights.
    let mut resumes = vec![true; families().len()];
    for mode in ["full", "incremental"] {
        for (i, (name, mut learner)) in families().into_iter().enumerate() {
            if !resumes[i] {
                continue;
            }
            let (mut lane, mut parts) = lanes_of(name, mode);
            let mut recent = VecDeque::new();
            let mut next = 0;
            for (&day, rows) in test_days() {
                let until = taught.partition_point(|(d, _)| *d < day);
                let model = lane.train(|| {
                    if mode == "full" {
                        learner = families().swap_remove(i).1;
                        next = 0;
                    }
                    for (_, rows) in &taught[next..until] {
                        learner.learn(rows, &cancel)?;
                    }
                    next = until;
                    learner.model(&cancel)
                })?;
                let mut known = Residuals::default();
                recent.iter().for_each(|r| known.append(r));
                let interval = (name == LIVE).then(|| known.interval()).flatten();
                recent.push_back(lane.test_with(&mut parts, rows, &model, interval.as_ref()));
                if recent.len() > INTERVAL_DAYS {
                    recent.pop_front();
                }
                if day == last {
                    lane.close(&mut parts, recorded, &model, interval);
                    resumes[i] = families().swap_remove(i).1.resume(&model);
                }
            }
            lanes.append(&mut parts);
            lanes.push(lane);
        }
    }
    let rows_train = taught.iter().map(|(_, rows)| rows.len() as u64).sum();
    let rows_test = test_days().map(|(_, day)| day.len() as u64).sum();
    Ok(Some((rows_train, rows_test, lanes)))
}

/// CPU time of this process, s.
fn cpu_s() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
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
