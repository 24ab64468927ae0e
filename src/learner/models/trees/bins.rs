//! Quantile bins: turns rows of f32 features into rows of u8 codes, with missing as a code of its own.

use ndarray::ArrayView2;

use super::binned::BinnedMatrix;
use crate::models::CodecError;
use crate::models::codec::{Decoder, Encoder};

/// The most codes a feature has besides [`MISSING`], so that every code fits a byte.
pub const MAX_BINS: usize = 255;
/// The code of a missing value. Present values have the codes `1..=MAX_BINS`, ascending.
pub const MISSING: u8 = 0;
/// The most features: one bit each in the missing mask.
pub const MAX_FEATURES: usize = 64;
/// Rows looked at per feature for its quantiles. At 65,536 rows a quantile's standard error is
/// below 0.2 % of the rows, half the width of a bin; more rows only cost time.
const SAMPLE_ROWS: usize = 65_536;

/// Why values could not be binned.
#[derive(Debug, thiserror::Error)]
pub enum BinError {
    /// No rows to take quantiles from.
    #[error("no rows to bin")]
    NoRows,
    /// More features than the missing mask has bits, or none.
    #[error("{0} features: between 1 and {MAX_FEATURES} are supported")]
    Features(usize),
    /// One mask per row is needed.
    #[error("{rows} rows but {masks} missing masks")]
    Masks {
        /// Rows given.
        rows: usize,
        /// Masks given.
        masks: usize,
    },
    /// Rows of another width than the binner was made for.
    #[error("rows have {got} features, the bins have {expected}")]
    Width {
        /// Features of the binner.
        expected: usize,
        /// Features of the rows.
        got: usize,
    },
    /// Codes that other bins made.
    #[error("the codes were made by other bins")]
    OtherBins,
    /// The bin count asked for does not fit a byte, or separates nothing.
    #[error("max_bins is {0}: between 2 and {MAX_BINS} are supported")]
    MaxBins(usize),
    /// Edges that no binner made: unsorted, not finite or too many.
    #[error("the edges of feature {0} are not ascending finite numbers, at most 254 of them")]
    Edges(usize),
}

/// Bin edges per feature, in the unit of the feature.
#[derive(Clone, Debug, PartialEq)]
pub struct Binner {
    /// Ascending; a value has the code `1 +` the number of edges below it.
    edges: Vec<Vec<f32>>,
}

impl TryFrom<Vec<Vec<f32>>> for Binner {
    type Error = BinError;

    fn try_from(edges: Vec<Vec<f32>>) -> Result<Self, BinError> {
        check_features(edges.len())?;
        for (feature, cuts) in edges.iter().enumerate() {
            let ascending = cuts.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || cuts.len() >= MAX_BINS || !cuts.iter().all(|cut| cut.is_finite()) {
                return Err(BinError::Edges(feature));
            }
        }
        Ok(Self { edges })
    }
}

fn check_features(features: usize) -> Result<(), BinError> {
    if features == 0 || features > MAX_FEATURES {
        return Err(BinError::Features(features));
    }
    Ok(())
}

/// Whether a value counts as missing: its bit of the row's mask is set, or it is not finite.
fn is_missing(value: f32, mask: u64, feature: usize) -> bool {
    (mask >> feature) & 1 == 1 || !value.is_finite()
}

impl Binner {
    /// Quantile edges of `rows` (rows x features); bit `f` of `masks[row]` marks feature `f` of that
    /// row as missing. Long inputs are sampled at a fixed stride, so the same rows give the same edges.
    pub fn fit(
        rows: ArrayView2<'_, f32>,
        masks: &[u64],
        max_bins: usize,
    ) -> Result<Self, BinError> {
        check_features(rows.ncols())?;
        check_masks(rows, masks)?;
        if !(2..=MAX_BINS).contains(&max_bins) {
            return Err(BinError::MaxBins(max_bins));
        }
        if rows.nrows() == 0 {
            return Err(BinError::NoRows);
        }
        let stride = rows.nrows().div_ceil(SAMPLE_ROWS);
        let edges = (0..rows.ncols())
            .map(|feature| {
                let column = rows.column(feature);
                let mut sample: Vec<f32> = column
                    .iter()
                    .zip(masks)
                    .step_by(stride)
                    .filter(|&(&value, &mask)| !is_missing(value, mask, feature))
                    .map(|(&value, _)| value + 0.0) // -0.0 becomes 0.0
                    .collect();
                sample.sort_unstable_by(f32::total_cmp);
                cut_points(&sample, max_bins)
            })
            .collect();
        Ok(Self { edges })
    }

    /// Features per row.
    pub fn features(&self) -> usize {
        self.edges.len()
    }

    /// The edges of each feature, in its own unit.
    pub fn edges(&self) -> &[Vec<f32>] {
        &self.edges
    }

    pub(in crate::models) fn encode(&self, out: &mut Encoder) {
        out.len(self.edges.len());
        for edges in &self.edges {
            out.len(edges.len());
            edges.iter().for_each(|&edge| out.f32(edge));
        }
    }

    pub(in crate::models) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let features = from.len(MAX_FEATURES, 4)?;
        let edges: Vec<Vec<f32>> = (0..features)
            .map(|_| {
                let edges = from.len(MAX_BINS - 1, 4)?;
                (0..edges).map(|_| from.f32()).collect()
            })
            .collect::<Result<_, CodecError>>()?;
        Self::try_from(edges).map_err(|_| CodecError::Malformed("bin edges do not ascend"))
    }

    /// Codes in use per feature, [`MISSING`] included.
    pub(crate) fn widths(&self) -> Vec<usize> {
        self.edges.iter().map(|edges| edges.len() + 2).collect()
    }

    /// Codes of one row of raw values, for the trees; bit `f` of `mask` marks feature `f` as missing.
    pub fn row_codes(&self, values: &[f32], mask: u64) -> [u8; MAX_FEATURES] {
        let mut codes = [MISSING; MAX_FEATURES];
        self.encode_row(values, mask, &mut codes);
        codes
    }

    /// Codes of one row. `codes` and `values` hold one entry per feature; shorter ones are filled
    /// as far as they go.
    pub fn encode_row(&self, values: &[f32], mask: u64, codes: &mut [u8]) {
        let features = self.edges.iter().zip(values).zip(codes).enumerate();
        for (feature, ((edges, &value), code)) in features {
            *code = if is_missing(value, mask, feature) {
                MISSING
            } else {
                code_of(edges, value)
            };
        }
    }

    /// Codes of many rows.
    pub fn codes_of(
        &self,
        rows: ArrayView2<'_, f32>,
        masks: &[u64],
    ) -> Result<BinnedMatrix, BinError> {
        let mut binned = BinnedMatrix::empty(self);
        binned.append(self, rows, masks)?;
        Ok(binned)
    }
}

pub(crate) fn check_masks(rows: ArrayView2<'_, f32>, masks: &[u64]) -> Result<(), BinError> {
    if rows.nrows() != masks.len() {
        return Err(BinError::Masks {
            rows: rows.nrows(),
            masks: masks.len(),
        });
    }
    Ok(())
}

/// The code of a present value: values up to and including an edge lie below it.
fn code_of(edges: &[f32], value: f32) -> u8 {
    // At most 254 edges: `Binner` is only built by `fit` and by the checked `TryFrom`.
    1 + edges.partition_point(|&edge| edge < value) as u8
}

/// At most `max_bins - 1` edges over ascending values. With few distinct values each has its own
/// bin. Otherwise a value that alone fills a bin (night's zeros are half of all rows) takes one and
/// the others share the remaining bins evenly, as LightGBM's `GreedyFindBin` does (Ke et al. 2017).
fn cut_points(sorted: &[f32], max_bins: usize) -> Vec<f32> {
    let groups: Vec<(f32, usize)> = sorted
        .chunk_by(|a, b| a == b)
        .map(|run| (run[0], run.len()))
        .collect();
    if groups.len() <= max_bins {
        return groups
            .windows(2)
            .map(|pair| between(pair[0].0, pair[1].0))
            .collect();
    }
    let heavy_from = sorted.len().div_ceil(max_bins);
    let is_heavy = |count: usize| count >= heavy_from;
    let heavy = groups.iter().filter(|group| is_heavy(group.1));
    let (heavy_bins, heavy_rows) = heavy.fold((0, 0), |(n, rows), group| (n + 1, rows + group.1));
    let (mut bins_left, mut rows_left) = (max_bins - heavy_bins, sorted.len() - heavy_rows);
    let (mut edges, mut filled) = (Vec::with_capacity(max_bins), 0usize);
    for pair in groups.windows(2) {
        let ((value, count), (next, next_count)) = (pair[0], pair[1]);
        filled += count;
        let (alone, before_alone) = (is_heavy(count), is_heavy(next_count));
        rows_left -= if alone { 0 } else { count };
        let target = rows_left.saturating_add(filled) / bins_left.max(1);
        if alone || filled >= target.max(1) || (before_alone && 2 * filled >= target) {
            edges.push(between(value, next));
            bins_left = bins_left.saturating_sub(usize::from(!alone));
            filled = 0;
        }
        if edges.len() + 1 == max_bins {
            break;
        }
    }
    edges
}

/// A number from `low` (included) up to `high`, `low < high`, near their middle.
fn between(low: f32, high: f32) -> f32 {
    let middle = low * 0.5 + high * 0.5;
    if middle < high { middle.max(low) } else { low }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;

    #[test]
    fn few_distinct_values_keep_a_bin_each() {
        let rows = array![[3.0_f32], [1.0], [2.0], [1.0], [-0.0], [0.0]];
        let binner = Binner::fit(rows.view(), &[0; 6], 255).unwrap();
        let binned = binner.codes_of(rows.view(), &[0; 6]).unwrap();
        assert_eq!(binned.codes(), [4, 2, 3, 2, 1, 1]);
        assert_eq!(binned.widths(), [5]);
    }

    #[test]
    fn missing_by_mask_or_not_a_number_is_code_zero() {
        let rows = array![[1.0_f32, f32::NAN], [2.0, 5.0]];
        let binner = Binner::fit(rows.view(), &[1, 0], 255).unwrap();
        let binned = binner.codes_of(rows.view(), &[1, 0]).unwrap();
        assert_eq!(binned.codes(), [0, 0, 1, 1]);
    }

    #[test]
    fn a_heavy_value_takes_one_bin_and_the_rest_are_even() {
        let rows = Array2::from_shape_fn((20_000, 1), |(i, _)| (i as f32 - 10_000.0).max(0.0));
        let binner = Binner::fit(rows.view(), &[0; 20_000], 255).unwrap();
        let binned = binner.codes_of(rows.view(), &[0; 20_000]).unwrap();
        let mut counts = vec![0; 257];
        binned
            .codes()
            .iter()
            .for_each(|&code| counts[usize::from(code)] += 1);
        assert_eq!(counts[1], 10_001, "zeros alone");
        let used = binned.widths()[0] - 1;
        assert!(used >= 250, "{used} bins used");
        assert!(
            counts[2..=used].iter().all(|&n| (20..=60).contains(&n)),
            "{counts:?}"
        );
    }

    #[test]
    fn appending_equals_encoding_at_once_and_edges_survive_their_bytes() {
        let rows = Array2::from_shape_fn((999, 3), |(i, j)| ((i * 37 + j * 11) % 401) as f32 / 7.0);
        let masks = vec![0; 999];
        let binner = Binner::fit(rows.view(), &masks, 100).unwrap();
        let whole = binner.codes_of(rows.view(), &masks).unwrap();
        let mut parts = BinnedMatrix::empty(&binner);
        let (head, tail) = rows.view().split_at(ndarray::Axis(0), 500);
        parts.append(&binner, head, &masks[..500]).unwrap();
        parts.append(&binner, tail, &masks[500..]).unwrap();
        assert_eq!(parts, whole);
        let mut out = Encoder::default();
        binner.encode(&mut out);
        let back = Binner::decode(&mut Decoder(&out.0));
        assert_eq!(back, Ok(binner));
        let unsorted = Binner::try_from(vec![vec![2.0, 1.0]]);
        assert!(matches!(unsorted, Err(BinError::Edges(0))));
    }
}
