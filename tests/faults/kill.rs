//! Killed in mid-stream: nothing that was published with QoS 1 is lost, nothing is stored twice.

use super::{Harm, check, count, full, harm_at_the_end, random};
use crate::intake::{numbered, publish};
use crate::support::{Broker, Station, wait_for};

#[test]
fn kill_9_in_mid_stream_with_5_percent_sent_twice() {
    check(
        "kill -9 four times in mid-stream, 5 % sent twice",
        count(1, 10),
        "unique_key",
        stream,
    );
    check(
        "kill -9 in mid-stream, against acknowledging too soon",
        count(1, 5),
        "commit_before_ack",
        stream,
    );
}

fn stream(without: &'static str, seed: u32) -> Harm {
    let messages: i64 = if full() { 40_000 } else { 10_000 };
    let mut random_state = u64::from(seed);
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.without = without;
    station.start();
    station.wait_connected();
    let readings: Vec<String> = numbered(messages)
        .into_iter()
        .flat_map(|r| {
            let times = if random(&mut random_state, 20) == 0 {
                2
            } else {
                1
            };
            std::iter::repeat_n(r, times)
        })
        .collect();
    let lines: Vec<&str> = readings.iter().map(String::as_str).collect();
    std::thread::scope(|s| {
        s.spawn(|| publish(&broker, "solar/t/telemetry", false, &lines));
        for kill in 1..=4 {
            let at = kill * messages / 6 + random(&mut random_state, 500) as i64;
            let mut seen = (0, std::time::Instant::now());
            wait_for("progress before the kill", 60, || {
                let rows = station.rows();
                if rows > seen.0 {
                    seen = (rows, std::time::Instant::now());
                }
                // With the protection gone progress may end early: what is missing is missing.
                (rows > at || seen.1.elapsed().as_secs() >= 3).then_some(())
            });
            station.kill_9();
            station.start();
        }
    });
    let harm = harm_at_the_end(&broker, &station, messages);
    assert_eq!(station.query::<String>("PRAGMA integrity_check"), "ok");
    harm
}
