//! p10 and p90 by split conformal prediction: quantiles of residuals on rows the model never saw.
//!
//! Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005); Lei, G'Sell,
//! Rinaldo, Tibshirani and Wasserman, "Distribution-Free Predictive Inference for Regression"
//! (JASA 113, 2018). Residuals are per capacity and by band of the clear-sky index (Mondrian
//! conformal prediction): clouds moving through err more than a clear sky. Both tails are taken
//! apart, each with the finite-sample correction, so that each is missed at most one time in ten
//! as far as the rows to come are exchangeable with those held back.

use super::CodecError;
use super::codec::{Decoder, Encoder};
use crate::features::{Facts, Row, Truth};

/// Share of outcomes below p10, and of those above p90.
const TAIL: f64 = 0.1;
/// A band with fewer residuals borrows the pooled one.
const MIN_ROWS: usize = 100;
/// Where one band of the clear-sky index ends and the next begins; rows without an index have
/// their own band.
const EDGES: [f32; 3] = [0.3, 0.7, 0.95];
const BANDS: usize = EDGES.len() + 2;

fn band(facts: &Facts) -> usize {
    match facts.kcs {
        None => 0,
        Some(k) => 1 + EDGES.iter().filter(|&&edge| k >= edge).count(),
    }
}

/// Residuals of held-back rows, gathered by band.
#[derive(Clone, Debug, Default)]
pub struct Residuals {
    by_band: [Vec<f32>; BANDS],
}

impl Residuals {
    /// Adds a row with the forecast that was made without having seen it. Dark rows and rows of
    /// unknown capacity are left out: their interval is not drawn from residuals.
    pub fn add(&mut self, row: Row<'_>, truth: Truth, forecast_w: f32) {
        let facts = &row.facts;
        if !facts.dark && facts.capacity_w > 0.0 {
            self.by_band[band(facts)].push((truth.y_w - forecast_w) / facts.capacity_w);
        }
    }

    /// Adds all of `other`.
    pub fn append(&mut self, other: &Residuals) {
        for (mine, theirs) in self.by_band.iter_mut().zip(&other.by_band) {
            mine.extend(theirs);
        }
    }

    /// The interval; `None` with too few residuals for even a pooled one.
    pub fn interval(&self) -> Option<Interval> {
        let pooled = tails(self.by_band.concat())?;
        let tails_of = |residuals: &Vec<f32>| tails(residuals.clone()).unwrap_or(pooled);
        Some(Interval {
            bands: std::array::from_fn(|b| tails_of(&self.by_band[b])),
        })
    }
}

/// The corrected lower and upper quantile: of n residuals the floor(TAIL (n + 1))-th from either
/// end. `None` with fewer than [`MIN_ROWS`].
fn tails(mut residuals: Vec<f32>) -> Option<[f64; 2]> {
    let n = residuals.len();
    if n < MIN_ROWS {
        return None;
    }
    residuals.sort_by(f32::total_cmp);
    let rank = (TAIL * (n + 1) as f64).floor() as usize;
    Some([rank - 1, n - rank].map(|i| f64::from(residuals[i])))
}

/// How far the outcome lies below and above the forecast, per capacity, by band.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    bands: [[f64; 2]; BANDS],
}

impl Interval {
    /// p10 and p90 around `forecast_w`, W: never negative, never on the wrong side of the
    /// forecast, and both nil in the dark.
    pub fn around(&self, facts: &Facts, forecast_w: f32) -> [f32; 2] {
        if facts.dark {
            return [forecast_w; 2];
        }
        let [low, high] = self.bands[band(facts)].map(|r| forecast_w + r as f32 * facts.capacity_w);
        [low.min(forecast_w).max(0.0), high.max(forecast_w)]
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        out.f64s(self.bands.as_flattened());
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let flat = from.f64s(2 * BANDS)?;
        let mut bands = [[0.0; 2]; BANDS];
        if flat.len() != 2 * BANDS {
            return Err(CodecError::Malformed(
                "the interval has another number of bands",
            ));
        }
        bands.as_flattened_mut().copy_from_slice(&flat);
        Ok(Self { bands })
    }
}

/// Counts how often daylight outcomes fall within p10 … p90; 0.8 is what was promised.
#[derive(Clone, Copy, Debug, Default)]
pub struct Coverage {
    rows: u64,
    inside: u64,
}

impl Coverage {
    /// Adds one row; only daylight rows count.
    pub fn add(&mut self, truth: Truth, [p10_w, p90_w]: [f32; 2]) {
        if truth.daylight {
            self.rows += 1;
            self.inside += u64::from((p10_w..=p90_w).contains(&truth.y_w));
        }
    }

    /// The share inside; `None` without rows.
    pub fn share(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.inside as f64 / self.rows as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::TimestampMs;

    fn facts(kcs: Option<f32>) -> Facts {
        Facts {
            ts: TimestampMs(0),
            device: 0,
            missing: 0,
            naive_w: 0.0,
            smart_w: 0.0,
            capacity_w: 100.0,
            kcs,
            has_envelope: true,
            dark: false,
        }
    }

    /// Residuals -1 … 1 of capacity, evenly, `n` of them.
    fn spread(residuals: &mut Residuals, kcs: Option<f32>, n: u32, size: f32) {
        for i in 0..n {
            let y_w = 100.0 * size * (2.0 * i as f32 / (n - 1) as f32 - 1.0) + 500.0;
            let row = Row {
                x: &[],
                facts: facts(kcs),
            };
            residuals.add(
                row,
                Truth {
                    y_w,
                    daylight: true,
                },
                500.0,
            );
        }
    }

    #[test]
    fn the_tails_are_the_corrected_ranks() {
        let mut r = Residuals::default();
        spread(&mut r, Some(0.5), 199, 1.0);
        // Rank floor(0.1 * 200) = 20 from either end of 199 values spaced 2/198 apart.
        let [low, high] = r.interval().unwrap().around(&facts(Some(0.5)), 500.0);
        assert!((low - (500.0 - 100.0 * (1.0 - 19.0 * 2.0 / 198.0))).abs() < 1e-3);
        assert!((high + low - 1000.0).abs() < 1e-3);
    }

    #[test]
    fn bands_differ_and_a_thin_band_borrows_the_pool() {
        let mut r = Residuals::default();
        assert_eq!(r.interval(), None);
        spread(&mut r, Some(0.5), 1000, 1.0);
        spread(&mut r, Some(1.0), 1000, 0.1);
        spread(&mut r, Some(0.1), 10, 5.0);
        let interval = r.interval().unwrap();
        let width = |k| {
            let [low, high] = interval.around(&facts(Some(k)), 500.0);
            high - low
        };
        assert!(width(0.5) > 5.0 * width(1.0));
        assert!(width(0.1) < width(0.5) && width(0.1) > width(1.0));
    }

    #[test]
    fn an_interval_contains_its_forecast_and_is_never_negative() {
        let mut r = Residuals::default();
        for i in 0..200 {
            let row = Row {
                x: &[],
                facts: facts(None),
            };
            r.add(
                row,
                Truth {
                    y_w: 50.0 + i as f32 * 0.01,
                    daylight: true,
                },
                10.0,
            );
        }
        let interval = r.interval().unwrap();
        let [low, high] = interval.around(&facts(None), 10.0);
        assert!(low == 10.0 && high > 50.0, "all residuals were positive");
        let mut dark = facts(None);
        dark.dark = true;
        assert_eq!(interval.around(&dark, 0.0), [0.0, 0.0]);
    }

    #[test]
    fn coverage_counts_daylight_rows_only() {
        let mut c = Coverage::default();
        assert_eq!(c.share(), None);
        c.add(
            Truth {
                y_w: 5.0,
                daylight: true,
            },
            [4.0, 6.0],
        );
        c.add(
            Truth {
                y_w: 7.0,
                daylight: true,
            },
            [4.0, 6.0],
        );
        c.add(
            Truth {
                y_w: 0.0,
                daylight: false,
            },
            [0.0, 0.0],
        );
        assert_eq!(c.share(), Some(0.5));
    }
}
