//! Messages that cannot become readings: kept, counted, shown, limited, and never in the way.

use crate::intake::{now_plus_s, numbered, publish};
use crate::support::{Broker, Station, wait_for};

fn text(out: std::process::Output) -> String {
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

fn list(station: &Station, words: &[&str]) -> serde_json::Value {
    let words: Vec<&str> = [&["quarantine", "--json"], words].concat();
    serde_json::from_str(&text(station.run(&words))).unwrap()
}

#[test]
fn refused_messages_are_listed_shown_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.start();
    station.wait_connected();
    publish(
        &broker,
        "solar/t1/telemetry",
        false,
        &["{\"power\":", "[1]"],
    );
    publish(&broker, "solar/t2/telemetry", false, &["\u{1b}[2J{"]);
    wait_for("three samples", 10, || {
        (list(&station, &[])["messages"].as_array()?.len() == 3).then_some(())
    });
    let wait_counts = |n: usize| {
        wait_for("the counts by topic", 10, || {
            let status = station.status();
            let counted = status["store"]["reject_topics"].as_array()?.len();
            (counted == n).then_some(())
        });
    };
    wait_counts(3);
    let one = list(
        &station,
        &["--reason", "not_json", "--topic", "solar/t1/telemetry"],
    );
    assert_eq!(one["messages"].as_array().unwrap().len(), 1);
    assert_eq!(one["counts"][0]["count"], 1);
    let id = one["messages"][0]["id"].to_string();
    let shown = text(station.run(&["quarantine", "show", &id]));
    assert!(shown.contains("solar/t1/telemetry") && shown.contains("{\"power\":"));
    let shown = text(station.run(&["quarantine"]));
    assert!(
        shown.contains("not_an_object") && !shown.contains('\u{1b}'),
        "{shown:?}"
    );
    let missing = station.run(&["quarantine", "show", "999"]);
    assert_eq!(missing.status.code(), Some(1));
    // Through the daemon, and without one.
    assert!(text(station.run(&["quarantine", "clear"])).starts_with("3 messages"));
    assert_eq!(list(&station, &[])["messages"].as_array().unwrap().len(), 0);
    wait_counts(0);
    publish(&broker, "solar/t1/telemetry", false, &["x"]);
    wait_for("a new sample", 10, || {
        (list(&station, &[])["messages"].as_array()?.len() == 1).then_some(())
    });
    station.stop();
    assert!(text(station.run(&["quarantine", "clear"])).starts_with("1 message"));
    assert_eq!(text(station.run(&["quarantine"])), "nothing was refused\n");
}

#[test]
fn a_flood_of_bad_messages_is_sampled_counted_and_does_not_stop_the_good_ones() {
    const BAD: usize = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.start();
    station.wait_connected();
    let before = std::fs::metadata(station.db()).unwrap().len();
    let bad = vec!["{\"power\":"; BAD];
    publish(&broker, "solar/t1/telemetry", false, &bad);
    let good = numbered(100);
    let good: Vec<&str> = good.iter().map(String::as_str).collect();
    publish(&broker, "solar/t1/telemetry", false, &good);
    wait_for("the good rows", 60, || {
        (station.rows() == 100).then_some(())
    });
    wait_for("the counts", 10, || {
        let counts = list(&station, &[])["counts"].clone();
        (counts[0]["count"] == BAD).then_some(())
    });
    assert_eq!(station.status()["daemon"]["rejects"], BAD);
    let kept: i64 = station.query("SELECT count(*) FROM quarantine");
    assert!((20..=200).contains(&kept), "{kept}");
    let grown = std::fs::metadata(station.db()).unwrap().len() - before;
    assert!(grown < 500_000, "the database grew by {grown} bytes");
    let lines = station
        .log()
        .lines()
        .filter(|l| l.contains("was refused"))
        .count();
    assert!((1..=5).contains(&lines), "{}", station.log());
}

#[test]
fn new_devices_are_capped_and_known_ones_are_never_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.set("[store]", "max_devices = 3");
    station.start();
    station.wait_connected();
    let from = |device: usize, second: i64| {
        format!(
            "{{\"device_id\":\"d{device}\",\"ts\":\"{}\",\"power\":1}}",
            now_plus_s(second)
        )
    };
    let first: Vec<String> = (0..10).map(|d| from(d, 0)).collect();
    let first: Vec<&str> = first.iter().map(String::as_str).collect();
    publish(&broker, "solar/x/telemetry", false, &first);
    wait_for("seven refused", 10, || {
        (station.status()["daemon"]["rejects"] == 7).then_some(())
    });
    assert_eq!(station.rows(), 3);
    let status = wait_for("the alarm", 10, || {
        let s = station.status();
        let text = s["verdict"]["text"].as_str()?.to_owned();
        text.contains("3 devices are all there may be").then_some(s)
    });
    assert_eq!(status["verdict"]["level"], "attention");
    assert_eq!(
        list(&station, &[])["messages"][0]["reason"],
        "too_many_devices"
    );
    // Acknowledged, and after a restart the known ones are still known.
    station.stop();
    station.start();
    station.wait_connected();
    let again: Vec<String> = (0..10).map(|d| from(d, 1)).collect();
    let again: Vec<&str> = again.iter().map(String::as_str).collect();
    publish(&broker, "solar/x/telemetry", false, &again);
    wait_for("three more rows", 10, || {
        (station.rows() == 6).then_some(())
    });
    wait_for("seven refused since the restart", 10, || {
        (station.status()["daemon"]["rejects"] == 7).then_some(())
    });
}
