//! Killed in mid-stream: nothing that was published with QoS 1 is lost, nothing is stored twice.

use crate::intake::{now_plus_s, numbered, publish};
use crate::support::{Broker, Station, wait_for};

#[test]
fn kill_9_in_mid_stream_loses_and_doubles_nothing() {
    const MESSAGES: i64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.start();
    station.wait_connected();
    // One in twenty is published twice.
    let readings: Vec<String> = numbered(MESSAGES)
        .into_iter()
        .enumerate()
        .flat_map(|(i, r)| std::iter::repeat_n(r, if i % 20 == 0 { 2 } else { 1 }))
        .collect();
    let lines: Vec<&str> = readings.iter().map(String::as_str).collect();
    std::thread::scope(|s| {
        s.spawn(|| publish(&broker, "solar/t/telemetry", false, &lines));
        for kill in 1..=4 {
            wait_for("progress before the kill", 30, || {
                (station.rows() > kill * MESSAGES / 6).then_some(())
            });
            station.kill_9();
            station.start();
        }
    });
    wait_for("every message", 60, || {
        (station.rows() >= MESSAGES).then_some(())
    });
    assert_eq!(
        station.query::<i64>("SELECT count(DISTINCT power) FROM telemetry"),
        MESSAGES
    );
    assert_eq!(station.rows(), MESSAGES);
    assert_eq!(station.query::<String>("PRAGMA integrity_check"), "ok");
}

/// Closing the database in a foreign program deletes the WAL where nobody seems to have it open. The
/// daemon's own readers must not lose it the lock that says somebody has.
#[test]
fn a_foreign_reader_does_not_take_the_wal_away() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.start();
    station.wait_connected();
    let send = |power: i64| {
        let payload = format!("{{\"ts\":\"{}\",\"power\":{power}}}", now_plus_s(power));
        publish(&broker, "solar/t/telemetry", false, &[&payload]);
        wait_for("the row", 10, || (station.rows() == power).then_some(()));
    };
    send(1);
    station.status();
    // SQLite's SHARED lock, as the kernel sees it: what a foreign program's close is stopped by.
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(station.db()).unwrap());
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    let ours = format!(" READ {} ", station.pid());
    let held = locks
        .lines()
        .any(|l| l.contains(&ours) && l.contains(&format!(":{inode} ")));
    assert!(held, "the daemon holds no lock on its database:\n{locks}");
    let foreign = rusqlite::Connection::open(station.db()).unwrap();
    let _: i64 = foreign
        .query_row("SELECT count(*) FROM telemetry", [], |r| r.get(0))
        .unwrap();
    foreign.close().unwrap();
    assert!(
        station.db().with_extension("db-wal").exists(),
        "the WAL of a running daemon is gone"
    );
    send(2);
    send(3);
    assert_eq!(station.status()["verdict"]["level"], "ok");
    station.kill_9();
    assert_eq!(station.rows(), 3);
}
