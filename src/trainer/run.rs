//! One training run from its row in the run log to its outcome: enough new data, the child, registration, the report.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::news::NewData;
use super::{Learned, Narrowed, Report, TrainerError, in_child, job, register};
use crate::clock::Clock;
use crate::config::Config;
use crate::errors::{causes, chain};
use crate::night::Mode;
use crate::reading::{DeviceId, TimestampMs};
use crate::schedule::Night;
use crate::store::{NewRun, Reader, RunOutcome, Store, StoreError};

/// Why a run takes place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The schedule.
    Scheduled(Night),
    /// Somebody asked.
    Manual(Asked),
}

/// What somebody asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// A mode of their own.
    pub mode: Option<Mode>,
    /// However little is new.
    pub force: bool,
    /// Only from the newest so many days. Such a run is a full one and leaves the cache alone.
    pub days: Option<u32>,
    /// Only from this device. That is a trial: models serve all devices, so one that was measured on
    /// a single one is reported and never goes live.
    pub device: Option<DeviceId>,
}

impl Asked {
    /// The kind of run it becomes: `training`, or `trial`, which the schedule does not count.
    pub fn kind(&self) -> &'static str {
        match self.device {
            None => "training",
            Some(_) => "trial",
        }
    }
}

/// A run that is asked for, and somebody who may wait for it.
pub struct Request {
    trigger: Trigger,
    teller: Option<Teller>,
}

struct Teller {
    begun: oneshot::Sender<i64>,
    ended: oneshot::Sender<i64>,
}

/// Hears of the run that was asked for.
pub struct Ticket {
    begun: oneshot::Receiver<i64>,
    ended: oneshot::Receiver<i64>,
}

impl Request {
    /// One of the schedule's.
    pub fn scheduled(night: Night) -> Self {
        Self {
            trigger: Trigger::Scheduled(night),
            teller: None,
        }
    }

    /// Somebody's.
    pub fn manual(asked: Asked) -> (Self, Ticket) {
        let (begun_tx, begun) = oneshot::channel();
        let (ended_tx, ended) = oneshot::channel();
        let teller = Teller {
            begun: begun_tx,
            ended: ended_tx,
        };
        let request = Self {
            trigger: Trigger::Manual(asked),
            teller: Some(teller),
        };
        (request, Ticket { begun, ended })
    }

    /// Runs it; `over` is called between its end and the word of it.
    pub async fn carry_out(
        self,
        station: &Station,
        cancel: impl Future<Output = ()>,
        over: impl FnOnce(),
    ) -> Result<RunEnd, StoreError> {
        let (begun, ended) = self.teller.map(|t| (t.begun, t.ended)).unzip();
        // Who asked may be gone.
        let tell = |to: Option<oneshot::Sender<i64>>, run_id| to.map(|to| to.send(run_id));
        let begin = |run_id| {
            tell(begun, run_id);
        };
        let end = train(station, self.trigger, begin, cancel).await;
        over();
        if let Ok(end) = &end {
            tell(ended, end.run_id);
        }
        end
    }
}

impl Ticket {
    /// The run's number, once it has begun; none where it never will.
    pub async fn begun(&mut self) -> Option<i64> {
        (&mut self.begun).await.ok()
    }

    /// The run's number, once it has ended; none where it never began.
    pub async fn ended(&mut self) -> Option<i64> {
        (&mut self.ended).await.ok()
    }
}

/// The least and the most days that a run can be narrowed to.
pub fn narrow_days(config: &Config) -> (u32, u32) {
    let training = &config.training;
    let least = training.min_days + training.holdback_days + 1;
    (least, training.lookback_days)
}

impl Trigger {
    /// The stored word.
    fn as_str(&self) -> &'static str {
        match self {
            Trigger::Scheduled(night) => night.reason.as_str(),
            Trigger::Manual(_) => "manual",
        }
    }

    fn nominal(&self) -> Option<TimestampMs> {
        match self {
            Trigger::Scheduled(night) => night.nominal,
            Trigger::Manual(_) => None,
        }
    }

    fn mode(&self) -> Option<Mode> {
        match self {
            Trigger::Scheduled(night) => night.full.then_some(Mode::Full),
            Trigger::Manual(asked) if asked.days.is_some() || asked.device.is_some() => {
                Some(Mode::Full)
            }
            Trigger::Manual(asked) => asked.mode,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Trigger::Scheduled(_) => "training",
            Trigger::Manual(asked) => asked.kind(),
        }
    }

    /// Whether what is new does not count: other readings than the last time are new enough.
    fn forced(&self) -> bool {
        match self {
            Trigger::Scheduled(_) => false,
            Trigger::Manual(asked) => asked.force || asked.days.is_some() || asked.device.is_some(),
        }
    }

    fn narrowed(&self) -> Narrowed {
        match self {
            Trigger::Scheduled(_) => Narrowed::default(),
            Trigger::Manual(asked) => Narrowed {
                days: asked.days,
                device: asked.device.clone(),
            },
        }
    }
}

/// What a run works with.
#[derive(Clone)]
pub struct Station {
    /// The configuration.
    pub config: Arc<Config>,
    /// The writer.
    pub store: Store,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// This program, for the child.
    pub program: PathBuf,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct RunEnd {
    /// Its number.
    pub run_id: i64,
    /// Its outcome.
    pub outcome: RunOutcome,
    /// Why, in one sentence.
    pub reason: String,
    /// The version that is live now, where the outcome is `promoted`.
    pub promoted: Option<i64>,
    /// Everything measured.
    pub report: Option<Report>,
}

impl RunEnd {
    fn failed(run_id: i64, reason: String) -> Self {
        Self {
            run_id,
            outcome: RunOutcome::Failed,
            reason,
            promoted: None,
            report: None,
        }
    }
}

/// Runs one night and logs it; the error is that of the log itself. `begun` hears the run's number, and
/// `cancel` ends the child.
pub async fn train(
    station: &Station,
    trigger: Trigger,
    begun: impl FnOnce(i64),
    cancel: impl Future<Output = ()>,
) -> Result<RunEnd, StoreError> {
    let store = &station.store;
    let started = station.clock.now();
    let configured = station.config.training.mode;
    let run = NewRun {
        kind: trigger.kind(),
        mode: trigger.mode().unwrap_or(configured).to_string(),
        trigger: trigger.as_str(),
        nominal: trigger.nominal(),
        started,
    };
    let run_id = store.start_run(run).await?;
    begun(run_id);
    let (end, report) = carry_out(station, run_id, started, trigger, cancel).await;
    // In full where any of its nights was.
    let nights = end.report.iter().flat_map(|r| &r.horizons);
    let full = nights.clone().find(|n| n.mode == Mode::Full);
    let mode = full.or(nights.clone().next()).map(|n| n.mode.to_string());
    let ended = station.clock.now();
    store
        .end_run(
            run_id,
            ended,
            mode,
            end.outcome,
            end.reason.clone(),
            Some(report),
        )
        .await?;
    Ok(end)
}

/// The run itself, and what goes into the log as its report.
async fn carry_out(
    station: &Station,
    run_id: i64,
    started: TimestampMs,
    trigger: Trigger,
    cancel: impl Future<Output = ()>,
) -> (RunEnd, Value) {
    let mut stages = Stages::default();
    let failed = |error: &TrainerError| {
        let report = json!({ "failure": error.kind(), "errors": causes(error) });
        (RunEnd::failed(run_id, chain(error)), report)
    };
    let config = station.config.clone();
    let look = move || NewData::look(&Reader::open(&config.store.path)?, &config, started);
    let new = match tokio::task::spawn_blocking(look).await {
        Ok(Ok(new)) => new,
        Ok(Err(error)) => return failed(&error.into()),
        Err(error) => return failed(&TrainerError::Answer(error.to_string())),
    };
    stages.end("check");
    if !new.enough() && !trigger.forced() {
        let end = RunEnd {
            outcome: RunOutcome::Skipped,
            ..RunEnd::failed(run_id, new.sentence(station.config.site.zone()))
        };
        return (end, json!({ "new": new }));
    }
    let live = Reader::open(&station.config.store.path).and_then(|r| r.live_version());
    let live = match live {
        Ok(live) => live,
        Err(error) => return failed(&error.into()),
    };
    let narrowed = trigger.narrowed();
    let trial = narrowed.device.clone();
    let job = job(
        &station.config,
        started,
        trigger.mode(),
        live,
        new.since,
        narrowed,
    );
    let learned = match in_child(&station.program, &job, cancel).await {
        Ok(learned) => learned,
        Err(error) => return failed(&error),
    };
    let Learned {
        report,
        quality,
        read_ms,
        learn_ms,
    } = learned;
    stages.end("train");
    stages.of_child(read_ms, learn_ms);
    let judged = match register::judged(run_id, report) {
        Ok(judged) => judged,
        Err(error) => return failed(&error),
    };
    let end = match trial {
        Some(device) => judged.trial(run_id, &device),
        None => match register::conclude(station, run_id, started, live, judged).await {
            Ok(end) => end,
            Err(error) => return failed(&error.into()),
        },
    };
    stages.end("register");
    let mut report = match serde_json::to_value(&end.report) {
        Ok(Value::Object(report)) => report,
        _ => serde_json::Map::new(),
    };
    report.insert("new".into(), json!(new));
    report.insert("quality".into(), json!(quality));
    report.insert("stages_ms".into(), json!(stages.ms));
    (end, Value::Object(report))
}

/// How long each stage took.
struct Stages {
    began: Instant,
    ms: BTreeMap<&'static str, u64>,
}

impl Default for Stages {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            ms: BTreeMap::new(),
        }
    }
}

impl Stages {
    /// A stage ends here and the next begins.
    fn end(&mut self, name: &'static str) {
        let now = Instant::now();
        let ms = now.duration_since(std::mem::replace(&mut self.began, now));
        self.ms.insert(name, ms.as_millis() as u64);
    }

    /// The stage `train` in its parts, as the child has measured them.
    fn of_child(&mut self, read_ms: u64, learn_ms: u64) {
        let all = self.ms.remove("train").unwrap_or_default();
        self.ms.insert("read", read_ms);
        self.ms.insert("learn", learn_ms);
        self.ms
            .insert("start_child", all.saturating_sub(read_ms + learn_ms));
    }
}
