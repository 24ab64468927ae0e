//! Ramp warnings: how likely power is to fall by more than a fifth of capacity within the horizon.
//!
//! Bagging (Breiman, Machine Learning 24, 1996) of linfa's two-class decision trees, each on a
//! bootstrap of its own from a bounded sample with both classes in equal parts; the number of votes
//! becomes a probability by isotonic regression (pool adjacent violators: Ayer et al. 1955; Zadrozny
//! and Elkan 2002) on days that no tree has seen, in their natural proportion. Judged by the Brier
//! score (Brier 1950). Only rows from which such a fall is possible are asked about: with power below
//! a fifth of capacity the answer is no.

mod learner;
mod score;
mod trees;

use super::codec::{Decoder, Encoder, seal, unseal};
use super::trees::Binner;
use super::{CodecError, Header, MAX_BYTES};
use crate::features::{Facts, Row};
use trees::{Tree, votes};

pub use learner::RampLearner;
pub use score::{Brier, BrierScore, RampReport};

/// A fall by more than this share of capacity is a ramp.
pub const FALL_SHARE: f32 = 0.2;
/// Further ahead a fall is the evening and no news, minutes.
pub const MAX_HORIZON_MIN: u32 = 360;

const MAGIC: [u8; 8] = *b"nwramp\0\0";
const FORMAT: u32 = 1;
/// Trees of a warning.
const TREES: usize = 32;
/// With fewer rows of either class there is nothing to learn or to judge.
const MIN_CLASS_ROWS: usize = 50;

/// Whether a fall as steep as a ramp is possible from a row, which is to say daylight and enough power.
/// Up to twelve hours ahead naive persistence is the power now.
pub fn possible(facts: &Facts) -> bool {
    facts.capacity_w > 0.0 && facts.naive_w > FALL_SHARE * facts.capacity_w
}

/// Whether power fell that far: `lowest_w` is the least of the slots up to the target.
pub fn fell(facts: &Facts, lowest_w: f32) -> bool {
    facts.naive_w - lowest_w > FALL_SHARE * facts.capacity_w
}

/// The served warning of one horizon.
#[derive(Clone, Debug, PartialEq)]
pub struct RampWarning {
    /// The rows it may be asked about.
    pub header: Header,
    binner: Binner,
    trees: Vec<Tree>,
    /// The probability by number of votes.
    by_votes: Vec<f32>,
}

impl RampWarning {
    /// The probability of a ramp, 0 … 1.
    pub fn probability(&self, row: Row<'_>) -> f32 {
        if !possible(&row.facts) {
            return 0.0;
        }
        let codes = self.binner.row_codes(row.x, row.facts.missing);
        self.by_votes[votes(&self.trees, &codes)]
    }

    /// The bytes: magic, format, length and SHA-256 of the content, content.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        self.header.encode(&mut out);
        self.binner.encode(&mut out);
        out.len(self.trees.len());
        self.trees.iter().for_each(|tree| tree.encode(&mut out));
        self.by_votes.iter().for_each(|&p| out.f32(p));
        seal(MAGIC, FORMAT, &out.0)
    }

    /// Reads what [`RampWarning::to_bytes`] wrote; every tree that passes ends in a leaf for any row.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Decoder(unseal(bytes, MAGIC, FORMAT, MAX_BYTES)?);
        let header = Header::decode(&mut from)?;
        let binner = Binner::decode(&mut from)?;
        let width = header.features.len();
        if binner.features() != width {
            return Err(CodecError::Malformed("the bins are of other features"));
        }
        let n = from.len(TREES, 4)?;
        let trees = (0..n)
            .map(|_| Tree::decode(&mut from, width))
            .collect::<Result<Vec<_>, _>>()?;
        let by_votes = (0..=trees.len())
            .map(|_| from.f32())
            .collect::<Result<Vec<_>, _>>()?;
        if !by_votes.iter().all(|p| (0.0..=1.0).contains(p)) {
            return Err(CodecError::Malformed("a probability is not one"));
        }
        if !from.0.is_empty() {
            return Err(CodecError::Malformed("something follows the warning"));
        }
        Ok(Self {
            header,
            binner,
            trees,
            by_votes,
        })
    }
}

/// Warnings made up for unit tests.
#[cfg(any(test, feature = "testing"))]
#[allow(missing_docs, clippy::unwrap_used)]
pub mod testdata {
    use super::*;
    use crate::reading::TimestampMs;

    /// A warning that always says the same.
    pub fn saying(horizon_min: u32, probability: f32) -> RampWarning {
        RampWarning {
            by_votes: vec![probability; 2],
            ..warning(horizon_min)
        }
    }

    /// A small warning over one feature.
    pub fn warning(horizon_min: u32) -> RampWarning {
        let (split, no, yes) = ([2, 1, 2, 0], 0, 1);
        let tree = [&[3, 0, 0, 0][..], &split, &[no, yes]].concat();
        RampWarning {
            header: Header {
                features: vec!["a".into()],
                horizon_min,
                step_min: 5,
                trained_until: TimestampMs(9),
            },
            binner: Binner::try_from(vec![vec![0.5]]).unwrap(),
            trees: vec![Tree::decode(&mut Decoder(&tree), 1).unwrap()],
            by_votes: vec![0.1, 0.9],
        }
    }
}

#[cfg(test)]
mod tests;
