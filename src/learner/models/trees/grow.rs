//! Leaf-wise growth of one tree: best leaf first, histograms by subtraction, stable ties.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::histogram::{self, FeatureHistogram, Packing, Source, Sums};
use super::scan::{Candidate, Scan};
use super::tree::{LEAF, Split};

/// Limits of one tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The most leaves.
    pub(crate) leaves: usize,
    /// The least weight of a leaf, in units.
    pub(crate) min_child: i64,
    /// Threads for large histograms.
    pub(crate) threads: usize,
}

/// What a tree is grown on: codes and gradients of all rows, and the features it may split.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) source: Source<'a>,
    /// The same codes, feature after feature: a split reads one feature of many rows.
    pub(crate) by_feature: &'a [u8],
    pub(crate) packing: Packing,
    /// Sampled features, ascending.
    pub(crate) columns: &'a [usize],
    /// Codes in use per feature of the matrix.
    pub(crate) widths: &'a [usize],
    pub(crate) limits: Limits,
    pub(crate) cancel: &'a AtomicBool,
}

/// The rows of a tree, reordered so that each leaf's rows are together: `drawn` grow the tree,
/// `rest` only follow it down, to get their predictions.
#[derive(Default)]
pub(crate) struct RowOrder {
    pub(crate) drawn: Vec<u32>,
    pub(crate) rest: Vec<u32>,
    scratch: Vec<u32>,
}

/// A leaf: its rows (ranges of the [`RowOrder`]) and its sums.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) drawn: Range<usize>,
    pub(crate) rest: Range<usize>,
    pub(crate) sums: Sums,
    /// The link that leads here: a split and its side (true: left); none at the root.
    parent: Option<(usize, bool)>,
    histograms: Option<Vec<FeatureHistogram>>,
    best: Option<Candidate>,
}

/// A cancelled growth.
#[derive(Debug)]
pub(crate) struct Cancelled;

/// Grows one tree; the leaves are in the order of the splits' leaf links. `pool` keeps histogram
/// buffers from tree to tree.
pub(crate) fn grow(
    input: Input<'_>,
    order: &mut RowOrder,
    pool: &mut Vec<Vec<FeatureHistogram>>,
) -> Result<(Vec<Split>, Vec<Leaf>), Cancelled> {
    let mut splits = Vec::with_capacity(input.limits.leaves);
    let mut leaves = vec![root(input, order, pool)];
    while leaves.len() < input.limits.leaves {
        if input.cancel.load(Ordering::Relaxed) {
            return Err(Cancelled);
        }
        let Some((at, candidate)) = most_promising(&leaves) else {
            break;
        };
        let is_last = leaves.len() + 1 == input.limits.leaves;
        let parent = &mut leaves[at];
        let split = splits.len();
        link_parent(&mut splits, parent.parent, split);
        let (mut left, mut right) = divide(input, order, parent, candidate, split);
        if !is_last {
            let histograms = parent.histograms.take();
            find_children_splits(input, order, pool, histograms, [&mut left, &mut right]);
        }
        pool.extend(parent.histograms.take());
        splits.push(Split {
            feature: candidate.feature as u8,
            limit: candidate.limit,
            shift: candidate.shift,
            left: LEAF | at as u16,
            right: LEAF | leaves.len() as u16,
        });
        leaves[at] = left;
        leaves.push(right);
    }
    for leaf in &mut leaves {
        pool.extend(leaf.histograms.take());
    }
    Ok((splits, leaves))
}

/// The leaf with all rows, and its best split.
fn root(input: Input<'_>, order: &RowOrder, pool: &mut Vec<Vec<FeatureHistogram>>) -> Leaf {
    let packed = input.source.packed;
    let total = order.drawn.iter().map(|&row| packed[row as usize]).sum();
    let mut leaf = Leaf {
        drawn: 0..order.drawn.len(),
        rest: 0..order.rest.len(),
        sums: input.packing.unpack(total),
        parent: None,
        histograms: None,
        best: None,
    };
    if input.limits.leaves > 1 && leaf.sums.weight >= 2 * input.limits.min_child {
        let histograms = filled(input, order, pool, &leaf);
        leaf.best = best_split(input, &histograms, leaf.sums);
        leaf.histograms = Some(histograms);
    }
    leaf
}

/// The leaf whose split gains most; the oldest of equals.
fn most_promising(leaves: &[Leaf]) -> Option<(usize, Candidate)> {
    let mut top: Option<(usize, Candidate)> = None;
    for (at, leaf) in leaves.iter().enumerate() {
        if let Some(best) = leaf.best
            && top.is_none_or(|(_, candidate)| best.gain > candidate.gain)
        {
            top = Some((at, best));
        }
    }
    top
}

/// Points the parent's link, which led to a leaf, to the split that replaces it.
fn link_parent(splits: &mut [Split], parent: Option<(usize, bool)>, split: usize) {
    let Some((above, is_left)) = parent else {
        return;
    };
    let link = if is_left {
        &mut splits[above].left
    } else {
        &mut splits[above].right
    };
    *link = split as u16;
}

/// The two leaves a split makes of one: its rows are reordered, left first.
fn divide(
    input: Input<'_>,
    order: &mut RowOrder,
    leaf: &Leaf,
    candidate: Candidate,
    split: usize,
) -> (Leaf, Leaf) {
    let RowOrder {
        drawn,
        rest,
        scratch,
    } = order;
    let rows = input.source.packed.len();
    let column = &input.by_feature[candidate.feature * rows..][..rows];
    let goes_left =
        |row: u32| column[row as usize].wrapping_sub(candidate.shift) <= candidate.limit;
    let drawn_left = partition(&mut drawn[leaf.drawn.clone()], scratch, goes_left);
    let rest_left = partition(&mut rest[leaf.rest.clone()], scratch, goes_left);
    let (drawn_cut, rest_cut) = (leaf.drawn.start + drawn_left, leaf.rest.start + rest_left);
    let right_sums = Sums {
        gradient: leaf.sums.gradient - candidate.left.gradient,
        weight: leaf.sums.weight - candidate.left.weight,
    };
    let child = |drawn, rest, sums, is_left| Leaf {
        drawn,
        rest,
        sums,
        parent: Some((split, is_left)),
        histograms: None,
        best: None,
    };
    let left_rows = (leaf.drawn.start..drawn_cut, leaf.rest.start..rest_cut);
    let right_rows = (drawn_cut..leaf.drawn.end, rest_cut..leaf.rest.end);
    (
        child(left_rows.0, left_rows.1, candidate.left, true),
        child(right_rows.0, right_rows.1, right_sums, false),
    )
}

/// Moves the rows that go left to the front, both sides in their old order; returns how many.
pub(crate) fn partition(
    rows: &mut [u32],
    scratch: &mut Vec<u32>,
    goes_left: impl Fn(u32) -> bool,
) -> usize {
    if scratch.len() < rows.len() {
        scratch.resize(rows.len(), 0);
    }
    let (mut left, mut right) = (0, 0);
    for at in 0..rows.len() {
        let row = rows[at];
        let is_left = usize::from(goes_left(row));
        // Both writes and no branch: which side a row takes is unpredictable.
        rows[left] = row;
        scratch[right] = row;
        left += is_left;
        right += 1 - is_left;
    }
    rows[left..].copy_from_slice(&scratch[..right]);
    left
}

/// Histograms and best splits of two new leaves: the smaller one is summed, the larger one is the
/// parent's less the smaller's. A leaf too light to be split again needs none.
fn find_children_splits(
    input: Input<'_>,
    order: &RowOrder,
    pool: &mut Vec<Vec<FeatureHistogram>>,
    parent: Option<Vec<FeatureHistogram>>,
    [left, right]: [&mut Leaf; 2],
) {
    let Some(mut parent) = parent else { return };
    let (small, large) = if left.drawn.len() <= right.drawn.len() {
        (left, right)
    } else {
        (right, left)
    };
    let can_split = |leaf: &Leaf| leaf.sums.weight >= 2 * input.limits.min_child;
    if !can_split(small) && !can_split(large) {
        pool.push(parent);
        return;
    }
    let histograms = filled(input, order, pool, small);
    histogram::subtract(&mut parent, &histograms);
    for (leaf, histograms) in [(small, histograms), (large, parent)] {
        if can_split(leaf) {
            leaf.best = best_split(input, &histograms, leaf.sums);
        }
        if leaf.best.is_some() {
            leaf.histograms = Some(histograms);
        } else {
            pool.push(histograms);
        }
    }
}

/// The histograms of a leaf's rows, in a buffer of the pool.
fn filled(
    input: Input<'_>,
    order: &RowOrder,
    pool: &mut Vec<Vec<FeatureHistogram>>,
    leaf: &Leaf,
) -> Vec<FeatureHistogram> {
    let mut histograms = pool.pop().unwrap_or_default();
    histograms.resize(input.columns.len(), [0; 256]);
    let rows = &order.drawn[leaf.drawn.clone()];
    histogram::fill(
        &mut histograms,
        input.columns,
        rows,
        input.source,
        input.limits.threads,
    );
    histograms
}

/// The split of a leaf that lowers its squared error most; the first of equals in the order of
/// features, thresholds and "missing goes left first".
fn best_split(input: Input<'_>, histograms: &[FeatureHistogram], total: Sums) -> Option<Candidate> {
    let mut scan = Scan::new(input.packing, total, input.limits.min_child);
    for (&feature, histogram) in input.columns.iter().zip(histograms) {
        let width = input.widths[feature].min(histogram.len());
        let has_missing = histogram[0] != 0;
        scan.thresholds(feature, &histogram[..width], 0, has_missing);
        if has_missing {
            scan.thresholds(feature, &histogram[..width], 1, has_missing);
        }
    }
    scan.best()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_is_stable() {
        let mut rows = [5, 2, 9, 4, 7, 6];
        let left = partition(&mut rows, &mut Vec::new(), |row| row % 2 == 0);
        assert_eq!((left, rows), (3, [2, 4, 6, 5, 9, 7]));
    }
}
