//! Updates in the daemon: looked for on schedule, on a hint and on request; a version on trial proves itself here.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::Method;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, MissedTickBehavior};

use crate::clock::{Clock, WatchedClock};
use crate::config::{AutoUpdate, Config};
use crate::errors::chain;
use crate::http::client;
use crate::reading::TimestampMs;
use crate::schedule;
use crate::shutdown::Shutdown;
use crate::store::{NewRun, Reader, RunOutcome, Store, StoreError};
use crate::update::launcher::Launched;
use crate::update::{Ask, Here, Outcome, Report, UpdateError, Updater, Verb};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR_MS: i64 = 3_600_000;
/// However many announcements come, one of them is looked after in this time.
const HINT_SPACING: Duration = Duration::from_secs(600);
/// While the clock is not trusted the schedule is not either; then it is running time.
const UNTRUSTED_SPACING: Duration = Duration::from_secs(24 * 3600);
/// A version on trial is asked this often whether it does what it has to.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// And has so long to do it.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// One that has not proved itself in so many times its time starts again, with a try less.
const GIVE_UP_AFTER: u32 = 5;
/// The answer to whoever asked goes out first.
const ANSWER_GRACE: Duration = Duration::from_millis(200);
/// Asked again with the same result within this, nothing is noted anew.
const STALE_MS: i64 = 25 * HOUR_MS;

/// How this process came to run, and what is to become of it.
#[derive(Clone, Default)]
pub struct Launch {
    /// What the launcher said; none without one.
    pub launched: Option<Launched>,
    /// The configuration's file, for a candidate's own check.
    pub config_path: Option<PathBuf>,
    /// Set where the launcher is to choose anew once everything has stopped.
    pub again: Arc<AtomicBool>,
}

/// Everything the tasks work with. Cheap to clone.
#[derive(Clone)]
pub(super) struct Updates {
    pub(super) config: Arc<Config>,
    pub(super) store: Store,
    pub(super) clock: Arc<WatchedClock>,
    pub(super) shutdown: Shutdown,
    pub(super) launch: Launch,
    pub(super) training: Arc<AtomicBool>,
    /// Rung by an announcement over MQTT.
    pub(super) hint: Arc<Notify>,
    /// Set where the daemon ended because a part of it did.
    pub(super) broken: Arc<AtomicBool>,
    pub(super) one: Arc<Mutex<()>>,
}

impl Updates {
    /// Everything that goes on by itself, until the shutdown.
    pub(super) async fn run(self) {
        self.note_what_the_launcher_did().await;
        tokio::select! {
            () = self.shutdown.begun() => {}
            () = self.prove() => {}
            () = self.look() => {}
        }
    }

    /// Does what is asked and logs it as a run; the launcher is called where another version is due.
    pub(super) async fn perform(
        &self,
        ask: Ask,
        trigger: &'static str,
        nominal: Option<TimestampMs>,
    ) -> Result<Report, String> {
        let _one = self.one.try_lock().map_err(|_| chain(&UpdateError::Busy))?;
        let run = NewRun {
            kind: "update",
            mode: ask.verb.as_str().into(),
            trigger,
            nominal,
            started: self.clock.now(),
        };
        let run_id = self.store.start_run(run).await.map_err(|e| chain(&e))?;
        let trusted_now = self.trusted_now();
        let done = self
            .with_updater(move |updater| updater.perform(&ask, trusted_now))
            .await;
        let (outcome, text) = match &done {
            Ok(report) => (run_outcome(report.outcome), report.text.clone()),
            Err(why) => (RunOutcome::Failed, why.clone()),
        };
        tracing::info!(outcome = outcome.as_str(), "update: {text}");
        let report = done
            .as_ref()
            .ok()
            .and_then(|r| serde_json::to_value(r).ok());
        let ended = self.clock.now();
        let closed = self
            .store
            .end_run(run_id, ended, None, outcome, text.clone(), report)
            .await;
        if let Err(error) = closed {
            tracing::warn!("the update's run was not closed: {}", chain(&error));
        }
        if let Ok(report) = &done {
            match report.outcome {
                Outcome::Refused => self.note_once("update_refused", text).await,
                Outcome::Trial | Outcome::RolledBack => self.relaunch(),
                _ => {}
            }
        }
        done
    }

    /// What is here, for `status`. Blocks.
    pub(super) fn here(&self) -> Option<Here> {
        let launch = &self.launch;
        let updater = Updater::new(
            &self.config,
            launch.config_path.as_deref(),
            launch.launched.as_ref(),
        );
        // Nobody who never updates has the folder, or its cost.
        let updater = updater.ok().filter(|u| u.layout.folder().exists())?;
        Some(updater.here(self.trusted_now()))
    }

    fn trusted_now(&self) -> Option<TimestampMs> {
        self.clock.trusted().then(|| self.clock.now())
    }

    async fn with_updater<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Updater<'_>) -> Result<T, UpdateError> + Send + 'static,
    ) -> Result<T, String> {
        let (config, launch) = (self.config.clone(), self.launch.clone());
        let task = tokio::task::spawn_blocking(move || {
            let updater = Updater::new(
                &config,
                launch.config_path.as_deref(),
                launch.launched.as_ref(),
            )?;
            work(&updater)
        });
        match task.await {
            Ok(done) => done.map_err(|e| chain(&e)),
            Err(_) => Err("the update broke off".into()),
        }
    }

    /// Ends the daemon in order; the launcher takes its place.
    fn relaunch(&self) {
        if self.launch.launched.is_none() {
            tracing::warn!(
                "not started by `nightwatt launch`: it takes effect with the next launch"
            );
            return;
        }
        let (shutdown, again) = (self.shutdown.clone(), self.launch.again.clone());
        tokio::spawn(async move {
            tokio::time::sleep(ANSWER_GRACE).await;
            again.store(true, Ordering::SeqCst);
            shutdown.begin();
        });
    }

    /// Looks for updates where that is asked for: on schedule, after an announcement, and tries what waits
    /// for its window.
    async fn look(&self) {
        let update = &self.config.update;
        let (mut hinted, mut asked) = (None::<Instant>, None::<Instant>);
        let mut waiting = false;
        let mut minute = tokio::time::interval(MINUTE);
        minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let hint = tokio::select! {
                _ = minute.tick() => false,
                () = self.hint.notified() => true,
            };
            if !update.enabled || (hint && hinted.is_some_and(|t| t.elapsed() < HINT_SPACING)) {
                continue;
            }
            let (trigger, nominal) = match hint {
                true => {
                    hinted = Some(Instant::now());
                    ("announcement", None)
                }
                false => match self.due(asked) {
                    Ok(Some(nominal)) => ("schedule", nominal),
                    Ok(None) if waiting && self.may_try() => ("schedule", None),
                    Ok(None) => continue,
                    Err(error) => {
                        tracing::warn!(
                            "the schedule of updates could not be looked at: {}",
                            chain(&error)
                        );
                        continue;
                    }
                },
            };
            asked = Some(Instant::now());
            let verb = match update.auto {
                AutoUpdate::Check => Verb::Check,
                AutoUpdate::Apply if self.may_try() => Verb::Apply,
                AutoUpdate::Fetch | AutoUpdate::Apply => Verb::Fetch,
            };
            let ask = Ask {
                verb,
                ..Ask::default()
            };
            let done = self.perform(ask, trigger, nominal).await;
            let fetched = done.is_ok_and(|report| report.outcome == Outcome::Fetched);
            waiting = fetched && update.auto == AutoUpdate::Apply;
        }
    }

    /// By itself nothing is tried outside its window, nor while a night learns.
    fn may_try(&self) -> bool {
        let window = self
            .config
            .update
            .window
            .allows(self.config.site.zone(), self.clock.now());
        window && !self.training.load(Ordering::Relaxed)
    }

    /// Whether a look is due, and for which moment.
    fn due(&self, asked: Option<Instant>) -> Result<Option<Option<TimestampMs>>, StoreError> {
        let Some(now) = self.trusted_now() else {
            let rested = asked.is_none_or(|t| t.elapsed() >= UNTRUSTED_SPACING);
            return Ok(rested.then_some(None));
        };
        let reader = Reader::open(&self.config.store.path)?;
        // One from a clock that was ahead counts for nothing.
        let last = reader
            .last_nominal("update")?
            .filter(|t| t.0 - now.0 < STALE_MS);
        Ok(match last {
            None => Some(Some(now)),
            Some(last) => {
                let zone = self.config.site.zone();
                schedule::due(&self.config.update.schedule, zone, last, now)
                    .map(|due| Some(due.nominal))
            }
        })
    }

    /// Rejections and damage that a launch came upon, as events; and the end of a commit that was cut off.
    async fn note_what_the_launcher_did(&self) {
        let Some(launched) = self.launch.launched.clone() else {
            return;
        };
        for said in launched.passed_over {
            self.note("update_rolled_back", said).await;
        }
        let unnoted = self.with_updater(move |updater| {
            let layout = &updater.layout;
            let finished = layout
                .trial()
                .is_some_and(|t| layout.linked("current") == Some(t.sequence));
            if finished {
                let _lock = layout.lock()?;
                layout.commit(&updater.keys)?;
            }
            Ok(layout
                .rejected()
                .into_iter()
                .filter(|r| !r.noted)
                .collect::<Vec<_>>())
        });
        match unnoted.await {
            Err(why) => tracing::warn!("the state of updates could not be looked at: {why}"),
            Ok(rejections) if rejections.is_empty() => {}
            Ok(rejections) => {
                for r in rejections {
                    let text = format!(
                        "{} (sequence {}) was taken back: {}",
                        r.version, r.sequence, r.why
                    );
                    self.note("update_rolled_back", text).await;
                }
                let noted = self.with_updater(|updater| {
                    let _lock = updater.layout.lock()?;
                    updater.layout.all_noted()
                });
                if let Err(why) = noted.await {
                    tracing::warn!("an event may come twice: {why}");
                }
            }
        }
    }

    /// Commits the version on trial once it has done everything it has to for long enough without a break:
    /// the store takes a write (which only a turning writer answers) and the socket answers a request. The
    /// watchdog is the service manager's to watch. Whether there is a broker does not count.
    async fn prove(&self) {
        let Some(sequence) = self
            .launch
            .launched
            .as_ref()
            .filter(|l| l.trial)
            .and_then(|l| l.sequence)
        else {
            return std::future::pending().await;
        };
        let needed = Duration::from_secs(u64::from(self.config.update.trial_s));
        let (began, mut good_since) = (Instant::now(), Instant::now());
        tracing::info!(
            sequence,
            seconds = needed.as_secs(),
            "this version is on trial"
        );
        let mut beat = tokio::time::interval(PROBE_EVERY.min(needed));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            if let Err(why) = self.probe(sequence).await {
                tracing::warn!("not proved yet: {why}");
                good_since = Instant::now();
            } else if good_since.elapsed() >= needed {
                match self.commit().await {
                    Ok(text) => {
                        tracing::info!("{text}");
                        self.note("update_committed", text).await;
                        return std::future::pending().await;
                    }
                    Err(why) => tracing::error!("not committed: {why}"),
                }
            }
            if began.elapsed() >= needed * GIVE_UP_AFTER {
                tracing::error!(
                    "this version has not proved itself; it starts again, with a try less"
                );
                self.broken.store(true, Ordering::SeqCst);
                self.shutdown.begin();
                return;
            }
        }
    }

    async fn probe(&self, sequence: u64) -> Result<(), String> {
        let written = self.store.keep("update_trial", sequence.to_string());
        (tokio::time::timeout(PROBE_LIMIT, written).await)
            .map_err(|_| "the store does not answer".to_owned())?
            .map_err(|e| chain(&e))?;
        let socket = &self.config.http.socket;
        client::request_within(
            PROBE_LIMIT,
            socket,
            Method::GET,
            "/api/status",
            String::new(),
        )
        .await
        .map(drop)
        .map_err(|e| chain(&e))
    }

    async fn commit(&self) -> Result<String, String> {
        self.with_updater(|updater| {
            let _lock = updater.layout.lock()?;
            let m = updater.layout.commit(&updater.keys)?;
            Ok(format!(
                "{} (sequence {}) has proved itself and stays",
                m.version, m.sequence
            ))
        })
        .await
    }

    /// Notes an event, unless the newest of its kind says the same.
    async fn note_once(&self, kind: &'static str, detail: String) {
        let known = Reader::open(&self.config.store.path).and_then(|r| r.events_of(kind, 1));
        if !known.is_ok_and(|events| events.iter().any(|e| e.detail == detail)) {
            self.note(kind, detail).await;
        }
    }

    async fn note(&self, kind: &'static str, detail: String) {
        if let Err(error) = self.store.note_event(self.clock.now(), kind, detail).await {
            tracing::warn!(kind, "an event was not noted: {}", chain(&error));
        }
    }
}

fn run_outcome(outcome: Outcome) -> RunOutcome {
    match outcome {
        Outcome::UpToDate | Outcome::Waiting => RunOutcome::Skipped,
        Outcome::Refused => RunOutcome::Failed,
        Outcome::Available | Outcome::Fetched | Outcome::Trial | Outcome::RolledBack => {
            RunOutcome::Done
        }
    }
}
