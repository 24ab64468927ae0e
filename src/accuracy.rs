//! How published forecasts did, day by local day.

use chrono::{Days, NaiveDate};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::reading::{DeviceId, TimestampMs};
use crate::store::{LiveAccuracy, Reader, StoreError};

/// One day, device and horizon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DayAccuracy {
    /// The local day.
    pub day: NaiveDate,
    /// Whose forecasts; none: all devices together.
    pub device: Option<DeviceId>,
    /// How they did; mean absolute errors over daylight, W.
    #[serde(flatten)]
    pub accuracy: LiveAccuracy,
    /// 1 - error / error of smart persistence.
    pub skill: Option<f64>,
}

/// The newest `days` local days up to and with that of `now`, the newest first; within a day by horizon,
/// all devices together first. A day without a settled forecast is left out.
pub fn by_day(
    reader: &Reader,
    zone: Tz,
    now: TimestampMs,
    days: u32,
) -> Result<Vec<DayAccuracy>, StoreError> {
    let mut rows = Vec::new();
    for (day, from, to) in local_days(zone, now, days) {
        rows.extend(
            reader
                .accuracy(from, to)?
                .into_iter()
                .map(|row| DayAccuracy {
                    day,
                    device: row.device,
                    skill: row.accuracy.skill(),
                    accuracy: row.accuracy,
                }),
        );
    }
    Ok(rows)
}

/// Local days, the newest first, with their beginning and end.
pub fn local_days(
    zone: Tz,
    now: TimestampMs,
    days: u32,
) -> Vec<(NaiveDate, TimestampMs, TimestampMs)> {
    let today = now.to_utc().with_timezone(&zone).date_naive();
    (0..u64::from(days))
        .map_while(|back| {
            let day = today.checked_sub_days(Days::new(back))?;
            Some((day, midnight(zone, day), midnight(zone, day.succ_opt()?)))
        })
        .collect()
}

/// The first instant of a local day; where summer time leaves midnight out, the first after it.
pub fn midnight(zone: Tz, day: NaiveDate) -> TimestampMs {
    let wall = day.and_time(chrono::NaiveTime::MIN);
    let found = (0..=24).find_map(|quarters| {
        let wall = wall + chrono::TimeDelta::minutes(15 * quarters);
        wall.and_local_timezone(zone).earliest()
    });
    found.map_or(TimestampMs(wall.and_utc().timestamp_millis()), |t| {
        t.to_utc().into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_days_meet_and_are_as_long_as_the_clock_says() {
        // Havana's summer time begins at midnight: 2026-03-08 has no 00:00 and 23 hours.
        let now: TimestampMs = "2026-03-09T12:00:00Z".parse().unwrap();
        let days = local_days(Tz::America__Havana, now, 3);
        let hours: Vec<_> = days.iter().map(|d| (d.2.0 - d.1.0) / 3_600_000).collect();
        assert_eq!(hours, [24, 23, 24]);
        assert!(days.windows(2).all(|pair| pair[0].1 == pair[1].2));
        assert_eq!(days[1].0.to_string(), "2026-03-08");
        assert_eq!(days[1].1.to_string(), "2026-03-08T05:00:00Z");
        assert_eq!(
            local_days(Tz::UTC, now, 1)[0].1.to_string(),
            "2026-03-09T00:00:00Z"
        );
    }
}
