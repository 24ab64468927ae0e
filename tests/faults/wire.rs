//! What goes over the wire, and when: acknowledgements after the sync, and never a stale one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Harm, available, check, count, succeeds};
use crate::intake::{now_plus_s, publish};
use crate::support::{Broker, Station, wait_for};

/// Between the arrival of a message and its PUBACK an fsync or fdatasync must have ended: messages are sent
/// one by one, so each has a commit of its own.
#[test]
fn no_acknowledgement_is_written_before_the_sync_of_its_row() {
    if !available("strace", succeeds("strace", &["-V"])) {
        return;
    }
    check(
        "PUBACK before the sync, by trace",
        count(20, 1000),
        "commit_before_ack",
        |without, seed| {
            // All messages in one run.
            if seed % 1000 != 0 {
                return Harm::default();
            }
            let messages = i64::from(count(20, 1000));
            let dir = tempfile::tempdir().unwrap();
            let broker = Broker::start(dir.path(), "");
            let mut station = Station::new(&broker.url(), "");
            station.without = without;
            station.start();
            station.wait_connected();
            let trace = station.dir.path().join("trace");
            let said = station.dir.path().join("strace");
            let mut strace = Command::new("strace")
                .args(["-f", "-xx", "-s", "8", "-o", trace.to_str().unwrap()])
                .args([
                    "-e",
                    "trace=fsync,fdatasync,sendto,write,writev,recvfrom,read",
                ])
                .args(["-p", &station.pid().to_string()])
                .stdin(Stdio::null())
                .stderr(std::fs::File::create(&said).unwrap())
                .spawn()
                .unwrap();
            wait_for("strace to attach", 10, || {
                std::fs::read_to_string(&said)
                    .unwrap()
                    .contains("attached")
                    .then_some(())
            });
            for i in 0..messages {
                let payload = format!("{{\"ts\":\"{}\",\"power\":{i}}}", now_plus_s(i));
                publish(&broker, "solar/t/telemetry", false, &[&payload]);
                wait_for("the row", 20, || (station.rows() > i).then_some(()));
            }
            // The last acknowledgement, too.
            station.stop();
            strace.wait().unwrap();
            let (mut synced, mut acknowledged, mut too_soon) = (0, 0, 0);
            for line in std::fs::read_to_string(&trace).unwrap().lines() {
                let received = line.contains("recvfrom");
                if received && line.contains("\"\\x32") {
                    synced = 0;
                } else if line.contains("sync") && line.contains("= 0") {
                    synced += 1;
                } else if !received && line.contains("\"\\x40\\x02") {
                    acknowledged += 1;
                    too_soon += i64::from(synced == 0);
                }
            }
            assert!(acknowledged >= messages, "{acknowledged} PUBACKs seen");
            Harm {
                lost: too_soon,
                doubled: 0,
            }
        },
    );
}

/// Reads one packet: its first byte and its body.
fn packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    let kind = byte[0];
    let (mut length, mut shift) = (0usize, 0);
    loop {
        stream.read_exact(&mut byte).unwrap();
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (kind, body)
}

/// The intake's next connection to a broker that keeps no session, subscribed; MQTT 3.1.1.
fn subscribed(listener: &TcpListener) -> TcpStream {
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let (kind, body) = packet(&mut stream);
        assert_eq!(kind, 0x10);
        stream.write_all(&[0x20, 2, 0, 0]).unwrap();
        if body.ends_with(b"-out") {
            // The publishing connection: swallowed by a thread of its own.
            std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
            continue;
        }
        let (kind, body) = packet(&mut stream);
        assert_eq!(kind & 0xf0, 0x80);
        stream.write_all(&[0x90, 3, body[0], body[1], 1]).unwrap();
        return stream;
    }
}

fn deliver(stream: &mut TcpStream, packet_id: u16, power: i64) {
    let topic = b"solar/t/telemetry";
    let payload = format!("{{\"ts\":\"{}\",\"power\":{power}}}", now_plus_s(power));
    let mut bytes = vec![0x32, (2 + topic.len() + 2 + payload.len()) as u8];
    assert!(bytes[1] < 128);
    bytes.extend((topic.len() as u16).to_be_bytes());
    bytes.extend(topic);
    bytes.extend(packet_id.to_be_bytes());
    bytes.extend(payload.as_bytes());
    stream.write_all(&bytes).unwrap();
}

/// A message, and the next connection, on which the broker knows of no session; `None` where the machine is so busy
/// that the message was committed before.
fn lost_session(without: &'static str) -> Option<(Station, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    // The commit waits until the second connection stands.
    let mut station = Station::new(&url, "protocol = \"3.1.1\"");
    station.set("[store]", "linger_ms = 5000");
    station.without = without;
    station.start();
    let mut first = subscribed(&listener);
    deliver(&mut first, 1, 1);
    wait_for("the message to be taken", 10, || {
        (station.status()["daemon"]["received"] == 1).then_some(())
    });
    drop(first);
    let second = subscribed(&listener);
    (station.rows() == 0).then_some((station, second))
}

/// A broker that loses its session while a message waits for its commit, and gives the packet id to
/// another message.
#[test]
fn no_stale_acknowledgement_after_the_broker_lost_the_session() {
    check(
        "stale PUBACK after a lost session",
        count(1, 20),
        "epochs",
        |without, _| {
            let (station, mut second) = (0..9)
                .find_map(|_| lost_session(without))
                .expect("the second connection was never there before the commit");
            wait_for("the row", 20, || (station.rows() == 1).then_some(()));
            // Acknowledgements are in order: a stale one would come before this one's.
            deliver(&mut second, 7, 2);
            let mut stale = 0;
            loop {
                let (kind, body) = packet(&mut second);
                match (kind, body.as_slice()) {
                    (0x40, [0, 7]) => break,
                    (0x40, _) => stale += 1,
                    _ => {}
                }
            }
            Harm {
                lost: stale,
                doubled: 0,
            }
        },
    );
}
