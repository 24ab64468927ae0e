//! The start: the store sound and open, the socket and the connections, every task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

use super::alerts::Alerts;
use super::forecasts::Forecasts;
use super::home_assistant::HomeAssistant;
use super::housekeeping::{Disk, Housekeeping};
use super::nights::{Kept, Nights, Wiring};
use super::station::RunningStation;
use super::updates::Updates;
use super::{Daemon, DaemonError, Surroundings, Tally};
use crate::alerts::deliver::Channel;
use crate::clock::{self, Clock};
use crate::config::Config;
use crate::http::serve::Server;
use crate::mqtt::admission::Admission;
use crate::mqtt::intake::{
    Acknowledger, Announced, Intake, IntakeShared, kept_session_of, kept_subscriptions,
};
use crate::mqtt::link::{LinkOptions, RECEIVE_MAXIMUM};
use crate::mqtt::payload;
use crate::mqtt::publish::Publisher;
use crate::reading::TimestampMs;
use crate::shutdown::Shutdown;
use crate::store::recover::{self, Found};
use crate::store::space::{self, Reserve};
use crate::store::{Reader, StoreLock, Writer, WriterGauges};

/// Readings that may wait for the forecaster.
const STORED_QUEUE: usize = 4096;
/// Alerts that wait to be told while nothing can be stored.
const UNSTORED_ALERTS: usize = 64;

impl Daemon {
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
            client_id: config.mqtt.client_id.clone(),
            session_of: kept_session_of(&reader)?,
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
            tracing::info!(
                ms,
                "not stopped in order last time, or changed since; the database is sound"
            )
        }
        Found::Replaced(said) => tracing::error!("{said}"),
    }
}
