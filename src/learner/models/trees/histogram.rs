//! Gradient histograms in one integer per bin: exact, so the order of summing never matters.

use std::thread;

/// Bins of one feature: one packed sum per code.
pub(crate) type FeatureHistogram = [i64; 256];

/// Rows from which a histogram is shared among threads: below, starting one would cost about as
/// much as it saves. Not tuned: no idle second core was at hand.
const PARALLEL_ROWS: usize = 16_384;
/// Features summed in one pass over the rows: as many as compilers unroll without spilling much.
const PASS_FEATURES: usize = 16;

/// How a row's gradient and weight share an i64: the gradient, in fixed point, above the weight.
/// One addition then updates both, and integer addition is associative: the histogram of a set of
/// rows is the same bits whatever the order, the chunking or the threads. (LightGBM's quantised
/// training, Shi et al. 2022, packs likewise with 2-5 bits; here the full width is used.)
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packing {
    weight_bits: u32,
}

/// The gradient sum (in steps of [`Packing`]'s fixed point) and the weight sum of some rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sums {
    pub(crate) gradient: i64,
    pub(crate) weight: i64,
}

impl Packing {
    /// For rows whose weights add up to at most `total_weight` units.
    pub(crate) fn new(total_weight: u64) -> Self {
        Self {
            weight_bits: 64 - total_weight.leading_zeros(),
        }
    }

    /// The largest gradient per unit of weight that cannot overflow when every row has it; capped
    /// at the 24 bits an f32 gradient carries.
    pub(crate) fn largest_gradient(self) -> f32 {
        let bits = 62u32.saturating_sub(2 * self.weight_bits).clamp(1, 24);
        (1u64 << bits) as f32
    }

    pub(crate) fn pack(self, gradient: i64, weight: i64) -> i64 {
        (gradient << self.weight_bits) + weight
    }

    pub(crate) fn unpack(self, packed: i64) -> Sums {
        let weight = packed & ((1 << self.weight_bits) - 1);
        Sums {
            gradient: packed >> self.weight_bits,
            weight,
        }
    }
}

/// What a histogram reads: codes (rows x stride, row-major) and a packed gradient per row.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) codes: &'a [u8],
    pub(crate) stride: usize,
    pub(crate) packed: &'a [i64],
}

/// Sums the packed gradients of `rows` per code of each column in `columns` into `histograms`
/// (one per column, overwritten). Threads divide the columns.
pub(crate) fn fill(
    histograms: &mut [FeatureHistogram],
    columns: &[usize],
    rows: &[u32],
    source: Source<'_>,
    threads: usize,
) {
    let parts = if rows.len() < PARALLEL_ROWS {
        1
    } else {
        threads.clamp(1, columns.len().max(1))
    };
    if parts == 1 {
        return fill_columns(histograms, columns, rows, source);
    }
    let share = columns.len().div_ceil(parts);
    thread::scope(|scope| {
        let mut shares = histograms.chunks_mut(share).zip(columns.chunks(share));
        let own = shares.next();
        for (histograms, columns) in shares {
            scope.spawn(move || fill_columns(histograms, columns, rows, source));
        }
        if let Some((histograms, columns)) = own {
            fill_columns(histograms, columns, rows, source);
        }
    });
}

/// [`fill`] on this thread: passes over the rows, each for an even share of the columns.
fn fill_columns(
    histograms: &mut [FeatureHistogram],
    columns: &[usize],
    rows: &[u32],
    source: Source<'_>,
) {
    let passes = columns.len().div_ceil(PASS_FEATURES).max(1);
    let share = columns.len().div_ceil(passes).max(1);
    for (histograms, columns) in histograms.chunks_mut(share).zip(columns.chunks(share)) {
        macro_rules! by_width {
            ($($width:literal)*) => {
                match columns.len() {
                    $($width => add_rows::<$width>(histograms, columns, rows, source),)*
                    _ => {}
                }
            };
        }
        by_width!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
    }
}

/// One pass: `K` columns at once, so that each row's codes and gradient are loaded once and the
/// additions of one row go to `K` different histograms (no wait on the previous row's store).
fn add_rows<const K: usize>(
    histograms: &mut [FeatureHistogram],
    columns: &[usize],
    rows: &[u32],
    source: Source<'_>,
) {
    let Ok(histograms) = <&mut [FeatureHistogram; K]>::try_from(histograms) else {
        return;
    };
    let Ok(columns) = <&[usize; K]>::try_from(columns) else {
        return;
    };
    histograms.as_flattened_mut().fill(0);
    for &row in rows {
        let row = row as usize;
        let codes = &source.codes[row * source.stride..][..source.stride];
        let packed = source.packed[row];
        for k in 0..K {
            histograms[k][usize::from(codes[columns[k]])] += packed;
        }
    }
}

/// The sibling's histogram: parent minus child, in the parent's place (Ke et al. 2017, section 5.1).
pub(crate) fn subtract(parent: &mut [FeatureHistogram], child: &[FeatureHistogram]) {
    for (parent, child) in parent
        .as_flattened_mut()
        .iter_mut()
        .zip(child.as_flattened())
    {
        *parent -= child;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_sums_keep_both_parts_with_mixed_signs() {
        let packing = Packing::new(1_000);
        let rows = [(-7, 1), (3, 2), (-100, 5), (50, 1)];
        let sum = rows.iter().map(|&(g, w)| packing.pack(g, w)).sum();
        assert_eq!(
            packing.unpack(sum),
            Sums {
                gradient: -54,
                weight: 9
            }
        );
    }

    #[test]
    fn threads_and_subtraction_give_the_same_bits() {
        let rows: Vec<u32> = (0..40_000).collect();
        let codes: Vec<u8> = (0..40_000u32 * 5)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let packing = Packing::new(40_000);
        let packed: Vec<i64> = (0..40_000).map(|i| packing.pack(i % 7 - 3, 1)).collect();
        let source = Source {
            codes: &codes,
            stride: 5,
            packed: &packed,
        };
        let columns = [0, 1, 3, 4];
        let sum = |rows: &[u32], threads| {
            let mut histograms = vec![[0; 256]; 4];
            fill(&mut histograms, &columns, rows, source, threads);
            histograms
        };
        let whole = sum(&rows, 1);
        assert_eq!(whole, sum(&rows, 2));
        assert_eq!(whole, sum(&rows, 3));
        let mut rest = whole;
        subtract(&mut rest, &sum(&rows[..100], 1));
        assert_eq!(rest, sum(&rows[100..], 1));
    }
}
