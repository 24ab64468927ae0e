//! SplitMix64: the seeded generator behind row, column and threshold sampling.

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014). Written
/// here so that a crate's update never changes what a seed means.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    /// A stream of its own for each (seed, stream) pair.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut mixed = Self(seed ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03));
        Self(mixed.next_u64())
    }

    /// The next 64 random bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..bound` (0 for a bound of 0), by Lemire's multiply-shift (2019); its bias of
    /// `bound / 2^32` is far below anything a sample of rows or columns shows.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        (((self.next_u64() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// `count` of the numbers `0..total`, ascending (partial Fisher-Yates shuffle).
    pub(crate) fn choose(&mut self, total: usize, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..total).collect();
        let count = count.min(total);
        for i in 0..count {
            let j = i + self.below((total - i) as u32) as usize;
            all.swap(i, j);
        }
        all.truncate(count);
        all.sort_unstable();
        all
    }

    /// Splits the rows `0..rows` into those drawn with probability `fraction` and the rest, both
    /// ascending. Four rows share one 64-bit draw.
    pub(crate) fn split_rows(
        &mut self,
        rows: usize,
        fraction: f32,
        drawn: &mut Vec<u32>,
        rest: &mut Vec<u32>,
    ) {
        drawn.resize(rows, 0);
        rest.resize(rows, 0);
        let limit = (f64::from(fraction) * 65536.0).round() as u64;
        let (mut bits, mut a, mut b) = (0u64, 0usize, 0usize);
        for row in 0..rows {
            bits = if row % 4 == 0 {
                self.next_u64()
            } else {
                bits >> 16
            };
            let keep = usize::from((bits & 0xFFFF) < limit);
            // Both slots are written and one cursor moves: a branch here would be a coin toss.
            drawn[a] = row as u32;
            rest[b] = row as u32;
            a += keep;
            b += 1 - keep;
        }
        drawn.truncate(a);
        rest.truncate(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choose_is_ascending_distinct_and_repeats_by_seed() {
        let picked = SplitMix64::new(1, 2).choose(20, 15);
        assert_eq!(picked.len(), 15);
        assert!(picked.windows(2).all(|w| w[0] < w[1]) && picked[14] < 20);
        assert_eq!(picked, SplitMix64::new(1, 2).choose(20, 15));
        assert_ne!(picked, SplitMix64::new(1, 3).choose(20, 15));
    }

    #[test]
    fn rows_are_split_near_the_fraction() {
        let (mut drawn, mut rest) = (Vec::new(), Vec::new());
        SplitMix64::new(7, 0).split_rows(10_001, 0.8, &mut drawn, &mut rest);
        assert_eq!(drawn.len() + rest.len(), 10_001);
        assert!((7_800..8_200).contains(&drawn.len()));
    }
}
