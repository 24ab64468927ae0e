//! The composition root: opens everything, starts it, waits, and stops it in the order that loses nothing.

mod alerts;
pub mod forecasts;
mod home_assistant;
mod housekeeping;
mod nights;
pub mod reload;
mod station;
pub mod updates;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::alerts::deliver::{Channel, DeliverError};
use crate::clock::{self, Clock};
use crate::config::Config;
use crate::http::Station;
use crate::http::serve::{ServeError, Server};
use crate::mqtt::admission::Admission;
use crate::mqtt::intake::{Acknowledger, Announced, Intake, IntakeShared, kept_subscriptions};
use crate::mqtt::link::{LinkError, LinkOptions, LinkSender, RECEIVE_MAXIMUM};
use crate::mqtt::payload;
use crate::mqtt::publish::Publisher;
use crate::reading::TimestampMs;
use crate::shutdown::Shutdown;
use crate::store::recover::{self, Found};
use crate::store::space::{self, Reserve};
use crate::store::{Reader, Store, StoreError, StoreLock, Writer, WriterGauges};
use alerts::Alerts;
use forecasts::Forecasts;
use home_assistant::HomeAssistant;
use housekeeping::{Disk, Housekeeping};
use nights::{Kept, Nights, Wiring};
use reload::Refusal;
use station::RunningStation;
use updates::{Launch, Updates};

/// Readings that may wait for the forecaster.
const STORED_QUEUE: usize = 4096;
/// Alerts that wait to be told while nothing can be stored.
const UNSTORED_ALERTS: usize = 64;
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

    /// [`Daemon::start`], counting on from `tally`.
    pub async fn go_on(
        config: Config,
        around: Surroundings,
        tally: &Tally,
    ) -> Result<Self, DaemonError> {
        let config = Arc::new(config);
        let lock = Arc::new(StoreLock::acquire(&config.store.path)?);
        let found = ensure_sound(&config, &lock, around.clock.now()).await?;
        let credentials = around.credentials.as_deref();
        let prefix = config.mqtt.topic_prefix.as_str();
        let shared = Arc::new(IntakeShared::going_on_from(&tally.shared));
        let gauges = WriterGauges::going_on_from(&tally.gauges);
        let doubtful_before = gauges.doubtful.load(Ordering::Relaxed);

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
        let opening = config.clone();
        let opened = tokio::task::spawn_blocking(move || {
            // Replaying the log and migrating may take long: meanwhile systemd hears that it goes on.
            let (path, linger) = (&opening.store.path, opening.linger());
            Writer::go_on(
                path,
                linger,
                usize::from(RECEIVE_MAXIMUM),
                gauges,
                acknowledger,
            )
        });
        let store = match opened.await {
            Ok(opened) => opened,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
        .or_else(|error| {
            if error.is_damage() {
                lock.mark_damaged()?;
            }
            Err(error)
        })?;
        lock.mark_running()?;
        announce(&found);
        let interrupted = store.close_interrupted_runs(around.clock.now()).await?;
        if interrupted > 0 {
            tracing::warn!(
                interrupted,
                "a run was cut short when the station last stopped"
            );
        }
        let reader = Reader::open(&config.store.path)?;
        let oldest = reader.totals()?.oldest;
        let kept = Kept::load(&reader)?;
        let watched = clock::watch(around.clock, kept.seen);
        let clock: Arc<dyn Clock> = watched.clone();

        let publish_options = LinkOptions::new(&config.mqtt, "-out", credentials)?;
        let (publisher, publish_loop) = Publisher::new(&publish_options, prefix);
        let channels = Channel::configured(&config.alerts, credentials)?;
        let hint = Arc::new(Notify::new());
        let intake = Intake {
            announced: config.update.enabled.then(|| Announced {
                topic: format!("{prefix}/update/announce"),
                hint: hint.clone(),
            }),
            link,
            sender: intake_sender.clone(),
            reader: payload::Reader::new(&config.mqtt.topics, config.mqtt.max_age_days)?
                .without(&config.mqtt.topic_prefix)
                .without(&format!(
                    "{}/device",
                    config.home_assistant.discovery_prefix
                )),
            admission: Admission::new(
                reader.devices()?.into_iter().map(|(_, device)| device),
                config.store.max_devices,
                config.store.new_devices_per_min,
            ),
            store: store.clone(),
            publisher: publisher.clone(),
            shared: shared.clone(),
            clock: clock.clone(),
            expects_session: oldest.is_some(),
            subscribed: false,
            formerly: kept_subscriptions(&reader)?,
            started: Instant::now(),
            waiting: None,
        };
        let server = Server::bind(&config.http, credentials).await?;
        let closing = Shutdown::new();

        let (swaps_tx, swaps) = flume::bounded(4);
        let forecasts = Forecasts {
            config: config.clone(),
            store: store.clone(),
            publisher: publisher.clone(),
            clock,
            stored,
            missed,
            swaps,
        };
        let promotions = swaps_tx.clone();
        let (requests, queued) = flume::bounded(1);
        let broken = Arc::new(AtomicBool::new(false));
        let nights = Nights::new(Wiring {
            config: config.clone(),
            store: store.clone(),
            clock: watched.clone(),
            kept,
            shutdown: around.shutdown.clone(),
            program: around.program.clone(),
            queued,
            requests: requests.clone(),
            swaps: swaps_tx,
            broken: broken.clone(),
        });
        let disk = Arc::<Disk>::default();
        let housekeeping = Housekeeping {
            config: config.clone(),
            store: store.clone(),
            clock: watched.clone(),
            shutdown: around.shutdown.clone(),
            lock: lock.clone(),
            training: nights.running(),
            disk: disk.clone(),
        };
        let updates = Updates {
            config: config.clone(),
            store: store.clone(),
            clock: watched.clone(),
            shutdown: around.shutdown.clone(),
            launch: around.launch,
            training: nights.running(),
            hint,
            broken: broken.clone(),
            going: Arc::default(),
        };
        let station = Arc::new(RunningStation {
            updates: updates.clone(),
            disk,
            config: config.clone(),
            clock: watched,
            started: tally.started,
            doubtful_before,
            store: store.clone(),
            shared: shared.clone(),
            requests,
            training: nights.running(),
            refusal: around.refusal,
            swaps: promotions,
        });
        let (unstored, to_tell) = flume::bounded(UNSTORED_ALERTS);
        let alerts = Alerts {
            config: config.clone(),
            store: store.clone(),
            clock: station.clock.clone(),
            publisher: publisher.clone(),
            station: station.clone(),
            channels,
            unstored,
            to_tell,
            queued: Notify::new(),
        };
        let home_assistant = HomeAssistant {
            config: config.clone(),
            store: store.clone(),
            clock: station.clock.clone(),
            options: LinkOptions::new(&config.mqtt, "-ha", credentials)?,
            station: station.clone(),
        };
        let daemon = Self {
            home_assistant: tokio::spawn(home_assistant.run(around.shutdown.clone())),
            alerting: tokio::spawn(alerts.run(around.shutdown.clone())),
            intake: tokio::spawn(intake.run()),
            publishing: tokio::spawn(publish_loop.run()),
            serving: tokio::spawn(server.run(station.clone(), closing.clone())),
            closing,
            forecasting: tokio::spawn(forecasts.run(around.shutdown.clone())),
            training: tokio::spawn(nights.run()),
            housekeeping: tokio::spawn(housekeeping.run()),
            updating: tokio::spawn(updates.run()),
            config,
            shutdown: around.shutdown,
            store,
            shared,
            intake_sender,
            publisher,
            station,
            lock,
            broken,
        };
        tracing::info!(
            store = %daemon.config.store.path.display(),
            socket = %daemon.config.http.socket.display(),
            listen = daemon.config.http.listen.map(tracing::field::display),
            broker = daemon.config.mqtt.url,
            "started"
        );
        Ok(daemon)
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

/// [`recover::ensure_sound`] on a thread of its own: the check reads the whole file, and meanwhile
/// systemd has to hear that the start goes on.
async fn ensure_sound(
    config: &Arc<Config>,
    lock: &Arc<StoreLock>,
    now: TimestampMs,
) -> Result<Found, DaemonError> {
    let (config, lock) = (config.clone(), lock.clone());
    let check = move || {
        let db = &config.store.path;
        let reserve = Reserve::beside(db, config.reserve_bytes());
        let marks = reserve.marks(config.low_disk_bytes());
        if space::free_bytes(db.parent().unwrap_or(db)).is_some_and(|f| f < marks.full_bytes) {
            // Opening needs a log and its index: on a full disk only the reserve has room for them.
            reserve.release()?;
        }
        recover::ensure_sound(db, &lock, now)
    };
    match tokio::task::spawn_blocking(check).await {
        Ok(found) => Ok(found?),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn announce(found: &Found) {
    match found {
        Found::Clean => {}
        Found::Sound(ms) => {
            tracing::info!(ms, "not stopped in order last time; the database is sound")
        }
        Found::Replaced(said) => tracing::error!("{said}"),
    }
}
