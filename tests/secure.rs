//! TLS and a password, against a mosquitto that asks for both.

use std::path::Path;
use std::process::Command;

use crate::support::{Broker, Station, wait_for};

/// A certificate for localhost from an authority of our own: `ca.pem`, `server.pem`, `server.key`.
pub fn certificates(dir: &Path) {
    let script = "
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca
        openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1' > san
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
            -extfile san -out server.pem
        chmod 644 server.key";
    let out = Command::new("sh")
        .args(["-ec", script])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn telemetry_comes_in_over_tls_with_a_password_and_neither_is_optional() {
    let dir = tempfile::tempdir().unwrap();
    // mosquitto drops its rights and must still read what is in here.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).unwrap();
    certificates(dir.path());
    let at = |name: &str| dir.path().join(name).display().to_string();
    let made = Command::new("mosquitto_passwd")
        .args(["-c", "-b", &at("passwd"), "owner", "s3cret"])
        .status();
    assert!(made.unwrap().success());
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(dir.path().join("passwd"), open).unwrap();
    let broker = Broker::start(
        dir.path(),
        &format!(
            "certfile {}\nkeyfile {}\nallow_anonymous false\npassword_file {}",
            at("server.pem"),
            at("server.key"),
            at("passwd")
        ),
    );
    std::fs::write(dir.path().join("password"), "s3cret\n").unwrap();
    std::fs::write(dir.path().join("wrong"), "guess\n").unwrap();
    let url = format!("mqtts://localhost:{}", broker.port);
    let station = |ca: bool, password: &str| {
        let ca = if ca {
            format!("ca_file = \"{}\"\n", at("ca.pem"))
        } else {
            String::new()
        };
        let login = format!("username = \"owner\"\npassword_file = \"{}\"", at(password));
        Station::new(&url, &format!("{ca}{login}"))
    };

    let mut good = station(true, "password");
    good.start();
    good.wait_connected();
    let sent = Command::new("mosquitto_pub")
        .args([
            "-h",
            "localhost",
            "-p",
            &broker.port.to_string(),
            "--cafile",
            &at("ca.pem"),
        ])
        .args([
            "-u",
            "owner",
            "-P",
            "s3cret",
            "-q",
            "1",
            "-t",
            "solar/t/telemetry",
        ])
        .args(["-m", "{\"power\":7}"])
        .status();
    assert!(sent.unwrap().success());
    wait_for("the row", 10, || (good.rows() == 1).then_some(()));

    let trouble = |mut station: Station, part: &str| {
        station.start();
        let said = wait_for("the trouble in the status", 20, || {
            station.status()["verdict"]["text"]
                .as_str()
                .filter(|t| t.contains("no connection:") || t.contains("no connection to"))
                .map(str::to_owned)
        });
        let why = wait_for("the reason", 20, || {
            station.status()["daemon"]["intake"]["last_error"]
                .as_str()
                .map(str::to_lowercase)
        });
        assert!(why.contains(part), "{said}: {why} lacks {part}");
        assert!(!station.log().contains("s3cret") && !station.log().contains("guess"));
    };
    trouble(station(true, "wrong"), "refused");
    trouble(station(false, "password"), "certificate");
}

/// Everything the daemon and the command line say at the most talkative level, with the password in the
/// credential and, wrongly, in the configuration.
#[test]
fn a_password_is_in_no_log_no_status_no_event_and_no_process_list() {
    const NEEDLE: &str = "n33dle";
    let dir = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).unwrap();
    let passwords = dir.path().join("passwd");
    let made = Command::new("mosquitto_passwd")
        .args(["-c", "-b", passwords.to_str().unwrap(), "owner", NEEDLE])
        .status();
    assert!(made.unwrap().success());
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&passwords, open).unwrap();
    let broker = Broker::start(
        dir.path(),
        &format!(
            "allow_anonymous false\npassword_file {}",
            passwords.display()
        ),
    );
    std::fs::write(dir.path().join("mqtt-password"), NEEDLE).unwrap();
    let mut station = Station::new(&broker.url(), "username = \"owner\"");
    station.start_with(&[
        ("NIGHTWATT_LOG", "trace"),
        ("CREDENTIALS_DIRECTORY", dir.path().to_str().unwrap()),
    ]);
    wait_for("the connection", 20, || {
        (station.try_status()?["daemon"]["intake"]["connected"] == true).then_some(())
    });
    let mut said = String::new();
    let mut hear = |station: &Station, words: &[&str]| {
        let out = station.run(words);
        said += &String::from_utf8_lossy(&out.stdout);
        said += &String::from_utf8_lossy(&out.stderr);
    };
    let path = station.dir.path().join("n.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    for (i, (from, to)) in [
        ("mqtt://", "mqtt://owner:n33dle@"),
        ("mqtt://", "tcp://owner:n33dle@"),
        ("username", "password = \"n33dle\"\nusername"),
        ("username", "password = \"n33dle\nusername"),
    ]
    .into_iter()
    .enumerate()
    {
        std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
        station.signal("-HUP");
        let refused = "SELECT count(*) FROM event WHERE kind = 'reload_refused'";
        wait_for("the refusal", 20, || {
            (station.query::<i64>(refused) == i as i64 + 1).then_some(())
        });
        hear(&station, &["check-config"]);
        std::fs::write(&path, &good).unwrap();
        hear(&station, &["status"]);
        hear(&station, &["status", "--json"]);
    }
    hear(&station, &["check-config"]);
    said += &station.query::<String>("SELECT group_concat(detail) FROM event");
    for file in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("/proc/{}/{file}", station.pid())).unwrap();
        said += &String::from_utf8_lossy(&bytes);
    }
    station.stop();
    said += &station.log();
    assert!(
        said.contains("refused") && said.contains("TRACE"),
        "not talkative"
    );
    let at = said.find(NEEDLE);
    assert!(
        at.is_none(),
        "{:?}",
        at.map(|i| &said[i.saturating_sub(200)..i])
    );
}
