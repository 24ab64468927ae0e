//! From messages overheard to rules that would read them: what `nightwatt topics` proposes.

mod words;

use std::collections::{BTreeMap, BTreeSet};

use chrono_tz::Tz;

use super::json::Json;
use super::{Reader, value};
use crate::config::{FieldSource, OneOrMany, TopicRule};
use crate::reading::{Field, Reading, TimeSource, TimestampMs};
use words::field_of;

/// A topic on which something was heard.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The topic.
    pub topic: String,
    /// Messages on it.
    pub messages: u64,
    /// One of their payloads.
    pub sample: Vec<u8>,
}

/// Topics that one rule would read.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern {
    /// The rule.
    pub rule: TopicRule,
    /// The rule as text for the configuration.
    pub toml: String,
    /// Topics it covers.
    pub topics: usize,
    /// Messages on them.
    pub messages: u64,
    /// The topic that made us think of it.
    pub sample: Seen,
    /// What the rule makes of the samples, by device.
    pub readings: Vec<Reading>,
}

/// What was made of everything that was heard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Guesses {
    /// Rules to propose.
    pub patterns: Vec<Pattern>,
    /// Topics no rule was found for.
    pub unrecognised: Vec<Seen>,
}

/// Days; so that old samples show their own time.
const ANY_AGE: u32 = 36_500;
/// Of each rule, shown as examples.
const READINGS_SHOWN: usize = 3;

/// Groups topics by the rule that fits them; keeps only rules that read something. Times that carry no
/// zone are taken to be of `zone`.
pub fn guess(seen: &[Seen], now: TimestampMs, zone: Tz) -> Guesses {
    let mut groups: BTreeMap<(String, &str), Vec<&Seen>> = BTreeMap::new();
    for one in seen {
        if let Some(kind) = classify(one, seen) {
            groups.entry(kind).or_default().push(one);
        }
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    // Last, as rules too: what is left of the topics that the others account for.
    groups.sort_by_key(|((_, preset), _)| *preset == "value");
    let mut guesses = Guesses::default();
    let mut covered = BTreeSet::new();
    for ((filter, preset), mut members) in groups {
        if preset == "value" {
            // Sums and switches of an OpenDTU look like devices with one value a topic.
            members.retain(|one| !below_opendtu(&guesses.patterns, &one.topic));
        }
        if members.is_empty() {
            continue;
        }
        let mut rule = rule_for(filter, preset, &members);
        let mut readings = try_out(&rule, seen, now);
        if readings.is_empty() {
            continue;
        }
        let zoned = TopicRule {
            timezone: Some(zone),
            ..rule.clone()
        };
        let in_zone = try_out(&zoned, seen, now);
        // Where the zone changes nothing the times carry their own.
        if in_zone != readings {
            (rule, readings) = (zoned, in_zone);
        }
        let matching = |s: &&Seen| super::template::matches(&rule.filter, &s.topic);
        let mine: Vec<&Seen> = seen.iter().filter(matching).collect();
        covered.extend(mine.iter().map(|s| s.topic.as_str()));
        guesses.patterns.push(Pattern {
            toml: rule_toml(&rule),
            topics: mine.len(),
            messages: mine.iter().map(|s| s.messages).sum(),
            sample: members[0].clone(),
            readings,
            rule,
        });
    }
    let left = seen.iter().filter(|s| !covered.contains(s.topic.as_str()));
    guesses.unrecognised = left.cloned().collect();
    guesses
}

/// Whether a topic lies below an OpenDTU that was found.
fn below_opendtu(found: &[Pattern], topic: &str) -> bool {
    found.iter().any(|pattern| {
        pattern.rule.preset_name() == "opendtu"
            && super::template::matches(&pattern.rule.filter, topic)
    })
}

/// The newest reading of a few devices, none where the rule is unsound; twice, because a time may come on
/// a topic of its own.
fn try_out(rule: &TopicRule, seen: &[Seen], now: TimestampMs) -> Vec<Reading> {
    let Ok(mut reader) = Reader::new(std::slice::from_ref(rule), ANY_AGE) else {
        return Vec::new();
    };
    let mut readings: BTreeMap<String, Reading> = BTreeMap::new();
    for one in seen.iter().chain(seen) {
        let decoded = reader.decode(one.topic.as_bytes(), &one.sample, false, now, true);
        for reading in decoded.readings {
            match readings.get_mut(reading.device.as_str()) {
                // Topics with one value each fill one row together.
                Some(row) if row.ts == reading.ts => reading
                    .values
                    .iter()
                    .for_each(|(field, value)| row.values.set(field, Some(value))),
                Some(row) if row.ts < reading.ts => *row = reading,
                Some(_) => {}
                None => drop(readings.insert(reading.device.as_str().to_owned(), reading)),
            }
        }
    }
    readings.into_values().take(READINGS_SHOWN).collect()
}

/// `device time field=value …`, and how the time was found where it is not the device's own.
pub fn describe(reading: &Reading) -> String {
    let mut text = format!("{} {}", reading.device, reading.ts);
    for (field, value) in reading.values.iter() {
        text += &format!(" {}={value}", field.name());
    }
    text + match reading.time_source {
        TimeSource::Device => "",
        TimeSource::Received => " (minute of receipt)",
        TimeSource::Implausible => " (time of receipt, flagged)",
    }
}

/// The last level where it says what is sent and not by whom.
const LAST_LEVELS: [&str; 12] = [
    "telemetry",
    "state",
    "data",
    "sensor",
    "sensors",
    "status",
    "json",
    "readings",
    "batch",
    "measurements",
    "values",
    "out",
];
/// Beside a state, what Home Assistant's statestream publishes.
const STATESTREAM: [&str; 5] = [
    "last_updated",
    "last_changed",
    "friendly_name",
    "unit_of_measurement",
    "device_class",
];

/// Filter and preset that would read a topic.
fn classify(one: &Seen, all: &[Seen]) -> Option<(String, &'static str)> {
    let levels: Vec<&str> = one.topic.split('/').collect();
    let n = levels.len();
    let sample = super::json::readable(&one.sample);
    let json = Json::parse(&sample).ok();
    let object = json.as_ref().filter(|j| matches!(j, Json::Object(_)));
    let has = |key: &str| object.is_some_and(|o| o.member(key).is_some());
    // The levels with these positions made wildcards; `rest` and all after it as `#`.
    let filter = |wild: &[usize], rest: Option<usize>| {
        let mut out: Vec<&str> = levels[..rest.unwrap_or(n).min(n)].to_vec();
        for i in wild {
            out[*i] = "+";
        }
        out.extend(rest.map(|_| "#"));
        out.join("/")
    };
    match levels[..] {
        [.., _, "events", "rpc"] if has("method") => {
            return Some((filter(&[n - 3], None), "shelly"));
        }
        [.., _, "status", component]
            if component.contains(':')
                && (has("apower") || has("act_power") || has("total_act_power")) =>
        {
            return Some((filter(&[n - 3, n - 1], None), "shelly"));
        }
        ["N", _, _, _, _, ..] if has("value") => {
            return Some((filter(&[1, 2, 3], Some(4)), "victron"));
        }
        [.., _, "tele", "SENSOR"] if has("Time") => {
            return Some((filter(&[n - 3], None), "tasmota"));
        }
        [.., _, "SENSOR"] if has("Time") => return Some((filter(&[n - 2], None), "tasmota")),
        [.., _, _] if has("linkquality") || levels.contains(&"zigbee2mqtt") && has("last_seen") => {
            return Some((filter(&[n - 1], None), "zigbee2mqtt"));
        }
        [.., serial, channel, _]
            if serial.len() >= 10
                && serial.bytes().all(|b| b.is_ascii_digit())
                && (channel == "status" || channel.len() == 1)
                && object.is_none() =>
        {
            return Some((filter(&[n - 3], Some(n - 2)), "opendtu"));
        }
        [.., base, "sensor", _, "state"] if object.is_none() => {
            let beside = one.topic.strip_suffix("state").unwrap_or(&one.topic);
            let home = matches!(base, "homeassistant" | "ha" | "hass" | "statestream")
                || all.iter().any(|s| {
                    let name = s.topic.strip_prefix(beside);
                    name.is_some_and(|name| STATESTREAM.contains(&name))
                });
            return Some(if home {
                (filter(&[n - 2], None), "statestream")
            } else {
                (filter(&[n - 4, n - 2], None), "esphome")
            });
        }
        _ => {}
    }
    if let Some(json) = json.as_ref().filter(|j| readings_of(j).is_some()) {
        return Some((filter(&device_level(&levels, json), None), "batch"));
    }
    if let Some(object) = object {
        let level = device_level(&levels, object);
        return (!field_keys(object).is_empty()).then(|| (filter(&level, None), "flat"));
    }
    let text = std::str::from_utf8(&one.sample).ok()?;
    let number = value::number(&Json::Text(text.into()), None);
    let named = n >= 2 && field_of(levels[n - 1]).is_some() && matches!(number, Ok(Some(_)));
    named.then(|| (filter(&[n - 2, n - 1], None), "value"))
}

/// Where the device stands in a topic: where the payload says, else before a word for what is sent.
fn device_level(levels: &[&str], payload: &Json<'_>) -> Vec<usize> {
    let named = ["device_id", "device"]
        .iter()
        .find_map(|key| match payload.member(key)? {
            Json::Text(name) => Some(name.as_ref()),
            _ => None,
        });
    let last = levels.len() - 1;
    let by_name = named.and_then(|name| levels.iter().position(|l| *l == name));
    let by_word = LAST_LEVELS.contains(&levels[last].to_ascii_lowercase().as_str());
    match by_name {
        Some(level) => vec![level],
        None if last == 0 => vec![],
        None => vec![last - usize::from(by_word)],
    }
}

/// The first array of objects: its key, empty for the payload itself, and its first element.
fn readings_of<'t, 'a>(json: &'t Json<'a>) -> Option<(&'t str, &'t Json<'a>)> {
    let first = |value: &'t Json<'a>| match value {
        Json::Array(list) => list
            .first()
            .filter(|e| matches!(e, Json::Object(_)) && !field_keys(e).is_empty()),
        _ => None,
    };
    match json {
        Json::Object(members) => members
            .iter()
            .find_map(|(key, value)| Some((key.as_ref(), first(value)?))),
        list => Some(("", first(list)?)),
    }
}

/// Paths of numbers that probably mean a field, the first for each.
fn field_keys(object: &Json<'_>) -> BTreeMap<Field, FieldSource> {
    let mut leaves = Vec::new();
    collect_leaves(object, String::new(), &mut leaves);
    let mut found = BTreeMap::new();
    for field in Field::ALL {
        if leaves.iter().any(|l| l == field.name()) {
            found.insert(field, source(field.name(), None));
        }
    }
    for path in &leaves {
        let key = path.rsplit('.').next().unwrap_or(path);
        if let Some((field, unit)) = field_of(key) {
            found.entry(field).or_insert_with(|| source(path, unit));
        }
    }
    found
}

fn source(key: &str, unit: Option<&str>) -> FieldSource {
    FieldSource {
        key: key.into(),
        unit: unit.map(str::to_owned),
        ..FieldSource::default()
    }
}

fn collect_leaves(json: &Json<'_>, at: String, leaves: &mut Vec<String>) {
    let Json::Object(members) = json else {
        if matches!(value::number(json, None), Ok(Some(_))) && !at.is_empty() {
            leaves.push(at);
        }
        return;
    };
    for (key, inner) in members {
        if key.is_empty() || key.contains(['.', '*']) {
            continue;
        }
        let path = if at.is_empty() {
            key.to_string()
        } else {
            format!("{at}.{key}")
        };
        collect_leaves(inner, path, leaves);
    }
}

/// The rule of a group; what its preset already finds is left to the preset.
fn rule_for(filter: String, preset: &'static str, members: &[&Seen]) -> TopicRule {
    let mut rule = TopicRule {
        filter,
        preset: Some(preset.to_owned()),
        ..TopicRule::default()
    };
    let mut found: BTreeMap<Field, FieldSource> = BTreeMap::new();
    for one in members {
        match preset {
            "flat" | "batch" => {
                let sample = super::json::readable(&one.sample);
                let Ok(json) = Json::parse(&sample) else {
                    continue;
                };
                let (batch, object) = match preset {
                    "batch" => readings_of(&json).unwrap_or(("", &json)),
                    _ => ("", &json),
                };
                if !batch.is_empty() && batch != "readings" && !batch.contains('.') {
                    rule.batch = Some(batch.to_owned());
                }
                for (field, source) in field_keys(object) {
                    found.entry(field).or_insert(source);
                }
                if !rule.filter.contains('+') && json.member("device_id").is_none() {
                    let name = one.topic.rsplit('/').next().unwrap_or(&one.topic);
                    let plain = !name.is_empty() && !name.contains(['{', '}']);
                    rule.device = plain.then(|| OneOrMany(vec![name.to_owned()]));
                }
            }
            "esphome" | "statestream" | "value" => {
                let mut levels = one.topic.rsplit('/');
                let name = levels
                    .nth(usize::from(preset != "value"))
                    .unwrap_or_default();
                if let Some((field, unit)) = field_of(name) {
                    let known = found.entry(field).or_insert_with(|| source(name, unit));
                    // A name that is the field's own is meant rather than one that only contains it.
                    if name == field.name() {
                        *known = source(name, unit);
                    }
                }
            }
            _ => {}
        }
    }
    found.retain(|field, source| source.key != field.name() || source.unit.is_some());
    let listed = found.into_iter();
    rule.fields = listed.map(|(f, s)| (f, OneOrMany(vec![s]))).collect();
    rule
}

/// The rule as it would stand in the configuration.
fn rule_toml(rule: &TopicRule) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut text = format!("[[mqtt.topics]]\nfilter = {}\n", quoted(&rule.filter));
    text += &format!("preset = {}\n", quoted(rule.preset_name()));
    if let Some(device) = rule.device.iter().flat_map(|d| &d.0).next() {
        text += &format!("device = {}\n", quoted(device));
    }
    if let Some(batch) = &rule.batch {
        text += &format!("batch = {}\n", quoted(batch));
    }
    if let Some(zone) = rule.timezone {
        let line = format!("timezone = {}\n", quoted(zone.name()));
        text += "# Its times carry no zone. This is the site's; the device's may be another:\n";
        text += &line;
    } else if rule.preset_name() == "tasmota" {
        text += "# Its times carry no zone; without one they are taken as UTC:\n# timezone = \"Europe/Madrid\"\n";
    }
    let sources = rule
        .fields
        .iter()
        .flat_map(|(f, s)| s.0.first().map(|s| (f, s)));
    let fields: Vec<String> = sources
        .map(|(field, s)| match &s.unit {
            None => format!("{} = {}", field.name(), quoted(&s.key)),
            Some(unit) => format!(
                "{} = {{ key = {}, unit = {} }}",
                field.name(),
                quoted(&s.key),
                quoted(unit)
            ),
        })
        .collect();
    if !fields.is_empty() {
        text += &format!("fields = {{ {} }}\n", fields.join(", "));
    }
    text
}

#[cfg(test)]
mod tests;
