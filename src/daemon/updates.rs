//! Updates in the daemon: looked for on schedule, on a hint and on request, one at a time.

mod trial;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::clock::{Clock, WatchedClock};
use crate::config::{AutoUpdate, Config};
use crate::errors::chain;
use crate::reading::TimestampMs;
use crate::schedule;
use crate::shutdown::Shutdown;
use crate::store::{NewRun, Reader, RunOutcome, Store, StoreError};
use crate::update::launcher::Launched;
use crate::update::{Ask, BY_HAND, Here, Outcome, Report, UpdateError, Updater, Verb};

/// What a person asks for.
pub(super) const MANUAL: &str = "manual";
const MINUTE: Duration = Duration::from_secs(60);
const HOUR_MS: i64 = 3_600_000;
/// However many announcements come, one of them is looked after in this time.
const HINT_SPACING: Duration = Duration::from_secs(600);
/// While the clock is not trusted the schedule is not either; then it is running time.
const UNTRUSTED_SPACING: Duration = Duration::from_secs(24 * 3600);
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
    pub(super) going: Arc<Mutex<Option<Going>>>,
}

/// How an update ended, for everybody who waits for it.
type Done = Result<Report, Arc<UpdateError>>;

/// An update under way, or the last one.
pub(super) struct Going {
    ask: Ask,
    what: String,
    since: TimestampMs,
    done: watch::Receiver<Option<Done>>,
}

impl Going {
    /// Whoever does it has told how it ended, or cannot any more.
    fn is_over(&self) -> bool {
        self.done.has_changed().is_err() || self.done.borrow().is_some()
    }
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
        self.wind_up().await;
    }

    /// What goes on has been stopped and closes its run; a version on trial that ends in order has not crashed.
    async fn wind_up(&self) {
        let going = (self
            .going
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref())
        .map(|g| g.done.clone());
        if let Some(mut done) = going {
            let _ = done.wait_for(Option::is_some).await;
        }
        if let Some(sequence) = self.on_trial()
            && !self.broken.load(Ordering::SeqCst)
            && let Err(error) = self.note_ready(sequence, false).await
        {
            tracing::warn!("this end will be taken for a crash: {}", chain(&error));
        }
    }

    /// Does what is asked and logs it as a run; the launcher is called where another version is due. Who asks for
    /// what is going on already gets its answer; it goes on whether or not they still wait.
    pub(super) async fn perform(
        &self,
        ask: Ask,
        trigger: &'static str,
        nominal: Option<TimestampMs>,
    ) -> Done {
        let mut done = self.begin(ask, trigger, nominal)?;
        match done.wait_for(Option::is_some).await {
            Ok(done) => done.clone().unwrap_or(Err(Arc::new(UpdateError::Broke))),
            Err(_) => Err(Arc::new(UpdateError::Broke)),
        }
    }

    /// Joins what is going on, or begins.
    fn begin(
        &self,
        ask: Ask,
        trigger: &'static str,
        nominal: Option<TimestampMs>,
    ) -> Result<watch::Receiver<Option<Done>>, Arc<UpdateError>> {
        let mut going = self.going.lock().unwrap_or_else(PoisonError::into_inner);
        match going.as_ref().filter(|g| !g.is_over()) {
            Some(same) if same.ask == ask => return Ok(same.done.clone()),
            Some(other) => {
                let (what, since) = (other.what.clone(), other.since);
                return Err(Arc::new(UpdateError::Going { what, since }));
            }
            None => {}
        }
        let (tell, done) = watch::channel(None);
        let source = ask.source.as_ref().unwrap_or(&self.config.update.source);
        *going = Some(Going {
            what: match ask.verb {
                Verb::Rollback => "rollback".into(),
                verb => format!("{} from {source:?}", verb.as_str()),
            },
            ask: ask.clone(),
            since: self.clock.now(),
            done: done.clone(),
        });
        let this = self.clone();
        tokio::spawn(async move {
            let done = this.carry_out(ask, trigger, nominal).await;
            let switched = done
                .as_ref()
                .is_ok_and(|report| matches!(report.outcome, Outcome::Trial | Outcome::RolledBack));
            // Nobody may wait any more.
            let _ = tell.send(Some(done));
            if switched {
                this.relaunch();
            }
        });
        Ok(done)
    }

    async fn carry_out(
        &self,
        ask: Ask,
        trigger: &'static str,
        nominal: Option<TimestampMs>,
    ) -> Done {
        let (mode, manual) = (ask.verb.as_str(), trigger == MANUAL);
        let asked = ask.clone();
        let admitted = self.with_updater(move |updater| updater.admit(&asked));
        let admitted = admitted.await;
        // Whoever asked for the wrong thing is told so, and the history is not.
        if let Err(error) = &admitted
            && manual
            && error.is_misuse()
        {
            return Err(error.clone());
        }
        let run = NewRun {
            kind: "update",
            mode: mode.into(),
            trigger,
            nominal,
            started: self.clock.now(),
        };
        let run_id = (self.store.start_run(run).await).map_err(|e| Arc::new(e.into()))?;
        let trusted_now = self.trusted_now();
        let done = match admitted {
            Ok(()) => {
                self.with_updater(move |updater| updater.perform(&ask, trusted_now))
                    .await
            }
            Err(error) => Err(error),
        };
        let (outcome, text) = match &done {
            Ok(report) => (run_outcome(report.outcome), report.text.clone()),
            // No stick, or an end that is nobody's failure: the next look is as good.
            Err(error) if matches!(**error, UpdateError::NoSource(_) | UpdateError::Stopped) => {
                (RunOutcome::Skipped, chain(error))
            }
            Err(error) => (RunOutcome::Failed, chain(error)),
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
        let refused = match &done {
            Ok(report) => report.outcome == Outcome::Refused,
            // A station that is to update itself never would.
            Err(error) => error.is_misuse() && !matches!(**error, UpdateError::NoSource(_)),
        };
        if refused {
            self.note_once("update_refused", text).await;
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
    ) -> Result<T, Arc<UpdateError>> {
        let (config, launch) = (self.config.clone(), self.launch.clone());
        let stop = self.shutdown.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut updater = Updater::new(
                &config,
                launch.config_path.as_deref(),
                launch.launched.as_ref(),
            )?;
            updater.terms.stop = stop;
            work(&updater)
        });
        task.await
            .unwrap_or(Err(UpdateError::Broke))
            .map_err(Arc::new)
    }

    /// Ends the daemon in order, which sends the last answers; the launcher takes its place.
    fn relaunch(&self) {
        if self.launch.launched.is_none() {
            tracing::warn!(
                "not started by `nightwatt launch`: it takes effect with the next launch"
            );
            return;
        }
        self.launch.again.store(true, Ordering::SeqCst);
        self.shutdown.begin();
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
            self.note_once("update_rolled_back", said).await;
        }
        let found = self.with_updater(move |updater| {
            let layout = &updater.layout;
            let cut_off = layout
                .trial()
                .is_some_and(|t| layout.linked("current") == Some(t.sequence));
            if let Err(error) = layout.tidy() {
                tracing::warn!("half a version is left: {}", chain(&error));
            }
            let committed = match cut_off {
                true => {
                    let _lock = layout.lock()?;
                    Some(layout.commit(&updater.keys))
                }
                false => None,
            };
            let unnoted = layout.rejected().into_iter().filter(|r| !r.noted);
            Ok((committed, unnoted.collect::<Vec<_>>()))
        });
        let (committed, rejections) = match found.await {
            Ok(found) => found,
            Err(error) => {
                let why = chain(&error);
                return tracing::warn!("the state of updates could not be looked at: {why}");
            }
        };
        let told = match committed {
            None => false,
            Some(Ok(m)) => {
                self.note_once("update_committed", trial::committed(&m))
                    .await
            }
            Some(Err(error)) => {
                let why = chain(&error);
                tracing::warn!("a commit that was cut off cannot be completed: {why}");
                // It was passed over, which is told above: the record means nothing.
                matches!(error, UpdateError::Damaged(_))
            }
        };
        if told {
            self.settle().await;
        }
        for r in &rejections {
            let named = format!("{} (sequence {}) was", r.version, r.sequence);
            let (kind, text) = match r.why.as_str() {
                // Nobody is to be told what they did themselves.
                BY_HAND => ("update_taken_back", format!("{named} {BY_HAND}")),
                why => ("update_rolled_back", format!("{named} taken back: {why}")),
            };
            self.note(kind, text).await;
        }
        if rejections.is_empty() {
            return;
        }
        let noted = self.with_updater(move |updater| {
            let _lock = updater.layout.lock()?;
            updater.layout.noted(&rejections)
        });
        if let Err(error) = noted.await {
            tracing::warn!("an event may come twice: {}", chain(&error));
        }
    }

    /// Notes an event, unless the newest of its kind says the same; whether it is in the table now.
    async fn note_once(&self, kind: &'static str, detail: String) -> bool {
        let known = Reader::open(&self.config.store.path).and_then(|r| r.events_of(kind, 1));
        known.is_ok_and(|events| events.iter().any(|e| e.detail == detail))
            || self.note(kind, detail).await
    }

    /// Notes an event; whether it is in the table now.
    async fn note(&self, kind: &'static str, detail: String) -> bool {
        let noted = self.store.note_event(self.clock.now(), kind, detail).await;
        if let Err(error) = &noted {
            tracing::warn!(kind, "an event was not noted: {}", chain(error));
        }
        noted.is_ok()
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
