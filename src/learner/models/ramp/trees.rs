//! Two-class trees: fitted by linfa, kept in a form of our own that is walked, stored and checked.

use linfa::traits::Fit;
use linfa::{DatasetBase, ParamGuard};
use linfa_trees::{DecisionTree, DecisionTreeParams, TreeNode};
use ndarray::{Array1, Array2};

use crate::models::CodecError;
use crate::models::codec::{Decoder, Encoder};
use crate::models::trees::rng::SplitMix64;

const MAX_DEPTH: usize = 6;
const MIN_LEAF_ROWS: f32 = 20.0;
/// Rows of one bootstrap. With at most 4095 of them and [`NO_WEIGHT`] every sum of weights is exact
/// in an f32 and no two classes ever weigh the same: linfa would break a tie by the order of a hash
/// map, which differs from process to process.
const BAG_ROWS: usize = 2_000;
const NO_WEIGHT: f32 = 1.0 + 1.0 / 4096.0;
/// Features a tree looks at, of all; the trees differ and take less time.
const FEATURE_SHARE: f32 = 0.34;

/// A step of a tree, in preorder: a split's lower side follows it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    /// Codes up to `code` go to the lower side, others to the node at `higher`.
    Split { feature: u8, code: u8, higher: u16 },
    /// The vote.
    Leaf(bool),
}

/// The nodes in preorder, the last a leaf.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tree(Vec<Node>);

/// How many trees say yes.
pub(super) fn votes(trees: &[Tree], codes: &[u8]) -> usize {
    trees.iter().filter(|tree| tree.vote(codes)).count()
}

impl Tree {
    /// One tree on a bootstrap with both classes in equal parts, over some of the features. The rows are
    /// codes, so nothing is NaN, and both classes have rows, which is what linfa needs.
    pub(super) fn fit(
        codes: &Array2<u8>,
        fell: &[bool],
        width: usize,
        [steady, falling]: [usize; 2],
        lots: &mut SplitMix64,
    ) -> Option<Self> {
        let half = (BAG_ROWS / 2).min(steady.max(falling));
        let mut bag = Vec::with_capacity(2 * half);
        for _ in 0..half {
            bag.push(lots.below(steady as u32) as usize);
            bag.push(steady + lots.below(falling as u32) as usize);
        }
        let some = ((width as f32 * FEATURE_SHARE).ceil() as usize).max(1);
        let features = lots.choose(width, some);
        let shape = (bag.len(), features.len());
        let x = Array2::from_shape_fn(shape, |(i, j)| f32::from(codes[[bag[i], features[j]]]));
        let y: Array1<bool> = bag.iter().map(|&row| fell[row]).collect();
        let weights = y.mapv(|fell| if fell { 1.0 } else { NO_WEIGHT });
        let params: DecisionTreeParams<f32, bool> = DecisionTree::params()
            .max_depth(Some(MAX_DEPTH))
            .min_weight_leaf(MIN_LEAF_ROWS)
            .min_weight_split(2.0 * MIN_LEAF_ROWS);
        let dataset = DatasetBase::new(x, y).with_weights(weights);
        let fitted = params.check().ok()?.fit(&dataset).ok()?;
        let mut nodes = Vec::new();
        flatten(fitted.root_node(), &features, &mut nodes);
        Some(Self(nodes))
    }

    /// The vote for a row of codes.
    fn vote(&self, codes: &[u8]) -> bool {
        let mut at = 0;
        loop {
            match self.0[at] {
                Node::Leaf(vote) => return vote,
                Node::Split {
                    feature,
                    code,
                    higher,
                } => {
                    at = if codes[usize::from(feature)] <= code {
                        at + 1
                    } else {
                        usize::from(higher)
                    }
                }
            }
        }
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        out.len(self.0.len());
        for node in &self.0 {
            match *node {
                Node::Leaf(vote) => out.u8(u8::from(vote)),
                Node::Split {
                    feature,
                    code,
                    higher,
                } => {
                    out.u8(2 + feature);
                    out.u8(code);
                    out.u16(higher);
                }
            }
        }
    }

    /// Reads a tree over so many features that ends in a leaf for any row.
    pub(super) fn decode(from: &mut Decoder<'_>, features: usize) -> Result<Self, CodecError> {
        let n = from.len(2 << MAX_DEPTH, 1)?;
        let mut tree = Vec::with_capacity(n);
        for i in 0..n {
            tree.push(match from.u8()? {
                vote @ (0 | 1) => Node::Leaf(vote == 1),
                feature => {
                    let (code, higher) = (from.u8()?, from.u16()?);
                    let feature = feature - 2;
                    // Both sides lie further on, so every walk ends.
                    let sides = i + 1 < n && usize::from(higher) > i && usize::from(higher) < n;
                    if !sides || usize::from(feature) >= features {
                        return Err(CodecError::Malformed("a ramp tree leads nowhere"));
                    }
                    Node::Split {
                        feature,
                        code,
                        higher,
                    }
                }
            });
        }
        match tree.last() {
            Some(Node::Leaf(_)) => Ok(Self(tree)),
            _ => Err(CodecError::Malformed("a ramp tree has no end")),
        }
    }
}

/// Appends a subtree in preorder. linfa sends a value up to the split to the left when it fits (and one
/// below it when it predicts); splits lie between two codes or on one that the fit sent left.
fn flatten(node: &TreeNode<f32, bool>, features: &[usize], out: &mut Vec<Node>) {
    let children = node.children();
    let (Some(left), Some(right)) = (children[0], children[1]) else {
        // linfa tells the prediction of leaves, and only leaves are without children.
        out.push(Node::Leaf(node.prediction().unwrap_or(false)));
        return;
    };
    let (feature, split, _) = node.split();
    let at = out.len();
    out.push(Node::Leaf(false));
    flatten(left, features, out);
    out[at] = Node::Split {
        feature: features[feature] as u8,
        code: split.floor() as u8,
        higher: out.len() as u16,
    };
    flatten(right, features, out);
}
