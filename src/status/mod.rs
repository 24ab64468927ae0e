//! What the station is doing, as one screen that begins with a verdict; gathered by the caller, judged here.

mod judge;
mod screen;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use judge::{findings, judge};
pub use screen::render;
pub(crate) use screen::{clip, printable, wrap};

use crate::mqtt::intake::IntakeStatus;
use crate::reading::{DeviceId, TimestampMs};
use crate::store::{
    EventRow, ForecastRow, LiveAccuracy, ModelRow, Reader, RunRow, StoreError, StoreTotals,
};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Live accuracy is counted over this long.
const ACCURACY_MS: i64 = 7 * DAY_MS;
const RECENT_EVENTS: usize = 5;

/// What only a running daemon knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// When it started.
    pub started: TimestampMs,
    /// The broker's side.
    pub intake: IntakeStatus,
    /// Where the broker is.
    pub broker: String,
    /// Messages received since start.
    pub received: u64,
    /// Messages committed since start.
    pub committed: u64,
    /// New rows since start.
    pub rows: u64,
    /// Repeats since start.
    pub duplicates: u64,
    /// Messages kept aside since start.
    pub rejects: u64,
    /// Readings since start whose own time was too old or too far ahead to be believed.
    pub doubtful_times: u64,
    /// True while commits fail.
    pub store_failing: bool,
    /// A training run is going on.
    pub training: bool,
    /// When the next one is due.
    pub next_night: Option<TimestampMs>,
}

/// Everything `nightwatt status --json` prints. Fields are only ever added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the binary that answered.
    pub version: String,
    /// When this was put together.
    pub now: TimestampMs,
    /// Whether this machine's clock can be right.
    pub clock_plausible: bool,
    /// One line: how things stand.
    pub verdict: Verdict,
    /// Absent where no daemon answered and the database was read instead.
    pub daemon: Option<DaemonStatus>,
    /// The database file.
    pub store_path: PathBuf,
    /// What it holds.
    pub store: StoreTotals,
    /// Free space on its file system, bytes.
    pub disk_free_bytes: Option<u64>,
    /// Each device's newest reading: name, time, power in W.
    pub devices: Vec<(DeviceId, TimestampMs, Option<f64>)>,
    /// Each device's newest forecast.
    pub forecasts: Vec<ForecastRow>,
    /// The live model.
    pub model: Option<ModelRow>,
    /// How the forecasts of the last seven days did.
    pub accuracy: LiveAccuracy,
    /// Skill of those against smart persistence.
    pub skill: Option<f64>,
    /// The last night.
    pub last_run: Option<RunRow>,
    /// The newest events.
    pub events: Vec<EventRow>,
}

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// `ok`, `attention` or `down`.
    pub level: Level,
    /// The sentence.
    pub text: String,
    /// What to do about it.
    pub next_step: Option<String>,
}

/// Grades of a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Collecting, learning, forecasting.
    #[default]
    Ok,
    /// Working, but somebody should look.
    Attention,
    /// Not collecting.
    Down,
}

/// Reads what the database knows and judges it together with what the daemon says.
pub fn gather(
    store_path: &Path,
    daemon: Option<DaemonStatus>,
    now: TimestampMs,
    clock_plausible: bool,
) -> Result<Status, StoreError> {
    let reader = Reader::open(store_path)?;
    let accuracy = reader.live_accuracy(now.plus_ms(-ACCURACY_MS), now)?;
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now,
        clock_plausible,
        verdict: Verdict::default(),
        daemon,
        store_path: store_path.to_owned(),
        store: reader.totals()?,
        disk_free_bytes: disk_free_bytes(store_path),
        devices: reader.latest()?,
        forecasts: reader.latest_forecasts()?,
        model: reader.live_model_row()?,
        skill: accuracy.skill(),
        accuracy,
        last_run: reader.runs(1)?.pop(),
        events: reader.events(RECENT_EVENTS)?,
    };
    status.verdict = judge(&status);
    Ok(status)
}

fn disk_free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail * stat.f_frsize)
}

#[cfg(test)]
mod tests;
