//! How long to wait before the next connection: one second to a minute, doubling, with jitter; minutes
//! where the broker does not want us.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(60);
/// Wrong credentials do not mend themselves, and brokers lock out those who hammer them.
const REFUSED: Duration = Duration::from_secs(300);

/// The waits of one series of failures; a connection that lasts begins a new one.
pub(crate) struct Backoff {
    base: Duration,
    connected: Option<Instant>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: FIRST,
            connected: None,
        }
    }
}

impl Backoff {
    /// The broker has let us in at `now`. Where it ends that at once, as with two stations of one client id,
    /// trying again at once would go on for ever.
    pub(crate) fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    /// The wait after a failure at `now`; `refused` where the broker answered that we may not come in.
    pub(crate) fn next(&mut self, refused: bool, now: Instant) -> Duration {
        let connected = self.connected.take();
        if connected.is_some_and(|since| now.duration_since(since) >= MOST) {
            self.base = FIRST;
        }
        if refused {
            return jittered(REFUSED);
        }
        let wait = jittered(self.base);
        self.base = (self.base * 2).min(MOST);
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

    fn assert_within(wait: Duration, base_s: f64) {
        let wait_s = wait.as_secs_f64();
        assert!(
            (base_s / 2.0..=base_s).contains(&wait_s),
            "{wait_s} of {base_s}"
        );
    }

    #[test]
    fn waits_double_to_a_minute_and_stay_within_their_jitter() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for base_s in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            assert_within(backoff.next(false, now), base_s);
        }
    }

    #[test]
    fn only_a_connection_that_lasts_begins_anew() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for base_s in [1.0, 2.0, 4.0, 8.0] {
            backoff.connected(now);
            assert_within(backoff.next(false, now + MOST / 2), base_s);
        }
        backoff.connected(now);
        assert_within(backoff.next(false, now + MOST), 1.0);
        assert_within(backoff.next(false, now + 9 * MOST), 2.0);
    }

    #[test]
    fn who_is_refused_waits_minutes_and_stations_do_not_return_in_step() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        let waits: Vec<Duration> = (0..100).map(|_| backoff.next(true, now)).collect();
        assert!(waits.iter().all(|w| (150..=300).contains(&w.as_secs())));
        assert!(waits.windows(2).any(|w| w[0] != w[1]), "no jitter");
        // A refusal is no outage.
        assert_within(backoff.next(false, now), 1.0);
    }
}
