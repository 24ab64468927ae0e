//! Which version a start is for: the trial of a candidate, or what was committed; pure.

use serde::{Deserialize, Serialize};

/// Starts a candidate has to prove itself: a crash, a hang and a power cut each cost one.
pub const TRIES: u8 = 3;

/// A candidate being tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Its sequence.
    pub sequence: u64,
    /// Its version, for people.
    pub version: String,
    /// Starts that it still has.
    pub tries_left: u8,
    /// The boot in which its last try began; empty before the first.
    pub boot: String,
}

/// What a start does about a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is being tried: start what was committed.
    Committed,
    /// Keep this record, which has a try less, and only then become the candidate.
    Try(Trial),
    /// Reject the candidate for this reason, forget the trial, start what was committed.
    GiveUp(String),
}

/// The one decision of a start. `boot` names the boot this start is in.
pub fn step(trial: Option<&Trial>, current: Option<u64>, boot: &str) -> Step {
    match trial {
        None => Step::Committed,
        // Committed, and cut off before the record was removed.
        Some(t) if current == Some(t.sequence) => Step::Committed,
        Some(t) if t.tries_left == 0 => {
            let end = if t.boot == boot {
                ""
            } else {
                ", the last time with the machine"
            };
            Step::GiveUp(format!(
                "it ended {TRIES} times without having proved itself{end}"
            ))
        }
        Some(t) => Step::Try(Trial {
            // Not trusted to be no more than there are.
            tries_left: t.tries_left.min(TRIES) - 1,
            boot: boot.to_owned(),
            ..t.clone()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(tries_left: u8) -> Trial {
        Trial {
            sequence: 8,
            version: "0.2.0".into(),
            tries_left,
            boot: "b".into(),
        }
    }

    #[test]
    fn a_candidate_has_three_starts_and_is_then_given_up() {
        let mut now = trial(TRIES);
        for left in [2, 1, 0] {
            match step(Some(&now), Some(7), "b") {
                Step::Try(next) => now = next,
                other => panic!("{other:?}"),
            }
            assert_eq!(now.tries_left, left);
        }
        assert!(
            matches!(step(Some(&now), Some(7), "b"), Step::GiveUp(why) if !why.contains("machine"))
        );
        assert!(
            matches!(step(Some(&now), None, "c"), Step::GiveUp(why) if why.contains("machine"))
        );
    }

    #[test]
    fn a_record_that_the_commit_left_behind_means_nothing() {
        assert_eq!(step(Some(&trial(0)), Some(8), "b"), Step::Committed);
        assert_eq!(step(Some(&trial(3)), Some(8), "b"), Step::Committed);
        assert_eq!(step(None, None, "b"), Step::Committed);
    }

    #[test]
    fn no_record_gives_more_tries_than_there_are() {
        assert!(
            matches!(step(Some(&trial(255)), None, "b"), Step::Try(t) if t.tries_left == TRIES - 1)
        );
    }
}
