//! From a payload's bytes to a committed row: parsing alone, and through the writer by size of commit.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nightwatt::config::TopicRule;
use nightwatt::mqtt::payload;
use nightwatt::reading::{Reading, TimestampMs};
use nightwatt::store::{AckToken, Append, Committed, Store, Writer};

const NOW: TimestampMs = TimestampMs(1_789_214_430_500);
const TOPIC: &[u8] = b"solar/tracker01/telemetry";

/// Tells how many messages each commit acknowledged.
struct Heard(Sender<usize>);

impl Committed for Heard {
    fn acknowledge(&mut self, tokens: &[AckToken]) {
        let _ = self.0.send(tokens.len());
    }
    fn stored(&mut self, _: Vec<Reading>) {}
}

fn reader() -> payload::Reader {
    payload::Reader {
        rules: vec![TopicRule {
            filter: "solar/+/telemetry".into(),
            ..TopicRule::default()
        }],
        max_age_days: 36_500,
    }
}

/// The `i`-th reading; every one has a second of its own.
fn message(i: i64) -> String {
    format!(
        "{{\"device_id\":\"tracker01\",\"ts\":{},\"servo_angle\":41.5,\"lux\":50{:03},\"voltage\":18.3,\
         \"current\":1.12,\"power\":20.5,\"temperature\":31.2,\"humidity\":40.1,\"fan_on\":1}}",
        NOW.0 - 400 * 86_400_000 + i * 1000,
        i % 1000
    )
}

fn parse(reader: &payload::Reader, message: &str) -> Reading {
    let parsed = payload::parse(reader, TOPIC, message.as_bytes(), false, NOW, true);
    parsed.ok().flatten().expect("a good payload")
}

/// Parses and commits `messages`, as one commit as far as the writer finds them waiting.
fn commit(store: &Store, heard: &Receiver<usize>, reader: &payload::Reader, messages: &[String]) {
    for (i, message) in messages.iter().enumerate() {
        let append = Append {
            readings: vec![parse(reader, message)],
            reject: None,
            ack: Some(AckToken {
                epoch: 1,
                packet_id: 1 + i as u16,
            }),
        };
        assert!(store.try_append(append).is_ok(), "the queue is full");
    }
    let mut acknowledged = 0;
    while acknowledged < messages.len() {
        acknowledged += heard.recv().expect("the writer is there");
    }
}

fn ingest(c: &mut Criterion) {
    let reader = reader();
    let mut group = c.benchmark_group("ingest");
    group.throughput(Throughput::Elements(1));
    let one = message(0);
    group.bench_function("parse", |b| b.iter(|| parse(&reader, &one)));
    for at_once in [1_usize, 20, 200, 1000] {
        let dir = tempfile::tempdir().expect("a folder");
        let (tx, heard) = channel();
        // The linger makes it one commit of exactly this many.
        let linger = Duration::from_secs(u64::from(at_once > 1));
        let store = Writer::start(&dir.path().join("n.db"), linger, at_once, Heard(tx))
            .expect("a new store");
        let mut next = 0;
        group.throughput(Throughput::Elements(at_once as u64));
        group.bench_function(format!("parse, commit {at_once}, acknowledge"), |b| {
            b.iter_batched(
                || {
                    next += at_once as i64;
                    (next - at_once as i64..next)
                        .map(message)
                        .collect::<Vec<_>>()
                },
                |messages| commit(&store, &heard, &reader, &messages),
                criterion::BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, ingest);
criterion_main!(benches);
