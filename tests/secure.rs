//! TLS and a password, against a mosquitto that asks for both.

use std::path::Path;
use std::process::Command;

use crate::support::{Broker, Station, wait_for};

/// A certificate for localhost from an authority of our own: `ca.pem`, `server.pem`, `server.key`.
fn certificates(dir: &Path) {
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
