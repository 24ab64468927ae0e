//! `[[mqtt.topics]]`: how the messages of one kind of device are read, and the presets to start from.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use chrono_tz::Tz;
use serde::de::{self, MapAccess, SeqAccess, Visitor, value};
use serde::{Deserialize, Deserializer};

use crate::reading::Field;

/// Every preset, as text: the page users read and the table rules are laid over.
pub const PRESETS_TOML: &str = include_str!("../../config/presets.toml");
const DEFAULT_PRESET: &str = "flat";

/// One rule. What it leaves out comes from its preset.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicRule {
    /// MQTT topic filter. Templates call what its wildcards matched `{1}`, `{2}` and so on.
    pub filter: String,
    /// Name of the settings to start from; `flat` where it is not given.
    #[serde(default)]
    pub preset: Option<String>,
    /// Template of the device's name: text, `{1}` for a wildcard, `{key}` for a path in the payload.
    #[serde(default)]
    pub device: Option<OneOrMany<String>>,
    /// Template of a value's name, for topics that carry one bare value each.
    #[serde(default)]
    pub name: Option<String>,
    /// Path of the array of readings in a payload that carries several.
    #[serde(default)]
    pub batch: Option<String>,
    /// Path (or name) of the time, or `none`.
    #[serde(default)]
    pub time: Option<OneOrMany<String>>,
    /// Zone of times that carry none; UTC where it is not given.
    #[serde(default)]
    pub timezone: Option<Tz>,
    /// Pass messages over that carry none of the fields, instead of quarantining them.
    #[serde(default)]
    pub sparse: Option<bool>,
    /// Where each field is found.
    #[serde(default)]
    pub fields: BTreeMap<Field, OneOrMany<FieldSource>>,
}

/// A value or a list of them, in order of preference.
#[derive(Clone, Debug, PartialEq)]
pub struct OneOrMany<T>(pub Vec<T>);

/// Where a field's value is found and what it is measured in; a bare text is the key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldSource {
    /// Path in the payload, or the value's name; `none` switches a preset's field off.
    pub key: String,
    /// Unit of what is sent, where it is not the field's own.
    pub unit: Option<String>,
    /// What is sent times this, …
    pub scale: Option<f64>,
    /// … plus this is the field's value.
    pub offset: Option<f64>,
}

impl TopicRule {
    /// The preset's name, given or default.
    pub fn preset_name(&self) -> &str {
        self.preset.as_deref().unwrap_or(DEFAULT_PRESET)
    }

    /// This rule over its preset, or the names of the presets there are.
    pub fn resolved(&self) -> Result<TopicRule, String> {
        let mut presets = presets().map_err(|e| e.to_string())?;
        let Some(base) = presets.remove(self.preset_name()) else {
            let names: Vec<String> = presets.into_keys().collect();
            return Err(format!("accepted: {}", names.join(", ")));
        };
        let mut fields = base.fields;
        fields.extend(self.fields.clone());
        Ok(TopicRule {
            filter: self.filter.clone(),
            preset: self.preset.clone(),
            device: self.device.clone().or(base.device),
            name: self.name.clone().or(base.name),
            batch: self.batch.clone().or(base.batch),
            time: self.time.clone().or(base.time),
            timezone: self.timezone.or(base.timezone),
            sparse: self.sparse.or(base.sparse),
            fields,
        })
    }
}

/// The presets by name; a test holds the embedded text to be sound.
pub fn presets() -> Result<BTreeMap<String, TopicRule>, toml::de::Error> {
    toml::from_str(PRESETS_TOML)
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(value::StrDeserializer::new(text)).map(|one| OneOrMany(vec![one]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(value::MapAccessDeserializer::new(map))
                    .map(|one| OneOrMany(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(value::SeqAccessDeserializer::new(list)).map(OneOrMany)
            }
        }
        from.deserialize_any(Either(PhantomData))
    }
}

impl<'de> Deserialize<'de> for FieldSource {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            key: String,
            #[serde(default)]
            unit: Option<String>,
            #[serde(default)]
            scale: Option<f64>,
            #[serde(default)]
            offset: Option<f64>,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = FieldSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key, or a table such as { key = \"p\", unit = \"kW\" }")
            }

            fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
                Ok(FieldSource {
                    key: key.to_owned(),
                    ..FieldSource::default()
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let t = Table::deserialize(value::MapAccessDeserializer::new(map))?;
                Ok(FieldSource {
                    key: t.key,
                    unit: t.unit,
                    scale: t.scale,
                    offset: t.offset,
                })
            }
        }
        from.deserialize_any(Either)
    }
}
