//! Versions in and out of service while the station runs, and what happens when one is damaged.

use std::time::Duration;

use nightwatt::clock::{Clock, SystemClock};

use crate::intake::publish;
use crate::support::{Broker, Station, wait_for};

/// Three versions of the same history, the third live; the daemon is stopped.
fn with_three_versions(broker: &Broker) -> Station {
    // A candidate may be half as bad again, so each night's is promoted.
    let gate = "[training]\npromote = { metric = \"mae\", min_improvement_percent = -50 }";
    let mut station = Station::new(&broker.url(), gate);
    station.start();
    station.wait_connected();
    let words = ["simulate", "--broker", &broker.url(), "--step", "600"];
    let out = std::process::Command::new(crate::support::NIGHTWATT)
        .args(words)
        .args(["--days", "16", "--devices", "1"])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    wait_for("the history", 30, || {
        (station.rows() == 16 * 144).then_some(())
    });
    station.stop();
    for version in 1..=3 {
        let said = says(&station, &["train"]);
        assert!(said.contains("promoted"), "{said}");
        assert_eq!(live(&station), version);
    }
    station
}

fn live(station: &Station) -> i64 {
    station.query("SELECT version FROM model WHERE state = 'live'")
}

fn state(station: &Station, version: i64) -> String {
    station.query(&format!(
        "SELECT state FROM model WHERE version = {version}"
    ))
}

fn says(station: &Station, words: &[&str]) -> String {
    let out = station.run(words);
    assert!(out.status.success(), "{words:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

fn refusal(station: &Station, words: &[&str]) -> String {
    let out = station.run(words);
    assert!(!out.status.success(), "{words:?}: {out:?}");
    String::from_utf8(out.stderr).unwrap()
}

/// Another bit in the middle of a version's bytes.
fn flip_a_bit(station: &Station, version: i64) {
    let conn = rusqlite::Connection::open(station.db()).unwrap();
    conn.busy_timeout(Duration::from_secs(5)).unwrap();
    let of = format!("FROM model WHERE version = {version}");
    let mut bytes: Vec<u8> = conn
        .query_row(&format!("SELECT bytes {of}"), [], |r| r.get(0))
        .unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let update = format!("UPDATE model SET bytes = ?1 WHERE version = {version}");
    assert_eq!(conn.execute(&update, [bytes]).unwrap(), 1);
}

/// What the newest forecast after a fresh reading was made by: a version, or 0 for persistence.
fn forecasts_by(broker: &Broker, station: &Station, wanted: i64) {
    wait_for("a forecast by that version", 30, || {
        let payload = format!("{{\"ts\":\"{}\",\"power\":40.5}}", SystemClock.now());
        publish(broker, "solar/t01/telemetry", false, &[&payload]);
        let by: Option<i64> = station
            .reader()
            .query_row(
                "SELECT coalesce(model_version, 0) FROM forecast
                 ORDER BY issued_ms DESC, target_ms DESC LIMIT 1",
                [],
                |r| r.get(0),
            )
            .ok();
        (by == Some(wanted)).then_some(())
    });
}

#[test]
fn versions_are_promoted_rolled_back_and_replaced_when_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = with_three_versions(&broker);
    // Where no daemon runs the store itself is changed, under its lock.
    assert_eq!(
        says(&station, &["models", "rollback"]),
        "version 2 is live\n"
    );
    assert_eq!(live(&station), 2);
    station.start();
    station.wait_connected();
    forecasts_by(&broker, &station, 2);
    says(&station, &["models", "rollback"]);
    forecasts_by(&broker, &station, 1);
    let said = refusal(&station, &["models", "rollback"]);
    assert!(said.contains("no version was live before"), "{said}");
    assert!(says(&station, &["models", "promote", "3"]).contains("version 3 is live"));
    forecasts_by(&broker, &station, 3);
    let said = refusal(&station, &["models", "promote", "3"]);
    assert!(said.contains("is live already"), "{said}");
    let said = refusal(&station, &["models", "promote", "99"]);
    assert!(said.contains("no model version 99"), "{said}");
    let history = says(&station, &["models", "history", "--json"]);
    let history: serde_json::Value = serde_json::from_str(&history).unwrap();
    let versions: Vec<_> = history.as_array().unwrap().iter().collect();
    let versions: Vec<_> = versions
        .iter()
        .map(|l| l["version"].as_i64().unwrap())
        .collect();
    assert_eq!(versions, [3, 1, 2, 3, 2, 1]);
    assert!(
        history[0]["to"].is_null() && history[1]["to"].is_number(),
        "{history}"
    );

    // What cannot be used is not swapped in, and the live version goes on.
    flip_a_bit(&station, 2);
    let said = refusal(&station, &["models", "promote", "2"]);
    assert!(
        said.contains("version 2") && said.contains("checksum"),
        "{said}"
    );
    assert_eq!((live(&station), state(&station, 2)), (3, "damaged".into()));
    forecasts_by(&broker, &station, 3);
    let said = refusal(&station, &["models", "promote", "2"]);
    assert!(said.contains("is damaged"), "{said}");

    // A live version that is damaged gives way to the one before it that is not.
    station.stop();
    flip_a_bit(&station, 3);
    station.start();
    station.wait_connected();
    forecasts_by(&broker, &station, 1);
    assert_eq!((live(&station), state(&station, 3)), (1, "damaged".into()));
    let status = station.status();
    assert_eq!(status["damaged_model"]["version"], 3, "{status}");
    assert_eq!(status["verdict"]["level"], "attention", "{status}");
    let text = status["verdict"]["text"].as_str().unwrap();
    assert!(
        text.contains("version 3 is damaged; version 1 forecasts"),
        "{text}"
    );
    let events: i64 = station.query("SELECT count(*) FROM event WHERE kind = 'model_damaged'");
    assert_eq!(events, 2);

    // With none left persistence forecasts, and a night makes it good.
    station.stop();
    flip_a_bit(&station, 1);
    station.start();
    station.wait_connected();
    forecasts_by(&broker, &station, 0);
    let text = station.status()["verdict"]["text"].to_string();
    assert!(text.contains("persistence forecasts"), "{text}");
    station.stop();
    says(&station, &["train"]);
    assert_eq!(live(&station), 4);
    station.start();
    station.wait_connected();
    forecasts_by(&broker, &station, 4);
    assert!(station.status()["damaged_model"].is_null());
}

#[test]
fn the_models_are_listed_shown_and_exported() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let station = with_three_versions(&broker);
    let list = says(&station, &["models"]);
    assert_eq!(list, says(&station, &["models", "list"]));
    assert_eq!(list.matches("retired").count(), 2, "{list}");
    let shown = says(&station, &["models", "show", "3"]);
    for part in [
        "model 3: live",
        "holds power 15 min ahead, made in run 3",
        "smart",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    let file = station.dir.path().join("exported");
    says(&station, &["models", "export", "3", file.to_str().unwrap()]);
    let kept: Vec<u8> = station.query("SELECT bytes FROM model WHERE version = 3");
    assert_eq!(std::fs::read(file).unwrap(), kept);
    let said = refusal(&station, &["models", "show", "9"]);
    assert!(said.contains("no model version 9"), "{said}");
}
