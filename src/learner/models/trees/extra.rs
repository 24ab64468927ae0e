//! Extremely randomised trees over the same bins: a second learner whose errors differ.

use std::sync::atomic::AtomicBool;
use std::thread;

use linfa::dataset::DatasetBase;
use linfa::traits::Fit;
use ndarray::Array1;

use super::binned::BinnedMatrix;
use super::draw::{Goal, Grower};
use super::params::{FitError, ValidExtraParams, check_targets};
use super::tree::{self, Tree, decode_trees, encode_trees};
use crate::models::CodecError;
use crate::models::codec::{Decoder, Encoder};

/// Extra-trees: a prediction is the mean of the trees' values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forest {
    pub(crate) features: usize,
    pub(crate) trees: Vec<Tree>,
}

impl Forest {
    /// The prediction for a row of codes, in the unit of the targets.
    pub fn predict_codes(&self, codes: &[u8]) -> f32 {
        tree::sum(&self.trees, codes) / self.trees.len().max(1) as f32
    }

    /// Takes in the trees of `newer`, over the same codes, and lets go of the oldest beyond `most`.
    pub(super) fn renew(&mut self, newer: Forest, most: usize) {
        self.features = newer.features;
        self.trees.extend(newer.trees);
        let old = self.trees.len().saturating_sub(most);
        self.trees.drain(..old);
    }

    pub(in crate::models) fn features(&self) -> usize {
        self.features
    }

    pub(in crate::models) fn encode(&self, out: &mut Encoder) {
        out.len(self.features);
        encode_trees(&self.trees, out);
    }

    pub(in crate::models) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let features = from.u32()? as usize;
        let trees = decode_trees(from, features)?;
        Ok(Self { features, trees })
    }
}

impl ValidExtraParams {
    /// Fits `trees` trees to `targets` (one per row) with squared error, drawing the lots numbered from
    /// `first` on. Raising `cancel` ends it within about one split's time. The result does not depend
    /// on the number of threads.
    pub fn fit(
        &self,
        matrix: &BinnedMatrix,
        targets: &[f32],
        first: u64,
        trees: usize,
        cancel: &AtomicBool,
    ) -> Result<Forest, FitError> {
        check_targets(matrix.rows(), targets)?;
        let goal = Goal::new(matrix, targets, self.settings());
        let share = trees.div_ceil(self.settings().threads).max(1);
        let mut trees = vec![None; trees];
        let grow_share = |first: u64, share: &mut [Option<Tree>]| {
            let mut rows = Vec::new();
            for (tree, number) in share.iter_mut().zip(first..) {
                *tree = Grower::new(&goal, number, &mut rows).grow(cancel);
            }
        };
        thread::scope(|scope| {
            let mut shares = trees.chunks_mut(share).zip((first..).step_by(share));
            let own = shares.next();
            for (share, first) in shares {
                scope.spawn(move || grow_share(first, share));
            }
            if let Some((share, first)) = own {
                grow_share(first, share);
            }
        });
        let trees = trees
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .ok_or(FitError::Cancelled)?;
        Ok(Forest {
            features: matrix.features(),
            trees,
        })
    }
}

impl Fit<BinnedMatrix, Array1<f32>, FitError> for ValidExtraParams {
    type Object = Forest;

    fn fit(&self, dataset: &DatasetBase<BinnedMatrix, Array1<f32>>) -> Result<Forest, FitError> {
        let targets = dataset.targets.as_standard_layout();
        let targets = targets.as_slice().unwrap_or_default();
        let trees = self.settings().trees;
        self.fit(&dataset.records, targets, 0, trees, &AtomicBool::new(false))
    }
}

#[cfg(test)]
mod tests {
    use linfa::ParamGuard;

    use super::*;
    use crate::models::trees::params::{ExtraParams, ExtraSettings};
    use crate::models::trees::testdata::steps;

    fn fit(threads: usize, settings: ExtraSettings) -> (Forest, BinnedMatrix, Vec<f32>) {
        let (matrix, targets) = steps(4_000);
        let params = ExtraParams::from(ExtraSettings {
            threads,
            ..settings
        });
        let (params, trees) = (params.check().unwrap(), ExtraSettings::default().trees);
        let forest = params
            .fit(&matrix, &targets, 0, trees, &AtomicBool::new(false))
            .unwrap();
        (forest, matrix, targets)
    }

    #[test]
    fn a_known_tree_is_learnt() {
        for median in [true, false] {
            let (forest, matrix, targets) = fit(
                1,
                ExtraSettings {
                    median,
                    ..Default::default()
                },
            );
            let missed: f32 = (0..matrix.rows())
                .map(|row| (forest.predict_codes(matrix.row(row)) - targets[row]).abs())
                .sum();
            assert!(missed / 4_000.0 < 0.2, "median {median}: {missed}");
        }
    }

    #[test]
    fn threads_do_not_change_it_and_leaves_stay_bounded() {
        let settings = ExtraSettings {
            max_leaves: 50,
            ..Default::default()
        };
        let one = fit(1, settings.clone()).0;
        assert_eq!(one, fit(2, settings.clone()).0);
        assert_eq!(one, fit(7, settings).0);
        assert!(
            one.trees
                .iter()
                .all(|tree| (2..=50).contains(&tree.leaves()))
        );
    }

    #[test]
    fn cancelling_ends_it() {
        let (matrix, targets) = steps(100);
        let params = ExtraParams::from(ExtraSettings::default()).check().unwrap();
        let ended = params.fit(&matrix, &targets, 0, 25, &AtomicBool::new(true));
        assert!(matches!(ended, Err(FitError::Cancelled)));
    }
}
