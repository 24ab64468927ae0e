//! Feature rows gathered for a learner.

use linfa::DatasetBase;
use ndarray::{Array1, ArrayView2};

use super::{Facts, MAX_PER_CAPACITY, Row, Sink, Truth};

/// Rows of equal width with their truths, in the order they came.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    width: usize,
    x: Vec<f32>,
    facts: Vec<Facts>,
    truths: Vec<Truth>,
}

impl Matrix {
    /// An empty matrix; the first row decides the width.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// True without any row.
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// Row `i`; panics past the end, as a slice does.
    pub fn row(&self, i: usize) -> Row<'_> {
        Row {
            x: &self.x[i * self.width..(i + 1) * self.width],
            facts: self.facts[i],
        }
    }

    /// The truth of row `i`; panics past the end, as a slice does.
    pub fn truth(&self, i: usize) -> Truth {
        self.truths[i]
    }

    /// Every row with its truth.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Row<'_>, Truth)> + '_ {
        (0..self.len()).map(|i| (self.row(i), self.truth(i)))
    }

    /// A copy of the rows that pass.
    pub fn select(&self, keep: impl Fn(Row<'_>) -> bool) -> Self {
        let mut selected = Self::new();
        self.iter()
            .filter(|(row, _)| keep(*row))
            .for_each(|(row, truth)| selected.take(row, truth));
        selected
    }

    /// The rows as linfa sees them: features, targets per capacity, and weights that are 0 where a
    /// row teaches nothing: dark, of unknown capacity, or with a target that no panel of that
    /// capacity gives.
    pub fn dataset(&self) -> DatasetBase<ArrayView2<'_, f32>, Array1<f32>> {
        let records = ArrayView2::from_shape((self.len(), self.width), &self.x)
            .expect("every push appends exactly `width` features");
        let scaled = |(f, t): (&Facts, &Truth)| {
            let y = t.y_w / f.capacity_w;
            (!f.dark && f.capacity_w > 0.0 && y <= MAX_PER_CAPACITY).then_some(y)
        };
        let pairs = || self.facts.iter().zip(&self.truths);
        let targets = pairs().map(|p| scaled(p).unwrap_or(0.0)).collect();
        let weights = pairs()
            .map(|p| f32::from(u8::from(scaled(p).is_some())))
            .collect();
        DatasetBase::new(records, targets).with_weights(weights)
    }
}

impl Sink for Matrix {
    fn take(&mut self, row: Row<'_>, truth: Truth) {
        if self.is_empty() {
            self.width = row.x.len();
        }
        assert_eq!(
            row.x.len(),
            self.width,
            "all rows of a matrix share one plan"
        );
        self.x.extend_from_slice(row.x);
        self.facts.push(row.facts);
        self.truths.push(truth);
    }
}
