//! How long to wait before the next connection: one second to a minute, doubling, with jitter; minutes
//! where the broker does not want us.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(60);
/// Wrong credentials do not mend themselves, and brokers lock out those who hammer them.
const REFUSED: Duration = Duration::from_secs(300);

/// The waits of one series of failures; a success begins a new one.
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// The next wait; `refused` where the broker answered that we may not come in.
    pub(crate) fn next(&mut self, refused: bool) -> Duration {
        if refused {
            return jittered(REFUSED);
        }
        let wait = jittered(self.0);
        self.0 = (self.0 * 2).min(MOST);
        wait
    }
}

/// Between half of `base` and all of it, so that many stations do not return in step.
fn jittered(base: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    base.mul_f64(0.5 + 0.5 * (random as f64 / u64::MAX as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_minute_and_stay_within_their_jitter() {
        let mut backoff = Backoff::default();
        for base in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            let wait = backoff.next(false).as_secs_f64();
            assert!((base / 2.0..=base).contains(&wait), "{wait} of {base}");
        }
    }

    #[test]
    fn who_is_refused_waits_minutes_and_stations_do_not_return_in_step() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..100).map(|_| backoff.next(true)).collect();
        assert!(waits.iter().all(|w| (150..=300).contains(&w.as_secs())));
        assert!(waits.windows(2).any(|w| w[0] != w[1]), "no jitter");
        let wait = backoff.next(false).as_secs_f64();
        assert!(
            (0.5..=1.0).contains(&wait),
            "a refusal is no outage: {wait}"
        );
    }
}
