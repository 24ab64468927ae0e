//! Any message under every preset: topic, a newline, payload; the first byte's lowest bit is retain.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use nightwatt_fuzz::config::presets;
use nightwatt_fuzz::mqtt::payload::{MAX_PAYLOAD_BYTES, Reader, guess};
use nightwatt_fuzz::reading::{TimeSource, TimestampMs};

const NOW: TimestampMs = TimestampMs(1_789_214_430_500);

/// A reader for each preset, with the preset's own filter and once for every topic.
fn readers() -> &'static [Reader] {
    static READERS: OnceLock<Vec<Reader>> = OnceLock::new();
    READERS.get_or_init(|| {
        let mut readers = Vec::new();
        for (name, mut rule) in presets().expect("the presets are sound") {
            rule.preset = Some(name);
            readers.push(Reader::new(&[rule.clone()], 30).expect("a preset with its own filter"));
            rule.filter = "+/+/+/#".into();
            rule.device = None;
            rule.name = None;
            readers.extend(Reader::new(&[rule], 30));
        }
        readers
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((&flags, message)) = data.split_first() else {
        return;
    };
    let cut = message.iter().position(|b| *b == b'\n').unwrap_or(message.len());
    let (topic, payload) = (&message[..cut], message.get(cut + 1..).unwrap_or_default());
    let retain = flags & 1 == 1;
    for reader in readers() {
        let mut reader = reader.clone();
        for _ in 0..2 {
            let decoded = reader.decode(topic, payload, retain, NOW, true);
            assert!(payload.len() <= MAX_PAYLOAD_BYTES || decoded.reject.is_some());
            for reading in decoded.readings {
                assert!(!reading.values.is_empty());
                assert!(reading.values.iter().all(|(_, v)| v.abs() <= 1e9));
                assert!(!retain || reading.time_source == TimeSource::Device);
                assert!(!reading.device.as_str().is_empty());
            }
        }
    }
    if flags & 2 == 2
        && let Ok(topic) = std::str::from_utf8(topic)
    {
        let seen = guess::Seen { topic: topic.into(), messages: 1, sample: payload.to_vec() };
        for pattern in guess::guess(&[seen], NOW).patterns {
            assert!(Reader::new(&[pattern.rule], 30).is_ok());
        }
    }
});
