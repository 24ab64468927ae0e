//! Configuration: strict TOML with defaults, environment overrides, and errors that name key, value and range.
//!
//! `config/nightwatt.toml` is the complete, commented reference; a test holds it to these defaults.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono_tz::Tz;
use serde::Deserialize;
use toml::{Table, Value};

use crate::mqtt::broker_url::BrokerUrl;
use crate::night::{Mode, Promote};
use crate::reading::Field;
use crate::schedule::Schedule;
use crate::sun::Site;

/// Where `run` looks when it is given no file.
pub const DEFAULT_PATH: &str = "/etc/nightwatt/nightwatt.toml";
/// Overrides are `NIGHTWATT_SECTION__KEY`; a variable without the double underscore is not one.
const ENV_PREFIX: &str = "NIGHTWATT_";

/// Every number that has limits: key, least, greatest, unit.
const RANGES: &[(&str, f64, f64, &str)] = &[
    ("mqtt.keep_alive_s", 5.0, 3600.0, "seconds"),
    ("mqtt.max_age_days", 1.0, 36_500.0, "days"),
    ("store.linger_ms", 0.0, 60_000.0, "milliseconds"),
    ("site.latitude", -90.0, 90.0, "degrees north"),
    ("site.longitude", -180.0, 180.0, "degrees east"),
    ("training.lookback_days", 3.0, 3650.0, "days"),
    ("training.min_days", 1.0, 365.0, "days"),
    ("training.holdback_days", 1.0, 60.0, "days"),
    ("training.horizon_min", 1.0, 2880.0, "minutes"),
    ("training.full_every_days", 1.0, 3650.0, "days"),
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
    #[error("{key}{}: {problem}", value.as_ref().map(|v| format!(" = {v}")).unwrap_or_default())]
    Invalid {
        /// The key with its section.
        key: String,
        /// What was given.
        value: Option<String>,
        /// What is wrong with it and what would be accepted.
        problem: String,
    },
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
}

/// MQTT protocol version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    /// MQTT 5.
    #[default]
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1, for brokers that know nothing newer.
    #[serde(rename = "3.1.1")]
    V311,
}

/// `[mqtt]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttConfig {
    /// `mqtt://[user@]host[:1883]` or `mqtts://[user@]host[:8883]`.
    pub url: String,
    /// Protocol version.
    pub protocol: Protocol,
    /// The name under which the broker keeps our session; unique per broker.
    pub client_id: String,
    /// User name, if the broker asks for one.
    pub username: Option<String>,
    /// File with the password; without it the systemd credential `mqtt-password` is used where there is one.
    pub password_file: Option<PathBuf>,
    /// PEM file of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate.
    pub client_cert_file: Option<PathBuf>,
    /// PEM file of the client key.
    pub client_key_file: Option<PathBuf>,
    /// Seconds between signs of life.
    pub keep_alive_s: u16,
    /// A reading's own time is believed up to this old.
    pub max_age_days: u32,
    /// Everything nightwatt publishes is below this topic.
    pub topic_prefix: String,
    /// What to subscribe to and how to read it.
    pub topics: Vec<TopicRule>,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            url: "mqtt://127.0.0.1:1883".into(),
            protocol: Protocol::V5,
            client_id: "nightwatt".into(),
            username: None,
            password_file: None,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            keep_alive_s: 30,
            max_age_days: 30,
            topic_prefix: "nightwatt".into(),
            topics: vec![TopicRule {
                filter: "solar/+/telemetry".into(),
                ..TopicRule::default()
            }],
        }
    }
}

/// `[[mqtt.topics]]`: flat JSON objects on topics that match a filter.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicRule {
    /// MQTT topic filter; the level of its first `+` names a device whose payload does not.
    pub filter: String,
    /// Field name to payload key, where they differ.
    #[serde(default)]
    pub fields: std::collections::BTreeMap<Field, String>,
    /// Zone of times that carry none; UTC where it is not given.
    #[serde(default)]
    pub timezone: Option<Tz>,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The SQLite file.
    pub path: PathBuf,
    /// How long a commit waits for company; larger means fewer writes to an SD card.
    pub linger_ms: u32,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            path: "/var/lib/nightwatt/nightwatt.db".into(),
            linger_ms: 0,
        }
    }
}

/// `[site]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SiteConfig {
    /// Degrees north.
    pub latitude: Option<f64>,
    /// Degrees east.
    pub longitude: Option<f64>,
    /// IANA zone of the schedule and of local days; the system's where it is not given.
    pub timezone: Option<Tz>,
}

impl SiteConfig {
    /// The site, where both coordinates are known.
    pub fn site(&self) -> Option<Site> {
        Some(Site {
            latitude_deg: self.latitude?,
            longitude_deg: self.longitude?,
        })
    }

    /// The configured zone, else the system's, else UTC.
    pub fn zone(&self) -> Tz {
        self.timezone.or_else(system_zone).unwrap_or(Tz::UTC)
    }
}

/// The zone `/etc/localtime` points into the zone database with.
fn system_zone() -> Option<Tz> {
    let link = std::fs::read_link("/etc/localtime").ok()?;
    link.to_str()?.split_once("zoneinfo/")?.1.parse().ok()
}

/// `[training]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// Whether the schedule trains at all; `nightwatt train` works either way.
    pub enabled: bool,
    /// Five-field cron expression or `every <n>h`.
    pub schedule: Schedule,
    /// Days of readings a night learns from.
    pub lookback_days: u32,
    /// Days of readings before the first night does anything.
    pub min_days: u32,
    /// Newest days, kept out of training, on which candidates are judged.
    pub holdback_days: u32,
    /// Minutes ahead to forecast.
    pub horizon_min: u32,
    /// Whether a night renews a part of the trees, or all of them.
    pub mode: Mode,
    /// Days after which an incremental night is a full one.
    pub full_every_days: u32,
    /// When a candidate may go live.
    pub promote: Promote,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            schedule: Schedule::default(),
            lookback_days: 180,
            min_days: 7,
            holdback_days: 7,
            horizon_min: 15,
            mode: Mode::Incremental,
            full_every_days: 30,
            promote: Promote::default(),
        }
    }
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// The Unix socket the command line talks to.
    pub socket: PathBuf,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            socket: "/run/nightwatt/nightwatt.sock".into(),
        }
    }
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
                message: e.to_string().trim_end().to_owned(),
            })?;
        for (name, value) in env {
            override_from_env(&mut table, &name, &value)?;
        }
        let mut config = from_table(table)?;
        config.resolve_against(&base);
        Ok(config)
    }

    /// Relative paths in a file mean "beside that file".
    fn resolve_against(&mut self, base: &Path) {
        let mqtt = &mut self.mqtt;
        for path in [
            &mut mqtt.password_file,
            &mut mqtt.ca_file,
            &mut mqtt.client_cert_file,
            &mut mqtt.client_key_file,
        ]
        .into_iter()
        .flatten()
        {
            *path = base.join(&path);
        }
        self.store.path = base.join(&self.store.path);
        self.http.socket = base.join(&self.http.socket);
    }

    /// How long a commit waits for company.
    pub fn linger(&self) -> Duration {
        Duration::from_millis(u64::from(self.store.linger_ms))
    }
}

fn from_table(table: Table) -> Result<Config, ConfigError> {
    let root = Value::Table(table);
    for &(key, least, greatest, unit) in RANGES {
        let Some(value) = lookup(&root, key) else {
            continue;
        };
        let number = value
            .as_float()
            .or_else(|| value.as_integer().map(|i| i as f64));
        if !number.is_some_and(|n| (least..=greatest).contains(&n)) {
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
            value: lookup(&root, &key)
                .filter(|v| !v.is_table())
                .map(Value::to_string),
            problem: e.into_inner().to_string().trim_end().to_owned(),
            key,
        }
    })?;
    validate(&config, &root)?;
    Ok(config)
}

/// What types and ranges cannot say.
fn validate(config: &Config, root: &Value) -> Result<(), ConfigError> {
    let refuse = |key: &str, problem: &str| {
        let value = lookup(root, key).map(Value::to_string);
        Err(ConfigError::Invalid {
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
    if mqtt.topic_prefix.is_empty() || mqtt.topic_prefix.contains(['+', '#']) {
        return refuse("mqtt.topic_prefix", "accepted: a topic without wildcards");
    }
    if mqtt.topics.is_empty() {
        return refuse("mqtt.topics", "accepted: at least one [[mqtt.topics]] rule");
    }
    for rule in &mqtt.topics {
        if !rumqttc::valid_filter(&rule.filter) {
            return Err(ConfigError::Invalid {
                key: "mqtt.topics.filter".into(),
                value: Some(format!("{:?}", rule.filter)),
                problem: "accepted: an MQTT topic filter such as solar/+/telemetry".into(),
            });
        }
    }
    if config.site.latitude.is_some() != config.site.longitude.is_some() {
        return refuse("site.latitude", "latitude and longitude go together");
    }
    let training = &config.training;
    if training.lookback_days <= training.holdback_days + training.min_days {
        return refuse(
            "training.lookback_days",
            "must be more than min_days and holdback_days together",
        );
    }
    Ok(())
}

fn lookup<'a>(root: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(root, |at, part| at.get(part))
}

fn invalid(key: &str, value: &Value, problem: String) -> ConfigError {
    ConfigError::Invalid {
        key: key.into(),
        value: Some(value.to_string()),
        problem,
    }
}

/// Sets `section.key` from `NIGHTWATT_SECTION__KEY`; the text is TOML where it parses as TOML, else a string.
fn override_from_env(table: &mut Table, name: &str, text: &str) -> Result<(), ConfigError> {
    let Some(key) = name.strip_prefix(ENV_PREFIX).filter(|k| k.contains("__")) else {
        return Ok(());
    };
    let key = key.to_lowercase();
    let parts: Vec<&str> = key.split("__").collect();
    let parsed = format!("v = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut t| t.remove("v"));
    let value = parsed.unwrap_or_else(|| Value::String(text.to_owned()));
    let mut at = table;
    for part in &parts[..parts.len() - 1] {
        at = at
            .entry(part.to_string())
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .ok_or_else(|| ConfigError::Invalid {
                key: parts.join("."),
                value: Some(value.to_string()),
                problem: format!("{name} goes into a section, but {part} is a value"),
            })?;
    }
    at.insert(parts[parts.len() - 1].to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(
            Some(&path),
            env.iter().map(|(k, v)| (k.to_string(), v.to_string())),
        )
    }

    fn refused(text: &str, env: &[(&str, &str)]) -> String {
        load(text, env).unwrap_err().to_string()
    }

    #[test]
    fn the_reference_file_is_complete_and_says_the_defaults() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/nightwatt.toml");
        let config = Config::load(Some(&path), []).unwrap();
        assert_eq!(
            config,
            Config {
                site: config.site.clone(),
                ..Config::default()
            }
        );
        // Complete: every key of every section stands in it, set or commented out.
        let text = std::fs::read_to_string(&path).unwrap();
        let shown = format!("{:?}", Config::default());
        let keys: Vec<&str> = shown
            .split([' ', '{', ','])
            .filter_map(|w| w.strip_suffix(':'))
            .filter(|k| !k.is_empty())
            .collect();
        assert!(keys.len() > 20, "{keys:?}");
        for key in keys {
            assert!(
                text.contains(key),
                "config/nightwatt.toml does not mention {key}"
            );
        }
    }

    #[test]
    fn a_misspelt_key_is_named_with_what_would_be_accepted() {
        let said = refused("[mqtt]\nurrl = \"x\"", &[]);
        assert!(
            said.contains("urrl") && said.contains("keep_alive_s"),
            "{said}"
        );
        let said = refused("[mqt]\n", &[]);
        assert!(said.contains("mqt") && said.contains("training"), "{said}");
    }

    #[test]
    fn errors_name_key_value_and_range() {
        for (text, parts) in [
            (
                "[mqtt]\nkeep_alive_s = 4",
                ["mqtt.keep_alive_s", "4", "5 … 3600 seconds"],
            ),
            (
                "[mqtt]\nkeep_alive_s = \"x\"",
                ["mqtt.keep_alive_s", "x", "5 … 3600 seconds"],
            ),
            (
                "[mqtt]\nprotocol = \"4\"",
                ["mqtt.protocol", "\"4\"", "3.1.1"],
            ),
            (
                "[mqtt]\nurl = \"http://x\"",
                ["mqtt.url", "http://x", "mqtts://"],
            ),
            (
                "[[mqtt.topics]]\nfilter = \"a/#/b\"",
                ["filter", "a/#/b", "solar/+/telemetry"],
            ),
            (
                "[site]\nlatitude = 91.0\nlongitude = 0.0",
                ["site.latitude", "91", "90"],
            ),
            (
                "[site]\ntimezone = \"Mars/Base\"",
                ["site.timezone", "Mars/Base", "imezone"],
            ),
            (
                "[training]\nschedule = \"0 25 * * *\"",
                ["training.schedule", "0 25 * * *", "hour"],
            ),
            (
                "[training]\nlookback_days = 5",
                ["training.lookback_days", "5", "min_days"],
            ),
        ] {
            let said = refused(text, &[]);
            for part in parts {
                assert!(said.contains(part), "{text}: {said} lacks {part}");
            }
        }
    }

    #[test]
    fn the_environment_overrides_and_is_held_to_the_same_rules() {
        let config = load(
            "[mqtt]\nkeep_alive_s = 60",
            &[
                ("NIGHTWATT_MQTT__URL", "mqtt://broker:1884"),
                ("NIGHTWATT_MQTT__KEEP_ALIVE_S", "20"),
                ("NIGHTWATT_TRAINING__PROMOTE__METRIC", "rmse"),
                ("NIGHTWATT_DATA", "/somewhere"),
            ],
        )
        .unwrap();
        assert_eq!(config.mqtt.url, "mqtt://broker:1884");
        assert_eq!(config.mqtt.keep_alive_s, 20);
        assert_eq!(config.training.promote.metric, crate::night::Metric::Rmse);
        let said = refused("", &[("NIGHTWATT_MQTT__URRL", "x")]);
        assert!(said.contains("urrl"), "{said}");
    }

    #[test]
    fn relative_paths_are_beside_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(
            &path,
            "[store]\npath = \"n.db\"\n[mqtt]\npassword_file = \"secret\"",
        )
        .unwrap();
        let config = Config::load(Some(&path), []).unwrap();
        assert_eq!(config.store.path, dir.path().join("n.db"));
        assert_eq!(config.mqtt.password_file, Some(dir.path().join("secret")));
    }

    #[test]
    fn a_missing_or_broken_file_is_named() {
        let said = Config::load(Some(Path::new("/nowhere/c.toml")), [])
            .unwrap_err()
            .to_string();
        assert!(said.contains("/nowhere/c.toml"), "{said}");
        let said = refused("[mqtt\n", &[]);
        assert!(said.contains("c.toml") && said.contains("line 1"), "{said}");
    }
}
