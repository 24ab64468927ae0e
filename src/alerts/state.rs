//! What changes: an alert is raised when something has been wrong for long enough, and over when it has been right for long enough.

use std::collections::HashMap;

use crate::store::{AlertRow, NewAlert};

/// How long before an alert is raised, and before it is over, ms.
#[derive(Clone, Copy, Debug)]
pub struct Hysteresis {
    /// Something is wrong for this long.
    pub raise_ms: i64,
    /// It is right again for this long.
    pub clear_ms: i64,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Begin to stand.
    Raise(NewAlert),
    /// Be over.
    Clear(AlertRow),
}

type Key = (String, String);

/// Since when things are other than the alerts say, on a clock that never goes back.
#[derive(Debug, Default)]
pub struct Memory(HashMap<Key, i64>);

impl Memory {
    /// Compares the alerts that stand with what is wrong. `undecided` are left alone.
    pub fn step(
        &mut self,
        open: &[AlertRow],
        found: Vec<NewAlert>,
        undecided: impl Fn(&AlertRow) -> bool,
        now_ms: i64,
        hysteresis: Hysteresis,
    ) -> Vec<Change> {
        let mut before = std::mem::take(&mut self.0);
        let mut since = |key: Key| {
            let since = before.remove(&key).unwrap_or(now_ms);
            self.0.insert(key, since);
            now_ms - since
        };
        let mut changes = Vec::new();
        for row in open {
            let stands = |f: &NewAlert| (&f.kind, &f.subject) == (&row.kind, &row.subject);
            if !found.iter().any(stands)
                && !undecided(row)
                && since((row.kind.clone(), row.subject.clone())) >= hysteresis.clear_ms
            {
                changes.push(Change::Clear(row.clone()));
            }
        }
        for alert in found {
            let stands =
                |row: &AlertRow| (&row.kind, &row.subject) == (&alert.kind, &alert.subject);
            if !open.iter().any(stands)
                && since((alert.kind.clone(), alert.subject.clone())) >= hysteresis.raise_ms
            {
                changes.push(Change::Raise(alert));
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::TimestampMs;

    const H: Hysteresis = Hysteresis {
        raise_ms: 5,
        clear_ms: 10,
    };

    fn alert() -> NewAlert {
        NewAlert {
            kind: "silent".into(),
            subject: String::new(),
            level: "attention".into(),
            text: "t".into(),
            next_step: None,
        }
    }

    fn row() -> AlertRow {
        AlertRow {
            id: 1,
            kind: "silent".into(),
            subject: String::new(),
            level: "attention".into(),
            text: "t".into(),
            next_step: None,
            raised: TimestampMs(0),
            cleared: None,
            acknowledged: None,
            waiting: Vec::new(),
        }
    }

    #[test]
    fn it_is_raised_when_it_has_stood_long_enough_in_one_piece() {
        let mut memory = Memory::default();
        let mut step = |wrong: bool, now| {
            let found = if wrong { vec![alert()] } else { Vec::new() };
            memory.step(&[], found, |_| false, now, H).len()
        };
        assert_eq!((step(true, 0), step(true, 4)), (0, 0));
        assert_eq!((step(false, 5), step(true, 6)), (0, 0), "it begins anew");
        assert_eq!(step(true, 11), 1);
        assert_eq!(step(true, 12), 1, "until it is stored it is tried again");
    }

    #[test]
    fn one_that_stands_is_not_raised_again_and_is_over_only_after_a_while() {
        let mut memory = Memory::default();
        let open = [row()];
        let mut step = |wrong: bool, undecided: bool, now| {
            let found = if wrong { vec![alert()] } else { Vec::new() };
            memory.step(&open, found, |_| undecided, now, H)
        };
        assert_eq!(step(true, false, 0), []);
        assert_eq!(step(true, false, 100), []);
        assert_eq!(step(false, false, 101), []);
        assert_eq!(step(true, false, 110), [], "it is back");
        assert_eq!(step(false, false, 111), []);
        assert_eq!(step(false, true, 130), [], "it cannot be told");
        assert_eq!(step(false, false, 131), []);
        assert_eq!(step(false, false, 141), [Change::Clear(row())]);
    }
}
