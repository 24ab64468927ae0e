//! What holds for any bytes, topics and rules.

use proptest::prelude::*;

use super::*;
use crate::config::{FieldSource, OneOrMany};
use crate::mqtt::flat::encode_flat;
use crate::reading::Field;

const NOW: TimestampMs = TimestampMs(1_789_214_430_500);

fn preset_reader(name: &str) -> Reader {
    let mut rule = crate::config::presets().unwrap().remove(name).unwrap();
    rule.preset = Some(name.to_owned());
    Reader::new(&[rule], 30).unwrap()
}

/// Topics of the shapes that the presets are made for, among others.
fn topic() -> impl Strategy<Value = String> {
    let level = prop_oneof![
        Just("solar".to_owned()),
        Just("1".to_owned()),
        Just("sensor".to_owned()),
        Just("state".to_owned()),
        Just("power".to_owned()),
        Just("0".to_owned()),
        Just("status".to_owned()),
        Just("last_update".to_owned()),
        Just("batch".to_owned()),
        Just("telemetry".to_owned()),
        Just("events".to_owned()),
        Just("rpc".to_owned()),
        Just("tele".to_owned()),
        Just("SENSOR".to_owned()),
        Just("zigbee2mqtt".to_owned()),
        Just("N".to_owned()),
        "[^/]{0,3}",
    ];
    prop::collection::vec(level, 1..6).prop_map(|levels| levels.join("/"))
}

/// JSON with keys of ours in it, and values of every kind.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| serde_json::Value::from(n).to_string()),
        (1_786_000_000_i64..1_790_000_000).prop_map(|n| n.to_string()),
        Just("\"2026-09-12T12:00:00Z\"".to_owned()),
        Just("\"21,5\"".to_owned()),
        Just("\"nan\"".to_owned()),
        Just("NaN".to_owned()),
        Just("-Infinity".to_owned()),
        ".{0,6}".prop_map(|s| serde_json::Value::from(s).to_string()),
        "[+-]?[0-9]{1,6}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}"
            .prop_map(|s| format!("{s:?}")),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        let key = prop_oneof![
            Just("power".to_owned()),
            Just("lux".to_owned()),
            Just("ts".to_owned()),
            Just("device_id".to_owned()),
            Just("readings".to_owned()),
            Just("ENERGY".to_owned()),
            Just("params".to_owned()),
            Just("value".to_owned()),
            "[a-z]{0,3}",
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|v| format!("[{}]", v.join(","))),
            prop::collection::vec((key, inner), 0..6).prop_map(|members| {
                let members: Vec<String> = members
                    .into_iter()
                    .map(|(k, v)| format!("{}:{v}", serde_json::Value::from(k)))
                    .collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..64),
        1 => ".{0,40}".prop_map(String::into_bytes),
        4 => json().prop_map(String::into_bytes),
    ]
}

fn one_of_the_legal_ends(decoded: &Decoded, payload: &[u8], retain: bool) {
    for reading in &decoded.readings {
        assert!(!reading.values.is_empty());
        assert!(reading.values.iter().all(|(_, v)| v.abs() <= 1e9));
        let name = reading.device.as_str();
        assert!(!name.is_empty() && name.chars().count() <= MAX_DEVICE_CHARS);
        assert!(!name.contains(['/', '+', '#']));
        let age = reading.received.0 - reading.ts.0;
        assert!((-NEWEST_MS..=30 * DAY_MS).contains(&age));
        match reading.time_source {
            TimeSource::Device => {}
            _ if retain => panic!("a retained message became news: {reading:?}"),
            TimeSource::Received => assert_eq!(reading.ts.0 % BUCKET_MS, 0),
            TimeSource::Implausible => assert_eq!(reading.ts, reading.received),
        }
    }
    assert!(decoded.readings.len() <= json::MAX_VALUES);
    if payload.is_empty() {
        assert!(decoded.readings.is_empty());
    }
}

/// Text that rules are made of.
fn setting() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("{1}".to_owned()),
        Just("{2}-{1}".to_owned()),
        Just("{device_id}".to_owned()),
        Just("none".to_owned()),
        Just("*.power".to_owned()),
        Just("readings".to_owned()),
        "[a-z.*0-9{}]{0,8}",
        ".{0,6}",
    ]
}

fn settings() -> impl Strategy<Value = Option<OneOrMany<String>>> {
    prop::option::of(prop::collection::vec(setting(), 0..3).prop_map(OneOrMany))
}

fn rule() -> impl Strategy<Value = TopicRule> {
    let source = (
        setting(),
        prop::option::of(prop_oneof![Just("kW".to_owned()), "[a-zA-Z]{0,2}"]),
        prop::option::of(any::<f64>()),
        prop::option::of(any::<f64>()),
    )
        .prop_map(|(key, unit, scale, offset)| FieldSource {
            key,
            unit,
            scale,
            offset,
        });
    let sources = prop::collection::vec(source, 0..3).prop_map(OneOrMany);
    let field = prop::sample::select(&Field::ALL[..]);
    let preset = prop_oneof![
        Just("flat"),
        Just("batch"),
        Just("tasmota"),
        Just("esphome"),
        Just("opendtu"),
        Just("victron"),
        Just("no such")
    ];
    (
        prop_oneof!["([a-z]{0,2}|\\+)(/([a-z]{0,2}|\\+)){0,4}(/#)?", ".{0,8}"],
        prop::option::of(preset.prop_map(str::to_owned)),
        settings(),
        prop::option::of(setting()),
        prop::option::of(setting()),
        settings(),
        prop::option::of(any::<bool>()),
        prop::collection::btree_map(field, sources, 0..4),
    )
        .prop_map(
            |(filter, preset, device, name, batch, time, sparse, fields)| TopicRule {
                filter,
                preset,
                device,
                name,
                batch,
                time,
                timezone: Some(chrono_tz::Tz::Europe__Madrid),
                sparse,
                fields,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_message_ends_legally_under_every_preset(
        topic in topic(), payload in payload(), retain: bool,
        preset in prop::sample::select(vec![
            "flat", "batch", "tasmota", "esphome", "statestream", "opendtu", "victron", "zigbee2mqtt", "shelly",
        ]),
    ) {
        let mut reader = preset_reader(preset);
        // Twice, because a time may be remembered.
        for _ in 0..2 {
            let decoded = reader.decode(topic.as_bytes(), &payload, retain, NOW, true);
            one_of_the_legal_ends(&decoded, &payload, retain);
        }
    }

    #[test]
    fn any_rules_are_refused_or_work(
        rules in prop::collection::vec(rule(), 1..4), topic in topic(), payload in payload(), retain: bool,
    ) {
        match Reader::new(&rules, 30) {
            Ok(mut reader) => {
                let decoded = reader.decode(topic.as_bytes(), &payload, retain, NOW, true);
                one_of_the_legal_ends(&decoded, &payload, retain);
            }
            Err(error) => {
                prop_assert!(error.key.starts_with('['));
                prop_assert!(!error.problem.is_empty());
            }
        }
    }

    #[test]
    fn flat_json_comes_back_to_the_last_bit(
        values in prop::array::uniform8(prop::option::of(-1e9..=1e9_f64)),
        tiny: f64, ts in NOW.0 - 29 * DAY_MS..NOW.0,
    ) {
        let mut sent = Values::default();
        for (field, value) in Field::ALL.into_iter().zip(values) {
            sent.set(field, value);
        }
        sent.set(Field::Lux, Some(tiny).filter(|t| t.abs() <= 1e9));
        let payload = encode_flat(&DeviceId::new("t"), TimestampMs(ts), &sent);
        let decoded = preset_reader("flat").decode(b"solar/x/telemetry", payload.as_bytes(), false, NOW, true);
        prop_assert_eq!(decoded.reject, sent.is_empty().then_some(RejectReason::NoValues));
        let bits = |v: &Values| v.iter().map(|(f, v)| (f, v.to_bits())).collect::<Vec<_>>();
        match decoded.readings.first() {
            None => prop_assert!(sent.is_empty()),
            Some(reading) => {
                prop_assert_eq!(reading.ts.0, ts);
                prop_assert_eq!(bits(&reading.values), bits(&sent));
            }
        }
    }

    #[test]
    fn filters_are_valid_as_the_mqtt_library_says(filter in "[a+#/\u{e9}]{0,8}") {
        prop_assert_eq!(valid_filter(&filter), rumqttc::valid_filter(&filter));
    }

    #[test]
    fn filters_match_as_the_mqtt_library_says(topic in topic(), filter in "([a-z1]{0,6}|\\+)(/([a-z]{0,6}|\\+)){0,4}(/#)?") {
        // Of a topic that begins with a letter of more than one byte, rumqttc 0.25 panics.
        prop_assume!(!topic.contains(['+', '#', '$']) && topic.starts_with(|c: char| c.is_ascii()));
        let rule = TopicRule { filter: filter.clone(), device: Some(OneOrMany(vec!["d".into()])), ..TopicRule::default() };
        let Ok(reader) = Reader::new(&[rule], 30) else { return Ok(()) };
        prop_assert_eq!(reader.rules[0].filter.matches(&topic).is_some(), rumqttc::matches(&topic, &filter));
    }

    #[test]
    fn only_bare_words_for_no_number_are_mended(
        payload in payload(), words in "[\\[\\]{},:\"\\\\ a1-]{0,8}(NaN|nan|-Infinity|inf)[\\[\\]{},:\"\\\\ a1-]{0,8}",
    ) {
        // What is JSON has none of them outside of its strings.
        if Json::parse(&payload).is_ok() {
            prop_assert_eq!(json::nan_as_null(&payload), None);
        }
        if let Some(mended) = json::nan_as_null(words.as_bytes()) {
            prop_assert!(Json::parse(words.as_bytes()).is_err());
            prop_assert_eq!(json::nan_as_null(&mended), None);
        }
    }

    #[test]
    fn a_topic_is_subscribed_to_exactly_where_a_rule_matches_it(
        filters in prop::collection::vec("(\\$?[ab]?|\\+)(/([ab]?|\\+)){0,3}(/#)?|#", 1..5),
        topic in "\\$?[ab]?(/[ab]?){0,3}",
    ) {
        let matched = |filters: &[&str]| {
            filters.iter().filter(|f| template::matches(f, &topic)).count()
        };
        let all: Vec<&str> = filters.iter().map(String::as_str).collect();
        let kept = uncovered(all.iter().copied());
        prop_assert_eq!(matched(&all) > 0, matched(&kept) > 0);
        // Once, but for what is told of.
        prop_assert!(matched(&kept) <= 1 || !overlapping(&all).is_empty());
    }

    #[test]
    fn guesses_of_anything_are_rules_that_work(messages in prop::collection::vec((topic(), payload()), 1..8)) {
        let seen: Vec<guess::Seen> = messages
            .into_iter()
            .map(|(topic, sample)| guess::Seen { topic, messages: 1, sample })
            .collect();
        let guesses = guess::guess(&seen, NOW, chrono_tz::Tz::Asia__Tokyo);
        for found in &guesses.patterns {
            prop_assert!(Reader::new(std::slice::from_ref(&found.rule), 30).is_ok());
            let again: HashMap<String, HashMap<String, Vec<TopicRule>>> = toml::from_str(&found.toml).unwrap();
            prop_assert_eq!(&again["mqtt"]["topics"][0], &found.rule);
        }
    }
}
