//! What becomes of a run's candidates: which parts make a version, and whether it goes live.

use super::{Contents, PartNote, Report, RunEnd, Station, TrainerError};
use crate::models::Artifact;
use crate::models::bundle::Bundle;
use crate::models::ramp::{BrierScore, RampWarning};
use crate::night::{Decision, NightReport};
use crate::reading::{DeviceId, TimestampMs};
use crate::registry::State;
use crate::serving::{ServeError, Service};
use crate::store::{NewModel, Reader, RunOutcome, StoreError};

/// What the gate made of a run: the parts that won, those that lost, and what was measured.
pub(super) struct Judged {
    report: Report,
    won: Bundle,
    lost: Bundle,
    parts: Vec<PartNote>,
}

impl Judged {
    /// What there is to say of a run that learned from one device and was judged on it.
    pub(super) fn trial(self, run_id: i64, device: &DeviceId) -> RunEnd {
        let nothing = self.won.is_empty() && self.lost.is_empty();
        RunEnd {
            run_id,
            outcome: match nothing {
                true => RunOutcome::Skipped,
                false => RunOutcome::Kept,
            },
            reason: format!(
                "A trial: learned from and judged on {device} alone, so nothing goes live. {}",
                reason(&self.report)
            ),
            promoted: None,
            report: Some(self.report),
        }
    }

    /// Whether something has to change: a part won, or a live warning has lost its skill.
    fn changes(&self) -> bool {
        !self.won.is_empty() || !self.spent().is_empty()
    }

    /// The horizons whose live warning is to be published no longer.
    fn spent(&self) -> Vec<u32> {
        let nights = self.report.horizons.iter();
        let spent = nights.filter(|n| n.ramp.is_some_and(|r| r.live_has_lost_its_skill()));
        spent.map(|n| n.horizon_min).collect()
    }
}

/// Takes the candidates out of the reports and sorts them by what the gate decided about each.
pub(super) fn judged(run_id: i64, mut report: Report) -> Result<Judged, TrainerError> {
    let (mut won, mut lost) = (Bundle::default(), Bundle::default());
    for night in &mut report.horizons {
        let Some(bytes) = night.model.take() else {
            continue;
        };
        let part = Artifact::from_bytes(&bytes)
            .map_err(|e| TrainerError::Answer(crate::errors::chain(&e)))?;
        let side = match night.decision {
            Decision::Promote => &mut won,
            Decision::Keep | Decision::Skip => &mut lost,
        };
        side.power.insert(night.horizon_min, part);
        if let Some(bytes) = night.ramp_model.take() {
            let part = RampWarning::from_bytes(&bytes)
                .map_err(|e| TrainerError::Answer(crate::errors::chain(&e)))?;
            won.ramp.insert(night.horizon_min, part);
        }
    }
    let parts = won.parts().map(|(horizon_min, kind)| PartNote {
        horizon_min,
        kind,
        run_id,
    });
    Ok(Judged {
        parts: parts.collect(),
        report,
        won,
        lost,
    })
}

/// Registers what the night decided. Where a part won, a version of those that won and of the live ones
/// that were not beaten goes live, once it has proved itself; otherwise the candidates are kept as
/// rejected, with the reason.
pub(super) async fn conclude(
    station: &Station,
    run_id: i64,
    created: TimestampMs,
    live: Option<i64>,
    judged: Judged,
) -> Result<RunEnd, StoreError> {
    let (changes, spent) = (judged.changes(), judged.spent());
    let Judged {
        report,
        won,
        lost,
        parts,
    } = judged;
    let mut reason = reason(&report);
    let reader = Reader::open(&station.config.store.path)?;
    let mut contents = Contents {
        parts,
        horizons: report.horizons.clone(),
    };
    let outmoded = reader.live_version()? != live;
    let (bundle, state) = if outmoded && changes {
        reason = format!(
            "The live model was changed while the night went on, so its candidates were compared with another. {reason}"
        );
        (won, State::Rejected)
    } else if !changes {
        (lost, State::Rejected)
    } else {
        let bundle = carry(&reader, live, station, won, &spent, &mut contents)?;
        (bundle, State::Candidate)
    };
    let mut end = RunEnd {
        run_id,
        outcome: RunOutcome::Skipped,
        reason: reason.clone(),
        promoted: None,
        report: Some(report),
    };
    if bundle.is_empty() {
        return Ok(end);
    }
    let model = NewModel {
        run_id,
        created,
        state: state.as_str(),
        reason: reason.clone(),
        metrics: serde_json::to_string(&contents).unwrap_or_default(),
        bytes: bundle.to_bytes(),
    };
    let version = station.store.add_model(model).await?;
    if state == State::Rejected {
        end.outcome = RunOutcome::Kept;
        return Ok(end);
    }
    let service = Service {
        config: &station.config,
        store: &station.store,
        clock: station.clock.as_ref(),
    };
    match service.promote(version, reason).await {
        Ok(()) => {
            end.outcome = RunOutcome::Promoted;
            end.promoted = Some(version);
        }
        Err(ServeError::Store(error)) => return Err(error),
        Err(error) => {
            end.outcome = RunOutcome::Failed;
            end.reason = crate::errors::chain(&error);
        }
    }
    Ok(end)
}

/// Adds to what won the live parts that were not beaten, without the warnings that are spent.
fn carry(
    reader: &Reader,
    live: Option<i64>,
    station: &Station,
    mut won: Bundle,
    spent: &[u32],
    contents: &mut Contents,
) -> Result<Bundle, StoreError> {
    let Some(row) = live.map(|v| reader.model(v)).transpose()?.flatten() else {
        return Ok(won);
    };
    // A damaged live version has nothing to hand on.
    let older = reader
        .model_bytes(row.version)?
        .and_then(|bytes| Bundle::from_bytes(&bytes).ok());
    let mut older = older.unwrap_or_default();
    older.ramp.retain(|horizon, _| !spent.contains(horizon));
    let horizons: Vec<u32> = station.config.training.horizon_min.iter().collect();
    let noted: Contents = serde_json::from_value(row.metrics).unwrap_or_default();
    let carried = won.carry(older, &horizons);
    let of_carried = |n: &&PartNote| carried.contains(&(n.horizon_min, n.kind));
    contents.parts.extend(noted.parts.iter().filter(of_carried));
    Ok(won)
}

/// Why the run ended so: its only night's sentences, or each night's after its horizon.
fn reason(report: &Report) -> String {
    match &report.horizons[..] {
        [only] => sentences(only),
        nights => {
            let each = nights
                .iter()
                .map(|night| format!("{} min: {}", night.horizon_min, sentences(night)));
            each.collect::<Vec<_>>().join(" ")
        }
    }
}

/// What the gate says of a night's power model, and of its warning where that changes.
fn sentences(night: &NightReport) -> String {
    let power = &night.reason;
    let Some(ramp) = night.ramp else {
        return power.clone();
    };
    let skill = |score: Option<BrierScore>| score.and_then(|s| s.skill).unwrap_or(0.0);
    if ramp.wins() {
        let skill = skill(ramp.candidate);
        format!("{power} Its ramp warning goes live with a Brier skill of {skill:+.2}.")
    } else if ramp.live_has_lost_its_skill() {
        let skill = skill(ramp.live);
        format!("{power} The live ramp warning goes: its Brier skill is {skill:+.2}.")
    } else {
        power.clone()
    }
}
