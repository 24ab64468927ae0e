//! O6: a server of our own that does everything wrong.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use super::*;
use crate::update::manifest;

const FILE_BYTES: usize = 200_000;

fn file() -> Vec<u8> {
    (0..FILE_BYTES).map(|i| (i * 7 % 251) as u8).collect()
}

fn release() -> Manifest {
    let sha256: String = Sha256::digest(file())
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let json = serde_json::json!({
        "format": 1, "product": "nightwatt", "channel": "stable", "target": "t", "version": "0.3.0",
        "sequence": 1, "issued": "2026-11-22T00:00:00Z", "expires": "2099-01-01T00:00:00Z",
        "size": FILE_BYTES, "sha256": sha256, "file": "program",
        "schema": { "from": 1, "to": 4 }, "from_version": "0.1.0"
    });
    manifest::parse(json.to_string().as_bytes()).unwrap()
}

/// A server whose n-th answer is `answer(n, request, connection)`; what it was asked.
struct Server {
    source: Source,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(
        answer: impl Fn(usize, &str, &mut TcpStream) -> std::io::Result<()> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/releases/", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let noted = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while reader.read_line(&mut request).unwrap_or(0) > 2 {}
                let n = noted.lock().unwrap().len();
                noted.lock().unwrap().push(request.to_lowercase());
                // Whoever is fed up hangs up.
                let _ = answer(n, &request, &mut stream);
            }
        });
        let source = Source::parse(&address, "stable").unwrap();
        Self { source, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn download(&self, folder: &Path) -> Result<(), String> {
        (self.source.download(&release(), folder, &quick())).map_err(|e| e.to_string())
    }

    fn small(&self) -> Result<Vec<u8>, String> {
        (self.source.small("manifest", 1000, &quick())).map_err(|e| e.to_string())
    }
}

fn quick() -> Terms {
    let limits = Limits {
        connect: Duration::from_secs(2),
        idle: Duration::from_secs(2),
        small: Duration::from_secs(4),
        whole: Duration::from_secs(4),
        pauses: vec![Duration::from_millis(10); 2],
    };
    Terms {
        limits,
        ..Terms::default()
    }
}

fn head(stream: &mut TcpStream, status: &str, headers: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n"
    )
}

fn part(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("part")).unwrap_or_default()
}

#[test]
fn o6_endless_data_stops_at_the_declared_size() {
    let endless = |_: usize, _: &str, stream: &mut TcpStream| {
        head(stream, "200 OK", "")?;
        loop {
            stream.write_all(&[b'x'; 4096])?;
        }
    };
    let (server, dir) = (Server::new(endless), tempfile::tempdir().unwrap());
    let why = server.download(dir.path()).unwrap_err();
    assert!(why.contains("does not end"), "{why}");
    assert!(part(dir.path()).len() <= FILE_BYTES + (64 << 10));
    assert_eq!(server.asked().len(), 1, "not asked again");
    let why = server.small().unwrap_err();
    assert!(why.contains("longer than 1000"), "{why}");
}

#[test]
fn o6_slow_drip_and_silence_end_at_the_deadline() {
    let drip = |_: usize, _: &str, stream: &mut TcpStream| {
        head(stream, "200 OK", "")?;
        loop {
            stream.write_all(b"x")?;
            std::thread::park_timeout(Duration::from_millis(20));
        }
    };
    let server = Server::new(drip);
    assert!(
        server
            .download(tempfile::tempdir().unwrap().path())
            .unwrap_err()
            .contains("too long")
    );
    let silent = |_: usize, _: &str, stream: &mut TcpStream| {
        let _ = stream.read(&mut [0; 1]);
        Ok(())
    };
    assert!(Server::new(silent).small().is_err());
}

#[test]
fn who_listens_and_says_nothing_is_named_after_the_limit_of_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = Source::Web(format!("https://{}/x", listener.local_addr().unwrap()));
    let mut terms = quick();
    terms.limits.pauses.clear();
    let why = source.small("manifest", 1000, &terms).unwrap_err();
    let wanted = "/x/manifest: no safe connection to 127.0.0.1: no answer within 2 s";
    assert!(why.to_string().ends_with(wanted), "{why}");
    // And nothing is waited for once it is to stop.
    terms.limits.connect = Duration::from_secs(3600);
    let stop = terms.stop.clone();
    let stopping = std::thread::spawn(move || source.small("manifest", 1000, &terms));
    listener.accept().unwrap();
    stop.begin();
    let why = stopping.join().unwrap().unwrap_err();
    assert!(matches!(why, UpdateError::Stopped), "{why}");
}

#[test]
fn o6_errors_are_tried_again_where_that_may_help() {
    for (status, times) in [("500 No", 3), ("503 No", 3), ("404 No", 1), ("403 No", 1)] {
        let server = Server::new(move |_, _, stream| head(stream, status, "Content-Length: 0\r\n"));
        assert!(server.small().is_err());
        assert_eq!(server.asked().len(), times, "{status}");
    }
    let server = Server::new(|n, _, stream| match n {
        0 => head(stream, "500 No", "Content-Length: 0\r\n"),
        _ => head(stream, "200 OK", "Content-Length: 2\r\n").and_then(|()| stream.write_all(b"{}")),
    });
    assert_eq!(server.small().unwrap(), b"{}");
}

#[test]
fn o6_redirects_lead_only_to_where_it_is_encrypted() {
    for to in [
        "http://127.0.0.1:1/x",
        "http://example.org/x",
        "ftp://x/y",
        "//example.org/x",
        "x",
    ] {
        let server = Server::new(move |_, _, stream| {
            head(
                stream,
                "302 Found",
                &format!("Content-Length: 0\r\nLocation: {to}\r\n"),
            )
        });
        let why = server.small().unwrap_err();
        assert!(why.contains("not https"), "{to}: {why}");
        assert_eq!(server.asked().len(), 1);
    }
    let server = Server::new(|n, _, stream| match n {
        0 => head(
            stream,
            "302 Found",
            "Content-Length: 0\r\nLocation: /there\r\n",
        ),
        _ => head(stream, "200 OK", "Content-Length: 2\r\n").and_then(|()| stream.write_all(b"{}")),
    });
    assert_eq!(server.small().unwrap(), b"{}");
    assert!(server.asked()[1].starts_with("get /there "));
    let around = |_: usize, _: &str, stream: &mut TcpStream| {
        head(
            stream,
            "302 Found",
            "Content-Length: 0\r\nLocation: /again\r\n",
        )
    };
    assert!(
        Server::new(around)
            .small()
            .unwrap_err()
            .contains("too many")
    );
}

#[test]
fn o6_a_wrong_length_is_seen_before_anything_is_read() {
    let server = Server::new(|_, _, stream| {
        head(stream, "200 OK", "Content-Length: 200001\r\n")?;
        stream.write_all(&file())
    });
    let dir = tempfile::tempdir().unwrap();
    assert!(server.download(dir.path()).unwrap_err().contains("size"));
    assert!(part(dir.path()).is_empty());
}

/// Half of the file, then the line goes.
fn half(stream: &mut TcpStream) -> std::io::Result<()> {
    head(
        stream,
        "200 OK",
        "Content-Length: 200000\r\nETag: \"one\"\r\n",
    )?;
    stream.write_all(&file()[..FILE_BYTES / 2])
}

fn from_of(request: &str) -> usize {
    let line = request.to_lowercase();
    let at = line
        .split("range: bytes=")
        .nth(1)
        .and_then(|r| r.split('-').next()?.parse().ok());
    at.unwrap_or(0)
}

#[test]
fn o6_a_broken_transfer_goes_on_where_it_broke_off() {
    let server = Server::new(|n, request, stream| match n {
        0 => half(stream),
        _ => {
            let from = from_of(request);
            let range = format!("bytes {from}-199999/200000");
            let length = FILE_BYTES - from;
            let headers =
                format!("Content-Length: {length}\r\nContent-Range: {range}\r\nETag: \"one\"\r\n");
            head(stream, "206 Partial Content", &headers)?;
            stream.write_all(&file()[from..])
        }
    });
    let dir = tempfile::tempdir().unwrap();
    server.download(dir.path()).unwrap();
    assert_eq!(part(dir.path()), file());
    let asked = server.asked();
    assert!(asked[1].contains("if-range: \"one\""), "{}", asked[1]);
    assert!(from_of(&asked[1]) > 0);
}

#[test]
fn o6_a_file_that_changed_meanwhile_is_had_anew() {
    // Once by the book, as a whole file; once as the rest of another one.
    for as_rest in [false, true] {
        let server = Server::new(move |n, request, stream| match n {
            0 => half(stream),
            1 if as_rest => {
                let from = from_of(request);
                let range = format!("bytes {from}-199999/200000");
                let length = FILE_BYTES - from;
                let headers = format!(
                    "Content-Length: {length}\r\nContent-Range: {range}\r\nETag: \"two\"\r\n"
                );
                head(stream, "206 Partial Content", &headers)?;
                stream.write_all(&vec![b'x'; length])
            }
            _ => {
                head(
                    stream,
                    "200 OK",
                    "Content-Length: 200000\r\nETag: \"two\"\r\n",
                )?;
                stream.write_all(&file())
            }
        });
        let dir = tempfile::tempdir().unwrap();
        server.download(dir.path()).unwrap();
        assert_eq!(part(dir.path()), file(), "as rest: {as_rest}");
    }
}

#[test]
fn addresses_are_encrypted_or_of_this_machine() {
    let good = |text: &str| Source::parse(text, "beta");
    for text in [
        "http://example.org/x",
        "ftp://a/b",
        "https://",
        "https://user@host/x",
        "http://127.0.0.1.example.org/",
    ] {
        good(text).unwrap_err();
    }
    good("").unwrap_err();
    assert_eq!(
        good("/media/stick"),
        Ok(Source::Folder("/media/stick".into()))
    );
    assert_eq!(
        good("file:///media/stick"),
        Ok(Source::Folder("/media/stick".into()))
    );
    let full = format!("https://a.example/beta/{}", crate::update::target());
    assert_eq!(
        good("https://a.example/{channel}/{target}/"),
        Ok(Source::Web(full))
    );
    good("http://[::1]:8080/x").unwrap();
    good("http://localhost/x").unwrap();
}

#[test]
fn o10_what_cannot_be_copied_takes_no_room() {
    let stick = tempfile::tempdir().unwrap();
    let source = Source::Folder(stick.path().into());
    let dir = tempfile::tempdir().unwrap();
    let part = dir.path().join("part");
    let refused = || {
        let why = source
            .download(&release(), dir.path(), &quick())
            .unwrap_err();
        assert!(part.symlink_metadata().is_err(), "{why}");
        why.to_string()
    };
    fs::write(stick.path().join("program"), file()).unwrap();
    // A disk that is full.
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    assert!(refused().contains("No space left"));
    fs::write(stick.path().join("program"), &file()[1..]).unwrap();
    assert!(refused().contains("does not have the size"));
}

#[test]
fn o6_a_pipe_on_a_stick_is_not_waited_for() {
    let stick = tempfile::tempdir().unwrap();
    for name in ["manifest", "program"] {
        let path = stick.path().join(name);
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    }
    let source = Source::Folder(stick.path().into());
    let why = source.small("manifest", 1000, &quick()).unwrap_err();
    assert!(why.to_string().contains("no file"), "{why}");
    let dir = tempfile::tempdir().unwrap();
    let why = source
        .download(&release(), dir.path(), &quick())
        .unwrap_err();
    assert!(why.to_string().contains("no file"), "{why}");
}
