//! Configuration: strict TOML with defaults, environment overrides, and errors that name key, value and range.
//!
//! `config/nightwatt.toml` is the complete, commented reference; a test holds it to these defaults.

mod environment;
mod sections;
mod topics;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::{Table, Value};

pub use sections::{
    AlertsConfig, AutoUpdate, EmailConfig, HomeAssistantConfig, HorizonsMin, HttpConfig,
    MailSecurity, MqttConfig, Protocol, SiteConfig, StoreConfig, TrainingConfig, UpdateConfig,
    WebhookConfig,
};
pub use topics::{FieldSource, OneOrMany, PRESETS_TOML, TopicRule, presets};

use crate::mqtt::broker_url::{self, BrokerUrl};
use crate::mqtt::payload::Reader;
use crate::update::signature::Keys;
use crate::update::source::Source;

/// Where `run` looks when it is given no file.
pub const DEFAULT_PATH: &str = "/etc/nightwatt/nightwatt.toml";

const MB: u64 = 1_000_000;

/// Every number that has limits: key, least, greatest, unit.
const RANGES: &[(&str, f64, f64, &str)] = &[
    ("mqtt.keep_alive_s", 5.0, 3600.0, "seconds"),
    ("mqtt.max_age_days", 1.0, 36_500.0, "days"),
    ("store.linger_ms", 0.0, 60_000.0, "milliseconds"),
    ("store.keep_days", 0.0, 36_500.0, "days (0: for ever)"),
    ("store.reserve_mb", 0.0, 4096.0, "MB"),
    ("store.low_disk_mb", 1.0, 1_000_000.0, "MB"),
    ("store.max_devices", 1.0, 100_000.0, "devices"),
    (
        "store.new_devices_per_min",
        1.0,
        100_000.0,
        "devices a minute",
    ),
    ("site.latitude", -90.0, 90.0, "degrees north"),
    ("site.longitude", -180.0, 180.0, "degrees east"),
    ("training.catch_up_delay_min", 0.0, 1440.0, "minutes"),
    ("training.min_new_days", 0.0, 365.0, "days"),
    ("training.max_memory_mb", 1.0, 65_536.0, "megabytes"),
    ("training.lookback_days", 3.0, 3650.0, "days"),
    ("training.min_days", 1.0, 365.0, "days"),
    ("training.holdback_days", 1.0, 60.0, "days"),
    ("training.horizon_min", 1.0, 2880.0, "minutes"),
    ("training.full_every_days", 1.0, 3650.0, "days"),
    ("alerts.look_s", 1.0, 3600.0, "seconds"),
    ("alerts.raise_after_min", 0.0, 1440.0, "minutes"),
    ("alerts.clear_after_min", 0.0, 1440.0, "minutes"),
    ("alerts.limits.silent_min", 1.0, 10_080.0, "minutes"),
    ("alerts.limits.failed_nights", 1.0, 100.0, "nights"),
    ("alerts.limits.unlearned_nights", 1.0, 100.0, "nights"),
    ("alerts.limits.old_model_days", 1.0, 3650.0, "days"),
    ("alerts.limits.refused_percent", 0.0, 100.0, "percent"),
    ("alerts.email.port", 1.0, 65_535.0, ""),
    ("update.trial_s", 1.0, 3600.0, "seconds"),
    (
        "training.promote.min_improvement_percent",
        -100.0,
        100.0,
        "percent",
    ),
];

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not valid TOML: {message}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// A key is unknown, or a value is of the wrong type or out of range.
    #[error("{}{key}{}: {problem}", place.as_ref().map(|p| format!("{p}: ")).unwrap_or_default(),
        value.as_ref().map(|v| format!(" = {v}")).unwrap_or_default())]
    Invalid {
        /// The file, or the variable of the environment.
        place: Option<String>,
        /// The key with its section.
        key: String,
        /// What was given.
        value: Option<String>,
        /// What is wrong with it and what would be accepted.
        problem: String,
    },
}

impl ConfigError {
    /// With the place where the key stands: one of the variables, or else the file.
    fn found_in(mut self, path: Option<&Path>, variables: &[String]) -> Self {
        if let Self::Invalid { place, key, .. } = &mut self {
            let sets = |name: &&String| environment::key_of(name).is_some_and(|of| of == *key);
            let variable = variables.iter().find(sets).cloned();
            *place = variable.or_else(|| path.map(|p| p.display().to_string()));
        }
        self
    }
}

/// The whole configuration, validated.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where telemetry comes from.
    pub mqtt: MqttConfig,
    /// Where it is kept.
    pub store: StoreConfig,
    /// Where the station stands.
    pub site: SiteConfig,
    /// When and how it learns.
    pub training: TrainingConfig,
    /// How it is asked.
    pub http: HttpConfig,
    /// What Home Assistant is told.
    pub home_assistant: HomeAssistantConfig,
    /// Who is told what is wrong.
    pub alerts: AlertsConfig,
    /// How it replaces itself.
    pub update: UpdateConfig,
}

/// What a text says without the lines that are no TOML; nothing where there are many of them.
fn understood(mut text: String) -> Table {
    for _ in 0..20 {
        let at = match text.parse() {
            Ok(table) => return table,
            Err(error) => toml::de::Error::span(&error).map_or(0, |span| span.start),
        };
        let (before, after) = text.as_bytes().split_at(at.min(text.len()));
        let start = before
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |n| n + 1);
        let rest = after
            .iter()
            .position(|b| *b == b'\n')
            .unwrap_or(after.len());
        let end = before.len() + rest;
        text.replace_range(start..end, "");
    }
    Table::new()
}

impl Config {
    /// Reads `path` (else [`DEFAULT_PATH`] where it exists, else nothing but defaults), applies the
    /// overrides in `env`, and checks everything.
    pub fn load(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let default = Path::new(DEFAULT_PATH);
        let path = path.or_else(|| default.exists().then_some(default));
        let (text, base) = match path {
            None => (String::new(), PathBuf::new()),
            Some(path) => (
                std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
                    path: path.to_owned(),
                    source,
                })?,
                path.parent().map(Path::to_owned).unwrap_or_default(),
            ),
        };
        let mut table: Table = text
            .parse()
            .map_err(|e: toml::de::Error| ConfigError::Syntax {
                path: path.unwrap_or(default).to_owned(),
                message: place_and_reason(&text, &e),
            })?;
        let mut overridden = Vec::new();
        for (name, value) in env {
            if environment::apply(&mut table, &name, &value)? {
                overridden.push(name);
            }
        }
        let mut config = from_table(table).map_err(|e| e.found_in(path, &overridden))?;
        config.resolve_against(&base);
        Ok(config)
    }

    /// Only where the store and the socket are, whose updates are trusted and the zone, from what can be understood
    /// of `path` (else [`DEFAULT_PATH`]): for commands that ask a daemon which runs on with an older, valid
    /// one, and for the launcher, to which the configuration of a newer version need not make sense.
    pub fn places(path: Option<&Path>) -> Self {
        let path = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let table = understood(text);
        let place = |section: &str, key| {
            let value = table.get(section)?.get(key)?;
            value.as_str().map(PathBuf::from)
        };
        let keys = table.get("update").and_then(|u| u.get("public_keys"));
        let keys = keys.and_then(Value::as_array).into_iter().flatten();
        let mut config = Self::default();
        config.update.public_keys = keys.filter_map(|k| k.as_str().map(str::to_owned)).collect();
        let zone = place("site", "timezone");
        config.site.timezone = zone.and_then(|zone| zone.to_str()?.parse().ok());
        config.store.path = place("store", "path").unwrap_or(config.store.path);
        config.http.socket = place("http", "socket").unwrap_or(config.http.socket);
        config.resolve_against(path.parent().unwrap_or(Path::new("")));
        config
    }

    /// Relative paths in a file mean "beside that file".
    fn resolve_against(&mut self, base: &Path) {
        // A bare name has no folder that could be listed or synced.
        let base = match base.as_os_str().is_empty() {
            true => Path::new("."),
            false => base,
        };
        let mqtt = &mut self.mqtt;
        for path in [
            &mut mqtt.password_file,
            &mut mqtt.ca_file,
            &mut mqtt.client_cert_file,
            &mut mqtt.client_key_file,
            &mut self.alerts.webhook.token_file,
            &mut self.alerts.webhook.ca_file,
            &mut self.alerts.email.password_file,
            &mut self.alerts.email.ca_file,
            &mut self.update.ca_file,
        ]
        .into_iter()
        .flatten()
        {
            *path = base.join(&path);
        }
        self.store.path = base.join(&self.store.path);
        let http = &mut self.http;
        http.socket = base.join(&http.socket);
        http.token_file = http.token_file.as_ref().map(|path| base.join(path));
    }

    /// How long a commit waits for company.
    pub fn linger(&self) -> Duration {
        Duration::from_millis(u64::from(self.store.linger_ms))
    }

    /// Size of the reserve.
    pub fn reserve_bytes(&self) -> u64 {
        u64::from(self.store.reserve_mb) * MB
    }

    /// Below this much free space the disk is low.
    pub fn low_disk_bytes(&self) -> u64 {
        u64::from(self.store.low_disk_mb) * MB
    }
}

fn from_table(table: Table) -> Result<Config, ConfigError> {
    let root = Value::Table(table);
    for &(key, least, greatest, unit) in RANGES {
        let Some(value) = lookup(&root, key) else {
            continue;
        };
        let number = |value: &Value| {
            value
                .as_float()
                .or_else(|| value.as_integer().map(|i| i as f64))
                .is_some_and(|n| (least..=greatest).contains(&n))
        };
        let within = match value.as_array() {
            // Whether the key takes a list is its type's business.
            Some(list) => list.iter().all(number),
            None => number(value),
        };
        if !within {
            return Err(invalid(
                key,
                value,
                format!("accepted: {least} … {greatest} {unit}"),
            ));
        }
    }
    let config: Config = serde_path_to_error::deserialize(root.clone()).map_err(|e| {
        let key = e.path().to_string();
        ConfigError::Invalid {
            place: None,
            value: lookup(&root, &key)
                .filter(|v| !v.is_table())
                .map(|v| shown(&key, v)),
            // Without a source the text is the message and the keys on the way.
            problem: in_our_words(e.into_inner().to_string().trim_end()),
            key,
        }
    })?;
    validate(&config, &root)?;
    Ok(config)
}

/// What types and ranges cannot say.
fn validate(config: &Config, root: &Value) -> Result<(), ConfigError> {
    let refuse = |key: &str, problem: &str| {
        let value = lookup(root, key).map(|v| shown(key, v));
        Err(ConfigError::Invalid {
            place: None,
            key: key.into(),
            value,
            problem: problem.into(),
        })
    };
    let mqtt = &config.mqtt;
    if let Err(error) = mqtt.url.parse::<BrokerUrl>() {
        return refuse(
            "mqtt.url",
            &format!("{error}; accepted: mqtt://[user@]host[:port] or mqtts://…"),
        );
    }
    if mqtt.client_id.is_empty() || mqtt.client_id.len() > 128 {
        return refuse("mqtt.client_id", "accepted: 1 … 128 characters");
    }
    if mqtt.client_cert_file.is_some() != mqtt.client_key_file.is_some() {
        return refuse(
            "mqtt.client_cert_file",
            "client_cert_file and client_key_file go together",
        );
    }
    let own = format!("{}/", mqtt.topic_prefix);
    if let Some(i) = (mqtt.topics.iter()).position(|rule| rule.filter.starts_with(&own)) {
        return Err(ConfigError::Invalid {
            place: None,
            key: format!("mqtt.topics[{i}].filter"),
            value: Some(format!("{:?}", mqtt.topics[i].filter)),
            problem: format!(
                "nightwatt publishes below {own} itself, and would learn its own forecasts"
            ),
        });
    }
    if mqtt.topic_prefix.is_empty() || mqtt.topic_prefix.contains(['+', '#']) {
        return refuse("mqtt.topic_prefix", "accepted: a topic without wildcards");
    }
    if mqtt.topics.is_empty() {
        return refuse("mqtt.topics", "accepted: at least one [[mqtt.topics]] rule");
    }
    if let Err(error) = Reader::new(&mqtt.topics, mqtt.max_age_days) {
        return Err(ConfigError::Invalid {
            place: None,
            key: format!("mqtt.topics{}", error.key),
            value: Some(format!("{:?}", error.value)),
            problem: error.problem,
        });
    }
    if config.site.latitude.is_some() != config.site.longitude.is_some() {
        return refuse("site.latitude", "latitude and longitude go together");
    }
    let http = &config.http;
    if http
        .listen
        .is_some_and(|address| !address.ip().is_loopback() || address.port() == 0)
    {
        return refuse(
            "http.listen",
            "accepted: a loopback address and a port, such as \"127.0.0.1:8465\"; what goes over the network unencrypted anybody may read and change, so let a proxy with TLS stand before it",
        );
    }
    if http.listen.is_none() && (http.token_file.is_some() || !http.hosts.is_empty()) {
        return refuse(
            "http.listen",
            "token_file and hosts are for TCP: they need listen",
        );
    }
    let name = |host: &String| !host.is_empty() && !host.contains(['/', '@', ' ', '*']);
    if !http.hosts.iter().all(name) {
        return refuse("http.hosts", "accepted: names such as \"pv.example.org\"");
    }
    let prefix = &config.home_assistant.discovery_prefix;
    if prefix.is_empty() || prefix.contains(['+', '#']) || *prefix == mqtt.topic_prefix {
        let problem = "accepted: a topic without wildcards other than mqtt.topic_prefix";
        return refuse("home_assistant.discovery_prefix", problem);
    }
    let own = format!("{prefix}/device/");
    if let Some(i) = (mqtt.topics.iter()).position(|rule| rule.filter.starts_with(&own)) {
        return Err(ConfigError::Invalid {
            place: None,
            key: format!("mqtt.topics[{i}].filter"),
            value: Some(format!("{:?}", mqtt.topics[i].filter)),
            problem: format!("below {own} Home Assistant is told of devices; no reading is there"),
        });
    }
    if let Err((key, problem)) = crate::alerts::deliver::check(&config.alerts) {
        // The address may hold a secret in its path, so it is not shown.
        return Err(ConfigError::Invalid {
            place: None,
            key: format!("alerts.{key}"),
            value: None,
            problem,
        });
    }
    let training = &config.training;
    if training.lookback_days <= training.holdback_days + training.min_days {
        return refuse(
            "training.lookback_days",
            "must be more than min_days and holdback_days together",
        );
    }
    let update = &config.update;
    if let Err(key) = Keys::new(&update.public_keys) {
        return refuse(
            "update.public_keys",
            &format!("{key:?} is no minisign public key"),
        );
    }
    let looks = update.enabled || !update.source.is_empty();
    if let Some(problem) = looks
        .then(|| Source::parse(&update.source, &update.channel).err())
        .flatten()
    {
        return refuse("update.source", &problem);
    }
    let store = &config.store;
    if store.keep_days != 0 && store.keep_days < training.lookback_days {
        return refuse(
            "store.keep_days",
            "must be at least training.lookback_days, or 0 for ever",
        );
    }
    if store.low_disk_mb <= store.reserve_mb / 2 {
        return refuse(
            "store.low_disk_mb",
            "must be more than half of store.reserve_mb",
        );
    }
    Ok(())
}

/// Keys joined by dots; `[2]` is a position in an array.
fn lookup<'a>(root: &'a Value, key: &str) -> Option<&'a Value> {
    key.split(['.', '[']).try_fold(root, |at, part| {
        match part.strip_suffix(']').map(str::parse::<usize>) {
            Some(Ok(position)) => at.get(position),
            _ => at.get(part),
        }
    })
}

fn invalid(key: &str, value: &Value, problem: String) -> ConfigError {
    ConfigError::Invalid {
        place: None,
        key: key.into(),
        value: Some(shown(key, value)),
        problem,
    }
}

/// A value as an error may show it: what is, or looks like, a password does not get into logs.
fn shown(key: &str, value: &Value) -> String {
    let text = value.to_string();
    let name = key.rsplit('.').next().unwrap_or(key);
    let names_a_secret = ["password", "passphrase", "secret", "token"]
        .iter()
        .any(|word| name.contains(word));
    // A folder or a file is no secret, and wrong ones want to be seen.
    if (names_a_secret && !name.ends_with("_file")) || broker_url::holds_password(&text) {
        return "(not shown)".into();
    }
    text
}

/// A reader's words on one line; what it calls a field is a key here.
fn in_our_words(text: &str) -> String {
    let text = text.replace('\n', " ");
    let known = text.strip_prefix("unknown field `").and_then(|rest| {
        let (_, known) = rest.split_once("`, expected ")?;
        Some(known.strip_prefix("one of ").unwrap_or(known))
    });
    known.map_or(text.clone(), |known| {
        format!("there is no such key; there are {known}")
    })
}

/// Line, column and reason, in one line; not the line itself, which may hold a secret.
fn place_and_reason(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let place = before.map_or(String::new(), |before| {
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("line {line}, column {column}: ")
    });
    format!("{place}{}", error.message().trim_end().replace('\n', ", "))
}

#[cfg(test)]
mod tests;
