//! The daemon as a service: how it starts, says how it is, and ends.

use std::time::Duration;

use crate::intake::{now_plus_s, numbered, publish};
use crate::support::{Broker, Station, free_port, wait_for};

#[test]
fn an_unreachable_broker_is_borne_and_said() {
    let mut station = Station::new(&format!("mqtt://127.0.0.1:{}", free_port()), "");
    station.start();
    let status = wait_for("the broker's absence in the status", 10, || {
        let s = station.status();
        s["verdict"]["text"]
            .as_str()
            .filter(|t| t.contains("no connection"))
            .map(|_| s.clone())
    });
    assert_eq!(status["verdict"]["level"], "down");
    assert!(station.exited().is_none());
    let out = station.run(&["status"]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(
        text.starts_with("DOWN") && text.contains("[mqtt] url"),
        "{text}"
    );
    assert!(out.status.success());
    let (end, took) = station.stop();
    assert!(end.success() && took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn it_connects_by_itself_once_the_broker_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(dir.path(), "");
    broker.kill();
    let mut station = Station::new(&broker.url(), "");
    station.start();
    broker.restart();
    station.wait_connected();
    // Killed under us, the broker has lost our session; that is noticed and noted.
    broker.kill();
    wait_for("the break", 10, || {
        (station.status()["daemon"]["intake"]["connected"] == false).then_some(())
    });
    broker.restart();
    station.wait_connected();
    assert_eq!(station.status()["daemon"]["intake"]["sessions_lost"], 1);
    wait_for("the event", 10, || {
        (station.query::<i64>("SELECT count(*) FROM event WHERE kind = 'session_lost'") == 1)
            .then_some(())
    });
    publish(
        &broker,
        "solar/t/telemetry",
        false,
        &[&format!("{{\"ts\":\"{}\",\"power\":1}}", now_plus_s(0))],
    );
    wait_for("a row after the new session", 10, || {
        (station.rows() == 1).then_some(())
    });
}

#[test]
fn a_second_daemon_on_the_same_store_ends_with_1_and_says_why() {
    let mut station = Station::new(&format!("mqtt://127.0.0.1:{}", free_port()), "");
    station.start();
    let out = station.run(&["run"]);
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("in use by another nightwatt"), "{said}");
    assert!(station.exited().is_none(), "the first daemon was disturbed");
    assert_eq!(station.status()["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn status_reads_the_database_where_no_daemon_runs_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    let out = station.run(&["status"]);
    assert_eq!(out.status.code(), Some(3));
    assert!(
        String::from_utf8(out.stderr)
            .unwrap()
            .contains("not running")
    );
    station.start();
    station.wait_connected();
    publish(
        &broker,
        "solar/t/telemetry",
        false,
        &[&format!("{{\"ts\":\"{}\",\"power\":1}}", now_plus_s(0))],
    );
    wait_for("the row", 10, || (station.rows() == 1).then_some(()));
    station.stop();
    let out = station.run(&["status"]);
    assert_eq!(out.status.code(), Some(3));
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(
        text.starts_with("DOWN") && text.contains("not running"),
        "{text}"
    );
    assert!(text.contains("the last reading is from"), "{text}");
}

#[test]
fn a_database_from_a_newer_version_is_refused_only_where_it_asks_for_that() {
    let mut station = Station::new(&format!("mqtt://127.0.0.1:{}", free_port()), "");
    station.start();
    station.stop();
    let conn = rusqlite::Connection::open(station.db()).unwrap();
    conn.pragma_update(None, "user_version", 99).unwrap();
    station.start();
    station.stop();
    conn.execute("INSERT INTO meta VALUES ('min_reader_version', '99')", [])
        .unwrap();
    let out = station.run(&["run"]);
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(
        said.contains("schema 99") && said.contains("newer version"),
        "{said}"
    );
}

#[test]
fn the_end_under_load_is_quick_orderly_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.start();
    station.wait_connected();
    let readings = numbered(20_000);
    let lines: Vec<&str> = readings.iter().map(String::as_str).collect();
    std::thread::scope(|s| {
        s.spawn(|| publish(&broker, "solar/t/telemetry", false, &lines));
        wait_for("the flow", 20, || (station.rows() > 1000).then_some(()));
        let (end, took) = station.stop();
        assert!(end.success());
        assert!(took < Duration::from_secs(5), "{took:?}");
    });
    let log = station.log();
    let last = log.lines().last().unwrap_or_default().to_owned();
    assert!(
        last.contains("stopped") && last.contains("uncommitted=0"),
        "{log}"
    );
    station.start();
    wait_for("the rest", 30, || (station.rows() == 20_000).then_some(()));
}

#[test]
fn availability_says_online_and_offline() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    let retained = || {
        let out = std::process::Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &broker.port.to_string()])
            .args(["-t", "nightwatt/status", "-C", "1", "-W", "2"])
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    station.start();
    wait_for("online", 10, || (retained() == "online").then_some(()));
    station.stop();
    assert_eq!(retained(), "offline");
    station.start();
    wait_for("online again", 10, || {
        (retained() == "online").then_some(())
    });
    station.kill_9();
    wait_for("the Will", 10, || (retained() == "offline").then_some(()));
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut station = Station::new(&format!("mqtt://127.0.0.1:{}", free_port()), "");
    station.start();
    station.signal("-STOP");
    station.signal("-TERM");
    station.signal("-INT");
    station.signal("-CONT");
    let status = wait_for("the end", 10, || station.exited());
    assert!(matches!(status.code(), Some(0 | 130)), "{status}");
}

/// A socket of our own where systemd's would be.
pub struct Systemd {
    path: std::path::PathBuf,
    socket: std::os::unix::net::UnixDatagram,
}

impl Systemd {
    pub fn new(station: &Station) -> Self {
        let path = station.dir.path().join("notify.sock");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let limit = Some(Duration::from_secs(20));
        socket.set_read_timeout(limit).unwrap();
        Self { path, socket }
    }

    pub fn start(&self, station: &mut Station) {
        station.start_with(&[
            ("NOTIFY_SOCKET", self.path.to_str().unwrap()),
            ("WATCHDOG_USEC", "400000"),
        ]);
    }

    fn hear(&self) -> String {
        let mut buffer = [0; 1000];
        let n = self.socket.recv(&mut buffer).expect("nothing heard");
        String::from_utf8_lossy(&buffer[..n]).trim().to_owned()
    }

    /// The next message that begins so.
    pub fn wait(&self, beginning: &str) -> String {
        wait_for(beginning, 20, || {
            Some(self.hear()).filter(|word| word.starts_with(beginning))
        })
    }
}

#[test]
fn systemd_hears_ready_signs_of_life_and_stopping() {
    let mut station = Station::new(&format!("mqtt://127.0.0.1:{}", free_port()), "");
    let systemd = Systemd::new(&station);
    systemd.start(&mut station);
    assert_eq!(systemd.hear(), "READY=1");
    for _ in 0..3 {
        systemd.wait("WATCHDOG=1");
    }
    station.signal("-TERM");
    systemd.wait("STOPPING=1");
    wait_for("the end", 10, || station.exited());
}

#[test]
fn the_end_in_the_middle_of_training_is_quick_and_leaves_no_half_model() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.start();
    station.wait_connected();
    let trainer = crate::reload::held_trainer(&broker, &station);
    let (end, took) = station.stop();
    assert!(end.success() && took < Duration::from_secs(5), "{took:?}");
    assert!(!std::path::Path::new(&format!("/proc/{trainer}")).exists());
    let run: String = station.query("SELECT outcome || ': ' || reason FROM run");
    assert!(
        run.starts_with("failed: ") && run.contains("stopped"),
        "{run}"
    );
    assert_eq!(station.query::<i64>("SELECT count(*) FROM model"), 0);
    assert_eq!(station.rows(), 16 * 288);
    assert_eq!(station.query::<String>("PRAGMA integrity_check"), "ok");
}
