//! The rows other modules see: plain data, no SQL.

use serde::{Deserialize, Serialize};

use super::TopicRejects;
use crate::reading::{DeviceId, TimestampMs, Values};
use crate::registry::{Move, Refusal, State};

/// One stored measurement as the learner reads it; `device_no` indexes the store's devices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The store's number of the device.
    pub device_no: i64,
    /// When it was measured.
    pub ts: TimestampMs,
    /// What was measured.
    pub values: Values,
}

/// The last reading of a device to arrive, whatever time it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// When it arrived.
    pub received: TimestampMs,
    /// Its own time.
    pub at: TimestampMs,
}

/// A forecast to keep, so that it can be compared with what really happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForecastRow {
    /// Whose power.
    pub device: DeviceId,
    /// When it was made.
    pub issued: TimestampMs,
    /// For when.
    pub target: TimestampMs,
    /// Minutes between the two.
    pub horizon_min: u32,
    /// The forecast, W.
    pub power_w: f64,
    /// One in ten actual values should lie below this, W.
    pub p10_w: Option<f64>,
    /// One in ten actual values should lie above this, W.
    pub p90_w: Option<f64>,
    /// Smart persistence for the same moment, W (naive before there is a clear-day envelope).
    pub smart_w: f64,
    /// Naive persistence for the same moment, W.
    pub naive_w: f64,
    /// The model that made it; none where a baseline did.
    pub model_version: Option<i64>,
    /// What made it: `model`, `smart` or `naive`.
    pub source: String,
    /// What was measured, W, once it was.
    pub actual_w: Option<f64>,
    /// How likely power was to fall by more than a fifth of capacity before then; none where no
    /// warning with skill was live.
    #[serde(default)]
    pub ramp_probability: Option<f64>,
}

#[cfg(test)]
impl ForecastRow {
    /// One by smart persistence, not settled yet.
    pub fn by_smart(device: DeviceId, issued: TimestampMs, horizon_min: u32, power_w: f64) -> Self {
        Self {
            device,
            issued,
            target: issued.plus_min(i64::from(horizon_min)),
            horizon_min,
            power_w,
            p10_w: None,
            p90_w: None,
            smart_w: power_w,
            naive_w: power_w,
            model_version: None,
            source: "smart".into(),
            actual_w: None,
            ramp_probability: None,
        }
    }
}

/// How well the forecasts of a period did, over daylight rows (actual or forecast above zero).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LiveAccuracy {
    /// Minutes ahead.
    #[serde(default)]
    pub horizon_min: u32,
    /// Forecasts whose actual value arrived.
    pub settled: i64,
    /// Mean absolute error of what was published, W.
    pub mae_w: f64,
    /// The same of smart persistence on the same rows, W.
    pub smart_mae_w: f64,
    /// The same of naive persistence, W.
    pub naive_mae_w: f64,
    /// Share of actual values inside P10 … P90, where there was such a band.
    pub coverage: Option<f64>,
}

impl LiveAccuracy {
    /// Skill of what was published against smart persistence: 1 - error / error.
    pub fn skill(&self) -> Option<f64> {
        (self.settled > 0 && self.smart_mae_w > 0.0).then(|| 1.0 - self.mae_w / self.smart_mae_w)
    }
}

/// What happened and when, for people: session lost, store trouble, clock jumps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    /// When.
    pub at: TimestampMs,
    /// A stable word, for example `session_lost`.
    pub kind: String,
    /// The sentence.
    pub detail: String,
}

/// A run to open.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// `training` or `housekeeping`.
    pub kind: &'static str,
    /// `full`, or for training `incremental`.
    pub mode: String,
    /// `schedule`, `catch_up`, `retry`, `running_time` or `manual`.
    pub trigger: &'static str,
    /// The scheduled moment it stands for.
    pub nominal: Option<TimestampMs>,
    /// When it began.
    pub started: TimestampMs,
}

/// How a run ended; every run ends as exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// The candidate is live now.
    Promoted,
    /// The candidate was scored and the live model stayed.
    Kept,
    /// It could not be done.
    Failed,
    /// There was nothing to do, for a reason.
    Skipped,
    /// Housekeeping was done.
    Done,
}

impl RunOutcome {
    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            RunOutcome::Promoted => "promoted",
            RunOutcome::Kept => "kept",
            RunOutcome::Failed => "failed",
            RunOutcome::Skipped => "skipped",
            RunOutcome::Done => "done",
        }
    }

    /// Reads the stored word.
    pub fn parse(word: &str) -> Option<Self> {
        [
            Self::Promoted,
            Self::Kept,
            Self::Failed,
            Self::Skipped,
            Self::Done,
        ]
        .into_iter()
        .find(|o| o.as_str() == word)
    }
}

/// What kind of failure a failed run was; in its report under `failure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// It may succeed another time.
    Transient,
    /// The same again would fail again.
    Permanent,
    /// It ended with the station: power cut, crash.
    CutShort,
}

impl FailureKind {
    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Transient => "transient",
            FailureKind::Permanent => "permanent",
            FailureKind::CutShort => "cut_short",
        }
    }
}

/// The runs that stood for one scheduled moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    /// Runs that failed and may succeed another time.
    pub transient: u32,
    /// Runs that ended with the station.
    pub cut_short: u32,
    /// Runs that ended in any other way.
    pub finished: u32,
}

/// How the runs of one kind did over a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Ended with a candidate that went live.
    pub promoted: u32,
    /// Ended with the live model staying.
    pub kept: u32,
    /// Had nothing to do.
    pub skipped: u32,
    /// Failed.
    pub failed: u32,
    /// Mean duration of those that were not skipped, s.
    pub mean_s: Option<f64>,
}

impl RunSummary {
    /// Share of the runs that had something to do and did it.
    pub fn success(&self) -> Option<f64> {
        let done = self.promoted + self.kept;
        let all = done + self.failed;
        (all > 0).then(|| f64::from(done) / f64::from(all))
    }
}

/// How the newest nights went, for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NightRecord {
    /// Nights since the last that did not fail; a night's tries count as one.
    pub failed_in_row: u32,
    /// Nights since the last that was not skipped.
    pub skipped_in_row: u32,
    /// When the newest night that learned began.
    pub learned: Option<TimestampMs>,
}

/// What a request to delete a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It is gone.
    Done,
    /// There is no such run.
    Unknown,
    /// It is still going on.
    Running,
    /// The schedule counts from it.
    Newest,
}

impl Deletion {
    /// The same for people.
    pub fn sentence(self, run_id: i64) -> String {
        match self {
            Deletion::Done => format!("run {run_id} is deleted"),
            Deletion::Unknown => {
                format!("there is no run {run_id}; `nightwatt runs` lists them")
            }
            Deletion::Running => format!("run {run_id} is still going on"),
            Deletion::Newest => {
                format!("run {run_id} stays: the schedule counts from it until the next night")
            }
        }
    }
}

/// One line of the run log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRow {
    /// Its number.
    pub run_id: i64,
    /// What kind of run.
    pub kind: String,
    /// `full` or `incremental`.
    pub mode: String,
    /// What started it.
    pub trigger: String,
    /// The scheduled moment it stands for.
    pub nominal: Option<TimestampMs>,
    /// When it began.
    pub started: TimestampMs,
    /// When it ended; none while it runs.
    pub ended: Option<TimestampMs>,
    /// How it ended.
    pub outcome: Option<RunOutcome>,
    /// Why, in one sentence.
    pub reason: Option<String>,
    /// Everything measured, as JSON.
    pub report: Option<serde_json::Value>,
}

impl RunRow {
    /// Whether it is one of those that learn; housekeeping and updates stand in the same log.
    pub fn learns(&self) -> bool {
        matches!(self.kind.as_str(), "training" | "trial")
    }
}

/// A model to keep.
#[derive(Clone, Debug)]
pub struct NewModel {
    /// The run that made it.
    pub run_id: i64,
    /// When.
    pub created: TimestampMs,
    /// The state it enters in (see `registry`).
    pub state: &'static str,
    /// Why it is in that state, in one sentence.
    pub reason: String,
    /// Scores, as JSON.
    pub metrics: String,
    /// The serialised model.
    pub bytes: Vec<u8>,
}

/// A stored model without its bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRow {
    /// Its number; later is higher.
    pub version: i64,
    /// `candidate`, `live`, `retired`, `rejected` or `damaged`.
    pub state: String,
    /// When it was made.
    pub created: TimestampMs,
    /// When it last went live.
    pub promoted: Option<TimestampMs>,
    /// When it last stopped being live.
    pub retired: Option<TimestampMs>,
    /// Why it is in this state.
    pub reason: String,
    /// Scores.
    pub metrics: serde_json::Value,
    /// Size, bytes.
    pub size: i64,
}

impl ModelRow {
    /// Whether this move is legal for it.
    pub fn check(&self, step: Move) -> Result<State, Refusal> {
        let version = self.version;
        let state = State::parse(&self.state).ok_or(Refusal::Unknown { version })?;
        state.after(step).ok_or(Refusal::Illegal {
            version,
            state,
            step,
        })
    }
}

/// A time during which one version was live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LifeRow {
    /// The version; it may no longer be kept.
    pub version: i64,
    /// From when.
    pub from: TimestampMs,
    /// Until when; none while it is live.
    pub to: Option<TimestampMs>,
    /// Why it went live, in one sentence.
    pub why: String,
}

/// How often messages were refused for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RejectCount {
    /// The reason's stable word.
    pub reason: String,
    /// How many, since the store was made or the quarantine cleared.
    pub count: i64,
    /// The last of them.
    pub last: TimestampMs,
}

/// What the store holds, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreTotals {
    /// Devices ever seen.
    pub devices: i64,
    /// The newest reading's own time.
    pub newest: Option<TimestampMs>,
    /// The oldest reading's own time.
    pub oldest: Option<TimestampMs>,
    /// Size of the database file, bytes.
    pub database_bytes: u64,
    /// Size of the write-ahead log, bytes.
    pub wal_bytes: u64,
    /// Refused messages by reason.
    pub rejects: Vec<RejectCount>,
    /// Refused messages by topic and reason, most first.
    #[serde(default)]
    pub reject_topics: Vec<TopicRejects>,
}
