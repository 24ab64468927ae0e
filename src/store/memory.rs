//! What a running store remembers so that nobody has to scan for it: of each device its newest reading and the last to arrive, of each horizon its newest forecast, and the errors of hours that are over.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::accuracy::Sums;
use super::{Heard, Reader, StoreError};
use crate::reading::{DeviceId, TimestampMs};

/// Hours of errors that are remembered: what `status` looks back on, and a day.
const HOURS: i64 = 8 * 24;
/// Sums of them at most, 6 MB: a station with hundreds of devices counts the rest anew.
const MOST_SUMS: usize = 100_000;

/// When the newest forecast of its device and horizon was made, and for when.
pub(super) type Newest = BTreeMap<(DeviceId, u32), (TimestampMs, TimestampMs)>;

/// Filled at the start, and by what the writer commits from then on.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Of each device, by number, the newest reading's own time.
    readings: Mutex<HashMap<i64, i64>>,
    /// By number of the device; before it has sent anything its newest reading.
    heard: Mutex<HashMap<i64, Heard>>,
    forecasts: Mutex<Newest>,
    /// By hours since the epoch.
    errors: Mutex<BTreeMap<i64, Sums>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    /// Looks for what there is already.
    pub(super) fn load(reader: &Reader) -> Result<Self, StoreError> {
        let readings = reader.scan_latest()?.into_iter();
        let readings: HashMap<i64, i64> = readings.map(|(no, ts, _)| (no, ts.0)).collect();
        Ok(Self {
            heard: Mutex::new(reader.received(&readings)?),
            readings: Mutex::new(readings),
            forecasts: Mutex::new(reader.scan_forecasts()?),
            errors: Mutex::default(),
        })
    }

    /// Readings were committed: numbers of devices with a time that is not older than their newest.
    pub(super) fn stored(&self, newest: impl Iterator<Item = (i64, i64)>) {
        let mut known = lock(&self.readings);
        for (device_no, ts) in newest {
            let at = known.entry(device_no).or_insert(ts);
            *at = ts.max(*at);
        }
    }

    /// Readings of these devices have arrived.
    pub(super) fn heard_of(&self, devices: impl Iterator<Item = (i64, Heard)>) {
        lock(&self.heard).extend(devices);
    }

    /// Of each device, by number, the last reading to arrive.
    pub(super) fn heard(&self) -> HashMap<i64, Heard> {
        lock(&self.heard).clone()
    }

    /// Forecasts were kept.
    pub(super) fn kept(&self, forecasts: Newest) {
        // After a clock was put back they may be for hours that were over.
        let targets = forecasts.values().map(|(_, target)| hour_of(*target));
        if let Some(first) = targets.min() {
            lock(&self.errors).split_off(&first);
        }
        let mut known = lock(&self.forecasts);
        for (key, times) in forecasts {
            let newest = known.entry(key).or_insert(times);
            *newest = times.max(*newest);
        }
    }

    /// Of each device, by number, the newest reading's own time.
    pub(super) fn readings(&self) -> Vec<(i64, i64)> {
        let known = lock(&self.readings);
        known.iter().map(|(no, ts)| (*no, *ts)).collect()
    }

    /// The newest forecasts.
    pub(super) fn forecasts(&self) -> Newest {
        lock(&self.forecasts).clone()
    }

    /// When the newest forecast of all was made.
    pub(super) fn newest_issue(&self) -> Option<TimestampMs> {
        lock(&self.forecasts).values().map(|f| f.0).max()
    }

    /// Shows the sums of the hours from `first` to before `end` that are known; which are not.
    pub(super) fn errors(
        &self,
        (first, end): (i64, i64),
        mut show: impl FnMut(&Sums),
    ) -> Vec<Range<i64>> {
        let (known, mut at, mut missing) = (lock(&self.errors), first, Vec::new());
        for (hour, sums) in known.range(first..end) {
            if at < *hour {
                missing.push(at..*hour);
            }
            at = hour + 1;
            show(sums);
        }
        if at < end {
            missing.push(at..end);
        }
        missing
    }

    /// Remembers the errors of hours that are over, the newest of which ended at hour `end`.
    pub(super) fn remember(&self, hours: BTreeMap<i64, Sums>, end: i64) {
        let mut known = lock(&self.errors);
        let oldest = known
            .last_key_value()
            .map_or(end, |(hour, _)| end.max(hour + 1))
            - HOURS;
        let mut room = MOST_SUMS.saturating_sub(known.values().map(Sums::len).sum());
        for (hour, sums) in hours.into_iter().rev().filter(|(hour, _)| *hour >= oldest) {
            room = match room.checked_sub(sums.len()) {
                Some(left) => left,
                None => break,
            };
            known.insert(hour, sums);
        }
        *known = known.split_off(&oldest);
    }
}

fn hour_of(at: TimestampMs) -> i64 {
    at.0.div_euclid(3_600_000)
}
