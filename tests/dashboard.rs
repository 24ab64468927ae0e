//! The dashboard in a real browser: what it shows equals the API, and its buttons do what they say.

use std::path::{Path, PathBuf};
use std::process::Command;

use nightwatt::clock::{Clock, SystemClock};

use crate::intake::publish;
use crate::support::{Broker, Station, free_port, put_history, wait_for};

const TOKEN: &str = "a-token-for-the-tests";

/// Runs the script in headless Chromium; what it says is in the failure.
fn drive(state: &str, port: u16) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/tools/browser/bin/python");
    let pictures: PathBuf = root.join("target/tmp/dashboard");
    std::fs::create_dir_all(&pictures).unwrap();
    let out = Command::new(&python)
        .arg(root.join("tests/browser/dashboard.py"))
        .args([state, &format!("http://127.0.0.1:{port}"), TOKEN])
        .arg(&pictures)
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}: scripts/install-tools test", python.display()));
    assert!(
        out.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

/// A station that answers on TCP, not started.
fn listening(broker: &Broker) -> (Station, u16) {
    let port = free_port();
    let more = "[training]\nenabled = false\npromote = { metric = \"mae\", min_improvement_percent = -50 }";
    let station = Station::new(&broker.url(), more);
    std::fs::write(station.dir.path().join("token"), TOKEN).unwrap();
    station.set(
        "[http]",
        &format!("listen = \"127.0.0.1:{port}\"\ntoken_file = \"token\""),
    );
    (station, port)
}

/// Settled forecasts of the last days of every device, one each ten minutes, and better than persistence.
fn put_forecasts(station: &Station, days: i64) {
    let conn = rusqlite::Connection::open(station.db()).unwrap();
    let from = SystemClock.now().0 - days * 86_400_000;
    conn.execute(
        "INSERT OR REPLACE INTO forecast (target_ms, device_no, horizon_min, issued_ms, model_version, source,
             power_w, p10_w, p90_w, smart_w, naive_w, actual_w, settled)
         SELECT ts_ms, device_no, 15, ts_ms - 900000, 1, 'model', power * 0.95 + 1, power * 0.8, power * 1.2 + 2,
                power * 0.9 + 2, power * 0.8 + 3, power, 1
         FROM reading WHERE ts_ms >= ?1",
        [from],
    )
    .unwrap();
}

#[test]
fn a_station_with_history_is_shown_and_managed_in_a_browser() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let (mut station, port) = listening(&broker);
    station.start();
    station.wait_connected();
    station.stop();
    put_history(&station, 2, 16, 600);
    put_forecasts(&station, 5);
    for _ in 0..2 {
        let out = station.run(&["train", "--force"]);
        assert!(out.status.success(), "{out:?}");
    }
    station.start();
    station.wait_connected();
    let hostile = "<img src=x onerror=document.title=1>";
    wait_for("a reading and a forecast of each device", 60, || {
        for device in ["t01", "t02", hostile] {
            let payload = format!("{{\"ts\":\"{}\",\"power\":40.5}}", SystemClock.now());
            publish(
                &broker,
                &format!("solar/{device}/telemetry"),
                false,
                &[&payload],
            );
        }
        let status = station.status();
        let devices = status["devices"].as_array()?.len();
        let fresh = station
            .query::<i64>("SELECT count(DISTINCT device_no) FROM forecast WHERE settled = 0");
        (devices == 3 && fresh >= 2).then_some(())
    });
    drive("full", port);
}

#[test]
fn an_empty_station_is_shown_in_a_browser() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let (mut station, port) = listening(&broker);
    station.start();
    station.wait_connected();
    drive("empty", port);
}
