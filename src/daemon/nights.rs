//! The task that trains: on schedule, on request, never two at once, one request queued at most.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::clock::{self, Clock};
use crate::config::Config;
use crate::reading::TimestampMs;
use crate::schedule::{self, Ticker};
use crate::shutdown::Shutdown;
use crate::store::{Reader, Store, StoreError};
use crate::trainer::{self, Station, Trigger};

/// Holds the running state of the training task.
pub(super) struct Nights {
    station: Station,
    shutdown: Shutdown,
    queued: flume::Receiver<Trigger>,
    requests: flume::Sender<Trigger>,
    swaps: flume::Sender<i64>,
    running: Arc<AtomicBool>,
}

impl Nights {
    #[allow(clippy::too_many_arguments)] // the composition root's wiring, in one place
    pub(super) fn new(
        config: Arc<Config>,
        store: Store,
        clock: Arc<dyn Clock>,
        shutdown: Shutdown,
        program: PathBuf,
        queued: flume::Receiver<Trigger>,
        requests: flume::Sender<Trigger>,
        swaps: flume::Sender<i64>,
    ) -> Self {
        let station = Station {
            config,
            store,
            clock,
            program,
        };
        Self {
            station,
            shutdown,
            queued,
            requests,
            swaps,
            running: Arc::default(),
        }
    }

    /// True while a run is going on.
    pub(super) fn running(&self) -> Arc<AtomicBool> {
        self.running.clone()
    }

    /// Trains whenever it is asked to, until the shutdown.
    pub(super) async fn run(self) {
        let ticking = tokio::spawn(tick(self.station.clone(), self.requests.clone()));
        loop {
            let trigger = tokio::select! {
                () = self.shutdown.begun() => break,
                request = self.queued.recv_async() => match request {
                    Ok(trigger) => trigger,
                    Err(_) => break,
                },
            };
            self.running.store(true, Ordering::Relaxed);
            let end = trainer::train(&self.station, trigger, self.shutdown.begun()).await;
            self.running.store(false, Ordering::Relaxed);
            match end {
                Ok(end) => {
                    tracing::info!(
                        run = end.run_id,
                        outcome = end.outcome.as_str(),
                        "{}",
                        end.reason
                    );
                    if let Some(version) = end.promoted {
                        // The forecaster fetches it; a full queue means it is about to fetch anyway.
                        let _ = self.swaps.try_send(version);
                    }
                }
                Err(error) => tracing::error!(
                    "the night could not be logged: {}",
                    crate::errors::chain(&error)
                ),
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

async fn tick(station: Station, requests: flume::Sender<Trigger>) {
    let look = move || {
        if let Err(error) = look(&station, &requests) {
            tracing::warn!(
                "the schedule could not be looked at: {}",
                crate::errors::chain(&error)
            );
        }
    };
    // A night that was missed while the station was off does not wait for the first minute.
    look();
    let mut ticker = Ticker::every_minute(look);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        second.tick().await;
        ticker.run_pending();
    }
}

/// Asks for the night that is due, if one is and the clock can be believed.
fn look(station: &Station, requests: &flume::Sender<Trigger>) -> Result<(), StoreError> {
    let now = station.clock.now();
    let training = &station.config.training;
    if !training.enabled || !clock::plausible(now) || requests.is_full() {
        return Ok(());
    }
    let reader = Reader::open(&station.config.store.path)?;
    let since = since(&reader, "training", now)?;
    if let Some(due) = schedule::due(&training.schedule, station.config.site.zone(), since, now) {
        // Full means that one is queued, which will do.
        let _ = requests.try_send(Trigger::Scheduled(due));
    }
    Ok(())
}
