//! A regression tree over binned rows in eight bytes per split and four per leaf.

use crate::models::CodecError;
use crate::models::codec::{Decoder, Encoder};

/// Set in a child link that leads to a leaf; the rest is the leaf's number.
pub(crate) const LEAF: u16 = 0x8000;
/// The most trees of a stored model.
const MAX_TREES: usize = 100_000;
/// Bytes of a stored leaf.
const LEAF_BYTES: usize = 4;
/// The most leaves a tree can have.
pub const MAX_LEAVES: usize = LEAF as usize;

/// A split: a row goes left if its code, less `shift`, is at most `limit`.
///
/// `shift` is 0 or 1 and the subtraction wraps: with 1, the missing code 0 becomes 255 and goes
/// right, without a branch of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Split {
    /// The feature compared.
    pub feature: u8,
    /// The last code, less `shift`, that goes left.
    pub limit: u8,
    /// 0: missing goes left; 1: missing goes right.
    pub shift: u8,
    /// Where a row that satisfies the test goes on: a later split, or a leaf.
    pub left: u16,
    /// Where the others go.
    pub right: u16,
}

impl Split {
    /// Whether a row with this code goes left.
    pub fn goes_left(self, code: u8) -> bool {
        code.wrapping_sub(self.shift) <= self.limit
    }
}

/// Splits and leaf values. Children come after their parent, so a walk always ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    pub(crate) splits: Vec<Split>,
    pub(crate) values: Vec<f32>,
}

impl Tree {
    /// The leaf that a row of codes falls into.
    pub fn leaf(&self, codes: &[u8]) -> usize {
        let mut link = if self.splits.is_empty() { LEAF } else { 0 };
        while link & LEAF == 0 {
            let Some(split) = self.splits.get(usize::from(link)) else {
                return 0;
            };
            let code = codes
                .get(usize::from(split.feature))
                .copied()
                .unwrap_or_default();
            link = if split.goes_left(code) {
                split.left
            } else {
                split.right
            };
        }
        usize::from(link & !LEAF)
    }

    /// The value a row of codes gets.
    pub fn predict(&self, codes: &[u8]) -> f32 {
        self.values
            .get(self.leaf(codes))
            .copied()
            .unwrap_or_default()
    }

    /// Number of leaves.
    pub fn leaves(&self) -> usize {
        self.values.len()
    }

    /// The values of the leaves.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The splits, the root first.
    pub fn splits(&self) -> &[Split] {
        &self.splits
    }

    pub(in crate::models) fn encode(&self, out: &mut Encoder) {
        out.len(self.values.len());
        for split in &self.splits {
            out.u8(split.feature);
            out.u8(split.limit);
            out.u8(split.shift);
            out.u16(split.left);
            out.u16(split.right);
        }
        self.values.iter().for_each(|&value| out.f32(value));
    }

    pub(in crate::models) fn decode(
        from: &mut Decoder<'_>,
        features: usize,
    ) -> Result<Self, CodecError> {
        let leaves = from.len(MAX_LEAVES, LEAF_BYTES)?;
        let split = |from: &mut Decoder<'_>| {
            Ok(Split {
                feature: from.u8()?,
                limit: from.u8()?,
                shift: from.u8()?,
                left: from.u16()?,
                right: from.u16()?,
            })
        };
        let splits = (1..leaves)
            .map(|_| split(from))
            .collect::<Result<_, CodecError>>()?;
        let values = (0..leaves)
            .map(|_| from.f32())
            .collect::<Result<_, CodecError>>()?;
        let tree = Self { splits, values };
        let sound = tree.is_sound(features);
        sound
            .then_some(tree)
            .ok_or(CodecError::Malformed("a tree cannot be walked"))
    }

    /// Whether every link leads forward to a split or to a leaf that is there, as a tree read back
    /// from storage must before it is walked.
    pub fn is_sound(&self, features: usize) -> bool {
        let links_forward = |at: usize, link: u16| match link & LEAF {
            0 => usize::from(link) > at && usize::from(link) < self.splits.len(),
            _ => usize::from(link & !LEAF) < self.values.len(),
        };
        let split_is_sound = |(at, split): (usize, &Split)| {
            usize::from(split.feature) < features
                && links_forward(at, split.left)
                && links_forward(at, split.right)
        };
        self.values.len() == self.splits.len() + 1
            && self.values.iter().all(|value| value.is_finite())
            && self.splits.iter().enumerate().all(split_is_sound)
    }
}

/// Trees walked side by side: a walk waits for memory at each step, and eight wait together.
const ABREAST: usize = 8;

/// The sum of the values that these trees give a row of codes.
pub(super) fn sum(trees: &[Tree], codes: &[u8]) -> f32 {
    let mut total = 0.0;
    let mut groups = trees.chunks_exact(ABREAST);
    for group in &mut groups {
        let mut links: [u16; ABREAST] =
            std::array::from_fn(|i| if group[i].splits.is_empty() { LEAF } else { 0 });
        // Children come after their parent, so every walk ends.
        while links.iter().any(|link| link & LEAF == 0) {
            for (link, tree) in links.iter_mut().zip(group) {
                let at = usize::from(*link & !LEAF).min(tree.splits.len().saturating_sub(1));
                let Some(split) = tree.splits.get(at) else {
                    continue;
                };
                let code = codes.get(usize::from(split.feature)).copied();
                let next = if split.goes_left(code.unwrap_or_default()) {
                    split.left
                } else {
                    split.right
                };
                *link = if *link & LEAF == 0 { next } else { *link };
            }
        }
        for (link, tree) in links.iter().zip(group) {
            total += tree
                .values
                .get(usize::from(link & !LEAF))
                .copied()
                .unwrap_or_default();
        }
    }
    total
        + groups
            .remainder()
            .iter()
            .map(|tree| tree.predict(codes))
            .sum::<f32>()
}

/// The trees of a model, after their number.
pub(super) fn encode_trees(trees: &[Tree], out: &mut Encoder) {
    out.len(trees.len());
    trees.iter().for_each(|tree| tree.encode(out));
}

pub(super) fn decode_trees(
    from: &mut Decoder<'_>,
    features: usize,
) -> Result<Vec<Tree>, CodecError> {
    let trees = from.len(MAX_TREES, 4 + LEAF_BYTES)?;
    (0..trees).map(|_| Tree::decode(from, features)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stump() -> Tree {
        let split = Split {
            feature: 1,
            limit: 3,
            shift: 1,
            left: LEAF,
            right: LEAF | 1,
        };
        Tree {
            splits: vec![split],
            values: vec![-1.0, 2.0],
        }
    }

    #[test]
    fn a_stump_sends_missing_where_its_shift_says() {
        let mut tree = stump();
        assert_eq!(
            [0, 4, 5].map(|code| tree.predict(&[9, code])),
            [2.0, -1.0, 2.0]
        );
        tree.splits[0].shift = 0;
        assert_eq!(
            [0, 3, 4].map(|code| tree.predict(&[9, code])),
            [-1.0, -1.0, 2.0]
        );
    }

    #[test]
    fn damage_is_noticed() {
        assert!(
            stump().is_sound(2)
                && Tree {
                    splits: vec![],
                    values: vec![1.0]
                }
                .is_sound(1)
        );
        assert!(!stump().is_sound(1), "a feature that is not there");
        let mut looped = stump();
        looped.splits[0].left = 0;
        assert!(!looped.is_sound(2), "a link to itself");
    }

    #[test]
    fn bytes_give_the_tree_back_and_any_flipped_byte_is_an_error_or_can_be_walked() {
        let mut out = Encoder::default();
        stump().encode(&mut out);
        let bytes = out.0;
        assert_eq!(Tree::decode(&mut Decoder(&bytes), 2), Ok(stump()));
        for at in 0..bytes.len() {
            assert!(Tree::decode(&mut Decoder(&bytes[..at]), 2).is_err());
            for flipped in [0x01, 0x80, 0xFF] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flipped;
                if let Ok(tree) = Tree::decode(&mut Decoder(&damaged), 2) {
                    assert!(tree.predict(&[9, 4]).is_finite());
                }
            }
        }
    }
}
