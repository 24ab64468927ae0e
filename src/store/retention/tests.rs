//! Roll-ups equal the means of the readings, whatever comes late; removal takes what is too old and no more.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::reading::{DeviceId, Field, Reading, TimeSource, Values};
use crate::store::writer::Append;
use crate::store::{Nobody, Writer, open};

/// Two devices, a reading a minute for `hours` hours from 0; power counts minutes, lux is often absent.
fn filled(dir: &Path, hours: i64) -> Store {
    let store = Writer::start(&dir.join("n.db"), Duration::ZERO, 1, Nobody).unwrap();
    let conn = open::writing(&dir.join("n.db")).unwrap();
    conn.execute_batch(&format!(
        "INSERT INTO device VALUES (1, 'a', 0), (2, 'b', 0);
         WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {})
         INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted, power, lux)
         SELECT i / 2 * 60000, 1 + i % 2, 0, 0, 1, i / 2, CASE WHEN i % 3 = 0 THEN i END FROM n;
         INSERT INTO forecast (target_ms, device_no, horizon_min, issued_ms, source, power_w, smart_w, naive_w)
         SELECT ts_ms, device_no, 15, ts_ms, 'smart', 0, 0, 0 FROM reading WHERE ts_ms % 3600000 = 0;",
        hours * 120 - 1
    ))
    .unwrap();
    store
}

fn one<T: rusqlite::types::FromSql>(dir: &Path, query: &str) -> T {
    let conn = open::reading(&dir.join("n.db")).unwrap();
    conn.query_row(query, [], |r| r.get(0)).unwrap()
}

fn block_on<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(f)
}

fn hour(n: i64) -> TimestampMs {
    TimestampMs(n * HOUR_MS)
}

fn roll_up_all(store: &Store, until: TimestampMs) {
    let mut from = TimestampMs(0);
    while let Some(end) = block_on(store.roll_up_hour(from, until)).unwrap() {
        from = end;
    }
}

/// Hours whose roll-up is not the mean of the readings that are there.
const WRONG: &str = "SELECT count(*) FROM (
    SELECT ts_ms / 3600000 * 3600000 AS h, device_no AS d, count(*) AS c, avg(power) AS p,
           avg(lux) AS l, min(power) AS low, max(power) AS high
    FROM reading WHERE clock_trusted AND time_source <> 2 GROUP BY h, d)
    LEFT JOIN reading_hour r ON r.hour_ms = h AND r.device_no = d
    WHERE (c, p, l, low, high) IS NOT (r.n, r.power, r.lux, r.power_min, r.power_max)";

#[test]
fn roll_ups_are_the_means_of_complete_hours_and_follow_late_readings() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 3);
    roll_up_all(&store, hour(2));
    assert_eq!(
        one::<i64>(dir.path(), "SELECT count(*) FROM reading_hour"),
        4
    );
    assert_eq!(
        one::<f64>(dir.path(), "SELECT power FROM telemetry_hourly LIMIT 1"),
        29.5
    );
    roll_up_all(&store, hour(3));
    assert_eq!(one::<i64>(dir.path(), WRONG), 0);
    open::writing(&dir.path().join("n.db"))
        .unwrap()
        .execute_batch(
            "INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted, power)
             VALUES (1, 1, 0, 0, 1, 1e6), (2, 1, 0, 2, 1, 1e9), (3, 1, 0, 1, 0, 1e9)",
        )
        .unwrap();
    assert_eq!(one::<i64>(dir.path(), WRONG), 1);
    roll_up_all(&store, hour(3));
    assert_eq!(one::<i64>(dir.path(), WRONG), 0);
    block_on(store.stop());
}

fn append(store: &Store, minute: i64, power_w: f64) {
    let before = store.gauges().commits.load(Ordering::Relaxed);
    let mut values = Values::default();
    values.set(Field::Power, Some(power_w));
    let ts = TimestampMs(minute * 60_000 + 1);
    let reading = Reading {
        device: DeviceId::new("a"),
        ts,
        received: ts,
        time_source: TimeSource::Device,
        clock_trusted: true,
        values,
    };
    let append = Append {
        readings: vec![reading],
        reject: None,
        ack: None,
    };
    store.try_append(append).unwrap();
    // Whatever is asked after it is answered after it.
    block_on(store.run("wait", |_| Ok(()))).unwrap();
    assert_eq!(store.gauges().commits.load(Ordering::Relaxed), before + 1);
}

#[test]
fn readings_that_came_late_before_a_restart_or_while_hours_were_summed_up_are_summed_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 6);
    let due = |store: &Store| store.gauges().late.due(hour(6));
    let all = (TimestampMs(0), hour(6));
    block_on(store.roll_up(all, hour(6))).unwrap();
    assert_eq!((due(&store), one::<i64>(dir.path(), WRONG)), (None, 0));
    append(&store, 100, 1e6);
    block_on(store.stop());

    let store = Writer::start(&dir.path().join("n.db"), Duration::ZERO, 1, Nobody).unwrap();
    let span = due(&store).unwrap();
    assert_eq!((span.from, span.last), (Some(hour(1)), None));
    assert_eq!(one::<i64>(dir.path(), WRONG), 1);
    // In the midst of a pass, behind where it is.
    let late = &store.gauges().late;
    late.begin(hour(6));
    let end = block_on(store.roll_up_hour(hour(1), hour(6))).unwrap();
    assert_eq!((end, one::<i64>(dir.path(), WRONG)), (Some(hour(2)), 0));
    append(&store, 110, 1e6);
    let gauges = store.gauges().clone();
    block_on(store.chore("end", move |tx| gauges.late.end(tx))).unwrap();
    let span = due(&store).unwrap();
    assert_eq!(span.from, Some(hour(1)));
    let part = (hour(1), span.last.unwrap().plus_ms(HOUR_MS));
    assert_eq!(block_on(store.roll_up(part, hour(6))).unwrap(), 1);
    assert_eq!((due(&store), one::<i64>(dir.path(), WRONG)), (None, 0));
    block_on(store.stop());
}

#[test]
fn removal_takes_whole_hours_that_are_too_old_and_keeps_their_means() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 5);
    roll_up_all(&store, hour(2));
    let before: f64 = one(
        dir.path(),
        "SELECT avg(power) FROM reading WHERE ts_ms < 7200000",
    );
    // Half of the fourth hour is too young.
    let cut = TimestampMs(3 * HOUR_MS + HOUR_MS / 2);
    let mut gone = 0;
    while let Some(removed) = block_on(store.remove_oldest_hour(cut)).unwrap() {
        gone += removed.readings;
        assert_eq!(removed.forecasts, 2);
    }
    assert_eq!(gone, 3 * 120);
    assert_eq!(
        one::<i64>(dir.path(), "SELECT min(ts_ms) FROM reading"),
        3 * HOUR_MS
    );
    assert_eq!(
        one::<i64>(dir.path(), "SELECT min(target_ms) FROM forecast"),
        3 * HOUR_MS
    );
    let after: f64 = one(
        dir.path(),
        "SELECT sum(power * n) / sum(n) FROM reading_hour WHERE hour_ms < 7200000",
    );
    assert_eq!(after, before);
    // Idempotent: nothing of what is gone can be rolled up again.
    roll_up_all(&store, hour(5));
    assert_eq!(
        one::<i64>(dir.path(), "SELECT n FROM reading_hour LIMIT 1"),
        60
    );
    block_on(store.stop());
}

#[test]
fn a_reading_that_comes_in_while_its_hour_is_summed_up_is_not_removed_uncounted() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 2);
    let reader = Reader::open(&dir.path().join("n.db")).unwrap();
    let summed_up = reader.first_hour(hour(0), hour(1), true).unwrap().unwrap();
    let mut conn = open::writing(&dir.path().join("n.db")).unwrap();
    conn.execute_batch(
        "INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted, power)
         VALUES (1, 1, 0, 0, 1, 7)",
    )
    .unwrap();
    let tx = conn.transaction().unwrap();
    assert!(remove(&tx, &summed_up).is_err());
    drop(tx);
    let came = "SELECT count(*) FROM reading WHERE power = 7 AND ts_ms = 1";
    assert_eq!(one::<i64>(dir.path(), came), 1);
    block_on(store.remove_oldest_hour(hour(1)))
        .unwrap()
        .unwrap();
    let counted = "SELECT n FROM reading_hour WHERE device_no = 1";
    assert_eq!(one::<i64>(dir.path(), counted), 61);
    block_on(store.stop());
}

#[test]
fn readings_that_come_after_their_hour_was_removed_are_added_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 2);
    let all: f64 = one(
        dir.path(),
        "SELECT sum(power) FROM reading WHERE ts_ms < 3600000 AND device_no = 1",
    );
    block_on(store.remove_oldest_hour(hour(1)))
        .unwrap()
        .unwrap();
    open::writing(&dir.path().join("n.db"))
        .unwrap()
        .execute_batch(
            "INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted, power)
             VALUES (1, 1, 0, 0, 1, -5), (2, 1, 0, 0, 1, 1000)",
        )
        .unwrap();
    roll_up_all(&store, hour(2));
    assert_eq!(
        one::<i64>(dir.path(), "SELECT n FROM reading_hour LIMIT 1"),
        60,
        "lowered"
    );
    block_on(store.remove_oldest_hour(hour(1)))
        .unwrap()
        .unwrap();
    let said: String = one(
        dir.path(),
        "SELECT n || ' ' || power_min || ' ' || power_max FROM reading_hour LIMIT 1",
    );
    assert_eq!(said, "62 -5.0 1000.0");
    let mean: f64 = one(dir.path(), "SELECT power FROM reading_hour LIMIT 1");
    assert!((mean - (all + 995.0) / 62.0).abs() < 1e-9, "{mean}");
    let lux: Option<f64> = one(dir.path(), "SELECT lux FROM reading_hour LIMIT 1");
    assert!(lux.is_some(), "a field the late ones lack");
    block_on(store.stop());
}

#[test]
fn the_file_shrinks_when_pages_are_given_back_and_keeps_what_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 800);
    let size = || std::fs::metadata(dir.path().join("n.db")).unwrap().len();
    block_on(store.checkpoint()).unwrap();
    let full = size();
    while block_on(store.remove_oldest_hour(hour(790)))
        .unwrap()
        .is_some()
    {}
    block_on(store.checkpoint()).unwrap();
    assert_eq!(size(), full);
    // In slices: a commit waits for no more than one.
    let unused = || one::<i64>(dir.path(), "PRAGMA freelist_count");
    let before = unused();
    assert!(block_on(store.give_back_pages(50)).unwrap());
    let slice = before - unused();
    assert!((1..=PAGES_A_SLICE).contains(&slice), "{slice}");
    while block_on(store.give_back_pages(50)).unwrap() {}
    block_on(store.checkpoint()).unwrap();
    let half = size();
    while block_on(store.give_back_pages(0)).unwrap() {}
    block_on(store.checkpoint()).unwrap();
    let least = size();
    assert!(half < full && least < full / 4, "{full} {half} {least}");
    assert!(half > 2 * least, "{full} {half} {least}");
    block_on(store.stop());
}

/// A file from elsewhere works, only larger; its snapshot has what it lacks.
#[test]
fn a_file_without_auto_vacuum_is_left_as_it_is_and_its_snapshot_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("n.db");
    let old = rusqlite::Connection::open(&db).unwrap();
    old.execute_batch("CREATE TABLE other (x)").unwrap();
    drop(old);
    // More than a slice of pages, so that one that gave nothing back would be asked for again and again.
    let store = filled(dir.path(), 400);
    while block_on(store.remove_oldest_hour(hour(390)))
        .unwrap()
        .is_some()
    {}
    assert_eq!(one::<i64>(dir.path(), "PRAGMA auto_vacuum"), 0);
    assert!(!block_on(store.give_back_pages(0)).unwrap());
    let copy = crate::store::snapshot::write(&db, TimestampMs(0), 0).unwrap();
    let conn = open::immutable(&copy.path).unwrap();
    let mode: i64 = conn
        .pragma_query_value(None, "auto_vacuum", |r| r.get(0))
        .unwrap();
    assert_eq!(mode, 2);
    block_on(store.stop());
}

#[test]
fn old_runs_go_but_not_the_newest_nor_those_of_models() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 1);
    open::writing(&dir.path().join("n.db"))
        .unwrap()
        .execute_batch(
            "INSERT INTO run (run_id, kind, mode, trigger, nominal_ms, started_ms) VALUES
                (1, 'training', 'full', 'schedule', 1, 1), (2, 'training', 'full', 'schedule', 2, 2),
                (3, 'training', 'full', 'schedule', 3, 3), (4, 'training', 'full', 'manual', NULL, 4);
             INSERT INTO model (state, run_id, created_ms, reason, metrics, bytes)
             VALUES ('live', 2, 0, '', '', x'')",
        )
        .unwrap();
    let remove = |before| block_on(store.remove_old_runs(TimestampMs(before))).unwrap();
    assert_eq!(remove(1), 0, "not old yet");
    assert_eq!(remove(100), 1);
    let left: String = one(dir.path(), "SELECT group_concat(run_id) FROM run");
    assert_eq!(left, "2,3,4");
    block_on(store.stop());
}
