//! SIGHUP: a configuration that holds together replaces the old one, any other changes nothing, and neither loses a reading.

use std::path::PathBuf;
use std::process::Command;

use crate::intake::{now_plus_s, numbered, publish};
use crate::service::Systemd;
use crate::support::{Broker, NIGHTWATT, Station, free_port, wait_for};

fn reading() -> String {
    format!("{{\"ts\":\"{}\",\"power\":1}}", now_plus_s(0))
}

/// Replaces the first `from` in the station's configuration.
fn edit(station: &Station, from: &str, to: &str) {
    let path = configuration(station);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn configuration(station: &Station) -> PathBuf {
    station.dir.path().join("n.toml")
}

fn events(station: &Station, kind: &str) -> i64 {
    station.query(&format!("SELECT count(*) FROM event WHERE kind = '{kind}'"))
}

/// The reason in the status, once there is one with `part` in it.
fn refusal(station: &Station, part: &str) {
    wait_for(part, 20, || {
        let status = station.try_status()?;
        status["daemon"]["reload_refused"]
            .as_str()?
            .contains(part)
            .then_some(())
    });
}

#[test]
fn a_new_client_id_leaves_a_session_behind_and_loses_none() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.start();
    station.wait_connected();
    publish(&broker, "solar/t/telemetry", false, &[&reading()]);
    wait_for("the first row", 10, || (station.rows() == 1).then_some(()));

    edit(&station, "[mqtt]", "[mqtt]\nclient_id = \"roof\"");
    station.signal("-HUP");
    wait_for("the event", 20, || {
        (events(&station, "session_left") == 1).then_some(())
    });
    assert_eq!(events(&station, "session_lost"), 0);

    station.wait_connected();
    station.stop();
    station.start();
    station.wait_connected();
    assert_eq!(events(&station, "session_left"), 1, "told once");
}

#[test]
fn a_reload_swaps_topics_broker_and_socket_in_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Broker::start(dir.path(), ""), Broker::start(dir.path(), ""));
    let mut station = Station::new(&old.url(), "");
    station.start();
    station.wait_connected();
    publish(&old, "solar/t/telemetry", false, &[&reading()]);
    wait_for("the first row", 10, || (station.rows() == 1).then_some(()));

    edit(&station, &old.url(), &new.url());
    edit(
        &station,
        "[mqtt]",
        "[[mqtt.topics]]\nfilter = \"pv/+/live\"\n[mqtt]",
    );
    edit(&station, "n.sock", "other.sock");
    station.signal("-HUP");
    wait_for("the event", 20, || {
        (events(&station, "reloaded") == 1).then_some(())
    });
    // Read by the command line from the same file: the other socket answers.
    station.wait_connected();
    assert!(!station.dir.path().join("n.sock").exists());
    publish(&new, "pv/u/live", false, &[&reading()]);
    wait_for("a row by the new rules", 10, || {
        (station.rows() == 2).then_some(())
    });
    // Counted since the process started, and not since the reload.
    let counted = station.status();
    let counted = &counted["daemon"];
    assert_eq!(
        (&counted["rows"], &counted["committed"]),
        (&2.into(), &2.into()),
        "{counted}"
    );
    assert_eq!(
        (&counted["received"], &counted["intake"]["connections"]),
        (&2.into(), &2.into()),
        "{counted}"
    );
    assert!(station.exited().is_none());
    let (end, _) = station.stop();
    assert!(end.success());
}

#[test]
fn a_configuration_that_cannot_be_used_changes_nothing_and_the_status_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "keep_alive_s = 30");
    station.start();
    station.wait_connected();
    let url = broker.url();

    edit(&station, "keep_alive_s = 30", "keep_alive_s = 1");
    station.signal("-HUP");
    refusal(&station, "mqtt.keep_alive_s");
    let out = station.run(&["status"]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(
        text.starts_with("ATTENTION") && text.contains("refused"),
        "{text}"
    );

    // A file that is not there stands for one that cannot be read, which root always can.
    let away = station.dir.path().join("away.toml");
    let text = std::fs::read_to_string(configuration(&station)).unwrap();
    std::fs::rename(configuration(&station), &away).unwrap();
    station.signal("-HUP");
    wait_for("the second event", 20, || {
        (events(&station, "reload_refused") == 2).then_some(())
    });
    std::fs::write(configuration(&station), text).unwrap();
    refusal(&station, "cannot read the configuration");

    edit(
        &station,
        "keep_alive_s = 1",
        "username = \"u\"\npassword_file = \"absent\"",
    );
    station.signal("-HUP");
    refusal(&station, "absent");

    // This one holds together and does not start: a folder is no database.
    edit(&station, "username = \"u\"\npassword_file = \"absent\"", "");
    std::fs::create_dir(station.dir.path().join("folder")).unwrap();
    edit(&station, "n.db", "folder");
    station.signal("-HUP");
    refusal(&station, "folder");
    station.wait_connected();

    publish(&broker, "solar/t/telemetry", false, &[&reading()]);
    wait_for("a row by the old rules", 10, || {
        (station.rows() == 1).then_some(())
    });
    edit(&station, "folder", "n.db");
    station.signal("-HUP");
    wait_for("the refusal to be over", 20, || {
        station.try_status()?["daemon"]["reload_refused"]
            .is_null()
            .then_some(())
    });
    assert!(station.exited().is_none());
    assert!(
        station.log().contains("the new configuration was refused"),
        "{url}"
    );
}

#[test]
fn a_hundred_reloads_under_load_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.start();
    station.wait_connected();
    let readings = numbered(20_000);
    let lines: Vec<&str> = readings.iter().map(String::as_str).collect();
    std::thread::scope(|s| {
        s.spawn(|| publish(&broker, "solar/t/telemetry", false, &lines));
        wait_for("the flow", 20, || (station.rows() > 100).then_some(()));
        for _ in 0..100 {
            station.signal("-HUP");
        }
    });
    wait_for("every reading", 60, || {
        (station.rows() == 20_000).then_some(())
    });
    // Those that come while one is being looked at are one.
    let times = events(&station, "reloaded");
    assert!((1..=100).contains(&times), "{times}");
    assert!(station.exited().is_none());
}

#[test]
fn systemd_hears_of_a_reload_and_reads_how_things_are() {
    let mut station = Station::new(&format!("mqtt://127.0.0.1:{}", free_port()), "");
    let systemd = Systemd::new(&station);
    systemd.start(&mut station);
    systemd.wait("READY=1");
    let line = systemd.wait("STATUS=");
    assert!(line.contains("rows since start"), "{line}");
    station.signal("-HUP");
    assert!(systemd.wait("RELOADING=1").contains("MONOTONIC_USEC="));
    systemd.wait("READY=1");
    edit(&station, "[mqtt]", "[mqttt]");
    station.signal("-HUP");
    systemd.wait("RELOADING=1");
    systemd.wait("READY=1");
    // The line that follows the first reload may still be on its way.
    while !systemd.wait("STATUS=").contains("n.toml: mqttt:") {}
}

#[test]
fn a_reload_waits_for_the_training_run() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.start();
    station.wait_connected();
    let trainer = held_trainer(&broker, &station);
    station.signal("-HUP");
    wait_for("the word", 10, || {
        station
            .log()
            .contains("waits for the end of the training run")
            .then_some(())
    });
    assert_eq!(station.status()["daemon"]["training"], true);
    assert_eq!(events(&station, "reloaded"), 0);
    send("-CONT", trainer);
    wait_for("the reload", 120, || {
        (events(&station, "reloaded") == 1).then_some(())
    });
    let outcome: String = station.query("SELECT outcome FROM run");
    assert_ne!(outcome, "failed", "{}", station.log());
}

/// The pid of a trainer that was started over a fortnight of history and stopped where it stands.
pub fn held_trainer(broker: &Broker, station: &Station) -> u32 {
    let mut simulate = Command::new(NIGHTWATT);
    simulate.args([
        "simulate",
        "--broker",
        &broker.url(),
        "--step",
        "300",
        "--days",
        "16",
    ]);
    assert!(simulate.output().unwrap().status.success());
    wait_for("the history", 60, || {
        (station.rows() == 16 * 288).then_some(())
    });
    assert!(station.run(&["train", "--background"]).status.success());
    let children = format!("/proc/{0}/task/{0}/children", station.pid());
    let pid = wait_for("the trainer", 30, || {
        let pid: u32 = std::fs::read_to_string(&children)
            .unwrap()
            .trim()
            .parse()
            .ok()?;
        // Until it has become the trainer the daemon waits for it: holding it would hold both.
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        line.contains("trainer").then_some(pid)
    });
    send("-STOP", pid);
    pid
}

fn send(signal: &str, pid: u32) {
    let done = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(done.unwrap().success());
}
