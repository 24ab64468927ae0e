//! Rows of u8 codes: what both learners read.

use linfa::dataset::Records;
use ndarray::ArrayView2;

use super::bins::{BinError, Binner, MISSING, check_masks};

/// Rows of codes, row-major (rows x features): a histogram pass reads each row's codes together.
#[derive(Clone, Debug, PartialEq)]
pub struct BinnedMatrix {
    codes: Vec<u8>,
    /// Codes in use per feature, with [`MISSING`]: codes lie in `0..width[feature]`.
    widths: Vec<usize>,
}

impl BinnedMatrix {
    /// No rows yet, in the codes of `binner`.
    pub fn empty(binner: &Binner) -> Self {
        let widths = binner.widths();
        Self {
            codes: Vec::new(),
            widths,
        }
    }

    /// Adds the codes of more rows, made by the binner this matrix started from.
    pub fn append(
        &mut self,
        binner: &Binner,
        rows: ArrayView2<'_, f32>,
        masks: &[u64],
    ) -> Result<(), BinError> {
        check_masks(rows, masks)?;
        let features = self.features();
        if rows.ncols() != features {
            return Err(BinError::Width {
                expected: features,
                got: rows.ncols(),
            });
        }
        if binner.widths() != self.widths {
            return Err(BinError::OtherBins);
        }
        let mut at = self.codes.len();
        self.codes.resize(at + rows.len(), MISSING);
        let mut gathered = Vec::new();
        for (row, &mask) in rows.rows().into_iter().zip(masks) {
            let codes = &mut self.codes[at..at + features];
            if let Some(values) = row.as_slice() {
                binner.encode_row(values, mask, codes);
            } else {
                gathered.clear();
                gathered.extend(row.iter().copied());
                binner.encode_row(&gathered, mask, codes);
            }
            at += features;
        }
        Ok(())
    }

    /// Codes as they were stored; none where they are not codes of `binner`.
    pub(super) fn from_codes(binner: &Binner, codes: Vec<u8>) -> Option<Self> {
        let widths = binner.widths();
        let mut rows = codes.chunks_exact(widths.len());
        let fits = |row: &[u8]| {
            row.iter()
                .zip(&widths)
                .all(|(&code, &width)| usize::from(code) < width)
        };
        let sound = rows.all(fits) && rows.remainder().is_empty();
        sound.then_some(Self { codes, widths })
    }

    /// Keeps these rows only.
    pub(super) fn keep(&mut self, rows: std::ops::Range<usize>) {
        let features = self.features();
        self.codes.truncate(rows.end * features);
        self.codes.drain(..rows.start * features);
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.codes.len() / self.widths.len()
    }

    /// Codes per row.
    pub fn features(&self) -> usize {
        self.widths.len()
    }

    /// Codes in use per feature, [`MISSING`] included.
    pub fn widths(&self) -> &[usize] {
        &self.widths
    }

    /// The codes of one row (empty for a row that is not there).
    pub fn row(&self, row: usize) -> &[u8] {
        let from = row * self.features();
        self.codes.get(from..from + self.features()).unwrap_or(&[])
    }

    /// All codes, row after row.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// All codes, feature after feature (copied).
    pub(crate) fn by_feature(&self) -> Vec<u8> {
        let features = self.features();
        (0..features)
            .flat_map(|f| self.codes.iter().copied().skip(f).step_by(features))
            .collect()
    }
}

impl Records for BinnedMatrix {
    type Elem = u8;

    fn nsamples(&self) -> usize {
        self.rows()
    }

    fn nfeatures(&self) -> usize {
        self.features()
    }
}
