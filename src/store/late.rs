//! Readings that come in after their hour was summed up, so that it is summed up again.

use std::sync::{Mutex, PoisonError};

use super::retention::HOUR_MS;
use crate::reading::TimestampMs;

/// What the writer tells those who sum hours up.
#[derive(Debug, Default)]
pub struct Late(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Hours before this are summed up; until it is known nothing is late.
    summed_up_until: Option<TimestampMs>,
    /// The first and the last of the readings that came later.
    span: Option<(TimestampMs, TimestampMs)>,
}

impl Late {
    /// Hours before this are summed up.
    pub fn summed_up_until(&self, until: TimestampMs) {
        self.state().summed_up_until = Some(until);
    }

    /// Readings of these times are in the store.
    pub fn stored(&self, times: impl Iterator<Item = TimestampMs>) {
        let mut state = self.state();
        let Some(until) = state.summed_up_until else {
            return;
        };
        for t in times.filter(|t| *t < until) {
            let (first, last) = state.span.unwrap_or((t, t));
            state.span = Some((first.min(t), last.max(t)));
        }
    }

    /// What is to be summed up again: from the first, until the end of the hour of the last. Told once.
    pub fn take(&self) -> Option<(TimestampMs, TimestampMs)> {
        let (first, last) = self.state().span.take()?;
        let end = last.0 - last.0.rem_euclid(HOUR_MS) + HOUR_MS;
        Some((first, TimestampMs(end)))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_after_its_hour_was_summed_up_is_late_and_told_once() {
        let late = Late::default();
        let at = |minutes: i64| TimestampMs(minutes * 60_000);
        late.stored([at(5)].into_iter());
        assert_eq!(late.take(), None, "nothing is summed up yet");
        late.summed_up_until(at(180));
        late.stored([at(180), at(200)].into_iter());
        assert_eq!(late.take(), None, "news");
        late.stored([at(70), at(30), at(300)].into_iter());
        late.stored([at(61)].into_iter());
        assert_eq!(late.take(), Some((at(30), at(120))));
        assert_eq!(late.take(), None);
    }
}
