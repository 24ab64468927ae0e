//! `nightwatt backtest`: judges the product's own learners on recorded data.
//!
//! `split`: the first 80 % of the time trains, the last 20 % tests; a training row whose target
//! lies beyond the cut is dropped. `nightly`: after 14 days, every local day is forecast by what
//! was learned from targets of the days before it, in full and in incremental mode.

pub mod energy;
mod protocol;
mod recorded;
mod report;
#[cfg(test)]
mod settings;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use report::{BacktestReport, BacktestResult, RampResult, render};

use crate::features::{FeatureSet, PlanError};
use crate::models::LearnError;
use crate::sun::Site;
use crate::tidy::TidyError;
use protocol::{Judged, nightly, split};
use recorded::Recorded;

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
    /// Minutes ahead, one or more: 15,60,180,1440
    #[arg(long, value_name = "MIN", value_delimiter = ',', default_values_t = [15])]
    pub horizon: Vec<u32>,
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
    /// Judge the energy left today and of tomorrow instead of forecasts of power
    #[arg(long)]
    pub energy: bool,
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

/// Runs the backtest over each file and horizon on its own.
pub fn run(args: &BacktestArgs) -> Result<Vec<BacktestReport>, BacktestError> {
    let horizons = |file| args.horizon.iter().map(move |&minutes| (file, minutes));
    args.files
        .iter()
        .flat_map(horizons)
        .map(|(file, minutes)| one(args, file, minutes))
        .collect()
}

fn one(
    args: &BacktestArgs,
    file: &Path,
    horizon_min: u32,
) -> Result<BacktestReport, BacktestError> {
    let mut recorded = Recorded::read(args, file, horizon_min)?;
    let (rows, days) = (recorded.rows(), recorded.days.len());
    let judged = match args.protocol {
        Protocol::Split => split(&mut recorded),
        Protocol::Nightly => nightly(&recorded),
    };
    let judged = judged.map_err(|source| BacktestError::Learn {
        file: file.to_owned(),
        source,
    })?;
    let Judged {
        rows_train,
        rows_test,
        lanes,
        ramp,
    } = judged.ok_or_else(|| BacktestError::TooLittle {
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
        horizon_min,
        rows_train,
        rows_test,
        results: lanes
            .into_iter()
            .map(|lane| lane.result(smart.mae, smart.rmse))
            .collect(),
        ramp,
    })
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
    fn the_energy_of_a_day_is_judged_at_each_hour_it_is_told() {
        let f = file(25, &["a", "b"]);
        let report = energy::run(&args(f.path(), &["--energy", "--site=40,0,UTC"]))
            .unwrap()
            .remove(0);
        let what: Vec<_> = report.results.iter().map(|r| r.what.as_str()).collect();
        assert_eq!(
            what,
            [
                "left at 06:00",
                "left at 09:00",
                "left at 12:00",
                "left at 15:00",
                "tomorrow at 18:00"
            ]
        );
        for r in &report.results {
            // 25 days but the first fortnight, of two devices.
            assert!((16..=22).contains(&r.days), "{r:?}");
            assert!(r.mae_percent > 0.0 && r.mae_percent < 60.0, "{r:?}");
        }
        assert!(energy::render(&[report]).contains("tomorrow at 18:00"));
    }

    #[test]
    fn a_split_reports_everyone_on_the_same_rows() {
        let f = file(25, &["a", "b"]);
        let report = run(&args(f.path(), &["--site=40,0,UTC"]))
            .unwrap()
            .remove(0);
        let names: Vec<_> = report.results.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(
            names,
            ["naive", "smart", "ridge", "boosted", "extra", "live"]
        );
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
        let text = render(&[report]);
        // The first line is the path, as long as it is.
        assert!(
            text.lines().skip(1).all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }

    #[test]
    fn each_horizon_has_a_report_and_a_warning_as_far_as_one_reaches() {
        let f = file(25, &["a", "b"]);
        let reports = run(&args(f.path(), &["--horizon=120,720"])).unwrap();
        let horizons: Vec<_> = reports.iter().map(|r| r.horizon_min).collect();
        assert_eq!(horizons, [120, 720]);
        let ramp = reports[0].ramp.unwrap();
        assert!(ramp.score.skill > Some(0.0), "{ramp:?}");
        assert!(ramp.score.rows < reports[0].rows_test && ramp.model_bytes > 0);
        assert_eq!(reports[1].ramp, None);
        let text = render(&reports);
        assert_eq!(text.matches("ramp warning").count(), 1, "{text}");
        assert!(
            text.lines()
                .all(|l| l.chars().count() <= 80 || l.contains('/')),
            "{text}"
        );
    }

    #[test]
    fn full_and_incremental_nights_are_equal_where_learning_is_exact_and_near_elsewhere() {
        let f = file(20, &["a"]);
        let report = run(&args(f.path(), &["--protocol", "nightly"]))
            .unwrap()
            .remove(0);
        let of = |name: &str, mode: &str| {
            let mut all = report.results.iter();
            let r = all.find(|r| r.name == name && r.mode == mode);
            r.map(|r| (r.mae, r.rmse, r.coverage_p10_p90))
        };
        assert!(of("ridge", "full").is_some());
        assert_eq!(of("ridge", "full"), of("ridge", "incremental"));
        let mae = |mode| of("live", mode).unwrap().0;
        let ratio = mae("incremental") / mae("full");
        assert!((0.9..1.1).contains(&ratio), "{ratio}");
        assert_ne!(ratio, 1.0, "another learner");
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
        let both = Recorded::read(&args(f.path(), &[]), f.path(), 15)
            .unwrap()
            .rows();
        let first = Recorded::read(&args(f.path(), &["--days=1", "--device=a"]), f.path(), 15);
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
