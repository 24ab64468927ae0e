//! Verdicts and the screen, over invented stations.

use super::*;
use crate::store::RunOutcome;

fn healthy() -> Status {
    let now = TimestampMs(1_800_000_000_000);
    Status {
        now,
        clock_plausible: true,
        daemon: Some(DaemonStatus {
            intake: IntakeStatus {
                connected: true,
                last_message: Some(now),
                ..IntakeStatus::default()
            },
            broker: "mqtt://b".into(),
            ..DaemonStatus::default()
        }),
        store: StoreTotals {
            newest: Some(now),
            ..StoreTotals::default()
        },
        ..Status::default()
    }
}

fn skipped(reason: &str) -> RunRow {
    RunRow {
        run_id: 1,
        kind: "housekeeping".into(),
        mode: "full".into(),
        trigger: "schedule".into(),
        nominal: None,
        started: TimestampMs(0),
        ended: None,
        outcome: Some(RunOutcome::Skipped),
        reason: Some(reason.into()),
        report: None,
    }
}

#[test]
fn a_day_of_writing_is_told_after_an_hour() {
    let daemon = DaemonStatus {
        written_bytes: Some(10_000_000),
        ..DaemonStatus::default()
    };
    assert_eq!(written_mb_per_day(&daemon, TimestampMs(HOUR_MS - 1)), None);
    let two_hours = TimestampMs(2 * HOUR_MS);
    assert_eq!(written_mb_per_day(&daemon, two_hours), Some(120.0));
}

#[test]
fn days_of_disk_left_count_the_snapshots_and_stop_at_a_year() {
    let day = |n: i64| TimestampMs(n * DAY_MS);
    let left = |then, now, free| disk_days_left(then, now, free);
    // 10 MB a day, three times over: 900 MB last 30 days.
    let (then, now) = ((day(0), 100_000_000), (day(10), 200_000_000));
    assert_eq!(left(then, now, 900_000_000), Some(30));
    assert_eq!(left(then, (day(10), 90_000_000), 1 << 30), Some(DAYS_CAP));
    assert_eq!(left(then, (day(10), 100_000_001), 1 << 40), Some(DAYS_CAP));
    assert_eq!(
        left(then, (TimestampMs(DAY_MS - 1), 200_000_000), 1 << 30),
        None
    );
}

fn ended(s: &mut Status, outcome: RunOutcome) {
    s.last_run = Some(RunRow {
        run_id: 9,
        kind: "training".into(),
        mode: "full".into(),
        trigger: "schedule".into(),
        nominal: None,
        started: s.now,
        ended: Some(s.now),
        outcome: Some(outcome),
        reason: Some("no memory".into()),
        report: None,
    });
}

fn failed(s: &mut Status, nights: u32) {
    ended(s, RunOutcome::Failed);
    s.nights.failed_in_row = nights;
}

fn nights_skipped(s: &mut Status, nights: u32, learned: Option<TimestampMs>) {
    ended(s, RunOutcome::Skipped);
    s.nights.skipped_in_row = nights;
    s.nights.learned = learned;
}

type Break = fn(&mut Status);

fn refused(reason: &str, last: TimestampMs) -> Vec<crate::store::RejectCount> {
    vec![crate::store::RejectCount {
        reason: reason.into(),
        count: 3,
        last,
    }]
}

#[test]
fn refused_devices_are_an_alarm_for_a_day_and_other_refusals_are_none() {
    let mut s = healthy();
    s.store.rejects = refused("too_many_devices", s.now.plus_min(-25 * 60));
    assert_eq!(judge(&s).level, Level::Ok);
    s.store.rejects = refused("not_json", s.now);
    assert_eq!(judge(&s).level, Level::Ok);
}

#[test]
fn times_of_a_wrong_zone_are_told_and_those_of_a_backlog_or_a_recording_are_not() {
    let said = |newest_min: i64, (at_min, received_min): (i64, i64), connected_min: i64| {
        let mut s = healthy();
        let device = DeviceId::new("t");
        let at = |minutes: i64| s.now.plus_min(minutes);
        let (newest, since) = (at(newest_min), at(connected_min));
        let heard = Heard {
            received: at(received_min),
            at: at(at_min),
        };
        s.devices = vec![(device.clone(), newest, None)];
        s.heard.insert(device, heard);
        s.daemon.as_mut().unwrap().intake.since = Some(since);
        let verdict = judge(&s);
        s.daemon.as_mut().unwrap().clock_doubtful = true;
        assert_ne!(judge(&s).kind, "device_times");
        (verdict.kind == "device_times").then_some(verdict.text)
    };
    let wanted = |min| Some(format!("times of t lie {min} this station's clock"));
    assert_eq!(said(120, (120, 0), -600), wanted("120 min ahead of"));
    assert_eq!(said(-120, (-120, 0), -600), wanted("120 min behind"));
    assert_eq!(said(-29, (-29, 0), -600), None);
    assert_eq!(
        said(-120, (-120, 0), -2),
        None,
        "it has waited at the broker"
    );
    assert_eq!(said(0, (-120, 0), -600), None, "a recording");
    assert_eq!(said(120, (0, 0), -600), None, "it has been mended");
}

#[test]
fn a_refused_password_is_told_from_an_absent_broker() {
    let mut s = healthy();
    let intake = &mut s.daemon.as_mut().unwrap().intake;
    intake.connected = false;
    let error = crate::mqtt::link::LinkError::Refused("bad password".into());
    intake.last_error = Some(error.to_string());
    let advice = judge(&s).next_step.unwrap();
    assert!(advice.contains("password_file"), "{advice}");
}

#[test]
fn two_stations_of_one_name_are_sent_to_their_client_id() {
    let mut s = healthy();
    let intake = &mut s.daemon.as_mut().unwrap().intake;
    intake.connected = false;
    let error = crate::mqtt::link::LinkError::PushedOut {
        why: "the broker closed the connection".into(),
        client_id: "roof".into(),
    };
    intake.last_error = Some(error.to_string());
    let advice = judge(&s).next_step.unwrap();
    assert!(advice.contains("client_id"), "{advice}");
}

#[test]
fn the_verdict_names_the_most_serious_trouble() {
    assert_eq!(judge(&healthy()).level, Level::Ok);
    let cases: [(Break, Level, &str); 13] = [
        (|s| s.daemon = None, Level::Down, "not running"),
        (
            |s| s.daemon.as_mut().unwrap().store_failing = true,
            Level::Down,
            "cannot be stored",
        ),
        (
            |s| {
                let intake = &mut s.daemon.as_mut().unwrap().intake;
                intake.connected = false;
                intake.last_error = Some("connection refused".into());
            },
            Level::Down,
            "mqtt://b",
        ),
        (
            |s| s.daemon.as_mut().unwrap().disk = DiskLevel::Full,
            Level::Down,
            "disk is full",
        ),
        (
            |s| s.daemon.as_mut().unwrap().disk = DiskLevel::Low,
            Level::Attention,
            "removed early",
        ),
        (
            |s| s.kept_damaged = vec!["n.db.corrupt-x".into()],
            Level::Attention,
            "n.db.corrupt-x",
        ),
        (
            |s| s.housekeeping = Some(skipped("no room for a snapshot")),
            Level::Attention,
            "no room for a snapshot",
        ),
        (|s| s.clock_plausible = false, Level::Attention, "clock"),
        (|s| s.store.newest = None, Level::Attention, "first reading"),
        (
            |s| s.now = s.now.plus_min(90),
            Level::Attention,
            "no message for 90 min",
        ),
        (
            |s| s.store.rejects = refused("too_many_devices", s.now),
            Level::Attention,
            "all there may be",
        ),
        (
            |s| s.store.rejects = refused("new_devices_too_fast", s.now),
            Level::Attention,
            "in a minute",
        ),
        (
            |s| {
                s.skill = Some(-0.1);
                s.accuracy.settled = 500;
            },
            Level::Attention,
            "no better than smart",
        ),
    ];
    let nights: [(Break, Level, &str); 6] = [
        (
            |s| s.daemon.as_mut().unwrap().clock_doubtful = true,
            Level::Attention,
            "nothing confirms it",
        ),
        (
            |s| failed(s, 2),
            Level::Attention,
            "last night failed: no memory",
        ),
        (
            |s| failed(s, 3),
            Level::Attention,
            "last 3 nights failed: no memory",
        ),
        (
            |s| nights_skipped(s, 7, Some(s.now)),
            Level::Attention,
            "nothing was learned in 7 nights",
        ),
        (
            |s| nights_skipped(s, 30, None),
            Level::Attention,
            "nothing was learned in 30 nights",
        ),
        (
            |s| {
                s.model = Some(ModelRow {
                    version: 4,
                    state: "live".into(),
                    created: s.now.plus_ms(-61 * DAY_MS),
                    promoted: None,
                    retired: None,
                    reason: String::new(),
                    metrics: serde_json::Value::Null,
                    size: 1,
                });
            },
            Level::Attention,
            "version 4 has been live for 61 days",
        ),
    ];
    for quiet in [
        (|s: &mut Status| nights_skipped(s, 6, Some(s.now))) as Break,
        |s| nights_skipped(s, 29, None),
        |s| {
            nights_skipped(s, 9, Some(s.now));
            s.store.newest = Some(s.now.plus_ms(-3 * DAY_MS));
        },
    ] {
        let mut s = healthy();
        quiet(&mut s);
        assert_eq!(judge(&s).level, Level::Ok, "{:?}", judge(&s));
    }
    for (break_it, level, part) in cases.into_iter().chain(nights) {
        let mut s = healthy();
        break_it(&mut s);
        let verdict = judge(&s);
        assert_eq!(verdict.level, level, "{verdict:?}");
        assert!(verdict.text.contains(part), "{verdict:?}");
        assert!(verdict.next_step.is_some(), "{verdict:?}");
    }
}

#[test]
fn the_screen_is_one_and_80_columns_wide() {
    let mut s = healthy();
    s.events = vec![
        EventRow {
            at: s.now,
            kind: "session_lost".into(),
            detail: "x".repeat(200)
        };
        5
    ];
    s.devices = (0..20)
        .map(|i| (DeviceId::new(&format!("t{i}")), s.now, Some(1.0)))
        .collect();
    let text = render(&s, chrono_tz::Tz::UTC);
    assert!(text.lines().count() <= 24, "{text}");
    assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    assert!(text.starts_with("OK"), "{text}");
}

#[test]
fn a_sentence_is_told_to_its_end_over_several_lines() {
    let mut s = healthy();
    let why = "the trainer ended with signal 9 after it had read a hundred and eighty days of \
               readings, and the last it said was nothing at all";
    s.verdict = Verdict {
        level: Level::Attention,
        text: why.into(),
        next_step: None,
        ..Verdict::default()
    };
    let text = render(&s, chrono_tz::Tz::UTC);
    assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    let said: Vec<&str> = text.split_whitespace().collect();
    assert!(said.join(" ").contains(why), "{text}");
}

#[test]
fn a_night_is_told_in_full_and_a_forecast_with_its_time() {
    let madrid = chrono_tz::Europe::Madrid;
    let mut s = healthy();
    ended(&mut s, RunOutcome::Failed);
    let night = |s: &Status| {
        let text = render(s, madrid);
        let line = text
            .lines()
            .find(|l| l.starts_with("night"))
            .map(str::to_owned);
        line.unwrap_or(text)
    };
    assert_eq!(night(&s), "night      failed: no memory (0 s ago)");
    if let Some(run) = &mut s.last_run {
        (run.outcome, run.reason, run.trigger) = (None, None, "manual".into());
        run.started = s.now.plus_ms(-5000);
    }
    assert_eq!(night(&s), "night      going on for 5 s, by hand");
    let device = DeviceId::new("t1");
    s.devices = vec![(device.clone(), s.now, Some(2.0))];
    let forecast = |minutes| ForecastRow::by_smart(device.clone(), s.now, minutes, 7.0);
    // It is Friday 09:00 in Madrid.
    s.forecasts = vec![forecast(6), forecast(1440)];
    let text = render(&s, madrid);
    assert!(
        text.contains("; 09:06 7.0 W smart, Sat 09:00 7.0 W smart"),
        "{text}"
    );
}

fn alert(kind: &str, level: &str) -> AlertRow {
    AlertRow {
        id: 7,
        kind: kind.into(),
        subject: String::new(),
        level: level.into(),
        text: format!("{kind} {level}"),
        next_step: None,
        raised: TimestampMs(1_800_000_000_000 - 2 * HOUR_MS),
        cleared: None,
        acknowledged: None,
        waiting: Vec::new(),
    }
}

#[test]
fn an_alert_that_nobody_knows_of_makes_the_verdict_where_no_finding_does() {
    let mut s = healthy();
    s.alerts = vec![
        alert("not_connected", "down"),
        alert("device_silent", "attention"),
    ];
    let verdict = judge(&s);
    assert_eq!(
        (verdict.level, verdict.text.as_str()),
        (Level::Attention, "device_silent attention")
    );
    assert!(verdict.next_step.unwrap().contains("acknowledge 7"));
    s.alerts[1].acknowledged = Some(s.now);
    assert_eq!(
        judge(&s).level,
        Level::Ok,
        "one is known, one is about to be over"
    );
    s.alerts[1] = alert("session_lost", "attention");
    s.daemon.as_mut().unwrap().disk = DiskLevel::Low;
    assert_eq!(judge(&s).kind, "disk_low", "a finding comes first");
    s.alerts[1].level = "down".into();
    assert_eq!(judge(&s).kind, "session_lost", "but for one that is worse");
}

#[test]
fn the_screen_has_a_line_for_each_alert_and_three_at_most() {
    let mut s = healthy();
    let lines = |s: &Status| -> Vec<String> {
        let text = render(s, chrono_tz::Tz::UTC);
        let from = text.lines().skip_while(|l| !l.starts_with("alert"));
        from.take_while(|l| !l.starts_with("broker"))
            .map(str::to_owned)
            .collect()
    };
    assert!(lines(&s).is_empty());
    s.alerts = vec![alert("a", "down"); 3];
    s.alerts[0].acknowledged = Some(s.now);
    s.alerts[2].text = "long ".repeat(40);
    let seen = lines(&s);
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert_eq!(seen[0], "alert      2 h ago (known): a down");
    assert!(seen[2].chars().count() <= 80, "{seen:?}");
    s.alerts = vec![alert("a", "down"); 9];
    assert_eq!(
        lines(&s).last().unwrap().trim(),
        "and 7 more; nightwatt alerts lists them"
    );
    assert_eq!(lines(&s).len(), 3);
}

#[test]
fn before_the_first_attempt_has_ended_nothing_is_not_connected() {
    let mut s = healthy();
    s.store.newest = None;
    s.daemon.as_mut().unwrap().intake = IntakeStatus::default();
    let verdict = judge(&s);
    assert_eq!((verdict.level, findings(&s).len()), (Level::Ok, 0));
    assert_eq!(
        verdict.text,
        "starting: connecting to the broker at mqtt://b"
    );
    s.daemon.as_mut().unwrap().intake.last_error = Some("refused".into());
    assert_eq!(judge(&s).kind, "not_connected");
}

#[test]
fn the_clock_has_the_same_words_everywhere() {
    let mut s = healthy();
    assert_eq!(s.clock().words(), "believed");
    s.daemon.as_mut().unwrap().clock_doubtful = true;
    assert!(judge(&s).text.contains(s.clock().words()));
    s.clock_plausible = false;
    assert!(judge(&s).text.contains(s.clock().words()));
}
