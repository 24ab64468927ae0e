//! The mosquitto.conf that is shipped, with nothing but its paths and port replaced.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::intake::now_plus_s;
use crate::support::{Broker, Station, free_port, ms, wait_for};

const SHIPPED: &str = include_str!("../config/mosquitto.conf");
const ACL: &str = include_str!("../config/mosquitto.acl");

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A broker with the shipped configuration; users `nightwatt`, `t1` and `t2`, each password its name.
fn shipped(dir: &Path) -> Broker {
    // mosquitto drops its rights and must still read and write in here.
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    let port = free_port();
    let passwd = dir.join("passwd");
    write(&passwd, "", 0o644);
    for user in ["nightwatt", "t1", "t2"] {
        let made = Command::new("mosquitto_passwd")
            .arg("-b")
            .arg(&passwd)
            .args([user, user])
            .status();
        assert!(made.unwrap().success());
    }
    write(&passwd, &std::fs::read_to_string(&passwd).unwrap(), 0o644);
    write(&dir.join("mosquitto.acl"), ACL, 0o644);
    let at = dir.display().to_string();
    let mut conf = SHIPPED.to_owned();
    for (shipped, ours) in [
        ("listener 1883\n", format!("listener {port} 127.0.0.1\n")),
        ("/etc/mosquitto/passwd\nacl", format!("{at}/passwd\nacl")),
        ("acl_file /etc/mosquitto", format!("acl_file {at}")),
        ("/var/lib/mosquitto/", format!("{at}/")),
    ] {
        assert!(conf.contains(shipped), "{shipped}");
        conf = conf.replace(shipped, &ours);
    }
    write(&dir.join("mosquitto.conf"), &conf, 0o644);
    Broker::with_conf(port, dir.join("mosquitto.conf"))
}

fn publish_as(broker: &Broker, user: &str, topic: &str, payload: &str) -> Output {
    Command::new("mosquitto_pub")
        .args(["-p", &broker.port.to_string(), "-V", "mqttv5"])
        .args([
            "-u", user, "-P", user, "-q", "1", "-t", topic, "-m", payload,
        ])
        .output()
        .unwrap()
}

fn station(broker: &Broker) -> Station {
    let login = "username = \"nightwatt\"\npassword_file = \"password\"";
    let station = Station::new(&broker.url(), login);
    write(&station.dir.path().join("password"), "nightwatt\n", 0o600);
    station
}

fn reading(second: i64) -> String {
    format!("{{\"ts\":\"{}\",\"power\":{second}}}", now_plus_s(second))
}

#[test]
fn the_shipped_broker_keeps_the_queue_over_its_restart_while_nightwatt_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = shipped(dir.path());
    let mut station = station(&broker);
    station.start();
    station.wait_connected();
    let sent = publish_as(&broker, "t1", "solar/t1/telemetry", &reading(1));
    assert!(sent.status.success());
    wait_for("the first row", 10, || (station.rows() == 1).then_some(()));
    station.stop();
    // More than the 1,000 that a broker without this file would keep.
    let backlog = 1500;
    for from in (2..2 + backlog).step_by(500) {
        let lines: Vec<String> = (from..from + 500).map(reading).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let user = ["-u", "t1", "-P", "t1"];
        crate::intake::publish_with(&broker, &user, "solar/t1/telemetry", false, &lines);
    }
    broker.stop();
    broker.restart();
    station.start();
    wait_for("what was queued before the restart", 30, || {
        (station.rows() == 1 + backlog).then_some(())
    });
    assert_eq!(station.status()["daemon"]["intake"]["sessions_lost"], 0);
}

#[test]
fn the_shipped_access_rules_let_a_device_write_its_own_topic_only() {
    let dir = tempfile::tempdir().unwrap();
    let broker = shipped(dir.path());
    let mut station = station(&broker);
    station.start();
    station.wait_connected();
    for topic in ["solar/t2/telemetry", "nightwatt/status", "solar/telemetry"] {
        // MQTT 5: the broker says so; the message is not passed on.
        let refused = publish_as(&broker, "t1", topic, &reading(1));
        let said = String::from_utf8_lossy(&refused.stderr).to_lowercase();
        let said = said + &String::from_utf8_lossy(&refused.stdout).to_lowercase();
        assert!(said.contains("not authorized"), "{topic}: {said}");
    }
    assert!(
        !publish_as(&broker, "stranger", "solar/x/y", "1")
            .status
            .success()
    );
    let sent = publish_as(&broker, "t1", "solar/t1/telemetry", &reading(2));
    assert!(sent.status.success());
    wait_for("the row", 10, || (station.rows() == 1).then_some(()));
    assert_eq!(
        station.query::<String>("SELECT group_concat(device_id) FROM device"),
        "t1"
    );
    // Everything that nightwatt itself needs is allowed.
    let status = station.status();
    assert_eq!(status["daemon"]["intake"]["refused_filters"], 0);
    let out = Command::new("mosquitto_sub")
        .args(["-p", &broker.port.to_string(), "-u", "nightwatt"])
        .args([
            "-P",
            "nightwatt",
            "-t",
            "nightwatt/status",
            "-C",
            "1",
            "-W",
            "5",
        ])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "online");
}

/// Refused credentials are said, and not tried again for minutes.
#[test]
fn a_wrong_password_is_said_and_tried_rarely() {
    let dir = tempfile::tempdir().unwrap();
    let broker = shipped(dir.path());
    let mut station = station(&broker);
    write(&station.dir.path().join("password"), "guess\n", 0o600);
    station.start();
    let status = wait_for("the refusal in the status", 20, || {
        let s = station.status();
        let text = s["verdict"]["text"].as_str()?.to_owned();
        text.contains("refused us").then_some(s)
    });
    let step = status["verdict"]["next_step"].as_str().unwrap();
    assert!(step.contains("password_file"), "{step}");
    let at = ms(&status["daemon"]["intake"]["next_attempt"]);
    let wait_s = (at - ms(&status["now"])) / 1000;
    assert!((100..=300).contains(&wait_s), "next attempt in {wait_s} s");
    assert!(station.stop().0.success());
}
