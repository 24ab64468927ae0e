//! The composition root: opens everything, starts it, waits, and stops it in the order that loses nothing.

pub mod forecasts;
mod nights;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::clock::{self, Clock};
use crate::config::Config;
use crate::http::server::{self, Station};
use crate::mqtt::intake::{Acknowledger, Intake, IntakeShared};
use crate::mqtt::link::{LinkError, LinkOptions, LinkSender, RECEIVE_MAXIMUM};
use crate::mqtt::payload;
use crate::mqtt::publish::Publisher;
use crate::schedule;
use crate::shutdown::Shutdown;
use crate::status::{self, DaemonStatus, Status};
use crate::store::{Reader, Store, StoreError, StoreLock, Writer};
use crate::trainer::Trigger;
use forecasts::Forecasts;
use nights::Nights;

/// Readings that may wait for the forecaster.
const STORED_QUEUE: usize = 4096;
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
    /// The socket.
    #[error("cannot listen on {}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
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
}

/// What the daemon takes from its surroundings.
pub struct Surroundings {
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// When to stop.
    pub shutdown: Shutdown,
    /// systemd's folder of credentials.
    pub credentials: Option<PathBuf>,
    /// The program to start trainers from: this one.
    pub program: PathBuf,
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
    serving: JoinHandle<std::io::Result<()>>,
    forecasting: JoinHandle<()>,
    training: JoinHandle<()>,
    station: Arc<RunningStation>,
    _lock: StoreLock,
}

impl Daemon {
    /// Opens the store, the socket and the connections, and starts every task.
    pub async fn start(config: Config, around: Surroundings) -> Result<Self, DaemonError> {
        let config = Arc::new(config);
        let lock = StoreLock::acquire(&config.store.path)?;
        let credentials = around.credentials.as_deref();
        let prefix = config.mqtt.topic_prefix.as_str();
        let shared = Arc::new(IntakeShared::default());

        let options = LinkOptions::new(&config.mqtt, "", credentials)?;
        let (intake_sender, link) =
            Intake::options(options, Publisher::availability_topic(prefix)).open();
        let (stored_tx, stored) = flume::bounded(STORED_QUEUE);
        let missed = Arc::new(AtomicBool::new(false));
        let acknowledger = Acknowledger::new(
            shared.clone(),
            intake_sender.clone(),
            stored_tx,
            missed.clone(),
        );
        let store = Writer::start(
            &config.store.path,
            config.linger(),
            usize::from(RECEIVE_MAXIMUM),
            acknowledger,
        )?;
        let interrupted = store.close_interrupted_runs(around.clock.now()).await?;
        if interrupted > 0 {
            tracing::warn!(
                interrupted,
                "a run was cut short when the station last stopped"
            );
        }
        let reader = Reader::open(&config.store.path)?;
        let oldest = reader.totals()?.oldest;

        let publish_options = LinkOptions::new(&config.mqtt, "-out", credentials)?;
        let (publisher, publish_loop) = Publisher::new(&publish_options, prefix);
        let intake = Intake {
            link,
            sender: intake_sender.clone(),
            reader: payload::Reader {
                rules: config.mqtt.topics.clone(),
                max_age_days: config.mqtt.max_age_days,
            },
            store: store.clone(),
            publisher: publisher.clone(),
            shared: shared.clone(),
            clock: around.clock.clone(),
            expects_session: oldest.is_some(),
            waiting: None,
        };
        let socket = &config.http.socket;
        let listener = server::bind(socket).map_err(|source| DaemonError::Socket {
            path: socket.clone(),
            source,
        })?;

        let (swaps_tx, swaps) = flume::bounded(4);
        let forecasts = Forecasts {
            config: config.clone(),
            store: store.clone(),
            publisher: publisher.clone(),
            clock: around.clock.clone(),
            stored,
            missed,
            swaps,
        };
        let (requests, queued) = flume::bounded(1);
        let nights = Nights::new(
            config.clone(),
            store.clone(),
            around.clock.clone(),
            around.shutdown.clone(),
            around.program.clone(),
            queued,
            requests.clone(),
            swaps_tx,
        );
        let station = Arc::new(RunningStation {
            config: config.clone(),
            clock: around.clock.clone(),
            started: Instant::now(),
            store: store.clone(),
            shared: shared.clone(),
            requests,
            training: nights.running(),
        });
        let daemon = Self {
            intake: tokio::spawn(intake.run()),
            publishing: tokio::spawn(publish_loop.run()),
            serving: tokio::spawn(server::serve(listener, station.clone())),
            forecasting: tokio::spawn(forecasts.run(around.shutdown.clone())),
            training: tokio::spawn(nights.run()),
            config,
            shutdown: around.shutdown,
            store,
            shared,
            intake_sender,
            publisher,
            station,
            _lock: lock,
        };
        tracing::info!(
            store = %daemon.config.store.path.display(),
            socket = %daemon.config.http.socket.display(),
            broker = daemon.config.mqtt.url,
            "started"
        );
        Ok(daemon)
    }

    /// What the socket answers, for an owner in the same process.
    pub fn station(&self) -> Arc<dyn Station> {
        self.station.clone()
    }

    /// Calls `alive` twice in each `limit` for as long as the parts that must move do: this thread
    /// (which calls), the writer (which is nudged and has to turn), and the intake's loop (whose waits
    /// end by the keep-alive; what is left is that its task ended). Never returns.
    pub async fn watch(&self, limit: Duration, alive: impl Fn()) {
        let mut turns = u64::MAX;
        let mut beat = tokio::time::interval(limit / 2);
        loop {
            beat.tick().await;
            let now = self.store.gauges().turns.load(Ordering::Relaxed);
            if now != turns && !self.intake.is_finished() {
                alive();
            } else {
                tracing::error!("the writer or the intake stands still");
            }
            turns = now;
            self.store.nudge();
        }
    }

    /// Waits for the shutdown.
    pub async fn until_shutdown(&self) {
        self.shutdown.begun().await;
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
        within(COMMIT_LIMIT, "the last commit", self.store.stop()).await;
        self.publisher.availability("offline");
        within(GOODBYE_LIMIT, "the last publishes", self.publisher.finish()).await;
        self.intake_sender.disconnect();
        within(GOODBYE_LIMIT, "the broker's goodbye", self.intake).await;
        within(GOODBYE_LIMIT, "the publisher's goodbye", self.publishing).await;
        self.serving.abort();
        // Left behind it would only be replaced; removed it says plainly that nobody listens.
        let _ = std::fs::remove_file(&self.config.http.socket);
        let gauges = self.store.gauges();
        let counts = Counts {
            received: self.shared.received.load(Ordering::SeqCst),
            committed: gauges.messages.load(Ordering::SeqCst),
            rows: gauges.rows.load(Ordering::SeqCst),
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

async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) {
    if tokio::time::timeout(limit, work).await.is_err() {
        tracing::warn!(
            limit_ms = limit.as_millis() as u64,
            "{what} did not end in time"
        );
    }
}

struct RunningStation {
    config: Arc<Config>,
    clock: Arc<dyn Clock>,
    started: Instant,
    store: Store,
    shared: Arc<IntakeShared>,
    requests: flume::Sender<Trigger>,
    training: Arc<AtomicBool>,
}

impl Station for RunningStation {
    fn status(&self) -> Result<Status, String> {
        let now = self.clock.now();
        let gauges = self.store.gauges();
        let training = &self.config.training;
        let next_night = training
            .enabled
            .then(|| {
                let reader = Reader::open(&self.config.store.path).ok()?;
                let since = nights::since(&reader, now).ok()?;
                schedule::next(&training.schedule, self.config.site.zone(), since, now)
            })
            .flatten();
        let daemon = DaemonStatus {
            started: now.plus_ms(-(self.started.elapsed().as_millis() as i64)),
            intake: self.shared.status(),
            broker: self.config.mqtt.url.clone(),
            received: self.shared.received.load(Ordering::Relaxed),
            committed: gauges.messages.load(Ordering::Relaxed),
            rows: gauges.rows.load(Ordering::Relaxed),
            duplicates: gauges.duplicates.load(Ordering::Relaxed),
            rejects: gauges.rejects.load(Ordering::Relaxed),
            doubtful_times: gauges.doubtful.load(Ordering::Relaxed),
            store_failing: gauges.failing.load(Ordering::Relaxed),
            training: self.training.load(Ordering::Relaxed),
            next_night,
        };
        status::gather(
            &self.config.store.path,
            Some(daemon),
            now,
            clock::plausible(now),
        )
        .map_err(|e| crate::errors::chain(&e))
    }

    fn retrain(&self) -> bool {
        self.requests.try_send(Trigger::Manual).is_ok()
    }
}
