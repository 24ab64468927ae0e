//! How a reading goes onto the wire: one flat JSON object on one topic per device.

use std::fmt::Write;
use std::str::FromStr;

use crate::reading::{DeviceId, TimestampMs, Values};

/// One reading as flat JSON: `device_id`, `ts`, then every present value under its column name.
///
/// Numbers take the shortest form that reads back as the same `f64`, so a stored value equals the
/// sent one to the last bit; absent values are left out.
pub fn encode_flat(device: &DeviceId, ts: TimestampMs, values: &Values) -> String {
    let name = serde_json::Value::from(device.as_str());
    let mut json = format!(r#"{{"device_id":{name},"ts":"{ts}""#);
    for (field, value) in values.iter() {
        // `48210` and not `48210.0`, as devices write it.
        let number = if value.fract() == 0.0 && value.abs() < 1e15 {
            value.to_string()
        } else {
            serde_json::Value::from(value).to_string()
        };
        // Writing to a String cannot fail.
        let _ = write!(json, r#","{}":{number}"#, field.name());
    }
    json.push('}');
    json
}

/// The topic of a device, from a text with `{device}` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicTemplate(String);

/// Why a text is no topic template.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicTemplateError {
    /// Nothing to publish to.
    #[error("the topic is empty")]
    Empty,
    /// Wildcards belong into subscriptions.
    #[error("topic `{0}` holds a wildcard (+ or #), which cannot be published to")]
    Wildcard(String),
    /// An unknown placeholder would be published literally.
    #[error("topic `{0}` may hold no placeholder but {{device}}")]
    Placeholder(String),
}

impl TopicTemplate {
    /// The topic that `device` publishes to.
    pub fn topic(&self, device: &DeviceId) -> String {
        self.0.replace("{device}", device.as_str())
    }
}

impl Default for TopicTemplate {
    fn default() -> Self {
        Self("solar/{device}/telemetry".to_owned())
    }
}

impl FromStr for TopicTemplate {
    type Err = TopicTemplateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(TopicTemplateError::Empty);
        }
        if text.contains(['+', '#']) {
            return Err(TopicTemplateError::Wildcard(text.to_owned()));
        }
        if text.replace("{device}", "").contains(['{', '}']) {
            return Err(TopicTemplateError::Placeholder(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Field;

    #[test]
    fn a_reading_is_one_flat_object_without_its_absent_values() {
        let mut values = Values::default();
        values.set(Field::ServoAngle, Some(37.5));
        values.set(Field::Lux, Some(48_210.0));
        values.set(Field::FanOn, Some(1.0));
        let ts = TimestampMs(1_789_214_400_000);
        assert_eq!(
            encode_flat(&DeviceId::new("t01"), ts, &values),
            r#"{"device_id":"t01","ts":"2026-09-12T12:00:00Z","servo_angle":37.5,"lux":48210,"fan_on":1}"#
        );
    }

    #[test]
    fn a_name_with_quotes_stays_inside_its_string() {
        let json = encode_flat(&DeviceId::new("a\"b\\"), TimestampMs(0), &Values::default());
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["device_id"], "a\"b\\");
    }

    #[test]
    fn every_number_reads_back_to_the_same_bits() {
        let mut exact = vec![
            -0.1,
            1.0 / 3.0,
            1e21,
            5e-324,
            f64::MAX,
            2.0_f64.powi(53) + 2.0,
        ];
        exact.extend((0..10_000).map(|i| f64::from(i) * 0.1 - 7.3));
        for value in exact {
            let mut values = Values::default();
            values.set(Field::Power, Some(value));
            let json = encode_flat(&DeviceId::new("t"), TimestampMs(0), &values);
            let number = json.split("\"power\":").nth(1).unwrap();
            let back: f64 = number.strip_suffix('}').unwrap().parse().unwrap();
            assert_eq!(back.to_bits(), value.to_bits(), "{json}");
            assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
        }
    }

    #[test]
    fn a_template_takes_the_device_and_nothing_else() {
        let topic = TopicTemplate::default().topic(&DeviceId::new("t01"));
        assert_eq!(topic, "solar/t01/telemetry");
        let error = |text: &str| text.parse::<TopicTemplate>().unwrap_err();
        assert_eq!(error(""), TopicTemplateError::Empty);
        assert!(matches!(error("solar/+"), TopicTemplateError::Wildcard(_)));
        assert!(matches!(
            error("a/{name}"),
            TopicTemplateError::Placeholder(_)
        ));
    }
}
