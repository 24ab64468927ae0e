//! Features: readings in, rows without NaN out, by the same streaming code for training and live.
//!
//! Sources of the definitions: the clear-day envelope is the statistical clear-sky fit of Bacher,
//! Madsen and Nielsen (Solar Energy 83, 2009) reduced to a quantile per time of day; the clear-sky
//! index and smart persistence are the usual ones (Marquez and Coimbra, J. Sol. Energy Eng. 135,
//! 2013) over that envelope. Knows no SQL, no tokio and no files.

mod device;
mod envelope;
mod matrix;
mod pipeline;
mod ring;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use device::{DeviceState, Sky};
pub use envelope::quantile_of_sorted;
pub use matrix::Matrix;
pub use pipeline::{Counts, Pipeline, Sink};

use crate::grid::STEPS_MIN;
use crate::reading::TimestampMs;
use crate::sun::Site;

/// Illuminance above which it is day, lux (5 W/m2 at 120 lm/W).
pub const DAYLIGHT_LUX: f64 = 600.0;

/// No panel gives more than this multiple of its capacity: beyond it a reading is false and a
/// forecast is cut. Generous, because the capacity of a cloudy fortnight is low.
pub const MAX_PER_CAPACITY: f32 = 1.5;

/// The longest horizon, minutes: beyond two days nothing here carries information.
pub const MAX_HORIZON_MIN: u32 = 2880;

/// Which features a row holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum FeatureSet {
    /// Envelope, clear-sky index, capacity-scaled power and, with a site, the sun.
    #[default]
    Core,
    /// The raw fields, local time of day and five-slot means of the reference design.
    Reference,
}

macro_rules! features {
    ($($(#[$doc:meta])* $variant:ident $name:literal $neutral:literal,)*) => {
        /// One feature; in braces, what stands in where it is missing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Feature { $($(#[$doc])* #[doc = concat!(" {", $neutral, "}")] $variant,)* }

        impl Feature {
            /// The name under which a model asks for it.
            pub fn name(self) -> &'static str {
                match self { $(Feature::$variant => $name,)* }
            }

            /// The value that stands in where it is missing.
            pub fn neutral(self) -> f32 {
                match self { $(Feature::$variant => $neutral,)* }
            }
        }
    };
}

features! {
    /// Clear-day envelope now, per capacity.
    Env "env" 0.0,
    /// Clear-day envelope at the target time, per capacity.
    EnvAtTarget "env_h" 0.0,
    /// Clear-sky index: power over envelope, 0 to 1.5; missing where the envelope is below 3 % of capacity.
    Kcs "kcs" 1.0,
    /// Mean clear-sky index of the last 30 minutes.
    KcsMean30m "kcs_mean_30m" 1.0,
    /// Mean clear-sky index of the last 2 hours.
    KcsMean2h "kcs_mean_2h" 1.0,
    /// Standard deviation of the clear-sky index over 30 minutes.
    KcsStd30m "kcs_std_30m" 0.0,
    /// Clear-sky index times the envelope at the target time, per capacity.
    Smart "smart" 0.0,
    /// Power, per capacity.
    ScaledPower "power" 0.0,
    /// Power less the slot before, per capacity.
    ScaledPowerDiff "power_diff" 0.0,
    /// Mean power of five slots, per capacity.
    ScaledPowerMean5 "rolling_mean_power_5" 0.0,
    /// Standard deviation of power over 30 minutes, per capacity.
    PowerStd30m "power_std_30m" 0.0,
    /// Standard deviation of power over 2 hours, per capacity.
    PowerStd2h "power_std_2h" 0.0,
    /// Highest power of the last 2 hours, per capacity.
    PowerMax2h "power_max_2h" 0.0,
    /// Power one slot ago, per capacity.
    PowerLag1 "power_lag1" 0.0,
    /// Power three slots ago, per capacity.
    PowerLag3 "power_lag3" 0.0,
    /// Mean power of the last 24 hours over the mean envelope of them, 0 to 2.
    YdayEnergyRatio "yday_energy_ratio" 1.0,
    /// Illuminance, lux.
    Lux "lux" 0.0,
    /// Illuminance less the slot before, lux.
    LuxDiff "lux_diff" 0.0,
    /// Ambient temperature, degrees Celsius.
    Temperature "temperature" 15.0,
    /// Relative humidity, percent.
    Humidity "humidity" 50.0,
    /// Elevation of the sun now, degrees.
    SunElevation "sun_el" 0.0,
    /// Azimuth of the sun now, degrees.
    SunAzimuth "sun_az" 180.0,
    /// Elevation of the sun at the target time, degrees.
    SunElevationAtTarget "sun_el_h" 0.0,
    /// Azimuth of the sun at the target time, degrees.
    SunAzimuthAtTarget "sun_az_h" 180.0,
    /// Servo angle less the sun's azimuth, -180 to 180 degrees.
    ServoMinusAzimuth "servo_minus_sun_az" 0.0,
    /// Servo angle less the sun's elevation, -180 to 180 degrees.
    ServoMinusElevation "servo_minus_sun_el" 0.0,
    /// Hour of the local day.
    Hour "hour" 12.0,
    /// Minute of the local hour.
    Minute "minute" 0.0,
    /// Local day of the week, Monday = 0.
    DayOfWeek "day_of_week" 0.0,
    /// Servo angle, degrees.
    ServoAngle "servo_angle" 0.0,
    /// Voltage, V.
    Voltage "voltage" 0.0,
    /// Current, A.
    Current "current" 0.0,
    /// Power, W.
    Power "power" 0.0,
    /// Fan running, 0 or 1.
    FanOn "fan_on" 0.0,
    /// Power less the slot before, W.
    PowerDiff "power_diff" 0.0,
    /// Mean power of five slots, W.
    PowerMean5 "rolling_mean_power_5" 0.0,
    /// Mean illuminance of five slots, lux.
    LuxMean5 "rolling_mean_lux_5" 0.0,
}

impl FeatureSet {
    /// The features of the set in column order; those of the sun need a site.
    pub fn features(self, with_site: bool) -> Vec<Feature> {
        use Feature::*;
        match self {
            FeatureSet::Reference => vec![
                Hour,
                Minute,
                DayOfWeek,
                ServoAngle,
                Temperature,
                Humidity,
                Lux,
                Voltage,
                Current,
                Power,
                FanOn,
                PowerDiff,
                LuxDiff,
                PowerMean5,
                LuxMean5,
            ],
            FeatureSet::Core => {
                let mut core = vec![
                    Env,
                    EnvAtTarget,
                    Kcs,
                    KcsMean30m,
                    KcsMean2h,
                    KcsStd30m,
                    Smart,
                    ScaledPower,
                    ScaledPowerDiff,
                    ScaledPowerMean5,
                    PowerStd30m,
                    PowerStd2h,
                    PowerMax2h,
                    PowerLag1,
                    PowerLag3,
                    YdayEnergyRatio,
                    Lux,
                    LuxDiff,
                    Temperature,
                    Humidity,
                ];
                if with_site {
                    core.extend([
                        SunElevation,
                        SunAzimuth,
                        SunElevationAtTarget,
                        SunAzimuthAtTarget,
                        ServoMinusAzimuth,
                        ServoMinusElevation,
                    ]);
                }
                core
            }
        }
    }
}

/// A plan that cannot be carried out.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The grid step does not divide the day as the envelope needs.
    #[error("step of {0} min: it must be one of {STEPS_MIN:?}")]
    Step(u32),
    /// The horizon is zero or too long.
    #[error("horizon of {0} min: it must be 1 to {MAX_HORIZON_MIN}")]
    Horizon(u32),
}

/// How readings become rows: everything that must be equal in training and live.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    horizon_min: u32,
    step_min: u32,
    site: Option<Site>,
    zone: chrono_tz::Tz,
    set: FeatureSet,
    features: Vec<Feature>,
}

impl Plan {
    /// Checks and keeps the choices. `zone` gives local hours and local days (UTC without one).
    pub fn new(
        horizon_min: u32,
        step_min: u32,
        set: FeatureSet,
        site: Option<Site>,
        zone: Option<chrono_tz::Tz>,
    ) -> Result<Self, PlanError> {
        if !STEPS_MIN.contains(&step_min) {
            return Err(PlanError::Step(step_min));
        }
        if !(1..=MAX_HORIZON_MIN).contains(&horizon_min) {
            return Err(PlanError::Horizon(horizon_min));
        }
        Ok(Self {
            horizon_min,
            step_min,
            site,
            zone: zone.unwrap_or(chrono_tz::UTC),
            set,
            features: set.features(site.is_some()),
        })
    }

    /// Minutes from a row's time to its target's time.
    pub fn horizon_min(&self) -> u32 {
        self.horizon_min
    }

    /// Minutes between slots.
    pub fn step_min(&self) -> u32 {
        self.step_min
    }

    /// Where the devices are, if known.
    pub fn site(&self) -> Option<Site> {
        self.site
    }

    /// The features in column order.
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// The features' names in column order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.features.iter().map(|f| f.name())
    }

    /// The local time of the plan's zone.
    pub fn local(&self, ts: TimestampMs) -> chrono::DateTime<chrono_tz::Tz> {
        ts.to_utc().with_timezone(&self.zone)
    }

    /// Number of the local calendar day, days since the common era.
    pub fn local_day(&self, ts: TimestampMs) -> i32 {
        chrono::Datelike::num_days_from_ce(&self.local(ts).date_naive())
    }

    /// When a local day begins: its first moment that there is, also where midnight is skipped.
    pub fn day_start(&self, day: i32) -> TimestampMs {
        let date = chrono::NaiveDate::from_num_days_from_ce_opt(day).unwrap_or_default();
        let first = (0..24).find_map(|hour| {
            let wall = date.and_hms_opt(hour, 0, 0)?;
            wall.and_local_timezone(self.zone).earliest()
        });
        TimestampMs(first.map_or(0, |moment| moment.timestamp_millis()))
    }

    /// When a row of this time has its target.
    pub fn target_ts(&self, ts: TimestampMs) -> TimestampMs {
        ts.plus_min(i64::from(self.horizon_min))
    }

    /// The horizon in whole steps and the rest as a fraction of a step.
    pub(crate) fn horizon_steps(&self) -> (i64, f64) {
        split_steps(i64::from(self.horizon_min), self.step_min)
    }
}

/// `minutes` as whole steps, rounded down, and the fraction of a step that is left.
fn split_steps(minutes: i64, step_min: u32) -> (i64, f64) {
    let step = i64::from(step_min);
    let rest = minutes.rem_euclid(step);
    (minutes.div_euclid(step), rest as f64 / step as f64)
}

/// The value between two grid points, `fraction` of a step after `before`; both must be there
/// unless the fraction is zero.
pub fn between(before: Option<f64>, after: Option<f64>, fraction: f64) -> Option<f64> {
    if fraction == 0.0 {
        return before;
    }
    Some((1.0 - fraction) * before? + fraction * after?)
}

/// What is known of a row at its own time, beside the features.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// Start of the slot.
    pub ts: TimestampMs,
    /// Number of the device, in order of first appearance.
    pub device: u32,
    /// Bit `i` is set where feature `i` was missing and holds its neutral value.
    pub missing: u64,
    /// Power now; for horizons from 12 hours, at the target's time of day on the last day known. W.
    pub naive_w: f32,
    /// Smart persistence: the clear-sky index carried forward. W.
    pub smart_w: f32,
    /// What the device can do: 0 while unknown. W.
    pub capacity_w: f32,
    /// Clear-sky index now, where the envelope allows one.
    pub kcs: Option<f32>,
    /// Whether a clear-day envelope stands behind `smart_w`.
    pub has_envelope: bool,
    /// Nothing can be produced at the target time: the sun is down there, or power and the
    /// envelope at the target time are both nil.
    pub dark: bool,
}

/// A feature row: finite numbers only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<'a> {
    /// The features in the plan's order.
    pub x: &'a [f32],
    /// The rest.
    pub facts: Facts,
}

/// What a row is judged by, once its target time has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truth {
    /// Power at the target time, W.
    pub y_w: f32,
    /// Target above zero, or light at the row's time above [`DAYLIGHT_LUX`].
    pub daylight: bool,
}
