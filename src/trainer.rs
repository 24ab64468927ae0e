//! One training run from its row in the run log to its outcome: a child process learns, the gate has decided, the writer registers.
//!
//! The child is this same binary (`nightwatt trainer`): it reads the job from standard input and the
//! database read-only, and answers on standard output with the night's report, the model in it.
//! It lowers its own priority and dies with its parent.

mod cache;
mod register;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::clock::Clock;
use crate::config::Config;
use crate::features::FeatureSet;
use crate::models::bundle::{Bundle, Kind};
use crate::night::{self, Cache, Mode, NightParams, NightReport};
use crate::reading::TimestampMs;
use crate::schedule::Due;
use crate::store::{NewRun, Reader, RunOutcome, Store, StoreError};

const DAY_MS: i64 = 86_400_000;
/// A child that answers more than this is not ours.
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;
const NICE: i32 = 15;
/// The same data gives the same model.
const SEED: u64 = 1;

/// Why a run takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The schedule.
    Scheduled(Due),
    /// Somebody asked, for a mode of their own perhaps.
    Manual(Option<Mode>),
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
        status: String,
        /// The last it said.
        said: String,
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

/// What the child is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Job {
    db: PathBuf,
    /// Everything is read again, whatever the cache holds.
    rebuild: bool,
    from: TimestampMs,
    to: TimestampMs,
    /// No reading older than this can still have come in.
    late_since: TimestampMs,
    /// The version that candidates are judged beside.
    live: Option<i64>,
    /// One for each horizon.
    nights: Vec<NightParams>,
}

/// Runs one night and logs it; the error is that of the log itself. `cancel` ends the child.
pub async fn train(
    station: &Station,
    trigger: Trigger,
    cancel: impl Future<Output = ()>,
) -> Result<RunEnd, StoreError> {
    let store = &station.store;
    let started = station.clock.now();
    let asked = match trigger {
        Trigger::Manual(asked) => asked,
        Trigger::Scheduled(_) => None,
    };
    let (word, nominal) = match trigger {
        Trigger::Manual(_) => ("manual", None),
        Trigger::Scheduled(due) if due.catch_up => ("catch_up", Some(due.nominal)),
        Trigger::Scheduled(due) => ("schedule", Some(due.nominal)),
    };
    let run = NewRun {
        kind: "training",
        mode: asked.unwrap_or(station.config.training.mode).to_string(),
        trigger: word,
        nominal,
        started,
    };
    let run_id = store.start_run(run).await?;
    let live = Reader::open(&station.config.store.path)?.live_version()?;
    let job = job(&station.config, started, asked, live);
    let answer = in_child(&station.program, &job, cancel).await;
    let end = match answer.and_then(|report| register::judged(run_id, report)) {
        Ok(judged) => register::conclude(station, run_id, started, live, judged).await?,
        Err(error) => RunEnd {
            run_id,
            outcome: RunOutcome::Failed,
            reason: crate::errors::chain(&error),
            promoted: None,
            report: None,
        },
    };
    let report = end
        .report
        .as_ref()
        .and_then(|r| serde_json::to_value(r).ok());
    // In full where any of its nights was.
    let modes = end.report.iter().flat_map(|r| &r.horizons).map(|n| n.mode);
    let full = modes.clone().any(|mode| mode == Mode::Full);
    let mode = modes
        .last()
        .map(|m| if full { Mode::Full } else { m }.to_string());
    let ended = station.clock.now();
    store
        .end_run(run_id, ended, mode, end.outcome, end.reason.clone(), report)
        .await?;
    Ok(end)
}

/// Asked for in full, a night starts from the readings themselves; where the schedule asks for it,
/// from the rows of the cache.
fn job(config: &Config, now: TimestampMs, asked: Option<Mode>, live: Option<i64>) -> Job {
    let days_ago = |days: u32| now.plus_ms(-i64::from(days) * DAY_MS);
    let from = days_ago(config.training.lookback_days);
    let night = night_params(config);
    let horizons = config.training.horizon_min.iter();
    Job {
        db: config.store.path.clone(),
        rebuild: asked == Some(Mode::Full),
        from,
        to: now,
        late_since: days_ago(config.mqtt.max_age_days + 1),
        live,
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
) -> Result<Report, TrainerError> {
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
            return serde_json::from_slice(&answer)
                .map_err(|e| TrainerError::Answer(e.to_string()));
        }
        let said = String::from_utf8_lossy(&said);
        let said = said
            .trim()
            .lines()
            .last()
            .unwrap_or("nothing was said")
            .to_owned();
        Err(TrainerError::Ended {
            status: status.to_string(),
            said,
        })
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
    let report = learn(&job)?;
    serde_json::to_writer(&mut output, &report).map_err(|e| TrainerError::Answer(e.to_string()))?;
    output.flush().map_err(io)
}

fn learn(job: &Job) -> Result<Report, TrainerError> {
    let reader = Reader::open(&job.db)?;
    let live = job.live.map(|version| reader.model_bytes(version));
    // A damaged live model is no reason not to train its successor.
    let live = live
        .transpose()?
        .flatten()
        .and_then(|bytes| Bundle::from_bytes(&bytes).ok())
        .unwrap_or_default();
    let horizons = job
        .nights
        .iter()
        .map(|night| horizon(job, &reader, &live, night))
        .collect::<Result<_, _>>()?;
    Ok(Report { horizons })
}

/// The night of one horizon, from its own cache and into it.
fn horizon(
    job: &Job,
    reader: &Reader,
    live: &Bundle,
    params: &NightParams,
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
    let rows = reader.named_samples(from, job.to)?;
    let live = night::Live {
        power: live.power.get(&params.horizon_min),
        ramp: live.ramp.get(&params.horizon_min),
    };
    let night = night::run(rows, live, cache, params, &AtomicBool::new(false))?;
    if let Some(cache) = &night.cache {
        // Without it the next night takes longer, and that is all.
        if let Err(error) = cache::save(&file, &cache.to_bytes(params)) {
            eprintln!("keeping {}: {error}", file.display());
        }
    }
    Ok(night.report)
}

/// The intake comes first: run when nothing else wants to, and not longer than the parent.
fn lower_priority() {
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "the priority stays as it is");
    }
    let kill = Some(rustix::process::Signal::KILL);
    if let Err(error) = rustix::process::set_parent_process_death_signal(kill) {
        tracing::debug!(%error, "an orphaned trainer will finish by itself");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A trainer that does what `script` says instead of learning.
    async fn with(script: &str, cancel: impl Future<Output = ()>) -> Result<Report, String> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("trainer");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let job = job(&Config::default(), TimestampMs(0), None, None);
        in_child(&program, &job, cancel)
            .await
            .map_err(|e| crate::errors::chain(&e))
    }

    #[tokio::test]
    async fn a_trainer_that_dies_or_babbles_is_a_failed_run_with_its_reason() {
        let never = std::future::pending::<()>;
        let killed = with("cat >/dev/null; kill -9 $$", never())
            .await
            .unwrap_err();
        assert!(killed.contains("signal: 9"), "{killed}");
        let failed = with("cat >/dev/null; echo no memory >&2; exit 1", never())
            .await
            .unwrap_err();
        assert!(failed.contains("no memory"), "{failed}");
        let babbled = with("cat >/dev/null; echo hello", never())
            .await
            .unwrap_err();
        assert!(babbled.contains("answer"), "{babbled}");
        let job = job(&Config::default(), TimestampMs(0), None, None);
        let missing = in_child(Path::new("/nowhere"), &job, never());
        assert!(missing.await.unwrap_err().to_string().contains("/nowhere"));
    }

    #[tokio::test]
    async fn cancelling_ends_a_trainer_that_does_not_end_by_itself() {
        let cancelled = with("exec sleep 1000", tokio::task::yield_now())
            .await
            .unwrap_err();
        assert!(cancelled.contains("stopped during the run"), "{cancelled}");
    }
}
