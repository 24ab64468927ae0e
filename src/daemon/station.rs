//! What the daemon tells of itself, and does when it is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::housekeeping::Disk;
use super::nights;
use super::reload::Refusal;
use super::updates::{self, Updates};
use crate::clock::{self, Clock, WatchedClock};
use crate::config::Config;
use crate::http::Station;
use crate::http::station::{Promoting, Training, Updating};
use crate::mqtt::intake::IntakeShared;
use crate::reading::TimestampMs;
use crate::schedule;
use crate::serving::Service;
use crate::status::{self, DaemonStatus, Status};
use crate::store::snapshot::Snapshot;
use crate::store::{Deletion, Reader, Store};
use crate::trainer::{Asked, Request, Ticket};
use crate::update::Ask;

/// Bytes this process has caused to be written to disks.
fn written_bytes() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    let line = io.lines().find_map(|l| l.strip_prefix("write_bytes: "))?;
    line.parse().ok()
}

/// The daemon as its interface, alerts and Home Assistant see it.
pub(super) struct RunningStation {
    pub(super) updates: Updates,
    pub(super) disk: Arc<Disk>,
    pub(super) config: Arc<Config>,
    pub(super) clock: Arc<WatchedClock>,
    pub(super) started: Instant,
    pub(super) doubtful_before: u64,
    pub(super) store: Store,
    pub(super) shared: Arc<IntakeShared>,
    pub(super) requests: flume::Sender<Request>,
    pub(super) training: Arc<AtomicBool>,
    pub(super) refusal: Refusal,
    pub(super) swaps: flume::Sender<i64>,
}

impl RunningStation {
    /// When the schedule trains next.
    fn next_night(&self) -> Option<TimestampMs> {
        let (training, now) = (&self.config.training, self.clock.now());
        if !training.enabled || !self.clock.trusted() {
            return None;
        }
        let reader = Reader::open(&self.config.store.path).ok()?;
        let since = nights::since(&reader, "training", now).ok()?;
        schedule::next(&training.schedule, self.config.site.zone(), since, now)
    }
}

impl Station for RunningStation {
    fn status(&self) -> Result<Status, String> {
        let now = self.clock.now();
        let gauges = self.store.gauges();
        let daemon = DaemonStatus {
            started: now.plus_ms(-(self.started.elapsed().as_millis() as i64)),
            intake: self.shared.status(),
            broker: self.config.mqtt.url.clone(),
            received: self.shared.received.load(Ordering::Relaxed),
            committed: gauges.messages.load(Ordering::Relaxed),
            rows: gauges.rows.load(Ordering::Relaxed),
            duplicates: gauges.duplicates.load(Ordering::Relaxed),
            rejects: gauges.rejects.load(Ordering::Relaxed),
            // Of this configuration: what was too old for the last one may not be any more.
            doubtful_times: gauges.doubtful.load(Ordering::Relaxed) - self.doubtful_before,
            store_failing: gauges.failing.load(Ordering::Relaxed),
            disk: self.disk.level(),
            written_bytes: written_bytes(),
            training: self.training.load(Ordering::Relaxed),
            clock_doubtful: !self.clock.trusted(),
            next_night: self.next_night(),
            reload_refused: self.refusal.reason(),
            limits: self.config.alerts.limits,
            update: self.updates.here(),
        };
        let gathered = self.store.reader().and_then(|reader| {
            status::gather_with(
                &reader,
                &self.config,
                Some(daemon),
                (now, clock::plausible(now)),
            )
        });
        gathered.map_err(|e| crate::errors::chain(&e))
    }

    fn snapshot(&self) -> Result<Snapshot, String> {
        self.disk
            .snapshot(&self.store, &self.config, self.clock.now())
            .map_err(|e| crate::errors::chain(&e))
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn now(&self) -> TimestampMs {
        self.clock.now()
    }

    fn store(&self) -> &Store {
        &self.store
    }

    fn training(&self) -> Training {
        Training {
            running: self.training.load(Ordering::Relaxed),
            queued: !self.requests.is_empty(),
            next_night: self.next_night(),
        }
    }

    fn retrain(&self, asked: Asked) -> Option<Ticket> {
        let (request, ticket) = Request::manual(asked);
        self.requests.try_send(request).ok().map(|()| ticket)
    }

    fn delete_run(&self, run_id: i64) -> Result<Deletion, String> {
        tokio::runtime::Handle::current()
            .block_on(self.store.delete_run(run_id))
            .map_err(|e| crate::errors::chain(&e))
    }

    fn clear_quarantine(&self) -> Result<usize, String> {
        // Called on a thread for work that waits; the writer answers from its own.
        tokio::runtime::Handle::current()
            .block_on(self.store.clear_quarantine())
            .map_err(|e| crate::errors::chain(&e))
    }

    fn update(&self, ask: Ask) -> Updating<'_> {
        Box::pin(async move { self.updates.perform(ask, updates::MANUAL, None).await })
    }

    fn promote(&self, version: Option<i64>) -> Promoting<'_> {
        Box::pin(async move {
            let service = Service {
                config: &self.config,
                store: &self.store,
                clock: self.clock.as_ref(),
            };
            let outcome = service.bring(version).await;
            let version = outcome.map_err(|e| crate::errors::chain(&e))?;
            // The forecaster fetches it; a full queue means it is about to fetch anyway.
            let _ = self.swaps.try_send(version);
            Ok(version)
        })
    }
}
