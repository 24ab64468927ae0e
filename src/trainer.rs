//! Training: a child process learns, the gate has decided, the writer registers. `run` is one run from its row in the log to its outcome.
//!
//! The child is this same binary (`nightwatt trainer`): it reads the job from standard input and the
//! database read-only, and answers on standard output with the night's report, the model in it.
//! It lowers its own priority and dies with its parent.

mod cache;
mod news;
mod register;
mod run;

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::config::Config;
use crate::features::FeatureSet;
use crate::models::bundle::{Bundle, Kind};
use crate::night::{self, Cache, Mode, NightParams, NightReport};
use crate::quality::{Check, Quality};
use crate::reading::{DeviceId, TimestampMs};
use crate::store::{FailureKind, NamedSample, Reader, StoreError};

pub use news::{FirstNight, NewData, Preview, first_night, preview};
pub use run::{Asked, Request, RunEnd, Station, Ticket, Trigger, narrow_days, train};

const DAY_MS: i64 = 86_400_000;
/// A child that answers more than this is not ours.
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;
const NICE: i32 = 15;
/// The same data gives the same model.
const SEED: u64 = 1;

/// Everything a run measured, as the run log keeps it; the child's answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// A night for each horizon, in the order of the configuration.
    pub horizons: Vec<NightReport>,
}

/// What is noted beside a version's bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Contents {
    /// What it holds.
    pub parts: Vec<PartNote>,
    /// What the night that made it measured, without the models.
    pub horizons: Vec<NightReport>,
}

/// One part of a version.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartNote {
    /// Minutes ahead.
    pub horizon_min: u32,
    /// What it answers.
    pub kind: Kind,
    /// The run that made it; an earlier one's where no later one made a better.
    pub run_id: i64,
}

/// Why a child gave no result.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// The process could not be started or talked to.
    #[error("cannot {action} the trainer {}", program.display())]
    Process {
        /// What was attempted.
        action: &'static str,
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It ended without a result.
    #[error("the trainer ended with {status}: {said}")]
    Ended {
        /// Exit status or signal.
        status: ExitStatus,
        /// The last it said.
        said: String,
    },
    /// It asked for more memory than it may have.
    #[error("the trainer needed more memory than training.max_memory_mb = {max_memory_mb} allows")]
    Memory {
        /// What it may have, MB.
        max_memory_mb: u32,
    },
    /// It could not do the night.
    #[error("{}", .causes.join(": "))]
    Refused {
        /// What it said, the cause of each after it.
        causes: Vec<String>,
        /// Whether that may be otherwise another time.
        kind: FailureKind,
    },
    /// Its answer is not one.
    #[error("the trainer's answer cannot be read: {0}")]
    Answer(String),
    /// The station is stopping.
    #[error("the station was stopped during the run")]
    Cancelled,
    /// The store, in the child.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The night itself, in the child.
    #[error(transparent)]
    Night(#[from] night::NightError),
}

impl TrainerError {
    /// Whether the same may succeed another time.
    fn kind(&self) -> FailureKind {
        match self {
            TrainerError::Process { .. } | TrainerError::Cancelled | TrainerError::Store(_) => {
                FailureKind::Transient
            }
            TrainerError::Refused { kind, .. } => *kind,
            TrainerError::Night(night::NightError::Rows(_)) => FailureKind::Transient,
            // Who is killed may have been in the way of something else; who aborts will again.
            TrainerError::Ended { status, .. } if status.signal().is_some_and(|s| s != ABORTED) => {
                FailureKind::Transient
            }
            TrainerError::Ended { .. }
            | TrainerError::Memory { .. }
            | TrainerError::Answer(_)
            | TrainerError::Night(_) => FailureKind::Permanent,
        }
    }
}

/// SIGABRT: how a process ends that could not allocate.
const ABORTED: i32 = 6;

/// What the child answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Learned(Box<Learned>),
    Refused {
        causes: Vec<String>,
        kind: FailureKind,
    },
}

/// A night and what was seen on the way.
#[derive(Debug, Serialize, Deserialize)]
struct Learned {
    report: Report,
    quality: Quality,
    /// Reading rows from the store, ms.
    read_ms: u64,
    /// Features, learning, scores and gate, ms.
    learn_ms: u64,
}

/// What the child is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Job {
    db: PathBuf,
    /// Everything is read again, whatever the cache holds.
    rebuild: bool,
    /// Only from this device.
    device: Option<DeviceId>,
    /// What was read is worth keeping for the next night.
    keep_cache: bool,
    from: TimestampMs,
    to: TimestampMs,
    /// No reading older than this can still have come in.
    late_since: TimestampMs,
    /// The version that candidates are judged beside.
    live: Option<i64>,
    /// The quality of readings since then is checked.
    new_since: TimestampMs,
    max_memory_mb: u32,
    /// One for each horizon.
    nights: Vec<NightParams>,
}

/// Less than everything, where somebody asked for that.
#[derive(Clone, Debug, Default)]
struct Narrowed {
    days: Option<u32>,
    device: Option<DeviceId>,
}

/// Asked for in full, a night starts from the readings themselves; else from the rows of the cache.
fn job(
    config: &Config,
    now: TimestampMs,
    asked: Option<Mode>,
    live: Option<i64>,
    new_since: Option<TimestampMs>,
    narrowed: Narrowed,
) -> Job {
    let training = &config.training;
    let from = match narrowed.days {
        Some(days) => now.plus_ms(-i64::from(days) * DAY_MS),
        None => lookback(config, now),
    };
    let all = narrowed.days.is_none() && narrowed.device.is_none();
    let night = night_params(config);
    let horizons = config.training.horizon_min.iter();
    Job {
        db: config.store.path.clone(),
        rebuild: asked == Some(Mode::Full) || !all,
        device: narrowed.device,
        keep_cache: all,
        from,
        to: now,
        late_since: now.plus_ms(-i64::from(config.mqtt.max_age_days + 1) * DAY_MS),
        live,
        new_since: new_since.unwrap_or(from),
        max_memory_mb: training.max_memory_mb,
        nights: horizons
            .map(|horizon_min| NightParams {
                horizon_min,
                mode: asked.unwrap_or(night.mode),
                forget_before: Some(from),
                ..night.clone()
            })
            .collect(),
    }
}

fn lookback(config: &Config, now: TimestampMs) -> TimestampMs {
    now.plus_ms(-i64::from(config.training.lookback_days) * DAY_MS)
}

/// The night's parameters, as the configuration has them, for its first horizon.
pub fn night_params(config: &Config) -> NightParams {
    let training = &config.training;
    NightParams {
        horizon_min: training.horizon_min.iter().next().unwrap_or(15),
        step_min: None,
        site: config.site.site(),
        zone: Some(config.site.zone()),
        features: FeatureSet::Core,
        holdback_days: training.holdback_days,
        min_train_days: training.min_days,
        promote: training.promote,
        mode: training.mode,
        full_every_days: training.full_every_days,
        forget_before: None,
        seed: SEED,
    }
}

async fn in_child(
    program: &Path,
    job: &Job,
    cancel: impl Future<Output = ()>,
) -> Result<Learned, TrainerError> {
    let failed = |action| {
        let program = program.to_owned();
        move |source| TrainerError::Process {
            action,
            program,
            source,
        }
    };
    let mut child = Command::new(program)
        .arg("trainer")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed("start"))?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
        unreachable!("all three were asked for");
    };
    let exchange = async {
        let text = serde_json::to_vec(job).map_err(|e| TrainerError::Answer(e.to_string()))?;
        stdin
            .write_all(&text)
            .await
            .map_err(failed("hand the job to"))?;
        drop(stdin);
        let (mut answer, mut said) = (Vec::new(), Vec::new());
        let mut stdout = stdout.take(MAX_ANSWER_BYTES);
        let mut stderr = stderr.take(MAX_ANSWER_BYTES);
        let (a, b) = tokio::join!(
            stdout.read_to_end(&mut answer),
            stderr.read_to_end(&mut said)
        );
        a.and(b).map_err(failed("listen to"))?;
        let status = child.wait().await.map_err(failed("wait for"))?;
        if status.success() {
            return match serde_json::from_slice(&answer) {
                Ok(Answer::Learned(learned)) => Ok(*learned),
                Ok(Answer::Refused { causes, kind }) => Err(TrainerError::Refused { causes, kind }),
                Err(error) => Err(TrainerError::Answer(error.to_string())),
            };
        }
        let said = String::from_utf8_lossy(&said);
        if status.signal() == Some(ABORTED) && said.contains("memory allocation of") {
            return Err(TrainerError::Memory {
                max_memory_mb: job.max_memory_mb,
            });
        }
        let said = said
            .trim()
            .lines()
            .last()
            .unwrap_or("nothing was said")
            .to_owned();
        Err(TrainerError::Ended { status, said })
    };
    tokio::select! {
        () = cancel => Err(TrainerError::Cancelled),
        result = exchange => result,
    }
}

/// The child: reads the job from `input`, runs the night, writes the answer to `output`.
pub fn child(mut input: impl Read, mut output: impl Write) -> Result<(), TrainerError> {
    lower_priority();
    let io = |e: std::io::Error| TrainerError::Answer(e.to_string());
    let mut text = Vec::new();
    input.read_to_end(&mut text).map_err(io)?;
    let job: Job =
        serde_json::from_slice(&text).map_err(|e| TrainerError::Answer(e.to_string()))?;
    limit_memory(job.max_memory_mb);
    let answer = match learn(&job) {
        Ok(learned) => Answer::Learned(Box::new(learned)),
        Err(error) => Answer::Refused {
            causes: crate::errors::causes(&error),
            kind: error.kind(),
        },
    };
    serde_json::to_writer(&mut output, &answer).map_err(|e| TrainerError::Answer(e.to_string()))?;
    output.flush().map_err(io)
}

fn learn(job: &Job) -> Result<Learned, TrainerError> {
    let began = Instant::now();
    let reader = Reader::open(&job.db)?;
    let live = job.live.map(|version| reader.model_bytes(version));
    // A damaged live model is no reason not to train its successor.
    let live = live
        .transpose()?
        .flatten()
        .and_then(|bytes| Bundle::from_bytes(&bytes).ok())
        .unwrap_or_default();
    let (mut horizons, mut read) = (Vec::new(), Duration::ZERO);
    // Every horizon reads the same readings: one look at their quality is enough.
    let mut check = Some(Check::default());
    let mut quality = Quality::default();
    for params in &job.nights {
        let mut looked = Looked {
            new_since: job.new_since,
            check: check.take(),
            read: Duration::ZERO,
        };
        horizons.push(horizon(job, &reader, &live, params, &mut looked)?);
        read += looked.read;
        quality = looked.check.map_or(quality, Check::finish);
    }
    let read_ms = read.as_millis() as u64;
    Ok(Learned {
        report: Report { horizons },
        quality,
        read_ms,
        learn_ms: (began.elapsed().as_millis() as u64).saturating_sub(read_ms),
    })
}

/// The night of one horizon, from its own cache and into it.
fn horizon(
    job: &Job,
    reader: &Reader,
    live: &Bundle,
    params: &NightParams,
    looked: &mut Looked,
) -> Result<NightReport, TrainerError> {
    let file = cache::path(&job.db, params.horizon_min);
    let mut cache = match job.rebuild {
        true => None,
        false => cache::load(&file, params),
    };
    if let Some(cache) = &mut cache {
        cache.forget_changed(job.late_since, |from, to| reader.count(from, to))?;
    }
    let cache = cache.filter(|cache| !cache.is_stale());
    let from = cache.as_ref().map_or(job.from, Cache::needs_from);
    let mut rows = reader.named_samples(from, job.to)?;
    let ours = |row: &Result<NamedSample, StoreError>| match (row, &job.device) {
        (Ok((device, ..)), Some(only)) => device == only,
        _ => true,
    };
    let rows = std::iter::from_fn(|| looked.at(|| rows.by_ref().find(ours)));
    let live = night::Live {
        power: live.power.get(&params.horizon_min),
        ramp: live.ramp.get(&params.horizon_min),
    };
    let night = night::run(rows, live, cache, params, &AtomicBool::new(false))?;
    if let Some(cache) = night.cache.as_ref().filter(|_| job.keep_cache) {
        // Without it the next night takes longer, and that is all.
        if let Err(error) = cache::save(&file, &cache.to_bytes(params)) {
            eprintln!("keeping {}: {error}", file.display());
        }
    }
    Ok(night.report)
}

/// A look at rows on their way to the learner: timed, the new ones checked.
struct Looked {
    new_since: TimestampMs,
    check: Option<Check>,
    read: Duration,
}

impl Looked {
    fn at(
        &mut self,
        next: impl FnOnce() -> Option<Result<NamedSample, StoreError>>,
    ) -> Option<Result<NamedSample, StoreError>> {
        let began = Instant::now();
        let row = next();
        if let (Some(Ok((device, ts, values))), Some(check)) = (&row, &mut self.check)
            && *ts >= self.new_since
        {
            check.push(device, *ts, values);
        }
        self.read += began.elapsed();
        row
    }
}

/// The intake comes first: run when nothing else wants to, not longer than the parent, and be the first
/// to go where memory runs out.
fn lower_priority() {
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "the priority stays as it is");
    }
    let kill = Some(rustix::process::Signal::KILL);
    if let Err(error) = rustix::process::set_parent_process_death_signal(kill) {
        tracing::debug!(%error, "an orphaned trainer will finish by itself");
    }
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "1000") {
        tracing::debug!(%error, "memory that runs out may hit others first");
    }
}

/// Bounds what this process may allocate; beyond it an allocation fails and ends the process.
///
/// RLIMIT_DATA counts private writable memory, however it was asked for (Linux 4.7), and not what is
/// only mapped, as RLIMIT_AS would.
fn limit_memory(max_memory_mb: u32) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let bytes = Some(u64::from(max_memory_mb) * 1_000_000);
    let limit = Rlimit {
        current: bytes,
        maximum: bytes,
    };
    if let Err(error) = setrlimit(Resource::Data, limit) {
        tracing::debug!(%error, "the trainer's memory is not limited");
    }
}

#[cfg(test)]
mod tests;
