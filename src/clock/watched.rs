//! The wall clock under observation: everyone asks it whether it is trusted, one task keeps looking.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Clock, Evidence, Glance, Trust, plausible};
use crate::reading::TimestampMs;

/// How often the system is asked what it knows; a clock chip answers over a slow bus.
const ASK_MS: i64 = 10_000;

/// A clock whose [`Clock::trusted`] is the judgement of the last look at it.
pub struct WatchedClock {
    clock: Arc<dyn Clock>,
    trusted: AtomicBool,
    state: Mutex<State>,
}

struct State {
    trust: Trust,
    asked_ms: i64,
    evidence: Evidence,
}

/// Puts `clock` under observation and looks at it once; `seen` is the time believed last before.
pub fn watch(clock: Arc<dyn Clock>, seen: Option<TimestampMs>) -> Arc<WatchedClock> {
    let state = State {
        trust: Trust::new(seen),
        asked_ms: clock.running_ms(),
        evidence: clock.evidence(),
    };
    let watched = WatchedClock {
        clock,
        trusted: AtomicBool::new(false),
        state: Mutex::new(state),
    };
    watched.look();
    Arc::new(watched)
}

impl WatchedClock {
    /// Looks at the clock; returns by how far it was set since the last look, ms.
    pub fn look(&self) -> Option<i64> {
        let mut state = self.state();
        let running_ms = self.clock.running_ms();
        if running_ms - state.asked_ms >= ASK_MS {
            state.asked_ms = running_ms;
            state.evidence = self.clock.evidence();
        }
        let evidence = state.evidence;
        let jump = state.trust.look(Glance {
            now: self.clock.now(),
            running_ms,
            evidence,
        });
        self.trusted.store(state.trust.trusted(), Ordering::Relaxed);
        jump
    }

    /// See [`Trust::calm_ms`].
    pub fn calm_ms(&self) -> i64 {
        self.state().trust.calm_ms()
    }

    /// See [`Trust::seen`].
    pub fn seen(&self) -> Option<TimestampMs> {
        self.state().trust.seen()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for WatchedClock {
    fn now(&self) -> TimestampMs {
        self.clock.now()
    }

    fn trusted(&self) -> bool {
        self.trusted.load(Ordering::Relaxed) && plausible(self.now())
    }

    fn running_ms(&self) -> i64 {
        self.clock.running_ms()
    }

    fn evidence(&self) -> Evidence {
        self.clock.evidence()
    }
}
