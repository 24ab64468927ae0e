//! The minute tick: clokwerk in UTC on a clock that only runs, because its own local times panic across summer time.

use std::sync::OnceLock;

use chrono::{DateTime, TimeZone, Utc};
use clokwerk::timeprovider::TimeProvider;
use clokwerk::{Interval, Scheduler};

use crate::clock::{Clock, SystemClock};

/// The time at start plus what has passed since, suspends included: never goes back, never jumps.
struct SinceStart;

impl TimeProvider for SinceStart {
    fn now<Z: TimeZone + Sync + Send>(zone: &Z) -> DateTime<Z> {
        static START: OnceLock<(DateTime<Utc>, i64)> = OnceLock::new();
        let running_ms = SystemClock.running_ms();
        let (wall, start_ms) = START.get_or_init(|| (Utc::now(), running_ms));
        let passed = chrono::Duration::milliseconds(running_ms - start_ms);
        (*wall + passed).with_timezone(zone)
    }
}

/// Calls a closure once a minute of running time, whatever the wall clock does.
pub struct Ticker(Scheduler<Utc, SinceStart>);

impl Ticker {
    /// A ticker that runs `tick` from [`Ticker::run_pending`] each time a minute has passed.
    pub fn every_minute(tick: impl FnMut() + Send + 'static) -> Self {
        let mut scheduler = Scheduler::with_tz_and_provider(Utc);
        scheduler.every(Interval::Minutes(1)).run(tick);
        Self(scheduler)
    }

    /// Runs the closure if its minute has passed; call it every second or so.
    pub fn run_pending(&mut self) {
        self.0.run_pending();
    }
}
