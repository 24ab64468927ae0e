//! What is new since the last night that learned, and what a run now would do.

use std::collections::BTreeMap;

use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::lookback;
use crate::config::Config;
use crate::quality::{Check, Quality};
use crate::reading::TimestampMs;
use crate::store::{Reader, StoreError};
use crate::words::{are, count, minute};

const HOUR_MS: i64 = 3_600_000;
/// A day counts as new data once so many of its hours hold readings.
const HOURS_OF_A_DAY: u32 = 4;

/// What came in since the last night that learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewData {
    /// When that night began; absent before the first.
    pub since: Option<TimestampMs>,
    /// Local days with readings in at least four hours since then.
    pub days: u32,
    /// Days a night needs.
    pub needed: u32,
}

impl NewData {
    pub(super) fn look(
        reader: &Reader,
        config: &Config,
        now: TimestampMs,
    ) -> Result<Self, StoreError> {
        let since = reader.last_learned(now)?.map(|(began, _)| began);
        let from = since.map_or(lookback(config, now), |t| t.max(lookback(config, now)));
        let hours = reader.hours_with_readings(from, now)?;
        Ok(Self {
            since,
            days: days(&hours, config.site.zone()),
            needed: config.training.min_new_days,
        })
    }

    /// Whether a night has something to learn from; the first finds out for itself.
    pub fn enough(&self) -> bool {
        self.since.is_none() || self.days >= self.needed
    }

    pub(super) fn sentence(&self, zone: Tz) -> String {
        match self.since {
            None => format!(
                "No night has learned yet; there are {} of readings.",
                count(self.days, "day")
            ),
            Some(since) => format!(
                "There are {} of new readings since the night of {}; {} needed.",
                count(self.days, "day"),
                minute(since, zone),
                are(self.needed)
            ),
        }
    }
}

/// Local days with at least [`HOURS_OF_A_DAY`] of these hours since the epoch.
fn days(hours: &[i64], zone: Tz) -> u32 {
    let mut days: BTreeMap<_, u32> = BTreeMap::new();
    for hour in hours {
        let local = TimestampMs(hour * HOUR_MS).to_utc().with_timezone(&zone);
        *days.entry(local.date_naive()).or_default() += 1;
    }
    days.values().filter(|h| **h >= HOURS_OF_A_DAY).count() as u32
}

/// How far a station is from its first night.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirstNight {
    /// Local days that hold readings.
    pub days: u32,
    /// Days that it needs.
    pub needed: u32,
}

/// How far the first night is.
pub fn first_night(
    reader: &Reader,
    config: &Config,
    now: TimestampMs,
) -> Result<FirstNight, StoreError> {
    let hours = reader.hours_with_readings(lookback(config, now), now)?;
    Ok(FirstNight {
        days: days(&hours, config.site.zone()),
        needed: config.training.min_days + config.training.holdback_days,
    })
}

/// What a run now would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    /// Whether it would train.
    pub would_train: bool,
    /// Why, in one sentence.
    pub reason: String,
    /// What is new.
    pub new: NewData,
    /// Readings it would learn from.
    pub rows: u64,
    /// Local days that hold them.
    pub days: u32,
    /// What is wrong with the new readings.
    pub quality: Quality,
}

/// Looks at what a run now would do, without doing it.
pub fn preview(config: &Config, now: TimestampMs, force: bool) -> Result<Preview, StoreError> {
    let reader = Reader::open(&config.store.path)?;
    let new = NewData::look(&reader, config, now)?;
    let from = lookback(config, now);
    let FirstNight { days, needed } = first_night(&reader, config, now)?;
    let (mut check, mut rows) = (Check::default(), 0);
    for sample in reader.named_samples(from, now)? {
        let (device, ts, values) = sample?;
        rows += 1;
        if new.since.is_none_or(|since| ts >= since) {
            check.push(&device, ts, &values);
        }
    }
    let (would_train, reason) = if days < needed {
        let days = count(days, "day");
        let text = "of readings; the first night needs";
        (false, format!("There are {days} {text} {needed}."))
    } else {
        (force || new.enough(), new.sentence(config.site.zone()))
    };
    Ok(Preview {
        would_train,
        reason,
        new,
        rows,
        days,
        quality: check.finish(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_counts_once_four_of_its_local_hours_hold_readings() {
        // Madrid in winter is an hour ahead: its days begin at 23:00 UTC.
        let zone = Tz::Europe__Madrid;
        let midnight = 24 * 20_100 - 1;
        assert_eq!(days(&[], zone), 0);
        assert_eq!(days(&[midnight, midnight + 1, midnight + 2], zone), 0);
        let night: Vec<i64> = (midnight - 22..midnight + 2).collect();
        assert_eq!(days(&night, zone), 1);
        let two: Vec<i64> = (midnight - 4..midnight + 4).collect();
        assert_eq!(days(&two, zone), 2);
        assert_eq!(days(&two, Tz::UTC), 1);
    }

    #[test]
    fn the_first_night_is_not_held_up_and_later_ones_need_news() {
        let first = NewData {
            since: None,
            days: 0,
            needed: 1,
        };
        assert!(first.enough());
        let later = NewData {
            since: Some(TimestampMs(0)),
            ..first
        };
        assert!(!later.enough());
        let said = later.sentence(Tz::Europe__Madrid);
        assert!(
            said.contains("0 days") && said.contains("the night of 1970-01-01 01:00"),
            "{said}"
        );
        assert!(NewData { days: 1, ..later }.enough());
    }
}
