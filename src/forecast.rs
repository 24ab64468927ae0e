//! The live path: readings in, the forecast of each device out, by the code that made the training rows.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::features::{DeviceState, Facts, MAX_PER_CAPACITY, Plan, Row, Sky, between};
use crate::grid::Grid;
use crate::models::bundle::{Bundle, Kind};
use crate::models::ramp::RampWarning;
use crate::models::{Artifact, Model};
use crate::reading::{DeviceId, TimestampMs, Values};

/// A reading older than this says nothing about now, minutes (or two steps, or for short horizons
/// the horizon).
const MAX_AGE_MIN: i64 = 60;

/// Who made a forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The live model.
    Model,
    /// Smart persistence: there is no model, or it was made for other rows, or the device is too
    /// new for it.
    Smart,
    /// Naive persistence: there is no envelope yet either.
    Naive,
}

impl Source {
    /// The word that is stored and published.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Model => "model",
            Source::Smart => "smart",
            Source::Naive => "naive",
        }
    }
}

/// The power expected of one device at one time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// When it was made.
    pub issued: TimestampMs,
    /// The start of the slot it starts from.
    pub from: TimestampMs,
    /// The time it is for: `from` plus the horizon, as in training.
    pub target: TimestampMs,
    /// Minutes from `from` to `target`.
    pub horizon_min: u32,
    /// Expected power, W.
    pub power_w: f32,
    /// One outcome in ten lies below, W.
    pub p10_w: Option<f32>,
    /// One outcome in ten lies above, W.
    pub p90_w: Option<f32>,
    /// Who made it.
    pub source: Source,
    /// The live model's version, where it made it.
    pub model_version: Option<i64>,
    /// Smart persistence, W (naive before an envelope exists).
    pub smart_w: f32,
    /// Naive persistence, W.
    pub naive_w: f32,
    /// How likely power is to fall by more than a fifth of capacity before the target, where a
    /// warning with skill is live.
    pub ramp_probability: Option<f32>,
}

struct Device {
    number: u32,
    grid: Grid,
    state: Option<DeviceState>,
}

/// One horizon: how rows are made for it, and what of the live version answers.
struct Horizon {
    plan: Plan,
    sky: Sky,
    power: Option<Artifact>,
    ramp: Option<RampWarning>,
}

/// The live version and the bounded past of every device; either changes without the other.
pub struct Forecaster {
    step_min: u32,
    horizons: Vec<Horizon>,
    version: Option<i64>,
    devices: BTreeMap<DeviceId, Device>,
}

/// A forecast that no panel gives: the model that made it must not be served.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{horizon_min} minutes ahead of {from} it says {said} for {device}, which cannot be")]
pub struct Absurd {
    device: DeviceId,
    from: TimestampMs,
    horizon_min: u32,
    said: f32,
}

impl Forecaster {
    /// A forecaster without model or past, a plan for each horizon, all of `plans` with the step of the
    /// first. Feed it the last fifteen days before relying on it.
    pub fn new(plans: Vec<Plan>) -> Self {
        let step_min = plans.first().map_or(1, Plan::step_min);
        let horizons = plans.into_iter().filter(|plan| plan.step_min() == step_min);
        Self {
            step_min,
            horizons: horizons
                .map(|plan| Horizon {
                    plan,
                    sky: Sky::default(),
                    power: None,
                    ramp: None,
                })
                .collect(),
            version: None,
            devices: BTreeMap::new(),
        }
    }

    /// Serves another version from now on, or none. Returns the parts that are not served because they
    /// were made for other features, another step, or a horizon that is not asked for.
    pub fn serve(&mut self, live: Option<(Bundle, i64)>) -> Vec<(u32, Kind)> {
        let (mut bundle, version) = live.map_or((Bundle::default(), None), |(b, v)| (b, Some(v)));
        self.version = version;
        for h in &mut self.horizons {
            let minutes = h.plan.horizon_min();
            let fits = bundle
                .power
                .get(&minutes)
                .is_some_and(|p| p.header.fits(&h.plan));
            h.power = fits.then(|| bundle.power.remove(&minutes)).flatten();
            let fits = bundle
                .ramp
                .get(&minutes)
                .is_some_and(|p| p.header.fits(&h.plan));
            h.ramp = fits.then(|| bundle.ramp.remove(&minutes)).flatten();
        }
        bundle.parts().collect()
    }

    /// Minutes between slots.
    pub fn step_min(&self) -> u32 {
        self.step_min
    }

    /// The version that is served.
    pub fn version(&self) -> Option<i64> {
        self.version
    }

    /// The devices heard of.
    pub fn devices(&self) -> impl Iterator<Item = &DeviceId> {
        self.devices.keys()
    }

    /// Adds a reading; each device's come in time order, and late ones are left out.
    pub fn push(&mut self, device: &DeviceId, ts: TimestampMs, values: &Values) {
        let number = self.devices.len() as u32;
        let d = self
            .devices
            .entry(device.clone())
            .or_insert_with(|| Device {
                number,
                grid: Grid::new(self.step_min),
                state: None,
            });
        let finished = d.grid.push(ts, values);
        let Some(open) = d.grid.open_slot() else {
            return;
        };
        let first = finished.map_or(open.index, |slot| slot.index);
        // What is remembered depends on the step only, so one past serves every horizon.
        let Some(Horizon { plan, .. }) = self.horizons.first() else {
            return;
        };
        let state = d.state.get_or_insert_with(|| DeviceState::new(plan, first));
        if let Some(slot) = finished {
            state.push(&slot.values);
            // Nothing older than the open slot is taken any more, so the gap before it is final.
            state.advance_to(plan, open.index);
        }
    }

    /// The forecasts from the newest slot, which may still be filling, by horizon. None for an unknown
    /// device, one without power in that slot, or one not heard of for so long that persistence of
    /// anything is a guess.
    pub fn forecast(&mut self, device: &DeviceId, now: TimestampMs) -> Vec<Forecast> {
        let step_min = i64::from(self.step_min);
        let mut made = Vec::new();
        for h in &mut self.horizons {
            let horizon_min = h.plan.horizon_min();
            let max_age_min = i64::from(horizon_min).min(MAX_AGE_MIN).max(2 * step_min);
            let (version, mut x) = (self.version, Vec::new());
            if let Some(facts) = self.devices.get(device).and_then(|d| d.row(h, &mut x))
                && now <= facts.ts.plus_min(max_age_min)
            {
                made.push(h.forecast(Row { x: &x, facts }, now, version));
            }
        }
        made
    }

    /// Asks every part about the newest row of every device, whatever its age: a version that says
    /// what cannot be is not to be served.
    pub fn prove(&mut self) -> Result<(), Absurd> {
        for (device, d) in &self.devices {
            for h in &mut self.horizons {
                let mut x = Vec::new();
                let Some(facts) = d.row(h, &mut x) else {
                    continue;
                };
                let row = Row { x: &x, facts };
                let most_w = (MAX_PER_CAPACITY * facts.capacity_w).max(facts.smart_w);
                let absurd = |said| Absurd {
                    device: device.clone(),
                    from: facts.ts,
                    horizon_min: h.plan.horizon_min(),
                    said,
                };
                let said = h.power.as_ref().map_or(0.0, |p| p.model.predict(row));
                if !(0.0..=most_w.max(0.0)).contains(&said) {
                    return Err(absurd(said));
                }
                let said = h.ramp.as_ref().map_or(0.0, |r| r.probability(row));
                if !(0.0..=1.0).contains(&said) {
                    return Err(absurd(said));
                }
            }
        }
        Ok(())
    }
}

impl Device {
    /// The features of the open slot.
    fn row(&self, h: &mut Horizon, x: &mut Vec<f32>) -> Option<Facts> {
        let slot = self.grid.open_slot()?;
        let state = self.state.as_ref()?;
        state.row(&h.plan, &mut h.sky, self.number, &slot, x)
    }
}

impl Horizon {
    fn forecast(&self, row: Row<'_>, now: TimestampMs, version: Option<i64>) -> Forecast {
        let facts = &row.facts;
        let (source, power_w) = self.point(row);
        let by_model = self.power.as_ref().filter(|_| source == Source::Model);
        let band = by_model
            .and_then(|part| part.interval.as_ref())
            .map(|interval| interval.around(facts, power_w));
        Forecast {
            issued: now,
            from: facts.ts,
            target: self.plan.target_ts(facts.ts),
            horizon_min: self.plan.horizon_min(),
            power_w,
            p10_w: band.map(|[p10_w, _]| p10_w),
            p90_w: band.map(|[_, p90_w]| p90_w),
            source,
            model_version: version.filter(|_| by_model.is_some()),
            smart_w: facts.smart_w,
            naive_w: facts.naive_w,
            ramp_probability: self
                .ramp
                .as_ref()
                .filter(|_| facts.capacity_w > 0.0)
                .map(|ramp| ramp.probability(row)),
        }
    }

    fn point(&self, row: Row<'_>) -> (Source, f32) {
        let Facts {
            capacity_w,
            has_envelope,
            ..
        } = row.facts;
        match &self.power {
            Some(part) if capacity_w > 0.0 => (Source::Model, part.model.predict(row)),
            _ if has_envelope => (Source::Smart, Model::Smart.predict(row)),
            _ => (Source::Naive, Model::Naive.predict(row)),
        }
    }
}

/// The power at `target` between two grid points, W: linear, as the training target is. `None`
/// unless `before` ≤ `target` ≤ `after`.
pub fn actual_at(
    target: TimestampMs,
    before: (TimestampMs, f64),
    after: (TimestampMs, f64),
) -> Option<f64> {
    if !(before.0..=after.0).contains(&target) {
        return None;
    }
    let span_ms = (after.0.0 - before.0.0).max(1) as f64;
    let fraction = (target.0 - before.0.0) as f64 / span_ms;
    between(Some(before.1), Some(after.1), fraction)
}

#[cfg(test)]
mod tests;
