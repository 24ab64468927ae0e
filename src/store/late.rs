//! Up to where hours are summed up for good: lowered by each reading that comes later, across restarts too.
//!
//! Everything happens on the writer's thread but [`Late::begin`], so that what is committed beside a pass is
//! either seen by it or noted here.

use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};

use super::retention::hour_of;
use crate::reading::TimestampMs;

/// Where it is kept.
const KEY: &str = "summed_up_until";

/// What the writer tells those who sum hours up.
#[derive(Debug, Default)]
pub struct Late(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Hours that ended by then are summed up as they are; `None` before the first pass.
    until: Option<i64>,
    /// The last reading that lowered it; unknown of those before the start.
    last: Option<i64>,
    pass: Option<Pass>,
}

/// Hours are being summed up.
#[derive(Debug)]
struct Pass {
    until: i64,
    /// First and last of the readings that came in meanwhile.
    came: Option<(i64, i64)>,
}

/// What there is to sum up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// From this hour on; `None` where nothing is known to be right.
    pub from: Option<TimestampMs>,
    /// Up to the end of this one's hour; `None` where that is not known.
    pub last: Option<TimestampMs>,
}

impl Late {
    /// Takes up what an earlier process has left.
    pub(super) fn load(&self, conn: &Connection) -> rusqlite::Result<()> {
        let kept: Option<String> = conn
            .query_row("SELECT value FROM meta WHERE key = ?1", [KEY], |r| r.get(0))
            .optional()?;
        self.state().until = kept.and_then(|text| text.parse().ok());
        Ok(())
    }

    /// In the transaction that writes them: the first reading is of this time.
    pub(super) fn write(&self, tx: &Connection, first: i64) -> rusqlite::Result<()> {
        match self.state().until {
            Some(until) if first < until => tx
                .execute(
                    "UPDATE meta SET value = min(CAST(value AS INTEGER), ?2) WHERE key = ?1",
                    params![KEY, hour_of(first)],
                )
                .map(drop),
            _ => Ok(()),
        }
    }

    /// Readings from `first` to `last` are in the store.
    pub(super) fn stored(&self, first: i64, last: i64) {
        let mut state = self.state();
        if let Some(until) = state.until.filter(|until| first < *until) {
            let late = last.min(until - 1);
            state.last = state.last.map(|known| known.max(late));
            state.until = Some(hour_of(first));
        }
        if let Some(pass) = state.pass.as_mut().filter(|pass| first < pass.until) {
            let (a, b) = pass.came.unwrap_or((first, last));
            pass.came = Some((a.min(first), b.max(last)));
        }
    }

    /// What has to be summed up again for all before `until` to be right; `None` where it is.
    pub fn due(&self, until: TimestampMs) -> Option<Span> {
        let state = self.state();
        let behind = state.until.is_none_or(|known| known < until.0);
        behind.then(|| Span {
            from: state.until.map(TimestampMs),
            last: state.last.filter(|t| *t != i64::MIN).map(TimestampMs),
        })
    }

    /// Hours before `until` are summed up from now on; before the first of them is read.
    pub fn begin(&self, until: TimestampMs) {
        let mut state = self.state();
        // Unknown, should this pass not come to its end.
        state.last = None;
        state.pass = Some(Pass {
            until: hour_of(until.0),
            came: None,
        });
    }

    /// In a transaction after the last of them: what came in meanwhile is due again.
    pub(super) fn end(&self, tx: &Connection) -> rusqlite::Result<()> {
        let mut state = self.state();
        let Some(Pass { until, came }) = state.pass.take() else {
            return Ok(());
        };
        let right = came.map_or(until, |(first, _)| until.min(hour_of(first)));
        tx.execute(
            "INSERT INTO meta (key, value) VALUES (?1, ?2)
             ON CONFLICT (key) DO UPDATE SET value = ?2 WHERE value IS NOT ?2",
            params![KEY, right.to_string()],
        )?;
        state.until = Some(right);
        state.last = Some(came.map_or(i64::MIN, |(_, last)| last));
        Ok(())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open;

    const HOUR: i64 = 3_600_000;

    fn span(from: i64, last: i64) -> Option<Span> {
        let (from, last) = (TimestampMs(from), TimestampMs(last));
        Some(Span {
            from: Some(from),
            last: Some(last),
        })
    }

    #[test]
    fn what_comes_after_its_hour_was_summed_up_is_due_again_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let conn = open::writing(&dir.path().join("n.db")).unwrap();
        let late = Late::default();
        let stored = |late: &Late, first, last| {
            late.write(&conn, first).unwrap();
            late.stored(first, last);
        };
        let until = TimestampMs(9 * HOUR);
        let nothing = Span {
            from: None,
            last: None,
        };
        stored(&late, 5, 6);
        assert_eq!(late.due(until), Some(nothing), "nothing is summed up yet");
        late.begin(until);
        late.end(&conn).unwrap();
        assert_eq!(late.due(until), None);
        stored(&late, 9 * HOUR, 10 * HOUR);
        assert_eq!(late.due(until), None, "news");
        stored(&late, 5 * HOUR + 7, 11 * HOUR);
        stored(&late, 3 * HOUR + 7, 3 * HOUR + 8);
        assert_eq!(late.due(until), span(3 * HOUR, 9 * HOUR - 1));
        let again = Late::default();
        again.load(&conn).unwrap();
        let from = Some(TimestampMs(3 * HOUR));
        assert_eq!(again.due(until), Some(Span { from, last: None }));
    }

    #[test]
    fn what_comes_in_while_hours_are_summed_up_is_due_again() {
        let dir = tempfile::tempdir().unwrap();
        let conn = open::writing(&dir.path().join("n.db")).unwrap();
        let late = Late::default();
        let until = TimestampMs(9 * HOUR + 1);
        late.begin(until);
        for (first, last) in [
            (9 * HOUR, 9 * HOUR),
            (4 * HOUR + 1, 5 * HOUR),
            (6 * HOUR, 7 * HOUR),
        ] {
            late.write(&conn, first).unwrap();
            late.stored(first, last);
        }
        late.end(&conn).unwrap();
        assert_eq!(late.due(until), span(4 * HOUR, 7 * HOUR));
        late.begin(until);
        late.end(&conn).unwrap();
        assert_eq!(late.due(TimestampMs(9 * HOUR)), None);
        let again = Late::default();
        again.load(&conn).unwrap();
        assert_eq!(again.due(TimestampMs(9 * HOUR)), None);
    }
}
