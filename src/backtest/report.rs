//! The figures of a backtest, as JSON and as text.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::Protocol;
use crate::models::ramp::BrierScore;

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
    /// The ramp warning on the test rows of a split; absent further ahead than it reaches.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ramp: Option<RampResult>,
}

/// What the ramp warning came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RampResult {
    /// Its Brier score and skill, over rows from which a ramp is possible.
    #[serde(flatten)]
    pub score: BrierScore,
    /// CPU time of its training, s.
    pub train_cpu_s: f64,
    /// Its size.
    pub model_bytes: u64,
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
    /// CPU time of all training, s; `boosted` and `extra` are fitted together for `live`, so all
    /// three show the same.
    pub train_cpu_s: f64,
    /// CPU time of the last night's training, s.
    pub last_night_cpu_s: f64,
    /// Highest resident memory of the whole process so far, MiB; null where the system does not say.
    pub peak_rss_mib: Option<f64>,
    /// Size of the stored model.
    pub model_bytes: u64,
    /// CPU time to forecast one row, microseconds.
    pub predict_row_us: f64,
    /// Share of daylight outcomes within p10 … p90, where an interval was known; for `live`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub coverage_p10_p90: Option<f64>,
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
            "{:<7} {:<11} {:>8} {:>8} {:>6} {:>7} {:>7} {:>7} {:>6} {:>4}",
            "name", "mode", "MAE", "RMSE", "R2", "skill", "train s", "KiB", "us/row", "80%"
        );
        for r in &report.results {
            let optional =
                |v: Option<f64>, digits| v.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
            let percent = r.coverage_p10_p90.map(|c| c * 100.0);
            let _ = writeln!(
                out,
                "{:<7} {:<11} {:>8.2} {:>8.2} {:>6} {:>7} {:>7.2} {:>7.1} {:>6.2} {:>4}",
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
        if let Some(RampResult {
            score,
            train_cpu_s,
            model_bytes,
        }) = report.ramp
        {
            let _ = writeln!(
                out,
                "\nramp warning: Brier {:.4}, skill {}; a fall followed {:.1} % of {} rows;\n\
                 trained in {train_cpu_s:.2} s, {:.1} KiB",
                score.brier,
                score.skill.map_or("-".to_owned(), |s| format!("{s:+.3}")),
                score.base_rate * 100.0,
                score.rows,
                model_bytes as f64 / 1024.0
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
