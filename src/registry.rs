//! The life of a model: which states there are and which moves between them are legal.

use std::fmt;

/// Where a model stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Trained and not live yet.
    Candidate,
    /// The one that forecasts.
    Live,
    /// Was live once.
    Retired,
    /// Judged and found no better; the stored reason says at what.
    Rejected,
    /// Its bytes are not what was written, or it failed its first forecast.
    Damaged,
}

/// What can happen to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// It won the gate, or its owner brings it back.
    Promote,
    /// It lost at the gate.
    Reject,
    /// Another one takes its place.
    Retire,
    /// It turned out that it cannot be used.
    Condemn,
}

/// A move that the table does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such version.
    #[error("there is no model version {version}; `nightwatt models` lists them")]
    Unknown {
        /// The version asked for.
        version: i64,
    },
    /// It is not in a state from which the move leads anywhere.
    #[error("model version {version} {}", why(*state, *step))]
    Illegal {
        /// The version.
        version: i64,
        /// Where it stands.
        state: State,
        /// What was asked.
        step: Move,
    },
}

fn why(state: State, step: Move) -> &'static str {
    match (state, step) {
        (State::Live, Move::Promote) => "is live already",
        (State::Rejected, Move::Promote) => {
            "was rejected: it was measured to be no better than what forecasts now; train again instead"
        }
        (State::Damaged, _) => "is damaged and cannot be used",
        _ => "cannot be moved so from its state",
    }
}

impl State {
    /// Every state.
    pub const ALL: [State; 5] = [
        State::Candidate,
        State::Live,
        State::Retired,
        State::Rejected,
        State::Damaged,
    ];

    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Candidate => "candidate",
            State::Live => "live",
            State::Retired => "retired",
            State::Rejected => "rejected",
            State::Damaged => "damaged",
        }
    }

    /// Reads the stored word.
    pub fn parse(word: &str) -> Option<State> {
        State::ALL.into_iter().find(|s| s.as_str() == word)
    }

    /// Where a move leads; `None` where it is not legal. This is the whole table.
    pub fn after(self, step: Move) -> Option<State> {
        match (self, step) {
            (State::Candidate, Move::Promote) => Some(State::Live),
            (State::Candidate, Move::Reject) => Some(State::Rejected),
            (State::Live, Move::Retire) => Some(State::Retired),
            (State::Retired, Move::Promote) => Some(State::Live),
            (State::Candidate | State::Live | State::Retired, Move::Condemn) => {
                Some(State::Damaged)
            }
            // A rejected model was measured to be worse; to serve it, train again with another gate.
            (State::Rejected | State::Damaged, _)
            | (State::Candidate, Move::Retire)
            | (State::Live, Move::Promote | Move::Reject)
            | (State::Retired, Move::Reject | Move::Retire) => None,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_state_and_move_is_decided() {
        let mut legal = Vec::new();
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
            for step in [Move::Promote, Move::Reject, Move::Retire, Move::Condemn] {
                if let Some(next) = state.after(step) {
                    legal.push((state, step, next));
                }
            }
        }
        assert_eq!(
            legal,
            [
                (State::Candidate, Move::Promote, State::Live),
                (State::Candidate, Move::Reject, State::Rejected),
                (State::Candidate, Move::Condemn, State::Damaged),
                (State::Live, Move::Retire, State::Retired),
                (State::Live, Move::Condemn, State::Damaged),
                (State::Retired, Move::Promote, State::Live),
                (State::Retired, Move::Condemn, State::Damaged),
            ]
        );
    }
}
