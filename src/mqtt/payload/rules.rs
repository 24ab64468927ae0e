//! Topic rules made ready: templates and paths parsed, units looked up, or refused by key.

use chrono_tz::Tz;

use super::json::Path;
use super::template::{Filter, Template};
use crate::config::{FieldSource, TopicRule};
use crate::reading::Field;

/// In place of a key: there is none.
const NONE: &str = "none";
/// What is said of a path that is none.
pub(super) const PATHS: &str = "accepted: up to 8 keys joined by dots";

/// Why a rule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value:?}: {problem}")]
pub struct RuleError {
    /// Which setting.
    pub key: String,
    /// What was given.
    pub value: String,
    /// What is wrong with it and what would be accepted.
    pub problem: String,
}

/// Refuses a setting.
pub(super) fn refuse<T>(
    key: &str,
    value: &str,
    problem: impl Into<String>,
) -> Result<T, RuleError> {
    Err(RuleError {
        key: key.into(),
        value: value.into(),
        problem: problem.into(),
    })
}

/// A rule as the decoder uses it.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) filter: Filter,
    pub(super) device: Vec<Template>,
    /// Set where a topic carries one bare value.
    pub(super) name: Option<Template>,
    pub(super) batch: Option<Path>,
    /// Empty where readings carry no time.
    pub(super) time: Vec<Path>,
    pub(super) zone: Tz,
    pub(super) sparse: bool,
    pub(super) fields: Vec<(Field, Vec<Source>)>,
}

impl Rule {
    pub(super) fn new(rule: &TopicRule) -> Result<Self, RuleError> {
        let filter = Filter::new(&rule.filter)?;
        let own_device = rule.device.is_some();
        let rule = rule.resolved().or_else(|problem| {
            let given = rule.preset_name();
            refuse("preset", given, problem)
        })?;
        let named = rule.name.is_some();
        if let (true, Some(batch)) = (named, &rule.batch) {
            return refuse("batch", batch, "goes with payloads, not with `name`");
        }
        let template = |key, text: &str, payload| Template::new(key, text, &filter, payload);
        let device = rule.device.iter().flat_map(|d| &d.0);
        let mut device: Vec<Result<Template, RuleError>> = device
            .map(|text| template("device", text, !named))
            .collect();
        // Of a preset's alternatives some may be for filters of another shape.
        if !own_device && device.iter().any(Result::is_ok) {
            device.retain(Result::is_ok);
        }
        let device = device.into_iter().collect::<Result<Vec<_>, _>>()?;
        if device.is_empty() {
            return refuse("device", "", "accepted: a template such as {1}");
        }
        let name = rule.name.iter();
        let name = name.map(|text| template("name", text, false)).next();
        let time = rule.time.iter().flat_map(|t| &t.0);
        let mut fields = Vec::new();
        for (field, sources) in &rule.fields {
            let sources = sources.0.iter().filter(|s| s.key != NONE);
            let sources: Vec<Source> = sources
                .map(|source| Source::new(*field, source, named))
                .collect::<Result<_, _>>()?;
            fields.push((*field, sources));
        }
        Ok(Self {
            device,
            name: name.transpose()?,
            batch: rule
                .batch
                .iter()
                .map(|b| path("batch", b))
                .next()
                .transpose()?,
            time: time
                .filter(|t| *t != NONE)
                .map(|t| key("time", t, named))
                .collect::<Result<_, _>>()?,
            zone: rule.timezone.unwrap_or(Tz::UTC),
            sparse: rule.sparse.unwrap_or(false),
            fields,
            filter,
        })
    }

    /// Where only the payload can name the device: the keys it may do so by.
    pub(super) fn device_keys(&self) -> Option<Vec<&str>> {
        let needed = self.device.iter().all(|t| t.keys().next().is_some());
        needed.then(|| self.device.iter().flat_map(Template::keys).collect())
    }

    /// The field whose value has this name, and how to read it.
    pub(super) fn named(&self, name: &str) -> Option<(Field, &Source)> {
        self.fields.iter().find_map(|(field, sources)| {
            let source = sources.iter().find(|s| s.path.as_str() == name)?;
            Some((*field, source))
        })
    }

    /// Whether values of this name are times of the device's other values.
    pub(super) fn is_time(&self, name: &str) -> bool {
        self.time.iter().any(|path| path.as_str() == name)
    }
}

fn path(key: &str, text: &str) -> Result<Path, RuleError> {
    match Path::new(text) {
        Some(path) => Ok(path),
        None => refuse(key, text, PATHS),
    }
}

/// A path into the payload, or the name of a value, which may hold anything.
fn key(key: &str, text: &str, named: bool) -> Result<Path, RuleError> {
    if named {
        Ok(Path::name(text))
    } else {
        path(key, text)
    }
}

/// Where a field's value is found and how it becomes the field's unit.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: Path,
    /// Times this, plus that; `None` leaves every bit as it is.
    pub(super) linear: Option<(f64, f64)>,
}

impl Source {
    fn new(field: Field, source: &FieldSource, named: bool) -> Result<Self, RuleError> {
        let at = format!("fields.{}", field.name());
        let path = key(&at, &source.key, named)?;
        let given = source.scale.is_some() || source.offset.is_some();
        let linear = match &source.unit {
            Some(unit) if given => {
                return refuse(&at, unit, "a unit, or scale and offset, not both");
            }
            Some(unit) => Some(conversion(field, unit).map_or_else(
                || {
                    let known: Vec<&str> =
                        UNITS.iter().filter(|u| u.0 == field).map(|u| u.1).collect();
                    let problem = match known[..] {
                        [] => "this field has no other units; use scale and offset".into(),
                        _ => format!("accepted: {}", known.join(", ")),
                    };
                    refuse(&format!("{at}.unit"), unit, problem)
                },
                Ok,
            )?),
            None if given => Some((source.scale.unwrap_or(1.0), source.offset.unwrap_or(0.0))),
            None => None,
        };
        if let Some((scale, offset)) = linear
            && !(scale.is_finite() && offset.is_finite() && scale != 0.0)
        {
            let value = format!("{scale}, {offset}");
            return refuse(
                &format!("{at}.scale"),
                &value,
                "accepted: finite, and not 0",
            );
        }
        Ok(Self {
            path,
            linear: linear.filter(|l| *l != (1.0, 0.0)),
        })
    }
}

/// Field, unit, and the factor and offset into the field's own unit.
const UNITS: &[(Field, &str, f64, f64)] = &[
    (Field::Power, "W", 1.0, 0.0),
    (Field::Power, "mW", 1e-3, 0.0),
    (Field::Power, "kW", 1e3, 0.0),
    (Field::Power, "MW", 1e6, 0.0),
    (Field::Voltage, "V", 1.0, 0.0),
    (Field::Voltage, "mV", 1e-3, 0.0),
    (Field::Voltage, "kV", 1e3, 0.0),
    (Field::Current, "A", 1.0, 0.0),
    (Field::Current, "mA", 1e-3, 0.0),
    (Field::Lux, "lux", 1.0, 0.0),
    (Field::Lux, "klux", 1e3, 0.0),
    (Field::Temperature, "degC", 1.0, 0.0),
    (Field::Temperature, "degF", 5.0 / 9.0, -160.0 / 9.0),
    (Field::Temperature, "K", 1.0, -273.15),
    (Field::Humidity, "%", 1.0, 0.0),
    (Field::Humidity, "fraction", 100.0, 0.0),
    (Field::ServoAngle, "deg", 1.0, 0.0),
    (Field::ServoAngle, "rad", 180.0 / std::f64::consts::PI, 0.0),
];

fn conversion(field: Field, unit: &str) -> Option<(f64, f64)> {
    let row = UNITS.iter().find(|u| u.0 == field && u.1 == unit)?;
    Some((row.2, row.3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Result<Rule, RuleError> {
        Rule::new(&toml::from_str(text).unwrap())
    }

    #[test]
    fn every_preset_is_sound_with_the_filter_it_is_made_for() {
        let presets = crate::config::presets().unwrap();
        assert!(presets.len() >= 9);
        for (name, mut preset) in presets {
            preset.preset = Some(name.clone());
            Rule::new(&preset).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }

    #[test]
    fn a_rule_that_cannot_be_meant_is_refused_by_key_and_value() {
        for (text, key, value) in [
            ("filter = 'a/#/b'", "filter", "a/#/b"),
            ("filter = '$share/g/a/#'", "filter", "$share/g/a/#"),
            ("filter = 'a/+'\npreset = 'tasmoto'", "preset", "tasmoto"),
            ("filter = 'a/+'\ndevice = '{2}'", "device", "{2}"),
            ("filter = 'a/b'\npreset = 'tasmota'", "device", "{1}"),
            ("filter = 'a/+'\ndevice = 'x{'", "device", "x{"),
            ("filter = 'a/+'\ndevice = 'x}'", "device", "x}"),
            ("filter = 'a/+'\ndevice = ''", "device", ""),
            ("filter = 'a/+'\ndevice = []", "device", ""),
            ("filter = 'a/+'\ndevice = '{a..b}'", "device", "{a..b}"),
            (
                "filter = 'a/+'\nname = '{1}'\ndevice = '{device_id}'",
                "device",
                "{device_id}",
            ),
            ("filter = 'a/+'\ntime = ''", "time", ""),
            ("filter = 'a/+'\nbatch = '.'", "batch", "."),
            (
                "filter = 'a/+'\ndevice = 'd'\nname = '{1}'\nbatch = 'r'",
                "batch",
                "r",
            ),
            ("filter = 'a/+'\nfields.power = ''", "fields.power", ""),
            (
                "filter = 'a/+'\nfields.power = { key = 'p', unit = 'kV' }",
                "fields.power.unit",
                "kV",
            ),
            (
                "filter = 'a/+'\nfields.power = { key = 'p', unit = 'kW', scale = 2.0 }",
                "fields.power",
                "kW",
            ),
            (
                "filter = 'a/+'\nfields.power = { key = 'p', scale = 0.0 }",
                "fields.power.scale",
                "0, 0",
            ),
        ] {
            let error = rule(text).unwrap_err();
            assert_eq!((&*error.key, &*error.value), (key, value), "{text}");
            assert!(!error.problem.is_empty());
        }
    }
}
