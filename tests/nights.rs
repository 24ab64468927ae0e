//! Nights through the real binary: skipped, forced, shown, deleted, out of memory, killed in the middle.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::intake::publish;
use crate::support::{Broker, Station, ms, put_history, wait_for};

/// A started station with ten days of history of two trackers.
fn with_history(broker: &Broker, extra: &str) -> Station {
    let mut station = Station::new(&broker.url(), extra);
    station.start();
    station.stop();
    put_history(&station, 2, 10, 600);
    station.start();
    station.wait_connected();
    // And it still collects: what the verdict finds wrong is the night alone.
    let now = chrono::Utc::now().to_rfc3339();
    let reading = format!("{{\"ts\":\"{now}\",\"power\":1}}");
    publish(broker, "solar/t01/telemetry", false, &[&reading]);
    wait_for("the reading", 10, || {
        (station.rows() == 10 * 144 * 2 + 1).then_some(())
    });
    station
}

fn text(station: &Station, words: &[&str]) -> String {
    let out = station.run(words);
    let said = [out.stdout, out.stderr].concat();
    String::from_utf8(said).unwrap()
}

fn run(station: &Station, run_id: i64) -> Option<serde_json::Value> {
    let out = station.run(&["runs", "show", &run_id.to_string(), "--json"]);
    serde_json::from_slice(&out.stdout).ok()
}

fn ended(station: &Station, run_id: i64) -> serde_json::Value {
    wait_for("the end of the run", 120, || {
        run(station, run_id).filter(|r| r["outcome"].is_string())
    })
}

/// Learns only when asked to, from few days, and promotes whatever it is.
const EAGER: &str = "[training]\nenabled = false\nmin_days = 3\nholdback_days = 2\npromote = { min_improvement_percent = -100 }";

#[test]
fn a_night_needs_new_data_unless_forced_and_the_log_tells_everything() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = with_history(&broker, EAGER);
    let preview = text(&station, &["train", "--dry-run"]);
    assert!(
        preview.starts_with("would train: No night has learned"),
        "{preview}"
    );
    assert_eq!(
        station.query::<i64>("SELECT count(*) FROM run"),
        0,
        "dry run"
    );
    station.run(&["train"]);
    let first = ended(&station, 1);
    assert_eq!(first["outcome"], "promoted", "{first}");
    let report = &first["report"];
    assert_eq!(report["quality"]["devices"], 2, "{report}");
    assert!(
        report["quality"]["rows"].as_u64().unwrap() > 2800,
        "{report}"
    );
    for stage in ["check", "read", "learn", "register"] {
        assert!(report["stages_ms"][stage].is_u64(), "{report}");
    }
    // Nothing came in since.
    let preview = text(&station, &["train", "--dry-run"]);
    assert!(
        preview.starts_with("would not train: There are 0 days of new"),
        "{preview}"
    );
    station.run(&["train"]);
    let second = ended(&station, 2);
    assert_eq!(second["outcome"], "skipped", "{second}");
    assert!(second["reason"].as_str().unwrap().contains("1 is needed"));
    station.run(&["train", "--force"]);
    assert_eq!(ended(&station, 3)["outcome"], "promoted");
    let runs = text(&station, &["runs"]);
    assert!(
        runs.contains("100 % of 2 training runs succeeded (2 promoted, 0 kept), 1 skipped"),
        "{runs}"
    );
    let why = second["reason"].as_str().unwrap();
    assert!(runs.contains(why), "what is piped is not cut: {runs}");
    assert_eq!(
        text(&station, &["runs", "--limit", "1"])
            .lines()
            .filter(|l| l.contains("manual"))
            .count(),
        1
    );
    assert!(text(&station, &["runs", "--kind", "update"]).starts_with("no run yet"));
    let shown = text(&station, &["runs", "show", "3"]);
    for part in ["candidate", "new readings", "stages, ms", "took"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // Deleting, by the daemon and without it; a model outlives its run.
    assert_eq!(
        text(&station, &["runs", "delete", "1"]),
        "run 1 is deleted\n"
    );
    assert!(text(&station, &["runs", "delete", "1"]).contains("there is no run 1"));
    station.stop();
    assert_eq!(
        text(&station, &["runs", "delete", "2"]),
        "run 2 is deleted\n"
    );
    assert_eq!(station.query::<i64>("SELECT count(*) FROM run"), 1);
    assert_eq!(station.query::<i64>("SELECT count(*) FROM model"), 2);
}

#[test]
fn a_trainer_out_of_memory_is_a_failed_night_and_the_daemon_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let station = with_history(&broker, &format!("{EAGER}\nmax_memory_mb = 4"));
    station.run(&["train"]);
    let run = ended(&station, 1);
    assert_eq!(run["outcome"], "failed", "{run}");
    assert!(run["reason"].as_str().unwrap().contains("memory"), "{run}");
    assert!(text(&station, &["runs", "show", "1"]).contains(" failure"));
    let status = station.status();
    assert_eq!(status["nights"]["failed_in_row"], 1);
    assert!(
        status["verdict"]["text"]
            .as_str()
            .unwrap()
            .contains("last night failed"),
        "{status}"
    );
}

/// Every promotion that was begun is complete or did not happen; there is always one live model and it serves.
#[test]
fn killed_at_twenty_points_of_training_the_old_model_serves() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = with_history(&broker, EAGER);
    station.run(&["train"]);
    let first = ended(&station, 1);
    assert_eq!(first["outcome"], "promoted", "{first}");
    let mut took_ms = (ms(&first["ended"]) - ms(&first["started"])).unsigned_abs();
    let mut seen: HashMap<i64, Vec<u8>> = HashMap::new();
    let mut unfinished = 0;
    for point in 0..20 {
        // Housekeeping has runs of its own, whenever its minute comes.
        let newest = "SELECT max(run_id) FROM run WHERE kind = 'training'";
        let before: i64 = station.query(newest);
        let began = Instant::now();
        station.run(&["train", "--force", "--background"]);
        let begun = wait_for("the run", 20, || {
            Some(station.query::<i64>(newest)).filter(|run_id| *run_id > before)
        });
        let moment = Duration::from_millis(took_ms * point / 19);
        wait_for("the moment", 60, || {
            (began.elapsed() >= moment).then_some(())
        });
        station.kill_9();
        station.start();
        // Between fork and exec a trainer has the old daemon's socket: the new one may not be up yet.
        let last = ended(&station, begun);
        if last["outcome"] == "promoted" {
            let took = (ms(&last["ended"]) - ms(&last["started"])).unsigned_abs();
            took_ms = took_ms.min(took);
        }
        let cut_short = last["report"]["failure"] == "cut_short";
        unfinished += i64::from(cut_short);
        assert_eq!(last["outcome"] == "failed", cut_short, "{last}");
        assert_eq!(
            station.query::<i64>(&format!(
                "SELECT count(*) FROM run WHERE outcome IS NULL AND run_id <= {begun}"
            )),
            0
        );
        let (version, run_id, bytes) = station
            .reader()
            .query_row(
                "SELECT version, run_id, bytes FROM model WHERE state = 'live'",
                [],
                |r| Ok((r.get(0)?, r.get::<_, i64>(1)?, r.get::<_, Vec<u8>>(2)?)),
            )
            .unwrap();
        assert!(run_id <= begun && bytes.len() > 1000);
        assert_eq!(*seen.entry(version).or_insert(bytes.clone()), bytes);
    }
    assert!(unfinished >= 8, "only {unfinished} runs were cut short");
    assert_eq!(station.query::<String>("PRAGMA integrity_check"), "ok");
    station.wait_connected();
    let source = wait_for("a forecast by the model", 60, || {
        let ts = chrono::Utc::now().to_rfc3339();
        let reading = format!("{{\"ts\":\"{ts}\",\"power\":40.5,\"lux\":9000}}");
        publish(&broker, "solar/t01/telemetry", false, &[&reading]);
        let out = station.run(&["forecast", "t01", "--json"]);
        let forecasts: serde_json::Value = serde_json::from_slice(&out.stdout).ok()?;
        forecasts[0]["source"].as_str().map(str::to_owned)
    });
    assert_eq!(source, "model");
}

#[test]
fn a_night_that_ends_with_the_station_twice_is_not_begun_a_third_time() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let hour = chrono::Utc::now() + chrono::Duration::hours(12);
    let schedule = format!(
        "catch_up_delay_min = 0\nschedule = \"0 {} * * *\"",
        hour.format("%-H")
    );
    let mut station = with_history(
        &broker,
        "[training]\nmin_days = 3\nholdback_days = 2\nenabled = false",
    );
    station.stop();
    let file = station.dir.path().join("n.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, config.replace("enabled = false", &schedule)).unwrap();
    for start in 1..=2 {
        station.start();
        wait_for("the night to begin", 30, || {
            (station.query::<i64>("SELECT count(*) FROM run") == start).then_some(())
        });
        station.kill_9();
    }
    station.start();
    wait_for("the word that it is given up", 30, || {
        station.log().contains("is not begun again").then_some(())
    });
    assert_eq!(station.query::<i64>("SELECT count(*) FROM run"), 2);
    for run_id in 1..=2 {
        let run = run(&station, run_id).unwrap();
        assert_eq!(run["report"]["failure"], "cut_short", "{run}");
    }
    assert_eq!(run(&station, 2).unwrap()["trigger"], "retry");
}
