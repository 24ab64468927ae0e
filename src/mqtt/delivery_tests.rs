//! Delivery whatever the queues hold: a real broker, the real intake and writer, and room for one or two.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admission::Admission;
use super::intake::{Acknowledger, Intake, IntakeShared};
use super::link::{LinkEvent, LinkOptions};
use super::mosquitto::Mosquitto;
use super::payload;
use super::publish::Publisher;
use crate::clock::{Clock, SystemClock};
use crate::config::{MqttConfig, Protocol};
use crate::store::{Reader, Writer, WriterGauges};

const MESSAGES: i64 = 20;

fn rows(db: &Path) -> i64 {
    let reader = Reader::open(db).unwrap();
    let day = crate::reading::TimestampMs(i64::MAX);
    reader.samples(crate::reading::TimestampMs(0), day).count() as i64
}

/// Numbered readings, published while their session at the broker waits for its owner.
async fn publish(broker: &Mosquitto, options: &LinkOptions, now_ms: i64) {
    let (sender, mut link) = options.open();
    loop {
        match link.poll(true).await.unwrap() {
            LinkEvent::Connected { .. } => {
                sender.subscribe(["solar/+/telemetry"].into_iter());
            }
            LinkEvent::Subscribed { .. } => break,
            _ => {}
        }
    }
    drop(link);
    let port = broker.url().port.to_string();
    let mut publisher = Command::new("mosquitto_pub")
        .args(["-p", &port, "-q", "1", "-t", "solar/t/telemetry", "-l"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = publisher.stdin.take().unwrap();
    for i in 0..MESSAGES {
        writeln!(lines, "{{\"ts\":{},\"power\":{i}}}", now_ms - i * 1000).unwrap();
    }
    drop(lines);
    assert!(publisher.wait().unwrap().success());
}

async fn deliver(protocol: Protocol, places: usize, requests: usize) {
    let broker = Mosquitto::start();
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("n.db");
    let mqtt = MqttConfig {
        url: broker.url().to_string(),
        protocol,
        ..MqttConfig::default()
    };
    let shared = Arc::new(IntakeShared::default());
    let options = LinkOptions::new(&mqtt, "", None).unwrap();
    let mut options = Intake::options(options, "nightwatt/status".into());
    options.requests = requests;
    publish(&broker, &options, SystemClock.now().0).await;
    let (sender, link) = options.open();
    let (stored, _unheard) = flume::bounded(1);
    let acknowledger = Acknowledger::new(shared.clone(), sender.clone(), stored, Arc::default());
    let store = Writer::start_sized(
        &db,
        Duration::ZERO,
        places,
        (places, WriterGauges::default()),
        acknowledger,
    )
    .unwrap();
    let out = LinkOptions::new(&mqtt, "-out", None).unwrap();
    let (publisher, _not_polled) = Publisher::new(&out, "nightwatt");
    let intake = Intake {
        announced: None,
        link,
        sender,
        reader: payload::Reader::new(&mqtt.topics, 30).unwrap(),
        admission: Admission::new([], 10, 10),
        store: store.clone(),
        publisher,
        shared: shared.clone(),
        clock: Arc::new(SystemClock),
        expects_session: false,
        subscribed: false,
        formerly: Vec::new(),
        client_id: mqtt.client_id.clone(),
        session_of: None,
        waiting: None,
        started: Instant::now(),
    };
    let running = tokio::spawn(intake.run());
    let deadline = Instant::now() + Duration::from_secs(60);
    while rows(&db) < MESSAGES {
        assert!(
            Instant::now() < deadline && !running.is_finished(),
            "stuck at {} of {MESSAGES} rows with {places} places and {requests} requests",
            rows(&db)
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.abort();
    assert_eq!(rows(&db), MESSAGES);
}

#[test]
fn nothing_stands_still_whatever_the_queues_hold() {
    for protocol in [Protocol::V5, Protocol::V311] {
        for (places, requests) in [(1, 1), (2, 1), (3, 2)] {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(deliver(protocol, places, requests));
        }
    }
}
