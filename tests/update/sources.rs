//! Where a release comes from: HTTPS end to end, sources that are dead or missing, and transfers that others wait for.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::life::start;
use super::{Publisher, Updated, living, speaking};
use crate::faults::can_mount;
use crate::faults::disk::SmallDisk;
use crate::secure::certificates;
use crate::support::wait_for;

/// Of a program, bytes; and how many of them come before something happens.
const PROGRAM_BYTES: usize = 300_000;
const HALF: usize = 150_000;

/// What happens in the middle of the next transfer of a program.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    None,
    /// The connection breaks, once.
    Break,
    /// Nothing more comes for as long as it stays so.
    Hang,
}

/// A publisher's server, with a certificate from an authority of its own.
struct Web {
    /// Its authority, and the files.
    dir: tempfile::TempDir,
    port: u16,
    trouble: Arc<Mutex<Trouble>>,
    /// The requests, and "gone" for each who hung up while nothing came.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Web {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        let chain = CertificateDer::pem_file_iter(dir.path().join("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(dir.path().join("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        let (tls, listener) = (Arc::new(tls), TcpListener::bind("127.0.0.1:0").unwrap());
        let web = Self {
            port: listener.local_addr().unwrap().port(),
            dir,
            trouble: Arc::new(Mutex::new(Trouble::None)),
            seen: Arc::default(),
        };
        let (files, trouble, seen) = (web.files(), web.trouble.clone(), web.seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let connection = ServerConnection::new(tls.clone()).unwrap();
                let stream = StreamOwned::new(connection, stream.unwrap());
                let (files, trouble, seen) = (files.clone(), trouble.clone(), seen.clone());
                std::thread::spawn(move || {
                    // Who does not trust us, or is stopped, hangs up.
                    let _ = answer(stream, &files, &trouble, &seen);
                });
            }
        });
        web
    }

    fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    /// Where releases of the channel for this machine are.
    fn folder(&self) -> PathBuf {
        self.files()
            .join("stable")
            .join(nightwatt::update::target())
    }

    fn ca(&self) -> String {
        self.dir.path().join("ca.pem").display().to_string()
    }

    /// What a station needs to use it.
    fn section(&self) -> String {
        format!(
            "source = \"https://localhost:{}/{{channel}}/{{target}}\"\n",
            self.port
        )
    }

    fn is(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap() = trouble;
    }

    fn seen(&self, part: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|line| line.contains(part)).count()
    }
}

fn answer(
    mut stream: StreamOwned<ServerConnection, TcpStream>,
    files: &Path,
    trouble: &Mutex<Trouble>,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(&mut stream);
    while reader.read_line(&mut head)? > 2 {}
    seen.lock().unwrap().push(head.to_lowercase());
    let path = head.split(' ').nth(1).unwrap_or_default();
    let Ok(file) = std::fs::read(files.join(path.trim_start_matches('/'))) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    let from = head
        .to_lowercase()
        .split("range: bytes=")
        .nth(1)
        .map_or(0, |r| {
            r.split('-')
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0)
        });
    let (status, length) = match from {
        0 => ("200 OK", file.len()),
        _ => ("206 Partial Content", file.len() - from),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"{}\"\r\nContent-Range: bytes {from}-{}/{}\r\nConnection: close\r\n\r\n",
        file.len(),
        file.len() - 1,
        file.len()
    )?;
    let now = *trouble.lock().unwrap();
    if now == Trouble::None || !path.ends_with("program") || from > 0 {
        return stream.write_all(&file[from..]);
    }
    stream.write_all(&file[..HALF])?;
    stream.flush()?;
    if now == Trouble::Break {
        *trouble.lock().unwrap() = Trouble::None;
        return stream.sock.shutdown(std::net::Shutdown::Both);
    }
    let look = Duration::from_millis(20);
    stream.sock.set_read_timeout(Some(look))?;
    while *trouble.lock().unwrap() == Trouble::Hang {
        match stream.read(&mut [0]) {
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => {
                seen.lock().unwrap().push("gone".into());
                return Ok(());
            }
        }
    }
    stream.write_all(&file[HALF..])
}

/// One of [`PROGRAM_BYTES`] that is the real daemon.
fn large(sequence: u64) -> Vec<u8> {
    let mut file = living(sequence);
    file.resize(PROGRAM_BYTES, b'\n');
    file
}

/// Fails, with these words among what it says.
fn fails(updated: &Updated, words: &[&str], code: i32, parts: &[&str]) {
    let out = updated.station.run(&[&["update"], words].concat());
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(code), "{words:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{words:?}: {said} lacks {part}");
    }
}

fn outcome(updated: &Updated, words: &[&str]) -> String {
    let out = updated
        .station
        .run(&[&["update", "--json"], words].concat());
    let report: serde_json::Value =
        serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{words:?}: {out:?}"));
    report["outcome"].as_str().unwrap().to_owned()
}

#[test]
fn an_update_over_https_goes_on_where_it_broke_off_and_is_tried_and_kept() {
    let (web, publisher) = (Web::start(), Publisher::new());
    publisher.publish(&web.folder(), 8, &large(8), |_| ());
    // Whoever has not been told whom to trust trusts nobody; the system's authorities count.
    let stranger = Updated::new(&[&publisher], &web.section());
    fails(
        &stranger,
        &["check"],
        1,
        &["no safe connection to localhost", "certificate"],
    );
    let mut with_system = stranger.station.command(&["update", "check"]);
    let out = with_system.env("SSL_CERT_FILE", web.ca()).output().unwrap();
    assert!(
        String::from_utf8(out.stdout)
            .unwrap()
            .contains("is available"),
        "the system's authorities"
    );

    let section = format!("trial_s = 2\n{}ca_file = {:?}", web.section(), web.ca());
    let mut updated = Updated::new(&[&publisher], &section);
    start(&mut updated);
    assert_eq!(outcome(&updated, &["check"]), "available");
    web.is(Trouble::Break);
    assert_eq!(outcome(&updated, &["fetch"]), "fetched");
    assert_eq!(web.seen("/program "), 2, "broken off once");
    assert_eq!(web.seen("\r\nrange: bytes=150000-\r\n"), 1, "and gone on");
    assert_eq!(outcome(&updated, &["apply"]), "trial");
    wait_for("the commit", 30, || {
        (updated.layout().linked("current") == Some(8)).then_some(())
    });
    assert_eq!(web.seen("/program "), 2, "not fetched again");
    wait_for("the version", 20, || {
        let status = updated.station.try_status()?;
        (status["daemon"]["update"]["sequence"] == 8).then_some(())
    });
    assert_eq!(outcome(&updated, &["check"]), "up_to_date");
}

#[test]
fn a_dead_source_is_named_with_its_cause() {
    let (web, publisher) = (Web::start(), Publisher::new());
    let section = format!("ca_file = {:?}", web.ca());
    let mut updated = Updated::new(&[&publisher], &section);
    // Speaks, and not TLS.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = other.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in other.incoming() {
            let _ = stream.unwrap().write_all(b"220 this is something else\r\n");
        }
    });
    let closed = crate::support::free_port();
    updated.station.start();
    let refused = format!("cannot connect to localhost:{closed}");
    let cases = [
        (
            format!("https://localhost:{closed}/x"),
            [refused.as_str(), "Connection refused"],
        ),
        (
            "https://nowhere.invalid/x".into(),
            [
                "cannot find the address of nowhere.invalid",
                "nightwatt-manifest.json",
            ],
        ),
        (
            format!("https://localhost:{plain}/x"),
            ["no safe connection to localhost", "nightwatt-manifest.json"],
        ),
        (
            format!("https://localhost:{}/nothing", web.port),
            [
                "the server answers 404 Not Found",
                "/nothing/nightwatt-manifest.json",
            ],
        ),
    ];
    for (address, parts) in &cases {
        fails(&updated, &["check", address], 1, parts);
    }
    let failed = "SELECT count(*) FROM run WHERE kind = 'update' AND outcome = 'failed' AND reason LIKE 'cannot fetch %'";
    assert_eq!(updated.station.query::<i64>(failed), cases.len() as i64);
}

#[test]
fn what_cannot_even_begin_is_refused_and_no_run_of_the_history() {
    let publisher = Publisher::new();
    let mut updated = Updated::new(&[&publisher], "");
    let refused = |updated: &Updated| {
        fails(updated, &["check"], 2, &["no source is known"]);
        fails(updated, &["apply"], 2, &["no source is known"]);
        fails(
            updated,
            &["fetch", "/nowhere"],
            2,
            &["no release in /nowhere"],
        );
        fails(updated, &["rollback"], 2, &["nothing before it"]);
    };
    refused(&updated);
    updated.station.start();
    refused(&updated);
    let runs = "SELECT count(*) FROM run WHERE kind = 'update'";
    assert_eq!(updated.station.query::<i64>(runs), 0);

    // Nobody to trust is the configuration's fault, and not the release's.
    let mut trusting_nobody = Updated::new(&[], "");
    publisher.publish(&trusting_nobody.release(8), 8, &speaking(8), |_| ());
    let folder = trusting_nobody.release(8);
    let check = ["check", folder.to_str().unwrap()];
    let said = ["no public key is known: set [update] public_keys"];
    fails(&trusting_nobody, &check, 2, &said);
    trusting_nobody.station.start();
    fails(&trusting_nobody, &check, 2, &said);
    let noted = "SELECT (SELECT count(*) FROM run WHERE kind = 'update') + \
                 (SELECT count(*) FROM event WHERE kind = 'update_refused')";
    assert_eq!(trusting_nobody.station.query::<i64>(noted), 0);
}

#[test]
fn a_folder_may_be_the_top_of_what_a_publisher_carries() {
    let publisher = Publisher::new();
    let updated = Updated::new(&[&publisher], "");
    let stick = updated.releases.path();
    let below = stick.join("stable").join(nightwatt::update::target());
    let top = stick.to_str().unwrap();
    let nor_below = below.strip_prefix(stick).unwrap().display().to_string();
    fails(&updated, &["check", top], 2, &["no release in", &nor_below]);
    publisher.publish(&below, 8, &speaking(8), |_| ());
    assert_eq!(outcome(&updated, &["apply", top]), "trial");
    assert_eq!(updated.started(), "sequence 8");
    assert_eq!(outcome(&updated, &["rollback"]), "rolled_back");
    // What lies in the folder itself goes first.
    publisher.publish(stick, 9, &speaking(9), |_| ());
    assert_eq!(outcome(&updated, &["apply", top]), "trial");
    assert_eq!(updated.started(), "sequence 9");
}

#[test]
fn without_a_launcher_there_is_no_trial_and_the_owner_is_told() {
    let publisher = Publisher::new();
    let mut updated = Updated::new(&[&publisher], "");
    publisher.publish(&updated.release(8), 8, &speaking(8), |_| ());
    updated.station.start();
    let folder = updated.release(8);
    let apply = ["apply", folder.to_str().unwrap()];
    fails(&updated, &apply, 2, &["not started by `nightwatt launch`"]);
    assert_eq!(updated.report("fetch", 8, &[])["outcome"], "fetched");
    fails(
        &updated,
        &["apply"],
        2,
        &["not started by `nightwatt launch`"],
    );
    let runs = "SELECT group_concat(mode) FROM run WHERE kind = 'update'";
    assert_eq!(updated.station.query::<String>(runs), "fetch");
    assert!(updated.layout().trial().is_none());
    // With no daemon at all the next start is the launcher's.
    updated.station.kill_9();
    let report = updated.report("apply", 8, &[]);
    assert_eq!(report["outcome"], "trial");
    let text = report["text"].as_str().unwrap();
    assert!(
        text.contains("with the next start by `nightwatt launch`"),
        "{text}"
    );
    assert_eq!(updated.started(), "sequence 8");
}

#[test]
fn what_is_here_already_needs_no_source_to_be_tried() {
    let publisher = Publisher::new();
    let updated = Updated::new(&[&publisher], "");
    publisher.publish(&updated.release(8), 8, &speaking(8), |_| ());
    assert_eq!(updated.report("fetch", 8, &[])["outcome"], "fetched");
    let told = String::from_utf8(updated.station.run(&["update", "status"]).stdout).unwrap();
    assert!(told.contains("at hand    sequence 8\n"), "{told}");
    assert!(!told.contains("floor"), "nothing was committed: {told}");
    // The stick is taken out; the manifest is there again, signed anew, without its file.
    std::fs::remove_dir_all(updated.release(8)).unwrap();
    fails(&updated, &["check"], 2, &["no source is known"]);
    assert_eq!(outcome(&updated, &["apply"]), "trial");
    assert_eq!(updated.started(), "sequence 8");
    assert_eq!(outcome(&updated, &["rollback"]), "rolled_back");
    let report = updated.report("apply", 8, &["--again"]);
    assert_eq!(report["outcome"], "trial");
    let text = report["text"].as_str().unwrap();
    assert!(
        text.contains("it was here already (there is no release in"),
        "{text}"
    );
    assert_eq!(outcome(&updated, &["rollback"]), "rolled_back");
    let out = updated.station.run(&["update", "apply", "--json"]);
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(said.contains("\"rejected\""), "{said}");
    publisher.publish(&updated.release(8), 8, &speaking(8), |m| {
        m["issued"] = "2026-11-22T01:00:00Z".into();
    });
    std::fs::remove_file(updated.release(8).join("program")).unwrap();
    assert_eq!(
        updated.report("fetch", 8, &["--again"])["outcome"],
        "fetched"
    );
    // Damaged, it is not here.
    std::fs::write(updated.layout().program(8), speaking(9)).unwrap();
    fails(&updated, &["apply", "--again"], 2, &["no source is known"]);
    assert!(updated.layout().trial().is_none());
}

#[test]
fn whoever_asked_hears_also_what_takes_longer_than_other_answers() {
    let publisher = Publisher::new();
    let mut updated = Updated::new(&[&publisher], "");
    start(&mut updated);
    // Longer than a request for a page is waited for.
    let slow = "#!/bin/sh\nsleep 31\necho 'it has thought about it' >&2\nexit 1\n";
    publisher.publish(&updated.release(8), 8, slow.as_bytes(), |_| ());
    let folder = updated.release(8);
    let apply = ["apply", folder.to_str().unwrap()];
    fails(
        &updated,
        &apply,
        1,
        &["own check failed", "thought about it"],
    );
}

/// Asks for it and waits for nothing.
fn ask(updated: &Updated, words: &[&str]) -> Child {
    let mut command = updated.station.command(&[&["update"], words].concat());
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().unwrap()
}

#[test]
fn a_transfer_is_named_to_others_joined_by_the_same_and_stopped_by_a_reload() {
    let (web, publisher) = (Web::start(), Publisher::new());
    let section = format!("{}ca_file = {:?}", web.section(), web.ca());
    let mut updated = Updated::new(&[&publisher], &section);
    updated.station.start();
    publisher.publish(&web.folder(), 8, &large(8), |_| ());
    web.is(Trouble::Hang);
    let mut impatient = ask(&updated, &["fetch"]);
    wait_for("the transfer", 20, || {
        (web.seen("/program ") == 1).then_some(())
    });
    fails(
        &updated,
        &["check"],
        1,
        &[
            "another update is going on: fetch from \"https://localhost",
            ", since 20",
        ],
    );
    // Whoever asked goes away, and asks again: it is the same transfer.
    impatient.kill().unwrap();
    impatient.wait().unwrap();
    let again = ask(&updated, &["fetch"]);
    web.is(Trouble::None);
    let out = again.wait_with_output().unwrap();
    assert!(out.status.success(), "{out:?}");
    assert_eq!(web.seen("/program "), 1);
    let runs = "SELECT group_concat(mode || ' ' || outcome) FROM run WHERE kind = 'update'";
    let ended: String = updated.station.query(runs);
    assert!(ended.starts_with("fetch done"), "{ended}");

    publisher.publish(&web.folder(), 9, &large(9), |_| ());
    web.is(Trouble::Hang);
    let stopped = ask(&updated, &["fetch"]);
    wait_for("the transfer", 20, || {
        (web.seen("/program ") == 2).then_some(())
    });
    updated.station.signal("-HUP");
    let out = stopped.wait_with_output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("the update was stopped"), "{said}");
    wait_for("the hang-up", 20, || (web.seen("gone") == 1).then_some(()));
    let reloaded = "SELECT count(*) FROM event WHERE kind = 'reloaded'";
    wait_for("the reload", 20, || {
        (updated.station.query::<i64>(reloaded) == 1).then_some(())
    });
    let open = "SELECT count(*) FROM run WHERE outcome IS NULL";
    assert_eq!(updated.station.query::<i64>(open), 0);
    // What was had of it is not fetched again.
    web.is(Trouble::None);
    assert_eq!(outcome(&updated, &["fetch"]), "fetched");
    assert_eq!(web.seen("\r\nrange: bytes="), 1);
}

#[test]
fn o10_a_transfer_that_a_full_disk_breaks_off_takes_no_room() {
    if !can_mount() {
        return;
    }
    let (web, publisher, disk) = (Web::start(), Publisher::new(), SmallDisk::new(6));
    let section = format!("{}ca_file = {:?}", web.section(), web.ca());
    let updated = Updated::at(
        Some(disk.path()),
        "mqtt://127.0.0.1:1",
        &[&publisher],
        &section,
    );
    publisher.publish(&web.folder(), 8, &large(8), |_| ());
    web.is(Trouble::Hang);
    let fetching = ask(&updated, &["fetch"]);
    let part = updated.layout().path("download").join("part");
    wait_for("the half", 20, || {
        (std::fs::metadata(&part).ok()?.len() == HALF as u64).then_some(())
    });
    disk.fill();
    web.is(Trouble::None);
    let out = fetching.wait_with_output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("cannot write"), "{said}");
    assert!(!part.exists());
    disk.empty();
    assert_eq!(outcome(&updated, &["fetch"]), "fetched");
}
