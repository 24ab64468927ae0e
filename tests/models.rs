//! Versions in and out of service while the station runs, and what happens when one is damaged.

use std::time::Duration;

use nightwatt::clock::{Clock, SystemClock};

use crate::intake::publish;
use crate::learning::subscribe_once;
use crate::support::{Broker, Station, put_history, wait_for};

/// So many versions of the same history, the last live; the daemon is stopped.
fn with_versions(broker: &Broker, versions: i64, horizons: &str) -> Station {
    // A candidate may be half as bad again, so each night's is promoted; and no night but ours.
    let training = format!(
        "[training]\nenabled = false\nhorizon_min = {horizons}\n\
         promote = {{ metric = \"mae\", min_improvement_percent = -50 }}"
    );
    let mut station = Station::new(&broker.url(), &training);
    station.start();
    station.wait_connected();
    station.stop();
    put_history(&station, 1, 16, 600);
    for version in 1..=versions {
        let said = says(&station, &["train", "--force"]);
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
    let mut station = with_versions(&broker, 3, "15");
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
        history[0]["to"].is_null() && history[1]["to"].is_string(),
        "{history}"
    );

    let events = says(&station, &["events", "--limit", "3", "--json"]);
    let events: serde_json::Value = serde_json::from_str(&events).unwrap();
    let moves: Vec<_> = events["events"].as_array().unwrap().iter().collect();
    let moves: Vec<_> = moves
        .iter()
        .filter(|e| e["kind"].as_str().unwrap().starts_with("model_"))
        .map(|e| format!("{}: {}", e["kind"], e["detail"]))
        .collect();
    assert!(
        moves[0] == "\"model_promoted\": \"model version 3 is live: promoted by hand\""
            && moves[1]
                == "\"model_rolled_back\": \"model version 1 is live: rolled back from version 2\"",
        "{moves:?}"
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
    says(&station, &["train", "--force"]);
    assert_eq!(live(&station), 4);
    station.start();
    station.wait_connected();
    forecasts_by(&broker, &station, 4);
    assert!(station.status()["damaged_model"].is_null());
}

#[test]
fn every_horizon_is_learned_listed_forecast_and_published() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = with_versions(&broker, 2, "[60, 15, 1440]");
    let list = says(&station, &["models"]);
    assert_eq!(list, says(&station, &["models", "list"]));
    assert_eq!(list.matches("retired").count(), 1, "{list}");
    let run = says(&station, &["runs", "show", "2", "--json"]);
    let run: serde_json::Value = serde_json::from_str(&run).unwrap();
    let nights = run["report"]["horizons"].as_array().unwrap();
    let minutes: Vec<_> = nights.iter().map(|n| n["horizon_min"].as_i64()).collect();
    assert_eq!(minutes, [Some(60), Some(15), Some(1440)]);
    for night in nights {
        // Whether there is a live part to be judged beside is the gate's business.
        assert!(night["scores"].as_array().unwrap().len() >= 3, "{night}");
        assert!(night["model"].is_null() && night["ramp_model"].is_null());
        let reaches = night["horizon_min"] != 1440;
        assert_eq!(night["ramp"].is_object(), reaches, "{night}");
    }
    for minutes in [15, 60, 1440] {
        let cache = format!("cache/rows-{minutes}.bin");
        assert!(station.dir.path().join(cache).exists());
    }
    let shown = says(&station, &["models", "show", "2"]);
    let parts = [
        "model 2: live",
        "holds power 15 min ahead, made in run",
        "60 min ahead",
        "smart",
    ];
    for part in parts {
        assert!(shown.contains(part), "{shown}");
    }
    let file = station.dir.path().join("exported");
    says(&station, &["models", "export", "2", file.to_str().unwrap()]);
    let kept: Vec<u8> = station.query("SELECT bytes FROM model WHERE version = 2");
    assert_eq!(std::fs::read(file).unwrap(), kept);
    let said = refusal(&station, &["models", "show", "9"]);
    assert!(said.contains("no model version 9"), "{said}");

    station.start();
    station.wait_connected();
    forecasts_by(&broker, &station, 2);
    // The first of the list where one horizon alone would be, the others beside it.
    for (topic, minutes) in [("", 60), ("/15", 15), ("/1440", 1440)] {
        let topic = format!("nightwatt/t01/forecast{topic}");
        let forecast = wait_for("the forecast", 30, || subscribe_once(&broker, &topic));
        assert_eq!(forecast["horizon_min"], minutes, "{topic}");
        if let Some(probability) = forecast.get("ramp_probability") {
            assert!((0.0..=1.0).contains(&probability.as_f64().unwrap()));
            assert_ne!(minutes, 1440);
        }
    }
    let forecasts = says(&station, &["forecast", "t01", "--json"]);
    let forecasts: serde_json::Value = serde_json::from_str(&forecasts).unwrap();
    let forecasts = forecasts.as_array().unwrap();
    let minutes: Vec<_> = forecasts
        .iter()
        .map(|f| f["horizon_min"].as_i64())
        .collect();
    assert_eq!(minutes, [Some(15), Some(60), Some(1440)]);
    let table = says(&station, &["forecast"]);
    assert!(
        table.lines().all(|line| line.chars().count() <= 80),
        "{table}"
    );
}
