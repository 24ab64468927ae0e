//! p10 and p90 by adaptive conformal prediction: quantiles of residuals on days the model never saw.
//!
//! Split conformal: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005); Lei,
//! G'Sell, Rinaldo, Tibshirani and Wasserman, "Distribution-Free Predictive Inference for Regression"
//! (JASA 113, 2018). Residuals are per capacity and by band of the clear-sky index (Mondrian
//! conformal prediction): clouds moving through err more than a clear sky. That supposes that the
//! days to come are like those held back, and weather is not. So the share missed on either side is
//! watched day by day, and where it is more than promised, the quantile moves outwards: Gibbs and
//! Candes, "Adaptive Conformal Inference Under Distribution Shift" (NeurIPS 2021).

use std::collections::VecDeque;

use super::CodecError;
use super::codec::{Decoder, Encoder};
use crate::features::{Facts, Row, Truth};

/// Share of outcomes below p10, and of those above p90.
const TAIL: f64 = 0.1;
/// How far a day's misses move the share that the quantiles leave out (Gibbs and Candes' gamma).
const STEP: f64 = 0.1;
/// Between these that share stays, so that neither side closes up or runs away.
const TAILS: [f64; 2] = [0.01, 0.3];
/// The days whose residuals count: long enough for all weathers.
const DAYS: usize = 28;
/// A band with fewer residuals borrows the pooled one.
const MIN_ROWS: usize = 100;
/// The most residuals of a band and day that are kept: evenly spaced ones of more.
const MAX_ROWS: usize = 2048;
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

/// One day in daylight: its residuals per capacity by band, and how it came out.
#[derive(Clone, Debug, Default, PartialEq)]
struct Day {
    number: i32,
    by_band: [Vec<f32>; BANDS],
    /// Outcomes within p10 … p90 as they stood before the day; none where there was no interval.
    inside: Option<[u64; 2]>,
}

/// What is known of the errors of the newest days, and the interval that follows for the next.
///
/// Each day is judged by the interval that the days before it gave, and only then added.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    days: VecDeque<Day>,
    /// The share of residuals left out below and above.
    tails: [f64; 2],
}

impl Default for Calibration {
    fn default() -> Self {
        Self {
            days: VecDeque::new(),
            tails: [TAIL; 2],
        }
    }
}

impl Calibration {
    /// Takes in a day: rows with their outcomes and the forecasts that were made without having seen
    /// them. Only daylight counts, and only where the capacity is known: elsewhere the interval is not
    /// drawn from residuals. Days come in order; one that is not newer than all others is left out.
    pub fn observe<'a>(
        &mut self,
        number: i32,
        rows: impl IntoIterator<Item = (Row<'a>, Truth, f32)>,
    ) {
        if self.last_day().is_some_and(|last| number <= last) {
            return;
        }
        let interval = self.interval();
        let mut day = Day {
            number,
            ..Day::default()
        };
        let (mut missed, mut n) = ([0u64; 2], 0u64);
        for (row, truth, forecast_w) in rows {
            let facts = &row.facts;
            if !truth.daylight || facts.dark || facts.capacity_w <= 0.0 {
                continue;
            }
            n += 1;
            day.by_band[band(facts)].push((truth.y_w - forecast_w) / facts.capacity_w);
            if let Some(interval) = &interval {
                let [p10_w, p90_w] = interval.around(facts, forecast_w);
                missed[0] += u64::from(truth.y_w < p10_w);
                missed[1] += u64::from(truth.y_w > p90_w);
            }
        }
        if n == 0 {
            return;
        }
        for residuals in &mut day.by_band {
            residuals.sort_by(f32::total_cmp);
            let every = residuals.len().div_ceil(MAX_ROWS).max(1);
            if every > 1 {
                *residuals = residuals
                    .iter()
                    .copied()
                    .skip(every / 2)
                    .step_by(every)
                    .collect();
            }
        }
        if interval.is_some() {
            day.inside = Some([n - missed[0] - missed[1], n]);
            for (tail, missed) in self.tails.iter_mut().zip(missed) {
                let off = TAIL - missed as f64 / n as f64;
                *tail = (*tail + STEP * off).clamp(TAILS[0], TAILS[1]);
            }
        }
        self.days.push_back(day);
        if self.days.len() > DAYS {
            self.days.pop_front();
        }
    }

    /// The newest day taken in.
    pub fn last_day(&self) -> Option<i32> {
        self.days.back().map(|day| day.number)
    }

    /// The share of the outcomes that were within the intervals as they stood before each day; `None`
    /// before the second day.
    pub fn coverage(&self) -> Option<f64> {
        let judged = self.days.iter().filter_map(|day| day.inside);
        let [inside, n] = judged.fold([0, 0], |sum, day| [sum[0] + day[0], sum[1] + day[1]]);
        (n > 0).then(|| inside as f64 / n as f64)
    }

    /// The interval for the next day; `None` with too few residuals for even a pooled one.
    pub fn interval(&self) -> Option<Interval> {
        let of_band = |b: usize| -> Vec<f32> {
            let residuals = self.days.iter().flat_map(|day| &day.by_band[b]);
            residuals.copied().collect()
        };
        let by_band: [Vec<f32>; BANDS] = std::array::from_fn(of_band);
        let pooled = self.quantiles(by_band.concat())?;
        Some(Interval {
            bands: by_band.map(|residuals| self.quantiles(residuals).unwrap_or(pooled)),
        })
    }

    /// The lower and upper quantile with the finite-sample correction: of n residuals the
    /// floor(tail (n + 1))-th from either end. `None` with fewer than [`MIN_ROWS`].
    fn quantiles(&self, mut residuals: Vec<f32>) -> Option<[f64; 2]> {
        let n = residuals.len();
        if n < MIN_ROWS {
            return None;
        }
        residuals.sort_by(f32::total_cmp);
        let rank = |tail: f64| ((tail * (n + 1) as f64).floor() as usize).max(1);
        let [below, above] = self.tails.map(rank);
        Some([below - 1, n - above].map(|i| f64::from(residuals[i])))
    }

    pub(crate) fn encode(&self, out: &mut Encoder) {
        self.tails.iter().for_each(|&tail| out.f64(tail));
        out.len(self.days.len());
        for day in &self.days {
            out.u32(day.number.cast_unsigned());
            let [inside, n] = day.inside.unwrap_or_default();
            out.u64(inside);
            out.u64(n);
            for residuals in &day.by_band {
                out.len(residuals.len());
                residuals.iter().for_each(|&r| out.f32(r));
            }
        }
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let mut calibration = Self::default();
        for tail in &mut calibration.tails {
            *tail = from.f64()?.clamp(TAILS[0], TAILS[1]);
        }
        let days = from.len(DAYS, 20)?;
        for _ in 0..days {
            let mut day = Day {
                number: from.u32()?.cast_signed(),
                ..Day::default()
            };
            let (inside, n) = (from.u64()?, from.u64()?);
            day.inside = (n > 0).then_some([inside, n]);
            for residuals in &mut day.by_band {
                let n = from.len(MAX_ROWS, 4)?;
                *residuals = (0..n).map(|_| from.f32()).collect::<Result<_, _>>()?;
            }
            calibration.days.push_back(day);
        }
        Ok(calibration)
    }
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

    const LIT: bool = true;

    fn row(kcs: Option<f32>) -> Row<'static> {
        Row {
            x: &[],
            facts: facts(kcs),
        }
    }

    /// A day of residuals -1 … 1 of capacity times `size`, evenly, `n` of them, around 500 W.
    fn spread(kcs: Option<f32>, n: u32, size: f32) -> Vec<(Row<'static>, Truth, f32)> {
        let y_w = |i: u32| 100.0 * size * (2.0 * i as f32 / (n - 1) as f32 - 1.0) + 500.0;
        (0..n)
            .map(|i| {
                let (y_w, daylight) = (y_w(i), LIT);
                (row(kcs), Truth { y_w, daylight }, 500.0)
            })
            .collect()
    }

    #[test]
    fn the_first_quantiles_are_the_corrected_ranks() {
        let mut c = Calibration::default();
        c.observe(1, spread(Some(0.5), 199, 1.0));
        // Rank floor(0.1 * 200) = 20 from either end of 199 values spaced 2/198 apart.
        let [low, high] = c.interval().unwrap().around(&facts(Some(0.5)), 500.0);
        assert!((low - (500.0 - 100.0 * (1.0 - 19.0 * 2.0 / 198.0))).abs() < 1e-3);
        assert!((high + low - 1000.0).abs() < 1e-3);
    }

    #[test]
    fn bands_differ_and_a_thin_band_borrows_the_pool() {
        let mut c = Calibration::default();
        assert_eq!(c.interval(), None);
        let mut day = spread(Some(0.5), 1000, 1.0);
        day.extend(spread(Some(1.0), 1000, 0.1));
        day.extend(spread(Some(0.1), 10, 5.0));
        c.observe(1, day);
        let interval = c.interval().unwrap();
        let width = |k| {
            let [low, high] = interval.around(&facts(Some(k)), 500.0);
            high - low
        };
        assert!(width(0.5) > 5.0 * width(1.0));
        assert!(width(0.1) < width(0.5) && width(0.1) > width(1.0));
    }

    #[test]
    fn an_interval_contains_its_forecast_and_is_never_negative() {
        let mut c = Calibration::default();
        let outcome = |i: u32| Truth {
            y_w: 50.0 + i as f32 * 0.01,
            daylight: LIT,
        };
        c.observe(1, (0..200).map(|i| (row(None), outcome(i), 10.0)));
        let interval = c.interval().unwrap();
        let [low, high] = interval.around(&facts(None), 10.0);
        assert!(low == 10.0 && high > 50.0, "all residuals were positive");
        let mut dark = facts(None);
        dark.dark = true;
        assert_eq!(interval.around(&dark, 0.0), [0.0, 0.0]);
    }

    #[test]
    fn weather_that_grows_worse_is_caught_up_with_and_a_fixed_share_would_not() {
        // Every day errs a tenth more than the day before: the newest month is always too calm.
        let (mut adaptive, mut inside, mut fixed) = (Calibration::default(), 0.0, 0.0);
        for day in 0..60 {
            let rows = spread(Some(0.5), 200, 1.1f32.powi(day) * 0.01);
            let share = |c: &Calibration| {
                let mut coverage = Coverage::default();
                let Some(interval) = c.interval() else {
                    return 0.0;
                };
                for (row, truth, f) in &rows {
                    coverage.add(*truth, interval.around(&row.facts, *f));
                }
                coverage.share().unwrap()
            };
            inside += share(&adaptive);
            let mut frozen = adaptive.clone();
            frozen.tails = [TAIL; 2];
            fixed += share(&frozen);
            adaptive.observe(day, rows);
        }
        let (inside, fixed) = (inside / 60.0, fixed / 60.0);
        assert!(inside > fixed + 0.1, "{inside} {fixed}");
        assert!(adaptive.tails.iter().all(|tail| *tail < TAIL));
    }

    #[test]
    fn a_day_is_judged_before_it_is_added_and_only_once() {
        let mut c = Calibration::default();
        c.observe(1, spread(Some(0.5), 200, 1.0));
        assert_eq!(c.coverage(), None, "nothing was promised yet");
        // Ten times calmer than promised: all inside, although its own quantiles would not hold all.
        c.observe(2, spread(Some(0.5), 200, 0.1));
        assert_eq!(c.coverage(), Some(1.0));
        let before = c.clone();
        c.observe(2, spread(Some(0.5), 200, 9.0));
        c.observe(3, []);
        assert_eq!(c, before);
        let mut out = Encoder::default();
        c.encode(&mut out);
        assert_eq!(Calibration::decode(&mut Decoder(&out.0)), Ok(c));
        assert!(Calibration::decode(&mut Decoder(&out.0[..out.0.len() - 1])).is_err());
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
