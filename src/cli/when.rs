//! Times as people read and write them: those of the site's zone.

use std::str::FromStr;

use chrono::{DateTime, NaiveDate};
use chrono_tz::Tz;

use crate::accuracy::midnight;
use crate::reading::TimestampMs;
use crate::words::local;

/// To the second, in the site's zone.
pub(super) fn second(ts: TimestampMs, zone: Tz) -> String {
    local(ts, zone, "%Y-%m-%d %H:%M:%S")
}

/// What a table with times begins with.
pub(crate) fn times_of(zone: Tz) -> String {
    format!("times of {zone}\n")
}

/// A time somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Moment {
    /// RFC 3339.
    Instant(TimestampMs),
    /// A date: its midnight at the site.
    Midnight(NaiveDate),
}

impl Moment {
    /// When that is for a site of this zone.
    pub(super) fn at(self, zone: Tz) -> TimestampMs {
        match self {
            Moment::Instant(ts) => ts,
            Moment::Midnight(day) => midnight(zone, day),
        }
    }
}

impl FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(day) = text.parse() {
            return Ok(Moment::Midnight(day));
        }
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| {
            "accepted: a date (2026-11-20: its midnight at the site) or a time with its zone \
             (2026-11-20T08:30:00+01:00)"
        })?;
        Ok(Moment::Instant(time.to_utc().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_its_midnight_at_the_site_and_a_time_is_what_it_says() {
        let at = |text: &str, zone| text.parse::<Moment>().map(|m| m.at(zone).to_string());
        let madrid = chrono_tz::Europe::Madrid;
        assert_eq!(at("2026-11-20", madrid).unwrap(), "2026-11-19T23:00:00Z");
        assert_eq!(at("2026-06-20", madrid).unwrap(), "2026-06-19T22:00:00Z");
        assert_eq!(at("2026-11-20", Tz::UTC).unwrap(), "2026-11-20T00:00:00Z");
        // A day that has no midnight begins when its clocks do.
        let santiago = chrono_tz::America::Santiago;
        assert_eq!(at("2026-09-06", santiago).unwrap(), "2026-09-06T04:00:00Z");
        let time = "2026-11-20T08:30:00+01:00";
        assert_eq!(at(time, santiago).unwrap(), "2026-11-20T07:30:00Z");
        for wrong in ["", "yesterday", "2026-11-31", "2026-11-20T08:30:00"] {
            assert!(at(wrong, madrid).is_err(), "{wrong}");
        }
    }
}
