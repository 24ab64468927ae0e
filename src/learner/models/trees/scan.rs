//! The search for a leaf's best split over its histograms.

use super::histogram::{Packing, Sums};

/// The best split of a leaf.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    /// How much it lowers the squared error of the gradients.
    pub(crate) gain: f64,
    pub(crate) feature: usize,
    pub(crate) limit: u8,
    pub(crate) shift: u8,
    pub(crate) left: Sums,
}

/// The search for the best threshold of one leaf. The gain of a split is
/// `GL^2/HL + GR^2/HR - G^2/H = (GL H - G HL)^2 / (H HL HR)`; candidates are compared by cross
/// multiplication, so that the inner loop has no division.
pub(crate) struct Scan {
    packing: Packing,
    total: Sums,
    min_child: i64,
    numerator: f64,
    denominator: f64,
    found: Option<Candidate>,
}

impl Scan {
    pub(crate) fn new(packing: Packing, total: Sums, min_child: i64) -> Self {
        let (numerator, denominator, found) = (0.0, 1.0, None);
        Self {
            packing,
            total,
            min_child: min_child.max(1),
            numerator,
            denominator,
            found,
        }
    }

    /// Tries every threshold of a feature, codes ascending; with `shift` 1 missing goes right.
    pub(crate) fn thresholds(
        &mut self,
        feature: usize,
        histogram: &[i64],
        shift: u8,
        has_missing: bool,
    ) {
        let (all_gradient, all_weight) = (self.total.gradient as f64, self.total.weight as f64);
        let mut packed = 0;
        let last = histogram.len().saturating_sub(1);
        for (code, bin) in histogram[..last]
            .iter()
            .enumerate()
            .skip(usize::from(shift))
        {
            packed += bin;
            let left = self.packing.unpack(packed);
            if left.weight < self.min_child {
                continue;
            }
            let right = self.total.weight - left.weight;
            if right < self.min_child {
                break;
            }
            let excess = left.gradient as f64 * all_weight - all_gradient * left.weight as f64;
            let (numerator, denominator) = (excess * excess, left.weight as f64 * right as f64);
            if numerator * self.denominator > self.numerator * denominator {
                (self.numerator, self.denominator) = (numerator, denominator);
                // Where the tree saw nothing missing, missing follows the heavier side.
                let shift = if has_missing {
                    shift
                } else {
                    u8::from(left.weight < right)
                };
                let limit = (code as u8).wrapping_sub(shift);
                self.found = Some(Candidate {
                    gain: 0.0,
                    feature,
                    limit,
                    shift,
                    left,
                });
            }
        }
    }

    pub(crate) fn best(self) -> Option<Candidate> {
        let gain = self.numerator / (self.denominator * self.total.weight as f64);
        self.found.map(|found| Candidate { gain, ..found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scan_finds_the_jump_and_where_missing_belongs() {
        // Codes 1..=6 twenty times each: gradient -1 up to code 4, +1 above; missing like the high.
        let packing = Packing::new(1_000);
        let mut histogram = [0; 256];
        for (code, gradient) in [20, -20, -20, -20, -20, 20, 20].into_iter().enumerate() {
            histogram[code] = packing.pack(gradient, 20);
        }
        let total = Sums {
            gradient: -20,
            weight: 140,
        };
        let mut scan = Scan::new(packing, total, 1);
        scan.thresholds(3, &histogram[..7], 0, true);
        scan.thresholds(3, &histogram[..7], 1, true);
        let found = scan.best().unwrap();
        assert_eq!((found.feature, found.limit, found.shift), (3, 3, 1));
        assert_eq!(
            found.left,
            Sums {
                gradient: -80,
                weight: 80
            }
        );
        assert!((found.gain - (80.0 + 60.0 - 400.0 / 140.0)).abs() < 1e-9);
    }
}
