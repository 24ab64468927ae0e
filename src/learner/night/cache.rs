//! What a night hands to the next: the learner with its binned rows, the errors of the newest days.
//!
//! Bytes only; reading and writing them is the trainer's.

use std::collections::BTreeMap;

use super::{NightParams, planned};
use crate::features::{Plan, PlanError};
use crate::models::codec::{Decoder, Encoder, seal, unseal};
use crate::models::interval::Calibration;
use crate::models::ramp::RampLearner;
use crate::models::{CodecError, TreesLearner, product};
use crate::reading::TimestampMs;

const MAGIC: [u8; 8] = *b"nwcache\0";
const FORMAT: u32 = 1;
/// The most bytes that are read: ten devices' minutes of half a year take a tenth.
pub const MAX_CACHE_BYTES: usize = 1 << 30;
const MAX_PLAN_BYTES: usize = 4096;
const MAX_DAYS: usize = 100_000;
/// What a device's state remembers, and a day for the zone: rows of a day are right once the
/// readings of this many days before it were seen.
const TAIL_DAYS: i64 = 16;

/// The state between nights.
#[derive(Clone, Debug)]
pub struct Cache {
    pub(super) plan: Plan,
    pub(super) learner: TreesLearner,
    pub(super) ramp: RampLearner,
    pub(super) calibration: Calibration,
    /// Readings per taught day, to find out whether more have come since.
    pub(super) readings: BTreeMap<i32, u64>,
    pub(super) trained_until: TimestampMs,
    /// The newest day when all was fitted in full.
    pub(super) full_day: i32,
}

/// Everything that rows and their codes depend on.
fn fingerprint(params: &NightParams) -> String {
    format!(
        "{} min ahead, {:?}, {:?}, {:?}, seed {}",
        params.horizon_min, params.site, params.zone, params.features, params.seed
    )
}

/// Readings per local day, of days that were read from their start.
#[derive(Default)]
pub(super) struct Counting {
    by_day: BTreeMap<i32, u64>,
    /// The newest day and where it ends.
    day: Option<(i32, TimestampMs)>,
}

impl Counting {
    pub(super) fn add(&mut self, plan: &Plan, ts: TimestampMs) {
        let day = match self.day {
            Some((day, end)) if ts < end => day,
            _ => {
                let day = plan.local_day(ts);
                self.day = Some((day, plan.day_start(day + 1)));
                day
            }
        };
        *self.by_day.entry(day).or_default() += 1;
    }
}

impl Cache {
    pub(super) fn new(plan: Plan, seed: u64) -> Self {
        Self {
            plan,
            learner: product(seed),
            ramp: RampLearner::new(seed),
            calibration: Calibration::default(),
            readings: BTreeMap::new(),
            trained_until: TimestampMs::default(),
            full_day: i32::MIN / 2,
        }
    }

    /// Keeps the counts of the days that were taught after `known`. The first day counted may have
    /// been read from its middle on.
    pub(super) fn note_readings(&mut self, mut counting: Counting, known: Option<i32>) {
        counting.by_day.pop_first();
        let taught = self.learner.last_day();
        let new = |day: i32| known.is_none_or(|k| day > k) && taught.is_some_and(|t| day <= t);
        let counted = counting.by_day.into_iter();
        self.readings.extend(counted.filter(|(day, _)| new(*day)));
    }

    /// The bytes: as a model's, under a magic of their own.
    pub fn to_bytes(&self, params: &NightParams) -> Vec<u8> {
        let mut out = Encoder::default();
        out.str(&fingerprint(params));
        out.u32(self.plan.step_min());
        out.i64(self.trained_until.0);
        out.u32(self.full_day.cast_unsigned());
        out.len(self.readings.len());
        for (day, readings) in &self.readings {
            out.u32(day.cast_unsigned());
            out.u64(*readings);
        }
        self.calibration.encode(&mut out);
        self.learner.encode(&mut out);
        self.ramp.encode(&mut out);
        seal(MAGIC, FORMAT, &out.0)
    }

    /// Reads what [`Cache::to_bytes`] wrote under the same settings; anything else is an error.
    pub fn from_bytes(bytes: &[u8], params: &NightParams) -> Result<Self, CodecError> {
        let mut from = Decoder(unseal(bytes, MAGIC, FORMAT, MAX_CACHE_BYTES)?);
        if from.str(MAX_PLAN_BYTES)? != fingerprint(params) {
            return Err(CodecError::Malformed("it is of other settings"));
        }
        let plan = planned(params, from.u32()?)
            .map_err(|_: PlanError| CodecError::Malformed("a step that cannot be"))?;
        let trained_until = TimestampMs(from.i64()?);
        let full_day = from.u32()?.cast_signed();
        let days = from.len(MAX_DAYS, 12)?;
        let readings = (0..days)
            .map(|_| Ok((from.u32()?.cast_signed(), from.u64()?)))
            .collect::<Result<_, CodecError>>()?;
        let calibration = Calibration::decode(&mut from)?;
        let learner = product(params.seed).resume(&mut from)?;
        let ramp = RampLearner::decode(&mut from, params.seed, plan.features().len())?;
        if !from.0.is_empty() {
            return Err(CodecError::Malformed("something follows the cache"));
        }
        Ok(Self {
            plan,
            learner,
            ramp,
            calibration,
            readings,
            trained_until,
            full_day,
        })
    }

    /// Whether it is of no use, because the bins do not suit the rows any more.
    pub fn is_stale(&self) -> bool {
        self.learner.is_stale() || self.learner.last_day().is_none()
    }

    /// Forgets the first day, of those since `since`, that holds another number of readings now than
    /// when it was taught, and the days after it: a broker's backlog has come in, say. `count` gives
    /// the readings from one moment up to another.
    pub fn forget_changed<E>(
        &mut self,
        since: TimestampMs,
        mut count: impl FnMut(TimestampMs, TimestampMs) -> Result<u64, E>,
    ) -> Result<(), E> {
        let first = self.plan.local_day(since) + 1;
        for (&day, &readings) in self.readings.range(first..) {
            let now = count(self.plan.day_start(day), self.plan.day_start(day + 1))?;
            if now != readings {
                self.learner.forget_from(day);
                self.ramp.forget_from(day);
                self.readings.split_off(&day);
                break;
            }
        }
        Ok(())
    }

    /// From when on the next night needs readings: its own days' and a bounded tail before them.
    pub fn needs_from(&self) -> TimestampMs {
        let next = self.learner.last_day().unwrap_or_default() + 1;
        let first_row = self.plan.day_start(next).0 - i64::from(self.plan.horizon_min()) * 60_000;
        TimestampMs(first_row - TAIL_DAYS * 86_400_000)
    }

    /// Lets go of days older than `from`.
    pub fn forget_before(&mut self, from: TimestampMs) {
        let day = self.plan.local_day(from);
        self.learner.forget_before(day);
        self.ramp.forget_before(day);
        self.readings = self.readings.split_off(&day);
    }
}
