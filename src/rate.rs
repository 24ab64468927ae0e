//! So many a minute and no more: a bucket that fills again, and log lines limited by their cause.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

const MINUTE_S: f64 = 60.0;

/// A token bucket: `per_minute` at once, and as many again over the next minute.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    per_minute: f64,
    tokens: f64,
    last: Duration,
}

impl Bucket {
    /// A full bucket.
    pub fn new(per_minute: u32) -> Self {
        Self {
            per_minute: f64::from(per_minute),
            tokens: f64::from(per_minute),
            last: Duration::ZERO,
        }
    }

    /// Takes one where there is one. `now` is any clock's time: where it goes back nothing is
    /// refilled, where it leaps ahead the bucket is full once.
    pub fn take(&mut self, now: Duration) -> bool {
        let passed_s = now.saturating_sub(self.last).as_secs_f64();
        self.last = now;
        let refill = passed_s / MINUTE_S * self.per_minute;
        self.tokens = (self.tokens + refill).min(self.per_minute);
        // A hair of rounding must not cost the one a minute.
        let taken = self.tokens >= 1.0 - 1e-6;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }
}

/// One line a minute and cause; the next one says how many there were in between.
#[derive(Debug, Default)]
pub struct Limiter {
    causes: HashMap<&'static str, (Bucket, u64)>,
}

impl Limiter {
    /// What to add to the line (nothing, or how many were left out since the last), or that there is
    /// to be no line. Causes are words of the program, so there are only so many of them.
    pub fn allow(&mut self, cause: &'static str, now: Duration) -> Option<String> {
        let fresh = || (Bucket::new(1), 0);
        let (bucket, left_out) = self.causes.entry(cause).or_insert_with(fresh);
        if !bucket.take(now) {
            *left_out += 1;
            return None;
        }
        Some(match std::mem::take(left_out) {
            0 => String::new(),
            more => format!(" ({more} more since the last such line)"),
        })
    }
}

/// [`Limiter::allow`] for the log of this process, now.
pub fn log_line(cause: &'static str) -> Option<String> {
    static LOG: LazyLock<(Instant, Mutex<Limiter>)> =
        LazyLock::new(|| (Instant::now(), Mutex::default()));
    let (start, limiter) = &*LOG;
    let mut limiter = limiter.lock().unwrap_or_else(PoisonError::into_inner);
    limiter.allow(cause, start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_bucket_gives_so_many_at_once_and_then_so_many_a_minute() {
        let mut bucket = Bucket::new(60);
        let taken = |bucket: &mut Bucket, at| (0..1000).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(&mut bucket, s(5)), 60);
        assert_eq!(taken(&mut bucket, s(5)), 0);
        assert_eq!(taken(&mut bucket, s(15)), 10);
        assert_eq!(taken(&mut bucket, s(1000)), 60);
    }

    #[test]
    fn a_clock_that_jumps_cannot_be_used_to_get_more() {
        let mut bucket = Bucket::new(10);
        let taken = |bucket: &mut Bucket, at| (0..100).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(&mut bucket, s(1_000_000)), 10);
        assert_eq!(taken(&mut bucket, s(0)), 0, "it went back to the epoch");
        assert_eq!(taken(&mut bucket, s(6)), 1);
        assert_eq!(taken(&mut bucket, Duration::MAX), 10, "one full bucket");
        assert_eq!(taken(&mut bucket, Duration::MAX), 0);
    }

    #[test]
    fn one_line_a_minute_and_cause_which_counts_what_it_left_out() {
        let mut limiter = Limiter::default();
        assert_eq!(limiter.allow("a", s(0)).as_deref(), Some(""));
        for i in 0..59 {
            assert_eq!(limiter.allow("a", s(i)), None);
        }
        assert_eq!(limiter.allow("b", s(59)).as_deref(), Some(""));
        assert_eq!(
            limiter.allow("a", s(60)).as_deref(),
            Some(" (59 more since the last such line)")
        );
        assert_eq!(limiter.allow("a", s(61)), None);
        assert_eq!(
            limiter.allow("a", s(121)).as_deref(),
            Some(" (1 more since the last such line)")
        );
    }
}
