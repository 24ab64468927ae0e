//! The life of a model: which states there are, which moves are legal, and which model is live.

use std::fmt;

use crate::reading::TimestampMs;
use crate::store::{Reader, Store, StoreError};

/// Where a model stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Trained and not judged yet.
    Candidate,
    /// The one that forecasts.
    Live,
    /// Was live once.
    Retired,
    /// Judged and found no better; the stored reason says at what.
    Rejected,
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
}

impl State {
    /// Every state.
    pub const ALL: [State; 4] = [
        State::Candidate,
        State::Live,
        State::Retired,
        State::Rejected,
    ];

    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Candidate => "candidate",
            State::Live => "live",
            State::Retired => "retired",
            State::Rejected => "rejected",
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
            // A rejected model was measured to be worse; to serve it, train again with another gate.
            (State::Rejected, _)
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

/// Why a model could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No such version.
    #[error("there is no model version {0}; `nightwatt models` lists them")]
    Unknown(i64),
    /// The state does not allow it.
    #[error(
        "model version {version} is {state} and cannot be promoted; only a candidate or a retired one can"
    )]
    Illegal {
        /// Which.
        version: i64,
        /// Its state.
        state: String,
    },
    /// There is nothing to go back to.
    #[error("no earlier model was live; there is nothing to go back to")]
    NoPrevious,
}

/// Makes a stored version live in one transaction; the one that was live retires.
pub async fn promote(
    store: &Store,
    reader: &Reader,
    version: i64,
    at: TimestampMs,
    reason: String,
) -> Result<(), RegistryError> {
    let row = reader
        .model(version)?
        .ok_or(RegistryError::Unknown(version))?;
    let illegal = || RegistryError::Illegal {
        version,
        state: row.state.clone(),
    };
    let state = State::parse(&row.state).ok_or_else(illegal)?;
    state.after(Move::Promote).ok_or_else(illegal)?;
    if store.set_live(version, state.as_str(), at, reason).await? {
        Ok(())
    } else {
        Err(illegal())
    }
}

/// More than the store keeps.
const ALL_MODELS: usize = 1000;

/// The version that was live before the present one.
pub fn previous(reader: &Reader) -> Result<i64, RegistryError> {
    let models = reader.models(ALL_MODELS)?;
    models
        .iter()
        .filter(|m| m.state == State::Retired.as_str())
        .max_by_key(|m| m.retired)
        .map(|m| m.version)
        .ok_or(RegistryError::NoPrevious)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_state_and_move_is_decided() {
        let mut legal = Vec::new();
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
            for step in [Move::Promote, Move::Reject, Move::Retire] {
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
                (State::Live, Move::Retire, State::Retired),
                (State::Retired, Move::Promote, State::Live),
            ]
        );
    }
}
