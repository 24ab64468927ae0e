//! `nightwatt doctor` against real surroundings, sound ones and broken ones.

use std::os::unix::fs::PermissionsExt;

use crate::intake::publish;
use crate::support::{Broker, Station, free_port, wait_for};

fn doctor(station: &Station) -> (i32, serde_json::Value) {
    let out = station.run(&["doctor", "--json"]);
    let findings = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| {
        panic!("{e}: {}", String::from_utf8_lossy(&out.stderr));
    });
    (out.status.code().unwrap(), findings)
}

fn grade<'a>(findings: &'a serde_json::Value, check: &str) -> &'a str {
    let all = findings.as_array().unwrap();
    let found = all.iter().find(|f| f["check"] == check);
    found.unwrap_or_else(|| panic!("no {check} in {findings}"))["grade"]
        .as_str()
        .unwrap()
}

fn on_memory(station: &Station) -> bool {
    let kind = std::process::Command::new("stat")
        .args(["-f", "-c", "%T"])
        .arg(station.dir.path())
        .output()
        .unwrap();
    String::from_utf8_lossy(&kind.stdout).contains("tmpfs")
}

#[test]
fn a_running_station_is_sound_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.start();
    station.wait_connected();
    publish(&broker, "solar/t/telemetry", false, &["{\"power\":1}"]);
    wait_for("the row", 10, || (station.rows() == 1).then_some(()));
    let (exit, findings) = doctor(&station);
    for check in [
        "broker",
        "session",
        "permissions",
        "socket",
        "database",
        "daemon",
    ] {
        assert_eq!(grade(&findings, check), "ok", "{findings}");
    }
    assert!(
        findings.to_string().contains("mosquitto version 2."),
        "{findings}"
    );
    // Nothing was published meanwhile, which is worth a word and no more.
    assert_eq!(grade(&findings, "subscriptions"), "warning");
    if !on_memory(&station) {
        assert_eq!(exit, 0, "{findings}");
    }
    assert!(
        findings
            .to_string()
            .contains(&format!("process {} holds", station.pid()))
    );
    let status = station.status();
    assert_eq!(
        status["daemon"]["intake"]["connections"], 1,
        "it was disturbed"
    );
    assert_eq!(status["daemon"]["received"], 1);
    let text = String::from_utf8(station.run(&["doctor"]).stdout).unwrap();
    let broken = |line: &str| line.chars().count() <= 80 || line.split_whitespace().count() < 3;
    assert!(text.lines().all(broken), "{text}");
}

#[test]
fn what_is_broken_is_named_and_ends_with_1() {
    // Nobody listens, the password is everybody's, the database is none, and there is no daemon.
    let login = "username = \"u\"\npassword_file = \"password\"";
    let station = Station::new(&format!("mqtt://127.0.0.1:{}", free_port()), login);
    let password = station.dir.path().join("password");
    std::fs::write(&password, "x").unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(station.db(), "this is no database, not even nearly").unwrap();
    let (exit, findings) = doctor(&station);
    assert_eq!(exit, 1);
    for check in ["broker", "password", "database"] {
        assert_eq!(grade(&findings, check), "problem", "{findings}");
    }
    assert_eq!(grade(&findings, "daemon"), "warning");
    let untouched = std::fs::read_to_string(station.db()).unwrap();
    assert_eq!(untouched, "this is no database, not even nearly");
}

#[test]
fn subscriptions_without_acknowledgement_and_a_wrong_configuration_are_problems() {
    let dir = tempfile::tempdir().unwrap();
    // Granted without acknowledgements is as good as refused: messages would be lost.
    let broker = Broker::start(dir.path(), "max_qos 0");
    let station = Station::new(&broker.url(), "");
    let (exit, findings) = doctor(&station);
    assert_eq!((exit, grade(&findings, "broker")), (1, "ok"));
    assert_eq!(grade(&findings, "subscriptions"), "problem", "{findings}");
    let station = Station::new(&broker.url(), "keep_alive = 3");
    let (exit, findings) = doctor(&station);
    assert_eq!((exit, grade(&findings, "configuration")), (2, "problem"));
}

#[test]
fn a_wrong_configuration_is_the_first_finding_and_not_the_only_one() {
    let station = Station::new("mqtt://h", "[training]\nhorizon = 3");
    let (exit, findings) = doctor(&station);
    assert_eq!(exit, 2, "{findings}");
    assert_eq!(findings[0]["check"], "configuration");
    assert_eq!(grade(&findings, "configuration"), "problem");
    assert_eq!(grade(&findings, "broker"), "warning");
    for check in ["permissions", "disk", "clock", "database", "daemon"] {
        grade(&findings, check);
    }
}
