//! What is remembered of one device, and the feature row that follows from it and the newest slot.

use chrono::{Datelike, Timelike};

use super::envelope::Envelope;
use super::ring::{Ring, Stats};
use super::{DAYLIGHT_LUX, Facts, Feature, Plan, between, split_steps};
use crate::grid::Slot;
use crate::reading::{Field, TimestampMs, Values};
use crate::sun::{self, SunPosition};

const DAY_MIN: i64 = 1440;
/// From this horizon the same time of day says more than now, minutes.
const NAIVE_BY_DAY_MIN: i64 = 720;
/// Below these shares of capacity the envelope is too low to divide by.
const KCS_FLOOR: f64 = 0.03;
const SMART_FLOOR: f64 = 0.05;
/// Highest clear-sky index kept as a feature, and carried forward: a glint between clouds does not last.
const KCS_MAX: f64 = 1.5;
const SMART_KCS_MAX: f64 = 1.3;
/// The sun is down for a panel below this elevation (dawn gives some diffuse light), degrees.
const SUN_DOWN_DEG: f64 = -2.0;
/// Power and envelope below this share of capacity count as nothing.
const NOTHING: f64 = 0.001;

/// Sums over a window that slides by one slot; summed afresh once per window, so that neither
/// rounding nor one absurd value stays for ever.
#[derive(Clone, Debug)]
struct Sliding {
    ring: Ring,
    len: usize,
    pushes: usize,
    sum: f64,
    n: u32,
}

impl Sliding {
    fn new(len: usize, next: i64) -> Self {
        Self {
            ring: Ring::new(len, next),
            len,
            pushes: 0,
            sum: 0.0,
            n: 0,
        }
    }

    fn push(&mut self, value: Option<f64>) {
        if let Some(old) = self.ring.push(value) {
            self.sum -= old;
            self.n -= 1;
        }
        // What the ring will give back is its own rounding of the value.
        if let Some(new) = self.ring.tail(1).next() {
            self.sum += new;
            self.n += 1;
        }
        self.pushes += 1;
        if self.pushes.is_multiple_of(self.len) {
            self.sum = self.ring.tail(self.len).sum();
        }
    }

    /// The mean of the window and one more value, if at least half of it is there.
    fn mean_with(&self, value: Option<f64>) -> Option<f64> {
        let n = self.n + u32::from(value.is_some());
        (n as usize > self.len / 2).then(|| (self.sum + value.unwrap_or(0.0)) / f64::from(n))
    }
}

/// The sun now and at the target time, worked out once for all devices of a slot.
#[derive(Clone, Debug, Default)]
pub struct Sky {
    last: Option<(TimestampMs, Option<SunPair>)>,
}

#[derive(Clone, Copy, Debug)]
struct SunPair {
    now: SunPosition,
    target: SunPosition,
}

impl Sky {
    fn at(&mut self, plan: &Plan, ts: TimestampMs) -> Option<SunPair> {
        let site = plan.site()?;
        if let Some((_, pair)) = self.last.filter(|(at, _)| *at == ts) {
            return pair;
        }
        let pair = sun::position(site, ts)
            .zip(sun::position(site, plan.target_ts(ts)))
            .map(|(now, target)| SunPair { now, target });
        self.last = Some((ts, pair));
        pair
    }
}

/// The bounded past of one device: fifteen days of power and a few shorter windows. State that was
/// fed the last fifteen days gives the rows of state that was fed everything.
#[derive(Clone, Debug)]
pub struct DeviceState {
    next: i64,
    envelope: Envelope,
    day_power_w: Sliding,
    day_envelope_w: Sliding,
    kcs: Ring,
    lux: Ring,
}

/// The newest slot with everything that several features share.
struct Now<'a> {
    state: &'a DeviceState,
    values: &'a Values,
    power_w: f64,
    capacity_w: Option<f64>,
    envelope_w: Option<f64>,
    envelope_at_target_w: Option<f64>,
    kcs: Option<f64>,
    sun: Option<SunPair>,
    local: chrono::DateTime<chrono_tz::Tz>,
    step_min: u32,
}

impl DeviceState {
    /// A device without past whose first slot is `first`.
    pub fn new(plan: &Plan, first: i64) -> Self {
        let day = DAY_MIN / i64::from(plan.step_min());
        Self {
            next: first,
            envelope: Envelope::new(day, first),
            day_power_w: Sliding::new((day - 1) as usize, first),
            day_envelope_w: Sliding::new((day - 1) as usize, first),
            kcs: Ring::new(window(120, plan.step_min(), 3), first),
            lux: Ring::new(5, first),
        }
    }

    /// Passes over the slots up to `index`, none of which holds anything.
    pub fn advance_to(&mut self, plan: &Plan, index: i64) {
        if index.saturating_sub(self.next) > self.envelope.memory_slots() {
            *self = Self::new(plan, index);
        }
        while self.next < index {
            self.push(&Values::default());
        }
    }

    /// Appends the slot the device stands at.
    pub fn push(&mut self, values: &Values) {
        let power_w = values.get(Field::Power);
        let envelope_w = self.envelope.at(self.next);
        self.kcs
            .push(power_w.and_then(|p| self.kcs_of(p, envelope_w)));
        self.lux.push(values.get(Field::Lux));
        self.day_power_w.push(power_w);
        self.day_envelope_w.push(envelope_w);
        self.envelope.push(power_w);
        self.next += 1;
    }

    /// The power of a past slot, W, if it is still remembered and was there.
    pub fn power_w(&self, index: i64) -> Option<f64> {
        self.envelope.power_w().at(index)
    }

    fn kcs_of(&self, power_w: f64, envelope_w: Option<f64>) -> Option<f64> {
        let capacity_w = self.envelope.capacity_w()?;
        let e = envelope_w.filter(|&e| e > KCS_FLOOR * capacity_w)?;
        Some((power_w / e).clamp(0.0, KCS_MAX))
    }

    /// Appends the features of `slot`, which must be the one the device stands at, to `x`. `None`,
    /// and nothing appended, where the slot has no power. The state does not change, so a slot
    /// that is still being filled can be asked about.
    pub fn row(
        &self,
        plan: &Plan,
        sky: &mut Sky,
        device: u32,
        slot: &Slot,
        x: &mut Vec<f32>,
    ) -> Option<Facts> {
        debug_assert_eq!(slot.index, self.next, "advance_to comes first");
        let power_w = slot.values.get(Field::Power)?;
        let ts = TimestampMs(slot.index * i64::from(plan.step_min()) * 60_000);
        let envelope_w = self.envelope.at(slot.index);
        let now = Now {
            state: self,
            values: &slot.values,
            power_w,
            capacity_w: self.envelope.capacity_w(),
            envelope_w,
            envelope_at_target_w: self.envelope_at_target_w(plan),
            kcs: self.kcs_of(power_w, envelope_w),
            sun: sky.at(plan, ts),
            local: plan.local(ts),
            step_min: plan.step_min(),
        };
        let mut missing = 0;
        for (i, &feature) in plan.features().iter().enumerate() {
            let value = now.value(feature).map(|v| v as f32);
            missing |= u64::from(value.is_none_or(|v| !v.is_finite())) << i;
            x.push(value.filter(|v| v.is_finite()).unwrap_or(feature.neutral()));
        }
        let naive_w = self.naive_w(plan, power_w);
        let smart_w = now.smart_w();
        Some(Facts {
            ts,
            device,
            missing,
            naive_w: naive_w as f32,
            smart_w: smart_w.unwrap_or(naive_w) as f32,
            capacity_w: now.capacity_w.unwrap_or(0.0) as f32,
            kcs: now.kcs.map(|k| k as f32),
            has_envelope: smart_w.is_some(),
            dark: now.is_dark(),
        })
    }

    /// The envelope at the target time. A day or more ahead it is that of the day's time one day
    /// before; under a day it falls back on that where the target's own is not known.
    fn envelope_at_target_w(&self, plan: &Plan) -> Option<f64> {
        let minutes = i64::from(plan.horizon_min());
        let ahead = |minutes, at: &dyn Fn(i64) -> Option<f64>| {
            let (steps, fraction) = split_steps(minutes, plan.step_min());
            let from = self.next + steps;
            between(
                at(from),
                if fraction > 0.0 { at(from + 1) } else { None },
                fraction,
            )
        };
        if minutes >= DAY_MIN {
            return ahead(minutes - DAY_MIN, &|i| self.envelope.at(i));
        }
        ahead(minutes, &|i| self.envelope.at(i))
            .or_else(|| ahead(minutes - DAY_MIN, &|i| self.day_envelope_w.ring.at(i)))
    }

    fn naive_w(&self, plan: &Plan, power_w: f64) -> f64 {
        let minutes = i64::from(plan.horizon_min());
        if minutes < NAIVE_BY_DAY_MIN {
            return power_w;
        }
        // Back by as many whole days as it takes for the target's time of day to be past.
        let back = minutes - DAY_MIN * (minutes + DAY_MIN - 1).div_euclid(DAY_MIN);
        let (steps, fraction) = split_steps(back, plan.step_min());
        let at = |i| {
            if i == self.next {
                Some(power_w)
            } else {
                self.power_w(i)
            }
        };
        let from = self.next + steps;
        between(at(from), at(from + 1), fraction).unwrap_or(power_w)
    }
}

/// Slots in `minutes`, at least `least`.
fn window(minutes: u32, step_min: u32, least: u32) -> usize {
    (minutes / step_min).max(least) as usize
}

impl Now<'_> {
    /// A feature's value, `None` where something it needs is missing.
    fn value(&self, feature: Feature) -> Option<f64> {
        use Feature::*;
        let raw = |field| self.values.get(field);
        match feature {
            Env => self.scaled(self.envelope_w),
            EnvAtTarget => self.scaled(self.envelope_at_target_w),
            Kcs => self.kcs,
            KcsMean30m => self.kcs_stats(30, 2).mean(),
            KcsMean2h => self.kcs_stats(120, 2).mean(),
            KcsStd30m => self.kcs_stats(30, 3).std(),
            Smart => self.scaled(Some(self.kcs? * self.envelope_at_target_w?)),
            ScaledPower => self.scaled(Some(self.power_w)),
            ScaledPowerDiff => self.scaled(self.value(PowerDiff)),
            ScaledPowerMean5 => self.scaled(self.value(PowerMean5)),
            PowerStd30m => self.scaled(self.power_stats(window(30, self.step_min, 3)).std()),
            PowerStd2h => self.scaled(self.power_stats(window(120, self.step_min, 3)).std()),
            PowerMax2h => self.scaled(self.power_stats(window(120, self.step_min, 3)).max()),
            PowerLag1 => self.scaled(self.power_lag(1)),
            PowerLag3 => self.scaled(self.power_lag(3)),
            YdayEnergyRatio => {
                let power_w = self.state.day_power_w.mean_with(Some(self.power_w))?;
                let envelope_w = self.state.day_envelope_w.mean_with(self.envelope_w)?;
                (envelope_w > 0.0).then(|| (power_w / envelope_w).clamp(0.0, 2.0))
            }
            Lux => raw(Field::Lux),
            LuxDiff => Some(raw(Field::Lux)? - self.state.lux.at(self.state.next - 1)?),
            LuxMean5 => Stats::of(self.state.lux.tail(4).chain(raw(Field::Lux))).mean(),
            Temperature => raw(Field::Temperature),
            Humidity => raw(Field::Humidity),
            SunElevation => self.sun.map(|s| s.now.elevation_deg),
            SunAzimuth => self.sun.map(|s| s.now.azimuth_deg),
            SunElevationAtTarget => self.sun.map(|s| s.target.elevation_deg),
            SunAzimuthAtTarget => self.sun.map(|s| s.target.azimuth_deg),
            ServoMinusAzimuth => Some(turn(raw(Field::ServoAngle)? - self.sun?.now.azimuth_deg)),
            ServoMinusElevation => {
                Some(turn(raw(Field::ServoAngle)? - self.sun?.now.elevation_deg))
            }
            Hour => Some(f64::from(self.local.hour())),
            Minute => Some(f64::from(self.local.minute())),
            DayOfWeek => Some(f64::from(self.local.weekday().num_days_from_monday())),
            ServoAngle => raw(Field::ServoAngle),
            Voltage => raw(Field::Voltage),
            Current => raw(Field::Current),
            Power => Some(self.power_w),
            FanOn => raw(Field::FanOn),
            PowerDiff => Some(self.power_w - self.power_lag(1)?),
            PowerMean5 => self.power_stats(5).mean(),
        }
    }

    /// Watts per capacity.
    fn scaled(&self, power_w: Option<f64>) -> Option<f64> {
        Some(power_w? / self.capacity_w?)
    }

    fn power_lag(&self, slots: i64) -> Option<f64> {
        self.state.power_w(self.state.next - slots)
    }

    /// Over the last `slots` slots, this one included.
    fn power_stats(&self, slots: usize) -> Stats {
        let past = self.state.envelope.power_w().tail(slots - 1);
        Stats::of(past.chain([self.power_w]))
    }

    fn kcs_stats(&self, minutes: u32, least: u32) -> Stats {
        let slots = window(minutes, self.step_min, least);
        Stats::of(self.state.kcs.tail(slots - 1).chain(self.kcs))
    }

    /// Smart persistence; `None` without an envelope now and at the target time.
    fn smart_w(&self) -> Option<f64> {
        let (now_w, target_w) = (self.envelope_w?, self.envelope_at_target_w?);
        Some(if now_w > SMART_FLOOR * self.capacity_w.unwrap_or(0.0) {
            (self.power_w / now_w).clamp(0.0, SMART_KCS_MAX) * target_w
        } else {
            (self.power_w + target_w - now_w).max(0.0)
        })
    }

    fn is_dark(&self) -> bool {
        let nothing_w = NOTHING * self.capacity_w.unwrap_or(0.0);
        let sun_is_down = self
            .sun
            .is_some_and(|s| s.target.elevation_deg < SUN_DOWN_DEG);
        let nothing_comes = self.envelope_at_target_w.is_some_and(|e| e <= nothing_w);
        sun_is_down || (nothing_comes && self.power_w <= nothing_w)
    }
}

/// True where the light at a row's own time makes it a daylight row.
pub(super) fn is_light(values: &Values) -> bool {
    values.get(Field::Lux).is_some_and(|lux| lux > DAYLIGHT_LUX)
}

/// An angle in degrees brought to -180 … 180.
fn turn(degrees: f64) -> f64 {
    (degrees + 180.0).rem_euclid(360.0) - 180.0
}
