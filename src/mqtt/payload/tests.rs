//! The decoder: every spelling, every refusal, and every example of docs/payloads.md.

use super::*;
use crate::reading::Field;

const NOW: TimestampMs = TimestampMs(1_789_214_430_500);
const TOPIC: &str = "solar/t07/telemetry";

fn reader(rules: &str) -> Reader {
    let rules: Vec<TopicRule> = toml::from_str::<HashMap<String, Vec<TopicRule>>>(rules)
        .unwrap()
        .remove("topics")
        .unwrap();
    Reader::new(&rules, 30).unwrap()
}

fn flat() -> Reader {
    reader("[[topics]]\nfilter = 'solar/+/telemetry'")
}

fn decode(reader: &mut Reader, topic: &str, payload: &str) -> Decoded {
    reader.decode(topic.as_bytes(), payload.as_bytes(), false, NOW, true)
}

fn read(payload: &str) -> Reading {
    let decoded = decode(&mut flat(), TOPIC, payload);
    assert_eq!(decoded.reject, None, "{payload}");
    decoded.readings.into_iter().next().unwrap()
}

fn ts_of(payload: &str) -> (i64, TimeSource) {
    let r = read(payload);
    (r.ts.0, r.time_source)
}

#[test]
fn a_flat_object_becomes_a_reading() {
    let r = read(
        r#"{"device_id":"x1","ts":"2026-09-12T12:00:00Z","servo_angle":37.5,"lux":48210,
            "voltage":"36.9","current":"7,81","power":288.2,"temperature":null,
            "humidity":"unavailable","fan_on":true,"firmware":"1.2"}"#,
    );
    assert_eq!(
        (r.device.as_str(), r.ts.0, r.received),
        ("x1", 1_789_214_400_000, NOW)
    );
    let v: Vec<_> = r.values.iter().collect();
    use crate::reading::Field::*;
    assert_eq!(
        v,
        [
            (ServoAngle, 37.5),
            (Lux, 48210.0),
            (Voltage, 36.9),
            (Current, 7.81),
            (Power, 288.2),
            (FanOn, 1.0)
        ]
    );
}

#[test]
fn times_in_every_spelling() {
    let device = |ms| (ms, TimeSource::Device);
    for ts in [
        "1789214400",
        "1789214400000",
        "1789214400.0",
        "\"1789214400\"",
        "\"2026-09-12T14:00:00+02:00\"",
        "\"2026-09-12T12:00:00\"",
        "\"2026-09-12 12:00:00.000\"",
    ] {
        let payload = format!("{{\"ts\":{ts},\"power\":1}}");
        assert_eq!(ts_of(&payload), device(1_789_214_400_000), "{ts}");
    }
    assert_eq!(
        ts_of(r#"{"timestamp":1789214400123,"power":1}"#),
        device(1_789_214_400_123)
    );
    for none in [
        r#"{"power":1}"#,
        r#"{"ts":null,"power":1}"#,
        r#"{"ts":"","power":1}"#,
    ] {
        assert_eq!(ts_of(none), (1_789_214_400_000, TimeSource::Received));
    }
    for wrong in ["0", "1e300", "\"2036-09-12T12:00:00Z\"", "-1"] {
        let payload = format!("{{\"ts\":{wrong},\"power\":1}}");
        assert_eq!(ts_of(&payload), (NOW.0, TimeSource::Implausible), "{wrong}");
    }
}

#[test]
fn a_retained_message_is_news_only_with_a_believable_time_of_its_own() {
    let retained = |payload: &str| {
        let decoded = flat().decode(TOPIC.as_bytes(), payload.as_bytes(), true, NOW, true);
        assert_eq!(decoded.reject, None);
        decoded.readings.len()
    };
    assert_eq!(retained(r#"{"power":1}"#), 0);
    assert_eq!(retained(r#"{"ts":1789214400,"power":1}"#), 1);
    // Its arrival would be its time: a new row at every start.
    assert_eq!(retained(r#"{"ts":0,"power":1}"#), 0);
}

#[test]
fn absence_is_no_error_and_no_row() {
    for payload in [
        "",
        "null",
        r#"{"power":null}"#,
        r#"{"ts":1789214400,"power":"nan","lux":"unavailable","voltage":"","current":"unknown"}"#,
    ] {
        assert_eq!(
            decode(&mut flat(), TOPIC, payload),
            Decoded::default(),
            "{payload}"
        );
    }
}

#[test]
fn a_number_that_is_none_costs_no_other_value() {
    let r = read(r#"{"ts":1789214400,"power":288.2,"lux":NaN,"voltage":-Infinity,"current":-nan}"#);
    let values: Vec<_> = r.values.iter().collect();
    assert_eq!(values, [(Field::Power, 288.2)]);
    assert_eq!(
        decode(&mut flat(), TOPIC, "{\"power\":NaN}"),
        Decoded::default()
    );
    let mut victron = reader("[[topics]]\nfilter = 'N/+/+/+/#'\npreset = 'victron'");
    let topic = "N/p/pvinverter/20/Ac/Power";
    assert_eq!(
        decode(&mut victron, topic, "{\"value\":nan}"),
        Decoded::default()
    );
    // As large as may be, and larger once it is mended.
    let rest = "x".repeat(MAX_PAYLOAD_BYTES - 28);
    let large = format!("{{\"lux\":NaN,\"power\":1,\"x\":\"{rest}\"}}");
    assert_eq!(large.len(), MAX_PAYLOAD_BYTES);
    read(&large);
}

#[test]
fn every_value_of_a_batch_counts() {
    let mut reader = reader("[[topics]]\nfilter = 'solar/+/batch'\npreset = 'batch'");
    let mut of = |readings: usize| {
        let one = "{\"ts\":1789214400,\"power\":1,\"lux\":2}";
        let payload = format!("[{}]", vec![one; readings].join(","));
        decode(&mut reader, "solar/t07/batch", &payload).reject
    };
    assert_eq!(of(85), None);
    assert_eq!(of(86), Some(RejectReason::TooManyValues));
}

#[test]
fn everything_else_is_refused_with_its_reason() {
    let deep = "[".repeat(5000);
    let wide = format!("{{\"power\":1,\"x\":[{}]}}", vec!["1"; 256].join(","));
    let large = format!(r#"{{"power":1,"x":"{}"}}"#, "x".repeat(MAX_PAYLOAD_BYTES));
    for (payload, reason) in [
        ("{\"power\":", RejectReason::NotJson),
        ("\u{0}\u{1}", RejectReason::NotJson),
        ("{\"power\":1}x", RejectReason::NotJson),
        ("{\"power\":NaN", RejectReason::NotJson),
        ("{\"power\":nano}", RejectReason::NotJson),
        ("{\"power\":1e400}", RejectReason::NotJson),
        (deep.as_str(), RejectReason::TooDeep),
        (wide.as_str(), RejectReason::TooManyValues),
        (large.as_str(), RejectReason::TooLarge),
        ("[1]", RejectReason::NotAnObject),
        ("288.2", RejectReason::NotAnObject),
        (r#"{"device_id":"a/b","power":1}"#, RejectReason::NoDevice),
        (r#"{"device_id":"","power":1}"#, RejectReason::NoDevice),
        (r#"{"ts":"yesterday","power":1}"#, RejectReason::BadTime),
        (r#"{"ts":{},"power":1}"#, RejectReason::BadTime),
        (r#"{"power":"lots"}"#, RejectReason::BadValue),
        (r#"{"power":[1]}"#, RejectReason::BadValue),
        (r#"{"power":1e300}"#, RejectReason::BadValue),
        (r#"{"power":"inf"}"#, RejectReason::BadValue),
        (r#"{"watts":1}"#, RejectReason::NoValues),
    ] {
        let decoded = decode(&mut flat(), TOPIC, payload);
        assert_eq!(decoded.reject, Some(reason), "{payload:.40}");
        assert!(decoded.readings.is_empty(), "{payload:.40}");
    }
    let other = decode(&mut flat(), "else/t/where", "{\"power\":1}");
    assert_eq!(other.reject, Some(RejectReason::UnknownTopic));
    let not_utf8 = flat().decode(b"solar/\xff/telemetry", b"{\"power\":1}", false, NOW, true);
    assert_eq!(not_utf8.reject, Some(RejectReason::UnknownTopic));
}

#[test]
fn a_batch_keeps_its_good_readings_and_counts_the_message_once() {
    let mut reader = reader("[[topics]]\nfilter = 'solar/+/batch'\npreset = 'batch'");
    let decoded = decode(
        &mut reader,
        "solar/t07/batch",
        r#"{"readings":[{"ts":1789214400,"power":1},{"ts":"x","power":2},7,
            {"ts":1789214410,"power":3},{"power":4}]}"#,
    );
    let powers: Vec<_> = decoded
        .readings
        .iter()
        .map(|r| (r.device.as_str(), r.ts.0, r.values.get(Field::Power)))
        .collect();
    assert_eq!(
        powers,
        [
            ("t07", 1_789_214_400_000, Some(1.0)),
            ("t07", 1_789_214_410_000, Some(3.0))
        ]
    );
    assert_eq!(decoded.reject, Some(RejectReason::BadTime));
}

#[test]
fn a_sibling_time_is_the_devices_own_and_never_an_old_one() {
    let mut reader = reader("[[topics]]\nfilter = 'solar/+/#'\npreset = 'opendtu'");
    let none = |decoded: Decoded, reason| {
        assert_eq!((decoded.readings.len(), decoded.reject), (0, reason));
    };
    let no_time = Some(RejectReason::NoTime);
    none(decode(&mut reader, "solar/1/0/power", "288.2"), no_time);
    // A retained time is of a message that is over.
    let at = |reader: &mut Reader, topic: &str, payload: &str, retain| {
        reader.decode(topic.as_bytes(), payload.as_bytes(), retain, NOW, true)
    };
    none(
        at(
            &mut reader,
            "solar/1/status/last_update",
            "1789214400",
            true,
        ),
        None,
    );
    none(decode(&mut reader, "solar/1/0/power", "288.2"), no_time);
    none(
        at(
            &mut reader,
            "solar/1/status/last_update",
            "1789214400",
            false,
        ),
        None,
    );
    none(decode(&mut reader, "solar/2/0/power", "1"), no_time);
    none(at(&mut reader, "solar/1/0/power", "288.2", true), None);
    let live = decode(&mut reader, "solar/1/0/power", "288.2")
        .readings
        .remove(0);
    assert_eq!(
        (live.device.as_str(), live.ts.0, live.time_source),
        ("1", 1_789_214_400_000, TimeSource::Device)
    );
    none(
        decode(&mut reader, "solar/1/status/last_update", "x"),
        Some(RejectReason::BadTime),
    );
}

#[test]
fn times_of_endless_devices_are_not_all_remembered() {
    let mut reader = reader("[[topics]]\nfilter = 'solar/+/#'\npreset = 'opendtu'");
    for i in 0..2 * MAX_SIBLING_TIMES {
        decode(
            &mut reader,
            &format!("solar/{i}/status/last_update"),
            "1789214400",
        );
    }
    assert_eq!(reader.sibling_times.len(), MAX_SIBLING_TIMES);
}

#[test]
fn rules_for_bare_values_share_a_filter_by_the_names_they_know() {
    let mut reader = reader(
        "[[topics]]\nfilter = 'ha/sensor/+/state'\npreset = 'statestream'\ndevice = 'east'
         fields.power = 'east_power'
         [[topics]]\nfilter = 'ha/sensor/+/state'\npreset = 'statestream'\ndevice = 'west'
         fields.power = { key = 'west_power', unit = 'kW' }",
    );
    let mut device_power = |topic: &str, payload: &str| {
        let reading = decode(&mut reader, topic, payload).readings.pop()?;
        Some((
            reading.device.as_str().to_owned(),
            reading.values.get(Field::Power)?,
        ))
    };
    assert_eq!(
        device_power("ha/sensor/east_power/state", "5"),
        Some(("east".into(), 5.0))
    );
    assert_eq!(
        device_power("ha/sensor/west_power/state", "\"0.5\""),
        Some(("west".into(), 500.0))
    );
    assert_eq!(device_power("ha/sensor/other/state", "nonsense {"), None);
}

#[test]
fn a_field_of_a_preset_can_be_switched_off() {
    let mut reader = reader("[[topics]]\nfilter = 'a/+'\nfields.voltage = 'none'");
    let decoded = decode(&mut reader, "a/b", r#"{"voltage":3000,"none":7,"power":1}"#);
    let values: Vec<_> = decoded.readings[0].values.iter().collect();
    assert_eq!(values, [(Field::Power, 1.0)]);
}

/// The page cannot lie: its rules are compiled, its messages decoded, its results compared.
#[test]
fn every_example_of_the_payloads_page_is_true() {
    let page = include_str!("../../../docs/payloads.md");
    let received = DateTimeText::find(page);
    let mut reader = None;
    let (mut examples, mut presets_shown) = (0, std::collections::BTreeSet::new());
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```").filter(|k| !k.is_empty()) else {
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
        match kind {
            "toml" => {
                let text = block.join("\n");
                let table: HashMap<String, HashMap<String, Vec<TopicRule>>> =
                    toml::from_str(&text).unwrap();
                let rules = &table["mqtt"]["topics"];
                presets_shown.extend(rules.iter().map(|r| r.preset_name().to_owned()));
                reader = Some(Reader::new(rules, 30).unwrap());
            }
            "text" => {
                let reader = reader.as_mut().expect("a rule before its messages");
                examples += run_examples(reader, &block, received);
            }
            other => panic!("a block of {other} that no test reads"),
        }
    }
    assert!(examples >= 25, "{examples}");
    let all: Vec<String> = crate::config::presets().unwrap().into_keys().collect();
    assert_eq!(presets_shown.into_iter().collect::<Vec<_>>(), all);
    for reason in RejectReason::ALL {
        assert!(
            page.contains(&format!("`{}`", reason.as_str())),
            "{reason:?}"
        );
    }
    for setting in [
        "filter", "preset", "device", "name", "batch", "time", "timezone", "sparse", "fields",
    ] {
        assert!(page.contains(&format!("| `{setting}` |")), "{setting}");
    }
}

/// The receive time that the page states.
struct DateTimeText;

impl DateTimeText {
    fn find(page: &str) -> TimestampMs {
        let text = page.split("received at `").nth(1).unwrap();
        let time = text.split('`').next().unwrap();
        chrono::DateTime::parse_from_rfc3339(time)
            .unwrap()
            .to_utc()
            .into()
    }
}

/// Messages, each followed by lines that begin with an arrow: what it comes to.
fn run_examples(reader: &mut Reader, block: &[&str], received: TimestampMs) -> usize {
    let mut at = 0;
    let mut examples = 0;
    while at < block.len() {
        let (topic, payload) = block[at].split_once(' ').unwrap_or((block[at], ""));
        let (payload, retain) = match payload.strip_suffix(" (retained)") {
            Some(payload) => (payload, true),
            None => (payload, false),
        };
        at += 1;
        let decoded = reader.decode(topic.as_bytes(), payload.as_bytes(), retain, received, true);
        let mut said = describe(&decoded);
        said.reverse();
        while let Some(wanted) = block.get(at).and_then(|l| l.strip_prefix("→ ")) {
            assert_eq!(said.pop().as_deref(), Some(wanted), "{topic} {payload}");
            at += 1;
        }
        assert!(said.is_empty(), "{topic} {payload}: also {said:?}");
        examples += 1;
    }
    examples
}

fn describe(decoded: &Decoded) -> Vec<String> {
    let mut said: Vec<String> = decoded.readings.iter().map(guess::describe).collect();
    said.extend(decoded.reject.map(|r| format!("refused: {}", r.as_str())));
    if said.is_empty() {
        said.push("nothing new".into());
    }
    said
}

#[test]
fn what_we_publish_ourselves_is_never_a_reading() {
    let rule = TopicRule {
        filter: "#".into(),
        ..TopicRule::default()
    };
    let reader = Reader::new(&[rule], 30).unwrap();
    let payload = br#"{"device":"t","power":7}"#;
    let own = "nightwatt/t/forecast";
    let ignoring = reader.without("nightwatt");
    let live = |mut reader: Reader, topic: &str| {
        let decoded = reader.decode(topic.as_bytes(), payload, false, NOW, true);
        decoded.readings.len()
    };
    assert_eq!(live(ignoring.clone(), own), 0);
    assert_eq!(live(ignoring, "nightwatts/t"), 1);
}
