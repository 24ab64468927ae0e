//! Turns one device's readings into a regular grid of slots, streaming.

use crate::reading::{DeviceId, Field, TimestampMs, Values};

/// The steps a grid may have, minutes: each divides the day.
pub const STEPS_MIN: [u32; 8] = [1, 2, 5, 10, 15, 20, 30, 60];

/// One slot of the grid: the means of what was measured in `[start, start + step)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slot {
    /// Number of whole steps since the Unix epoch, UTC.
    pub index: i64,
    /// The mean of each field's samples; with one sample per slot, the sample.
    pub values: Values,
}

/// The slot that is still being filled.
#[derive(Clone, Copy, Debug)]
struct Open {
    index: i64,
    sum: [f64; 8],
    samples: [u32; 8],
}

/// The grid of one device. Readings come in time order; what is older than the open slot is late.
#[derive(Clone, Debug)]
pub struct Grid {
    step_ms: i64,
    open: Option<Open>,
    gap_slots: u64,
    late: u64,
}

impl Grid {
    /// An empty grid of `step_min` minutes (0 counts as 1).
    pub fn new(step_min: u32) -> Self {
        Self {
            step_ms: i64::from(step_min.max(1)) * 60_000,
            open: None,
            gap_slots: 0,
            late: 0,
        }
    }

    /// Adds a reading; returns the slot it finished by starting a later one.
    pub fn push(&mut self, ts: TimestampMs, values: &Values) -> Option<Slot> {
        let index = ts.0.div_euclid(self.step_ms);
        let mut finished = None;
        if let Some(open) = &self.open {
            if index < open.index {
                self.late += 1;
                return None;
            }
            if index > open.index {
                self.gap_slots += index.abs_diff(open.index) - 1;
                finished = self.finish();
            }
        }
        let open = self.open.get_or_insert(Open {
            index,
            sum: [0.0; 8],
            samples: [0; 8],
        });
        for (field, value) in values.iter() {
            open.sum[field as usize] += value;
            open.samples[field as usize] += 1;
        }
        finished
    }

    /// The slot being filled, as it would be if it ended now.
    pub fn open_slot(&self) -> Option<Slot> {
        self.open.as_ref().map(|open| {
            let mut values = Values::default();
            for field in Field::ALL {
                let i = field as usize;
                if open.samples[i] > 0 {
                    values.set(field, Some(open.sum[i] / f64::from(open.samples[i])));
                }
            }
            Slot {
                index: open.index,
                values,
            }
        })
    }

    /// Ends the open slot and returns it; the next reading starts a new one.
    pub fn finish(&mut self) -> Option<Slot> {
        let slot = self.open_slot();
        self.open = None;
        slot
    }

    /// When slot `index` starts.
    pub fn start_of(&self, index: i64) -> TimestampMs {
        TimestampMs(index.saturating_mul(self.step_ms))
    }

    /// Slots between the first and the last reading that hold nothing.
    pub fn gap_slots(&self) -> u64 {
        self.gap_slots
    }

    /// Readings that came after their slot had been finished and were left out.
    pub fn late(&self) -> u64 {
        self.late
    }
}

/// The grid step that fits readings like these: the median spacing of each device's readings,
/// rounded up to one of [`STEPS_MIN`] (with 5 % grace, so that a clock which drifts by a second a
/// minute still counts as one minute). `None` without two readings of one device.
pub fn infer_step_min<'a>(
    readings: impl IntoIterator<Item = (&'a DeviceId, TimestampMs)>,
) -> Option<u32> {
    let mut last = std::collections::BTreeMap::new();
    let mut spacings_ms: Vec<i64> = readings
        .into_iter()
        .filter_map(|(device, ts)| Some(ts.0 - last.insert(device, ts)?.0))
        .filter(|&ms| ms > 0)
        .collect();
    spacings_ms.sort_unstable();
    let median_ms = *spacings_ms.get(spacings_ms.len() / 2)? as f64;
    let fits = |&step: &u32| f64::from(step) * 60_000.0 * 1.05 >= median_ms;
    Some(STEPS_MIN.into_iter().find(fits).unwrap_or(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn power(w: f64) -> Values {
        let mut v = Values::default();
        v.set(Field::Power, Some(w));
        v
    }

    #[test]
    fn a_slot_is_the_mean_of_its_samples_and_gaps_and_late_readings_are_counted() {
        let mut grid = Grid::new(5);
        assert_eq!(grid.push(TimestampMs(0), &power(1.0)), None);
        assert_eq!(grid.push(TimestampMs(299_999), &power(3.0)), None);
        assert_eq!(
            grid.open_slot().unwrap().values.get(Field::Power),
            Some(2.0)
        );
        let slot = grid.push(TimestampMs(900_000), &power(7.0)).unwrap();
        assert_eq!((slot.index, slot.values.get(Field::Power)), (0, Some(2.0)));
        assert_eq!(slot.values.get(Field::Lux), None);
        assert_eq!(grid.push(TimestampMs(899_999), &power(9.0)), None);
        assert_eq!((grid.gap_slots(), grid.late()), (2, 1));
        assert_eq!(grid.finish().unwrap().index, 3);
        assert_eq!(grid.finish(), None);
    }

    #[test]
    fn slots_before_1970_floor_downwards() {
        let mut grid = Grid::new(1);
        grid.push(TimestampMs(-1), &power(1.0));
        assert_eq!(grid.open_slot().unwrap().index, -1);
    }

    #[test]
    fn the_step_is_the_median_spacing_rounded_up() {
        let (a, b) = (DeviceId::new("a"), DeviceId::new("b"));
        let every = |s: i64| {
            let times: Vec<_> = (0..20)
                .flat_map(|i| {
                    [
                        (&a, TimestampMs(i * s * 1000)),
                        (&b, TimestampMs(i * s * 1000 + 1)),
                    ]
                })
                .collect();
            infer_step_min(times)
        };
        assert_eq!(every(10), Some(1));
        assert_eq!(every(61), Some(1));
        assert_eq!(every(90), Some(2));
        assert_eq!(every(300), Some(5));
        assert_eq!(every(7200), Some(60));
        assert_eq!(
            infer_step_min([(&a, TimestampMs(0)), (&b, TimestampMs(60_000))]),
            None
        );
    }
}
