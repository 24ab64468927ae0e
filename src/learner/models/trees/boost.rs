//! Histogram gradient boosting for regression: leaf-wise trees, integer histograms, seeded sampling.

use std::sync::atomic::AtomicBool;

use linfa::dataset::DatasetBase;
use linfa::traits::Fit;
use ndarray::Array1;

use super::binned::BinnedMatrix;
use super::params::{FitError, MAX_ROWS, ValidParams, check_targets};
use super::rounds::Rounds;
use super::tree::{self, Tree, decode_trees, encode_trees};
use crate::models::CodecError;
use crate::models::codec::{Decoder, Encoder};

/// Boosted trees: a prediction is `start` plus every tree's value.
#[derive(Clone, Debug, PartialEq)]
pub struct Booster {
    pub(crate) features: usize,
    pub(crate) start: f32,
    /// With the learning rate already in their values.
    pub(crate) trees: Vec<Tree>,
}

impl Booster {
    /// The prediction for a row of codes, in the unit of the targets.
    pub fn predict_codes(&self, codes: &[u8]) -> f32 {
        self.start + tree::sum(&self.trees, codes)
    }

    /// The predictions for all rows of a matrix.
    pub fn predict(&self, matrix: &BinnedMatrix) -> Array1<f32> {
        (0..matrix.rows())
            .map(|row| self.predict_codes(matrix.row(row)))
            .collect()
    }

    pub(in crate::models) fn features(&self) -> usize {
        self.features
    }

    pub(in crate::models) fn encode(&self, out: &mut Encoder) {
        out.len(self.features);
        out.f32(self.start);
        encode_trees(&self.trees, out);
    }

    pub(in crate::models) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let features = from.u32()? as usize;
        let start = from.f32()?;
        let trees = decode_trees(from, features)?;
        Ok(Self {
            features,
            start,
            trees,
        })
    }
}

impl ValidParams {
    /// Fits boosted trees to `targets` (one per row), with `weights` (0 or more per row) if given.
    /// Raising `cancel` ends it within about one split's time.
    ///
    /// The result depends on the rows, targets, weights, settings and seed only: not on the threads,
    /// the process or the machine's load.
    pub fn fit(
        &self,
        matrix: &BinnedMatrix,
        targets: &[f32],
        weights: Option<&[f32]>,
        cancel: &AtomicBool,
    ) -> Result<Booster, FitError> {
        check_targets(matrix.rows(), targets)?;
        let weights = weight_units(weights, targets.len())?;
        let mut rounds = Rounds::new(self.settings(), matrix, targets, &weights);
        let start = rounds.start;
        let trees: Result<_, _> = (0..self.settings().trees)
            .map(|round| rounds.next_tree(round as u64, cancel))
            .collect();
        Ok(Booster {
            features: matrix.features(),
            start,
            trees: trees?,
        })
    }
}

impl Fit<BinnedMatrix, Array1<f32>, FitError> for ValidParams {
    type Object = Booster;

    fn fit(&self, dataset: &DatasetBase<BinnedMatrix, Array1<f32>>) -> Result<Booster, FitError> {
        let targets = dataset.targets.as_standard_layout();
        let targets = targets.as_slice().unwrap_or_default();
        self.fit(
            &dataset.records,
            targets,
            dataset.weights(),
            &AtomicBool::new(false),
        )
    }
}

/// Weights in whole units, so that their sums are exact: none for equal weights, else up to 255 for
/// the heaviest row, fewer with more rows to leave the gradients enough bits, and at least one for
/// every row that has a weight.
fn weight_units(weights: Option<&[f32]>, rows: usize) -> Result<Vec<u8>, FitError> {
    let Some(weights) = weights else {
        return Ok(Vec::new());
    };
    if weights.len() != rows {
        return Err(FitError::Length {
            what: "weights",
            rows,
            got: weights.len(),
        });
    }
    if let Some(row) = weights
        .iter()
        .position(|&weight| !(weight >= 0.0 && weight.is_finite()))
    {
        return Err(FitError::Value {
            what: "weight",
            row,
            value: weights[row],
        });
    }
    let heaviest = weights.iter().copied().fold(0.0, f32::max);
    if heaviest == 0.0 {
        return Err(FitError::NoRows);
    }
    let units = (MAX_ROWS / rows).clamp(1, 255) as f32;
    let in_units = |&weight: &f32| match weight {
        0.0 => 0,
        _ => (weight / heaviest * units).round().max(1.0) as u8,
    };
    Ok(weights.iter().map(in_units).collect())
}

#[cfg(test)]
mod tests {
    use linfa::ParamGuard;
    use ndarray::array;

    use super::*;
    use crate::models::trees::bins::Binner;
    use crate::models::trees::loss::Loss;
    use crate::models::trees::params::{Params, Settings};
    use crate::models::trees::testdata::{noisy, steps, steps_of};

    fn fit(settings: Settings, matrix: &BinnedMatrix, targets: &[f32]) -> Booster {
        let params = Params::from(settings).check().unwrap();
        params
            .fit(matrix, targets, None, &AtomicBool::new(false))
            .unwrap()
    }

    /// One tree that sees everything and takes its full step.
    fn whole() -> Settings {
        Settings {
            trees: 1,
            learning_rate: 1.0,
            leaves: 4,
            min_child: 1,
            row_fraction: 1.0,
            column_fraction: 1.0,
            ..Settings::default()
        }
    }

    #[test]
    fn a_known_tree_is_recovered_under_every_loss() {
        let (matrix, targets) = steps(4_000);
        // One tree sees only the signs of absolute errors: levels on one side need further trees.
        for (loss, trees) in [
            (Loss::Squared, 1),
            (Loss::Huber { delta: 100.0 }, 1),
            (Loss::Absolute, 4),
        ] {
            let booster = fit(
                Settings {
                    loss,
                    trees,
                    ..whole()
                },
                &matrix,
                &targets,
            );
            let predicted = booster.predict(&matrix);
            let pairs = predicted.iter().zip(&targets);
            let worst = pairs.map(|(p, t)| (p - t).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-3, "{loss:?}: off by {worst}");
        }
    }

    #[test]
    fn a_raw_row_predicts_as_its_codes_and_missing_has_its_own_way() {
        let (rows, masks, binner) = steps_of(2_000);
        let matrix = binner.codes_of(rows.view(), &masks).unwrap();
        let targets: Vec<f32> = masks
            .iter()
            .map(|&mask| if mask == 1 { 7.0 } else { 1.0 })
            .collect();
        let booster = fit(whole(), &matrix, &targets);
        let predicted = |row: &[f32], mask| booster.predict_codes(&binner.row_codes(row, mask));
        assert_eq!(predicted(&[0.5, 0.5, 0.5], 1), 7.0);
        assert_eq!(predicted(&[f32::NAN, 0.5, 0.5], 0), 7.0);
        assert_eq!(predicted(&[0.5, 0.5, 0.5], 0), 1.0);
        let row = rows.row(77).to_vec();
        let codes = booster.predict_codes(matrix.row(77));
        assert_eq!(predicted(&row, masks[77]), codes);
    }

    #[test]
    fn absolute_error_ignores_an_outlier_that_squared_error_follows() {
        let (matrix, mut targets) = noisy(3_000);
        (0..3_000).step_by(10).for_each(|row| targets[row] += 50.0);
        let settings = Settings {
            trees: 60,
            ..Settings::default()
        };
        let mean = |loss| {
            fit(
                Settings {
                    loss,
                    ..settings.clone()
                },
                &matrix,
                &targets,
            )
            .predict(&matrix)
            .mean()
        };
        let (l1, l2) = (mean(Loss::Absolute).unwrap(), mean(Loss::Squared).unwrap());
        assert!(l2 - l1 > 3.5, "mean of predictions {l1} (L1), {l2} (L2)");
    }

    #[test]
    fn a_row_of_weight_two_is_two_rows() {
        let (rows, masks, binner) = steps_of(1_000);
        let (_, targets) = noisy(1_000);
        let once = binner.codes_of(rows.view(), &masks).unwrap();
        let mut twice = once.clone();
        twice
            .append(&binner, rows.slice(ndarray::s![..500, ..]), &masks[..500])
            .unwrap();
        let repeated: Vec<f32> = targets.iter().chain(&targets[..500]).copied().collect();
        let weights: Vec<f32> = (0..1_000)
            .map(|row| if row < 500 { 2.0 } else { 1.0 })
            .collect();
        let settings = Settings {
            loss: Loss::Squared,
            trees: 3,
            ..whole()
        };
        let params = Params::from(settings.clone()).check().unwrap();
        let no = AtomicBool::new(false);
        let weighted = params.fit(&once, &targets, Some(&weights), &no).unwrap();
        let off = &weighted.predict(&once) - &fit(settings, &twice, &repeated).predict(&once);
        assert!(off.iter().all(|off| off.abs() < 0.02), "{off}");
        assert!(
            params
                .fit(&once, &targets, Some(&[0.0; 1_000]), &no)
                .is_err()
        );
    }

    #[test]
    fn same_bytes_whatever_the_threads_the_process_or_the_machine() {
        let (matrix, targets) = noisy(40_000);
        let bytes = |threads| {
            let settings = Settings {
                threads,
                trees: 8,
                learning_rate: 0.06,
                column_fraction: 0.5,
                ..Settings::default()
            };
            let mut out = Encoder::default();
            fit(settings, &matrix, &targets).encode(&mut out);
            out.0
        };
        let one = bytes(1);
        assert_eq!(one, bytes(2));
        assert_eq!(one, bytes(3));
        // FNV-1a of the model: what an earlier process, on another machine, got.
        let hash = one.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
        });
        assert_eq!(format!("{hash:016x}"), "c0581c3fae599cd2");
    }

    #[test]
    fn cancelling_ends_it_and_wrong_input_is_refused() {
        let (matrix, targets) = steps(100);
        let params = Params::from(Settings::default()).check().unwrap();
        let ended = params.fit(&matrix, &targets, None, &AtomicBool::new(true));
        assert!(matches!(ended, Err(FitError::Cancelled)));
        let no = AtomicBool::new(false);
        let refused = |targets: &[f32]| params.fit(&matrix, targets, None, &no).is_err();
        assert!(refused(&targets[1..]) && refused(&[f32::NAN; 100]) && !refused(&targets));
    }

    #[test]
    fn linfa_fits_the_same_model() {
        let (matrix, targets) = steps(500);
        let params = Params::from(whole()).check().unwrap();
        let dataset = DatasetBase::new(matrix.clone(), Array1::from(targets.clone()));
        let by_linfa: Booster = Fit::fit(&params, &dataset).unwrap();
        assert_eq!(by_linfa, fit(whole(), &matrix, &targets));
    }

    #[test]
    fn one_value_everywhere_gives_that_value() {
        let rows = array![[1.0_f32], [1.0], [1.0]];
        let binner = Binner::fit(rows.view(), &[0; 3], 255).unwrap();
        let matrix = binner.codes_of(rows.view(), &[0; 3]).unwrap();
        assert_eq!(
            fit(whole(), &matrix, &[4.0; 3]).predict(&matrix),
            array![4.0, 4.0, 4.0]
        );
    }
}
