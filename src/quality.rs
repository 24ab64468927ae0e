//! What is wrong with readings before anything is learned from them: gaps, stuck and impossible values, counted by device.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::reading::{DeviceId, Field, TimestampMs, Values};

const MINUTE_MS: i64 = 60_000;
/// A silence longer than this is a gap.
const GAP_MS: i64 = 60 * MINUTE_MS;
/// A value that stood still for longer than this by day, while others moved, was stuck.
const STUCK_MS: i64 = 4 * 60 * MINUTE_MS;
/// Power so many times above what 99 of 100 lit rows reach is no sunlight.
const ABOVE_USUAL: u32 = 8;
/// Too few rows know no usual power.
const USUAL_NEEDS: u64 = 100;
const FIELDS: usize = Field::ALL.len();

/// What was found; devices without a fault are counted only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Readings looked at.
    pub rows: u64,
    /// Devices they came from.
    pub devices: u32,
    /// What is wrong, by device.
    pub faults: BTreeMap<String, Faults>,
}

/// What is wrong with one device's readings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Faults {
    /// Silences of over an hour.
    pub gaps: u32,
    /// The longest of them, minutes.
    pub longest_gap_min: i64,
    /// By field: how often it held one value other than zero for over four hours of daylight while
    /// others moved. A field that never moves is a property of the device and not counted.
    pub stuck: BTreeMap<Field, u32>,
    /// Values that cannot be, by what is wrong with them: `power_negative`, `lux_out_of_range`, …
    pub impossible: BTreeMap<String, u64>,
}

impl Faults {
    /// Values that cannot be, of all kinds.
    pub fn impossible_values(&self) -> u64 {
        self.impossible.values().sum()
    }
}

/// Takes readings in time order, devices interleaved.
#[derive(Clone, Debug, Default)]
pub struct Check {
    rows: u64,
    devices: BTreeMap<DeviceId, Device>,
}

#[derive(Clone, Debug)]
struct Device {
    faults: Faults,
    last: TimestampMs,
    still: [Still; FIELDS],
    moved: [bool; FIELDS],
    /// Rows with power above zero, by the power of two at or below it, W.
    power: [u64; 40],
}

/// How long a field has held its value.
#[derive(Clone, Copy, Debug, Default)]
struct Still {
    value: f64,
    lit_ms: i64,
    others_moved: bool,
    counted: bool,
}

impl Check {
    /// Takes a reading in.
    pub fn push(&mut self, device: &DeviceId, ts: TimestampMs, values: &Values) {
        self.rows += 1;
        // Not entry(): the name would be cloned for every reading.
        if !self.devices.contains_key(device) {
            self.devices.insert(device.clone(), Device::new(ts));
        }
        if let Some(d) = self.devices.get_mut(device) {
            d.push(ts, values);
        }
    }

    /// What was found.
    pub fn finish(self) -> Quality {
        let devices = self.devices.len() as u32;
        let faults = self
            .devices
            .into_iter()
            .map(|(name, device)| (name.into(), device.finish()))
            .filter(|(_, faults)| *faults != Faults::default())
            .collect();
        Quality {
            rows: self.rows,
            devices,
            faults,
        }
    }
}

impl Device {
    fn new(ts: TimestampMs) -> Self {
        Self {
            faults: Faults::default(),
            last: ts,
            still: [Still::default(); FIELDS],
            moved: [false; FIELDS],
            power: [0; 40],
        }
    }

    fn push(&mut self, ts: TimestampMs, values: &Values) {
        let passed_ms = ts.0 - self.last.0;
        self.last = ts;
        if passed_ms > GAP_MS {
            self.faults.gaps += 1;
            let minutes = passed_ms / MINUTE_MS;
            self.faults.longest_gap_min = self.faults.longest_gap_min.max(minutes);
        }
        for (field, value) in values.iter() {
            if let Some(what) = impossible(field, value) {
                *self.faults.impossible.entry(what.to_owned()).or_default() += 1;
            }
        }
        if let Some(power_w) = values.get(Field::Power).filter(|p| *p > 0.0) {
            self.power[power_bin(power_w)] += 1;
        }
        let lit = [Field::Power, Field::Lux]
            .into_iter()
            .any(|field| values.get(field).is_some_and(|v| v > 0.0));
        self.stand_still(if lit { passed_ms.min(GAP_MS) } else { 0 }, values);
    }

    fn stand_still(&mut self, lit_ms: i64, values: &Values) {
        let mut changed = [false; FIELDS];
        for (i, field) in Field::ALL.into_iter().enumerate() {
            let Some(value) = values.get(field) else {
                continue;
            };
            let still = &mut self.still[i];
            if value == still.value {
                still.lit_ms += lit_ms;
                continue;
            }
            changed[i] = true;
            // The first value only replaces the zero that stands before it.
            self.moved[i] |= still.value != 0.0;
            *still = Still {
                value,
                ..Still::default()
            };
        }
        for i in 0..FIELDS {
            let still = &mut self.still[i];
            still.others_moved |= changed.iter().enumerate().any(|(j, c)| j != i && *c);
            let field = Field::ALL[i];
            // A fan that runs all day is a fan that runs.
            let stuck = field != Field::FanOn
                && still.value != 0.0
                && still.others_moved
                && still.lit_ms > STUCK_MS;
            if stuck && !still.counted {
                still.counted = true;
                *self.faults.stuck.entry(field).or_default() += 1;
            }
        }
    }

    fn finish(mut self) -> Faults {
        let moved = self.moved;
        self.faults.stuck.retain(|field, _| {
            let i = Field::ALL.iter().position(|f| f == field);
            i.is_some_and(|i| moved[i])
        });
        let lit: u64 = self.power.iter().sum();
        if lit >= USUAL_NEEDS {
            let (mut rows, mut usual) = (0, self.power.len());
            for (bin, count) in self.power.iter().enumerate() {
                rows += count;
                if rows * 100 >= lit * 99 {
                    usual = bin;
                    break;
                }
            }
            let first = usual + ABOVE_USUAL.ilog2() as usize;
            let above: u64 = self.power.iter().skip(first).sum();
            if above > 0 {
                let what = "power_far_above_usual".to_owned();
                self.faults.impossible.insert(what, above);
            }
        }
        self.faults
    }
}

/// The power of two at or below, from 1 mW; everything below shares the first bin.
fn power_bin(power_w: f64) -> usize {
    ((power_w * 1000.0).log2().max(0.0) as usize).min(39)
}

/// What is wrong with a value that no device of this kind can measure.
fn impossible(field: Field, value: f64) -> Option<&'static str> {
    let (least, greatest, what) = match field {
        Field::Power if value < 0.0 => return Some("power_negative"),
        Field::Power => return None,
        Field::Lux => (0.0, 200_000.0, "lux_out_of_range"),
        Field::Humidity => (0.0, 100.0, "humidity_out_of_range"),
        Field::Temperature => (-60.0, 90.0, "temperature_out_of_range"),
        Field::ServoAngle => (-360.0, 360.0, "servo_angle_out_of_range"),
        Field::Voltage => (0.0, 2000.0, "voltage_out_of_range"),
        Field::Current => (-1.0, 2000.0, "current_out_of_range"),
        Field::FanOn => (0.0, 1.0, "fan_on_out_of_range"),
    };
    (!(least..=greatest).contains(&value)).then_some(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A day of one-minute readings, `change`d.
    fn day(change: impl Fn(i64, &mut Values) -> bool) -> Quality {
        let mut check = Check::default();
        let device = DeviceId::new("t");
        for minute in 0..24 * 60 {
            let sun = (std::f64::consts::PI * (minute - 360) as f64 / 720.0)
                .sin()
                .max(0.0);
            let mut values = Values::default();
            for (field, value) in [
                (Field::Power, 100.0 * sun),
                (Field::Lux, 90_000.0 * sun),
                (Field::ServoAngle, (minute / 10) as f64),
                (Field::Temperature, 20.0 + 5.0 * sun),
                (Field::Humidity, 60.0),
            ] {
                values.set(field, Some(value));
            }
            if change(minute, &mut values) {
                check.push(&device, TimestampMs(0).plus_min(minute), &values);
            }
        }
        check.finish()
    }

    #[test]
    fn a_sound_day_has_no_faults() {
        let quality = day(|_, _| true);
        assert_eq!((quality.rows, quality.devices), (1440, 1));
        assert_eq!(quality.faults, BTreeMap::new());
        assert_eq!(Check::default().finish(), Quality::default());
    }

    #[test]
    fn gaps_are_counted_with_the_longest() {
        let quality = day(|m, _| !(100..170).contains(&m) && !(600..800).contains(&m));
        let faults = &quality.faults["t"];
        assert_eq!((faults.gaps, faults.longest_gap_min), (2, 201));
    }

    #[test]
    fn a_sensor_that_stands_still_by_day_is_stuck_and_one_that_never_moves_is_not() {
        let quality = day(|m, v| {
            if m >= 480 {
                v.set(Field::ServoAngle, Some(48.0));
            }
            true
        });
        let stuck = &quality.faults["t"].stuck;
        assert_eq!(stuck, &BTreeMap::from([(Field::ServoAngle, 1)]));
        // At night it may well stand still; humidity never moved at all.
        let parked = day(|m, v| {
            if m >= 1080 {
                v.set(Field::ServoAngle, Some(48.0));
            }
            true
        });
        assert_eq!(parked.faults, BTreeMap::new());
    }

    #[test]
    fn values_that_cannot_be_are_counted_by_kind() {
        let quality = day(|m, v| {
            match m {
                10 => v.set(Field::Power, Some(-3.0)),
                11 | 12 => v.set(Field::Lux, Some(-1.0)),
                13 => v.set(Field::Humidity, Some(101.0)),
                720 => v.set(Field::Power, Some(90_000.0)),
                _ => {}
            }
            true
        });
        let faults = &quality.faults["t"];
        let wanted = [
            ("humidity_out_of_range", 1),
            ("lux_out_of_range", 2),
            ("power_far_above_usual", 1),
            ("power_negative", 1),
        ];
        let wanted = wanted.map(|(k, n)| (k.to_owned(), n));
        assert_eq!(faults.impossible, BTreeMap::from(wanted));
        assert_eq!(faults.impossible_values(), 5);
    }
}
