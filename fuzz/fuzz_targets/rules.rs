//! Any rule: TOML, a zero byte, topic, a newline, payload. Refused with a reason, or it works.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nightwatt_fuzz::config::TopicRule;
use nightwatt_fuzz::mqtt::payload::Reader;
use nightwatt_fuzz::reading::TimestampMs;

const NOW: TimestampMs = TimestampMs(1_789_214_430_500);

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |b| *b == 0);
    let text = parts.next().unwrap_or_default();
    let message = parts.next().unwrap_or_default();
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let Ok(rule) = toml::from_str::<TopicRule>(text) else {
        return;
    };
    match Reader::new(&[rule], 30) {
        Err(error) => assert!(!error.key.is_empty() && !error.problem.is_empty()),
        Ok(mut reader) => {
            assert_eq!(reader.filters().count(), 1);
            let mut message = message.splitn(2, |b| *b == b'\n');
            let topic = message.next().unwrap_or_default();
            let payload = message.next().unwrap_or_default();
            for reading in reader.decode(topic, payload, false, NOW, true).readings {
                assert!(reading.values.iter().all(|(_, v)| v.abs() <= 1e9));
            }
        }
    }
});
