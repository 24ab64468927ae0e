//! What a night found out: scores on the held-back days, the gate's decision, the candidate.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Mode, NightParams, Promote};
use crate::features::{Counts, Matrix};
use crate::models::Artifact;
use crate::models::baseline::Baseline;
use crate::models::interval::Calibration;
use crate::models::ramp::{self, Brier, RampReport, RampWarning};
use crate::models::score::{Metrics, Score, skill};

/// How the night ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The candidate takes over.
    Promote,
    /// The candidate is not good enough.
    Keep,
    /// There is no candidate: too little data.
    Skip,
}

/// One forecaster on the held-back rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// `naive`, `smart`, `live` or `candidate`.
    pub name: String,
    /// Over daylight rows; what decides.
    pub daylight: Metrics,
    /// Over all rows.
    pub all: Metrics,
    /// 1 - MAE / MAE of smart persistence, daylight.
    pub skill_mae: Option<f64>,
}

/// Everything a night found out; crosses the trainer's pipe as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NightReport {
    /// Promoted, kept or skipped.
    pub decision: Decision,
    /// Why, in one sentence.
    pub reason: String,
    /// The mode that was carried out; without a cache an incremental night is a full one.
    pub mode: Mode,
    /// What became of the readings.
    pub counts: Counts,
    /// Devices seen.
    pub devices: usize,
    /// Grid step, minutes; 0 where none could be inferred.
    pub step_min: u32,
    /// Minutes ahead.
    pub horizon_min: u32,
    /// Days with daylight that the candidate learned from.
    pub days_train: u32,
    /// Days with daylight held back.
    pub days_held_back: u32,
    /// Rows read for it tonight.
    pub rows_train: u64,
    /// Rows that the cache held from the nights before.
    pub rows_known: u64,
    /// Rows held back.
    pub rows_held_back: u64,
    /// Features that held a value at least once.
    pub features: Vec<String>,
    /// Each forecaster on the same held-back rows.
    pub scores: Vec<Scored>,
    /// Share of daylight outcomes of the last four weeks within p10 … p90, each day judged by the
    /// interval that the days before it gave.
    pub coverage_p10_p90: Option<f64>,
    /// The candidate's bytes ([`Artifact::to_bytes`]), as hexadecimal text in JSON.
    #[serde(with = "hex", default)]
    pub model: Option<Vec<u8>>,
    /// The ramp warnings on the same days; none further ahead than they reach.
    #[serde(default)]
    pub ramp: Option<RampReport>,
    /// The bytes of a ramp warning that won ([`RampWarning::to_bytes`]), likewise.
    #[serde(with = "hex", default)]
    pub ramp_model: Option<Vec<u8>>,
}

impl NightReport {
    /// The score of that name.
    pub fn score(&self, name: &str) -> Option<&Scored> {
        self.scores.iter().find(|s| s.name == name)
    }
}

impl NightReport {
    pub(super) fn empty(params: &NightParams, reason: &str) -> Self {
        Self {
            decision: Decision::Skip,
            reason: reason.to_owned(),
            mode: params.mode,
            counts: Counts::default(),
            devices: 0,
            step_min: params.step_min.unwrap_or(0),
            horizon_min: params.horizon_min,
            days_train: 0,
            days_held_back: 0,
            rows_train: 0,
            rows_known: 0,
            rows_held_back: 0,
            features: Vec::new(),
            scores: Vec::new(),
            coverage_p10_p90: None,
            model: None,
            ramp: None,
            ramp_model: None,
        }
    }

    /// Scores the warnings on the held-back days; the night's is kept where it wins.
    pub(super) fn judge_ramp(
        &mut self,
        candidate: Option<RampWarning>,
        live: Option<&RampWarning>,
        held: &BTreeMap<i32, (Matrix, bool)>,
    ) {
        if self.horizon_min > ramp::MAX_HORIZON_MIN {
            return;
        }
        let score = |warning: &RampWarning| {
            let mut brier = Brier::default();
            held.values().for_each(|(day, _)| brier.judge(day, warning));
            brier.score()
        };
        let report = RampReport {
            candidate: candidate.as_ref().map(score),
            live: live.map(score),
        };
        self.ramp = Some(report);
        self.ramp_model = candidate.filter(|_| report.wins()).map(|w| w.to_bytes());
    }

    /// Scores everyone on the held-back days and gives the candidate its interval.
    pub(super) fn judge(
        &mut self,
        candidate: &mut Artifact,
        live: Option<&Artifact>,
        held: &BTreeMap<i32, (Matrix, bool)>,
        calibration: &mut Calibration,
    ) {
        let [mut naive, mut smart, mut served, mut new] = [Score::default(); 4];
        for (&number, (day, _)) in held {
            let mut judged = Vec::with_capacity(day.len());
            for (row, truth) in day.iter() {
                naive.add(truth, Baseline::Naive.forecast_w(&row.facts));
                smart.add(truth, Baseline::Smart.forecast_w(&row.facts));
                if let Some(live) = live {
                    served.add(truth, live.model.predict(row));
                }
                let forecast_w = candidate.model.predict(row);
                new.add(truth, forecast_w);
                judged.push((row, truth, forecast_w));
            }
            calibration.observe(number, judged);
        }
        self.coverage_p10_p90 = calibration.coverage();
        candidate.interval = calibration.interval();

        let smart_mae = smart.daylight().mae;
        let scored = |name: &str, score: Score| Scored {
            name: name.to_owned(),
            daylight: score.daylight(),
            all: score.all(),
            skill_mae: skill(score.daylight().mae, smart_mae),
        };
        self.scores = vec![scored("naive", naive), scored("smart", smart)];
        self.scores.extend(live.map(|_| scored("live", served)));
        self.scores.push(scored("candidate", new));
    }

    /// The gate; see [`Promote`]. The baselines have to be beaten, by however little.
    pub(super) fn decide(&mut self, promote: &Promote) {
        let metric = promote.metric;
        let error = |name: &str| self.score(name).map(|s| metric.of(&s.daylight));
        let candidate = error("candidate").unwrap_or(f64::INFINITY);
        let m = metric.name();
        let lost = ["naive", "smart"]
            .into_iter()
            .filter_map(|name| Some((name, error(name)?)))
            .find(|(_, baseline)| candidate >= *baseline);
        let needed = 1.0 - promote.min_improvement_percent / 100.0;
        (self.decision, self.reason) = match (lost, error("live")) {
            (Some((name, baseline)), _) => (
                Decision::Keep,
                format!(
                    "The candidate's {m} of {candidate:.2} W does not beat {name} persistence at {baseline:.2} W."
                ),
            ),
            (None, Some(live)) if candidate >= live * needed => (
                Decision::Keep,
                match promote.min_improvement_percent {
                    0.0 => format!(
                        "The candidate's {m} of {candidate:.2} W is not below the live model's {live:.2} W."
                    ),
                    percent => format!(
                        "The candidate's {m} of {candidate:.2} W is not {percent} % below the live model's {live:.2} W."
                    ),
                },
            ),
            (None, Some(live)) => (
                Decision::Promote,
                format!(
                    "The candidate's {m} of {candidate:.2} W beats both baselines and passes the live model's {live:.2} W."
                ),
            ),
            (None, None) => (
                Decision::Promote,
                format!(
                    "The candidate's {m} of {candidate:.2} W beats both baselines; there is no live model to compare with."
                ),
            ),
        };
    }
}

/// Optional bytes as hexadecimal text.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, s: S) -> Result<S::Ok, S::Error> {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let digit = |n: u8| char::from(DIGITS[usize::from(n & 15)]);
        let text = |b: &Vec<u8>| {
            b.iter()
                .flat_map(|&b| [digit(b >> 4), digit(b)])
                .collect::<String>()
        };
        bytes.as_ref().map(text).serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<u8>>, D::Error> {
        let Some(text) = Option::<String>::deserialize(d)? else {
            return Ok(None);
        };
        let digit = |b: u8| char::from(b).to_digit(16).map(|n| n as u8);
        let byte = |pair: &[u8]| match pair {
            [a, b] => Some(digit(*a)? << 4 | digit(*b)?),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        bytes
            .map(Some)
            .ok_or_else(|| D::Error::custom("the model is not hexadecimal text"))
    }
}
