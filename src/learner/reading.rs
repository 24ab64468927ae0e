//! The vocabulary everyone shares: fields, values, readings and their times; imports nothing of ours.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The years that RFC 3339 can write, 0000 to 9999.
const FIRST_YEAR_MS: i64 = -62_167_219_200_000;
const AFTER_LAST_YEAR_MS: i64 = 253_402_300_800_000;

/// Milliseconds since the Unix epoch, UTC. The only form in which a point in time is stored; in JSON it
/// is RFC 3339, and either form is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "Written")]
pub struct TimestampMs(pub i64);

impl TimestampMs {
    /// This time plus a number of milliseconds (negative: earlier).
    pub fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// This time plus a number of minutes (negative: earlier).
    pub fn plus_min(self, minutes: i64) -> Self {
        self.plus_ms(minutes.saturating_mul(60_000))
    }

    /// The same instant for calendars; out-of-range values clamp to the epoch.
    pub fn to_utc(self) -> chrono::DateTime<chrono::Utc> {
        chrono::DateTime::from_timestamp_millis(self.0).unwrap_or_default()
    }
}

impl From<chrono::DateTime<chrono::Utc>> for TimestampMs {
    fn from(t: chrono::DateTime<chrono::Utc>) -> Self {
        Self(t.timestamp_millis())
    }
}

/// RFC 3339 in UTC with milliseconds only where there are any.
impl fmt::Display for TimestampMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            &self
                .to_utc()
                .to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
        )
    }
}

/// A time as JSON has it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a time in RFC 3339, or milliseconds since 1970")]
enum Written {
    Ms(i64),
    Text(String),
}

impl TryFrom<Written> for TimestampMs {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Ms(ms) => Ok(Self(ms)),
            Written::Text(text) => text.parse(),
        }
    }
}

/// RFC 3339, in any zone.
impl std::str::FromStr for TimestampMs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = chrono::DateTime::parse_from_rfc3339(text);
        time.map(|t| Self(t.timestamp_millis()))
            .map_err(|e| format!("{text:?} is no time in RFC 3339: {e}"))
    }
}

/// A time that RFC 3339 has no year for stays a number.
impl Serialize for TimestampMs {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if (FIRST_YEAR_MS..AFTER_LAST_YEAR_MS).contains(&self.0) {
            to.collect_str(self)
        } else {
            to.serialize_i64(self.0)
        }
    }
}

/// The name of what publishes; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct DeviceId(Arc<str>);

impl From<String> for DeviceId {
    fn from(name: String) -> Self {
        Self(Arc::from(name))
    }
}

impl From<DeviceId> for String {
    fn from(device: DeviceId) -> Self {
        device.as_str().to_owned()
    }
}

impl DeviceId {
    /// Wraps a name that has already been checked by the caller.
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One measured quantity of a tracker or PV device, in the unit its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// Servo or axis angle, degrees.
    ServoAngle,
    /// Illuminance, lux.
    Lux,
    /// DC voltage, V.
    Voltage,
    /// DC current, A.
    Current,
    /// Power, W: what is forecast.
    Power,
    /// Ambient temperature, degrees Celsius.
    Temperature,
    /// Relative humidity, percent.
    Humidity,
    /// Fan running: 0 or 1.
    FanOn,
}

impl Field {
    /// Every field, in the order of [`Values`] and of the table's columns.
    pub const ALL: [Field; 8] = [
        Field::ServoAngle,
        Field::Lux,
        Field::Voltage,
        Field::Current,
        Field::Power,
        Field::Temperature,
        Field::Humidity,
        Field::FanOn,
    ];

    /// The column name in the store and the key in flat JSON.
    pub fn name(self) -> &'static str {
        match self {
            Field::ServoAngle => "servo_angle",
            Field::Lux => "lux",
            Field::Voltage => "voltage",
            Field::Current => "current",
            Field::Power => "power",
            Field::Temperature => "temperature",
            Field::Humidity => "humidity",
            Field::FanOn => "fan_on",
        }
    }

    /// The field with this column name.
    pub fn from_name(name: &str) -> Option<Field> {
        Field::ALL.into_iter().find(|f| f.name() == name)
    }
}

/// The eight values of a reading; an absent value is `None`, never NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Values([Option<f64>; 8]);

impl Values {
    /// The value of a field, if the device sent one.
    pub fn get(&self, field: Field) -> Option<f64> {
        self.0[field as usize]
    }

    /// Sets a field; a value that is not finite counts as absent.
    pub fn set(&mut self, field: Field, value: Option<f64>) {
        self.0[field as usize] = value.filter(|v| v.is_finite());
    }

    /// True where the device sent nothing at all.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Field and value of everything present.
    pub fn iter(&self) -> impl Iterator<Item = (Field, f64)> + '_ {
        Field::ALL
            .into_iter()
            .filter_map(|f| self.get(f).map(|v| (f, v)))
    }
}

/// An object of what is present: field to value.
impl Serialize for Values {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.iter().map(|(field, value)| (field.name(), value)))
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let present = std::collections::BTreeMap::<Field, f64>::deserialize(from)?;
        let mut values = Self::default();
        for (field, value) in present {
            values.set(field, Some(value));
        }
        Ok(values)
    }
}

/// Where a reading's time came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeSource {
    /// The message carried its own time.
    Device,
    /// The message had no time: receive time, rounded down to the rule's bucket.
    Received,
    /// The message's own time was too old or over a day ahead: receive time, kept and flagged.
    Implausible,
}

/// One row: what a device measured at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// What published it.
    pub device: DeviceId,
    /// When it was measured; with the device, the row's key.
    pub ts: TimestampMs,
    /// When it arrived here.
    pub received: TimestampMs,
    /// How `ts` was found.
    pub time_source: TimeSource,
    /// Whether this machine's clock was trusted when it arrived.
    pub clock_trusted: bool,
    /// The measurements.
    pub values: Values,
}

impl Reading {
    /// False where the time is known to be wrong: kept, but nothing to learn or forecast from.
    pub fn can_be_learnt_from(&self) -> bool {
        match self.time_source {
            // The device's own time does not depend on our clock.
            TimeSource::Device => true,
            TimeSource::Received => self.clock_trusted,
            TimeSource::Implausible => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_times_in_rfc_3339_and_reads_milliseconds_too() {
        for (ms, text) in [
            (0, "\"1970-01-01T00:00:00Z\""),
            (1_780_000_000_123, "\"2026-05-28T20:26:40.123Z\""),
            (AFTER_LAST_YEAR_MS - 1, "\"9999-12-31T23:59:59.999Z\""),
            (FIRST_YEAR_MS, "\"0000-01-01T00:00:00Z\""),
            (AFTER_LAST_YEAR_MS, "253402300800000"),
            (i64::MIN, "-9223372036854775808"),
        ] {
            assert_eq!(serde_json::to_string(&TimestampMs(ms)).unwrap(), text);
            assert_eq!(serde_json::from_str::<TimestampMs>(text).unwrap().0, ms);
            let number = ms.to_string();
            assert_eq!(serde_json::from_str::<TimestampMs>(&number).unwrap().0, ms);
        }
        let zoned = "\"2026-05-28T22:26:40+02:00\"";
        let read: TimestampMs = serde_json::from_str(zoned).unwrap();
        assert_eq!(read.0, 1_780_000_000_000);
        assert!(serde_json::from_str::<TimestampMs>("\"yesterday\"").is_err());
    }

    #[test]
    fn values_are_an_object_of_what_is_present() {
        let mut values = Values::default();
        values.set(Field::Power, Some(1.5));
        let text = serde_json::to_string(&values).unwrap();
        assert_eq!(text, "{\"power\":1.5}");
        assert_eq!(serde_json::from_str::<Values>(&text).unwrap(), values);
        assert!(serde_json::from_str::<Values>("{\"watts\":1}").is_err());
    }

    #[test]
    fn field_order_is_the_column_order() {
        for (i, f) in Field::ALL.into_iter().enumerate() {
            assert_eq!(f as usize, i);
            assert_eq!(Field::from_name(f.name()), Some(f));
        }
        assert_eq!(Field::from_name("watts"), None);
    }

    #[test]
    fn a_value_that_is_not_finite_is_absent() {
        let mut v = Values::default();
        v.set(Field::Power, Some(f64::NAN));
        v.set(Field::Lux, Some(f64::INFINITY));
        assert!(v.is_empty());
        v.set(Field::Lux, Some(12.0));
        assert_eq!(v.iter().collect::<Vec<_>>(), [(Field::Lux, 12.0)]);
    }

    #[test]
    fn timestamps_print_as_rfc3339() {
        assert_eq!(
            TimestampMs(1_789_214_400_000).to_string(),
            "2026-09-12T12:00:00Z"
        );
        assert_eq!(
            TimestampMs(1_789_214_400_120).to_string(),
            "2026-09-12T12:00:00.120Z"
        );
    }
}
