//! The task that trains: on schedule, on request, never two at once, one request queued at most.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::clock::{Clock, WatchedClock};
use crate::config::Config;
use crate::errors::chain;
use crate::reading::TimestampMs;
use crate::schedule::{Log, Moment, Policy, Step, Ticker, Tried, decide};
use crate::shutdown::Shutdown;
use crate::store::{Reader, RunOutcome, Store, StoreError};
use crate::trainer::{Request, Station};

const HOUR_MS: i64 = 3_600_000;
/// Where the store keeps [`Kept`].
const KEY: &str = "night_clock";

/// What the clocks must remember over a restart.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The latest time that was believed.
    pub(super) seen: Option<TimestampMs>,
    /// Running time since the last run began, ms.
    rested_ms: i64,
}

impl Kept {
    /// What the last start left; an unreadable value is none.
    pub(super) fn load(reader: &Reader) -> Result<Self, StoreError> {
        let text = reader.kept(KEY)?.unwrap_or_default();
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }
}

/// What the tasks of this file share.
#[derive(Clone)]
struct Shared {
    station: Station,
    clock: Arc<WatchedClock>,
    requests: flume::Sender<Request>,
    running: Arc<AtomicBool>,
    /// When the last run began, on the running clock, as if there had been no restart.
    rest_began_ms: Arc<AtomicI64>,
}

/// Holds the running state of the training task.
pub(super) struct Nights {
    shared: Shared,
    shutdown: Shutdown,
    queued: flume::Receiver<Request>,
    swaps: flume::Sender<i64>,
    broken: Arc<AtomicBool>,
}

/// What the composition root hands over.
pub(super) struct Wiring {
    pub(super) config: Arc<Config>,
    pub(super) store: Store,
    pub(super) clock: Arc<WatchedClock>,
    pub(super) kept: Kept,
    pub(super) shutdown: Shutdown,
    pub(super) program: PathBuf,
    pub(super) queued: flume::Receiver<Request>,
    pub(super) requests: flume::Sender<Request>,
    pub(super) swaps: flume::Sender<i64>,
    /// Set where a part ended by itself, which takes the daemon with it.
    pub(super) broken: Arc<AtomicBool>,
}

impl Nights {
    pub(super) fn new(wiring: Wiring) -> Self {
        let rest_began_ms = wiring.clock.running_ms() - wiring.kept.rested_ms;
        let shared = Shared {
            station: Station {
                config: wiring.config,
                store: wiring.store,
                clock: wiring.clock.clone(),
                program: wiring.program,
            },
            clock: wiring.clock,
            requests: wiring.requests,
            running: Arc::default(),
            rest_began_ms: Arc::new(rest_began_ms.into()),
        };
        Self {
            shared,
            shutdown: wiring.shutdown,
            queued: wiring.queued,
            swaps: wiring.swaps,
            broken: wiring.broken,
        }
    }

    /// True while a run is going on.
    pub(super) fn running(&self) -> Arc<AtomicBool> {
        self.shared.running.clone()
    }

    /// Trains whenever it is asked to, until the shutdown.
    pub(super) async fn run(self) {
        let shared = &self.shared;
        let mut night_clock = NightClock::new(shared.clone());
        let ticking = tick(shared.clock.clone(), move |jump| night_clock.look(jump));
        let ticking = supervise(ticking, self.shutdown.clone(), self.broken.clone());
        loop {
            let request = tokio::select! {
                () = self.shutdown.begun() => break,
                request = self.queued.recv_async() => match request {
                    Ok(request) => request,
                    Err(_) => break,
                },
            };
            shared.running.store(true, Ordering::Relaxed);
            let rest_began_ms = shared.clock.running_ms();
            shared.rest_began_ms.store(rest_began_ms, Ordering::Relaxed);
            let over = || shared.running.store(false, Ordering::Relaxed);
            let end = request
                .carry_out(&shared.station, self.shutdown.begun(), over)
                .await;
            match end {
                Ok(end) => {
                    let (run, outcome) = (end.run_id, end.outcome.as_str());
                    if end.outcome == RunOutcome::Failed {
                        tracing::error!(run, outcome, "{}", end.reason);
                    } else {
                        tracing::info!(run, outcome, "{}", end.reason);
                    }
                    if let Some(version) = end.promoted {
                        // The forecaster fetches it; a full queue means it is about to fetch anyway.
                        let _ = self.swaps.try_send(version);
                    }
                }
                Err(error) => {
                    tracing::error!("the night could not be logged: {}", chain(&error));
                    // Its row stays open, and would for ever.
                    let now = shared.clock.now();
                    if let Err(error) = shared.station.store.close_interrupted_runs(now).await {
                        tracing::error!("nor could it be closed: {}", chain(&error));
                    }
                }
            }
        }
        ticking.abort();
    }
}

/// The nominal moment after which the next occurrence counts: that of the last run of this kind, else the first
/// reading, else now.
pub(super) fn since(
    reader: &Reader,
    kind: &str,
    now: TimestampMs,
) -> Result<TimestampMs, StoreError> {
    Ok(match reader.last_nominal(kind)? {
        Some(last) => last,
        None => reader.totals()?.oldest.unwrap_or(now),
    })
}

/// Calls `look` at once, then each minute, and whenever the clock was set; with by how much it was.
async fn tick(clock: Arc<WatchedClock>, look: impl FnMut(Option<i64>) + Send + 'static) {
    let look = Arc::new(std::sync::Mutex::new(look));
    let call = move |jump| {
        let mut look = look
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        look(jump);
    };
    call(None);
    let minute = call.clone();
    let mut ticker = Ticker::every_minute(move || minute(None));
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        second.tick().await;
        if let Some(jump) = clock.look() {
            call(Some(jump));
        }
        ticker.run_pending();
    }
}

/// Runs `task`, which has no end; if it ends all the same, by a panic, so does the daemon, and whoever
/// started it starts it again.
fn supervise(
    task: impl Future<Output = ()> + Send + 'static,
    shutdown: Shutdown,
    broken: Arc<AtomicBool>,
) -> JoinHandle<()> {
    let task = AbortOnDrop(tokio::spawn(task));
    tokio::spawn(async move {
        let mut task = task;
        let end = (&mut task.0).await;
        if !shutdown.has_begun() {
            tracing::error!(
                ?end,
                "the schedule's tick ended; the daemon ends to be started again"
            );
            broken.store(true, Ordering::SeqCst);
            shutdown.begin();
        }
    })
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What looks at the run log and the clocks and asks for nights.
struct NightClock {
    shared: Shared,
    policy: Policy,
    kept_ms: Option<i64>,
    given_up: Option<TimestampMs>,
}

impl NightClock {
    fn new(shared: Shared) -> Self {
        Self {
            policy: policy(&shared.station.config),
            shared,
            kept_ms: None,
            given_up: None,
        }
    }

    fn look(&mut self, jump: Option<i64>) {
        if let Some(ms) = jump {
            let seconds = ms as f64 / 1000.0;
            self.note("clock_set", format!("the clock was set by {seconds:+.1} s"));
        }
        self.keep();
        if let Err(error) = self.step() {
            tracing::warn!("the schedule could not be looked at: {}", chain(&error));
        }
    }

    /// Asks for the night that is due, if one is.
    fn step(&mut self) -> Result<(), StoreError> {
        let shared = &self.shared;
        let training = &shared.station.config.training;
        let busy = shared.running.load(Ordering::Relaxed) || shared.requests.is_full();
        if !training.enabled || busy {
            return Ok(());
        }
        let at = Moment {
            now: shared.clock.now(),
            trusted: shared.clock.trusted(),
            calm_ms: shared.clock.calm_ms(),
            rested_ms: self.rested_ms(),
        };
        let log = log(&Reader::open(&shared.station.config.store.path)?, at.now)?;
        match decide(&self.policy, &log, at) {
            Step::Wait => {}
            Step::Run(night) => {
                // Full means that one is queued, which will do.
                let _ = shared.requests.try_send(Request::scheduled(night));
            }
            Step::Forget(limit) => {
                let what = "nights logged for a time far ahead are taken back".to_owned();
                self.note("clock_wrong", what);
                let store = shared.station.store.clone();
                self.later("the run log was not corrected", async move {
                    store.forget_nominals_after(limit).await.map(drop)
                });
            }
            Step::GivenUp(nominal) => {
                if self.given_up.replace(nominal) != Some(nominal) {
                    tracing::warn!(
                        %nominal,
                        "this night ended the station more than once and is not begun again"
                    );
                }
            }
        }
        Ok(())
    }

    fn rested_ms(&self) -> i64 {
        self.shared.clock.running_ms() - self.shared.rest_began_ms.load(Ordering::Relaxed)
    }

    /// Keeps what a restart must not forget, once an hour.
    fn keep(&mut self) {
        let running_ms = self.shared.clock.running_ms();
        if self.kept_ms.is_some_and(|kept| running_ms - kept < HOUR_MS) {
            return;
        }
        self.kept_ms = Some(running_ms);
        let kept = Kept {
            seen: self.shared.clock.seen(),
            rested_ms: self.rested_ms(),
        };
        let Ok(text) = serde_json::to_string(&kept) else {
            return;
        };
        let store = self.shared.station.store.clone();
        self.later("the time was not kept", async move {
            store.keep(KEY, text).await
        });
    }

    fn note(&self, kind: &'static str, detail: String) {
        tracing::warn!("{detail}");
        let (store, now) = (self.shared.station.store.clone(), self.shared.clock.now());
        self.later("the event was not noted", async move {
            store.note_event(now, kind, detail).await
        });
    }

    /// The store answers when it can; the tick does not wait for it.
    fn later(
        &self,
        failed: &'static str,
        work: impl Future<Output = Result<(), StoreError>> + Send + 'static,
    ) {
        tokio::spawn(async move {
            if let Err(error) = work.await {
                tracing::warn!("{failed}: {}", chain(&error));
            }
        });
    }
}

fn policy(config: &Config) -> Policy {
    let training = &config.training;
    Policy {
        schedule: training.schedule.clone(),
        full_schedule: training.full_schedule.clone(),
        zone: config.site.zone(),
        catch_up: training.catch_up,
        settle_ms: i64::from(training.catch_up_delay_min) * 60_000,
    }
}

/// What the decision needs of the run log.
fn log(reader: &Reader, now: TimestampMs) -> Result<Log, StoreError> {
    let last = match reader.last_nominal("training")? {
        None => None,
        Some(nominal) => {
            let tries = reader.tries(nominal)?;
            Some(Tried {
                nominal,
                finished: tries.finished > 0,
                failed: tries.transient,
                cut_short: tries.cut_short,
            })
        }
    };
    Ok(Log {
        oldest_reading: reader.totals()?.oldest,
        last,
        learned: reader.last_learned(now)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{SystemClock, watch};

    #[tokio::test]
    async fn a_tick_that_panics_ends_the_daemon_so_that_it_is_started_again() {
        let clock = watch(Arc::new(SystemClock), None);
        let (shutdown, broken) = (Shutdown::new(), Arc::new(AtomicBool::new(false)));
        let ticking = tick(clock, |_| panic!("a bug in the schedule"));
        supervise(ticking, shutdown.clone(), broken.clone());
        shutdown.begun().await;
        assert!(broken.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_tick_that_is_stopped_with_the_daemon_is_no_fault() {
        let clock = watch(Arc::new(SystemClock), None);
        let (shutdown, broken) = (Shutdown::new(), Arc::new(AtomicBool::new(false)));
        let supervisor = supervise(tick(clock, |_| ()), shutdown.clone(), broken.clone());
        shutdown.begin();
        supervisor.abort();
        assert!(supervisor.await.unwrap_err().is_cancelled());
        assert!(!broken.load(Ordering::SeqCst));
    }
}
