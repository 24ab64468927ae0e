//! Time as it really behaves: the decision that the daemon takes each minute, driven through simulated clocks.
//!
//! [`World`] is what surrounds the decision in the daemon and nothing else: a wall clock that can be wrong, a
//! clock that only runs, a power switch, and a run log. `Trust` and `decide` are the daemon's own.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Days, NaiveDate, Offset, TimeZone};
use chrono_tz::{TZ_VARIANTS, Tz};
use nightwatt::clock::{Evidence, Glance, Trust};
use nightwatt::reading::TimestampMs;
use nightwatt::schedule::{
    CatchUp, Log, Moment, Night, Policy, Reason, Schedule, Step, Tried, decide,
};

const MIN: i64 = 60_000;
const HOUR: i64 = 60 * MIN;
const DAY: i64 = 24 * HOUR;
const QUARTER: i64 = DAY / 4;

fn t(text: &str) -> TimestampMs {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc().into()
}

fn nightly() -> Policy {
    Policy {
        schedule: Schedule::default(),
        full_schedule: None,
        zone: Tz::UTC,
        catch_up: CatchUp::Always,
        settle_ms: 5 * MIN,
    }
}

/// How a simulated run ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Learned,
    Failed,
    PowerCut,
}

struct World {
    policy: Policy,
    /// The true time, and by how much the wall clock differs from it.
    truth: TimestampMs,
    wrong_ms: i64,
    evidence: Evidence,
    running_ms: i64,
    trust: Trust,
    rest_began_ms: i64,
    /// What the store keeps: time seen, running time since the last run; once an hour.
    kept: (Option<TimestampMs>, i64),
    kept_ms: i64,
    log: Vec<(Option<TimestampMs>, TimestampMs, End)>,
    ends: fn(usize) -> End,
    /// Each run: true time, what it stood for.
    runs: Vec<(TimestampMs, Night)>,
    forgotten: usize,
    /// Decide as if the clock were believed, for years before this version was written.
    certain: bool,
}

impl World {
    /// A station with a month of readings that learned in the night before `start`, switched on.
    fn new(start: &str) -> Self {
        let mut world = Self::unborn(t(start));
        let last = world.truth.0.div_euclid(DAY) * DAY + 2 * HOUR;
        let last = TimestampMs(if last < world.truth.0 {
            last
        } else {
            last - DAY
        });
        world.log.push((Some(last), last, End::Learned));
        world.kept.0 = Some(last);
        world.switch_on();
        world
    }

    fn unborn(truth: TimestampMs) -> Self {
        Self {
            policy: nightly(),
            truth,
            wrong_ms: 0,
            evidence: Evidence::Unknown,
            running_ms: 0,
            trust: Trust::new(None),
            rest_began_ms: 0,
            kept: (None, 0),
            kept_ms: 0,
            log: Vec::new(),
            ends: |_| End::Learned,
            runs: Vec::new(),
            forgotten: 0,
            certain: false,
        }
    }

    fn now(&self) -> TimestampMs {
        self.truth.plus_ms(self.wrong_ms)
    }

    /// The daemon starts, on a machine that just did.
    fn switch_on(&mut self) {
        self.running_ms = 0;
        self.trust = Trust::new(self.kept.0);
        self.rest_began_ms = -self.kept.1;
        self.kept_ms = 0;
        self.tick();
    }

    fn off(&mut self, ms: i64) {
        self.truth = self.truth.plus_ms(ms);
        self.switch_on();
    }

    /// Time passes, with a tick at the end of each `step_ms`.
    fn pass(&mut self, ms: i64, step_ms: i64) {
        for _ in 0..ms / step_ms {
            self.truth = self.truth.plus_ms(step_ms);
            self.running_ms += step_ms;
            self.tick();
        }
    }

    fn minutes(&mut self, minutes: i64) {
        self.pass(minutes * MIN, MIN);
    }

    fn log_now(&self) -> Log {
        // No more than nine runs matter, and the log grows for eleven years.
        let newest = self.log.iter().rev().take(9);
        let nominal = newest.clone().filter_map(|run| run.0).max();
        let count = |end: End| {
            let stood = newest.clone().filter(|r| r.0 == nominal && r.2 == end);
            stood.count() as u32
        };
        Log {
            oldest_reading: Some(t("2024-12-01T00:00:00Z")),
            last: nominal.map(|nominal| Tried {
                nominal,
                finished: count(End::Learned) > 0,
                failed: count(End::Failed),
                cut_short: count(End::PowerCut),
            }),
            learned: newest
                .clone()
                .filter(|r| r.2 == End::Learned && r.1 <= self.now())
                .map(|r| (r.1, r.0))
                .max_by_key(|(began, _)| *began),
        }
    }

    fn tick(&mut self) {
        self.trust.look(Glance {
            now: self.now(),
            running_ms: self.running_ms,
            evidence: self.evidence,
        });
        let rested_ms = self.running_ms - self.rest_began_ms;
        if self.running_ms - self.kept_ms >= HOUR {
            self.kept_ms = self.running_ms;
            self.kept = (self.trust.seen(), rested_ms);
        }
        let at = Moment {
            now: self.now(),
            trusted: self.certain || self.trust.trusted(),
            calm_ms: self.trust.calm_ms(),
            rested_ms,
        };
        match decide(&self.policy, &self.log_now(), at) {
            Step::Wait | Step::GivenUp(_) => {}
            Step::Forget(limit) => {
                self.forgotten += 1;
                for run in &mut self.log {
                    run.0 = run.0.filter(|nominal| *nominal <= limit);
                }
            }
            Step::Run(night) => {
                let end = (self.ends)(self.runs.len());
                self.runs.push((self.truth, night));
                self.log.push((night.nominal, self.now(), end));
                self.rest_began_ms = self.running_ms;
                if end == End::PowerCut {
                    self.truth = self.truth.plus_ms(MIN);
                    self.switch_on();
                }
            }
        }
    }

    fn reasons(&self) -> Vec<Reason> {
        self.runs.iter().map(|(_, night)| night.reason).collect()
    }

    fn times(&self) -> Vec<String> {
        self.runs.iter().map(|(at, _)| at.to_string()).collect()
    }
}

/// Instants at which a zone's offset changes, to the minute, from 2025 to 2035.
fn changes(zone: Tz) -> Vec<(i64, i32)> {
    let offset = |minute: i64| {
        let utc = TimestampMs(minute * MIN).to_utc().naive_utc();
        zone.offset_from_utc_datetime(&utc).fix().local_minus_utc()
    };
    let (start, end) = (t(FIRST).0 / MIN, t(LAST).0 / MIN);
    let mut found = vec![(start, offset(start))];
    let mut at = start;
    while at < end {
        let next = at + 360;
        if offset(next) != offset(at) {
            let (mut before, mut after) = (at, next);
            while after - before > 1 {
                let middle = (before + after) / 2;
                if offset(middle) == offset(at) {
                    before = middle;
                } else {
                    after = middle;
                }
            }
            found.push((after, offset(after)));
        }
        at = next;
    }
    found
}

const FIRST: &str = "2025-01-01T00:00:00Z";
const LAST: &str = "2036-01-01T00:00:00Z";

/// Eleven years in every zone of the database. A tick a minute for three hours on both sides of each
/// change of offset; elsewhere four a day, one of them at the schedule's time on the zone's clock. Zones that
/// keep the same time over those years are one.
#[test]
fn one_night_per_local_day_in_every_zone_from_2025_to_2035() {
    let mut zones: HashMap<Vec<(i64, i32)>, Tz> = HashMap::new();
    for zone in TZ_VARIANTS {
        zones.entry(changes(zone)).or_insert(zone);
    }
    let (mut days, mut ticks, mut missing) = (0u64, 0u64, Vec::new());
    for (changes, zone) in &zones {
        for (hour, minute) in [(2, 0), (2, 30), (0, 0), (1, 30)] {
            let mut world = World::unborn(t(FIRST));
            world.policy.schedule = format!("{minute} {hour} * * *").parse().unwrap();
            world.policy.zone = *zone;
            world.certain = true;
            world.log.push((Some(t(FIRST)), t(FIRST), End::Learned));
            world.switch_on();
            let mut rest = changes
                .iter()
                .map(|(at, offset)| (at * MIN, i64::from(*offset)));
            let mut offset = rest.next().unwrap().1;
            let mut change = rest.next();
            while world.truth < t(LAST) {
                let now = world.truth.0;
                if let Some((at, after)) = change
                    && now > at + 3 * HOUR
                {
                    (offset, change) = (after, rest.next());
                }
                // The next quarter of the day by the zone's clock, but not past a change.
                let local = now + offset * 1000 - hour * HOUR - minute * MIN;
                let whole = now + QUARTER - local.rem_euclid(QUARTER);
                let near = change.map_or(i64::MAX, |(at, _)| at - 3 * HOUR);
                let step = if now >= near {
                    MIN
                } else {
                    whole.min(near) - now
                };
                world.pass(step, step);
                ticks += 1;
            }
            let mut by_day: BTreeMap<NaiveDate, u32> = BTreeMap::new();
            for (at, night) in &world.runs {
                assert_eq!(
                    night.reason,
                    Reason::Schedule,
                    "{zone} {hour}:{minute} {at}"
                );
                let local = night.nominal.unwrap().to_utc().with_timezone(zone);
                *by_day.entry(local.date_naive()).or_default() += 1;
            }
            let mut day = NaiveDate::from_ymd_opt(2025, 1, 3).unwrap();
            while day < NaiveDate::from_ymd_opt(2035, 12, 30).unwrap() {
                match by_day.get(&day) {
                    Some(1) => days += 1,
                    None if !exists(*zone, day) => missing.push((*zone, day)),
                    runs => panic!("{zone} {hour}:{minute:02} {day}: {runs:?} runs"),
                }
                day = day + Days::new(1);
            }
        }
    }
    println!(
        "{} zones, {} different; {days} local days, {ticks} ticks; days that do not exist: {missing:?}",
        TZ_VARIANTS.len(),
        zones.len()
    );
    assert!(zones.len() > 50 && days > 50 * 4 * 4000);
}

fn exists(zone: Tz, day: NaiveDate) -> bool {
    (0..24 * 60).any(|minute| {
        let local = day.and_hms_opt(0, 0, 0).unwrap() + chrono::Duration::minutes(minute);
        zone.from_local_datetime(&local).earliest().is_some()
    })
}

#[test]
fn off_over_night_is_one_night_made_up_for_once_things_have_settled() {
    let mut world = World::new("2026-11-20T22:00:00Z");
    world.off(9 * HOUR);
    world.minutes(4);
    assert!(world.runs.is_empty());
    world.minutes(12 * 60);
    assert_eq!(world.reasons(), [Reason::CatchUp]);
    assert_eq!(world.times(), ["2026-11-21T07:05:00Z"]);
    // The night after takes place as always.
    world.minutes(12 * 60);
    assert_eq!(world.reasons(), [Reason::CatchUp, Reason::Schedule]);
}

#[test]
fn off_for_ten_days_is_one_night_made_up_for() {
    let mut world = World::new("2026-11-10T12:00:00Z");
    world.off(10 * DAY);
    world.minutes(13 * 60);
    assert_eq!(world.reasons(), [Reason::CatchUp]);
    world.minutes(90);
    assert_eq!(world.reasons(), [Reason::CatchUp, Reason::Schedule]);
}

#[test]
fn a_boot_in_1970_waits_for_the_clock_and_makes_up_for_one_night() {
    let mut world = World::new("2026-11-20T12:00:00Z");
    world.wrong_ms = -t("2026-11-21T08:00:00Z").0;
    world.off(20 * HOUR);
    world.minutes(10);
    assert!(world.runs.is_empty());
    world.wrong_ms = 0;
    world.minutes(17 * 60);
    assert_eq!(world.reasons(), [Reason::CatchUp]);
    assert_eq!(world.times(), ["2026-11-21T08:16:00Z"]);
    world.minutes(2 * 60);
    assert_eq!(world.runs.len(), 2);
}

#[test]
fn ten_years_ahead_for_an_hour_silences_nothing() {
    // Believed because a time server says so: the worst case.
    for evidence in [Evidence::Unknown, Evidence::Synchronised] {
        let mut world = World::new("2026-11-20T12:00:00Z");
        world.evidence = evidence;
        world.minutes(60);
        world.wrong_ms = 10 * 365 * DAY;
        world.minutes(60);
        let fooled = world.runs.len();
        assert_eq!(fooled, usize::from(evidence == Evidence::Synchronised));
        world.wrong_ms = 0;
        world.minutes(24 * 60);
        let nights = &world.reasons()[fooled..];
        assert_eq!(nights, [Reason::Schedule], "{evidence:?}");
        assert_eq!(world.forgotten, fooled);
        world.minutes(10 * 24 * 60);
        assert_eq!(world.runs.len(), fooled + 11);
    }
}

#[test]
fn an_hour_back_just_after_the_night_is_no_second_night() {
    let mut world = World::new("2026-11-20T12:00:00Z");
    world.minutes(14 * 60 + 1);
    assert_eq!(world.reasons(), [Reason::Schedule]);
    world.wrong_ms = -HOUR;
    world.minutes(20 * 60);
    assert_eq!(world.runs.len(), 1);
    world.minutes(5 * 60);
    assert_eq!(world.reasons(), [Reason::Schedule; 2]);
}

#[test]
fn a_clock_that_flaps_by_half_a_minute_has_one_night_a_night() {
    let mut world = World::new("2026-11-20T12:00:00Z");
    for second in 0..3 * 86_400 / 10 {
        world.wrong_ms = if second % 3 == 0 { 30_000 } else { -30_000 };
        world.pass(10_000, 10_000);
    }
    assert_eq!(world.reasons(), [Reason::Schedule; 3]);
}

#[test]
fn a_clock_that_is_never_set_trains_by_running_time() {
    let mut world = World::new("2026-11-20T12:00:00Z");
    world.evidence = Evidence::Unsynchronised;
    world.kept = (None, 0);
    world.wrong_ms = -300 * DAY;
    world.switch_on();
    world.minutes(72 * 60 + 30);
    assert_eq!(world.reasons(), [Reason::RunningTime; 3]);
    // Switched off each evening it takes three days for two nights, because running time adds up.
    world.runs.clear();
    for _ in 0..6 {
        world.minutes(12 * 60 + 30);
        world.off(11 * HOUR);
    }
    let nights = world.runs.len();
    assert!((2..=4).contains(&nights), "{nights}");
}

#[test]
fn a_start_on_the_stroke_of_midnight_or_of_the_night_runs_it() {
    for (start, hour) in [("2026-11-21T00:00:00Z", 0), ("2026-11-21T02:00:00Z", 2)] {
        let mut world = World::unborn(t(start));
        world.policy.schedule = format!("0 {hour} * * *").parse().unwrap();
        let last = t(start).plus_ms(-DAY);
        world.log.push((Some(last), last, End::Learned));
        world.switch_on();
        assert_eq!(world.reasons(), [Reason::Schedule], "{start}");
        world.minutes(23 * 60);
        assert_eq!(world.runs.len(), 1, "{start}");
    }
}

#[test]
fn a_night_that_fails_is_tried_three_times_and_one_that_kills_the_box_twice() {
    let mut world = World::new("2026-11-20T12:00:00Z");
    world.ends = |_| End::Failed;
    world.minutes(23 * 60);
    let tries = [Reason::Schedule, Reason::Retry, Reason::Retry];
    assert_eq!(world.reasons(), tries);
    assert_eq!(
        world.times(),
        [
            "2026-11-21T02:00:00Z",
            "2026-11-21T02:05:00Z",
            "2026-11-21T02:25:00Z"
        ]
    );
    // The next night begins anew.
    world.minutes(24 * 60);
    assert_eq!(world.reasons(), [tries, tries].concat());

    let mut world = World::new("2026-11-20T12:00:00Z");
    world.ends = |_| End::PowerCut;
    world.minutes(3 * 24 * 60);
    assert_eq!(
        world.reasons(),
        [Reason::Schedule, Reason::Retry].repeat(3),
        "{:?}",
        world.times()
    );
}

/// A day of power cuts at random moments, and a box that dies in every first try: still one night a day.
#[test]
fn hourly_power_cuts_double_nothing() {
    let mut world = World::new("2026-11-20T12:00:00Z");
    let mut lots = 12_345_u64;
    while world.truth < t("2026-12-20T12:00:00Z") {
        lots = lots.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        world.minutes(5 + (lots >> 33) as i64 % 120);
        world.off((lots >> 40) as i64 % (HOUR / 2));
    }
    let mut nights: Vec<_> = world.runs.iter().map(|(_, n)| n.nominal).collect();
    assert!((28..=31).contains(&nights.len()), "{:?}", world.times());
    nights.dedup();
    assert_eq!(nights.len(), world.runs.len());
}
