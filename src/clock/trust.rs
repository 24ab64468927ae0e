//! Whether the wall clock can be believed: a pure judgement of glances at it beside a clock that only runs.

use super::plausible;
use crate::reading::TimestampMs;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Beyond this the wall clock was set; what a time server's slewing does in a second is far less.
const JUMP_MS: i64 = 5_000;
/// A clock this little behind is not told from a right one: the time seen is kept once an hour.
const BEHIND_MS: i64 = 2 * HOUR_MS;
/// A station that was off for longer is rarer than a clock that is wrong by so much.
const LONGEST_OFF_MS: i64 = 366 * DAY_MS;
/// A doubtful clock that nobody has corrected in so long is taken as it is.
const UNCORRECTED_MS: i64 = DAY_MS;

/// What the system says of its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A time server has been reached since the boot.
    Synchronised,
    /// A time server is being looked for and there is no clock chip: the time is that of the last
    /// shutdown at best.
    Unsynchronised,
    /// A clock chip keeps the time, or nobody is there to ask.
    Unknown,
}

/// One look at both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// The wall clock.
    pub now: TimestampMs,
    /// The clock that only runs, ms.
    pub running_ms: i64,
    /// What the system says.
    pub evidence: Evidence,
}

/// The judgement, from glance to glance.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The latest time that was believed, from before the start too.
    seen: Option<TimestampMs>,
    last: Option<Glance>,
    /// When things were last upset: start, jump, change of trust; on the running clock.
    calm_since_ms: i64,
    trusted: bool,
}

impl Trust {
    /// Nothing is believed before the first glance; `seen` is the time believed last before this start.
    pub fn new(seen: Option<TimestampMs>) -> Self {
        Self {
            seen,
            last: None,
            calm_since_ms: 0,
            trusted: false,
        }
    }

    /// Takes a glance in; returns by how far the wall clock was set since the last one, ms.
    pub fn look(&mut self, g: Glance) -> Option<i64> {
        let offset_ms = |g: Glance| g.now.0 - g.running_ms;
        let set_ms = self.last.map(|last| offset_ms(g) - offset_ms(last));
        let jump = set_ms.filter(|ms| ms.abs() > JUMP_MS);
        // Whoever sets a clock back under our eyes corrects it; what was seen before was wrong.
        let corrected = jump.is_some_and(|ms| ms < 0);
        if self.last.is_none() || jump.is_some() {
            self.calm_since_ms = g.running_ms;
        }
        self.last = Some(g);
        let calm_ms = g.running_ms - self.calm_since_ms;
        let fits = self.seen.is_none_or(|seen| {
            let range = seen.plus_ms(-BEHIND_MS)..=seen.plus_ms(LONGEST_OFF_MS);
            corrected || range.contains(&g.now)
        });
        let trusted = plausible(g.now)
            && match g.evidence {
                Evidence::Synchronised => true,
                Evidence::Unsynchronised => false,
                Evidence::Unknown => fits || calm_ms >= UNCORRECTED_MS,
            };
        if trusted {
            self.seen = Some(g.now);
        }
        if trusted != self.trusted {
            self.trusted = trusted;
            self.calm_since_ms = g.running_ms;
        }
        jump
    }

    /// The last judgement.
    pub fn trusted(&self) -> bool {
        self.trusted
    }

    /// How long both clocks have agreed and the judgement has stood, ms.
    pub fn calm_ms(&self) -> i64 {
        self.last
            .map_or(0, |last| last.running_ms - self.calm_since_ms)
    }

    /// The latest time that was believed; to be kept for the next start.
    pub fn seen(&self) -> Option<TimestampMs> {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: TimestampMs = TimestampMs(1_800_000_000_000);

    fn glance(now: TimestampMs, running_s: i64, evidence: Evidence) -> Glance {
        Glance {
            now,
            running_ms: running_s * 1000,
            evidence,
        }
    }

    #[test]
    fn a_synchronised_clock_is_believed_even_before_the_time_seen_last() {
        let mut trust = Trust::new(Some(T.plus_ms(10 * LONGEST_OFF_MS)));
        trust.look(glance(T, 0, Evidence::Unknown));
        assert!(!trust.trusted());
        trust.look(glance(T.plus_ms(1000), 1, Evidence::Synchronised));
        assert!(trust.trusted());
        assert_eq!(trust.seen(), Some(T.plus_ms(1000)));
    }

    #[test]
    fn without_a_time_server_or_a_chip_nothing_is_believed() {
        let mut trust = Trust::new(None);
        for hour in 0..72 {
            let now = T.plus_ms(hour * HOUR_MS);
            trust.look(glance(now, hour * 3600, Evidence::Unsynchronised));
            assert!(!trust.trusted());
        }
        assert_eq!(trust.seen(), None);
    }

    #[test]
    fn a_doubtful_time_is_believed_once_nobody_has_corrected_it_for_a_day() {
        for seen in [T.plus_ms(9 * DAY_MS), T.plus_ms(-2 * LONGEST_OFF_MS)] {
            let mut trust = Trust::new(Some(seen));
            let mut believed = None;
            for hour in 0..=30 {
                trust.look(glance(
                    T.plus_ms(hour * HOUR_MS),
                    hour * 3600,
                    Evidence::Unknown,
                ));
                believed = believed.or(trust.trusted().then_some(hour));
            }
            assert_eq!(believed, Some(24), "{seen}");
        }
        // 1970 never is.
        let mut trust = Trust::new(None);
        for day in 0..10 {
            trust.look(glance(
                TimestampMs(day * DAY_MS),
                day * 86_400,
                Evidence::Unknown,
            ));
            assert!(!trust.trusted());
        }
    }

    #[test]
    fn jumps_are_told_from_slewing_and_end_the_calm() {
        let mut trust = Trust::new(None);
        let unknown = |ms, s| glance(T.plus_ms(ms), s, Evidence::Unknown);
        assert_eq!(trust.look(unknown(0, 0)), None);
        assert_eq!(trust.look(unknown(63_000, 60)), None);
        assert_eq!(trust.calm_ms(), 60_000);
        assert_eq!(trust.look(unknown(93_000, 61)), Some(29_000));
        assert_eq!(trust.calm_ms(), 0);
        // Set back: believed, because somebody did it.
        let back = -3 * DAY_MS;
        assert_eq!(trust.look(unknown(back, 62)), Some(back - 94_000));
        assert!(trust.trusted());
        // Ten years ahead, and corrected an hour later.
        let ahead = 10 * LONGEST_OFF_MS;
        assert!(trust.look(unknown(ahead, 63)).is_some());
        assert!(!trust.trusted());
        assert!(trust.look(unknown(0, 3663)).is_some());
        assert!(trust.trusted());
    }
}
