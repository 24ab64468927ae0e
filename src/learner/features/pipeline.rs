//! Readings of many devices in time order, rows with their truths out, one at a time.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::device::is_light;
use super::{DeviceState, Facts, Plan, Row, Sky, Truth, between};
use crate::grid::{Grid, Slot};
use crate::reading::{DeviceId, TimestampMs, Values};

/// Takes rows as they become complete.
pub trait Sink {
    /// Takes one row and its truth.
    fn take(&mut self, row: Row<'_>, truth: Truth);
}

impl<F: FnMut(Row<'_>, Truth)> Sink for F {
    fn take(&mut self, row: Row<'_>, truth: Truth) {
        self(row, truth);
    }
}

/// What became of the readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Readings pushed.
    pub readings: u64,
    /// Slots with at least one reading.
    pub slots: u64,
    /// Slots inside a device's time that hold nothing.
    pub gap_slots: u64,
    /// Readings older than their device's open slot, left out.
    pub late: u64,
    /// Rows given to the sink.
    pub rows: u64,
    /// Slots left out because they hold no power.
    pub no_power: u64,
    /// Rows left out because the power at their target time is missing.
    pub no_target: u64,
    /// Rows left out because the data end before their target time.
    pub unfinished: u64,
}

struct Pending {
    index: i64,
    x: Vec<f32>,
    facts: Facts,
    light: bool,
}

struct Device {
    number: u32,
    grid: Grid,
    state: Option<DeviceState>,
    pending: VecDeque<Pending>,
}

/// The batch path. Memory is the devices' bounded past and one horizon of waiting rows.
pub struct Pipeline {
    plan: Plan,
    sky: Sky,
    numbers: HashMap<DeviceId, usize>,
    devices: Vec<Device>,
    counts: Counts,
}

impl Pipeline {
    /// A pipeline that has seen nothing.
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            sky: Sky::default(),
            numbers: HashMap::new(),
            devices: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Adds a reading. Each device's readings come in time order; devices may interleave.
    pub fn push(
        &mut self,
        device: &DeviceId,
        ts: TimestampMs,
        values: &Values,
        sink: &mut impl Sink,
    ) {
        self.counts.readings += 1;
        let number = match self.numbers.get(device) {
            Some(&number) => number,
            None => {
                let number = self.devices.len();
                self.numbers.insert(device.clone(), number);
                self.devices.push(Device {
                    number: number as u32,
                    grid: Grid::new(self.plan.step_min()),
                    state: None,
                    pending: VecDeque::new(),
                });
                number
            }
        };
        let d = &mut self.devices[number];
        if let Some(slot) = d.grid.push(ts, values) {
            d.slot(&self.plan, &mut self.sky, &slot, &mut self.counts, sink);
        }
    }

    /// Ends every device's last slot. Call it once, after the last reading.
    pub fn finish(&mut self, sink: &mut impl Sink) {
        for d in &mut self.devices {
            if let Some(slot) = d.grid.finish() {
                d.slot(&self.plan, &mut self.sky, &slot, &mut self.counts, sink);
            }
        }
    }

    /// What has become of the readings so far.
    pub fn counts(&self) -> Counts {
        let sum = |f: fn(&Device) -> u64| self.devices.iter().map(f).sum();
        Counts {
            gap_slots: sum(|d| d.grid.gap_slots()),
            late: sum(|d| d.grid.late()),
            unfinished: sum(|d| d.pending.len() as u64),
            ..self.counts
        }
    }

    /// Number of devices seen.
    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    /// How readings become rows here.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

impl Device {
    fn slot(
        &mut self,
        plan: &Plan,
        sky: &mut Sky,
        slot: &Slot,
        counts: &mut Counts,
        sink: &mut impl Sink,
    ) {
        counts.slots += 1;
        let state = self
            .state
            .get_or_insert_with(|| DeviceState::new(plan, slot.index));
        state.advance_to(plan, slot.index);
        let mut x = Vec::with_capacity(plan.features().len());
        match state.row(plan, sky, self.number, slot, &mut x) {
            Some(facts) => self.pending.push_back(Pending {
                index: slot.index,
                x,
                facts,
                light: is_light(&slot.values),
            }),
            None => counts.no_power += 1,
        }
        state.push(&slot.values);

        let (steps, fraction) = plan.horizon_steps();
        let wait = steps + i64::from(fraction > 0.0);
        while let Some(row) = self
            .pending
            .pop_front_if(|row| row.index + wait <= slot.index)
        {
            let target = row.index + steps;
            match between(state.power_w(target), state.power_w(target + 1), fraction) {
                Some(y_w) => {
                    counts.rows += 1;
                    let y_w = y_w as f32;
                    let truth = Truth {
                        y_w,
                        daylight: y_w > 0.0 || row.light,
                    };
                    let (x, facts) = (row.x.as_slice(), row.facts);
                    sink.take(Row { x, facts }, truth);
                }
                None => counts.no_target += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{FeatureSet, Matrix};
    use crate::reading::Field;
    use crate::sun::Site;
    use crate::testing::{Lots, START, readings};

    const SITE: Site = Site {
        latitude_deg: 0.0,
        longitude_deg: 0.0,
    };

    fn plan(horizon_min: u32, step_min: u32, set: FeatureSet) -> Plan {
        Plan::new(horizon_min, step_min, set, Some(SITE), None).unwrap()
    }

    fn rows(plan: &Plan, readings: &[(DeviceId, TimestampMs, Values)]) -> (Matrix, Counts) {
        let (mut pipeline, mut rows) = (Pipeline::new(plan.clone()), Matrix::new());
        for (device, ts, values) in readings {
            pipeline.push(device, *ts, values, &mut rows);
        }
        pipeline.finish(&mut rows);
        (rows, pipeline.counts())
    }

    fn column(plan: &Plan, name: &str) -> usize {
        plan.names().position(|n| n == name).unwrap()
    }

    #[test]
    fn random_gaps_never_make_a_nan_and_every_slot_is_accounted_for() {
        for (seed, horizon_min) in [(1, 15), (2, 60), (3, 1440), (4, 7), (5, 2880), (6, 725)] {
            for set in [FeatureSet::Core, FeatureSet::Reference] {
                let mut readings = readings(&["a", "b"], 6, 10, 0.3, seed);
                // Whole days missing, absurd values, and a field that comes and goes.
                let mut lots = Lots(seed);
                readings.retain(|(_, ts, _)| (ts.0 / 86_400_000) % 4 != 2);
                for (_, _, values) in &mut readings {
                    if lots.unit() < 0.01 {
                        values.set(Field::Power, Some(1e300));
                    }
                    values.set(Field::Humidity, (lots.unit() < 0.5).then_some(40.0));
                }
                let plan = plan(horizon_min, 10, set);
                let (rows, counts) = rows(&plan, &readings);
                assert_eq!(counts.rows as usize, rows.len());
                assert!(counts.rows > 0);
                assert_eq!(
                    counts.slots,
                    counts.rows + counts.no_power + counts.no_target + counts.unfinished
                );
                for (row, _) in rows.iter() {
                    assert!(row.x.iter().all(|v| v.is_finite()), "{row:?}");
                    let humidity = column(&plan, "humidity");
                    let missing = row.facts.missing >> humidity & 1 == 1;
                    assert_eq!(row.x[humidity], if missing { 50.0 } else { 40.0 });
                }
            }
        }
    }

    #[test]
    fn the_target_is_interpolated_and_needs_both_sides() {
        let device = DeviceId::new("a");
        let reading = |minute, w: Option<f64>| {
            let mut v = Values::default();
            v.set(Field::Power, w);
            (device.clone(), START.plus_min(minute), v)
        };
        // Ten-minute slots, horizon 15: half of +10 and half of +20.
        let readings = [
            reading(0, Some(1.0)),
            reading(10, Some(10.0)),
            reading(20, Some(30.0)),
            reading(30, None),
            reading(50, Some(7.0)),
        ];
        let (rows, counts) = rows(&plan(15, 10, FeatureSet::Core), &readings);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows.row(0).facts.ts, rows.truth(0).y_w), (START, 20.0));
        assert_eq!(
            (counts.no_target, counts.no_power, counts.unfinished),
            (2, 1, 1)
        );
        assert_eq!(counts.gap_slots, 1);
    }

    #[test]
    fn features_never_see_the_future() {
        let readings = readings(&["a"], 7, 10, 0.05, 11);
        for horizon_min in [15, 720, 1430, 1440, 2880] {
            let plan = plan(horizon_min, 10, FeatureSet::Core);
            let (all, _) = rows(&plan, &readings);
            let cut = START.plus_min(4 * 1440 - 300);
            let mut bent = readings.clone();
            for (_, _, values) in bent.iter_mut().filter(|(_, ts, _)| *ts > cut) {
                values.set(
                    Field::Power,
                    values.get(Field::Power).map(|w| 3.0 * w + 50.0),
                );
                values.set(Field::Lux, None);
            }
            let (bent, _) = rows(&plan, &bent);
            let mut same = 0;
            for ((a, _), (b, _)) in all.iter().zip(bent.iter()) {
                if a.facts.ts <= cut {
                    assert_eq!(a, b);
                    same += 1;
                }
            }
            assert!(same > 100 && same < all.len(), "{same} of {}", all.len());
        }
    }

    #[test]
    fn the_last_fifteen_days_are_all_that_is_remembered() {
        let readings = readings(&["a"], 24, 20, 0.1, 5);
        let plan = plan(60, 20, FeatureSet::Core);
        let (all, _) = rows(&plan, &readings);
        let from = START.plus_min(6 * 1440);
        let tail: Vec<_> = readings
            .iter()
            .filter(|(_, ts, _)| *ts >= from)
            .cloned()
            .collect();
        let (tail, _) = rows(&plan, &tail);
        let last = |m: &Matrix, i: usize| {
            let i = m.len() - 1 - i;
            (m.row(i).x.to_vec(), m.row(i).facts)
        };
        for i in 0..72 {
            let ((x, facts), (tail_x, tail_facts)) = (last(&all, i), last(&tail, i));
            assert_eq!(facts, tail_facts);
            for (a, b) in x.iter().zip(&tail_x) {
                assert!((a - b).abs() <= 1e-5 * a.abs().max(1.0), "{a} {b}");
            }
        }
    }

    #[test]
    fn angles_and_local_time_need_what_they_need() {
        let mut readings = readings(&["a"], 1, 60, 0.0, 5);
        for (_, _, values) in &mut readings {
            values.set(Field::ServoAngle, Some(90.0));
        }
        let core = plan(60, 60, FeatureSet::Core);
        let (with_site, _) = rows(&core, &readings);
        let row = with_site.row(9);
        let azimuth = row.x[column(&core, "sun_az")];
        let servo = row.x[column(&core, "servo_minus_sun_az")];
        assert!((servo - (90.0 - azimuth)).abs() < 1e-4, "{servo}");
        let without = Plan::new(60, 60, FeatureSet::Core, None, None).unwrap();
        assert!(without.names().all(|n| !n.contains("sun")));
        let madrid = Some(chrono_tz::Europe::Madrid);
        let reference = Plan::new(60, 60, FeatureSet::Reference, None, madrid).unwrap();
        let (rows, _) = rows(&reference, &readings);
        // 2021-03-01 was a Monday; Madrid is one hour ahead.
        assert_eq!(rows.row(0).x[..3], [1.0, 0.0, 0.0]);
        assert_eq!(rows.row(23 - 1).x[..3], [23.0, 0.0, 0.0]);
    }
}
