//! The task that tells Home Assistant, each minute, of every device and the station; and takes it all back once it is disabled.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono_tz::Tz;
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
use crate::store::{Reader, Store, StoreError};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Where the store keeps the discovery prefix under which something was made.
const KEY: &str = "home_assistant";
const EVERY: Duration = Duration::from_secs(60);
/// Skill and energy change slowly.
const SLOW_EVERY: Duration = Duration::from_secs(300);
/// A forecast for a time further back says nothing about now.
const OLD_FORECAST_MS: i64 = 10 * 60_000;
/// Power of so long ago is not the power now.
const FRESH_MS: i64 = 10 * 60_000;
const SKILL_MS: i64 = 7 * DAY_MS;

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
    skill: HashMap<DeviceId, f64>,
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
        session.publish(names.state_topic(None), station_state(&status, None));
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
        if self.looked.is_some_and(|at| at.elapsed() < SLOW_EVERY) {
            return Ok(());
        }
        let first = now.0.div_euclid(HOUR_MS) - energy::DAYS * 24;
        // What is known stays as it is, but for the newest hours: readings may come late.
        let newest = (self.hours.values())
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
        self.skill = reader
            .device_skill(now.plus_ms(-SKILL_MS), now)?
            .into_iter()
            .collect();
        self.looked = Some(Instant::now());
        Ok(())
    }

    fn devices(&self, status: &Status) -> Vec<DeviceId> {
        let now = status.devices.iter().map(|(device, ..)| device);
        let all: std::collections::BTreeSet<_> = self.hours.keys().chain(now).collect();
        all.into_iter().cloned().collect()
    }
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
        skill: slow.skill.get(device).copied(),
        problem,
    }
}
