//! Alerts through the real daemon: raised once, told to webhook, mail and broker, kept over restarts, and no secret in any of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::secure::certificates;
use crate::support::{Broker, Station, free_port, retained, wait_for};

const TOKEN: &str = "hook-token-5f1e";
const PASSWORD: &str = "mail-password-77aa";
/// At once, so that a test need not wait for minutes.
const QUICK: &str = "look_s = 1\nraise_after_min = 0\nclear_after_min = 0";

/// A web server that answers with these statuses in turn (the last for ever) and passes on what it was sent.
fn web_server(port: u16, statuses: &'static [u16]) -> Receiver<(String, Value)> {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let (tx, rx) = channel();
    std::thread::spawn(move || {
        for (i, stream) in listener.incoming().enumerate() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
                    length = n.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
                head += &line;
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let status = statuses.get(i).or(statuses.last()).unwrap();
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
            if tx
                .send((head, serde_json::from_slice(&body).unwrap()))
                .is_err()
            {
                return;
            }
        }
    });
    rx
}

fn next<T>(rx: &Receiver<T>) -> T {
    rx.recv_timeout(Duration::from_secs(60)).unwrap()
}

/// A mail server that wants STARTTLS and a password, and passes on each mail. The first `refusals`
/// mails are put off.
fn mail_server(dir: &Path, refusals: usize) -> (u16, Receiver<String>) {
    let pem = |name: &str| std::fs::read(dir.join(name)).unwrap();
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let chain = CertificateDer::pem_slice_iter(&pem("server.pem"))
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(&pem("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let tls = Arc::new(tls);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tx, rx) = channel();
    let left = Arc::new(Mutex::new(refusals));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (tls, tx, left) = (tls.clone(), tx.clone(), left.clone());
            // A client that breaks off is no failure of the server.
            std::thread::spawn(move || {
                if let Ok(Some(mail)) = converse(stream.unwrap(), tls, &left) {
                    let _ = tx.send(mail);
                }
            });
        }
    });
    (port, rx)
}

fn converse(
    mut tcp: TcpStream,
    tls: Arc<rustls::ServerConfig>,
    left: &Mutex<usize>,
) -> std::io::Result<Option<String>> {
    tcp.write_all(b"220 test\r\n")?;
    let mut line = String::new();
    let mut reader = BufReader::new(tcp.try_clone()?);
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let word = line.trim().to_uppercase();
        if word.starts_with("EHLO") {
            tcp.write_all(b"250-test\r\n250 STARTTLS\r\n")?;
        } else if word == "STARTTLS" {
            tcp.write_all(b"220 go\r\n")?;
            break;
        } else {
            // Nothing may be said before STARTTLS.
            tcp.write_all(b"530 first STARTTLS\r\n")?;
        }
    }
    let session = rustls::ServerConnection::new(tls).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(rustls::StreamOwned::new(session, tcp));
    let mut said = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        said += &line;
        let word = line.trim().to_uppercase();
        let answer: &[u8] = if word.starts_with("EHLO") {
            b"250-test\r\n250 AUTH PLAIN\r\n"
        } else if word.starts_with("AUTH PLAIN") {
            b"235 welcome\r\n"
        } else if word == "DATA" {
            stream.get_mut().write_all(b"354 go on\r\n")?;
            while line.trim_end() != "." {
                line.clear();
                stream.read_line(&mut line)?;
                said += &line;
            }
            let mut left = left.lock().unwrap();
            if *left > 0 {
                *left -= 1;
                stream.get_mut().write_all(b"451 later\r\n")?;
                continue;
            }
            stream.get_mut().write_all(b"250 taken\r\n")?;
            return Ok(Some(said));
        } else if word == "QUIT" {
            return Ok(None);
        } else {
            b"250 ok\r\n"
        };
        stream.get_mut().write_all(answer)?;
    }
}

fn station(broker: &Broker, more: &str) -> Station {
    Station::new(&broker.url(), &format!("[alerts]\n{QUICK}\n{more}"))
}

fn standing(station: &Station) -> Vec<Value> {
    let out = station.run(&["alerts", "--json"]);
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Something that is wrong until the configuration is mended: a reload that is refused.
fn break_configuration(station: &Station) {
    station.set("[mqtt]", "urrl = 1");
    station.signal("-HUP");
}

fn mend_configuration(station: &Station) {
    let path = station.dir.path().join("n.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("urrl = 1\n", "")).unwrap();
    station.signal("-HUP");
}

#[test]
fn an_alert_is_posted_once_after_all_that_went_wrong_and_told_to_be_over() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let port = free_port();
    std::fs::write(dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
    let mut station = station(
        &broker,
        &format!(
            "[alerts.webhook]\nurl = \"http://127.0.0.1:{port}/hook/{TOKEN}\"\ntoken_file = \"{}\"",
            dir.path().join("token").display()
        ),
    );
    station.start();
    station.wait_connected();
    break_configuration(&station);
    // Nobody listens yet.
    wait_for("a try that failed", 30, || {
        station
            .log()
            .contains("an alert was not told")
            .then_some(())
    });
    assert_eq!(standing(&station)[0]["waiting"][0], "webhook");
    let posts = web_server(port, &[500, 200]);
    let (head, refused) = next(&posts);
    let (_, taken) = next(&posts);
    assert_eq!(refused, taken, "the same again after a 500");
    assert!(head.starts_with("POST /hook/"), "{head}");
    assert!(
        head.to_lowercase()
            .contains(&format!("authorization: bearer {TOKEN}"))
    );
    // That there was no connection at first may have been told before.
    let mut told = vec![taken];
    let mut until = |state: &str| {
        while !told
            .iter()
            .any(|t| t["kind"] == "reload_refused" && t["state"] == state)
        {
            told.push(next(&posts).1);
        }
    };
    until("raised");
    // Ended before that it would be told once more: better twice than never.
    wait_for("the delivery to be noted", 10, || {
        let left: i64 =
            station.query("SELECT count(*) FROM alert_delivery WHERE delivered_ms IS NULL");
        (left == 0).then_some(())
    });
    // Looked at over and over, and after a restart: not posted again.
    station.stop();
    mend_and_start(&mut station);
    until("cleared");
    wait_for("the delivery to be noted", 10, || {
        let left: i64 =
            station.query("SELECT count(*) FROM alert_delivery WHERE delivered_ms IS NULL");
        (left == 0).then_some(())
    });
    told.extend(posts.try_iter().map(|(_, body)| body));
    let ours: Vec<_> = told
        .iter()
        .filter(|t| t["kind"] == "reload_refused")
        .collect();
    assert_eq!(ours.len(), 2, "raised once and cleared once: {told:?}");
    assert_eq!(ours[0]["id"], ours[1]["id"]);
    assert!(ours[0]["text"].as_str().unwrap().contains("urrl"));
    let stands = standing(&station);
    assert!(
        stands.iter().all(|a| a["kind"] != "reload_refused"),
        "{stands:?}"
    );
    station.stop();
    let body = serde_json::to_string(&told).unwrap();
    let all = station.run(&["alerts", "--all", "--json"]).stdout;
    let errors = station.run(&["errors", "--json"]).stdout;
    for text in [
        station.log(),
        body,
        String::from_utf8(all).unwrap(),
        String::from_utf8(errors).unwrap(),
    ] {
        assert!(!text.contains(TOKEN), "{text}");
    }
}

fn mend_and_start(station: &mut Station) {
    let path = station.dir.path().join("n.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("urrl = 1\n", "")).unwrap();
    station.start();
}

#[test]
fn an_alert_is_mailed_over_starttls_once_though_the_server_put_it_off() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    certificates(dir.path());
    let (port, mails) = mail_server(dir.path(), 1);
    std::fs::write(dir.path().join("password"), PASSWORD).unwrap();
    let folder = dir.path().display();
    let mut station = station(
        &broker,
        &format!(
            "[alerts.email]\nserver = \"localhost\"\nport = {port}\nfrom = \"a@example.org\"\n\
             to = [\"b@example.org\", \"c@example.org\"]\nusername = \"me\"\n\
             password_file = \"{folder}/password\"\nca_file = \"{folder}/ca.pem\""
        ),
    );
    let out = station.run(&["alerts", "test"]);
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(
        said.contains("email") && said.contains("FAILED"),
        "the first is put off: {said}"
    );
    let out = station.run(&["alerts", "test"]);
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{said}");
    assert!(next(&mails).contains("this is a test"));

    station.start();
    station.wait_connected();
    break_configuration(&station);
    // That there was no connection at first may have been told before.
    let until = |words: &str| {
        std::iter::repeat_with(|| next(&mails))
            .find(|mail| mail.contains(words))
            .unwrap()
    };
    let mail = until("reload_refused (raised)");
    assert!(mail.contains("RCPT TO:<c@example.org>"), "{mail}");
    mend_configuration(&station);
    let mail = until("reload_refused (cleared)");
    let body = mail.split("DATA").last().unwrap();
    for text in [station.log(), said, body.to_owned()] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
    let again = |mail: String| mail.contains("reload_refused");
    assert!(!mails.try_iter().any(again), "it was told twice");
}

#[test]
fn no_mail_goes_to_a_server_whose_certificate_nobody_vouches_for() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    certificates(dir.path());
    let (port, mails) = mail_server(dir.path(), 0);
    let station = station(
        &broker,
        &format!(
            "mqtt = false\n[alerts.email]\nserver = \"localhost\"\nport = {port}\n\
             from = \"a@example.org\"\nto = [\"b@example.org\"]"
        ),
    );
    let out = station.run(&["alerts", "test"]);
    let said = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(mails.try_recv().is_err());
}

#[test]
fn the_broker_keeps_what_stands_and_a_restart_raises_nothing_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = station(&broker, "");
    station.start();
    station.wait_connected();
    break_configuration(&station);
    let topic = "nightwatt/alerts/reload_refused";
    let state = |wanted: &str| {
        wait_for(wanted, 30, || {
            let payload = retained(&broker, topic).remove(topic)?;
            let value: Value = serde_json::from_str(&payload).ok()?;
            (value["state"] == wanted).then_some(value)
        })
    };
    let raised = state("raised");
    assert_eq!(standing(&station).len(), 1);
    station.kill_9();
    mend_and_start(&mut station);
    let cleared = state("cleared");
    assert_eq!(raised["id"], cleared["id"]);
    let alerts: i64 = station.query("SELECT count(*) FROM alert WHERE kind = 'reload_refused'");
    assert_eq!(alerts, 1, "it was raised once");
}

#[test]
fn alerts_are_listed_and_acknowledged_and_errors_told_with_their_stage() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(dir.path(), "");
    let mut station = station(&broker, "");
    station.start();
    station.wait_connected();
    broker.kill();
    wait_for("the alert", 30, || {
        (standing(&station).iter())
            .find(|a| a["kind"] == "not_connected")
            .cloned()
    });
    station.stop();
    let said = String::from_utf8(station.run(&["alerts"]).stdout).unwrap();
    assert!(
        said.contains("not_connected") && said.lines().all(|l| l.chars().count() <= 80),
        "{said}"
    );
    let out = station.run(&["alerts", "acknowledge", "all", "--json"]);
    let count: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(count["acknowledged"].as_u64() >= Some(1), "{count}");
    assert!(
        standing(&station)
            .iter()
            .all(|a| a["acknowledged"].is_i64() || a["acknowledged"].is_string())
    );
    let errors: Vec<Value> =
        serde_json::from_slice(&station.run(&["errors", "--json"]).stdout).unwrap();
    let broken = errors.iter().find(|e| e["stage"] == "intake").unwrap();
    assert!(
        broken["text"]
            .as_str()
            .unwrap()
            .starts_with("no connection to the broker: "),
        "{broken}"
    );
    assert!(errors.len() <= 50);
}
