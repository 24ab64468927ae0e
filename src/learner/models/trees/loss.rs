//! The losses of the boosted trees: first guess, gradients and leaf values.

use super::histogram::{Packing, Sums};

/// What the boosted trees minimise (Friedman 2001, "Greedy function approximation", section 4).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Absolute error, LAD_TreeBoost: trees fit the residuals' signs, leaves hold their median.
    Absolute,
    /// Squared error, LS_TreeBoost: leaves hold the residuals' mean.
    Squared,
    /// Squared up to `delta` (in the unit of the target), absolute beyond, M_TreeBoost: leaves hold
    /// the median plus the mean of what residuals differ from it, cut at `delta`.
    Huber {
        /// Where the loss turns from squared to absolute.
        delta: f32,
    },
}

impl Loss {
    /// The constant that boosting starts from: the weighted median, or mean, of the targets.
    pub(crate) fn start(self, targets: &[f32], weights: &[u8]) -> f32 {
        match self {
            Self::Squared => {
                let weighted = |(&t, w): (&f32, f64)| (f64::from(t) * w, w);
                let (sum, total) = targets
                    .iter()
                    .zip(units(weights))
                    .map(weighted)
                    .fold((0.0, 0.0), |(sum, total), (value, weight)| {
                        (sum + value, total + weight)
                    });
                if total > 0.0 {
                    (sum / total) as f32
                } else {
                    0.0
                }
            }
            Self::Absolute | Self::Huber { .. } => {
                let mut scratch: Vec<(f32, u8)> = if weights.is_empty() {
                    targets.iter().map(|&target| (target, 1)).collect()
                } else {
                    targets
                        .iter()
                        .copied()
                        .zip(weights.iter().copied())
                        .collect()
                };
                weighted_median(&mut scratch)
            }
        }
    }

    /// The packed gradient of every row into `packed`; returns the size of one gradient step in the
    /// unit of the target. `weights` in units, empty for 1 each.
    pub(crate) fn gradients(
        self,
        residuals: &[f32],
        weights: &[u8],
        packing: Packing,
        packed: &mut Vec<i64>,
    ) -> f64 {
        let largest = match self {
            Self::Absolute => {
                let sign = |residual: f32| i64::from(residual > 0.0) - i64::from(residual < 0.0);
                pack_all(residuals, weights, packing, packed, sign);
                return 1.0;
            }
            Self::Squared => f32::INFINITY,
            Self::Huber { delta } => delta,
        };
        let peak = residuals
            .iter()
            .fold(0.0, |peak: f32, r| peak.max(r.abs()))
            .min(largest);
        let scale = if peak > 0.0 {
            packing.largest_gradient() / peak
        } else {
            1.0
        };
        let step = |r: f32| (r.clamp(-largest, largest) * scale).round_ties_even() as i64;
        pack_all(residuals, weights, packing, packed, step);
        1.0 / f64::from(scale)
    }

    /// The value of a leaf with these rows. `step` is what [`Loss::gradients`] returned; the
    /// residuals of the rows are gathered in `scratch` where the median needs them.
    pub(crate) fn leaf_value(
        self,
        rows: &[u32],
        (residuals, weights): (&[f32], &[u8]),
        (sums, step): (Sums, f64),
        scratch: &mut LeafScratch,
    ) -> f32 {
        let mean = sums.gradient as f64 * step / sums.weight.max(1) as f64;
        match self {
            Self::Squared => mean as f32,
            Self::Absolute => median_of(rows, residuals, weights, scratch),
            Self::Huber { delta } => {
                let median = median_of(rows, residuals, weights, scratch);
                let cut =
                    |row: &u32| f64::from((residuals[*row as usize] - median).clamp(-delta, delta));
                let of = |row: &u32| weights.get(*row as usize).map_or(1.0, |&w| f64::from(w));
                let beyond: f64 = rows.iter().map(|row| of(row) * cut(row)).sum();
                median + (beyond / sums.weight.max(1) as f64) as f32
            }
        }
    }
}

/// The median residual of some rows, by weight where there are weights.
fn median_of(rows: &[u32], residuals: &[f32], weights: &[u8], scratch: &mut LeafScratch) -> f32 {
    if weights.is_empty() {
        scratch.keys.clear();
        scratch
            .keys
            .extend(rows.iter().map(|&row| key_of(residuals[row as usize])));
        return median(&mut scratch.keys);
    }
    scratch.pairs.clear();
    scratch.pairs.extend(
        rows.iter()
            .map(|&row| (residuals[row as usize], weights[row as usize])),
    );
    weighted_median(&mut scratch.pairs)
}

/// Buffers that leaf values reuse.
#[derive(Default)]
pub(crate) struct LeafScratch {
    keys: Vec<i32>,
    pairs: Vec<(f32, u8)>,
}

fn units(weights: &[u8]) -> impl Iterator<Item = f64> + '_ {
    weights
        .iter()
        .map(|&weight| f64::from(weight))
        .chain(std::iter::repeat(1.0))
}

fn pack_all(
    residuals: &[f32],
    weights: &[u8],
    packing: Packing,
    packed: &mut Vec<i64>,
    step: impl Fn(f32) -> i64,
) {
    packed.clear();
    if weights.is_empty() {
        packed.extend(
            residuals
                .iter()
                .map(|&residual| packing.pack(step(residual), 1)),
        );
    } else {
        let rows = residuals.iter().zip(weights);
        packed.extend(rows.map(|(&residual, &weight)| {
            let weight = i64::from(weight);
            packing.pack(step(residual) * weight, weight)
        }));
    }
}

/// An integer that orders as the number does (the order of `f32::total_cmp`); integers select faster.
fn key_of(value: f32) -> i32 {
    let bits = value.to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

fn value_of(key: i32) -> f32 {
    f32::from_bits((key ^ (((key >> 31) as u32) >> 1) as i32) as u32)
}

/// The median (mean of the middle two) of values given as keys, 0 for none; reorders them.
fn median(keys: &mut [i32]) -> f32 {
    if keys.is_empty() {
        return 0.0;
    }
    let (middle, odd) = (keys.len() / 2, keys.len() % 2 == 1);
    let (below, &mut upper, _) = keys.select_nth_unstable(middle);
    match below.iter().max() {
        Some(&lower) if !odd => 0.5 * value_of(lower) + 0.5 * value_of(upper),
        _ => value_of(upper),
    }
}

/// The least value with at least half of the weight at or below it, 0 for none; reorders them.
fn weighted_median(pairs: &mut [(f32, u8)]) -> f32 {
    pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let total: u64 = pairs.iter().map(|pair| u64::from(pair.1)).sum();
    let mut below = 0;
    for &(value, weight) in pairs.iter() {
        below += u64::from(weight);
        if 2 * below >= total {
            return value;
        }
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn middle(values: &[f32]) -> f32 {
        median(
            &mut values
                .iter()
                .map(|&value| key_of(value))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn medians() {
        assert_eq!(middle(&[]), 0.0);
        assert_eq!(middle(&[-3.0, 5.0, -8.0]), -3.0);
        assert_eq!(middle(&[4.0, -1.0, 2.0, 8.0]), 3.0);
        assert_eq!(weighted_median(&mut [(1.0, 1), (9.0, 5), (2.0, 1)]), 9.0);
    }

    #[test]
    fn huber_clips_and_squared_is_the_mean() {
        let (residuals, rows) = ([1.0, -0.5, 10.0], [0, 1, 2]);
        let packing = Packing::new(3);
        for (loss, expected) in [
            (Loss::Squared, 3.5),
            (Loss::Huber { delta: 2.0 }, 1.0 + 0.5 / 3.0),
            (Loss::Absolute, 1.0),
        ] {
            let mut packed = Vec::new();
            let step = loss.gradients(&residuals, &[], packing, &mut packed);
            let sums = packing.unpack(packed.iter().sum());
            let mut scratch = LeafScratch::default();
            let value = loss.leaf_value(&rows, (&residuals, &[]), (sums, step), &mut scratch);
            assert!((value - expected).abs() < 1e-5, "{loss:?}: {value}");
        }
    }
}
