//! The broker killed with and without its store, and a connection that goes dead without a word.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Harm, NOTHING_MORE, check, count, harm, harm_at_the_end};
use crate::intake::{numbered, publish};
use crate::support::{Broker, Station, wait_for};

/// Killed with messages queued that the stopped daemon has not taken; the store is kept on changes.
#[test]
fn a_killed_broker_with_its_store_costs_nothing() {
    check(
        "broker killed, store kept",
        count(2, 50),
        "session",
        |without, seed| {
            let dir = tempfile::tempdir().unwrap();
            let store = dir.path().join("store");
            std::fs::create_dir(&store).unwrap();
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(&store, open).unwrap();
            let mut broker = Broker::start(
                dir.path(),
                &format!(
                    "persistence true\npersistence_location {}/\nautosave_on_changes true\nautosave_interval 1\nuser root",
                    store.display()
                ),
            );
            let mut station = Station::new(&broker.url(), "");
            station.without = without;
            station.start();
            station.wait_connected();
            let readings = numbered(600);
            let lines: Vec<&str> = readings.iter().map(String::as_str).collect();
            publish(&broker, "solar/t/telemetry", false, &lines[..200]);
            // What is taken now comes back after the kill, whatever was acknowledged of it.
            station.signal("-STOP");
            publish(&broker, "solar/t/telemetry", false, &lines[200..400]);
            // mosquitto saves some time after it has said that it has the message: its own gap.
            let last = format!("\"power\":{}}}", 399);
            wait_for("the broker's own save", 20, || {
                // It looks for changes to save when something happens.
                publish(&broker, "elsewhere", true, &["x"]);
                let saved = std::fs::read(store.join("mosquitto.db")).unwrap_or_default();
                saved
                    .windows(last.len())
                    .any(|w| w == last.as_bytes())
                    .then_some(())
            });
            broker.kill();
            station.signal("-CONT");
            if seed % 2 == 1 || !without.is_empty() {
                station.kill_9();
                station.start();
            }
            broker.restart();
            publish(&broker, "solar/t/telemetry", false, &lines[400..]);
            station.wait_connected();
            harm_at_the_end(&broker, &station, 600)
        },
    );
}

/// Without a store the broker loses what it held. Then it is said so, and what comes after arrives.
#[test]
fn a_broker_that_lost_its_session_is_reported_and_subscribed_to_again() {
    check(
        "broker killed, store lost: reported",
        count(1, 50),
        "resubscribe",
        |without, _| {
            let dir = tempfile::tempdir().unwrap();
            let mut broker = Broker::start(dir.path(), "persistence false");
            let mut station = Station::new(&broker.url(), "");
            station.without = without;
            station.start();
            station.wait_connected();
            let readings = numbered(300);
            let lines: Vec<&str> = readings.iter().map(String::as_str).collect();
            publish(&broker, "solar/t/telemetry", false, &lines[..200]);
            wait_for("the rows before", 20, || {
                (station.rows() == 200).then_some(())
            });
            broker.kill();
            wait_for("the daemon to notice", 20, || {
                (station.status()["daemon"]["intake"]["connected"] == false).then_some(())
            });
            broker.restart();
            station.wait_connected();
            publish(&broker, "solar/t/telemetry", false, &lines[200..]);
            if !without.is_empty() {
                // Not even the last reading would come that ends the wait.
                let deadline = Instant::now() + NOTHING_MORE;
                wait_for("the rows, or the deadline", 60, || {
                    (station.rows() == 300 || Instant::now() > deadline).then_some(())
                });
                return harm(&station, 300);
            }
            let harm = harm_at_the_end(&broker, &station, 300);
            let reported = station.status()["daemon"]["intake"]["sessions_lost"] == 1;
            let noted =
                station.query::<i64>("SELECT count(*) FROM event WHERE kind = 'session_lost'");
            Harm {
                lost: harm.lost + i64::from(!reported) + i64::from(noted != 1),
                ..harm
            }
        },
    );
}

/// Between daemon and broker; connections older than the last `stall` forward nothing any more and
/// are not closed either, as when a cable is out.
struct Proxy {
    port: u16,
    stalled_below: Arc<AtomicU64>,
    made: Arc<AtomicU64>,
}

impl Proxy {
    fn start(broker: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stalled_below, made) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (stalled, number) = (stalled_below.clone(), made.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let Ok(server) = TcpStream::connect(("127.0.0.1", broker)) else {
                    continue;
                };
                let id = number.fetch_add(1, Ordering::SeqCst);
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let stalled = stalled.clone();
                    std::thread::spawn(move || pump(from, to, id, &stalled));
                }
            }
        });
        Self {
            port,
            stalled_below,
            made,
        }
    }

    fn stall(&self) {
        let made = self.made.load(Ordering::SeqCst);
        self.stalled_below.store(made, Ordering::SeqCst);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, id: u64, stalled_below: &AtomicU64) {
    let mut bytes = [0; 4096];
    while let Ok(n) = from.read(&mut bytes) {
        if id < stalled_below.load(Ordering::SeqCst) {
            // Kept open and silent until the test ends.
            std::thread::park_timeout(Duration::from_secs(600));
            return;
        }
        if n == 0 || to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

#[test]
fn a_half_open_connection_is_noticed_and_caught_up() {
    check(
        "half-open connection",
        count(1, 10),
        "silence_ends_it",
        |without, _| {
            const KEEP_ALIVE_S: u64 = 5;
            let dir = tempfile::tempdir().unwrap();
            let broker = Broker::start(dir.path(), "");
            let proxy = Proxy::start(broker.port);
            let url = format!("mqtt://127.0.0.1:{}", proxy.port);
            let mut station = Station::new(&url, &format!("keep_alive_s = {KEEP_ALIVE_S}"));
            station.without = without;
            station.start();
            station.wait_connected();
            proxy.stall();
            let readings = numbered(500);
            let lines: Vec<&str> = readings.iter().map(String::as_str).collect();
            publish(&broker, "solar/t/telemetry", false, &lines);
            // Noticed within 1.5 keep-alives, connected again within the first backoff; generous for a
            // busy machine, far below the kernel's own patience.
            let deadline = Instant::now() + Duration::from_secs(6 * KEEP_ALIVE_S);
            let caught_up = wait_for("the rows, or the deadline", 120, || {
                let late = Instant::now() > deadline;
                (station.rows() == 500 || late).then_some(!late)
            });
            if !caught_up {
                return Harm {
                    lost: 500 - station.rows(),
                    doubled: 0,
                };
            }
            harm_at_the_end(&broker, &station, 500)
        },
    );
}
