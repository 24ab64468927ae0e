//! One extremely randomised tree: thresholds drawn, the best of the drawn ones taken.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::binned::BinnedMatrix;
use super::grow::partition;
use super::histogram::{self, FeatureHistogram, Packing, Source, Sums};
use super::params::ExtraSettings;
use super::rng::SplitMix64;
use super::tree::{LEAF, Split, Tree};

/// Up to here a node's rows are gone through for each feature: clearing and scanning histograms of
/// 256 bins would cost more. The outcome is the same.
const FEW_ROWS: usize = 256;

/// What all trees share: codes, and targets in fixed point around their mean.
pub(crate) struct Goal<'a> {
    matrix: &'a BinnedMatrix,
    packing: Packing,
    packed: Vec<i64>,
    mean: f64,
    step: f64,
    min_leaf: i64,
    tried: usize,
    median: bool,
    seed: u64,
}

impl<'a> Goal<'a> {
    pub(crate) fn new(matrix: &'a BinnedMatrix, targets: &[f32], settings: &ExtraSettings) -> Self {
        let packing = Packing::new(targets.len() as u64);
        let mean = targets.iter().copied().map(f64::from).sum::<f64>() / targets.len() as f64;
        let off = |target: f32| f64::from(target) - mean;
        let peak = targets
            .iter()
            .fold(0.0, |peak: f64, &target| peak.max(off(target).abs()));
        let step = if peak > 0.0 {
            peak / f64::from(packing.largest_gradient())
        } else {
            1.0
        };
        let fixed = |&target: &f32| packing.pack((off(target) / step).round() as i64, 1);
        let wanted = f64::from(settings.column_fraction) * matrix.features() as f64;
        Self {
            matrix,
            packing,
            packed: targets.iter().map(fixed).collect(),
            mean,
            step,
            min_leaf: settings
                .min_leaf
                .max(targets.len().div_ceil(settings.max_leaves)) as i64,
            tried: wanted.ceil().max(1.0) as usize,
            median: settings.median,
            seed: settings.seed,
        }
    }

    fn sums(&self, rows: &[u32]) -> Sums {
        self.packing
            .unpack(rows.iter().map(|&row| self.packed[row as usize]).sum())
    }

    /// The (upper) median of the targets of some rows, in steps off the mean; reorders the rows.
    fn median(&self, rows: &mut [u32]) -> i64 {
        if rows.is_empty() {
            return 0;
        }
        let (_, &mut row, _) =
            rows.select_nth_unstable_by_key(rows.len() / 2, |&row| self.packed[row as usize]);
        self.packing.unpack(self.packed[row as usize]).gradient
    }
}

/// A node to come: its rows, their sums, and the link that leads to it.
struct Open {
    rows: Range<usize>,
    sums: Sums,
    parent: Option<(usize, bool)>,
}

/// A split that was drawn: codes up to `limit` go left.
#[derive(Clone, Copy)]
struct Drawn {
    feature: usize,
    limit: u8,
    has_missing: bool,
    left: Sums,
    score: f64,
}

impl Drawn {
    /// The split, its links still open. Where the node saw nothing missing, missing follows the
    /// heavier side.
    fn split(self, weight: i64) -> Split {
        let shift = u8::from(!self.has_missing && 2 * self.left.weight < weight);
        let (feature, limit) = (self.feature as u8, self.limit - shift);
        Split {
            feature,
            limit,
            shift,
            left: LEAF,
            right: LEAF,
        }
    }
}

/// One tree in the making.
pub(crate) struct Grower<'a> {
    goal: &'a Goal<'a>,
    random: SplitMix64,
    rows: &'a mut Vec<u32>,
    scratch: Vec<u32>,
    histograms: Vec<FeatureHistogram>,
    features: Vec<usize>,
    splits: Vec<Split>,
    values: Vec<f32>,
}

impl<'a> Grower<'a> {
    pub(crate) fn new(goal: &'a Goal<'a>, number: u64, rows: &'a mut Vec<u32>) -> Self {
        rows.clear();
        rows.extend(0..goal.packed.len() as u32);
        Self {
            goal,
            random: SplitMix64::new(goal.seed, number),
            rows,
            scratch: Vec::new(),
            histograms: Vec::new(),
            features: (0..goal.matrix.features()).collect(),
            splits: Vec::new(),
            values: Vec::new(),
        }
    }

    /// Splits depth first until leaves cannot be split; none when cancelled.
    pub(crate) fn grow(mut self, cancel: &AtomicBool) -> Option<Tree> {
        let all = 0..self.rows.len();
        let sums = self.goal.sums(self.rows);
        let mut open = vec![Open {
            rows: all,
            sums,
            parent: None,
        }];
        while let Some(node) = open.pop() {
            if cancel.load(Ordering::Relaxed) {
                return None;
            }
            let Some(drawn) = self.draw_split(&node) else {
                self.close(&node);
                continue;
            };
            let at = self.splits.len();
            self.link(node.parent, at as u16);
            let split = drawn.split(node.sums.weight);
            self.splits.push(split);
            let (matrix, rows) = (self.goal.matrix, &mut self.rows[node.rows.clone()]);
            let (codes, stride) = (matrix.codes(), matrix.features());
            let goes_left =
                |row: u32| split.goes_left(codes[row as usize * stride + drawn.feature]);
            let cut = node.rows.start + partition(rows, &mut self.scratch, goes_left);
            let right = Sums {
                gradient: node.sums.gradient - drawn.left.gradient,
                weight: node.sums.weight - drawn.left.weight,
            };
            let (start, end) = (node.rows.start, node.rows.end);
            open.push(Open {
                rows: cut..end,
                sums: right,
                parent: Some((at, false)),
            });
            open.push(Open {
                rows: start..cut,
                sums: drawn.left,
                parent: Some((at, true)),
            });
        }
        Some(Tree {
            splits: self.splits,
            values: self.values,
        })
    }

    /// Points the parent's link here.
    fn link(&mut self, parent: Option<(usize, bool)>, link: u16) {
        let Some((at, is_left)) = parent else { return };
        let split = &mut self.splits[at];
        *(if is_left {
            &mut split.left
        } else {
            &mut split.right
        }) = link;
    }

    /// Makes a leaf of a node: the median or the mean of its targets.
    fn close(&mut self, node: &Open) {
        self.link(node.parent, LEAF | self.values.len() as u16);
        let rows = &mut self.rows[node.rows.clone()];
        let off = match self.goal.median {
            true => self.goal.median(rows) as f64,
            false => node.sums.gradient as f64 / node.sums.weight.max(1) as f64,
        };
        self.values
            .push((self.goal.mean + off * self.goal.step) as f32);
    }

    /// Draws one threshold for each of a random choice of features and takes the best; features that
    /// allow no split are replaced by further ones, as scikit-learn does. Missing is the lowest code.
    fn draw_split(&mut self, node: &Open) -> Option<Drawn> {
        if node.sums.weight < 2 * self.goal.min_leaf || self.is_pure(node) {
            return None;
        }
        let (mut best, mut tried, mut seen) = (None::<Drawn>, 0, 0);
        while seen < self.features.len() && (tried < self.goal.tried || best.is_none()) {
            let batch = self.goal.tried.saturating_sub(tried).max(1);
            let batch = seen..(seen + batch).min(self.features.len());
            self.shuffle(batch.clone());
            seen = batch.end;
            self.fill(node, batch.clone());
            for (at, feature) in batch.enumerate() {
                let feature = self.features[feature];
                let Some(drawn) = self.draw_threshold(node, feature, at) else {
                    continue;
                };
                tried += 1;
                let allowed = drawn.left.weight.min(node.sums.weight - drawn.left.weight);
                if allowed >= self.goal.min_leaf && best.is_none_or(|top| drawn.score > top.score) {
                    best = Some(drawn);
                }
            }
        }
        best
    }

    /// Whether all targets of a node are equal, as at night.
    fn is_pure(&self, node: &Open) -> bool {
        let mut packed = self.rows[node.rows.clone()]
            .iter()
            .map(|&row| self.goal.packed[row as usize]);
        let first = packed.next();
        packed.all(|next| Some(next) == first)
    }

    /// Draws the features at these places from those not drawn before.
    fn shuffle(&mut self, places: Range<usize>) {
        for i in places {
            let j = i + self.random.below((self.features.len() - i) as u32) as usize;
            self.features.swap(i, j);
        }
    }

    /// Histograms of the features at these places, unless there are few rows.
    fn fill(&mut self, node: &Open, places: Range<usize>) {
        if node.rows.len() <= FEW_ROWS {
            return;
        }
        let (matrix, rows) = (self.goal.matrix, &self.rows[node.rows.clone()]);
        let packed = &self.goal.packed;
        let source = Source {
            codes: matrix.codes(),
            stride: matrix.features(),
            packed,
        };
        self.histograms.resize(places.len(), [0; 256]);
        histogram::fill(
            &mut self.histograms,
            &self.features[places],
            rows,
            source,
            1,
        );
    }

    /// A split of one feature at a threshold drawn evenly between its lowest and its highest code,
    /// scored by the squared error it saves (see `grow::Scan`); none if all codes are equal.
    fn draw_threshold(&mut self, node: &Open, feature: usize, at: usize) -> Option<Drawn> {
        let goal = self.goal;
        let (low, limit, left) = if node.rows.len() <= FEW_ROWS {
            let (codes, stride) = (goal.matrix.codes(), goal.matrix.features());
            let rows = &self.rows[node.rows.clone()];
            let code = |row: &u32| usize::from(codes[*row as usize * stride + feature]);
            let (low, high) = rows.iter().fold((usize::MAX, 0), |(low, high), row| {
                (low.min(code(row)), high.max(code(row)))
            });
            if low >= high {
                return None;
            }
            let limit = low + self.random.below((high - low) as u32) as usize;
            // Multiplied, not branched upon: which side a row takes is unpredictable.
            let packed = |row: &u32| goal.packed[*row as usize] * i64::from(code(row) <= limit);
            (low, limit, rows.iter().map(packed).sum())
        } else {
            let bins = &self.histograms[at][..goal.matrix.widths()[feature]];
            let low = bins.iter().position(|&bin| bin != 0)?;
            let high = bins.iter().rposition(|&bin| bin != 0)?;
            if low == high {
                return None;
            }
            let limit = low + self.random.below((high - low) as u32) as usize;
            (low, limit, bins[low..=limit].iter().sum())
        };
        let left = goal.packing.unpack(left);
        let right = node.sums.weight - left.weight;
        let excess = left.gradient as f64 * node.sums.weight as f64
            - node.sums.gradient as f64 * left.weight as f64;
        let score = excess * excess / (left.weight as f64 * right as f64);
        Some(Drawn {
            feature,
            limit: limit as u8,
            has_missing: low == 0,
            left,
            score,
        })
    }
}
