//! The rounds of boosting: sample, gradients, tree, leaf values, residuals.

use std::sync::atomic::{AtomicBool, Ordering};

use super::binned::BinnedMatrix;
use super::grow::{self, Input, Leaf, Limits, RowOrder};
use super::histogram::{FeatureHistogram, Packing, Source};
use super::loss::LeafScratch;
use super::params::{FitError, Settings};
use super::rng::SplitMix64;
use super::tree::Tree;

/// Streams of random numbers a seed is split into, two per tree.
const ROW_STREAM: u64 = 0;
const COLUMN_STREAM: u64 = 1;

/// What is carried from tree to tree.
pub(crate) struct Rounds<'a> {
    settings: &'a Settings,
    matrix: &'a BinnedMatrix,
    /// The matrix's codes, feature after feature.
    by_feature: Vec<u8>,
    weights: &'a [u8],
    pub(crate) start: f32,
    /// Targets less the prediction so far.
    residuals: Vec<f32>,
    packing: Packing,
    min_child: i64,
    packed: Vec<i64>,
    order: RowOrder,
    pool: Vec<Vec<FeatureHistogram>>,
    scratch: LeafScratch,
}

impl<'a> Rounds<'a> {
    pub(crate) fn new(
        settings: &'a Settings,
        matrix: &'a BinnedMatrix,
        targets: &[f32],
        weights: &'a [u8],
    ) -> Self {
        let rows = targets.len() as u64;
        let total = match weights {
            [] => rows,
            _ => weights.iter().map(|&weight| u64::from(weight)).sum(),
        };
        let start = settings.loss.start(targets, weights);
        Self {
            settings,
            matrix,
            by_feature: matrix.by_feature(),
            weights,
            start,
            residuals: targets.iter().map(|target| target - start).collect(),
            packing: Packing::new(total),
            min_child: (settings.min_child as u64)
                .saturating_mul(total)
                .div_ceil(rows) as i64,
            packed: Vec::with_capacity(targets.len()),
            order: RowOrder::default(),
            pool: Vec::new(),
            scratch: LeafScratch::default(),
        }
    }

    /// One step of Friedman's algorithm: gradients, a tree on a sample of them, a value per leaf,
    /// and the residuals of all rows less these values.
    pub(crate) fn next_tree(&mut self, round: u64, cancel: &AtomicBool) -> Result<Tree, FitError> {
        if cancel.load(Ordering::Relaxed) {
            return Err(FitError::Cancelled);
        }
        let settings = self.settings;
        let columns = self.sample(round);
        let step = settings.loss.gradients(
            &self.residuals,
            self.weights,
            self.packing,
            &mut self.packed,
        );
        let input = Input {
            source: Source {
                codes: self.matrix.codes(),
                stride: self.matrix.features(),
                packed: &self.packed,
            },
            by_feature: &self.by_feature,
            packing: self.packing,
            columns: &columns,
            widths: self.matrix.widths(),
            limits: Limits {
                leaves: settings.leaves,
                min_child: self.min_child,
                threads: settings.threads,
            },
            cancel,
        };
        let (splits, leaves) = grow::grow(input, &mut self.order, &mut self.pool)
            .map_err(|grow::Cancelled| FitError::Cancelled)?;
        let values = leaves.iter().map(|leaf| self.settle(leaf, step)).collect();
        Ok(Tree { splits, values })
    }

    /// Draws the rows and columns of a tree; rows into the order, columns returned.
    fn sample(&mut self, round: u64) -> Vec<usize> {
        let Settings {
            seed,
            row_fraction,
            column_fraction,
            ..
        } = *self.settings;
        let rows = &mut SplitMix64::new(seed, 2 * round + ROW_STREAM);
        let RowOrder { drawn, rest, .. } = &mut self.order;
        rows.split_rows(self.residuals.len(), row_fraction, drawn, rest);
        let features = self.matrix.features();
        let wanted = (f64::from(column_fraction) * features as f64)
            .round()
            .max(1.0) as usize;
        SplitMix64::new(seed, 2 * round + COLUMN_STREAM).choose(features, wanted)
    }

    /// The value of a leaf, shrunk, and already taken off the residuals of all its rows.
    fn settle(&mut self, leaf: &Leaf, step: f64) -> f32 {
        let drawn = &self.order.drawn[leaf.drawn.clone()];
        let of_rows = (self.residuals.as_slice(), self.weights);
        let value = self.settings.learning_rate
            * self
                .settings
                .loss
                .leaf_value(drawn, of_rows, (leaf.sums, step), &mut self.scratch);
        for &row in drawn.iter().chain(&self.order.rest[leaf.rest.clone()]) {
            self.residuals[row as usize] -= value;
        }
        value
    }
}
