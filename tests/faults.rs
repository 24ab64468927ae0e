//! Killed in mid-stream: nothing that was published with QoS 1 is lost, nothing is stored twice.

use crate::intake::{numbered, publish};
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
