//! The forecasts that need no training: persistence, and persistence of the clear-sky index.
//!
//! Their values are worked out with the features; see [`crate::features`] for the definitions.

use crate::features::Facts;

/// A forecast that every learner has to beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// Power stays (or, from 12 hours on, repeats the last known day).
    Naive,
    /// The clear-sky index stays while the envelope moves on.
    Smart,
}

impl Baseline {
    /// The forecast, W, exactly as the benchmarks define it: not clamped, not darkened.
    pub fn forecast_w(self, facts: &Facts) -> f32 {
        match self {
            Baseline::Naive => facts.naive_w,
            Baseline::Smart => facts.smart_w,
        }
    }
}
