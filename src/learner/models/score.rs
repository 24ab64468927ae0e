//! Errors of a forecast over many rows, by one accumulator.

use serde::{Deserialize, Serialize};

use crate::features::Truth;

/// What one accumulator found; errors in the unit of power.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Rows scored.
    pub n: u64,
    /// Mean absolute error.
    pub mae: f64,
    /// Root mean square error.
    pub rmse: f64,
    /// Coefficient of determination; none where the truth does not vary.
    pub r2: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    n: u64,
    abs: f64,
    squares: f64,
    y_mean: f64,
    y_squares: f64,
}

impl Sums {
    fn add(&mut self, y: f64, forecast: f64) {
        self.n += 1;
        let error = forecast - y;
        self.abs += error.abs();
        self.squares += error * error;
        // Welford: the truth's spread without the cancellation of summed squares.
        let d = y - self.y_mean;
        self.y_mean += d / self.n as f64;
        self.y_squares += d * (y - self.y_mean);
    }

    fn metrics(&self) -> Metrics {
        let n = self.n.max(1) as f64;
        Metrics {
            n: self.n,
            mae: self.abs / n,
            rmse: (self.squares / n).sqrt(),
            r2: (self.y_squares > 0.0).then(|| 1.0 - self.squares / self.y_squares),
        }
    }
}

/// Scores a forecast over daylight rows and over all rows at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Score {
    day: Sums,
    all: Sums,
}

impl Score {
    /// Adds one forecast, W.
    pub fn add(&mut self, truth: Truth, forecast_w: f32) {
        let (y, f) = (f64::from(truth.y_w), f64::from(forecast_w));
        self.all.add(y, f);
        if truth.daylight {
            self.day.add(y, f);
        }
    }

    /// Over daylight rows.
    pub fn daylight(&self) -> Metrics {
        self.day.metrics()
    }

    /// Over all rows.
    pub fn all(&self) -> Metrics {
        self.all.metrics()
    }
}

/// 1 - error / error of the baseline; none where the baseline has no error.
pub fn skill(error: f64, baseline_error: f64) -> Option<f64> {
    (baseline_error > 0.0).then(|| 1.0 - error / baseline_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_the_textbook_ones_and_nights_count_only_in_all() {
        let mut s = Score::default();
        for (y_w, f, daylight) in [(10.0, 12.0, true), (20.0, 16.0, true), (0.0, 0.0, false)] {
            s.add(Truth { y_w, daylight }, f);
        }
        // Errors 2 and -4; the truth's squares about 15 sum to 50.
        let day = s.daylight();
        assert_eq!((day.n, day.mae, day.rmse), (2, 3.0, 10f64.sqrt()));
        assert!((day.r2.unwrap() - (1.0 - 20.0 / 50.0)).abs() < 1e-12);
        assert_eq!((s.all().n, s.all().mae), (3, 2.0));
        assert_eq!(skill(3.0, 4.0), Some(0.25));
        assert_eq!(skill(3.0, 0.0), None);
        assert_eq!(Score::default().all(), Metrics::default());
    }
}
