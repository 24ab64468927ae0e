//! When nights are due: cron expressions and intervals (pure), the decision to run one (pure), the minute tick.

mod decide;
mod ticker;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

pub use decide::{AHEAD_MS, CatchUp, Log, Moment, Night, Policy, Reason, Step, Tried, decide};
pub use ticker::Ticker;

use crate::reading::TimestampMs;

const HOUR_MS: i64 = 3_600_000;
/// Occurrences closer together than this are refused: a night needs the time.
const LEAST_SPACING_MS: i64 = HOUR_MS;
/// An expression without an occurrence in this long never has one (30 February).
const LONGEST_WAIT_DAYS: i64 = 5 * 366;
/// An occurrence this long past was missed; less is the tick's own delay.
const ON_TIME_MS: i64 = 5 * 60_000;

/// When to train.
#[derive(Clone)]
pub enum Schedule {
    /// Wall-clock times in the station's zone.
    Cron(Box<Cron>),
    /// A fixed number of hours apart.
    Every {
        /// Hours between occurrences, 1 … 720.
        hours: u32,
    },
}

impl Default for Schedule {
    /// 02:00 every day.
    fn default() -> Self {
        "0 2 * * *".parse().expect("the default schedule is valid")
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Schedule::Cron(cron) => f.write_str(cron.as_str()),
            Schedule::Every { hours } => write!(f, "every {hours}h"),
        }
    }
}

/// Why a schedule was refused.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// Neither form.
    #[error("not five cron fields (minute hour day month weekday) or \"every <n>h\": {0}")]
    Syntax(String),
    /// An interval out of range.
    #[error("accepted: every 1h … every 720h")]
    Interval,
    /// Valid, but it never happens.
    #[error("this never happens within five years")]
    Never,
    /// Happens too often.
    #[error("occurrences must be at least one hour apart")]
    TooOften,
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        if let Some(interval) = text.trim().strip_prefix("every ") {
            let hours = interval
                .trim()
                .strip_suffix('h')
                .and_then(|n| n.trim().parse().ok());
            return match hours {
                Some(hours @ 1..=720) => Ok(Schedule::Every { hours }),
                _ => Err(ScheduleError::Interval),
            };
        }
        let cron = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build()
            .parse(text)
            .map_err(|e| ScheduleError::Syntax(e.to_string()))?;
        check_spacing(&cron)?;
        Ok(Schedule::Cron(Box::new(cron)))
    }
}

impl<'de> serde::Deserialize<'de> for Schedule {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

fn check_spacing(cron: &Cron) -> Result<(), ScheduleError> {
    // A leap day is at most eight years away; five years from 2027 hold one.
    let start = Utc
        .with_ymd_and_hms(2027, 1, 1, 0, 0, 0)
        .single()
        .ok_or(ScheduleError::Never)?;
    let mut last: Option<DateTime<Utc>> = None;
    for next in cron.iter_after(start).take(50) {
        if (next - start).num_days() > LONGEST_WAIT_DAYS {
            break;
        }
        if last.is_some_and(|l| (next - l).num_milliseconds() < LEAST_SPACING_MS) {
            return Err(ScheduleError::TooOften);
        }
        last = Some(next);
    }
    last.map(drop).ok_or(ScheduleError::Never)
}

/// An occurrence that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The scheduled moment; stored with the run, so that it never runs twice.
    pub nominal: TimestampMs,
    /// True where its time passed without anybody noticing.
    pub late: bool,
}

/// The latest occurrence after `since` that has come, if any.
///
/// `since` is the nominal moment of the last run, or the first reading's time before there was one.
/// However many occurrences were missed there is one run: the latest stands for all of them. Summer
/// time is croner's: a time that does not exist runs at the first instant after the gap, a time that
/// comes twice runs once.
pub fn due(schedule: &Schedule, zone: Tz, since: TimestampMs, now: TimestampMs) -> Option<Due> {
    let nominal = match schedule {
        Schedule::Every { hours } => {
            let step = i64::from(*hours) * HOUR_MS;
            let n = (now.0 - since.0).div_euclid(step);
            (n >= 1).then(|| since.plus_ms(n * step))
        }
        Schedule::Cron(cron) => {
            // Looking further back cannot change which occurrence is the latest, as long as the
            // window holds one; the rarest schedule has one in five years.
            let back = |days: i64| since.max(now.plus_ms(-days * 24 * HOUR_MS));
            let mut windows: Vec<_> = [2, 40, LONGEST_WAIT_DAYS].map(back).into();
            windows.dedup();
            windows
                .into_iter()
                .find_map(|from| latest(cron, zone, from, now))
        }
    }?;
    Some(Due {
        nominal,
        late: now.0 - nominal.0 > ON_TIME_MS,
    })
}

/// The next occurrence after `now`, for `status`.
pub fn next(
    schedule: &Schedule,
    zone: Tz,
    since: TimestampMs,
    now: TimestampMs,
) -> Option<TimestampMs> {
    match schedule {
        Schedule::Every { hours } => {
            let step = i64::from(*hours) * HOUR_MS;
            Some(since.plus_ms(((now.0 - since.0).div_euclid(step) + 1).max(1) * step))
        }
        Schedule::Cron(cron) => {
            let local = now.to_utc().with_timezone(&zone);
            cron.find_next_occurrence(&local, false)
                .ok()
                .map(|t| t.to_utc().into())
        }
    }
}

fn latest(cron: &Cron, zone: Tz, from: TimestampMs, now: TimestampMs) -> Option<TimestampMs> {
    cron.iter_after(from.to_utc().with_timezone(&zone))
        .map(|t| TimestampMs::from(t.to_utc()))
        .take_while(|t| *t <= now)
        .last()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(text: &str) -> TimestampMs {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc().into()
    }

    fn nightly() -> Schedule {
        Schedule::default()
    }

    #[test]
    fn runs_at_its_time_once_and_not_before() {
        let zone = Tz::UTC;
        let last = t("2026-06-01T02:00:00Z");
        assert_eq!(due(&nightly(), zone, last, t("2026-06-02T01:59:59Z")), None);
        let d = due(&nightly(), zone, last, t("2026-06-02T02:00:10Z")).unwrap();
        assert_eq!(
            d,
            Due {
                nominal: t("2026-06-02T02:00:00Z"),
                late: false
            }
        );
        assert_eq!(
            due(&nightly(), zone, d.nominal, t("2026-06-02T02:01:10Z")),
            None
        );
        // The clock goes back an hour just after the run.
        assert_eq!(
            due(&nightly(), zone, d.nominal, t("2026-06-02T01:01:10Z")),
            None
        );
    }

    #[test]
    fn ten_days_off_are_one_catch_up() {
        let last = t("2026-06-01T02:00:00Z");
        let now = t("2026-06-11T09:00:00Z");
        let d = due(&nightly(), Tz::UTC, last, now).unwrap();
        assert_eq!(
            d,
            Due {
                nominal: t("2026-06-11T02:00:00Z"),
                late: true
            }
        );
        assert_eq!(due(&nightly(), Tz::UTC, d.nominal, now), None);
    }

    #[test]
    fn one_run_per_local_day_across_both_clock_changes() {
        for zone in [
            Tz::Europe__Paris,
            Tz::America__New_York,
            Tz::Australia__Lord_Howe,
        ] {
            for schedule in ["0 2 * * *", "30 2 * * *", "30 1 * * *", "0 0 * * *"] {
                let schedule: Schedule = schedule.parse().unwrap();
                let mut last = t("2026-01-01T12:00:00Z");
                let mut runs = 0;
                let mut now = last;
                while now < t("2027-01-01T12:00:00Z") {
                    now = now.plus_min(30);
                    if let Some(d) = due(&schedule, zone, last, now) {
                        assert!(!d.late, "{zone} {schedule} {now}");
                        last = d.nominal;
                        runs += 1;
                    }
                }
                assert_eq!(runs, 365, "{zone} {schedule}");
            }
        }
    }

    #[test]
    fn intervals_count_from_the_last_run() {
        let every: Schedule = "every 6h".parse().unwrap();
        let last = t("2026-06-01T03:00:00Z");
        assert_eq!(due(&every, Tz::UTC, last, t("2026-06-01T08:59:00Z")), None);
        let d = due(&every, Tz::UTC, last, t("2026-06-02T10:00:00Z")).unwrap();
        assert_eq!(
            d,
            Due {
                nominal: t("2026-06-02T09:00:00Z"),
                late: true
            }
        );
        assert_eq!(
            next(&every, Tz::UTC, last, d.nominal),
            Some(t("2026-06-02T15:00:00Z"))
        );
    }

    #[test]
    fn what_is_refused_says_why() {
        for (text, part) in [
            ("0 25 * * *", "hour"),
            ("0 0 2 * * *", "five"),
            ("* * * * *", "one hour apart"),
            ("0 2 30 2 *", "never happens"),
            ("every 0h", "every 1h"),
            ("every day", "every 1h"),
            ("", "five"),
        ] {
            let said = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(said.contains(part), "{text:?}: {said}");
        }
    }

    #[test]
    fn the_next_night_is_local() {
        let n = next(
            &nightly(),
            Tz::Europe__Paris,
            TimestampMs(0),
            t("2026-06-01T12:00:00Z"),
        );
        assert_eq!(n, Some(t("2026-06-02T00:00:00Z")));
    }
}
