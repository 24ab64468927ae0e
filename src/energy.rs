//! The energy a device will still give today, and tomorrow: its clear-day profile of the last fortnight times how clear it is.
//!
//! For each hour of the day the profile is the 0.9 quantile of that hour's mean power over the last
//! [`DAYS`] days. `k`, power over profile, is followed back to its mean of those days:
//! `k(h) = mean + (now - mean) * RHO^h`, `h` hours ahead, with `now` taken over the last [`NOW_HOURS`] hours
//! of light (a first-order autoregressive process). `nightwatt backtest --energy` measures the error.

use crate::features::quantile_of_sorted;
use crate::reading::TimestampMs;

const HOUR_MS: i64 = 3_600_000;
/// Days the profile looks back.
pub const DAYS: i64 = 14;
/// Fewer days say nothing yet.
pub const LEAST_DAYS: usize = 3;
const QUANTILE: f64 = 0.9;
/// An hour is light where the profile has this share of its greatest.
const LIGHT: f64 = 0.05;
/// Light hours that `now` is taken over.
const NOW_HOURS: usize = 3;
/// How much of a departure from the mean is left after an hour.
const RHO: f64 = 0.8;

/// Mean power of one hour: hours since the epoch, W.
pub type Hour = (i64, f64);

/// What is expected, Wh.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// From now until the end of the local day.
    pub left_today_wh: f64,
    /// In the local day after.
    pub tomorrow_wh: f64,
}

/// The outlook at `now` from hours in rising order, those of the last [`DAYS`] days and today; what is
/// not before the current hour is left out. `today_end` and `tomorrow_end` are the local midnights
/// that follow. Nothing before there are three days with light.
pub fn outlook(
    hours: &[Hour],
    now: TimestampMs,
    today_end: TimestampMs,
    tomorrow_end: TimestampMs,
) -> Option<Outlook> {
    let current = now.0.div_euclid(HOUR_MS);
    let first = current - DAYS * 24;
    let known = |hours: &[Hour]| -> Vec<Hour> {
        let inside = |(hour, w): &&Hour| (first..current).contains(hour) && w.is_finite();
        hours.iter().filter(inside).copied().collect()
    };
    let past = known(hours);
    let profile = profile(&past);
    let greatest = profile.iter().copied().fold(0.0, f64::max);
    if greatest <= 0.0 {
        return None;
    }
    let at = |hour: i64| profile[hour.rem_euclid(24) as usize];
    let is_light = |(hour, _): &&Hour| at(*hour) >= LIGHT * greatest;
    let share = |hours: &mut dyn Iterator<Item = &Hour>| {
        let (mut power, mut clear) = (0.0, 0.0);
        for (hour, w) in hours {
            power += w.max(0.0);
            clear += at(*hour);
        }
        (clear > 0.0).then(|| power / clear)
    };
    let mean = share(&mut past.iter().filter(is_light))?;
    let recent = |(hour, _): &&Hour| current - hour <= 24;
    let newest = past.iter().rev().filter(is_light).filter(recent);
    let now_k = share(&mut newest.take(NOW_HOURS)).unwrap_or(mean);
    let expected_wh = |from: TimestampMs, to: TimestampMs| {
        let (first, last) = (from.0.div_euclid(HOUR_MS), (to.0 - 1).div_euclid(HOUR_MS));
        (first..=last)
            .map(|hour| {
                let begin = (hour * HOUR_MS).max(from.0);
                let end = ((hour + 1) * HOUR_MS).min(to.0);
                let k = mean + (now_k - mean) * RHO.powi((hour - current).max(0) as i32);
                at(hour) * k.max(0.0) * (end - begin).max(0) as f64 / HOUR_MS as f64
            })
            .sum()
    };
    Some(Outlook {
        left_today_wh: expected_wh(now, today_end.max(now)),
        tomorrow_wh: expected_wh(today_end, tomorrow_end),
    })
}

/// For each hour of the day (UTC) what a clear one gives, W; nothing at all before there are enough days.
fn profile(past: &[Hour]) -> [f64; 24] {
    let mut clear = [0.0; 24];
    let mut by_hour: [Vec<f64>; 24] = Default::default();
    for (hour, w) in past {
        by_hour[hour.rem_euclid(24) as usize].push(w.max(0.0));
    }
    for (hour, values) in by_hour.iter_mut().enumerate() {
        if values.len() >= LEAST_DAYS {
            values.sort_by(f64::total_cmp);
            clear[hour] = quantile_of_sorted(values, QUANTILE);
        }
    }
    clear
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Days of 100 W from 6:00 to 18:00 UTC, times `k` of each day, up to `until` hours.
    fn hours(k: &[f64], until: i64) -> Vec<Hour> {
        let of = |hour: i64| {
            let light = (6..18).contains(&(hour % 24));
            let day = (hour / 24) as usize;
            (hour, if light { 100.0 * k[day] } else { 0.0 })
        };
        (0..until).map(of).collect()
    }

    fn at(hour: i64) -> TimestampMs {
        TimestampMs(hour * HOUR_MS)
    }

    #[test]
    fn under_steady_sun_what_is_left_is_what_the_clock_says() {
        let noon = 5 * 24 + 12;
        let o = outlook(&hours(&[1.0; 6], noon), at(noon), at(144), at(168)).unwrap();
        assert!((o.left_today_wh - 600.0).abs() < 1e-6, "{o:?}");
        assert!((o.tomorrow_wh - 1200.0).abs() < 1e-6, "{o:?}");
        let half = at(noon).plus_min(30);
        let o = outlook(&hours(&[1.0; 6], noon), half, at(144), at(168)).unwrap();
        assert!((o.left_today_wh - 550.0).abs() < 1e-6, "{o:?}");
        let night = outlook(&hours(&[1.0; 6], 140), at(140), at(144), at(168)).unwrap();
        assert_eq!(night.left_today_wh, 0.0);
    }

    #[test]
    fn a_dull_morning_makes_a_duller_rest_of_the_day_and_hardly_tomorrow() {
        let noon = 9 * 24 + 12;
        let mut k = [1.0; 10];
        k[9] = 0.2;
        let o = outlook(&hours(&k, noon), at(noon), at(240), at(264)).unwrap();
        assert!(
            o.left_today_wh > 0.2 * 600.0 && o.left_today_wh < 0.7 * 600.0,
            "{o:?}"
        );
        assert!(
            o.tomorrow_wh > 0.8 * 1200.0 && o.tomorrow_wh < 1200.0,
            "{o:?}"
        );
    }

    #[test]
    fn it_is_unknown_before_there_are_three_days_and_without_power() {
        assert_eq!(outlook(&hours(&[1.0; 2], 48), at(48), at(72), at(96)), None);
        assert_eq!(
            outlook(&hours(&[0.0; 9], 200), at(200), at(216), at(240)),
            None
        );
        assert_eq!(outlook(&[], at(0), at(24), at(48)), None);
    }

    #[test]
    fn what_lies_in_the_future_changes_nothing() {
        let noon = 5 * 24 + 12;
        let with = outlook(&hours(&[1.0; 6], 144), at(noon), at(144), at(168));
        let without = outlook(&hours(&[1.0; 6], noon), at(noon), at(144), at(168));
        assert_eq!(with, without);
    }
}
