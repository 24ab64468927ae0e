//! Topic and bytes to readings: pure, and every message ends as readings, a reject, or nothing new.

use chrono::{DateTime, NaiveDateTime, TimeZone};
use chrono_tz::Tz;
use serde_json::{Map, Value};

use crate::config::TopicRule;
use crate::reading::{DeviceId, Field, Reading, TimeSource, TimestampMs, Values};

const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
const MAX_DEVICE_CHARS: usize = 64;
/// Readings without a time of their own share a row per minute.
const BUCKET_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;
/// A device time newer than this is not believed.
const NEWEST_MS: i64 = DAY_MS;
const DEVICE_KEYS: [&str; 2] = ["device_id", "device"];
const TIME_KEYS: [&str; 3] = ["ts", "time", "timestamp"];

/// Why a message carries no reading; [`RejectReason::as_str`] is the stable word it is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// Larger than 256 KiB.
    TooLarge,
    /// No payload at all.
    Empty,
    /// Topic is not UTF-8 or no rule matches it.
    UnknownTopic,
    /// Payload is not JSON (or nested too deep, or not UTF-8).
    NotJson,
    /// JSON, but not an object.
    NotAnObject,
    /// Neither payload nor topic names a usable device.
    NoDevice,
    /// The time is there and cannot be read.
    BadTime,
    /// A known field holds something that is not a number.
    BadValue,
    /// Not one known field.
    NoValues,
    /// A new device, and there are as many as there may be.
    TooManyDevices,
    /// A new device, and there have been many in the last minute.
    NewDevicesTooFast,
}

impl RejectReason {
    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Empty => "empty",
            Self::UnknownTopic => "unknown_topic",
            Self::NotJson => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::NoDevice => "no_device",
            Self::BadTime => "bad_time",
            Self::BadValue => "bad_value",
            Self::NoValues => "no_values",
            Self::TooManyDevices => "too_many_devices",
            Self::NewDevicesTooFast => "new_devices_too_fast",
        }
    }
}

/// How messages are read.
#[derive(Clone, Debug)]
pub struct Reader {
    /// What matches which topic.
    pub rules: Vec<TopicRule>,
    /// A device time older than this is not believed.
    pub max_age_days: u32,
}

/// Reads one message. `Ok(None)` is a retained message without a time of its own: an old value that
/// must not become a new reading.
pub fn parse(
    reader: &Reader,
    topic: &[u8],
    payload: &[u8],
    retain: bool,
    received: TimestampMs,
    clock_trusted: bool,
) -> Result<Option<Reading>, RejectReason> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(RejectReason::TooLarge);
    }
    if payload.is_empty() {
        return Err(RejectReason::Empty);
    }
    let topic = std::str::from_utf8(topic).map_err(|_| RejectReason::UnknownTopic)?;
    let rule = reader
        .rules
        .iter()
        .find(|r| rumqttc::matches(topic, &r.filter))
        .ok_or(RejectReason::UnknownTopic)?;
    let object = match serde_json::from_slice(payload) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Err(RejectReason::NotAnObject),
        Err(_) => return Err(RejectReason::NotJson),
    };
    let device = device(&object, topic, &rule.filter).ok_or(RejectReason::NoDevice)?;
    let own_time = own_time(&object, rule.timezone.unwrap_or(Tz::UTC))?;
    if own_time.is_none() && retain {
        return Ok(None);
    }
    let values = values(&object, rule)?;
    let (ts, time_source) = decide_time(own_time, received, reader.max_age_days);
    Ok(Some(Reading {
        device,
        ts,
        received,
        time_source,
        clock_trusted,
        values,
    }))
}

/// The device: named by the payload, else by the topic level of the filter's first `+`.
fn device(object: &Map<String, Value>, topic: &str, filter: &str) -> Option<DeviceId> {
    let named = DEVICE_KEYS.iter().find_map(|k| match object.get(*k)? {
        Value::String(name) => Some(name.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    });
    let level = || {
        let i = filter.split('/').position(|level| level == "+")?;
        topic.split('/').nth(i).map(str::to_owned)
    };
    let name = named.or_else(level)?;
    let usable = !name.is_empty()
        && name.chars().count() <= MAX_DEVICE_CHARS
        && !name.contains(['/', '+', '#'])
        && !name.chars().any(char::is_control);
    usable.then(|| DeviceId::new(&name))
}

fn own_time(object: &Map<String, Value>, zone: Tz) -> Result<Option<TimestampMs>, RejectReason> {
    let Some(value) = TIME_KEYS.iter().find_map(|k| object.get(*k)) else {
        return Ok(None);
    };
    let time = match value {
        Value::Null => return Ok(None),
        Value::Number(n) => n.as_f64().map(epoch),
        Value::String(text) => text_time(text, zone),
        _ => None,
    };
    time.map(Some).ok_or(RejectReason::BadTime)
}

/// Epoch seconds or milliseconds, told apart by size: 10^11 s is the year 5138, 10^11 ms is 1973.
fn epoch(number: f64) -> TimestampMs {
    let ms = if number.abs() < 1e11 {
        number * 1000.0
    } else {
        number
    };
    TimestampMs(ms.round() as i64)
}

/// RFC 3339, the same without a zone (then `zone`'s wall clock), or an epoch in quotes.
fn text_time(text: &str, zone: Tz) -> Option<TimestampMs> {
    if let Ok(t) = DateTime::parse_from_rfc3339(text) {
        return Some(t.to_utc().into());
    }
    if let Ok(number) = text.parse::<f64>() {
        return number.is_finite().then(|| epoch(number));
    }
    let naive = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"]
        .into_iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())?;
    // A time that comes twice is taken as the first; one that does not exist is refused.
    zone.from_local_datetime(&naive)
        .earliest()
        .map(|t| t.to_utc().into())
}

fn decide_time(
    own: Option<TimestampMs>,
    received: TimestampMs,
    max_age_days: u32,
) -> (TimestampMs, TimeSource) {
    let oldest = received.0 - i64::from(max_age_days) * DAY_MS;
    match own {
        Some(ts) if (oldest..=received.0 + NEWEST_MS).contains(&ts.0) => (ts, TimeSource::Device),
        Some(_) => (received, TimeSource::Implausible),
        None => (
            TimestampMs(received.0 - received.0.rem_euclid(BUCKET_MS)),
            TimeSource::Received,
        ),
    }
}

fn values(object: &Map<String, Value>, rule: &TopicRule) -> Result<Values, RejectReason> {
    let mut values = Values::default();
    let mut known = false;
    for field in Field::ALL {
        let key = rule.fields.get(&field).map_or(field.name(), String::as_str);
        if let Some(value) = object.get(key) {
            known = true;
            values.set(field, number(value)?);
        }
    }
    if known {
        Ok(values)
    } else {
        Err(RejectReason::NoValues)
    }
}

/// Beyond any unit a device could mean.
const GREATEST: f64 = 1e9;

/// A number, a number in quotes, a switch, or a word for "no value".
fn number(value: &Value) -> Result<Option<f64>, RejectReason> {
    let number = match value {
        Value::Null => Ok(None),
        Value::Bool(on) => Ok(Some(f64::from(u8::from(*on)))),
        Value::Number(n) => Ok(n.as_f64()),
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "" | "nan" | "none" | "null" | "unavailable" | "unknown" => Ok(None),
            "on" | "true" => Ok(Some(1.0)),
            "off" | "false" => Ok(Some(0.0)),
            other => other.parse().map(Some).map_err(|_| RejectReason::BadValue),
        },
        Value::Array(_) | Value::Object(_) => Err(RejectReason::BadValue),
    }?;
    match number {
        Some(n) if n.abs() > GREATEST => Err(RejectReason::BadValue),
        sound => Ok(sound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: TimestampMs = TimestampMs(1_789_214_430_500);

    fn rules() -> Reader {
        let rule = TopicRule {
            filter: "solar/+/telemetry".into(),
            ..TopicRule::default()
        };
        Reader {
            rules: vec![rule],
            max_age_days: 30,
        }
    }

    fn read(payload: &str) -> Result<Option<Reading>, RejectReason> {
        parse(
            &rules(),
            b"solar/t07/telemetry",
            payload.as_bytes(),
            false,
            NOW,
            true,
        )
    }

    fn ts_of(payload: &str) -> (i64, TimeSource) {
        let r = read(payload).unwrap().unwrap();
        (r.ts.0, r.time_source)
    }

    #[test]
    fn a_flat_object_becomes_a_reading() {
        let r = read(
            r#"{"device_id":"x1","ts":"2026-09-12T12:00:00Z","servo_angle":37.5,"lux":48210,
                "voltage":"36.9","current":7.81,"power":288.2,"temperature":null,
                "humidity":"unavailable","fan_on":true,"firmware":"1.2"}"#,
        )
        .unwrap()
        .unwrap();
        assert_eq!(
            (r.device.as_str(), r.ts.0, r.received),
            ("x1", 1_789_214_400_000, NOW)
        );
        let v: Vec<_> = r.values.iter().collect();
        assert_eq!(
            v,
            [
                (Field::ServoAngle, 37.5),
                (Field::Lux, 48210.0),
                (Field::Voltage, 36.9),
                (Field::Current, 7.81),
                (Field::Power, 288.2),
                (Field::FanOn, 1.0)
            ]
        );
    }

    #[test]
    fn the_topic_names_the_device_where_the_payload_does_not() {
        assert_eq!(
            read(r#"{"power":1}"#).unwrap().unwrap().device.as_str(),
            "t07"
        );
    }

    #[test]
    fn times_in_every_spelling() {
        let device = |ms| (ms, TimeSource::Device);
        assert_eq!(
            ts_of(r#"{"ts":1789214400,"power":1}"#),
            device(1_789_214_400_000)
        );
        assert_eq!(
            ts_of(r#"{"ts":1789214400123,"power":1}"#),
            device(1_789_214_400_123)
        );
        assert_eq!(
            ts_of(r#"{"ts":"1789214400","power":1}"#),
            device(1_789_214_400_000)
        );
        assert_eq!(
            ts_of(r#"{"time":"2026-09-12T14:00:00+02:00","power":1}"#),
            device(1_789_214_400_000)
        );
        assert_eq!(
            ts_of(r#"{"ts":"2026-09-12T12:00:00","power":1}"#),
            device(1_789_214_400_000)
        );
        assert_eq!(
            ts_of(r#"{"power":1}"#),
            (1_789_214_400_000, TimeSource::Received)
        );
        assert_eq!(
            ts_of(r#"{"ts":0,"power":1}"#),
            (NOW.0, TimeSource::Implausible)
        );
        assert_eq!(
            ts_of(r#"{"ts":"2036-09-12T12:00:00Z","power":1}"#),
            (NOW.0, TimeSource::Implausible)
        );
    }

    #[test]
    fn a_time_without_zone_is_the_rules_wall_clock() {
        let mut rules = rules();
        rules.rules[0].timezone = Some(Tz::Europe__Paris);
        let payload = br#"{"ts":"2026-09-12 14:00:00","power":1}"#;
        let r = parse(&rules, b"solar/t/telemetry", payload, false, NOW, true)
            .unwrap()
            .unwrap();
        assert_eq!(r.ts.0, 1_789_214_400_000);
    }

    #[test]
    fn a_retained_message_is_news_only_with_a_time_of_its_own() {
        let retained = |payload: &str| {
            parse(
                &rules(),
                b"solar/t/telemetry",
                payload.as_bytes(),
                true,
                NOW,
                true,
            )
            .unwrap()
        };
        assert_eq!(retained(r#"{"power":1}"#), None);
        assert!(retained(r#"{"ts":1789214400,"power":1}"#).is_some());
    }

    #[test]
    fn keys_can_be_renamed() {
        let mut rules = rules();
        rules.rules[0].fields.insert(Field::Power, "p".into());
        let r = parse(
            &rules,
            b"solar/t/telemetry",
            br#"{"p":288.2}"#,
            false,
            NOW,
            true,
        );
        assert_eq!(r.unwrap().unwrap().values.get(Field::Power), Some(288.2));
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        let deep = "[".repeat(5000);
        let large = format!(r#"{{"power":1,"x":"{}"}}"#, "x".repeat(MAX_PAYLOAD_BYTES));
        for (payload, reason) in [
            ("", RejectReason::Empty),
            ("{\"power\":", RejectReason::NotJson),
            ("\u{0}\u{1}", RejectReason::NotJson),
            (deep.as_str(), RejectReason::NotJson),
            ("{\"power\":NaN}", RejectReason::NotJson),
            ("{\"power\":1e400}", RejectReason::NotJson),
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
            (large.as_str(), RejectReason::TooLarge),
        ] {
            assert_eq!(read(payload).unwrap_err(), reason, "{:.40}", payload);
        }
        let other = parse(
            &rules(),
            b"else/t/where",
            b"{\"power\":1}",
            false,
            NOW,
            true,
        );
        assert_eq!(other.unwrap_err(), RejectReason::UnknownTopic);
        let not_utf8 = parse(
            &rules(),
            b"solar/\xff/telemetry",
            b"{\"power\":1}",
            false,
            NOW,
            true,
        );
        assert_eq!(not_utf8.unwrap_err(), RejectReason::UnknownTopic);
    }
}
