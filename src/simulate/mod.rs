//! A simulated solar tracker: physically consistent, with faults to order, the same for one seed.
//!
//! Every device draws the same random numbers whether it is broken or not, so a run with a fault
//! and one without see the same clouds and can be compared value by value.

pub mod command;
pub mod fault;
mod noise;
mod panel;
mod sky;
mod tracker;

use std::collections::VecDeque;

use chrono::{Datelike, Timelike};

pub use fault::{Fault, FaultKind};
pub use tracker::Axes;

use crate::mqtt::flat::encode_flat;
use crate::reading::{DeviceId, Field, TimestampMs, Values};
use crate::sun::{self, Site, SunPosition};
use noise::Noise;
use panel::{Output, Panel};
use sky::{Irradiance, Sky};
use tracker::{Drive, Servo};

/// Luminous efficacy of daylight, lm/W.
const LUX_PER_W_M2: f64 = 120.0;
/// The light sensor reads no more than this.
const LUX_MAX: f64 = 120_000.0;

/// What is simulated.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// How many devices, named `t01`, `t02`, …
    pub devices: usize,
    /// Time of the first samples.
    pub start: TimestampMs,
    /// Seconds from one sample of a device to its next.
    pub step_s: u32,
    /// How the trackers turn.
    pub axes: Axes,
    /// Where they stand.
    pub site: Site,
    /// Panel power under standard conditions, W.
    pub capacity_w: f64,
    /// The same seed gives the same samples.
    pub seed: u64,
    /// What breaks, where and when.
    pub faults: Vec<Fault>,
}

/// Why there is nothing to simulate.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum SimulateError {
    /// A parameter outside its range.
    #[error("cannot simulate with {name} = {value}: {expected}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
        /// What would do.
        expected: &'static str,
    },
    /// A fault on a device that is not simulated.
    #[error("a fault names device `{device}`; there are t01 to {last}")]
    UnknownDevice {
        /// The device named.
        device: String,
        /// The last one there is.
        last: DeviceId,
    },
}

/// What a device sends at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The true time.
    pub at: TimestampMs,
    /// The device.
    pub device: DeviceId,
    /// The time that the device believes it is.
    pub ts: TimestampMs,
    /// What it measured; a broken sensor's value is absent.
    pub values: Values,
    /// The sensor that reports `nan`.
    pub broken: Option<Field>,
}

impl Sample {
    /// The message: flat JSON, with the text `"nan"` for a broken sensor as firmware writes it.
    pub fn payload(&self) -> String {
        let mut json = encode_flat(&self.device, self.ts, &self.values);
        if let Some(field) = self.broken {
            json.pop();
            json.push_str(&format!(r#","{}":"nan"}}"#, field.name()));
        }
        json
    }

    /// The reading as a collector stores it.
    pub fn into_reading(self) -> (DeviceId, TimestampMs, Values) {
        (self.device, self.ts, self.values)
    }
}

/// Yields every device's samples in the order of true time, without end (the sun's position is
/// known from 2010 to 2110).
#[derive(Debug)]
pub struct Simulator {
    params: Params,
    now: TimestampMs,
    sky: Sky,
    devices: Vec<Device>,
    ready: VecDeque<Sample>,
}

#[derive(Debug)]
struct Device {
    id: DeviceId,
    noise: Noise,
    servo: Servo,
    panel: Panel,
    /// What dirt and tolerance leave of the power.
    gain: f64,
    /// Clouds over this device that are not over the next, standard deviation 1.
    own_clouds: f64,
}

/// What all devices share at one moment.
struct Scene {
    sun: SunPosition,
    day_of_year: u32,
    clear_index: f64,
    air_c: f64,
    humidity_percent: f64,
}

impl Simulator {
    /// Checks the parameters and stands at the start.
    pub fn new(params: Params) -> Result<Self, SimulateError> {
        check(&params)?;
        let mut devices = Vec::with_capacity(params.devices);
        for number in 1..=params.devices {
            let mut noise = Noise::new(params.seed, number as u64);
            devices.push(Device {
                id: DeviceId::new(&format!("t{number:02}")),
                servo: Servo::new(params.axes),
                gain: 0.97 + 0.02 * noise.unit(),
                panel: Panel::new(params.capacity_w),
                own_clouds: noise.normal(),
                noise,
            });
        }
        for fault in &params.faults {
            if let Some(name) = &fault.device
                && !devices.iter().any(|d| d.id.as_str() == name)
            {
                return Err(SimulateError::UnknownDevice {
                    device: name.clone(),
                    last: devices[devices.len() - 1].id.clone(),
                });
            }
        }
        Ok(Self {
            now: params.start,
            sky: Sky::new(params.seed),
            devices,
            ready: VecDeque::new(),
            params,
        })
    }

    /// Moves everything on by one step; `None` where the sun's position is unknown.
    fn step(&mut self) -> Option<()> {
        let Params { site, step_s, .. } = self.params;
        let step_s = f64::from(step_s);
        let time = self.now.to_utc();
        let solar_hour =
            f64::from(time.num_seconds_from_midnight()) / 3600.0 + site.longitude_deg / 15.0;
        // Warmest in the second half of July, or of January in the south.
        let season = (std::f64::consts::TAU * (f64::from(time.ordinal()) - 200.0) / 365.0).cos()
            * site.latitude_deg.signum();
        let clear_index = self.sky.step(step_s);
        let (air_c, humidity_percent) = self.sky.air(solar_hour, season);
        let scene = Scene {
            sun: sun::position(site, self.now)?,
            day_of_year: time.ordinal(),
            clear_index,
            air_c,
            humidity_percent,
        };
        let since_start_s = (self.now.0 - self.params.start.0) / 1000;
        for device in &mut self.devices {
            let faults = self.params.faults.iter();
            let on: Vec<FaultKind> = faults
                .filter(|f| f.is_on(device.id.as_str(), since_start_s))
                .map(|f| f.kind)
                .collect();
            self.ready
                .extend(device.step(&scene, self.params.axes, step_s, self.now, &on));
        }
        self.now = self.now.plus_ms(i64::from(self.params.step_s) * 1000);
        Some(())
    }
}

impl Iterator for Simulator {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        // An outage of all devices leaves steps without a sample.
        while self.ready.is_empty() {
            self.step()?;
        }
        self.ready.pop_front()
    }
}

impl Device {
    fn step(
        &mut self,
        scene: &Scene,
        axes: Axes,
        step_s: f64,
        now: TimestampMs,
        faults: &[FaultKind],
    ) -> Option<Sample> {
        let mut drive = Drive::Healthy;
        let mut cap_w = f64::INFINITY;
        let mut broken = None;
        let mut skew_s = 0;
        let mut sends = true;
        for fault in faults {
            match *fault {
                FaultKind::Stuck => drive = Drive::Stuck,
                FaultKind::Slow { deg_per_h } => drive = Drive::Slow(deg_per_h),
                FaultKind::Reversed => drive = Drive::Reversed,
                FaultKind::Nan { field } => broken = Some(field),
                FaultKind::Cap { power_w } => cap_w = cap_w.min(power_w),
                FaultKind::Outage => sends = false,
                FaultKind::Skew { by_s } => skew_s = by_s,
            }
        }
        let noise = &mut self.noise;
        noise.drift(&mut self.own_clouds, step_s, 300.0);
        // The more cloud there is, the more the devices can differ.
        let own = 0.005 + 0.06 * (1.0 - scene.clear_index).max(0.0);
        let clear_index = (scene.clear_index + own * self.own_clouds).clamp(0.03, 1.08);
        let light = sky::irradiance(scene.sun.elevation_deg, scene.day_of_year, clear_index);
        self.servo.step(axes.target_deg(scene.sun), step_s, drive);
        let plane = if light == Irradiance::default() {
            0.0
        } else {
            axes.plane_w_m2(self.servo.panel_deg(), scene.sun, light)
        };
        let output = self
            .panel
            .step(plane * self.gain, scene.air_c, step_s, cap_w);
        let lux = plane * LUX_PER_W_M2 * (1.0 + 0.015 * noise.normal());
        let air_c = scene.air_c + 0.15 * noise.normal();
        let humidity = scene.humidity_percent + 0.8 * noise.normal();
        let values = self.measure(lux, air_c, humidity, output, broken);
        sends.then(|| Sample {
            at: now,
            device: self.id.clone(),
            ts: now.plus_ms(skew_s.saturating_mul(1000)),
            values,
            broken,
        })
    }

    /// The numbers as cheap sensors give them.
    fn measure(
        &self,
        lux: f64,
        air_c: f64,
        humidity_percent: f64,
        output: Output,
        broken: Option<Field>,
    ) -> Values {
        let mut values = Values::default();
        for (field, value) in [
            (Field::ServoAngle, self.servo.angle_deg()),
            (Field::Lux, round_to(lux.clamp(0.0, LUX_MAX), 0.1)),
            (Field::Voltage, output.voltage_v),
            (Field::Current, output.current_a),
            (Field::Power, output.power_w),
            (Field::Temperature, round_to(air_c, 10.0)),
            (Field::Humidity, humidity_percent.round().clamp(0.0, 100.0)),
            (Field::FanOn, f64::from(u8::from(self.panel.fan_on()))),
        ] {
            values.set(field, Some(value).filter(|_| broken != Some(field)));
        }
        values
    }
}

fn round_to(value: f64, steps_per_unit: f64) -> f64 {
    (value * steps_per_unit).round() / steps_per_unit
}

fn check(params: &Params) -> Result<(), SimulateError> {
    let Site {
        latitude_deg,
        longitude_deg,
    } = params.site;
    let fail = |name, value: String, expected| {
        Err(SimulateError::Parameter {
            name,
            value,
            expected,
        })
    };
    if !(1..=1000).contains(&params.devices) {
        return fail("devices", params.devices.to_string(), "1 to 1000");
    }
    if !(1..=3600).contains(&params.step_s) {
        return fail("step", params.step_s.to_string(), "1 to 3600 seconds");
    }
    if !(params.capacity_w.is_finite() && params.capacity_w > 0.0) {
        return fail("capacity", params.capacity_w.to_string(), "more than 0 W");
    }
    if latitude_deg.abs() > 90.0 || longitude_deg.abs() > 180.0 {
        let site = format!("{latitude_deg},{longitude_deg}");
        return fail("site", site, "latitude -90 to 90, longitude -180 to 180");
    }
    if sun::position(params.site, params.start).is_none() {
        return fail(
            "start",
            params.start.to_string(),
            "a time from 2010 to 2110",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
