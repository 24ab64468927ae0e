//! The task behind the alerts: looks at the station each minute, keeps what changes, publishes it, and tells the channels.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

use crate::alerts::Notice;
use crate::alerts::deliver::Channel;
use crate::alerts::rules::{EVENT_MS, Facts, RefusedShare, event_kinds, standing, undecided};
use crate::alerts::state::{Change, Hysteresis, Memory};
use crate::clock::{Clock, WatchedClock};
use crate::config::Config;
use crate::errors::{self, MOST_REPORTS, chain};
use crate::http::Station;
use crate::mqtt::publish::Publisher;
use crate::reading::TimestampMs;
use crate::shutdown::Shutdown;
use crate::status::Status;
use crate::store::{AlertRow, EventRow, NewAlert, Notified, Reader, Store, StoreError};

/// What is older than this is told nobody any more.
const TOO_OLD_MS: i64 = 7 * 86_400_000;
/// The first wait after a channel has failed; it doubles up to the greatest.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const GREATEST_WAIT: Duration = Duration::from_secs(900);

/// What the task works with.
pub(super) struct Alerts {
    pub(super) config: Arc<Config>,
    pub(super) store: Store,
    pub(super) clock: Arc<WatchedClock>,
    pub(super) publisher: Publisher,
    pub(super) station: Arc<dyn Station>,
    pub(super) channels: Vec<Channel>,
    /// What the store could not take, for each channel: it is told from here.
    pub(super) unstored: flume::Sender<Unstored>,
    pub(super) to_tell: flume::Receiver<Unstored>,
    pub(super) queued: Notify,
}

type Key = (String, String);

/// An alert that could not be stored.
pub(super) struct Unstored(Notice);

impl Alerts {
    /// Both halves, until the shutdown; then what went wrong on the way is kept.
    pub(super) async fn run(self, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.begun() => {}
            () = self.look() => {}
            () = self.tell() => {}
        }
        self.keep_errors().await;
    }

    async fn look(&self) {
        let alerts = &self.config.alerts;
        let mut every = tokio::time::interval(Duration::from_secs(u64::from(alerts.look_s)));
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut memory, mut share) = (Memory::default(), RefusedShare::default());
        let mut told = HashMap::new();
        self.publish_last();
        loop {
            every.tick().await;
            if let Err(error) = self.step(&mut memory, &mut share, &mut told).await {
                tracing::warn!("the alerts were not looked at: {}", chain(&error));
            }
            self.keep_errors().await;
        }
    }

    /// What a retained topic says is made true again after a restart.
    fn publish_last(&self) {
        let last = Reader::open(&self.config.store.path).and_then(|reader| reader.last_alerts());
        match last {
            Ok(rows) => rows.iter().for_each(|row| self.publish(row)),
            Err(error) => tracing::warn!("the alerts were not published: {}", chain(&error)),
        }
    }

    async fn step(
        &self,
        memory: &mut Memory,
        share: &mut RefusedShare,
        told: &mut HashMap<Key, AlertRow>,
    ) -> Result<(), StoreError> {
        let (station, path) = (self.station.clone(), self.config.store.path.clone());
        let since = self.clock.now().plus_ms(-EVENT_MS);
        let gather = move || -> Result<_, StoreError> {
            let reader = Reader::open(&path)?;
            let events = reader.events_since(&event_kinds(), since)?;
            Ok((station.status(), events, reader.alerts(true, 0)?))
        };
        let (status, events, open): (Result<Status, String>, Vec<EventRow>, Vec<AlertRow>) =
            match tokio::task::spawn_blocking(gather).await {
                Ok(gathered) => gathered?,
                Err(_) => return Ok(()),
            };
        let status = match status {
            Ok(status) => status,
            Err(why) => {
                tracing::warn!("the status could not be put together: {why}");
                return Ok(());
            }
        };
        let running_ms = self.clock.running_ms();
        let (received, refused) =
            (status.daemon.as_ref()).map_or((0, 0), |d| (d.received, d.rejects));
        let facts = Facts {
            status: &status,
            refused_percent: share.look(running_ms, received, refused),
            events: &events,
        };
        let minutes = |n: u32| i64::from(n) * 60_000;
        let hysteresis = Hysteresis {
            raise_ms: minutes(self.config.alerts.raise_after_min),
            clear_ms: minutes(self.config.alerts.clear_after_min),
        };
        let found = standing(&facts);
        let stands = |key: &Key| {
            found
                .iter()
                .any(|f| (&f.kind, &f.subject) == (&key.0, &key.1))
        };
        for (_, mut row) in told.extract_if(|key, _| !stands(key)) {
            row.cleared = Some(self.clock.now());
            self.publish(&row);
            self.tell_unstored(&row, Notified::Cleared);
        }
        let changes = memory.step(
            &open,
            found,
            |row| undecided(&facts, row),
            running_ms,
            hysteresis,
        );
        for change in changes {
            match change {
                Change::Raise(alert) => self.raise(alert, told).await,
                Change::Clear(row) => self.clear(row).await,
            }
        }
        Ok(())
    }

    /// Where the store cannot take it, which may be what it is about, the channels are told all the same,
    /// once; and it is stored as soon as that can be done.
    async fn raise(&self, alert: NewAlert, told: &mut HashMap<Key, AlertRow>) {
        let now = self.clock.now();
        let key = (alert.kind.clone(), alert.subject.clone());
        let channels = self.channels.iter().map(Channel::name).collect();
        let known = told.contains_key(&key);
        let raised = self
            .store
            .raise_alert(alert.clone(), now, channels, known)
            .await;
        let mut row = row(alert, now);
        match raised {
            Ok(Some(id)) => {
                row.id = id;
                told.remove(&key);
            }
            Ok(None) => return,
            Err(error) => {
                if told.insert(key, row.clone()).is_some() {
                    return;
                }
                tracing::warn!("an alert was not stored: {}", chain(&error));
                self.tell_unstored(&row, Notified::Raised);
            }
        }
        if !known {
            tracing::info!(
                kind = row.kind,
                subject = row.subject,
                "alert: {}",
                row.text
            );
            self.publish(&row);
        }
        self.queued.notify_one();
    }

    fn tell_unstored(&self, row: &AlertRow, what: Notified) {
        let notice = Notice::of(row, what, &self.config.mqtt.client_id);
        if self.unstored.try_send(Unstored(notice)).is_err() {
            tracing::warn!(kind = row.kind, "an alert is not told: too many wait");
        }
        self.queued.notify_one();
    }

    async fn clear(&self, mut row: AlertRow) {
        let now = self.clock.now();
        if let Err(error) = self.store.clear_alert(row.id, now).await {
            tracing::warn!("an alert was not cleared: {}", chain(&error));
            return;
        }
        tracing::info!(kind = row.kind, subject = row.subject, "the alert is over");
        row.cleared = Some(now);
        self.publish(&row);
        self.queued.notify_one();
    }

    fn publish(&self, row: &AlertRow) {
        if !self.config.alerts.mqtt {
            return;
        }
        let state = match row.cleared {
            None => Notified::Raised,
            Some(_) => Notified::Cleared,
        };
        let topic = match row.subject.as_str() {
            "" => format!("alerts/{}", row.kind),
            subject => format!("alerts/{}/{subject}", row.kind),
        };
        let notice = Notice::of(row, state, &self.config.mqtt.client_id);
        self.publisher.retained(&topic, json!(notice).to_string());
    }

    /// Each channel in the order things happened; one that fails holds up no other.
    async fn tell(&self) {
        let mut waits: HashMap<&'static str, (Duration, Instant)> = HashMap::new();
        let mut unstored: Vec<(&'static str, Notice)> = Vec::new();
        let mut unnoted = HashSet::new();
        loop {
            while let Ok(Unstored(notice)) = self.to_tell.try_recv() {
                let each = self.channels.iter().map(|c| (c.name(), notice.clone()));
                unstored.extend(each);
            }
            let mut next = Instant::now() + GREATEST_WAIT;
            for channel in &self.channels {
                let name = channel.name();
                let due = waits.get(name).map(|(_, at)| *at);
                if let Some(at) = due.filter(|at| *at > Instant::now()) {
                    next = next.min(at);
                    continue;
                }
                match self.tell_one(channel, &mut unstored, &mut unnoted).await {
                    Ok(true) => {
                        waits.remove(name);
                        next = Instant::now();
                    }
                    Ok(false) => {}
                    Err(why) => {
                        let wait = waits.get(name).map_or(FIRST_WAIT, |(w, _)| *w * 2);
                        let wait = wait.min(GREATEST_WAIT);
                        let at = Instant::now() + wait;
                        tracing::warn!(channel = name, "an alert was not told: {why}");
                        waits.insert(name, (wait, at));
                        next = next.min(at);
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.queued.notified() => {}
            }
        }
    }

    /// Tells the oldest thing a channel has not been told; whether there was one, or why it failed.
    async fn tell_one(
        &self,
        channel: &Channel,
        unstored: &mut Vec<(&'static str, Notice)>,
        unnoted: &mut HashSet<(i64, Notified, &'static str)>,
    ) -> Result<bool, String> {
        let name = channel.name();
        if let Some(i) = unstored.iter().position(|(to, _)| *to == name) {
            let sent = channel.send(&unstored[i].1).await;
            sent.map_err(|e| chain(&e))?;
            unstored.remove(i);
            return Ok(true);
        }
        let since = self.clock.now().plus_ms(-TOO_OLD_MS);
        let path = &self.config.store.path;
        let waiting = Reader::open(path).and_then(|reader| reader.undelivered(name, since));
        let Some((row, what)) = waiting.map_err(|e| chain(&e))? else {
            return Ok(false);
        };
        // Told, but that could not be noted: not once more.
        if !unnoted.contains(&(row.id, what, name)) {
            let notice = Notice::of(&row, what, &self.config.mqtt.client_id);
            channel.send(&notice).await.map_err(|e| chain(&e))?;
            unnoted.insert((row.id, what, name));
        }
        let now = self.clock.now();
        let noted = self.store.alert_delivered(row.id, what, name, now).await;
        noted.map_err(|e| chain(&e))?;
        unnoted.remove(&(row.id, what, name));
        Ok(true)
    }

    /// Keeps what went wrong since the last look.
    async fn keep_errors(&self) {
        let reports = errors::take();
        if reports.is_empty() {
            return;
        }
        let kept = self.store.keep_errors(reports.clone(), MOST_REPORTS).await;
        if kept.is_err() {
            // The next look tries again; a word about it would be one more of them.
            errors::put_back(reports);
        }
    }
}

fn row(alert: NewAlert, raised: TimestampMs) -> AlertRow {
    AlertRow {
        id: 0,
        kind: alert.kind,
        subject: alert.subject,
        level: alert.level,
        text: alert.text,
        next_step: alert.next_step,
        raised,
        cleared: None,
        acknowledged: None,
        waiting: Vec::new(),
    }
}
