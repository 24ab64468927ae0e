//! Keeps the disk in order: watches its room each second; each night rolls up, removes what is too old, takes a snapshot.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::MissedTickBehavior;

use super::nights;
use crate::clock::{self, Clock};
use crate::config::Config;
use crate::errors::chain;
use crate::rate;
use crate::reading::TimestampMs;
use crate::schedule::{self, Due};
use crate::shutdown::Shutdown;
use crate::store::snapshot::{self, Snapshot};
use crate::store::space::{self, DiskLevel, Reserve};
use crate::store::{NewRun, Reader, RunOutcome, Store, StoreError, StoreLock};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Room on the disk is looked at, and made, this often.
const LOOK: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// A station that was off at night catches up once it has begun to collect.
const AFTER_START: Duration = Duration::from_secs(5);
/// Early retention leaves this: what a night needs with default settings (`min_days`, `holdback_days`).
const EARLY_FLOOR_DAYS: i64 = 14;
/// Hours this far back are rolled up again, for readings that came late; older ones when they are removed.
const LATE_DAYS: i64 = 31;
/// Removed in one night at most beyond the regular day: a clock that is wrong for one night must not
/// empty the store.
const MOST_DAYS_A_NIGHT: i64 = 31;
/// Unused pages up to this share of the file are kept for the next day instead of being moved around.
const SPARE_PERCENT: i64 = 5;
/// A training schedule of every hour makes no snapshot every hour.
const LEAST_SPACING_MS: i64 = 20 * HOUR_MS;
/// Housekeeping waits this long for the training of the same night to begin.
const TRAINING_GRACE_MS: i64 = 2 * HOUR_MS;

/// What the tasks share with `status` and the socket.
#[derive(Default)]
pub(super) struct Disk {
    level: Mutex<DiskLevel>,
    copying: Mutex<()>,
}

impl Disk {
    /// How much room there is.
    pub(super) fn level(&self) -> DiskLevel {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a snapshot, one at a time. Blocks.
    pub(super) fn snapshot(
        &self,
        store: &Store,
        config: &Config,
        now: TimestampMs,
    ) -> Result<Snapshot, StoreError> {
        let _one = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let snapshot = snapshot::write(&config.store.path, now, config.low_disk_bytes())
            .inspect_err(|error| {
                if error.is_damage() || matches!(error, StoreError::Unsound { .. }) {
                    // Every page was read: this is the check of a running station.
                    store.gauges().damaged.store(true, Ordering::Relaxed);
                }
            })?;
        tracing::info!(
            snapshot = %snapshot.path.display(),
            bytes = snapshot.bytes,
            ms = began.elapsed().as_millis() as u64,
            "snapshot taken"
        );
        Ok(snapshot)
    }
}

/// A change of level that is not in the event table yet: when, to which, MB of room.
type Unnoted = (TimestampMs, DiskLevel, u64);

fn words(level: DiskLevel, free_mb: u64) -> (&'static str, String) {
    match level {
        DiskLevel::Normal => ("disk_normal", format!("{free_mb} MB are free again")),
        DiskLevel::Low => (
            "disk_low",
            format!(
                "{free_mb} MB are free: readings over {EARLY_FLOOR_DAYS} days old go early, their hourly means stay"
            ),
        ),
        DiskLevel::Full => (
            "disk_full",
            format!("{free_mb} MB are free: nothing is stored or acknowledged until there is room"),
        ),
    }
}

/// Everything both tasks work with.
#[derive(Clone)]
pub(super) struct Housekeeping {
    pub(super) config: Arc<Config>,
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) shutdown: Shutdown,
    pub(super) lock: Arc<StoreLock>,
    pub(super) training: Arc<AtomicBool>,
    pub(super) disk: Arc<Disk>,
}

impl Housekeeping {
    /// Both tasks, until the shutdown.
    pub(super) async fn run(self) {
        tokio::select! {
            () = self.shutdown.begun() => {}
            () = self.watch() => {}
            () = self.nights() => {}
        }
    }

    /// Ends the daemon where the file is damaged, and acts on the room there is.
    async fn watch(&self) {
        let reserve = Reserve::beside(&self.config.store.path, self.config.reserve_bytes());
        let mut next_reserve = Instant::now();
        let mut event = None;
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if self.store.gauges().damaged.load(Ordering::Relaxed) {
                tracing::error!("ending, so that the next start checks and mends the database");
                if let Err(error) = self.lock.mark_damaged() {
                    tracing::error!("{}", chain(&error));
                }
                self.shutdown.begin();
                return;
            }
            let level = self.look(&reserve, &mut event).await;
            if level != DiskLevel::Full && !reserve.held() && Instant::now() >= next_reserve {
                let making = reserve.clone();
                if let Ok(Err(error)) = tokio::task::spawn_blocking(move || making.make()).await {
                    next_reserve = Instant::now() + MINUTE;
                    tracing::warn!("{}", chain(&error));
                }
            }
            if level != DiskLevel::Normal
                && let Err(error) = self.make_room(&reserve).await
                && let Some(more) = rate::log_line("make_room")
            {
                // A full disk tells the next look to give the reserve up.
                tracing::warn!("{}{more}", chain(&error));
            }
        }
    }

    /// Finds the level, gives the reserve up where SQLite found no room, and holds the writer.
    async fn look(&self, reserve: &Reserve, event: &mut Option<Unnoted>) -> DiskLevel {
        let gauges = self.store.gauges();
        let reported = gauges.disk_full.load(Ordering::Relaxed);
        if reported {
            if let Err(error) = reserve.release()
                && let Some(more) = rate::log_line("reserve")
            {
                tracing::error!("{}{more}", chain(&error));
            }
            if !gauges.failing.load(Ordering::Relaxed) {
                gauges.disk_full.store(false, Ordering::Relaxed);
            }
        }
        let Some(free) = space::free_bytes(&self.config.store.path) else {
            return self.disk.level();
        };
        let marks = reserve.marks(self.config.low_disk_bytes());
        let before = self.disk.level();
        let room = reserve.room(free);
        let level = before.next(room, reported, marks);
        gauges
            .hold
            .store(level == DiskLevel::Full, Ordering::Relaxed);
        if level != before {
            *self
                .disk
                .level
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = level;
            *event = Some((self.clock.now(), level, room / 1_000_000));
        }
        if let Some((at, level, free_mb)) = *event {
            let (kind, detail) = words(level, free_mb);
            if level != before {
                tracing::warn!("{detail}");
            }
            // On a full disk that may take the reserve, which the failure has the next look give up.
            if self.store.note_event(at, kind, detail).await.is_ok() {
                *event = None;
            }
        }
        level
    }

    /// Copies first, then the oldest readings: for one look's time, or until there is room.
    async fn make_room(&self, reserve: &Reserve) -> Result<(), StoreError> {
        let path = &self.config.store.path;
        snapshot::prune(path, 1)?;
        let now = self.clock.now();
        if !clock::plausible(now) {
            return Ok(());
        }
        let before = now.plus_ms(-EARLY_FLOOR_DAYS * DAY_MS);
        let marks = reserve.marks(self.config.low_disk_bytes());
        let began = Instant::now();
        while began.elapsed() < LOOK {
            let room = space::free_bytes(path).map_or(0, |free| reserve.room(free));
            if self.disk.level().next(room, false, marks) == DiskLevel::Normal {
                break;
            }
            let removed = self.store.remove_oldest_hour(before).await?;
            while self.store.give_back_pages(0).await? {}
            self.store.checkpoint().await?;
            match removed {
                None => break,
                Some(r) => tracing::info!(readings = r.readings, "removed early to make room"),
            }
        }
        Ok(())
    }

    /// Looks once a minute whether a night is due that has had its training.
    async fn nights(&self) {
        let first = tokio::time::Instant::now() + AFTER_START;
        let mut minute = tokio::time::interval_at(first, MINUTE);
        minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            minute.tick().await;
            let done = match self.due() {
                Ok(None) => self.sum_up_late().await,
                Ok(Some(due)) => self.night(due).await,
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                tracing::error!("housekeeping broke off: {}", chain(&error));
            }
        }
    }

    fn due(&self) -> Result<Option<Due>, StoreError> {
        let now = self.clock.now();
        let training = &self.config.training;
        if !self.clock.trusted() || self.training.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let reader = Reader::open(&self.config.store.path)?;
        let since = nights::since(&reader, "housekeeping", now)?;
        let zone = self.config.site.zone();
        let Some(due) = schedule::due(&training.schedule, zone, since, now) else {
            return Ok(None);
        };
        let soon_after = reader
            .last_run("housekeeping")?
            .is_some_and(|last| (0..LEAST_SPACING_MS).contains(&(now.0 - last.started.0)));
        let untrained = training.enabled
            && now.0 - due.nominal.0 < TRAINING_GRACE_MS
            && reader.last_nominal("training")? < Some(due.nominal);
        Ok((!soon_after && !untrained).then_some(due))
    }

    /// Hours that readings have come in for since they were summed up are summed up again.
    async fn sum_up_late(&self) -> Result<(), StoreError> {
        let Some(newest) = Reader::open(&self.config.store.path)?.newest_hour()? else {
            return Ok(());
        };
        let end = newest.plus_ms(HOUR_MS);
        let late = &self.store.gauges().late;
        let Some(span) = late.due(end) else {
            return Ok(());
        };
        let from = span
            .from
            .unwrap_or(self.clock.now().plus_ms(-LATE_DAYS * DAY_MS));
        // Between the last of them and the newest hour nothing has changed, so all of it is right then.
        let last = span.last.map_or(end, |last| end.min(last.plus_ms(HOUR_MS)));
        self.store.roll_up((from, last), end).await.map(drop)
    }

    /// One night in the run log; the error is that of the log itself.
    async fn night(&self, due: Due) -> Result<(), StoreError> {
        let run = NewRun {
            kind: "housekeeping",
            mode: "full".into(),
            trigger: if due.late { "catch_up" } else { "schedule" },
            nominal: Some(due.nominal),
            started: self.clock.now(),
        };
        let run_id = self.store.start_run(run).await?;
        let (tidied, words) = match self.tidy().await {
            Ok(words) => (true, words),
            Err(error) => (false, chain(&error)),
        };
        let (outcome, copied, snapshot) = self.nightly_snapshot().await;
        let outcome = if tidied { outcome } else { RunOutcome::Failed };
        let reason = format!("{words}; {copied}");
        tracing::info!(outcome = outcome.as_str(), "housekeeping: {reason}");
        let database_bytes = std::fs::metadata(&self.config.store.path).map_or(0, |m| m.len());
        let report = json!({ "database_bytes": database_bytes, "snapshot": snapshot });
        let ended = self.clock.now();
        self.store
            .end_run(run_id, ended, None, outcome, reason, Some(report))
            .await
    }

    /// Roll-ups of the hours since the last, then the removal of what is older than asked.
    async fn tidy(&self) -> Result<String, StoreError> {
        let now = self.clock.now();
        let (newest, oldest) = {
            let reader = Reader::open(&self.config.store.path)?;
            (reader.newest_hour()?, reader.totals()?.oldest)
        };
        let late = now.plus_ms(-LATE_DAYS * DAY_MS);
        let due = self.store.gauges().late.due(now).and_then(|span| span.from);
        let from = newest.map_or(TimestampMs(0), |hour| {
            hour.min(late).min(due.unwrap_or(late))
        });
        let hours = self.store.roll_up((from, now), now).await?;
        let mut readings = 0;
        if self.config.store.keep_days > 0 {
            let before = now.plus_ms(-i64::from(self.config.store.keep_days) * DAY_MS);
            let most = oldest.map_or(before, |o| o.plus_ms(MOST_DAYS_A_NIGHT * DAY_MS));
            while let Some(removed) = self.store.remove_oldest_hour(before.min(most)).await? {
                readings += removed.readings;
            }
            self.store.remove_old_runs(before).await?;
        }
        while self.store.give_back_pages(SPARE_PERCENT).await? {}
        self.store.checkpoint().await?;
        Ok(format!(
            "{hours} hours rolled up, {readings} old readings removed"
        ))
    }

    async fn nightly_snapshot(&self) -> (RunOutcome, String, Option<Snapshot>) {
        let (disk, config, now) = (self.disk.clone(), self.config.clone(), self.clock.now());
        let store = self.store.clone();
        let copy = move || disk.snapshot(&store, &config, now);
        match tokio::task::spawn_blocking(copy).await {
            Ok(Ok(s)) => {
                let mb = s.bytes as f64 / 1e6;
                let words = format!("snapshot of {mb:.1} MB in {:.1} s", s.ms as f64 / 1e3);
                (RunOutcome::Done, words, Some(s))
            }
            Ok(Err(error)) => {
                let outcome = match error {
                    StoreError::NoRoom { .. } => RunOutcome::Skipped,
                    _ => RunOutcome::Failed,
                };
                (outcome, format!("no snapshot: {}", chain(&error)), None)
            }
            Err(_) => (RunOutcome::Failed, "the snapshot broke off".into(), None),
        }
    }
}
