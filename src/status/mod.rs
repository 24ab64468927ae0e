//! What the station is doing, as one screen that begins with a verdict; gathered by the caller, judged here.

mod judge;
mod screen;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use judge::{Limits, findings, judge};
pub use screen::render;
pub(crate) use screen::{ago, span, wrap};

use crate::clock::Standing;
use crate::config::Config;
use crate::models::bundle::Kind;
use crate::mqtt::intake::IntakeStatus;
use crate::reading::{DeviceId, Field, TimestampMs};
use crate::store::recover::kept_damaged;
use crate::store::snapshot;
use crate::store::space::{DiskLevel, room_bytes};
use crate::store::{
    AccuracyRow, AlertRow, EventRow, ForecastRow, Heard, LiveAccuracy, ModelRow, NightRecord,
    Reader, RunRow, StoreError, StoreTotals,
};
use crate::trainer::{Contents, PartNote};
use crate::update::Here;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Live accuracy is counted over this long.
const ACCURACY_MS: i64 = 7 * DAY_MS;
const RECENT_EVENTS: usize = 5;
/// Growth of the database is taken from so long.
const GROWTH_MS: i64 = 30 * DAY_MS;
/// Stands for "more than a year".
const DAYS_CAP: u32 = 366;

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
    /// Repeats since start: readings that were there already and brought nothing new. What joins the row
    /// of its moment or minute is none.
    pub duplicates: u64,
    /// Messages kept aside since start.
    pub rejects: u64,
    /// Readings since start whose own time was too old or too far ahead to be believed.
    pub doubtful_times: u64,
    /// True while commits fail.
    pub store_failing: bool,
    /// How much room there is on the disk.
    #[serde(default)]
    pub disk: DiskLevel,
    /// Bytes the daemon (without training) has caused to be written since start.
    #[serde(default)]
    pub written_bytes: Option<u64>,
    /// A training run is going on.
    pub training: bool,
    /// The clock is not believed: no time server was reached, or it is far from where it was.
    #[serde(default)]
    pub clock_doubtful: bool,
    /// When the next one is due.
    pub next_night: Option<TimestampMs>,
    /// Why the configuration on the disk was refused, where the last reload was.
    pub reload_refused: Option<String>,
    /// From where on something is worth a word.
    #[serde(default)]
    pub limits: Limits,
    /// Versions, where this station has ever had an update.
    #[serde(default)]
    pub update: Option<Here>,
}

/// Everything `nightwatt status --json` prints. Fields are only ever added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
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
    /// Room on its file system, bytes: see [`room_bytes`].
    pub disk_free_bytes: Option<u64>,
    /// MB the daemon writes in a day, from an hour after its start.
    #[serde(default)]
    pub written_mb_per_day: Option<f64>,
    /// Days until the disk is low at the growth of the last 30 days, 366 for more than a year.
    #[serde(default)]
    pub disk_days_left: Option<u32>,
    /// Damaged databases that were moved aside and are still there.
    #[serde(default)]
    pub kept_damaged: Vec<PathBuf>,
    /// The last housekeeping.
    #[serde(default)]
    pub housekeeping: Option<RunRow>,
    /// Each device's newest reading: name, time, power in W.
    pub devices: Vec<(DeviceId, TimestampMs, Option<f64>)>,
    /// Each device's last reading to arrive, where a daemon answered.
    pub heard: BTreeMap<DeviceId, Heard>,
    /// Each device's newest forecast for every horizon.
    pub forecasts: Vec<ForecastRow>,
    /// The live model.
    pub model: Option<ModelRow>,
    /// What the live model holds; where a horizon has no power model smart persistence forecasts.
    pub parts: Vec<PartNote>,
    /// A model that turned out to be damaged and that no later one has replaced yet.
    pub damaged_model: Option<ModelRow>,
    /// How the forecasts of the last seven days did, of the shortest horizon.
    pub accuracy: LiveAccuracy,
    /// The same of every horizon.
    pub accuracy_by_horizon: Vec<LiveAccuracy>,
    /// The same of every device, and without one of all together.
    #[serde(default)]
    pub accuracy_by_device: Vec<AccuracyRow>,
    /// Skill of those against smart persistence.
    pub skill: Option<f64>,
    /// The last night, or run by hand that had something to do.
    pub last_run: Option<RunRow>,
    /// How the newest nights went.
    #[serde(default)]
    pub nights: NightRecord,
    /// The newest events.
    pub events: Vec<EventRow>,
    /// The alerts that stand, the newest first.
    #[serde(default)]
    pub alerts: Vec<AlertRow>,
}

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// A stable word for what is wrong, for example `not_connected`; empty where nothing is.
    #[serde(default)]
    pub kind: String,
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
    config: &Config,
    daemon: Option<DaemonStatus>,
    now: TimestampMs,
    clock_plausible: bool,
) -> Result<Status, StoreError> {
    let reader = Reader::open(&config.store.path)?;
    gather_with(&reader, config, daemon, (now, clock_plausible))
}

/// [`gather`] over a connection that is open.
pub fn gather_with(
    reader: &Reader,
    config: &Config,
    daemon: Option<DaemonStatus>,
    (now, clock_plausible): (TimestampMs, bool),
) -> Result<Status, StoreError> {
    let store_path = config.store.path.as_path();
    let accuracy_by_device = reader.accuracy(now.plus_ms(-ACCURACY_MS), now)?;
    let pooled = accuracy_by_device.iter().filter(|row| row.device.is_none());
    let accuracy_by_horizon: Vec<LiveAccuracy> = pooled.map(|row| row.accuracy).collect();
    let accuracy = accuracy_by_horizon.first().copied().unwrap_or_default();
    let model = reader.live_model_row()?;
    let contents = model.as_ref().map(|row| row.metrics.clone());
    let contents: Option<Contents> = contents.and_then(|c| serde_json::from_value(c).ok());
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now,
        clock_plausible,
        verdict: Verdict::default(),
        written_mb_per_day: daemon.as_ref().and_then(|d| written_mb_per_day(d, now)),
        daemon,
        store_path: store_path.to_owned(),
        store: reader.totals()?,
        disk_free_bytes: room_bytes(store_path, config.reserve_bytes()),
        disk_days_left: None,
        kept_damaged: kept_damaged(store_path),
        housekeeping: reader.last_run("housekeeping")?,
        devices: (reader.latest()?.into_iter())
            .map(|(device, ts, values)| (device, ts, values.get(Field::Power)))
            .collect(),
        heard: reader.heard()?,
        forecasts: reader.latest_forecasts()?,
        parts: contents.map(|c| c.parts).unwrap_or_default(),
        damaged_model: reader.damaged_model_row()?,
        model,
        skill: accuracy.skill(),
        accuracy,
        accuracy_by_horizon,
        accuracy_by_device,
        last_run: reader.last_night()?,
        nights: reader.night_record(now)?,
        events: reader.events_page(RECENT_EVENTS, 0)?,
        alerts: reader.alerts(true, 0)?,
    };
    let then = reader.size_since(now.plus_ms(-GROWTH_MS))?;
    status.disk_days_left = then
        .zip(status.disk_free_bytes)
        .and_then(|(then, free)| disk_days_left(then, (now, status.store.database_bytes), free));
    status.verdict = judge(&status);
    Ok(status)
}

impl Status {
    /// Before the first attempt to connect has come to anything.
    pub fn is_starting(&self) -> bool {
        let intake = self.daemon.as_ref().map(|d| &d.intake);
        intake.is_some_and(|i| !i.connected && i.last_error.is_none())
    }

    /// What is to be thought of the station's clock.
    pub fn clock(&self) -> Standing {
        let doubtful = self.daemon.as_ref().is_some_and(|d| d.clock_doubtful);
        Standing::of(self.clock_plausible, doubtful)
    }

    /// The horizons that forecasts are made for without a model of the live version: no candidate has
    /// beaten smart persistence there yet, so that forecasts.
    pub fn by_persistence_min(&self) -> Vec<u32> {
        let has = |minutes| {
            let of = (minutes, Kind::Power);
            self.parts.iter().any(|p| (p.horizon_min, p.kind) == of)
        };
        let asked: std::collections::BTreeSet<u32> =
            self.forecasts.iter().map(|f| f.horizon_min).collect();
        asked.into_iter().filter(|&minutes| !has(minutes)).collect()
    }
}

/// What has been written, as a day's worth; less than an hour says nothing about a day.
fn written_mb_per_day(daemon: &DaemonStatus, now: TimestampMs) -> Option<f64> {
    let up_ms = now.0 - daemon.started.0;
    let written = daemon.written_bytes.filter(|_| up_ms >= HOUR_MS)?;
    Some(written as f64 / 1e6 * DAY_MS as f64 / up_ms as f64)
}

/// Days until `free` bytes are used up at the growth between two sizes of the database, each snapshot
/// growing with it; [`DAYS_CAP`] for more than a year. None where they are less than a day apart.
fn disk_days_left(then: (TimestampMs, u64), now: (TimestampMs, u64), free: u64) -> Option<u32> {
    let days = (now.0.0 - then.0.0) as f64 / DAY_MS as f64;
    let grown = now.1.saturating_sub(then.1) as f64 * (1 + snapshot::KEEP) as f64;
    (days >= 1.0).then(|| (free as f64 * days / grown.max(1.0)).min(f64::from(DAYS_CAP)) as u32)
}

#[cfg(test)]
mod tests;
