//! Time as an argument: the wall clock behind a trait, so that tests can set, step and stop it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::reading::TimestampMs;

/// No wall clock is right before this version was written; a board without a battery starts there.
const WRITTEN: TimestampMs = TimestampMs(1_793_491_200_000);

/// Whether a wall-clock time can be right at all.
pub fn plausible(now: TimestampMs) -> bool {
    now >= WRITTEN
}

/// Wall-clock time. Timeouts and back-off use monotonic time and never this.
pub trait Clock: Send + Sync {
    /// The time now, UTC.
    fn now(&self) -> TimestampMs;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_stands_still_until_it_is_set() {
        let clock = ManualClock::new(TimestampMs(5));
        assert_eq!(clock.now(), TimestampMs(5));
        clock.set(TimestampMs(3));
        assert_eq!(clock.now(), TimestampMs(3));
        assert!(plausible(SystemClock.now()) && !plausible(TimestampMs(0)));
        assert!(SystemClock.now() > TimestampMs(1_700_000_000_000));
    }
}
