//! Time as an argument: the wall clock behind a trait, so that tests can set, step and stop it.

mod trust;
mod watched;

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{Days, TimeZone};
use chrono_tz::Tz;

pub use trust::{Evidence, Glance, Trust};
pub use watched::{WatchedClock, watch};

use crate::reading::TimestampMs;

/// No wall clock is right before this version was written; a board without a battery starts there.
pub const WRITTEN: TimestampMs = TimestampMs(1_793_491_200_000);

/// Whether a wall-clock time can be right at all.
pub fn plausible(now: TimestampMs) -> bool {
    now >= WRITTEN
}

/// What is to be thought of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its time is before this version was written.
    Impossible,
    /// Its time may be right, and nobody says so.
    Doubtful,
    /// It is taken to be right.
    Believed,
}

impl Standing {
    /// From whether its time can be right, and whether it is doubted all the same.
    pub fn of(plausible: bool, doubtful: bool) -> Self {
        match (plausible, doubtful) {
            (false, _) => Self::Impossible,
            (true, true) => Self::Doubtful,
            (true, false) => Self::Believed,
        }
    }

    /// The words for it, the same everywhere.
    pub fn words(self) -> &'static str {
        match self {
            Self::Impossible => "cannot be right",
            Self::Doubtful => "nothing confirms it",
            Self::Believed => "believed",
        }
    }
}

/// Wall-clock time. Timeouts and back-off use monotonic time and never this.
pub trait Clock: Send + Sync {
    /// The time now, UTC.
    fn now(&self) -> TimestampMs;

    /// Whether [`Clock::now`] is believed to be right.
    fn trusted(&self) -> bool {
        plausible(self.now())
    }

    /// Milliseconds that have passed since some moment, suspends included; never goes back.
    fn running_ms(&self) -> i64;

    /// What the system says of its clock.
    fn evidence(&self) -> Evidence;
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> TimestampMs {
        // A clock before 1970 reads as 1970: such a clock is not trusted anyway.
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        TimestampMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn running_ms(&self) -> i64 {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        t.tv_sec * 1000 + t.tv_nsec / 1_000_000
    }

    /// adjtimex would say it best, but a service with ProtectClock may not call it, so the files speak:
    /// what timesyncd leaves behind, and a clock chip that has kept its time.
    fn evidence(&self) -> Evidence {
        evidence_below(Path::new("/"))
    }
}

fn evidence_below(root: &Path) -> Evidence {
    if root.join("run/systemd/timesync/synchronized").exists() {
        return Evidence::Synchronised;
    }
    // A chip without a battery starts in 1970 or 2000.
    let chip = std::fs::read_to_string(root.join("sys/class/rtc/rtc0/since_epoch"));
    let chip_s: Option<i64> = chip.ok().and_then(|text| text.trim().parse().ok());
    let chip_keeps_time = chip_s.is_some_and(|s| plausible(TimestampMs(s.saturating_mul(1000))));
    let timesyncd_runs = root.join("run/systemd/timesync").exists();
    if timesyncd_runs && !chip_keeps_time {
        Evidence::Unsynchronised
    } else {
        Evidence::Unknown
    }
}

/// A clock that only moves when told to; for tests and for simulated time.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock standing at `start`.
    pub fn new(start: TimestampMs) -> Self {
        Self(AtomicI64::new(start.0))
    }

    /// Moves the clock to `now`, forwards or backwards.
    pub fn set(&self, now: TimestampMs) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> TimestampMs {
        TimestampMs(self.0.load(Ordering::SeqCst))
    }

    /// The same time, so that setting it forwards is time passing and no jump.
    fn running_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn evidence(&self) -> Evidence {
        Evidence::Synchronised
    }
}

/// The next two local midnights.
pub fn midnights(now: TimestampMs, zone: Tz) -> Option<(TimestampMs, TimestampMs)> {
    let today = now.to_utc().with_timezone(&zone).date_naive();
    let midnight = |days| {
        let naive = today
            .checked_add_days(Days::new(days))?
            .and_hms_opt(0, 0, 0)?;
        // Where summer time begins at midnight the day begins an hour later.
        let found = zone.from_local_datetime(&naive).earliest();
        let found = found.or_else(|| {
            let later = naive + chrono::TimeDelta::hours(1);
            zone.from_local_datetime(&later).earliest()
        });
        found.map(|t| TimestampMs(t.timestamp_millis()))
    };
    Some((midnight(1)?, midnight(2)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn midnights_are_those_of_the_zone_also_when_the_clocks_change() {
        let at =
            |text: &str| TimestampMs::from(text.parse::<chrono::DateTime<chrono::Utc>>().unwrap());
        let zone = chrono_tz::Europe::Madrid;
        let found = midnights(at("2026-03-28T12:00:00Z"), zone).unwrap();
        // Summer time begins on the 29th: that day has 23 hours.
        assert_eq!(
            found,
            (at("2026-03-28T23:00:00Z"), at("2026-03-29T22:00:00Z"))
        );
    }

    #[test]
    fn a_manual_clock_stands_still_until_it_is_set() {
        let clock = ManualClock::new(TimestampMs(5));
        assert_eq!(clock.now(), TimestampMs(5));
        clock.set(TimestampMs(3));
        assert_eq!(clock.now(), TimestampMs(3));
        assert!(plausible(SystemClock.now()) && !plausible(TimestampMs(0)));
        assert!(SystemClock.now() > TimestampMs(1_700_000_000_000));
        assert!(SystemClock.running_ms() <= SystemClock.running_ms());
    }

    #[test]
    fn the_system_says_what_it_knows_of_its_clock() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let evidence = || evidence_below(root.path());
        assert_eq!(evidence(), Evidence::Unknown, "nobody to ask");
        std::fs::create_dir_all(root.path().join("run/systemd/timesync")).unwrap();
        assert_eq!(evidence(), Evidence::Unsynchronised);
        at("sys/class/rtc/rtc0/since_epoch", "946684800\n");
        assert_eq!(evidence(), Evidence::Unsynchronised, "a flat battery");
        at("sys/class/rtc/rtc0/since_epoch", "1893456000\n");
        assert_eq!(evidence(), Evidence::Unknown);
        at("run/systemd/timesync/synchronized", "");
        assert_eq!(evidence(), Evidence::Synchronised);
    }
}
