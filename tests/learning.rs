//! From history to a published forecast, and from a forecast to the value that came true.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use nightwatt::clock::{Clock, ManualClock, SystemClock};
use nightwatt::config::Config;
use nightwatt::daemon::reload::Refusal;
use nightwatt::daemon::{Daemon, Surroundings};
use nightwatt::shutdown::Shutdown;

use crate::intake::{now_plus_s, publish};
use crate::support::{Broker, NIGHTWATT, Station, put_history, wait_for};

pub fn subscribe_once(broker: &Broker, topic: &str) -> Option<serde_json::Value> {
    let out = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &broker.port.to_string()])
        .args(["-t", topic, "-C", "1", "-W", "1"])
        .output()
        .unwrap();
    serde_json::from_slice(&out.stdout).ok()
}

/// A fortnight of simulated history, a night asked for on the command line, forecasts on the broker.
#[test]
fn a_night_ends_with_an_outcome_and_forecasts_are_published_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "[site]\nlatitude = 40.45\nlongitude = -3.73");
    station.start();
    station.wait_connected();
    let simulate = |words: &[&str]| {
        let mut command = Command::new(NIGHTWATT);
        command
            .args(["simulate", "--broker", &broker.url(), "--step", "300"])
            .args(words);
        let out = command.output().unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
    };
    simulate(&["--days", "16", "--devices", "2"]);
    wait_for("the history", 30, || {
        (station.rows() == 16 * 288 * 2).then_some(())
    });
    let out = station.run(&["train"]);
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let run = wait_for("the night's outcome", 120, || {
        let out = station.run(&["runs", "--json"]);
        let runs: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        runs[0]["outcome"].is_string().then(|| runs[0].clone())
    });
    assert!(
        ["promoted", "kept"].contains(&run["outcome"].as_str().unwrap()),
        "{run}"
    );
    let scores = run["report"]["horizons"][0]["scores"].as_array().unwrap();
    let names: Vec<_> = scores.iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["naive", "smart", "candidate"]);
    let state = if run["outcome"] == "promoted" {
        "live"
    } else {
        "rejected"
    };
    assert_eq!(station.query::<String>("SELECT state FROM model"), state);
    // A second night has a live model to judge beside, if the first was promoted.
    if state == "live" {
        station.run(&["train", "--force"]);
        let second = wait_for("the second night's outcome", 120, || {
            let out = station.run(&["runs", "show", "2", "--json"]);
            let run: serde_json::Value = serde_json::from_slice(&out.stdout).ok()?;
            run["outcome"].is_string().then_some(run)
        });
        assert_eq!(
            second["outcome"], "kept",
            "the same data cannot beat itself: {second}"
        );
        assert_eq!(
            second["report"]["horizons"][0]["scores"]
                .as_array()
                .unwrap()
                .len(),
            4
        );
    }
    let payload = format!(
        "{{\"ts\":\"{}\",\"power\":40.5,\"lux\":9000}}",
        SystemClock.now()
    );
    publish(&broker, "solar/t01/telemetry", false, &[&payload]);
    let forecast = wait_for("a forecast on the broker", 90, || {
        subscribe_once(&broker, "nightwatt/t01/forecast")
    });
    for key in ["issued", "target", "source"] {
        assert!(forecast[key].is_string(), "{forecast}");
    }
    for key in ["power_w", "smart_persistence_w", "naive_persistence_w"] {
        assert!(forecast[key].is_number(), "{forecast}");
    }
    assert_eq!(forecast["horizon_min"], 15);
    let out = station.run(&["forecast", "t01", "--json"]);
    let kept: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(kept[0]["power_w"].is_number(), "{kept}");
    if state == "live" {
        let by_model = wait_for("a forecast by the model", 90, || {
            let f = subscribe_once(&broker, "nightwatt/t01/forecast")?;
            (f["source"] == "model").then_some(f)
        });
        assert!(
            by_model["model_version"].is_number() && by_model["p10_w"].is_number(),
            "{by_model}"
        );
    }
}

#[test]
fn without_enough_days_a_night_is_skipped_with_the_reason() {
    let mut station = Station::new("mqtt://127.0.0.1:1", "");
    station.start();
    station.stop();
    let out = station.run(&["train"]);
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("run 1 skipped"), "{text}");
    let out = station.run(&["runs"]);
    assert!(String::from_utf8(out.stdout).unwrap().contains("skipped"));
}

/// Trains, and gives the mode of the run and the bytes of its model.
fn trained(station: &Station, words: &[&str]) -> (String, Vec<u8>) {
    let out = station.run(&[words, &["--force"]].concat());
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let mode = station.query("SELECT mode FROM run ORDER BY run_id DESC LIMIT 1");
    let model = "SELECT bytes FROM model ORDER BY version DESC LIMIT 1";
    (mode, station.query(model))
}

#[test]
fn two_processes_make_the_same_model_and_later_nights_go_on_from_the_cache() {
    // Every candidate goes live, so that each run's model is the newest version.
    let eager = "[training]\npromote = { min_improvement_percent = -100 }";
    let [one, other] = [(); 2].map(|()| {
        let mut station = Station::new("mqtt://127.0.0.1:1", eager);
        station.start();
        station.stop();
        put_history(&station, 1, 16, 300);
        station
    });
    let (mode, model) = trained(&one, &["train"]);
    assert_eq!(mode, "full", "the first night has nothing to go on from");
    assert_eq!(trained(&other, &["train"]), ("full".into(), model.clone()));

    let cache = one.dir.path().join("cache/rows-15.bin");
    assert!(cache.exists());
    assert_eq!(trained(&one, &["train"]).0, "incremental");
    assert_eq!(trained(&one, &["train", "--mode", "full"]).0, "full");
    assert_eq!(trained(&one, &["train"]).0, "incremental");
    // Damaged, it is made anew, to the same model.
    let mut bytes = std::fs::read(&cache).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&cache, &bytes).unwrap();
    let (mode, again) = trained(&one, &["train"]);
    assert_eq!((mode.as_str(), again == model), ("full", true));
    assert_eq!(trained(&one, &["train"]).0, "incremental");
}

#[test]
fn a_night_missed_while_off_is_caught_up_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    // Half a day from now, so that the latest occurrence was half a day ago whenever this runs.
    let hour = chrono::Utc::now() + chrono::Duration::hours(12);
    let schedule = format!(
        "[site]\ntimezone = \"UTC\"\n[training]\ncatch_up_delay_min = 0\nschedule = \"0 {} * * *\"",
        hour.format("%-H")
    );
    let mut station = Station::new(&broker.url(), &schedule);
    station.start();
    station.wait_connected();
    let old = format!("{{\"ts\":\"{}\",\"power\":1}}", now_plus_s(-2 * 86_400));
    publish(&broker, "solar/t/telemetry", false, &[&old]);
    wait_for("the old reading", 10, || {
        (station.rows() == 1).then_some(())
    });
    station.stop();
    for _ in 0..2 {
        station.start();
        wait_for("the caught-up night", 30, || {
            let n: i64 = station.query("SELECT count(*) FROM run WHERE outcome IS NOT NULL");
            (n == 1).then_some(())
        });
        station.stop();
    }
    assert_eq!(
        station.query::<String>("SELECT trigger FROM run"),
        "catch_up"
    );
    assert_eq!(station.query::<i64>("SELECT count(*) FROM run"), 1);
}

/// The daemon itself on a clock of ours: a forecast meets its actual value a quarter of an hour later.
#[test]
fn a_forecast_is_settled_with_what_was_measured() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut config = Config::default();
    config.mqtt.url = broker.url();
    config.store.path = dir.path().join("n.db");
    config.http.socket = dir.path().join("n.sock");
    let start = nightwatt::reading::TimestampMs(SystemClock.now().0 / 3_600_000 * 3_600_000);
    let clock = Arc::new(ManualClock::new(start));
    let shutdown = Shutdown::new();
    let around = Surroundings {
        clock: clock.clone(),
        shutdown: shutdown.clone(),
        credentials: None,
        program: PathBuf::from(NIGHTWATT),
        refusal: Refusal::default(),
        launch: Default::default(),
    };
    let daemon = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let daemon = Daemon::start(config, around).await.unwrap();
            daemon.finish(|| ()).await
        })
    });
    let query = |sql: &str| -> Option<f64> {
        let conn = rusqlite::Connection::open(dir.path().join("n.db")).ok()?;
        conn.query_row(sql, [], |r| r.get(0)).ok().flatten()
    };
    let send = |minute: i64, power: f64| {
        let at = start.plus_min(minute);
        clock.set(at);
        let payload = format!("{{\"ts\":\"{at}\",\"power\":{power}}}");
        publish(&broker, "solar/t/telemetry", false, &[&payload]);
        wait_for("the reading", 20, || {
            query(&format!(
                "SELECT power FROM telemetry WHERE ts_ms = {}",
                at.0
            ))
        });
    };
    wait_for("the subscription", 20, || {
        publish(&broker, "solar/probe/telemetry", false, &["{\"power\":0}"]);
        query("SELECT power FROM telemetry")
    });
    for minute in 0..3 {
        send(minute, 100.0);
    }
    wait_for("a forecast", 20, || {
        query("SELECT power_w FROM forecast JOIN device USING (device_no) WHERE device_id = 't'")
    });
    for minute in 14..19 {
        send(minute, 10.0 * minute as f64);
    }
    clock.set(start.plus_min(25));
    let actual = wait_for("the actual value", 30, || {
        query("SELECT actual_w FROM forecast JOIN device USING (device_no) WHERE device_id = 't'")
    });
    let target =
        query("SELECT target_ms FROM forecast JOIN device USING (device_no) WHERE device_id = 't'");
    let minute = (target.unwrap() as i64 - start.0) / 60_000;
    assert_eq!(actual, 10.0 * minute as f64);
    shutdown.begin();
    assert!(daemon.join().unwrap().rows >= 8);
}

#[cfg(feature = "demo")]
#[test]
fn the_demo_ends_with_its_table() {
    let out = Command::new(NIGHTWATT)
        .args(["demo", "--once", "--days", "16"])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "{text}{said}");
    for part in ["smart", "naive", "candidate", "skill", "t01", "t02"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
}
