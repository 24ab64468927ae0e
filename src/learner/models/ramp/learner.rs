//! Gathers a bounded sample of rows night for night, and fits a warning from it.

use std::collections::{BTreeMap, VecDeque};

use ndarray::{Array2, ArrayView2};

use super::trees::{Tree, votes};
use super::{MAX_HORIZON_MIN, MIN_CLASS_ROWS, RampWarning, TREES, fell, possible};
use crate::features::{Matrix, Plan, Row};
use crate::models::codec::{Decoder, Encoder};
use crate::models::trees::rng::SplitMix64;
use crate::models::trees::{Binner, MAX_FEATURES as MAX_CODES, MISSING};
use crate::models::{CodecError, Header};
use crate::reading::TimestampMs;

/// Rows of a class that are kept to fit on, and rows that are kept to calibrate on.
const CLASS_ROWS: usize = 5_000;
const CALIBRATION_ROWS: usize = 10_000;
/// Every fourth day calibrates and is not fitted on.
const CALIBRATION_DAYS: i32 = 4;
const BINS: usize = 32;

/// Rows to be asked about with the least power that followed; none further ahead than a warning reaches.
pub(super) fn asked(rows: &Matrix, horizon_min: u32) -> impl Iterator<Item = (Row<'_>, f32)> {
    let lowest_w = match horizon_min <= MAX_HORIZON_MIN {
        true => lowest_w(rows, horizon_min),
        false => Vec::new(),
    };
    rows.iter().map(|(row, _)| row).zip(lowest_w)
}

/// The least power of the rows of the same device in the horizon after each row, W: what came of it.
/// `rows` are in time order; up to six hours ahead naive persistence is a row's own power. After the
/// last rows only the target itself is known.
pub(super) fn lowest_w(rows: &Matrix, horizon_min: u32) -> Vec<f32> {
    let mut lowest: Vec<f32> = rows.iter().map(|(_, truth)| truth.y_w).collect();
    // Ahead of each device: rows that are the least until they pass out of reach, the nearest last.
    let mut ahead: BTreeMap<u32, VecDeque<(TimestampMs, f32)>> = BTreeMap::new();
    for i in (0..rows.len()).rev() {
        let facts = rows.row(i).facts;
        let ahead = ahead.entry(facts.device).or_default();
        let reach = facts.ts.plus_min(i64::from(horizon_min));
        while ahead.pop_front_if(|(ts, _)| *ts > reach).is_some() {}
        if let Some((_, least_w)) = ahead.front() {
            lowest[i] = lowest[i].min(*least_w);
        }
        while ahead.pop_back_if(|(_, w)| *w >= facts.naive_w).is_some() {}
        ahead.push_back((facts.ts, facts.naive_w));
    }
    lowest
}

/// Rows drawn evenly from a stream of unknown length (algorithm R: Vitter 1985).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reservoir {
    rows: usize,
    seed: u64,
    pub(super) seen: u64,
    pub(super) x: Vec<f32>,
    masks: Vec<u64>,
    pub(super) days: Vec<i32>,
    fell: Vec<bool>,
}

impl Reservoir {
    fn new(rows: usize, seed: u64) -> Self {
        Self {
            rows,
            seed,
            seen: 0,
            x: Vec::new(),
            masks: Vec::new(),
            days: Vec::new(),
            fell: Vec::new(),
        }
    }

    fn take(&mut self, day: i32, row: Row<'_>, fell: bool) {
        self.seen += 1;
        if self.masks.len() < self.rows {
            self.x.extend_from_slice(row.x);
            self.masks.push(row.facts.missing);
            self.days.push(day);
            self.fell.push(fell);
            return;
        }
        // A lot by the row's number, so that there is no state to hand on between nights.
        let lot = SplitMix64::new(self.seed, self.seen).next_u64();
        let place = (lot % self.seen) as usize;
        if place < self.rows {
            let width = row.x.len();
            self.x[place * width..][..width].copy_from_slice(row.x);
            self.masks[place] = row.facts.missing;
            self.days[place] = day;
            self.fell[place] = fell;
        }
    }

    fn rows(&self) -> Option<ArrayView2<'_, f32>> {
        let n = self.masks.len();
        ArrayView2::from_shape((n, self.x.len().checked_div(n)?), &self.x).ok()
    }

    /// Keeps the rows of these days only, as if no other had been seen.
    fn keep(&mut self, wanted: impl Fn(i32) -> bool) {
        let had = self.masks.len();
        let width = self.x.len().checked_div(had).unwrap_or(0);
        let mut kept = Self::new(self.rows, self.seed);
        for i in (0..had).filter(|&i| wanted(self.days[i])) {
            kept.x.extend_from_slice(&self.x[i * width..][..width]);
            kept.masks.push(self.masks[i]);
            kept.days.push(self.days[i]);
            kept.fell.push(self.fell[i]);
        }
        let n = kept.masks.len() as u64;
        kept.seen = (self.seen * n).checked_div(had as u64).unwrap_or(0).max(n);
        *self = kept;
    }

    fn encode(&self, out: &mut Encoder) {
        out.u64(self.seen);
        out.len(self.masks.len());
        for i in 0..self.masks.len() {
            out.u64(self.masks[i]);
            out.u32(self.days[i].cast_unsigned());
            out.u8(u8::from(self.fell[i]));
        }
        self.x.iter().for_each(|&x| out.f32(x));
    }

    fn decode(&mut self, from: &mut Decoder<'_>, width: usize) -> Result<(), CodecError> {
        self.seen = from.u64()?;
        let n = from.len(self.rows, 13 + 4 * width)?;
        if self.seen < n as u64 {
            return Err(CodecError::Malformed("more rows are kept than were seen"));
        }
        for _ in 0..n {
            self.masks.push(from.u64()?);
            self.days.push(from.u32()?.cast_signed());
            self.fell.push(from.u8()? == 1);
        }
        self.x = (0..n * width)
            .map(|_| from.f32())
            .collect::<Result<_, _>>()?;
        Ok(())
    }
}

/// Gathers rows night for night and fits a warning from them.
#[derive(Clone, Debug, PartialEq)]
pub struct RampLearner {
    seed: u64,
    steady: Reservoir,
    falling: Reservoir,
    calibration: Reservoir,
}

impl RampLearner {
    /// A learner that has seen nothing; `seed` is for the lots it draws.
    pub fn new(seed: u64) -> Self {
        let stream = |stream| SplitMix64::new(seed, stream).next_u64();
        Self {
            seed,
            steady: Reservoir::new(CLASS_ROWS, stream(1)),
            falling: Reservoir::new(CLASS_ROWS, stream(2)),
            calibration: Reservoir::new(CALIBRATION_ROWS, stream(3)),
        }
    }

    /// Adds the rows of a day, made by a plan of this horizon. Further ahead than a warning reaches
    /// there is nothing to learn.
    pub fn learn(&mut self, day: i32, rows: &Matrix, horizon_min: u32) {
        for (row, lowest_w) in asked(rows, horizon_min) {
            self.take(day, row, lowest_w);
        }
    }

    /// Adds a row of local day `day` after which power was at least `lowest_w`. Rows from which no ramp
    /// is possible, or with a number that is none, are left out.
    pub(super) fn take(&mut self, day: i32, row: Row<'_>, lowest_w: f32) {
        let sound = row.x.iter().all(|v| v.is_finite()) && lowest_w.is_finite();
        if !sound || !possible(&row.facts) {
            return;
        }
        let fell = fell(&row.facts, lowest_w);
        let kept = if day.rem_euclid(CALIBRATION_DAYS) == 0 {
            &mut self.calibration
        } else if fell {
            &mut self.falling
        } else {
            &mut self.steady
        };
        kept.take(day, row, fell);
    }

    pub(super) fn reservoirs(&mut self) -> [&mut Reservoir; 3] {
        [&mut self.steady, &mut self.falling, &mut self.calibration]
    }

    /// Lets go of days before `day`.
    pub fn forget_before(&mut self, day: i32) {
        self.reservoirs()
            .into_iter()
            .for_each(|r| r.keep(|d| d >= day));
    }

    /// Lets go of `day` and of those after it.
    pub fn forget_from(&mut self, day: i32) {
        self.reservoirs()
            .into_iter()
            .for_each(|r| r.keep(|d| d < day));
    }

    /// What was gathered, for the next night.
    pub(crate) fn encode(&self, out: &mut Encoder) {
        [&self.steady, &self.falling, &self.calibration]
            .into_iter()
            .for_each(|r| r.encode(out));
    }

    /// Reads what [`RampLearner::encode`] wrote, of rows `width` wide.
    pub(crate) fn decode(
        from: &mut Decoder<'_>,
        seed: u64,
        width: usize,
    ) -> Result<Self, CodecError> {
        let mut learner = Self::new(seed);
        for reservoir in learner.reservoirs() {
            reservoir.decode(from, width)?;
        }
        Ok(learner)
    }

    /// The warning of what was gathered up to then; `None` with too few rows of either class to learn
    /// anything.
    pub fn warning(&self, plan: &Plan, trained_until: TimestampMs) -> Option<RampWarning> {
        let (steady, falling) = (self.steady.rows()?, self.falling.rows()?);
        let calibration = self.calibration.rows()?;
        let least = steady.nrows().min(falling.nrows());
        let both = self.calibration.fell.iter().filter(|f| **f).count();
        if least < MIN_CLASS_ROWS || both == 0 || both == calibration.nrows() {
            return None;
        }
        let x = ndarray::concatenate(ndarray::Axis(0), &[steady, falling]).ok()?;
        let masks = [&self.steady.masks[..], &self.falling.masks].concat();
        let fell = [&self.steady.fell[..], &self.falling.fell].concat();
        let binner = Binner::fit(x.view(), &masks, BINS).ok()?;
        let encode = |x: ArrayView2<'_, f32>, masks: &[u64]| {
            let mut codes = Array2::<u8>::from_elem((x.nrows(), MAX_CODES), MISSING);
            for ((row, &mask), mut codes) in x.outer_iter().zip(masks).zip(codes.outer_iter_mut()) {
                if let (Some(row), Some(codes)) = (row.as_slice(), codes.as_slice_mut()) {
                    binner.encode_row(row, mask, codes);
                }
            }
            codes
        };
        let codes = encode(x.view(), &masks);
        let mut lots = SplitMix64::new(self.seed, 4);
        let trees = (0..TREES)
            .map(|_| {
                Tree::fit(
                    &codes,
                    &fell,
                    x.ncols(),
                    [steady.nrows(), falling.nrows()],
                    &mut lots,
                )
            })
            .collect::<Option<Vec<_>>>()?;
        let codes = encode(calibration, &self.calibration.masks);
        let mut counted = vec![[0u32; 2]; TREES + 1];
        for (codes, &fell) in codes.outer_iter().zip(&self.calibration.fell) {
            counted[votes(&trees, codes.as_slice()?)][usize::from(fell)] += 1;
        }
        Some(RampWarning {
            header: Header::new(plan, trained_until),
            binner,
            trees,
            by_votes: isotonic(&counted),
        })
    }
}

/// Probabilities that never fall with the number of votes, by pooling adjacent violators; `counted` is
/// how many rows with that many votes did not and did fall. Numbers of votes that no row had take the
/// probability of the next lower that one had (or the lowest).
pub(super) fn isotonic(counted: &[[u32; 2]]) -> Vec<f32> {
    struct Pool {
        from: usize,
        fell: f64,
        rows: f64,
    }
    impl Pool {
        /// One of each kind more (Laplace's rule): what was never seen is not impossible.
        fn chance(&self) -> f64 {
            (self.fell + 1.0) / (self.rows + 2.0)
        }
    }
    let mut pools: Vec<Pool> = Vec::new();
    for (from, &[no, yes]) in counted.iter().enumerate().filter(|(_, c)| c[0] + c[1] > 0) {
        let mut pool = Pool {
            from,
            fell: f64::from(yes),
            rows: f64::from(no + yes),
        };
        while let Some(last) = pools.pop_if(|p| p.chance() >= pool.chance()) {
            pool = Pool {
                from: last.from,
                fell: last.fell + pool.fell,
                rows: last.rows + pool.rows,
            };
        }
        pools.push(pool);
    }
    (0..counted.len())
        .map(|votes| {
            let at = pools.partition_point(|p| p.from <= votes).saturating_sub(1);
            pools.get(at).map_or(0.0, |p| p.chance() as f32)
        })
        .collect()
}
