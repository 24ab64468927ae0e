//! The rows learned from: as they came while they are few, as codes from then on.

use std::borrow::Cow;
use std::sync::Arc;

use ndarray::ArrayView2;

use super::binned::BinnedMatrix;
use super::bins::{BinError, Binner, MAX_BINS};
use crate::features::Matrix;

/// Rows kept as numbers: with 26 features 34 MiB, and more than enough for quantiles. What comes
/// after them takes a byte per feature.
const RAW_ROWS: usize = 300_000;

/// Rows with their targets per capacity, without those that teach nothing.
#[derive(Clone, Debug)]
pub(super) struct Store {
    width: usize,
    /// Rows not encoded yet, row after row, with their missing masks.
    raw: Vec<f32>,
    masks: Vec<u64>,
    /// From the moment that `raw_rows` were there.
    coded: Option<(Arc<Binner>, BinnedMatrix)>,
    targets: Vec<f32>,
    raw_rows: usize,
}

impl Default for Store {
    fn default() -> Self {
        Self::with_raw_rows(RAW_ROWS)
    }
}

impl Store {
    fn with_raw_rows(raw_rows: usize) -> Self {
        Self {
            width: 0,
            raw: Vec::new(),
            masks: Vec::new(),
            coded: None,
            targets: Vec::new(),
            raw_rows,
        }
    }

    /// Adds the rows of a day that have a weight.
    pub(super) fn add(&mut self, day: &Matrix) -> Result<(), BinError> {
        let dataset = day.dataset();
        if self.targets.is_empty() {
            self.width = dataset.records.ncols();
        } else if !day.is_empty() && dataset.records.ncols() != self.width {
            return Err(BinError::Width {
                expected: self.width,
                got: dataset.records.ncols(),
            });
        }
        let weights = dataset.weights().unwrap_or_default();
        for (i, (&target, &weight)) in dataset.targets.iter().zip(weights).enumerate() {
            if weight > 0.0 && target.is_finite() {
                let row = day.row(i);
                self.raw.extend_from_slice(row.x);
                self.masks.push(row.facts.missing);
                self.targets.push(target);
            }
        }
        if self.coded.is_none() && self.masks.len() >= self.raw_rows {
            self.coded = Some(self.encode()?);
            (self.raw, self.masks) = (Vec::new(), Vec::new());
        }
        if let Some((binner, codes)) = &mut self.coded {
            let rows = view(&self.raw, self.masks.len(), self.width);
            codes.append(binner, rows, &self.masks)?;
            self.raw.clear();
            self.masks.clear();
        }
        Ok(())
    }

    /// Bins of the raw rows, and their codes.
    fn encode(&self) -> Result<(Arc<Binner>, BinnedMatrix), BinError> {
        let rows = view(&self.raw, self.masks.len(), self.width);
        let binner = Binner::fit(rows, &self.masks, MAX_BINS)?;
        let codes = binner.codes_of(rows, &self.masks)?;
        Ok((Arc::new(binner), codes))
    }

    /// All rows as codes, with the bins that made them.
    pub(super) fn binned(&self) -> Result<(Arc<Binner>, Cow<'_, BinnedMatrix>), BinError> {
        match &self.coded {
            Some((binner, codes)) => Ok((binner.clone(), Cow::Borrowed(codes))),
            None => {
                let (binner, codes) = self.encode()?;
                Ok((binner, Cow::Owned(codes)))
            }
        }
    }

    /// A target per row.
    pub(super) fn targets(&self) -> &[f32] {
        &self.targets
    }
}

fn view(raw: &[f32], rows: usize, width: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, width), raw).expect("each row appends exactly `width` values")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{FeatureSet, Pipeline, Plan};
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

    #[test]
    fn rows_past_the_limit_are_encoded_as_they_come_and_none_is_lost() {
        let days = days(12);
        let (mut few, mut many) = (Store::with_raw_rows(500), Store::default());
        for day in &days {
            few.add(day).unwrap();
            many.add(day).unwrap();
        }
        assert!(few.coded.is_some() && few.raw.is_empty() && many.coded.is_none());
        assert_eq!(few.targets(), many.targets());
        let (binner, codes) = few.binned().unwrap();
        assert_eq!(codes.rows(), few.targets().len());
        // The raw rows under the same bins have the same codes.
        let rows = view(&many.raw, many.masks.len(), many.width);
        assert_eq!(binner.codes_of(rows, &many.masks).unwrap(), *codes);
    }

    #[test]
    fn dark_rows_are_left_out_and_other_widths_refused() {
        let days = days(6);
        let rows: usize = days.iter().map(Matrix::len).sum();
        let mut store = Store::default();
        days.iter().for_each(|day| store.add(day).unwrap());
        let lit = store.targets().len();
        assert!((rows / 5..rows * 3 / 4).contains(&lit), "{lit} of {rows}");
        let mut other = Matrix::new();
        let row = crate::features::Row {
            x: &[1.0],
            facts: days[0].row(0).facts,
        };
        crate::features::Sink::take(&mut other, row, days[0].truth(0));
        assert!(matches!(store.add(&other), Err(BinError::Width { .. })));
    }
}
