//! Whether to train now: one pure decision over policy, run log and clock, the same in the daemon and in simulated time.

use std::fmt;
use std::str::FromStr;

use chrono::NaiveTime;
use chrono_tz::Tz;

use super::{HOUR_MS, Schedule, due, next};
use crate::reading::TimestampMs;

const MINUTE_MS: i64 = 60_000;
/// What is not on time waits for the next occurrence where that is this near; and what is late by
/// less is still the same night, whatever the policy for later ones.
const NEAR_MS: i64 = 2 * HOUR_MS;
/// A night that was learned this shortly before an occurrence stands for it, if it was missed.
const COVERS_MS: i64 = 20 * HOUR_MS;
/// Between runs where the wall clock says nothing.
const BY_RUNNING_TIME_MS: i64 = 24 * HOUR_MS;
/// An occurrence in the run log further ahead than a day of 25 hours was logged by a wrong clock.
pub const AHEAD_MS: i64 = 25 * HOUR_MS;
/// Starts of one occurrence that ended with the whole station: another could end it again.
const CUT_SHORT: u32 = 2;
/// Starts of one occurrence at most, and the waits between them.
const TRIES: u32 = 3;
const BACK_OFF_MS: [i64; 2] = [5 * MINUTE_MS, 20 * MINUTE_MS];

/// Whether a night that was missed is made up for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CatchUp {
    /// As soon as the station has settled.
    #[default]
    Always,
    /// Only between these local times; from the first to before the second, over midnight too.
    Window(NaiveTime, NaiveTime),
    /// Not at all.
    Never,
}

/// Why a policy was refused.
#[derive(Debug, thiserror::Error)]
#[error("accepted: \"always\", \"never\", or a window of local time such as \"22:00-06:00\"")]
pub struct CatchUpError;

impl FromStr for CatchUp {
    type Err = CatchUpError;

    fn from_str(text: &str) -> Result<Self, CatchUpError> {
        let time = |t: &str| NaiveTime::parse_from_str(t.trim(), "%H:%M").map_err(|_| CatchUpError);
        match text {
            "always" => Ok(CatchUp::Always),
            "never" => Ok(CatchUp::Never),
            window => {
                let (from, to) = window.split_once('-').ok_or(CatchUpError)?;
                match (time(from)?, time(to)?) {
                    (from, to) if from != to => Ok(CatchUp::Window(from, to)),
                    _ => Err(CatchUpError),
                }
            }
        }
    }
}

impl fmt::Display for CatchUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CatchUp::Always => f.write_str("always"),
            CatchUp::Never => f.write_str("never"),
            CatchUp::Window(from, to) => {
                write!(f, "{}-{}", from.format("%H:%M"), to.format("%H:%M"))
            }
        }
    }
}

impl<'de> serde::Deserialize<'de> for CatchUp {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl CatchUp {
    /// Whether it is the time for it.
    pub fn allows(self, zone: Tz, now: TimestampMs) -> bool {
        match self {
            CatchUp::Always => true,
            CatchUp::Never => false,
            CatchUp::Window(from, to) => {
                let t = now.to_utc().with_timezone(&zone).time();
                if from < to {
                    from <= t && t < to
                } else {
                    from <= t || t < to
                }
            }
        }
    }
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Policy {
    /// When to train.
    pub schedule: Schedule,
    /// Which of those nights learn everything anew: those with an occurrence of this since the last
    /// night that learned.
    pub full_schedule: Option<Schedule>,
    /// Whose wall clock.
    pub zone: Tz,
    /// What becomes of missed nights.
    pub catch_up: CatchUp,
    /// How long start, jump or regained trust must be past before one is made up for, ms.
    pub settle_ms: i64,
}

/// What the run log says of training, as of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The oldest reading; without one there is nothing to learn.
    pub oldest_reading: Option<TimestampMs>,
    /// The newest occurrence that a run stood for.
    pub last: Option<Tried>,
    /// When the newest run that learned began, and the occurrence it stood for if it did.
    pub learned: Option<(TimestampMs, Option<TimestampMs>)>,
}

/// An occurrence and what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Its moment.
    pub nominal: TimestampMs,
    /// It ended in a way that trying again would not change.
    pub finished: bool,
    /// Runs that failed and may succeed another time.
    pub failed: u32,
    /// Runs that ended with the station itself: power cut, crash.
    pub cut_short: u32,
}

/// The clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock.
    pub now: TimestampMs,
    /// Whether it is believed.
    pub trusted: bool,
    /// For how long nothing has upset it, ms.
    pub calm_ms: i64,
    /// Running time since the last run began, over restarts, ms.
    pub rested_ms: i64,
}

/// Why a night takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its time has come.
    Schedule,
    /// Its time passed while the station was off.
    CatchUp,
    /// It was begun before and failed.
    Retry,
    /// The clock is not believed, and a day of running time has passed.
    RunningTime,
}

impl Reason {
    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Schedule => "schedule",
            Reason::CatchUp => "catch_up",
            Reason::Retry => "retry",
            Reason::RunningTime => "running_time",
        }
    }
}

/// A night to be run now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Night {
    /// The scheduled moment it stands for; stored with the run, so that it never runs twice.
    pub nominal: Option<TimestampMs>,
    /// Why.
    pub reason: Reason,
    /// The full schedule asks for it.
    pub full: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Train.
    Run(Night),
    /// Take occurrences after this moment out of the run log: a wrong clock has put them there.
    Forget(TimestampMs),
    /// Nothing: this occurrence ended the whole station too often to be begun again.
    GivenUp(TimestampMs),
}

/// Decides. At most one run stands for however many occurrences were missed, and none begins twice
/// but after a failure.
pub fn decide(policy: &Policy, log: &Log, at: Moment) -> Step {
    let (now, zone) = (at.now, policy.zone);
    let Some(oldest) = log.oldest_reading else {
        return Step::Wait;
    };
    if !at.trusted {
        return if at.rested_ms >= BY_RUNNING_TIME_MS {
            run(policy, log, None, Reason::RunningTime, now)
        } else {
            Step::Wait
        };
    }
    let last = log.last;
    let since = last.map_or(oldest, |last| last.nominal);
    if last.is_some() && since.0 - now.0 > AHEAD_MS {
        return Step::Forget(now.plus_ms(AHEAD_MS));
    }
    let may_be_late = |nominal: TimestampMs| {
        let near = |t: TimestampMs| t.0 - now.0 <= NEAR_MS;
        at.calm_ms >= policy.settle_ms
            && (now.0 - nominal.0 <= NEAR_MS || policy.catch_up.allows(zone, now))
            && !next(&policy.schedule, zone, nominal, now).is_some_and(near)
    };
    if let Some(due) = due(&policy.schedule, zone, since, now) {
        let covered = log
            .learned
            .is_some_and(|(began, _)| (due.nominal.plus_ms(-COVERS_MS)..=now).contains(&began));
        return match due.late {
            false => run(policy, log, Some(due.nominal), Reason::Schedule, now),
            true if !covered && may_be_late(due.nominal) => {
                run(policy, log, Some(due.nominal), Reason::CatchUp, now)
            }
            true => Step::Wait,
        };
    }
    match last {
        None => Step::Wait,
        Some(last) if last.finished || last.failed + last.cut_short == 0 => Step::Wait,
        Some(last) if last.cut_short >= CUT_SHORT => Step::GivenUp(last.nominal),
        Some(last) if last.failed + last.cut_short >= TRIES => Step::Wait,
        Some(last) => {
            // After a power cut the settling is wait enough.
            let waits = &BACK_OFF_MS[..(last.failed as usize).min(BACK_OFF_MS.len())];
            let rested = at.rested_ms >= waits.last().copied().unwrap_or(0);
            if rested && may_be_late(last.nominal) {
                run(policy, log, Some(last.nominal), Reason::Retry, now)
            } else {
                Step::Wait
            }
        }
    }
}

fn run(
    policy: &Policy,
    log: &Log,
    nominal: Option<TimestampMs>,
    reason: Reason,
    now: TimestampMs,
) -> Step {
    let until = nominal.unwrap_or(now);
    let full = policy.full_schedule.as_ref().is_some_and(|schedule| {
        let learned = log.learned.map(|(began, nominal)| nominal.unwrap_or(began));
        let since = learned.or(log.oldest_reading).unwrap_or(until);
        due(schedule, policy.zone, since, until).is_some()
    });
    Step::Run(Night {
        nominal,
        reason,
        full,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(text: &str) -> TimestampMs {
        chrono::DateTime::parse_from_rfc3339(text)
            .unwrap()
            .to_utc()
            .into()
    }

    fn policy() -> Policy {
        Policy {
            schedule: Schedule::default(),
            full_schedule: None,
            zone: Tz::UTC,
            catch_up: CatchUp::Always,
            settle_ms: 5 * MINUTE_MS,
        }
    }

    fn at(now: &str) -> Moment {
        Moment {
            now: t(now),
            trusted: true,
            calm_ms: HOUR_MS,
            rested_ms: HOUR_MS,
        }
    }

    fn finished(nominal: &str) -> Log {
        let nominal = t(nominal);
        Log {
            oldest_reading: Some(nominal.plus_ms(-30 * 24 * HOUR_MS)),
            last: Some(Tried {
                nominal,
                finished: true,
                ..Tried::default()
            }),
            learned: Some((nominal, Some(nominal))),
        }
    }

    fn reason(step: Step) -> Option<Reason> {
        match step {
            Step::Run(night) => Some(night.reason),
            _ => None,
        }
    }

    #[test]
    fn a_missed_night_is_made_up_for_only_where_that_is_wise() {
        let log = finished("2026-06-01T02:00:00Z");
        let missed = at("2026-06-02T09:00:00Z");
        assert_eq!(
            decide(&policy(), &log, missed),
            Step::Run(Night {
                nominal: Some(t("2026-06-02T02:00:00Z")),
                reason: Reason::CatchUp,
                full: false
            })
        );
        let unsettled = Moment {
            calm_ms: 0,
            ..missed
        };
        assert_eq!(decide(&policy(), &log, unsettled), Step::Wait);
        assert_eq!(
            decide(&policy(), &log, at("2026-06-03T00:30:00Z")),
            Step::Wait,
            "the next is near"
        );
        let asked_for = Log {
            learned: Some((t("2026-06-01T11:00:00Z"), None)),
            ..log
        };
        assert_eq!(decide(&policy(), &asked_for, missed), Step::Wait, "covered");
        let never = Policy {
            catch_up: CatchUp::Never,
            ..policy()
        };
        assert_eq!(decide(&never, &log, missed), Step::Wait);
        let evening = Policy {
            catch_up: "22:00-06:00".parse().unwrap(),
            ..policy()
        };
        assert_eq!(decide(&evening, &log, missed), Step::Wait);
        let at_ten = decide(&evening, &log, at("2026-06-02T22:00:00Z"));
        assert_eq!(reason(at_ten), Some(Reason::CatchUp));
    }

    #[test]
    fn failures_are_tried_again_three_times_and_cut_short_ones_twice() {
        let now = at("2026-06-02T02:30:00Z");
        let tried = |failed, cut_short| {
            let mut log = finished("2026-06-02T02:00:00Z");
            log.learned = None;
            log.last = Some(Tried {
                nominal: t("2026-06-02T02:00:00Z"),
                finished: false,
                failed,
                cut_short,
            });
            log
        };
        for (failed, cut_short, again) in [
            (1, 0, true),
            (2, 0, true),
            (3, 0, false),
            (0, 1, true),
            (1, 1, true),
            (2, 1, false),
            (0, 2, false),
        ] {
            let step = decide(&policy(), &tried(failed, cut_short), now);
            let wanted = again.then_some(Reason::Retry);
            assert_eq!(reason(step), wanted, "{failed} {cut_short}");
        }
        assert_eq!(
            decide(&policy(), &tried(0, 2), now),
            Step::GivenUp(t("2026-06-02T02:00:00Z"))
        );
        let hasty = Moment {
            rested_ms: 6 * MINUTE_MS,
            ..now
        };
        assert_eq!(
            reason(decide(&policy(), &tried(1, 0), hasty)),
            Some(Reason::Retry)
        );
        assert_eq!(reason(decide(&policy(), &tried(2, 0), hasty)), None);
    }

    #[test]
    fn an_untrusted_clock_counts_running_time_and_a_wrong_one_is_forgotten() {
        let log = finished("2026-06-01T02:00:00Z");
        let blind = |hours| Moment {
            trusted: false,
            rested_ms: hours * HOUR_MS,
            ..at("2026-06-02T02:00:00Z")
        };
        assert_eq!(decide(&policy(), &log, blind(23)), Step::Wait);
        assert_eq!(
            reason(decide(&policy(), &log, blind(24))),
            Some(Reason::RunningTime)
        );
        let ahead = finished("2036-06-01T02:00:00Z");
        let now = at("2026-06-02T02:00:00Z");
        assert_eq!(
            decide(&policy(), &ahead, now),
            Step::Forget(now.now.plus_ms(AHEAD_MS))
        );
        assert_eq!(decide(&policy(), &Log::default(), now), Step::Wait);
    }

    #[test]
    fn the_first_night_after_an_occurrence_of_the_full_schedule_is_full() {
        let weekly = Policy {
            full_schedule: Some("0 0 * * 0".parse().unwrap()),
            ..policy()
        };
        let full = |last: &str, now: &str| match decide(&weekly, &finished(last), at(now)) {
            Step::Run(night) => night.full,
            other => panic!("{other:?}"),
        };
        // 2026-06-07 is a Sunday.
        assert!(!full("2026-06-05T02:00:00Z", "2026-06-06T02:00:00Z"));
        assert!(full("2026-06-06T02:00:00Z", "2026-06-07T02:00:00Z"));
        assert!(!full("2026-06-07T02:00:00Z", "2026-06-08T02:00:00Z"));
        assert!(full("2026-06-05T02:00:00Z", "2026-06-09T12:00:00Z"));
    }

    #[test]
    fn policies_are_read_or_refused() {
        for text in ["always", "never", "22:00-06:00", "01:30-04:00"] {
            assert_eq!(text.parse::<CatchUp>().unwrap().to_string(), text);
        }
        for text in ["", "sometimes", "22-6", "22:00-22:00", "25:00-06:00"] {
            assert!(text.parse::<CatchUp>().is_err(), "{text}");
        }
    }
}
