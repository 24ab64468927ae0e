//! The rows learned from, day by day: as they came until bins are made of them, as codes from then on.

use std::collections::VecDeque;
use std::sync::Arc;

use ndarray::ArrayView2;

use super::binned::BinnedMatrix;
use super::bins::{BinError, Binner, MAX_BINS};
use super::params::MAX_ROWS;
use crate::features::Matrix;
use crate::models::CodecError;
use crate::models::codec::{Decoder, Encoder};

/// Rows kept as numbers: with 26 features 34 MiB, and more than enough for quantiles. What comes
/// after them takes a byte per feature.
const RAW_ROWS: usize = 300_000;
/// The newest days whose values are held against the bins.
const DRIFT_DAYS: usize = 7;
/// Features of fewer bins (a fan, a constant) have no tails to drift into.
const DRIFT_BINS: usize = 32;
const MAX_DAYS: usize = 100_000;

/// A local day's rows that teach something.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Day {
    number: i32,
    rows: u32,
    lit: bool,
}

/// Rows with their targets per capacity, without those that teach nothing; the oldest day first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    width: usize,
    /// Rows not encoded yet, row after row, with their missing masks.
    raw: Vec<f32>,
    masks: Vec<u64>,
    /// From the moment that a model was asked for, or that `raw_rows` were there.
    coded: Option<(Arc<Binner>, BinnedMatrix)>,
    targets: Vec<f32>,
    days: VecDeque<Day>,
    /// Rows that the bins were made of, and the newest day among them.
    rows_binned: usize,
    binned_day: i32,
    raw_rows: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self::with_raw_rows(RAW_ROWS)
    }
}

impl Window {
    fn with_raw_rows(raw_rows: usize) -> Self {
        Self {
            width: 0,
            raw: Vec::new(),
            masks: Vec::new(),
            coded: None,
            targets: Vec::new(),
            days: VecDeque::new(),
            rows_binned: 0,
            binned_day: i32::MAX,
            raw_rows,
        }
    }

    /// Adds the rows of a day that have a weight; days come in order.
    pub(super) fn add(&mut self, day: i32, rows: &Matrix) -> Result<(), BinError> {
        if rows.is_empty() {
            return Ok(());
        }
        let dataset = rows.dataset();
        let got = dataset.records.ncols();
        if self.targets.is_empty() && self.coded.is_none() {
            self.width = got;
        } else if got != self.width {
            let expected = self.width;
            return Err(BinError::Width { expected, got });
        }
        let before = self.targets.len();
        let weights = dataset.weights().unwrap_or_default();
        for (i, (&target, &weight)) in dataset.targets.iter().zip(weights).enumerate() {
            if weight > 0.0 && target.is_finite() {
                let row = rows.row(i);
                self.raw.extend_from_slice(row.x);
                self.masks.push(row.facts.missing);
                self.targets.push(target);
            }
        }
        self.days.push_back(Day {
            number: day,
            rows: (self.targets.len() - before) as u32,
            lit: rows.iter().any(|(_, truth)| truth.daylight),
        });
        if self.coded.is_some() || self.masks.len() >= self.raw_rows {
            self.encode()?;
        }
        Ok(())
    }

    /// Makes bins of the rows so far, where there are none yet, and codes of what is not encoded.
    pub(super) fn encode(&mut self) -> Result<(), BinError> {
        let rows = ArrayView2::from_shape((self.masks.len(), self.width), &self.raw)
            .expect("each row appends exactly `width` values");
        if let Some((binner, codes)) = &mut self.coded {
            codes.append(binner, rows, &self.masks)?;
        } else {
            let binner = Binner::fit(rows, &self.masks, MAX_BINS)?;
            let codes = binner.codes_of(rows, &self.masks)?;
            self.rows_binned = codes.rows();
            self.binned_day = self.last_day().unwrap_or(i32::MAX);
            self.coded = Some((Arc::new(binner), codes));
        }
        (self.raw, self.masks) = (Vec::new(), Vec::new());
        Ok(())
    }

    /// All rows that are encoded, with the bins that made them.
    pub(super) fn binned(&self) -> Option<(&Arc<Binner>, &BinnedMatrix)> {
        self.coded.as_ref().map(|(binner, codes)| (binner, codes))
    }

    /// A target per row.
    pub(super) fn targets(&self) -> &[f32] {
        &self.targets
    }

    /// Days with daylight.
    pub(super) fn lit_days(&self) -> usize {
        self.days.iter().filter(|day| day.lit).count()
    }

    /// The newest day.
    pub(super) fn last_day(&self) -> Option<i32> {
        self.days.back().map(|day| day.number)
    }

    /// Drops the days before `day`, once they are encoded.
    pub(super) fn forget_before(&mut self, day: i32) {
        let Some((_, codes)) = &mut self.coded else {
            return;
        };
        let mut rows = 0;
        while let Some(old) = self.days.pop_front_if(|old| old.number < day) {
            rows += old.rows as usize;
        }
        codes.keep(rows..self.targets.len());
        self.targets.drain(..rows);
    }

    /// Drops `day` and the days after it, once they are encoded.
    pub(super) fn forget_from(&mut self, day: i32) {
        let Some((_, codes)) = &mut self.coded else {
            return;
        };
        while let Some(late) = self.days.pop_back_if(|late| late.number >= day) {
            self.targets
                .truncate(self.targets.len() - late.rows as usize);
        }
        codes.keep(0..self.targets.len());
    }

    /// Whether the window has more than doubled since its bins were made. Bins of as many rows as are ever
    /// taken for them are not outgrown: new ones would be made of no more.
    pub(super) fn has_outgrown_its_bins(&self) -> bool {
        self.rows_binned < self.raw_rows && self.targets.len() > 2 * self.rows_binned
    }

    /// How far the newest days, of a week at most, that the bins were not made of have run into the
    /// tails: the largest share, over the features, of their values in the outermost two bins, less
    /// that share of the whole window. Quantile bins hold equal shares, so 0 is expected; values
    /// beyond all that the bins were made of pile up there.
    pub(super) fn drift(&self) -> f64 {
        let Some((_, codes)) = &self.coded else {
            return 0.0;
        };
        let newest = self.days.iter().rev().take(DRIFT_DAYS);
        let newest = newest.filter(|day| day.number > self.binned_day);
        let newest: usize = newest.map(rows_of).sum();
        let all = self.targets.len();
        if newest == 0 {
            return 0.0;
        }
        let mut outer = vec![[0u32; 2]; self.width];
        for (i, row) in codes.codes().chunks_exact(self.width).enumerate() {
            let is_new = usize::from(i >= all - newest);
            for ((&code, &width), outer) in row.iter().zip(codes.widths()).zip(&mut outer) {
                outer[is_new] += u32::from(code == 1 || usize::from(code) == width - 1);
            }
        }
        let shares = outer.iter().zip(codes.widths());
        shares
            .filter(|&(_, &width)| width > DRIFT_BINS)
            .map(|([old, new], _)| {
                f64::from(*new) / newest as f64 - f64::from(old + new) / all as f64
            })
            .fold(0.0, f64::max)
    }

    pub(super) fn encode_into(&self, out: &mut Encoder) {
        let Some((binner, codes)) = &self.coded else {
            return out.u8(0);
        };
        out.u8(1);
        binner.encode(out);
        out.len(self.rows_binned);
        out.u32(self.binned_day.cast_unsigned());
        out.len(self.days.len());
        for day in &self.days {
            out.u32(day.number.cast_unsigned());
            out.u32(day.rows);
            out.u8(u8::from(day.lit));
        }
        out.bytes(codes.codes());
        self.targets.iter().for_each(|&target| out.f32(target));
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let mut window = Self::default();
        if from.u8()? == 0 {
            return Ok(window);
        }
        let binner = Binner::decode(from)?;
        window.width = binner.features();
        window.rows_binned = from.u32()? as usize;
        window.binned_day = from.u32()?.cast_signed();
        let days = from.len(MAX_DAYS, 9)?;
        for _ in 0..days {
            window.days.push_back(Day {
                number: from.u32()?.cast_signed(),
                rows: from.u32()?,
                lit: from.u8()? != 0,
            });
        }
        let codes = from.bytes(MAX_ROWS * window.width)?.to_vec();
        let codes = BinnedMatrix::from_codes(&binner, codes)
            .ok_or(CodecError::Malformed("codes that the bins do not make"))?;
        let rows: usize = window.days.iter().map(rows_of).sum();
        let in_order = window.days.iter().is_sorted_by(|a, b| a.number < b.number);
        if rows != codes.rows() || !in_order {
            return Err(CodecError::Malformed("days that are not those of the rows"));
        }
        window.targets = (0..rows).map(|_| from.f32()).collect::<Result<_, _>>()?;
        window.coded = Some((Arc::new(binner), codes));
        Ok(window)
    }
}

fn rows_of(day: &Day) -> usize {
    day.rows as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{FeatureSet, Pipeline, Plan, Sink};
    use crate::testing::readings;

    fn days(count: u32) -> Vec<Matrix> {
        let plan = Plan::new(10, 10, FeatureSet::Core, None, None).unwrap();
        let (mut pipeline, mut rows) = (Pipeline::new(plan), Matrix::new());
        for (device, ts, values) in readings(&["a", "b"], count, 10, 0.1, 3) {
            pipeline.push(&device, ts, &values, &mut rows);
        }
        pipeline.finish(&mut rows);
        let day = |i: usize| i * 400;
        (0..rows.len() / 400)
            .map(|i| {
                let (from, to) = (rows.row(day(i)).facts.ts, rows.row(day(i + 1) - 1).facts.ts);
                rows.select(|row| (from..to).contains(&row.facts.ts))
            })
            .collect()
    }

    fn filled(mut window: Window, days: &[Matrix]) -> Window {
        for (number, day) in (0..).zip(days) {
            window.add(number, day).unwrap();
        }
        window
    }

    #[test]
    fn rows_past_the_limit_are_encoded_as_they_come_and_none_is_lost() {
        let days = days(12);
        let few = filled(Window::with_raw_rows(500), &days);
        let many = filled(Window::default(), &days);
        assert!(few.coded.is_some() && few.raw.is_empty() && many.coded.is_none());
        assert_eq!(few.targets(), many.targets());
        assert!(few.targets().len() > 2 * few.rows_binned && !few.has_outgrown_its_bins());
        let (binner, codes) = few.binned().unwrap();
        assert_eq!(codes.rows(), few.targets().len());
        // The raw rows under the same bins have the same codes.
        let rows = ArrayView2::from_shape((many.masks.len(), many.width), &many.raw).unwrap();
        assert_eq!(binner.codes_of(rows, &many.masks).unwrap(), *codes);
    }

    #[test]
    fn dark_rows_are_left_out_and_other_widths_refused() {
        let days = days(6);
        let rows: usize = days.iter().map(Matrix::len).sum();
        let mut window = filled(Window::default(), &days);
        let lit = window.targets().len();
        assert!((rows / 5..rows * 3 / 4).contains(&lit), "{lit} of {rows}");
        let mut other = Matrix::new();
        let row = crate::features::Row {
            x: &[1.0],
            facts: days[0].row(0).facts,
        };
        other.take(row, days[0].truth(0));
        assert!(matches!(
            window.add(99, &other),
            Err(BinError::Width { .. })
        ));
    }

    #[test]
    fn a_window_moves_at_both_ends_and_survives_its_bytes() {
        let days = days(20);
        let mut window = filled(Window::with_raw_rows(1), &days);
        let whole = window.clone();
        window.forget_before(3);
        window.forget_from(7);
        assert_eq!(window.last_day(), Some(6));
        let rows =
            |range: std::ops::Range<usize>| -> usize { whole.days.range(range).map(rows_of).sum() };
        let (from, to) = (rows(0..3), rows(0..7));
        assert_eq!(window.targets(), &whole.targets()[from..to]);
        let codes = whole.binned().unwrap().1.codes();
        let width = whole.width;
        assert_eq!(
            window.binned().unwrap().1.codes(),
            &codes[from * width..to * width]
        );
        // Once more what was dropped at the new end: as if it had never been gone.
        for (number, day) in (0..).zip(&days).skip(7) {
            window.add(number, day).unwrap();
        }
        assert_eq!(window.targets(), &whole.targets()[from..]);

        let mut out = Encoder::default();
        window.encode_into(&mut out);
        let back = Window::decode(&mut Decoder(&out.0)).unwrap();
        assert_eq!(back.targets(), window.targets());
        assert_eq!(back.binned(), window.binned());
        assert_eq!(back.days, window.days);
        for cut in [1, out.0.len() / 2, out.0.len() - 1] {
            assert!(Window::decode(&mut Decoder(&out.0[..cut])).is_err());
        }
    }

    #[test]
    fn values_beyond_the_bins_are_drift_and_the_same_weather_is_none() {
        let days = days(40);
        let (old, new) = days.split_at(20);
        let mut window = filled(Window::default(), old);
        window.encode().unwrap();
        let mut warmer = window.clone();
        let plan = Plan::new(10, 10, FeatureSet::Core, None, None).unwrap();
        let temperature = plan.names().position(|name| name == "temperature").unwrap();
        for (number, day) in (20..28).zip(new) {
            window.add(number, day).unwrap();
            let mut bent = Matrix::new();
            for (row, truth) in day.iter() {
                let mut x = row.x.to_vec();
                x[temperature] += 15.0;
                bent.take(crate::features::Row { x: &x, ..row }, truth);
            }
            warmer.add(number, &bent).unwrap();
        }
        let (same, warm) = (window.drift(), warmer.drift());
        assert!(warm > 0.5 && same < warm / 2.0, "{same} {warm}");
        assert!(!window.has_outgrown_its_bins());
        for (number, day) in (28..).zip(&days) {
            window.add(number, day).unwrap();
        }
        assert!(window.has_outgrown_its_bins());
    }
}
