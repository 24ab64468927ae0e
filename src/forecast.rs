//! The live path: readings in, the forecast of each device out, by the code that made the training rows.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::features::{DeviceState, Facts, Plan, Row, Sky, between};
use crate::grid::Grid;
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
}

struct Device {
    number: u32,
    grid: Grid,
    state: Option<DeviceState>,
}

/// The live model and the bounded past of every device; either changes without the other.
pub struct Forecaster {
    plan: Plan,
    sky: Sky,
    live: Option<(Artifact, i64)>,
    devices: BTreeMap<DeviceId, Device>,
}

impl Forecaster {
    /// A forecaster without model or past. Feed it the last fifteen days before relying on it.
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            sky: Sky::default(),
            live: None,
            devices: BTreeMap::new(),
        }
    }

    /// Serves another model from now on, or none. False, and nothing changes, if it was made for
    /// other features, another horizon or another step than this forecaster's.
    pub fn set_model(&mut self, live: Option<(Artifact, i64)>) -> bool {
        let fits = live
            .as_ref()
            .is_none_or(|(artifact, _)| artifact.fits(&self.plan));
        if fits {
            self.live = live;
        }
        fits
    }

    /// How readings become rows here.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The version of the model that is served.
    pub fn model_version(&self) -> Option<i64> {
        self.live.as_ref().map(|(_, version)| *version)
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
                grid: Grid::new(self.plan.step_min()),
                state: None,
            });
        let finished = d.grid.push(ts, values);
        let Some(open) = d.grid.open_slot() else {
            return;
        };
        let first = finished.map_or(open.index, |slot| slot.index);
        let state = d
            .state
            .get_or_insert_with(|| DeviceState::new(&self.plan, first));
        if let Some(slot) = finished {
            state.push(&slot.values);
            // Nothing older than the open slot is taken any more, so the gap before it is final.
            state.advance_to(&self.plan, open.index);
        }
    }

    /// The forecast from the newest slot, which may still be filling. `None` for an unknown device,
    /// one without power in that slot, or one not heard of for so long that persistence of
    /// anything is a guess.
    pub fn forecast(&mut self, device: &DeviceId, now: TimestampMs) -> Option<Forecast> {
        let d = self.devices.get(device)?;
        let slot = d.grid.open_slot()?;
        let from = d.grid.start_of(slot.index);
        let step_min = i64::from(self.plan.step_min());
        let horizon_min = self.plan.horizon_min();
        let max_age_min = i64::from(horizon_min).min(MAX_AGE_MIN).max(2 * step_min);
        if now > from.plus_min(max_age_min) {
            return None;
        }
        let mut x = Vec::with_capacity(self.plan.features().len());
        let state = d.state.as_ref()?;
        let facts = state.row(&self.plan, &mut self.sky, d.number, &slot, &mut x)?;
        let row = Row { x: &x, facts };
        let (source, power_w) = self.point(row);
        let live = self.live.as_ref().filter(|_| source == Source::Model);
        let band = live
            .and_then(|(artifact, _)| artifact.interval.as_ref())
            .map(|interval| interval.around(&facts, power_w));
        Some(Forecast {
            issued: now,
            from,
            target: self.plan.target_ts(from),
            horizon_min,
            power_w,
            p10_w: band.map(|[p10_w, _]| p10_w),
            p90_w: band.map(|[_, p90_w]| p90_w),
            source,
            model_version: live.map(|(_, version)| *version),
            smart_w: facts.smart_w,
            naive_w: facts.naive_w,
        })
    }

    fn point(&self, row: Row<'_>) -> (Source, f32) {
        let Facts {
            capacity_w,
            has_envelope,
            ..
        } = row.facts;
        match &self.live {
            Some((artifact, _)) if capacity_w > 0.0 => (Source::Model, artifact.model.predict(row)),
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
mod tests {
    use super::*;
    use crate::features::{FeatureSet, Matrix, Pipeline};
    use crate::models::{Learner, product};
    use crate::reading::Field;
    use crate::sun::Site;
    use crate::testing::{START, readings};
    use std::sync::atomic::AtomicBool;

    const SITE: Site = Site {
        latitude_deg: 0.0,
        longitude_deg: 0.0,
    };

    fn plan() -> Plan {
        Plan::new(15, 10, FeatureSet::Core, Some(SITE), None).unwrap()
    }

    fn artifact(rows: &Matrix) -> Artifact {
        let mut learner = product(1);
        learner.learn(0, rows, &AtomicBool::new(false)).unwrap();
        Artifact {
            features: plan().names().map(str::to_owned).collect(),
            horizon_min: 15,
            step_min: 10,
            trained_until: START,
            model: learner.model(&AtomicBool::new(false)).unwrap(),
            interval: None,
        }
    }

    #[test]
    fn the_live_path_forecasts_what_the_batch_path_scored_bit_for_bit() {
        let readings = readings(&["a", "b"], 20, 10, 0.1, 9);
        let (mut batch, mut rows) = (Pipeline::new(plan()), Matrix::new());
        let mut live = Forecaster::new(plan());
        for (device, ts, values) in &readings {
            batch.push(device, *ts, values, &mut rows);
        }
        batch.finish(&mut rows);
        let artifact = artifact(&rows);
        assert!(live.set_model(Some((artifact.clone(), 7))));
        let mut forecasts = BTreeMap::new();
        for (device, ts, values) in &readings {
            live.push(device, *ts, values);
            if let Some(f) = live.forecast(device, *ts) {
                forecasts.insert((device.clone(), *ts), f);
            }
        }
        let devices: Vec<_> = live.devices().cloned().collect();
        let mut by_model = 0;
        for (row, _) in rows.iter() {
            let key = (devices[row.facts.device as usize].clone(), row.facts.ts);
            let f = &forecasts[&key];
            assert_eq!(
                (f.smart_w, f.naive_w),
                (row.facts.smart_w, row.facts.naive_w)
            );
            if f.source == Source::Model {
                by_model += 1;
                assert_eq!(f.power_w.to_bits(), artifact.model.predict(row).to_bits());
                assert_eq!(f.model_version, Some(7));
            }
        }
        assert!(by_model > 4000, "{by_model}");
    }

    #[test]
    fn without_a_model_persistence_serves_and_a_swap_keeps_the_past() {
        let readings = readings(&["a"], 5, 10, 0.0, 2);
        let noon = |day: i64| START.plus_min(day * 1440 + 720);
        let mut live = Forecaster::new(plan());
        let device = &readings[0].0;
        assert_eq!(live.forecast(device, START), None, "never heard of");
        let mut sources = Vec::new();
        for (device, ts, values) in &readings {
            live.push(device, *ts, values);
            if (0..5).any(|d| *ts == noon(d)) {
                let f = live.forecast(device, *ts).unwrap();
                assert_eq!(
                    (f.p10_w, f.model_version, f.target),
                    (None, None, ts.plus_min(15))
                );
                sources.push(f.source);
            }
            if *ts == noon(4) {
                break;
            }
        }
        use Source::*;
        assert_eq!(sources, [Naive, Naive, Smart, Smart, Smart]);
        let before = live.forecast(device, noon(4)).unwrap();
        let mut other = artifact(&{
            let (mut batch, mut rows) = (Pipeline::new(plan()), Matrix::new());
            readings
                .iter()
                .for_each(|(d, ts, v)| batch.push(d, *ts, v, &mut rows));
            rows
        });
        assert!(live.set_model(Some((other.clone(), 1))));
        let with_model = live.forecast(device, noon(4)).unwrap();
        assert_eq!(
            (with_model.source, with_model.smart_w),
            (Model, before.smart_w)
        );
        other.horizon_min = 30;
        assert!(
            !live.set_model(Some((other, 2))),
            "made for another horizon"
        );
        assert_eq!(live.forecast(device, noon(4)), Some(with_model));
        assert!(live.set_model(None));
        assert_eq!(live.forecast(device, noon(4)), Some(before));
        assert_eq!(live.forecast(device, noon(4).plus_min(21)), None, "too old");
    }

    #[test]
    fn a_slot_still_filling_counts_with_what_it_has() {
        let mut live = Forecaster::new(plan());
        let device = DeviceId::new("a");
        let mut values = Values::default();
        for (minute, w) in [(0, 100.0), (3, 300.0)] {
            values.set(Field::Power, Some(w));
            live.push(&device, START.plus_min(minute), &values);
        }
        let f = live.forecast(&device, START.plus_min(4)).unwrap();
        assert_eq!((f.naive_w, f.from), (200.0, START));
    }

    #[test]
    fn the_actual_is_interpolated_as_the_training_target_is() {
        let (a, b) = ((TimestampMs(0), 100.0), (TimestampMs(600_000), 200.0));
        assert_eq!(actual_at(TimestampMs(300_000), a, b), Some(150.0));
        assert_eq!(actual_at(TimestampMs(0), a, a), Some(100.0));
        assert_eq!(actual_at(TimestampMs(600_000), a, b), Some(200.0));
        assert_eq!(actual_at(TimestampMs(600_001), a, b), None);
    }
}
