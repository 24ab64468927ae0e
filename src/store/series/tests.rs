use std::sync::Arc;

use super::*;
use crate::store::memory::Memory;
use crate::store::open;

const MIN: i64 = 60_000;
const DAY: i64 = 24 * HOUR_MS;

fn station(sql: &str) -> (tempfile::TempDir, Reader) {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("n.db");
    let conn = open::writing(&db).unwrap();
    conn.execute_batch("INSERT INTO device VALUES (1, 'b', 5), (2, 'a', 7), (3, 'silent', 9);")
        .unwrap();
    conn.execute_batch(sql).unwrap();
    (dir, Reader::open(&db).unwrap())
}

/// Two days of a reading a minute of `b` (power = minute of the hour) and `a` (twice that); the first
/// day is only there as hours, which `hours` of the second are too.
fn two_days(hours: i64) -> (tempfile::TempDir, Reader) {
    station(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1440 UNION ALL SELECT i + 1 FROM n WHERE i < 2879)
         INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted, power, lux)
         SELECT i * {MIN}, d.device_no, 0, 0, 1, i % 60 * d.device_no, 7 FROM n, device d
         WHERE d.device_no < 3;
         INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted, power)
         VALUES (1440 * {MIN} + 1, 1, 0, 2, 1, 1e6);
         WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 23 + {hours})
         INSERT INTO reading_hour (hour_ms, device_no, n, sealed, power, lux, power_min, power_max)
         SELECT i * {HOUR_MS}, d.device_no, 60, i < 24, 29.5 * d.device_no, 7, 0, 59 * d.device_no
         FROM n, device d WHERE d.device_no < 3;"
    ))
}

fn power(reader: &Reader, range: (i64, i64), step_ms: i64) -> Vec<(i64, i64, f64)> {
    let range = (TimestampMs(range.0), TimestampMs(range.1));
    let points = reader
        .series(Some(1), &[Field::Power], range, step_ms)
        .unwrap();
    let point = |p: SeriesPoint| (p.at.0, p.readings, p.means.get(Field::Power).unwrap());
    points.into_iter().map(point).collect()
}

#[test]
fn hours_and_readings_give_the_same_chart_and_meet_without_a_gap() {
    for hours in [0, 7, 24] {
        let (_dir, reader) = two_days(hours);
        let by_hour = power(&reader, (0, 2 * DAY), HOUR_MS);
        assert_eq!(by_hour.len(), 48, "{hours}");
        assert!(
            by_hour.iter().all(|p| (p.1, p.2) == (60, 29.5)),
            "{by_hour:?}"
        );
        // A day that is half hours, half readings, is one point.
        let by_day = power(&reader, (0, 2 * DAY), DAY);
        assert_eq!(by_day.len(), 2, "{hours}");
        assert_eq!(by_day[1], (DAY, 1440, 29.5));
        let fine = power(&reader, (DAY, DAY + HOUR_MS), 5 * MIN);
        assert_eq!(fine.len(), 12);
        assert_eq!(
            fine[1],
            (DAY + 5 * MIN, 5, 7.0),
            "and not what has a doubtful time"
        );
    }
}

#[test]
fn where_readings_are_gone_their_hours_stand_in() {
    let (_dir, reader) = two_days(0);
    let fine = power(&reader, (DAY - 2 * HOUR_MS, DAY + HOUR_MS), 10 * MIN);
    assert_eq!(fine.len(), 2 + 6);
    assert_eq!(fine[0], (DAY - 2 * HOUR_MS, 60, 29.5));
    assert_eq!(fine[2], (DAY, 10, 4.5));
}

#[test]
fn all_devices_come_in_order_of_time_and_the_first_step_is_whole() {
    let (_dir, reader) = two_days(0);
    let range = (TimestampMs(DAY + MIN), TimestampMs(DAY + 2 * HOUR_MS));
    let points = reader.series(None, &Field::ALL, range, HOUR_MS).unwrap();
    let keys: Vec<_> = points.iter().map(|p| (p.at.0, p.device.as_str())).collect();
    assert_eq!(
        keys,
        [
            (DAY, "b"),
            (DAY, "a"),
            (DAY + HOUR_MS, "b"),
            (DAY + HOUR_MS, "a")
        ]
    );
    assert_eq!(points[0].readings, 60);
    assert_eq!(points[1].means.get(Field::Lux), Some(7.0));
    assert_eq!(
        (points[1].power_min, points[1].power_max),
        (Some(0.0), Some(118.0))
    );
    assert_eq!(points[1].means.get(Field::Voltage), None);
}

#[test]
fn devices_come_by_name_with_their_newest_reading() {
    let (_dir, reader) = two_days(0);
    let rows = reader.device_rows().unwrap();
    let names: Vec<_> = rows.iter().map(|r| r.device.as_str()).collect();
    assert_eq!(names, ["a", "b", "silent"]);
    assert_eq!(rows[0].newest, Some(TimestampMs(2879 * MIN)));
    assert_eq!(rows[0].values.get(Field::Power), Some(118.0));
    assert_eq!((rows[2].newest, rows[2].first_seen), (None, TimestampMs(9)));
    assert_eq!(reader.device_no("a").unwrap(), Some(2));
    assert_eq!(reader.device_no("nobody").unwrap(), None);
}

const FORECASTS: &str = "
    INSERT INTO forecast (target_ms, device_no, horizon_min, issued_ms, source, power_w, p10_w, p90_w,
                          smart_w, naive_w, actual_w, settled) VALUES
    (60000, 1, 15, 0, 'model', 10, 5, 15, 20, 30, 12, 1),
    (120000, 1, 15, 1, 'model', 10, 5, 15, 20, 30, 16, 1),
    (60000, 2, 15, 0, 'smart', 50, NULL, NULL, 50, 50, 60, 1),
    (60000, 1, 60, 0, 'model', 7, NULL, NULL, 8, 9, 7, 1),
    (180000, 1, 15, 2, 'smart', 0, NULL, NULL, 0, 0, 0, 1),
    (240000, 1, 15, 3, 'smart', 40, NULL, NULL, 40, 40, NULL, 0);";

#[test]
fn accuracy_is_pooled_by_rows_and_of_daylight_only() {
    let (_dir, reader) = station(FORECASTS);
    let rows = reader.accuracy(TimestampMs(0), TimestampMs(DAY)).unwrap();
    let seen: Vec<_> = rows
        .iter()
        .map(|r| {
            let a = r.accuracy;
            let device = r.device.as_ref().map(|d| d.as_str());
            (device, a.horizon_min, a.settled, a.mae_w, a.coverage)
        })
        .collect();
    assert_eq!(
        seen,
        [
            (None, 15, 3, 6.0, Some(0.5)),
            (Some("a"), 15, 1, 10.0, None),
            (Some("b"), 15, 2, 4.0, Some(0.5)),
            (None, 60, 1, 0.0, None),
            (Some("b"), 60, 1, 0.0, None),
        ]
    );
}

#[test]
fn forecasts_stand_beside_what_was_measured() {
    let (_dir, reader) = station(FORECASTS);
    let range = (TimestampMs(0), TimestampMs(DAY));
    let points = reader
        .forecast_series(Some(1), Some(15), range, 2 * MIN)
        .unwrap();
    let seen: Vec<_> = points
        .iter()
        .map(|p| (p.at.0, p.power_w, p.actual_w, p.issued.0))
        .collect();
    assert_eq!(
        seen,
        [
            (0, 10.0, Some(12.0), 0),
            (120_000, 5.0, Some(8.0), 2),
            (240_000, 40.0, None, 3),
        ]
    );
    let all = reader.forecast_series(None, None, range, MIN).unwrap();
    assert_eq!(all.len(), 6);
}

#[test]
fn the_newest_readings_are_the_same_by_key_as_by_scan() {
    let (_dir, mut reader) = two_days(0);
    let scanned = (reader.latest().unwrap(), reader.latest_forecasts().unwrap());
    let memory = Memory::load(&reader).unwrap();
    // What the writer has just committed may not be seen yet: then it is the one before.
    memory.stored([(1, i64::MAX), (3, 5)].into_iter());
    reader.memory = Some(Arc::new(memory));
    assert_eq!(
        (reader.latest().unwrap(), reader.latest_forecasts().unwrap()),
        scanned
    );
    assert_eq!(scanned.0.len(), 2);
}

#[test]
fn the_newest_forecasts_are_the_same_by_key_as_by_scan() {
    let (_dir, mut reader) = station(FORECASTS);
    let seen = |reader: &Reader| -> Vec<_> {
        let rows = reader.latest_forecasts().unwrap();
        let rows = rows.into_iter();
        rows.map(|f| (f.device.to_string(), f.horizon_min, f.issued.0, f.power_w))
            .collect()
    };
    let wanted = [("a", 15, 0, 50.0), ("b", 15, 3, 40.0), ("b", 60, 0, 7.0)];
    let wanted = wanted.map(|(d, h, i, w)| (d.to_owned(), h, i, w));
    assert_eq!(seen(&reader), wanted);
    reader.memory = Some(Arc::new(Memory::load(&reader).unwrap()));
    assert_eq!(seen(&reader), wanted);
}

#[test]
fn a_reading_a_second_is_looked_at_and_of_more_so_many() {
    let every = |ms: i64| {
        station(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i * {ms} < 599999)
             INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted, power)
             SELECT i * {ms}, d.device_no, 0, 0, 1, i * {ms} / 1000.0 FROM n, device d
             WHERE i * {ms} < 600000;"
        ))
    };
    let (_dir, reader) = every(1000);
    let wanted = [(0, 300, 149.5), (5 * MIN, 300, 449.5)];
    assert_eq!(power(&reader, (0, 10 * MIN), 5 * MIN), wanted);
    // Twenty a second: the first five of each five seconds.
    let (_dir, reader) = every(50);
    let seen = power(&reader, (0, 10 * MIN), 5 * MIN);
    assert_eq!((seen[0].1, seen[1].1), (300, 300));
    assert!(
        (seen[0].2 - 149.5).abs() < 3.0 && (seen[1].2 - 449.5).abs() < 3.0,
        "{seen:?}"
    );
    // All devices together (a report, which takes its time) are counted.
    let all = reader.series(
        None,
        &[Field::Power],
        (TimestampMs(0), TimestampMs(10 * MIN)),
        5 * MIN,
    );
    assert_eq!(all.unwrap()[0].readings, 6000);
}
