//! Numbers with their words, text that a terminal may have, and times as the site's clocks show them.

use chrono_tz::Tz;

use crate::reading::TimestampMs;

/// `1 day`, `2 days`.
pub fn count(n: impl TryInto<u64>, one: &str) -> String {
    // Nothing that is counted is negative.
    let n = n.try_into().unwrap_or(0);
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// `1 is`, `2 are`.
pub fn are(n: u32) -> String {
    format!("{n} {}", if n == 1 { "is" } else { "are" })
}

/// `2026-06-03 14:00`.
pub fn minute(ts: TimestampMs, zone: Tz) -> String {
    local(ts, zone, "%Y-%m-%d %H:%M")
}

/// A time of the site's zone as `format` says.
pub fn local(ts: TimestampMs, zone: Tz, format: &str) -> String {
    ts.to_utc().with_timezone(&zone).format(format).to_string()
}

/// Without what a terminal would obey: topics and payloads are written by others.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        })
        .collect()
}

/// At most so many characters.
pub fn clip(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_the_sites_own_clock() {
        let ts = "2026-06-03T12:00:30Z".parse().unwrap();
        assert_eq!(minute(ts, Tz::Europe__Madrid), "2026-06-03 14:00");
        assert_eq!(local(ts, Tz::UTC, "%H:%M:%S"), "12:00:30");
    }

    #[test]
    fn one_is_one_and_everything_else_is_many() {
        assert_eq!(count(0, "day"), "0 days");
        assert_eq!(count(1_i64, "day"), "1 day");
        assert_eq!(count(2_usize, "day"), "2 days");
    }
}
