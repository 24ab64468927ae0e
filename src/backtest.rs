//! `nightwatt backtest`: judges the product's own learners on recorded data.
//!
//! `split`: the first 80 % of the time trains, the last 20 % tests; a training row whose target
//! lies beyond the cut is dropped. `nightly`: after 14 days, every local day is forecast by what
//! was learned from targets of the days before it, in full and in incremental mode.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::features::{FeatureSet, Matrix, Pipeline, Plan, PlanError, Row, Sink, Truth};
use crate::grid::infer_step_min;
use crate::models::baseline::Baseline;
use crate::models::interval::{Coverage, Interval, Residuals};
use crate::models::score::{Score, skill};
use crate::models::{Artifact, LearnError, Learner, Model, product, product_ridge};
use crate::reading::TimestampMs;
use crate::sun::Site;
use crate::tidy::{TidyError, TidyReader};

/// Share of the time that trains in a split.
const TRAIN_SHARE: f64 = 0.8;
/// Days learned before the first night is judged.
const WARM_UP_DAYS: usize = 14;
/// The newest days whose residuals make the interval: long enough for all weathers.
const INTERVAL_DAYS: usize = 28;
/// Rows read before the step is inferred.
const STEP_SAMPLE: usize = 4096;
const DAY_MS: i64 = 86_400_000;
const SEED: u64 = 42;

/// What trains and what tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// The first 80 % of the time trains, the rest tests.
    #[default]
    Split,
    /// Every night trains on the days before, every day tests.
    Nightly,
}

/// A place and its zone, written `LAT,LON,ZONE`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SiteZone {
    /// Where.
    pub site: Site,
    /// Whose local time.
    pub zone: chrono_tz::Tz,
}

impl FromStr for SiteZone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let [latitude, longitude, zone] = parts[..] else {
            return Err("it must be LAT,LON,ZONE, such as 40.45,-3.73,Europe/Madrid".to_owned());
        };
        let degrees = |text: &str, limit: f64| {
            let value = text.parse().ok().filter(|v: &f64| v.abs() <= limit);
            value.ok_or_else(|| format!("{text:?} is not a number of degrees up to {limit}"))
        };
        Ok(Self {
            site: Site {
                latitude_deg: degrees(latitude, 90.0)?,
                longitude_deg: degrees(longitude, 180.0)?,
            },
            zone: zone
                .parse()
                .map_err(|_| format!("{zone:?} is not a time zone"))?,
        })
    }
}

/// The arguments of `nightwatt backtest`.
#[derive(Clone, Debug, Args)]
pub struct BacktestArgs {
    /// Tidy CSV files (ts, device_id and any of the eight values), plain or gzip
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// What trains and what tests
    #[arg(long, value_enum, default_value_t)]
    pub protocol: Protocol,
    /// Minutes ahead
    #[arg(long, value_name = "MIN", default_value_t = 15)]
    pub horizon: u32,
    /// Only these devices
    #[arg(long, value_delimiter = ',')]
    pub device: Vec<String>,
    /// Only the first N days
    #[arg(long, value_name = "N")]
    pub days: Option<u32>,
    /// Which features
    #[arg(long, value_enum, default_value_t)]
    pub features: FeatureSet,
    /// Turns the sun features on
    #[arg(long, value_name = "LAT,LON,ZONE", allow_hyphen_values = true)]
    pub site: Option<SiteZone>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Why a backtest gave no figures.
#[derive(Debug, Error)]
pub enum BacktestError {
    /// A file could not be read.
    #[error("reading the data")]
    Read(#[from] TidyError),
    /// The file's step or the horizon is out of range.
    #[error("planning features for {file}")]
    Plan {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: PlanError,
    },
    /// Nothing to train on or nothing to test on.
    #[error("{file} has too little data of the devices asked for: {rows} rows on {days} days")]
    TooLittle {
        /// The file.
        file: PathBuf,
        /// Complete rows.
        rows: usize,
        /// Local days.
        days: usize,
    },
    /// A learner failed.
    #[error("learning from {file}")]
    Learn {
        /// The file.
        file: PathBuf,
        /// Why.
        source: LearnError,
    },
}

/// The figures of one file; the JSON contract of `backtest --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BacktestReport {
    /// The file's path as given.
    pub file: String,
    /// What trained and what tested.
    pub protocol: Protocol,
    /// Minutes ahead.
    pub horizon_min: u32,
    /// Rows trained on (nightly: in the last night).
    pub rows_train: u64,
    /// Rows tested on.
    pub rows_test: u64,
    /// Each forecaster on the same rows.
    pub results: Vec<BacktestResult>,
}

impl BacktestReport {
    /// The result of that name, in full mode if there are several.
    pub fn result(&self, name: &str) -> Option<&BacktestResult> {
        self.results.iter().find(|r| r.name == name)
    }
}

/// One forecaster. Errors are in the file's unit of power, over daylight rows or (`_all`) all
/// rows; skills are against smart persistence. A figure that does not exist is null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BacktestResult {
    /// `naive`, `smart`, a family, or `live`: what the product would serve.
    pub name: String,
    /// `full` or `incremental`; `none` for what is not trained.
    pub mode: String,
    /// Mean absolute error.
    pub mae: f64,
    /// Root mean square error.
    pub rmse: f64,
    /// Coefficient of determination.
    pub r2: Option<f64>,
    /// Mean absolute error, all rows.
    pub mae_all: f64,
    /// Root mean square error, all rows.
    pub rmse_all: f64,
    /// Coefficient of determination, all rows.
    pub r2_all: Option<f64>,
    /// 1 - MAE / MAE of smart persistence.
    pub skill_mae: Option<f64>,
    /// 1 - RMSE / RMSE of smart persistence.
    pub skill_rmse: Option<f64>,
    /// CPU time of all training, s.
    pub train_cpu_s: f64,
    /// CPU time of the last night's training, s.
    pub last_night_cpu_s: f64,
    /// Highest resident memory of the whole process so far, MiB; null where the system does not say.
    pub peak_rss_mib: Option<f64>,
    /// Size of the stored model.
    pub model_bytes: u64,
    /// Time to forecast one row, microseconds.
    pub predict_row_us: f64,
    /// Share of daylight outcomes within p10 … p90, where an interval was known; for `live`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub coverage_p10_p90: Option<f64>,
}

/// Runs the backtest over each file on its own.
pub fn run(args: &BacktestArgs) -> Result<Vec<BacktestReport>, BacktestError> {
    args.files.iter().map(|file| one_file(args, file)).collect()
}

/// The rows of a file by the local day of their own time.
struct Recorded {
    plan: Plan,
    days: BTreeMap<i32, Matrix>,
}

impl Sink for Recorded {
    fn take(&mut self, row: Row<'_>, truth: Truth) {
        let day = self.plan.local_day(row.facts.ts);
        self.days.entry(day).or_default().take(row, truth);
    }
}

impl Recorded {
    fn read(args: &BacktestArgs, file: &Path) -> Result<Self, BacktestError> {
        let mut end = None;
        let wanted =
            |device: &str| args.device.is_empty() || args.device.iter().any(|d| d == device);
        let mut rows = TidyReader::open(file)?
            .filter(|row| {
                row.as_ref()
                    .map_or(true, |(device, ..)| wanted(device.as_str()))
            })
            .filter(|row| {
                let Ok((_, ts, _)) = row else { return true };
                let days = i64::from(args.days.unwrap_or(u32::MAX));
                ts.0 < *end.get_or_insert(ts.0.saturating_add(days * DAY_MS))
            });
        let head = rows
            .by_ref()
            .take(STEP_SAMPLE)
            .collect::<Result<Vec<_>, _>>()?;
        let step_min = infer_step_min(head.iter().map(|(device, ts, _)| (device, *ts)));
        let (site, zone) = args.site.map(|s| (s.site, s.zone)).unzip();
        let plan = Plan::new(
            args.horizon,
            step_min.unwrap_or(1),
            args.features,
            site,
            zone,
        )
        .map_err(|source| BacktestError::Plan {
            file: file.to_owned(),
            source,
        })?;
        let mut recorded = Self {
            plan: plan.clone(),
            days: BTreeMap::new(),
        };
        let mut pipeline = Pipeline::new(plan);
        for row in head.into_iter().map(Ok).chain(rows) {
            let (device, ts, values) = row?;
            pipeline.push(&device, ts, &values, &mut recorded);
        }
        pipeline.finish(&mut recorded);
        Ok(recorded)
    }

    fn rows(&self) -> usize {
        self.days.values().map(Matrix::len).sum()
    }

    /// Gives up the rows: those whose targets are not past `cut`, and those that are past it
    /// themselves, day by day. Only the days around the cut are copied.
    fn split_at(&mut self, cut: TimestampMs) -> [Vec<Matrix>; 2] {
        let [mut train, mut test] = [Vec::new(), Vec::new()];
        let trains = |row: Row<'_>| self.plan.target_ts(row.facts.ts) <= cut;
        let tests = |row: Row<'_>| row.facts.ts > cut;
        for day in std::mem::take(&mut self.days).into_values() {
            if day.iter().all(|(row, _)| trains(row)) {
                train.push(day);
            } else if day.iter().all(|(row, _)| tests(row)) {
                test.push(day);
            } else {
                train.push(day.select(trains));
                test.push(day.select(tests));
            }
        }
        train.retain(|day| !day.is_empty());
        test.retain(|day| !day.is_empty());
        [train, test]
    }

    /// The rows whose target lies on `day`.
    fn with_target_on(&self, day: i32) -> Matrix {
        let reach = (self.plan.horizon_min() / 1440 + 1) as i32;
        let mut rows = Matrix::new();
        for (_, matrix) in self.days.range(day - reach..=day) {
            for (row, truth) in matrix.iter() {
                if self.plan.local_day(self.plan.target_ts(row.facts.ts)) == day {
                    rows.take(row, truth);
                }
            }
        }
        rows
    }

    fn artifact(&self, model: &Model, interval: Option<Interval>) -> Artifact {
        Artifact {
            features: self.plan.names().map(str::to_owned).collect(),
            horizon_min: self.plan.horizon_min(),
            step_min: self.plan.step_min(),
            trained_until: TimestampMs::default(),
            model: model.clone(),
            interval,
        }
    }
}

/// The learners that are judged; the last is what the product serves.
fn families() -> Vec<(&'static str, Box<dyn Learner>)> {
    vec![
        ("ridge", Box::new(product_ridge())),
        (LIVE, Box::new(product(SEED))),
    ]
}

const LIVE: &str = "live";

fn one_file(args: &BacktestArgs, file: &Path) -> Result<BacktestReport, BacktestError> {
    let mut recorded = Recorded::read(args, file)?;
    let (rows, days) = (recorded.rows(), recorded.days.len());
    let judged = match args.protocol {
        Protocol::Split => split(&mut recorded),
        Protocol::Nightly => nightly(&recorded),
    };
    let judged = judged.map_err(|source| BacktestError::Learn {
        file: file.to_owned(),
        source,
    })?;
    let (rows_train, rows_test, lanes) = judged.ok_or_else(|| BacktestError::TooLittle {
        file: file.to_owned(),
        rows,
        days,
    })?;
    let smart = lanes
        .iter()
        .find(|l| l.name == "smart")
        .map(|l| l.score.daylight());
    let smart = smart.unwrap_or_default();
    Ok(BacktestReport {
        file: file.display().to_string(),
        protocol: args.protocol,
        horizon_min: args.horizon,
        rows_train,
        rows_test,
        results: lanes
            .into_iter()
            .map(|lane| lane.result(smart.mae, smart.rmse))
            .collect(),
    })
}

/// One forecaster on its way through the data.
#[derive(Default)]
struct Lane {
    name: &'static str,
    mode: &'static str,
    score: Score,
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

    fn test_baseline(&mut self, day: &Matrix, baseline: Baseline) {
        let start = Instant::now();
        for (row, truth) in day.iter() {
            self.score.add(truth, baseline.forecast_w(&row.facts));
        }
        self.predict_s += start.elapsed().as_secs_f64();
    }

    fn result(self, smart_mae: f64, smart_rmse: f64) -> BacktestResult {
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

/// Rows trained on, rows tested on, and the lanes; `None` with too little data.
type Judged = Option<(u64, u64, Vec<Lane>)>;

fn rows_of(days: &[Matrix]) -> u64 {
    days.iter().map(|day| day.len() as u64).sum()
}

fn split(recorded: &mut Recorded) -> Result<Judged, LearnError> {
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
        let mut lane = Lane::new(name, "full");
        let (model, interval) = lane.train(|| {
            before
                .iter()
                .try_for_each(|day| learner.learn(day, &cancel))?;
            // The interval comes from days that the model of that moment had not seen.
            let interval = if name == LIVE {
                held_back(&learner.model(&cancel)?, calibration).interval()
            } else {
                None
            };
            calibration
                .iter()
                .try_for_each(|day| learner.learn(day, &cancel))?;
            Ok((learner.model(&cancel)?, interval))
        })?;
        for day in &test {
            lane.test(day, &model, interval.as_ref());
        }
        lane.model_bytes = recorded.artifact(&model, interval).to_bytes().len() as u64;
        lanes.push(lane);
    }
    Ok(Some((rows_of(&train), rows_of(&test), lanes)))
}

fn held_back(model: &Model, days: &[Matrix]) -> Residuals {
    let mut residuals = Residuals::default();
    for (row, truth) in days.iter().flat_map(Matrix::iter) {
        residuals.add(row, truth, model.predict(row));
    }
    residuals
}

fn nightly(recorded: &Recorded) -> Result<Judged, LearnError> {
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
    for mode in ["full", "incremental"] {
        for (i, (name, mut learner)) in families().into_iter().enumerate() {
            let mut lane = Lane::new(name, mode);
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
                recent.push_back(lane.test(rows, &model, interval.as_ref()));
                if recent.len() > INTERVAL_DAYS {
                    recent.pop_front();
                }
                if day == last {
                    let artifact = recorded.artifact(&model, interval);
                    lane.model_bytes = artifact.to_bytes().len() as u64;
                }
            }
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

/// The reports as text, at most 80 columns wide.
pub fn render(reports: &[BacktestReport]) -> String {
    let mut out = String::new();
    for report in reports {
        let protocol = format!("{:?}", report.protocol).to_lowercase();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{}\n{protocol}, {} min ahead, {} rows train, {} rows test; MAE and RMSE in daylight\n",
            report.file, report.horizon_min, report.rows_train, report.rows_test
        );
        let _ = writeln!(
            out,
            "{:<6} {:<11} {:>8} {:>8} {:>6} {:>7} {:>8} {:>7} {:>6} {:>4}",
            "name", "mode", "MAE", "RMSE", "R2", "skill", "train s", "KiB", "us/row", "80%"
        );
        for r in &report.results {
            let optional =
                |v: Option<f64>, digits| v.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
            let percent = r.coverage_p10_p90.map(|c| c * 100.0);
            let _ = writeln!(
                out,
                "{:<6} {:<11} {:>8.2} {:>8.2} {:>6} {:>7} {:>8.3} {:>7.1} {:>6.2} {:>4}",
                r.name,
                r.mode,
                r.mae,
                r.rmse,
                optional(r.r2, 3),
                r.skill_mae.map_or("-".to_owned(), |s| format!("{s:+.3}")),
                r.train_cpu_s,
                r.model_bytes as f64 / 1024.0,
                r.predict_row_us,
                optional(percent, 0)
            );
        }
        let peak = report
            .results
            .iter()
            .filter_map(|r| r.peak_rss_mib)
            .fold(0.0, f64::max);
        let _ = writeln!(
            out,
            "\nskill: 1 - MAE / MAE of smart. 80%: outcomes within p10..p90. Peak {peak:.0} MiB.\n"
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::reading::Field;
    use crate::testing::readings;

    fn args(file: &Path, more: &[&str]) -> BacktestArgs {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: BacktestArgs,
        }
        let own = ["backtest", file.to_str().unwrap()];
        <Cli as clap::Parser>::try_parse_from(own.iter().chain(more))
            .unwrap()
            .args
    }

    fn file(days: u32, devices: &[&str]) -> tempfile::NamedTempFile {
        let mut f = tempfile::NamedTempFile::new().unwrap();
        writeln!(f, "ts,device_id,power,lux").unwrap();
        for (device, ts, values) in readings(devices, days, 10, 0.02, 3) {
            let cell = |field| {
                values
                    .get(field)
                    .map_or(String::new(), |v: f64| v.to_string())
            };
            writeln!(
                f,
                "{ts},{device},{},{}",
                cell(Field::Power),
                cell(Field::Lux)
            )
            .unwrap();
        }
        f
    }

    #[test]
    fn a_split_reports_everyone_on_the_same_rows() {
        let f = file(25, &["a", "b"]);
        let report = run(&args(f.path(), &["--site=40,0,UTC"]))
            .unwrap()
            .remove(0);
        let names: Vec<_> = report.results.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["naive", "smart", "ridge", "live"]);
        let share = report.rows_test as f64 / (report.rows_train + report.rows_test) as f64;
        assert!((share - 0.2).abs() < 0.01, "{share}");
        let ridge = report.result("ridge").unwrap();
        assert!(ridge.skill_rmse > Some(0.05), "lux leads power: {ridge:?}");
        let live = report.result("live").unwrap();
        assert!(
            live.coverage_p10_p90
                .is_some_and(|c| (0.7..0.95).contains(&c)),
            "{live:?}"
        );
        assert!(live.model_bytes > 0 && live.predict_row_us > 0.0);
        assert!(
            render(&[report])
                .lines()
                .all(|line| line.chars().count() <= 80 || line.contains('/'))
        );
    }

    #[test]
    fn full_and_incremental_nights_are_equal_where_learning_is_exact() {
        let f = file(20, &["a"]);
        let report = run(&args(f.path(), &["--protocol", "nightly"]))
            .unwrap()
            .remove(0);
        let of = |name: &str, mode: &str| {
            let mut all = report.results.iter();
            let r = all.find(|r| r.name == name && r.mode == mode).unwrap();
            (r.mae, r.rmse, r.coverage_p10_p90)
        };
        for name in ["ridge", "live"] {
            assert_eq!(of(name, "full"), of(name, "incremental"));
        }
    }

    #[test]
    fn too_little_data_is_a_named_error_and_filters_apply() {
        let f = file(2, &["a", "b"]);
        for more in [&["--protocol", "nightly"][..], &["--device", "c"]] {
            let outcome = run(&args(f.path(), more));
            assert!(
                matches!(outcome, Err(BacktestError::TooLittle { .. })),
                "{outcome:?}"
            );
        }
        let both = Recorded::read(&args(f.path(), &[]), f.path())
            .unwrap()
            .rows();
        let first = Recorded::read(&args(f.path(), &["--days=1", "--device=a"]), f.path());
        assert!(first.unwrap().rows() * 3 < both);
    }

    #[test]
    fn a_site_is_three_parts() {
        let site: SiteZone = "40.45,-3.73,Europe/Madrid".parse().unwrap();
        assert_eq!(site.zone, chrono_tz::Europe::Madrid);
        assert!("40.45,-3.73".parse::<SiteZone>().is_err());
        assert!("95,0,UTC".parse::<SiteZone>().is_err());
        assert!("0,0,Mars/Olympus".parse::<SiteZone>().is_err());
    }
}
