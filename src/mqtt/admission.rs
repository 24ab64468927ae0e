//! Which devices may be new: so many in all and so many a minute; a known one is never refused.

use std::collections::HashSet;
use std::time::Duration;

use super::payload::RejectReason;
use crate::rate::Bucket;
use crate::reading::DeviceId;

/// The devices there are, and how many more there may be.
pub struct Admission {
    known: HashSet<DeviceId>,
    most: usize,
    newcomers: Bucket,
}

impl Admission {
    /// `known` are in for good, even where they are more than `most`.
    pub fn new(known: impl IntoIterator<Item = DeviceId>, most: u32, new_per_min: u32) -> Self {
        Self {
            known: known.into_iter().collect(),
            most: most as usize,
            newcomers: Bucket::new(new_per_min),
        }
    }

    /// Whether a reading of this device is taken; a new one that is, is known from now on. `now` is any
    /// clock's time: one that jumps lets in no more than a minute's worth at once.
    pub fn admit(&mut self, device: &DeviceId, now: Duration) -> Result<(), RejectReason> {
        if self.known.contains(device) {
            return Ok(());
        }
        if self.known.len() >= self.most {
            return Err(RejectReason::TooManyDevices);
        }
        if !self.newcomers.take(now) {
            return Err(RejectReason::NewDevicesTooFast);
        }
        self.known.insert(device.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(i: u32) -> DeviceId {
        DeviceId::new(&format!("t{i}"))
    }

    #[test]
    fn new_devices_come_in_so_many_a_minute_whatever_the_clock_does() {
        let mut admission = Admission::new([], 1000, 60);
        let mut offered = 0;
        let mut admit = |seconds: u64, n: u32| {
            let from = offered;
            offered += n;
            (from..offered)
                .filter(|i| {
                    let admitted = admission.admit(&device(*i), Duration::from_secs(seconds));
                    assert!(matches!(
                        admitted,
                        Ok(()) | Err(RejectReason::NewDevicesTooFast)
                    ));
                    admitted.is_ok()
                })
                .count()
        };
        assert_eq!(admit(10, 200), 60);
        assert_eq!(admit(20, 200), 10);
        assert_eq!(admit(0, 200), 0, "the clock went back");
        assert_eq!(admit(1_000_000, 200), 60, "the clock leapt ahead");
    }

    #[test]
    fn the_cap_holds_and_a_known_device_is_never_refused() {
        let known: Vec<DeviceId> = (0..10).map(device).collect();
        let mut admission = Admission::new(known.clone(), 12, 60);
        let now = Duration::from_secs(9);
        assert!(admission.admit(&device(10), now).is_ok());
        assert!(admission.admit(&device(11), now).is_ok());
        for i in 12..5000 {
            let refused = admission.admit(&device(i), now);
            assert_eq!(refused, Err(RejectReason::TooManyDevices));
        }
        for i in 0..12 {
            assert!(admission.admit(&device(i), Duration::ZERO).is_ok(), "{i}");
        }
        let mut lowered = Admission::new(known.clone(), 3, 1);
        assert!(known.iter().all(|d| lowered.admit(d, now).is_ok()));
        assert!(lowered.admit(&device(99), now).is_err());
    }
}
