//! Readings made up for unit tests: a sine of a day under clouds that come and go.

use crate::reading::{DeviceId, Field, TimestampMs, Values};

/// A small linear congruential generator (Knuth's MMIX constants): the same numbers everywhere.
pub struct Lots(pub u64);

impl Lots {
    /// The next number from 0 up to 1.
    pub fn unit(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// 2021-03-01T00:00:00Z.
pub const START: TimestampMs = TimestampMs(1_614_556_800_000);

/// `days` of readings every `step_min` for each named device of its own size, interleaved in time
/// order; `gap_share` of them are left out. Lux leads power by one step.
pub fn readings(
    names: &[&str],
    days: u32,
    step_min: u32,
    gap_share: f64,
    seed: u64,
) -> Vec<(DeviceId, TimestampMs, Values)> {
    let devices: Vec<DeviceId> = names.iter().map(|n| DeviceId::new(n)).collect();
    let mut lots = Lots(seed);
    let mut sky = vec![1.0; devices.len()];
    let mut next_sky = sky.clone();
    let mut rows = Vec::new();
    for i in 0..i64::from(days * 1440 / step_min) {
        let minute = i * i64::from(step_min);
        let light = |minute: i64| {
            let hour = minute.rem_euclid(1440) as f64 / 60.0;
            ((hour - 6.0) / 12.0 * std::f64::consts::PI).sin().max(0.0)
        };
        for (d, device) in devices.iter().enumerate() {
            sky[d] = next_sky[d];
            if lots.unit() < 0.05 {
                next_sky[d] = 0.2 + 0.8 * lots.unit();
            }
            let capacity_w = 1000.0 * (d + 1) as f64;
            let mut values = Values::default();
            let power_w = capacity_w * light(minute) * sky[d];
            values.set(Field::Power, Some(power_w));
            let lux = 100_000.0 * light(minute + i64::from(step_min)) * next_sky[d];
            values.set(Field::Lux, (lots.unit() > gap_share).then_some(lux));
            values.set(Field::Temperature, Some(10.0 + 10.0 * light(minute - 120)));
            if lots.unit() >= gap_share {
                rows.push((device.clone(), START.plus_min(minute), values));
            }
        }
    }
    rows
}
