//! The composition root: opens everything, starts it, waits, and stops it in the order that loses nothing.

mod alerts;
pub mod forecasts;
mod home_assistant;
mod housekeeping;
mod nights;
pub mod reload;
mod start;
mod station;
pub mod updates;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::alerts::deliver::DeliverError;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::Station;
use crate::http::serve::ServeError;
use crate::mqtt::intake::IntakeShared;
use crate::mqtt::link::{LinkError, LinkSender};
use crate::mqtt::payload;
use crate::mqtt::publish::Publisher;
use crate::shutdown::Shutdown;
use crate::store::{Store, StoreError, StoreLock, WriterGauges};
use reload::Refusal;
use station::RunningStation;
use updates::Launch;

/// Limits of the steps of an orderly end; their sum is far below systemd's 30 s.
const COMMIT_LIMIT: Duration = Duration::from_secs(3);
const TRAINER_LIMIT: Duration = Duration::from_secs(1);
const GOODBYE_LIMIT: Duration = Duration::from_millis(500);

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The broker's address, password or certificates.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A channel for alerts: its secret or certificate.
    #[error(transparent)]
    Alerts(#[from] DeliverError),
    /// The topic rules.
    #[error(transparent)]
    Rules(#[from] payload::RuleError),
    /// The socket, or the port.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// What the end reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Messages received.
    pub received: u64,
    /// Messages committed.
    pub committed: u64,
    /// Rows that were new.
    pub rows: u64,
    /// The database was found damaged; the next start sees to it.
    pub damaged: bool,
    /// A part of the daemon ended by itself; it wants to be started again.
    pub broken: bool,
}

/// What the daemon takes from its surroundings.
#[derive(Clone)]
pub struct Surroundings {
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// When to stop.
    pub shutdown: Shutdown,
    /// systemd's folder of credentials.
    pub credentials: Option<PathBuf>,
    /// The program to start trainers from: this one.
    pub program: PathBuf,
    /// Whether the configuration on the disk was refused.
    pub refusal: Refusal,
    /// How this version came to run.
    pub launch: Launch,
}

/// What is counted since the process started, over every reload.
#[derive(Clone)]
pub struct Tally {
    started: Instant,
    shared: Arc<IntakeShared>,
    gauges: Arc<WriterGauges>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            shared: Arc::default(),
            gauges: Arc::default(),
        }
    }
}

/// A started daemon.
pub struct Daemon {
    config: Arc<Config>,
    shutdown: Shutdown,
    store: Store,
    shared: Arc<IntakeShared>,
    intake_sender: LinkSender,
    publisher: Publisher,
    intake: JoinHandle<()>,
    publishing: JoinHandle<()>,
    serving: JoinHandle<()>,
    closing: Shutdown,
    forecasting: JoinHandle<()>,
    training: JoinHandle<()>,
    housekeeping: JoinHandle<()>,
    alerting: JoinHandle<()>,
    home_assistant: JoinHandle<()>,
    updating: JoinHandle<()>,
    station: Arc<RunningStation>,
    lock: Arc<StoreLock>,
    broken: Arc<AtomicBool>,
}

impl Daemon {
    /// Opens the store, the socket and the connections, and starts every task.
    pub async fn start(config: Config, around: Surroundings) -> Result<Self, DaemonError> {
        Self::go_on(config, around, &Tally::default()).await
    }

    /// What has been counted, for a start that goes on in this process.
    pub fn tally(&self) -> Tally {
        Tally {
            started: self.station.started,
            shared: self.shared.clone(),
            gauges: self.store.gauges().clone(),
        }
    }

    /// What the socket answers, for an owner in the same process.
    pub fn station(&self) -> Arc<dyn Station> {
        self.station.clone()
    }

    /// Calls `alive` twice in each `limit` for as long as the parts that must move do: this thread
    /// (which calls), the writer (which is nudged and has to turn), and the intake's loop (whose waits
    /// end by the keep-alive; what is left is that its task ended), and the nights. Never returns.
    pub async fn watch(&self, limit: Duration, alive: impl Fn()) {
        let mut turns = u64::MAX;
        let mut beat = tokio::time::interval(limit / 2);
        loop {
            beat.tick().await;
            let now = self.store.gauges().turns.load(Ordering::Relaxed);
            if now != turns && !self.intake.is_finished() && !self.training.is_finished() {
                alive();
            } else {
                tracing::error!("the writer, the intake or the nights stand still");
            }
            turns = now;
            self.store.nudge();
        }
    }

    /// True while a training run is going on.
    pub fn is_training(&self) -> bool {
        self.station.training.load(Ordering::Relaxed)
    }

    /// Notes an event, without waiting for a writer that may be held up.
    pub fn note(&self, kind: &'static str, detail: String) {
        let (store, now) = (self.store.clone(), self.station.clock.now());
        tokio::spawn(async move {
            if let Err(error) = store.note_event(now, kind, detail).await {
                tracing::warn!(
                    kind,
                    "an event was not noted: {}",
                    crate::errors::chain(&error)
                );
            }
        });
    }

    /// Waits for the shutdown, calls `announce`, and then stops everything in order.
    pub async fn finish(self, announce: impl FnOnce()) -> Counts {
        self.shutdown.begun().await;
        announce();
        let began = Instant::now();
        // Nothing new; what is queued is committed and acknowledged before anything closes.
        self.shared.stop_taking();
        within(TRAINER_LIMIT, "the training run", self.training).await;
        within(TRAINER_LIMIT, "the forecaster", self.forecasting).await;
        within(TRAINER_LIMIT, "housekeeping", self.housekeeping).await;
        within(TRAINER_LIMIT, "the alerts", self.alerting).await;
        within(TRAINER_LIMIT, "the look for updates", self.updating).await;
        let closed = within(COMMIT_LIMIT, "the last commit", self.store.stop()).await;
        if closed == Some(true)
            && let Err(error) = self.lock.mark_clean(&self.config.store.path)
        {
            tracing::warn!(
                "the next start will check the database: {}",
                crate::errors::chain(&error)
            );
        }
        self.publisher.availability("offline");
        within(GOODBYE_LIMIT, "the last publishes", self.publisher.finish()).await;
        self.intake_sender.disconnect();
        within(GOODBYE_LIMIT, "the broker's goodbye", self.intake).await;
        within(GOODBYE_LIMIT, "the publisher's goodbye", self.publishing).await;
        within(GOODBYE_LIMIT, "Home Assistant", self.home_assistant).await;
        self.closing.begin();
        let serving = self.serving.abort_handle();
        within(GOODBYE_LIMIT, "the last answers", self.serving).await;
        serving.abort();
        // Left behind it would only be replaced; removed it says plainly that nobody listens.
        let _ = std::fs::remove_file(&self.config.http.socket);
        let gauges = self.store.gauges();
        let counts = Counts {
            received: self.shared.received.load(Ordering::SeqCst),
            committed: gauges.messages.load(Ordering::SeqCst),
            rows: gauges.rows.load(Ordering::SeqCst),
            damaged: gauges.damaged.load(Ordering::SeqCst),
            broken: self.broken.load(Ordering::SeqCst),
        };
        tracing::info!(
            received = counts.received,
            committed = counts.committed,
            rows = counts.rows,
            uncommitted = counts.received.saturating_sub(counts.committed),
            ms = began.elapsed().as_millis() as u64,
            "stopped"
        );
        counts
    }
}

async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> Option<T> {
    let done = tokio::time::timeout(limit, work).await.ok();
    if done.is_none() {
        tracing::warn!(
            limit_ms = limit.as_millis() as u64,
            "{what} did not end in time"
        );
    }
    done
}
