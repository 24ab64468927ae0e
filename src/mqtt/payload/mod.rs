//! Topic and bytes to readings: every message ends as readings, a reject, or nothing new.
//!
//! Pure but for one thing it remembers: the last time seen of devices that publish it on a topic of
//! its own. [`Reader::new`] makes the rules ready once; [`json`] holds payloads to their limits while
//! they are read; `value` knows how devices write numbers and times.

pub mod guess;
mod json;
mod reject;
mod rules;
mod template;
mod value;

use std::borrow::Cow;
use std::collections::HashMap;

use json::Json;
pub use reject::RejectReason;
pub use rules::RuleError;
use rules::{Rule, Source};
use template::Captures;
pub use template::{overlapping, uncovered, valid_filter};
pub use value::text_time;

use crate::config::TopicRule;
use crate::reading::{DeviceId, Reading, TimeSource, TimestampMs, Values};

/// The largest payload that is read.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
const MAX_DEVICE_CHARS: usize = 64;
/// Readings without a time of their own share a row per minute.
const BUCKET_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;
/// A device time newer than this is not believed.
const NEWEST_MS: i64 = DAY_MS;
/// Devices whose time on a topic of its own is remembered.
const MAX_SIBLING_TIMES: usize = 1024;
/// The key under which a bare value may be wrapped.
const VALUE_KEY: &str = "value";

/// What a message came to. Nothing at all is nothing new: a retained value without a newer time of its
/// own, values that are all absent, or what the rules pass over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// The readings; more than one only from a batch.
    pub readings: Vec<Reading>,
    /// Why the message, or the first bad reading of a batch, was refused. A batch keeps its good ones.
    pub reject: Option<RejectReason>,
}

/// How messages are read.
#[derive(Clone, Debug)]
pub struct Reader {
    rules: Vec<Rule>,
    max_age_days: u32,
    /// Nothing that begins like this is a reading: we publish there ourselves.
    own: Vec<String>,
    sibling_times: HashMap<DeviceId, TimestampMs>,
}

/// The circumstances of one message.
#[derive(Clone, Copy)]
struct Arrival {
    retain: bool,
    received: TimestampMs,
    clock_trusted: bool,
}

impl Reader {
    /// Makes rules ready, in their order; a device time over `max_age_days` old is not believed.
    /// The error's key is one of the rule's, its number before it.
    pub fn new(rules: &[TopicRule], max_age_days: u32) -> Result<Self, RuleError> {
        let ready = rules.iter().enumerate().map(|(i, rule)| {
            Rule::new(rule).map_err(|e| RuleError {
                key: format!("[{i}].{}", e.key),
                ..e
            })
        });
        Ok(Self {
            rules: ready.collect::<Result<_, _>>()?,
            max_age_days,
            own: Vec::new(),
            sibling_times: HashMap::new(),
        })
    }

    /// The same, with nothing new in whatever comes below `prefix`: a wide filter such as `#` would
    /// otherwise take our own forecasts for readings.
    pub fn without(mut self, prefix: &str) -> Self {
        self.own.push(format!("{prefix}/"));
        self
    }

    /// For each rule, where only the payload can name the device: the keys it may do so by.
    pub fn device_keys(&self) -> impl Iterator<Item = Option<Vec<&str>>> {
        self.rules.iter().map(Rule::device_keys)
    }

    /// The rules' filters, in their order.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.filter.as_str())
    }

    /// Reads one message.
    pub fn decode(
        &mut self,
        topic: &[u8],
        payload: &[u8],
        retain: bool,
        received: TimestampMs,
        clock_trusted: bool,
    ) -> Decoded {
        let arrival = Arrival {
            retain,
            received,
            clock_trusted,
        };
        if payload.len() > MAX_PAYLOAD_BYTES {
            return refused(RejectReason::TooLarge);
        }
        let mut decoded = self.route(topic, payload, arrival);
        if decoded == Err(RejectReason::NotJson)
            && let Some(mended) = json::nan_as_null(payload)
        {
            decoded = self.route(topic, &mended, arrival);
        }
        decoded.unwrap_or_else(refused)
    }

    /// Finds the first rule that matches; one for bare values only where it knows the value's name.
    fn route(
        &mut self,
        topic: &[u8],
        payload: &[u8],
        arrival: Arrival,
    ) -> Result<Decoded, RejectReason> {
        let topic = std::str::from_utf8(topic).map_err(|_| RejectReason::UnknownTopic)?;
        if self.own.iter().any(|own| topic.starts_with(own.as_str())) {
            return Ok(Decoded::default());
        }
        let mut matched = false;
        for rule in &self.rules {
            let Some(captures) = rule.filter.matches(topic) else {
                continue;
            };
            matched = true;
            let Some(name) = &rule.name else {
                return decode_json(rule, &captures, payload, arrival, self.max_age_days);
            };
            let Some(name) = name.render(&captures, &[]) else {
                continue;
            };
            let field = rule.named(&name);
            let is_time = rule.is_time(&name);
            if field.is_none() && !is_time {
                continue;
            }
            let Some(value) = bare_value(payload)? else {
                return Ok(Decoded::default());
            };
            let device = device(rule, &captures, &[]).ok_or(RejectReason::NoDevice)?;
            if is_time && !arrival.retain {
                let time = value::time(&value, rule.zone)?;
                remember(&mut self.sibling_times, &device, time);
            }
            let Some((field, source)) = field.filter(|_| !is_time && !arrival.retain) else {
                return Ok(Decoded::default());
            };
            let mut values = Values::default();
            values.set(field, value::number(&value, source.linear)?);
            let own_time = match &rule.time[..] {
                [] => None,
                _ if values.is_empty() => None,
                _ => Some(
                    *self
                        .sibling_times
                        .get(&device)
                        .ok_or(RejectReason::NoTime)?,
                ),
            };
            let reading = reading(device, own_time, values, arrival, self.max_age_days);
            return Ok(Decoded {
                readings: reading.into_iter().collect(),
                reject: None,
            });
        }
        if matched {
            Ok(Decoded::default())
        } else {
            Err(RejectReason::UnknownTopic)
        }
    }
}

fn refused(reason: RejectReason) -> Decoded {
    Decoded {
        readings: Vec::new(),
        reject: Some(reason),
    }
}

fn remember(
    times: &mut HashMap<DeviceId, TimestampMs>,
    device: &DeviceId,
    time: Option<TimestampMs>,
) {
    match time {
        Some(time) if times.len() < MAX_SIBLING_TIMES || times.contains_key(device) => {
            times.insert(device.clone(), time);
        }
        Some(_) => {}
        None => drop(times.remove(device)),
    }
}

/// A payload that is one value: bare, a JSON string, or the member `value` of an object.
fn bare_value(payload: &[u8]) -> Result<Option<Json<'_>>, RejectReason> {
    let text = std::str::from_utf8(payload).map_err(|_| RejectReason::BadValue)?;
    let text = text.trim();
    match text.as_bytes().first() {
        None => Ok(None),
        Some(b'{') => {
            let json = Json::parse(text.as_bytes())?;
            let value = json.member(VALUE_KEY).cloned();
            value.map(Some).ok_or(RejectReason::NoValues)
        }
        Some(b'"') => Ok(Some(Json::parse(text.as_bytes())?)),
        Some(_) => Ok(Some(Json::Text(Cow::Borrowed(text)))),
    }
}

fn decode_json(
    rule: &Rule,
    captures: &Captures<'_>,
    payload: &[u8],
    arrival: Arrival,
    max_age_days: u32,
) -> Result<Decoded, RejectReason> {
    if payload.is_empty() {
        return Ok(Decoded::default());
    }
    let json = Json::parse(payload)?;
    let list = match (&json, &rule.batch) {
        (Json::Null, _) => return Ok(Decoded::default()),
        (Json::Array(list), Some(_)) => Some(list),
        (Json::Object(_), Some(path)) => match path.find(&json) {
            Some(Json::Array(list)) => Some(list),
            Some(Json::Null) => return Ok(Decoded::default()),
            Some(_) => return Err(RejectReason::NotAnObject),
            None => None,
        },
        (Json::Object(_), None) => None,
        _ => return Err(RejectReason::NotAnObject),
    };
    let one = |payloads: &[&Json<'_>]| {
        one_reading(
            rule,
            captures,
            payloads,
            list.is_some(),
            arrival,
            max_age_days,
        )
    };
    let mut decoded = Decoded::default();
    match list {
        // Collected, not pushed: room for one reading, where a first push would make room for four.
        None => decoded.readings = one(&[&json])?.into_iter().collect(),
        Some(list) => {
            for element in list {
                match one(&[element, &json]) {
                    Ok(reading) => decoded.readings.extend(reading),
                    Err(reason) => decoded.reject = decoded.reject.or(Some(reason)),
                }
            }
        }
    }
    Ok(decoded)
}

/// The reading in the first of `payloads`; what names its device and time may be in those around it.
fn one_reading(
    rule: &Rule,
    captures: &Captures<'_>,
    payloads: &[&Json<'_>],
    batch: bool,
    arrival: Arrival,
    max_age_days: u32,
) -> Result<Option<Reading>, RejectReason> {
    let object = match payloads.first() {
        Some(object @ Json::Object(_)) => object,
        _ => return Err(RejectReason::NotAnObject),
    };
    let values = values(rule, object);
    if rule.sparse && matches!(values, Err(RejectReason::NoValues)) {
        return Ok(None);
    }
    let device = device(rule, captures, payloads).ok_or(RejectReason::NoDevice)?;
    let time = payloads
        .iter()
        .find_map(|p| rule.time.iter().find_map(|path| path.find(p)));
    let own_time = match time {
        Some(time) => value::time(time, rule.zone)?,
        None => None,
    };
    if own_time.is_none() && batch && !rule.time.is_empty() {
        return Err(RejectReason::NoTime);
    }
    if own_time.is_none() && arrival.retain {
        return Ok(None);
    }
    Ok(reading(device, own_time, values?, arrival, max_age_days))
}

/// The device, from the first template whose parts are all there.
fn device(rule: &Rule, captures: &Captures<'_>, payloads: &[&Json<'_>]) -> Option<DeviceId> {
    let name = rule
        .device
        .iter()
        .find_map(|template| template.render(captures, payloads))?;
    let usable = !name.is_empty()
        && name.chars().count() <= MAX_DEVICE_CHARS
        && !name.contains(['/', '+', '#'])
        && !name.chars().any(char::is_control);
    usable.then(|| DeviceId::new(&name))
}

/// [`RejectReason::NoValues`] where not one field is there, not even as absent.
fn values(rule: &Rule, object: &Json<'_>) -> Result<Values, RejectReason> {
    let mut values = Values::default();
    let mut known = false;
    for (field, sources) in &rule.fields {
        let found = sources
            .iter()
            .find_map(|source: &Source| Some((source.path.find(object)?, source.linear)));
        if let Some((value, linear)) = found {
            known = true;
            values.set(*field, value::number(value, linear)?);
        }
    }
    if known {
        Ok(values)
    } else {
        Err(RejectReason::NoValues)
    }
}

/// The row, unless it would be empty, or be made of a retained message's arrival.
fn reading(
    device: DeviceId,
    own_time: Option<TimestampMs>,
    values: Values,
    arrival: Arrival,
    max_age_days: u32,
) -> Option<Reading> {
    let (ts, time_source) = decide_time(own_time, arrival.received, max_age_days);
    let news = time_source == TimeSource::Device || !arrival.retain;
    (news && !values.is_empty()).then_some(Reading {
        device,
        ts,
        received: arrival.received,
        time_source,
        clock_trusted: arrival.clock_trusted,
        values,
    })
}

fn decide_time(
    own: Option<TimestampMs>,
    received: TimestampMs,
    max_age_days: u32,
) -> (TimestampMs, TimeSource) {
    let oldest = received.plus_ms(-i64::from(max_age_days) * DAY_MS);
    match own {
        Some(ts) if (oldest..=received.plus_ms(NEWEST_MS)).contains(&ts) => {
            (ts, TimeSource::Device)
        }
        Some(_) => (received, TimeSource::Implausible),
        None => (
            received.plus_ms(-received.0.rem_euclid(BUCKET_MS)),
            TimeSource::Received,
        ),
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
