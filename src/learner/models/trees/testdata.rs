//! Rows for the tests, from integers only: the same on every machine.

use ndarray::Array2;

use super::binned::BinnedMatrix;
use super::bins::Binner;
use super::rng::SplitMix64;

/// Rows of three features in 0..1, feature 0 missing in every 16th row, and their bins.
pub(crate) fn steps_of(rows: usize) -> (Array2<f32>, Vec<u64>, Binner) {
    let mut random = SplitMix64::new(11, 0);
    let values = Array2::from_shape_simple_fn((rows, 3), || random.below(1_000) as f32 / 1_000.0);
    let masks: Vec<u64> = (0..rows).map(|row| u64::from(row % 16 == 3)).collect();
    let binner = Binner::fit(values.view(), &masks, 255).unwrap();
    (values, masks, binner)
}

/// Targets of a tree with four leaves over the codes of features 0 and 1 (feature 2 is noise).
pub(crate) fn steps(rows: usize) -> (BinnedMatrix, Vec<f32>) {
    let (values, masks, binner) = steps_of(rows);
    let matrix = binner.codes_of(values.view(), &masks).unwrap();
    let value = |row| match *matrix.row(row) {
        [0..=80, low, _] if low <= 128 => -2.0,
        [0..=80, ..] => 0.5,
        [_, low, _] if low <= 200 => 3.0,
        _ => 9.0,
    };
    let targets = (0..rows).map(value).collect();
    (matrix, targets)
}

/// The same rows with noise of up to 1 on the targets.
pub(crate) fn noisy(rows: usize) -> (BinnedMatrix, Vec<f32>) {
    let (matrix, mut targets) = steps(rows);
    let mut random = SplitMix64::new(12, 0);
    targets
        .iter_mut()
        .for_each(|target| *target += random.below(2_000) as f32 / 1_000.0 - 1.0);
    (matrix, targets)
}
