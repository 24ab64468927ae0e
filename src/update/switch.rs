//! Which version a start is for: the trial of a candidate, or what was committed; pure.

use serde::{Deserialize, Serialize};

/// Starts a candidate has to prove itself: a crash, a hang and a power cut each cost one, and a crash or a hang after
/// it was ready costs all.
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
    /// Whether in that try it has done what it has to, and has not ended in order since. A launcher that does not
    /// know the word gives the rest of the tries.
    #[serde(default)]
    pub ready: bool,
    /// Whether a person has ended it while it may still be starting: it ends once it is up, and until a launcher has
    /// removed the record nothing tells what runs.
    #[serde(default)]
    pub taken_back: bool,
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
        Some(t) if t.taken_back => Step::Committed,
        // In the same boot nothing but itself has ended it. Without a boot's name a power cut looks the same.
        Some(t) if t.ready && t.boot == boot && !boot.is_empty() => {
            Step::GiveUp("it ran and then ended without having proved itself".into())
        }
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
            ready: false,
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
            ready: false,
            taken_back: false,
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
    fn a_crash_after_it_was_ready_costs_all_its_tries_and_a_power_cut_costs_one() {
        let ready = |boot: &str| Trial {
            ready: true,
            boot: boot.into(),
            ..trial(2)
        };
        let crashed = step(Some(&ready("b")), Some(7), "b");
        assert!(matches!(crashed, Step::GiveUp(why) if why.contains("ran and then ended")));
        for (before, now) in [("a", "b"), ("", "")] {
            match step(Some(&ready(before)), Some(7), now) {
                Step::Try(t) => assert!(t.tries_left == 1 && !t.ready && t.boot == now),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(step(Some(&ready("b")), Some(8), "b"), Step::Committed);
    }

    #[test]
    fn a_record_that_a_commit_or_a_person_left_behind_starts_nothing() {
        assert_eq!(step(Some(&trial(0)), Some(8), "b"), Step::Committed);
        assert_eq!(step(Some(&trial(3)), Some(8), "b"), Step::Committed);
        assert_eq!(step(None, None, "b"), Step::Committed);
        let taken_back = Trial {
            taken_back: true,
            ..trial(2)
        };
        assert_eq!(step(Some(&taken_back), Some(7), "b"), Step::Committed);
    }

    #[test]
    fn no_record_gives_more_tries_than_there_are() {
        assert!(
            matches!(step(Some(&trial(255)), None, "b"), Step::Try(t) if t.tries_left == TRIES - 1)
        );
    }
}
