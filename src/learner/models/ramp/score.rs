//! The Brier score of warnings, and the gate that it decides.

use serde::{Deserialize, Serialize};

use super::learner::asked;
use super::{MIN_CLASS_ROWS, RampWarning, fell, possible};
use crate::features::{Facts, Matrix};

/// The mean squared error of probabilities over rows from which a ramp is possible.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Brier {
    rows: u64,
    fell: u64,
    squares: f64,
}

/// What [`Brier`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BrierScore {
    /// Rows from which a ramp was possible.
    pub rows: u64,
    /// The share of them that one followed; the forecast to beat.
    pub base_rate: f64,
    /// The mean squared error of the probability.
    pub brier: f64,
    /// 1 - error / error of always saying the base rate of these same rows; none where all rows or no
    /// row fell, or where there are too few of either to judge by.
    pub skill: Option<f64>,
}

impl Brier {
    /// Adds the rows of a day; the warning is asked about those from which a ramp is possible.
    pub fn judge(&mut self, rows: &Matrix, warning: &RampWarning) {
        for (row, lowest_w) in asked(rows, warning.header.horizon_min) {
            self.add(&row.facts, lowest_w, warning.probability(row));
        }
    }

    /// Adds a row; the probability counts only where a ramp is possible.
    pub(super) fn add(&mut self, facts: &Facts, lowest_w: f32, probability: f32) {
        if possible(facts) {
            let fell = fell(facts, lowest_w);
            self.rows += 1;
            self.fell += u64::from(fell);
            self.squares += (f64::from(probability) - f64::from(u8::from(fell))).powi(2);
        }
    }

    /// The score.
    pub fn score(&self) -> BrierScore {
        let rows = self.rows.max(1) as f64;
        let (base_rate, brier) = (self.fell as f64 / rows, self.squares / rows);
        let least = self.fell.min(self.rows - self.fell);
        let skill = 1.0 - brier / (base_rate * (1.0 - base_rate));
        BrierScore {
            rows: self.rows,
            base_rate,
            brier,
            skill: (least >= MIN_CLASS_ROWS as u64).then_some(skill),
        }
    }
}

/// A night's warning and the live one on the same held-back days.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RampReport {
    /// The night's; none where it had too little to learn from.
    pub candidate: Option<BrierScore>,
    /// The live one's, where there is one.
    pub live: Option<BrierScore>,
}

impl RampReport {
    /// The gate: a warning is published while it has skill, and replaced by a better one only.
    pub fn wins(&self) -> bool {
        let has_skill = |score: &BrierScore| score.skill.is_some_and(|skill| skill > 0.0);
        let Some(candidate) = self.candidate.filter(has_skill) else {
            return false;
        };
        let live = self.live.filter(has_skill);
        live.is_none_or(|live| candidate.brier < live.brier)
    }

    /// Whether the live warning is to be published no longer. Held-back days too calm to judge by are
    /// no reason.
    pub fn live_has_lost_its_skill(&self) -> bool {
        let skill = self.live.and_then(|live| live.skill);
        skill.is_some_and(|skill| skill <= 0.0)
    }
}
