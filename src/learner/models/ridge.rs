//! Ridge regression from an accumulated Gram matrix: adding a day is exact and needs only that day.
//!
//! Hoerl and Kennard, Technometrics 12 (1970). Over the rows x with target y the sums of 1, x, y,
//! x x' and x y hold all that the solution needs, with exact means and variances for
//! standardisation; they add over days.

use linfa::dataset::{DatasetBase, Records};
use linfa::traits::{Fit, FitWith};
use linfa::{Float, ParamGuard};
use linfa_linalg::cholesky::SolveCInplace;
use ndarray::{Array1, Array2, ArrayBase, Data, Ix2};
use thiserror::Error;

use super::CodecError;
use super::codec::{Decoder, Encoder};

/// Most features a stored ridge may have.
const MAX_WIDTH: usize = 64;
/// A feature whose variance is below this share of its mean square does not vary: what is left of
/// it after subtracting is rounding.
const CONSTANT: f64 = 1e-10;

/// Why no ridge came out.
#[derive(Debug, Error)]
pub enum RidgeError {
    /// The penalty is negative or not finite.
    #[error("ridge penalty {0}: it must be a number from 0 up")]
    Penalty(f64),
    /// No row teaches anything.
    #[error("fitting ridge: no usable rows")]
    NoRows,
    /// Rows of another width than those already summed.
    #[error("adding rows of {got} features to sums over {want}")]
    Width {
        /// Width of the sums.
        want: usize,
        /// Width of the rows.
        got: usize,
    },
    /// The system cannot be solved, even though the penalty keeps it regular for finite sums.
    #[error("solving for the ridge weights")]
    Solve(#[from] linfa_linalg::LinalgError),
    /// linfa refused the data set.
    #[error("data set for ridge")]
    Linfa(#[from] linfa::Error),
}

/// Unchecked settings of the ridge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RidgeParams(RidgeValidParams);

/// Checked settings of the ridge; fits and adds to [`Gram`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RidgeValidParams {
    penalty: f64,
}

impl RidgeParams {
    /// `penalty` on the squared weights of standardised features, on the scale of summed squares.
    pub fn new(penalty: f64) -> Self {
        Self(RidgeValidParams { penalty })
    }
}

impl ParamGuard for RidgeParams {
    type Checked = RidgeValidParams;
    type Error = RidgeError;

    fn check_ref(&self) -> Result<&Self::Checked, RidgeError> {
        let ok = self.0.penalty.is_finite() && self.0.penalty >= 0.0;
        ok.then_some(&self.0)
            .ok_or(RidgeError::Penalty(self.0.penalty))
    }

    fn check(self) -> Result<Self::Checked, RidgeError> {
        self.check_ref().copied()
    }
}

/// Sums over weighted rows; see the module. The row vector carries a leading 1 and the target as
/// its last entry, so one symmetric matrix holds every sum.
#[derive(Clone, Debug, PartialEq)]
pub struct Gram {
    width: usize,
    /// Upper triangle by rows of the (width + 2)-square matrix.
    sums: Vec<f64>,
}

impl Gram {
    /// Sums over no rows of `width` features.
    pub fn new(width: usize) -> Self {
        let side = width + 2;
        Self {
            width,
            sums: vec![0.0; side * (side + 1) / 2],
        }
    }

    /// Sum of the weights: the number of rows.
    pub fn rows(&self) -> f64 {
        self.sums[0]
    }

    /// Adds the sums over the rows of `dataset`.
    fn accumulate<F: Float, S: Data<Elem = F>>(
        &mut self,
        dataset: &DatasetBase<ArrayBase<S, Ix2>, Array1<F>>,
    ) -> Result<(), RidgeError> {
        let (rows, got) = (dataset.records.nsamples(), dataset.records.nfeatures());
        if rows > 0 && got != self.width {
            return Err(RidgeError::Width {
                want: self.width,
                got,
            });
        }
        let weights = dataset.weights();
        let mut v = vec![1.0; self.width + 2];
        let targets = &dataset.targets;
        for (i, (x, y)) in dataset.records.outer_iter().zip(targets).enumerate() {
            let weight = weights.map_or(1.0, |w| f64::from(w[i]));
            if weight == 0.0 {
                continue;
            }
            for (to, from) in v[1..].iter_mut().zip(x.iter().chain([y])) {
                *to = from.to_f64().unwrap_or(0.0);
            }
            let mut sums = self.sums.as_mut_slice();
            for a in 0..v.len() {
                let (line, rest) = sums.split_at_mut(v.len() - a);
                let wa = weight * v[a];
                line.iter_mut().zip(&v[a..]).for_each(|(s, b)| *s += wa * b);
                sums = rest;
            }
        }
        Ok(())
    }

    fn at(&self, a: usize, b: usize) -> f64 {
        let (a, b) = (a.min(b), a.max(b));
        let side = self.width + 2;
        // Rows before `a` hold side, side - 1, … entries.
        self.sums[a * side - a * a.saturating_sub(1) / 2 + (b - a)]
    }

    /// Covariance of entries `a` and `b` of the row vector.
    fn covariance(&self, a: usize, b: usize) -> f64 {
        let n = self.rows();
        self.at(a, b) / n - (self.at(0, a) / n) * (self.at(0, b) / n)
    }

    /// Solves (C + penalty / n I) w = c over standardised features; features that do not vary get
    /// no weight.
    pub fn solve(&self, params: &RidgeValidParams) -> Result<Ridge, RidgeError> {
        let n = self.rows();
        if n < 1.0 {
            return Err(RidgeError::NoRows);
        }
        let target = self.width + 1;
        let scales: Vec<f64> = (1..=self.width)
            .map(|a| {
                let variance = self.covariance(a, a);
                let varies = variance > CONSTANT * (self.at(a, a) / n);
                if varies { variance.sqrt() } else { 0.0 }
            })
            .collect();
        let varying: Vec<usize> = (0..self.width).filter(|&a| scales[a] > 0.0).collect();
        let m = varying.len();
        let mut c = Array2::from_shape_fn((m, m), |(i, j)| {
            let (a, b) = (varying[i], varying[j]);
            self.covariance(a + 1, b + 1) / (scales[a] * scales[b])
        });
        c.diag_mut().mapv_inplace(|d| d + self.ridge(params));
        let b = Array2::from_shape_fn((m, 1), |(i, _)| {
            self.covariance(varying[i] + 1, target) / scales[varying[i]]
        });
        let w = if m > 0 { c.solvec_into(b)? } else { b };
        if w.iter().any(|w| !w.is_finite()) {
            return Err(linfa_linalg::LinalgError::NotPositiveDefinite.into());
        }
        let mut weights = vec![0.0; self.width];
        for (i, &a) in varying.iter().enumerate() {
            weights[a] = w[(i, 0)] / scales[a];
        }
        let mean = |a| self.at(0, a) / n;
        let explained: f64 = (0..self.width).map(|a| weights[a] * mean(a + 1)).sum();
        Ok(Ridge {
            intercept: mean(target) - explained,
            weights,
        })
    }

    /// What is added to the diagonal: the penalty, and enough for equal columns to stay solvable.
    fn ridge(&self, params: &RidgeValidParams) -> f64 {
        params.penalty / self.rows() + 1e-9
    }
}

impl<F, S> Fit<ArrayBase<S, Ix2>, Array1<F>, RidgeError> for RidgeValidParams
where
    F: Float,
    S: Data<Elem = F>,
{
    type Object = Ridge;

    fn fit(
        &self,
        dataset: &DatasetBase<ArrayBase<S, Ix2>, Array1<F>>,
    ) -> Result<Ridge, RidgeError> {
        self.fit_with(None, dataset)?.solve(self)
    }
}

impl<'a, F, S> FitWith<'a, ArrayBase<S, Ix2>, Array1<F>, RidgeError> for RidgeValidParams
where
    F: Float,
    S: Data<Elem = F>,
{
    type ObjectIn = Option<Gram>;
    type ObjectOut = Gram;

    /// Adds the rows to the sums so far (none: start afresh).
    fn fit_with(
        &self,
        gram: Option<Gram>,
        dataset: &'a DatasetBase<ArrayBase<S, Ix2>, Array1<F>>,
    ) -> Result<Gram, RidgeError> {
        let mut gram = gram.unwrap_or_else(|| Gram::new(dataset.records.nfeatures()));
        gram.accumulate(dataset)?;
        Ok(gram)
    }
}

/// A fitted ridge.
#[derive(Clone, Debug, PartialEq)]
pub struct Ridge {
    intercept: f64,
    weights: Vec<f64>,
}

impl Ridge {
    /// The fitted value for one row, on the target's scale.
    pub fn value(&self, x: &[f32]) -> f64 {
        let terms = self.weights.iter().zip(x).map(|(w, &x)| w * f64::from(x));
        self.intercept + terms.sum::<f64>()
    }

    pub(super) fn width(&self) -> usize {
        self.weights.len()
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        out.f64(self.intercept);
        out.f64s(&self.weights);
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let intercept = from.f64()?;
        let weights = from.f64s(MAX_WIDTH)?;
        Ok(Self { intercept, weights })
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, s};

    use super::*;

    /// Rows of y = 3 + 2 a - 5 b with a third column that never varies.
    fn data(n: usize) -> DatasetBase<Array2<f64>, Array1<f64>> {
        let x = Array2::from_shape_fn((n, 3), |(i, j)| match j {
            0 => (i as f64 * 0.7).sin() * 10.0 + 1000.0,
            1 => (i as f64 * 1.3).cos(),
            _ => 42.0,
        });
        let y = x
            .outer_iter()
            .map(|r| 3.0 + 2.0 * r[0] - 5.0 * r[1])
            .collect();
        DatasetBase::new(x, y)
    }

    fn part(
        d: &DatasetBase<Array2<f64>, Array1<f64>>,
        from: usize,
        to: usize,
    ) -> DatasetBase<Array2<f64>, Array1<f64>> {
        DatasetBase::new(
            d.records.slice(s![from..to, ..]).to_owned(),
            d.targets.slice(s![from..to]).to_owned(),
        )
    }

    #[test]
    fn a_plane_is_recovered_and_constant_columns_get_no_weight() {
        let ridge = RidgeParams::new(0.0).fit(&data(200)).unwrap();
        assert!((ridge.weights[0] - 2.0).abs() < 1e-6, "{ridge:?}");
        assert!((ridge.weights[1] + 5.0).abs() < 1e-5);
        assert_eq!(ridge.weights[2], 0.0);
        assert!((ridge.value(&[1000.0, 0.5, 42.0]) - 2000.5).abs() < 1e-3);
    }

    #[test]
    fn the_penalty_shrinks_by_the_amount_of_one_standardised_feature() {
        // One feature of unit variance: w = n / (n + penalty).
        let x = Array2::from_shape_fn((100, 1), |(i, _)| if i % 2 == 0 { 1.0 } else { -1.0 });
        let y = x.column(0).to_owned();
        let ridge = RidgeParams::new(100.0)
            .fit(&DatasetBase::new(x, y))
            .unwrap();
        assert!((ridge.weights[0] - 0.5).abs() < 1e-8);
    }

    #[test]
    fn adding_days_gives_the_batch_bit_for_bit() {
        let (d, params) = (data(90), RidgeParams::new(1.0).check().unwrap());
        let batch = params.fit_with(None, &d).unwrap();
        let mut days = None;
        for k in 0..3 {
            days = Some(
                params
                    .fit_with(days, &part(&d, 30 * k, 30 * k + 30))
                    .unwrap(),
            );
        }
        assert_eq!(days, Some(batch));
    }

    #[test]
    fn weights_of_zero_leave_rows_out_and_no_rows_is_an_error() {
        let d = data(60);
        let half: Array1<f32> = (0..60).map(|i| f32::from(u8::from(i < 30))).collect();
        let weighted = RidgeParams::new(1.0)
            .fit(&data(60).with_weights(half))
            .unwrap();
        let first = RidgeParams::new(1.0).fit(&part(&d, 0, 30)).unwrap();
        assert_eq!(weighted, first);
        let none = data(60).with_weights(Array1::zeros(60));
        assert!(matches!(
            RidgeParams::new(1.0).fit(&none),
            Err(RidgeError::NoRows)
        ));
        assert!(matches!(
            RidgeParams::new(-1.0).fit(&d),
            Err(RidgeError::Penalty(_))
        ));
    }
}
