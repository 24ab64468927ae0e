//! The task that tells Home Assistant, each minute, of every device and the station; and takes it all back once it is disabled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono_tz::Tz;
use semver::Version;
use tokio::time::MissedTickBehavior;

use crate::clock::{Clock, midnights};
use crate::config::Config;
use crate::energy::{self, Hour};
use crate::errors::chain;
use crate::http::Station;
use crate::mqtt::backoff::Backoff;
use crate::mqtt::discovery::{DeviceFacts, Names, device_state, station_state};
use crate::mqtt::home_assistant::{Heard, Session};
use crate::mqtt::link::{LinkError, LinkOptions};
use crate::reading::{DeviceId, TimestampMs};
use crate::shutdown::Shutdown;
use crate::status::{Level, Status};
use crate::store::{AccuracyRow, Reader, RunRow, Store, StoreError};
use crate::update::{Outcome, Report, launcher};

const HOUR_MS: i64 = 3_600_000;
/// Where the store keeps the discovery prefix under which something was made.
const KEY: &str = "home_assistant";
const EVERY: Duration = Duration::from_secs(60);
/// Skill and energy change slowly.
const SLOW_EVERY: Duration = Duration::from_secs(300);
/// A forecast for a time further back says nothing about now.
const OLD_FORECAST_MS: i64 = 10 * 60_000;
/// Power of so long ago is not the power now.
const FRESH_MS: i64 = 10 * 60_000;
/// Fewer settled forecasts say nothing about skill.
const SKILL_NEEDS: i64 = 100;
/// Looks for updates that are looked back on: the newest may have come to nothing.
const UPDATES: usize = 10;

/// What the task works with.
pub(super) struct HomeAssistant {
    pub(super) config: Arc<Config>,
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: LinkOptions,
    pub(super) station: Arc<dyn Station>,
}

/// What is looked up less often: hourly means, and each device's skill.
#[derive(Default)]
struct Slow {
    looked: Option<Instant>,
    hours: BTreeMap<DeviceId, BTreeMap<i64, f64>>,
    /// The newer version that is known of.
    offered: Option<String>,
}

impl HomeAssistant {
    /// Until the shutdown; returns at once where there is nothing to tell or to take back.
    pub(super) async fn run(self, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.begun() => {}
            done = self.work() => {
                if let Err(error) = done {
                    tracing::error!("Home Assistant is told nothing: {}", chain(&error));
                }
            }
        }
    }

    fn names(&self, discovery_prefix: &str) -> Names {
        Names {
            discovery_prefix: discovery_prefix.to_owned(),
            topic_prefix: self.config.mqtt.topic_prefix.clone(),
        }
    }

    async fn work(&self) -> Result<(), StoreError> {
        let asked = &self.config.home_assistant;
        let prefix = match asked.enabled {
            true => asked.discovery_prefix.as_str(),
            false => "",
        };
        let kept = Reader::open(&self.config.store.path)?.kept(KEY)?;
        let kept = kept.unwrap_or_default();
        if !kept.is_empty() && kept != prefix {
            let removed = self.remove(&kept).await;
            tracing::info!(removed, "removed from Home Assistant");
            self.store.keep(KEY, String::new()).await?;
        }
        if !asked.enabled {
            return Ok(());
        }
        // First: what a crash leaves behind must be found again.
        self.store.keep(KEY, prefix.to_owned()).await?;
        let mut session = Session::new(&self.options, self.names(prefix));
        let mut slow = Slow::default();
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut backoff = Backoff::default();
        loop {
            tokio::select! {
                _ = every.tick() => self.tell(&mut session, &mut slow).await,
                turned = session.turn() => match turned {
                    Ok(Heard::Nothing) => {}
                    Ok(Heard::SayAgain) => {
                        backoff.connected(Instant::now());
                        session.say_again();
                        self.tell(&mut session, &mut slow).await;
                    }
                    Err(error) => wait(&error, &mut backoff).await,
                },
            }
        }
    }

    async fn remove(&self, prefix: &str) -> usize {
        let mut backoff = Backoff::default();
        loop {
            let session = Session::new(&self.options, self.names(prefix));
            match session.remove_all().await {
                Ok(removed) => return removed,
                Err(error) => wait(&error, &mut backoff).await,
            }
        }
    }

    async fn tell(&self, session: &mut Session, slow: &mut Slow) {
        let (station, path) = (self.station.clone(), self.config.store.path.clone());
        let mut taken = std::mem::take(slow);
        let (now, zone) = (self.clock.now(), self.config.site.zone());
        let gather = move || {
            let status = station.status()?;
            let updates = Reader::open(&path).and_then(|r| r.runs(Some("update"), UPDATES));
            taken.offered = offered(&updates.map_err(|e| chain(&e))?);
            let looked = Reader::open(&path).and_then(|reader| taken.look(&reader, now));
            looked.map_err(|e| chain(&e))?;
            Ok::<_, String>((status, taken))
        };
        let (status, taken) = match tokio::task::spawn_blocking(gather).await {
            Ok(Ok(gathered)) => gathered,
            Ok(Err(why)) => return tracing::warn!("Home Assistant was not told: {why}"),
            Err(_) => return,
        };
        *slow = taken;
        // Every device that has ever been seen stays, also while it is silent.
        let devices: Vec<DeviceId> = slow.devices(&status);
        session.want(
            self.names(&self.config.home_assistant.discovery_prefix)
                .configs(&devices),
        );
        let names = self.names("");
        let latest = slow.offered.as_deref();
        session.publish(names.state_topic(None), station_state(&status, latest));
        let horizons: Vec<u32> = self.config.training.horizon_min.iter().collect();
        for device in &devices {
            let facts = facts(&status, device, slow, &horizons, zone);
            session.publish(names.state_topic(Some(device)), device_state(&facts));
        }
    }
}

async fn wait(error: &LinkError, backoff: &mut Backoff) {
    tracing::debug!(%error, "the connection for Home Assistant broke");
    let refused = matches!(error, LinkError::Refused(_));
    tokio::time::sleep(backoff.next(refused, Instant::now())).await;
}

impl Slow {
    fn look(&mut self, reader: &Reader, now: TimestampMs) -> Result<(), StoreError> {
        // Of a device that little is known of there may be more by the next look: what is being brought
        // in may be older than what is known.
        let known_well =
            |hours: &BTreeMap<i64, f64>| hours.len() as i64 >= energy::LEAST_DAYS as i64 * 24;
        let well = self.hours.values().all(known_well);
        let every = if well { SLOW_EVERY } else { EVERY };
        if self.looked.is_some_and(|at| at.elapsed() < every) {
            return Ok(());
        }
        let first = now.0.div_euclid(HOUR_MS) - energy::DAYS * 24;
        // What is known stays as it is, but for the newest hours: readings may come late.
        let newest = (self.hours.values().filter(|_| well))
            .filter_map(|hours| hours.last_key_value().map(|(hour, _)| *hour))
            .max();
        let from = newest.map_or(first, |hour| (hour - 1).max(first));
        for (_, device) in reader.devices()? {
            self.hours.entry(device).or_default();
        }
        for (device, hour, mean_w) in reader.hourly_power(from)? {
            self.hours.entry(device).or_default().insert(hour, mean_w);
        }
        for hours in self.hours.values_mut() {
            *hours = hours.split_off(&first);
        }
        self.looked = Some(Instant::now());
        Ok(())
    }

    fn devices(&self, status: &Status) -> Vec<DeviceId> {
        let now = status.devices.iter().map(|(device, ..)| device);
        let all: std::collections::BTreeSet<_> = self.hours.keys().chain(now).collect();
        all.into_iter().cloned().collect()
    }
}

/// Skill of a device's forecasts of the last seven days, those of the shortest horizon.
fn skill(status: &Status, device: &DeviceId) -> Option<f64> {
    let of = |row: &&AccuracyRow| row.device.as_ref() == Some(device);
    let shortest = status.accuracy.horizon_min;
    let row = status.accuracy_by_device.iter().find(of)?.accuracy;
    (row.horizon_min == shortest && row.settled >= SKILL_NEEDS).then(|| row.skill())?
}

/// The version that the last look for updates has found, where it is newer than this one and was not
/// refused, taken back, or meant for others first.
fn offered(runs: &[RunRow]) -> Option<String> {
    let report = |run: &RunRow| serde_json::from_value::<Report>(run.report.clone()?).ok();
    let last = runs.iter().find_map(report)?;
    let taken = matches!(
        last.outcome,
        Outcome::Available | Outcome::Fetched | Outcome::Trial
    );
    let newer = |text: &String| Version::parse(text).is_ok_and(|v| v > launcher::own_version());
    last.version.filter(|text| taken && newer(text))
}

fn facts(
    status: &Status,
    device: &DeviceId,
    slow: &Slow,
    horizons: &[u32],
    zone: Tz,
) -> DeviceFacts {
    let now = status.now;
    let newest = status.devices.iter().find(|(d, ..)| d == device);
    let fresh = newest.filter(|(_, at, _)| now.0 - at.0 <= FRESH_MS);
    let is_of = |minutes: u32| {
        (status.forecasts.iter()).find(|f| {
            f.device == *device && f.horizon_min == minutes && f.target.0 >= now.0 - OLD_FORECAST_MS
        })
    };
    let forecasts = horizons
        .iter()
        .filter_map(|minutes| is_of(*minutes).cloned());
    let hours: Vec<Hour> = (slow.hours.get(device).into_iter().flatten())
        .map(|(hour, mean_w)| (*hour, *mean_w))
        .collect();
    let outlook = midnights(now, zone)
        .and_then(|(today, tomorrow)| energy::outlook(&hours, now, today, tomorrow));
    let limit_ms =
        (status.daemon.as_ref()).map_or(HOUR_MS, |d| i64::from(d.limits.silent_min) * 60_000);
    let problem = match newest {
        _ if status.verdict.level == Level::Down => Some(status.verdict.text.clone()),
        None => Some("silent for more than a day".into()),
        Some((_, at, _)) if now.0 - at.0 > limit_ms => Some(format!("silent since {at}")),
        Some(_) => None,
    };
    DeviceFacts {
        power_w: fresh.and_then(|(.., power_w)| *power_w),
        forecasts: forecasts.collect(),
        left_today_wh: outlook.map(|o| o.left_today_wh),
        tomorrow_wh: outlook.map(|o| o.tomorrow_wh),
        skill: skill(status, device),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn look(outcome: Outcome, version: &str) -> RunRow {
        let report = Report {
            outcome,
            sequence: Some(2),
            version: Some(version.into()),
            reason: None,
            text: String::new(),
        };
        RunRow {
            run_id: 1,
            kind: "update".into(),
            mode: "check".into(),
            trigger: "schedule".into(),
            nominal: None,
            started: TimestampMs(0),
            ended: None,
            outcome: None,
            reason: None,
            report: Some(json!(report)),
        }
    }

    #[test]
    fn an_update_is_offered_while_the_last_look_says_so_and_it_is_newer() {
        let failed = RunRow {
            report: None,
            ..look(Outcome::Available, "99.0.0")
        };
        let newer = look(Outcome::Available, "99.0.0");
        assert_eq!(offered(&[]), None);
        assert_eq!(
            offered(&[failed.clone(), newer.clone()]).as_deref(),
            Some("99.0.0")
        );
        assert_eq!(
            offered(&[look(Outcome::Fetched, "99.0.0")]).as_deref(),
            Some("99.0.0")
        );
        assert_eq!(offered(&[look(Outcome::Available, "0.0.1")]), None);
        for over in [
            Outcome::UpToDate,
            Outcome::Waiting,
            Outcome::Refused,
            Outcome::RolledBack,
        ] {
            assert_eq!(offered(&[look(over, "99.0.0"), newer.clone()]), None);
        }
    }

    #[test]
    fn history_that_comes_in_after_the_first_look_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("n.db");
        let fill = |sql: &str| {
            rusqlite::Connection::open(&db)
                .unwrap()
                .execute_batch(sql)
                .unwrap()
        };
        let now = TimestampMs(1_800_000_000_000);
        let store =
            crate::store::Writer::start(&db, Duration::ZERO, 1, crate::store::Nobody).unwrap();
        let row = |from: i64, until: i64| {
            format!(
                "INSERT OR IGNORE INTO device VALUES (1, 'a', 0);
                 WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {until} - 1)
                 INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted, power)
                 SELECT i * {HOUR_MS}, 1, 0, 0, 1, 100 FROM n;"
            )
        };
        let hour = now.0 / HOUR_MS;
        fill(&row(hour - 1, hour));
        let mut slow = Slow::default();
        slow.look(&store.reader().unwrap(), now).unwrap();
        assert_eq!(slow.hours[&DeviceId::new("a")].len(), 1);
        // A minute on, five days of older readings are there.
        fill(&row(hour - 120, hour - 1));
        slow.looked = None;
        slow.look(&store.reader().unwrap(), now).unwrap();
        assert_eq!(slow.hours[&DeviceId::new("a")].len(), 120);
    }
}
