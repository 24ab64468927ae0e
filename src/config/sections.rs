//! The sections of the configuration with their defaults.

use std::net::SocketAddr;
use std::path::PathBuf;

use chrono_tz::Tz;
use serde::Deserialize;

use super::TopicRule;
use crate::models::bundle::MAX_HORIZONS;
use crate::night::{Mode, Promote};
use crate::schedule::{CatchUp, Schedule};
use crate::status::Limits;
use crate::sun::Site;

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

/// `[store]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The SQLite file.
    pub path: PathBuf,
    /// How long a commit waits for company; larger means fewer writes to an SD card.
    pub linger_ms: u32,
    /// Days of readings and forecasts kept; 0 for ever. Hourly means stay for good.
    pub keep_days: u32,
    /// Size of the file that is given up when the disk is full; 0 for none.
    pub reserve_mb: u32,
    /// Below this much free space old readings go early.
    pub low_disk_mb: u32,
    /// Devices there may be; readings of further ones go to the quarantine.
    pub max_devices: u32,
    /// Devices that may be seen for the first time in one minute.
    pub new_devices_per_min: u32,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            path: "/var/lib/nightwatt/nightwatt.db".into(),
            linger_ms: 0,
            keep_days: 400,
            reserve_mb: 64,
            low_disk_mb: 256,
            max_devices: 1000,
            new_devices_per_min: 60,
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
    /// A night is a full one where this has had an occurrence since the last night that learned.
    pub full_schedule: Option<Schedule>,
    /// Whether a night that was missed is made up for.
    pub catch_up: CatchUp,
    /// Minutes after the start, a jump of the clock or its first confirmation before one is.
    pub catch_up_delay_min: u32,
    /// Days with new readings that a night needs; `nightwatt train --force` does without.
    pub min_new_days: u32,
    /// Memory the training process may use, MB.
    pub max_memory_mb: u32,
    /// Days of readings a night learns from.
    pub lookback_days: u32,
    /// Days of readings before the first night does anything.
    pub min_days: u32,
    /// Newest days, kept out of training, on which candidates are judged.
    pub holdback_days: u32,
    /// Minutes ahead to forecast: one number or a list.
    pub horizon_min: HorizonsMin,
    /// Whether a night renews a part of the trees, or all of them.
    pub mode: Mode,
    /// Days after which an incremental night is a full one.
    pub full_every_days: u32,
    /// When a candidate may go live.
    pub promote: Promote,
}

/// Minutes ahead, each a forecast of its own; the first is the one that counts where only one can.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "OneOrMore")]
pub struct HorizonsMin(Vec<u32>);

impl HorizonsMin {
    /// In the order given; at least one, none twice.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }
}

impl Default for HorizonsMin {
    fn default() -> Self {
        Self(vec![15])
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number of minutes or a list of such numbers")]
enum OneOrMore {
    One(u32),
    More(Vec<u32>),
}

impl TryFrom<OneOrMore> for HorizonsMin {
    type Error = String;

    fn try_from(given: OneOrMore) -> Result<Self, String> {
        let minutes = match given {
            OneOrMore::One(minutes) => vec![minutes],
            OneOrMore::More(minutes) => minutes,
        };
        let different: std::collections::BTreeSet<_> = minutes.iter().collect();
        if different.len() != minutes.len() || !(1..=MAX_HORIZONS).contains(&minutes.len()) {
            return Err(format!(
                "accepted: 1 … {MAX_HORIZONS} numbers, none of them twice"
            ));
        }
        Ok(Self(minutes))
    }
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            schedule: Schedule::default(),
            full_schedule: None,
            catch_up: CatchUp::default(),
            catch_up_delay_min: 5,
            min_new_days: 1,
            max_memory_mb: 512,
            lookback_days: 180,
            min_days: 7,
            holdback_days: 7,
            horizon_min: HorizonsMin::default(),
            mode: Mode::Incremental,
            full_every_days: 30,
            promote: Promote::default(),
        }
    }
}

/// How far an update goes by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AutoUpdate {
    /// Only says that there is one.
    #[default]
    Check,
    /// Brings it here.
    Fetch,
    /// Tries it and keeps it where it proves itself.
    Apply,
}

/// `[update]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateConfig {
    /// Whether updates are looked for by themselves; `nightwatt update` works either way.
    pub enabled: bool,
    /// A folder's path or address; `{channel}` and `{target}` are filled in.
    pub source: String,
    /// The publisher's line of releases.
    pub channel: String,
    /// Minisign public keys in place of those built in.
    pub public_keys: Vec<String>,
    /// When to look.
    pub schedule: Schedule,
    /// How far to go then.
    pub auto: AutoUpdate,
    /// When a new version may be tried by itself.
    pub window: CatchUp,
    /// Seconds of good running after which a version on trial is kept.
    pub trial_s: u32,
    /// PEM file of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            source: String::new(),
            channel: "stable".into(),
            public_keys: Vec::new(),
            schedule: Schedule::Every { hours: 6 },
            auto: AutoUpdate::Check,
            window: CatchUp::Always,
            trial_s: 120,
            ca_file: None,
        }
    }
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// The Unix socket the command line talks to.
    pub socket: PathBuf,
    /// Loopback address and port to answer on as well.
    pub listen: Option<SocketAddr>,
    /// File with the token that changes over TCP take; without it the systemd credential `http-token` is used
    /// where there is one.
    pub token_file: Option<PathBuf>,
    /// Further names under which it may be asked over TCP.
    pub hosts: Vec<String>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            socket: "/run/nightwatt/nightwatt.sock".into(),
            listen: None,
            token_file: None,
            hosts: Vec::new(),
        }
    }
}

/// `[home_assistant]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HomeAssistantConfig {
    /// Whether Home Assistant is told of the devices and the station.
    pub enabled: bool,
    /// Where it listens for them.
    pub discovery_prefix: String,
}

impl Default for HomeAssistantConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            discovery_prefix: "homeassistant".into(),
        }
    }
}

/// `[alerts]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlertsConfig {
    /// Whether alerts are published, retained, below `<topic_prefix>/alerts`.
    pub mqtt: bool,
    /// How often the station is looked at.
    pub look_s: u32,
    /// Minutes for which something is wrong before an alert is raised.
    pub raise_after_min: u32,
    /// Minutes for which it is right again before the alert is over.
    pub clear_after_min: u32,
    /// From where on something is wrong.
    pub limits: Limits,
    /// Where alerts are posted.
    pub webhook: WebhookConfig,
    /// Where they are mailed.
    pub email: EmailConfig,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self {
            mqtt: true,
            look_s: 60,
            raise_after_min: 5,
            clear_after_min: 10,
            limits: Limits::default(),
            webhook: WebhookConfig::default(),
            email: EmailConfig::default(),
        }
    }
}

/// `[alerts.webhook]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where to post; nowhere without it.
    pub url: Option<String>,
    /// File with the bearer token; without it the systemd credential `alerts-webhook-token` is used
    /// where there is one.
    pub token_file: Option<PathBuf>,
    /// PEM file of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// `[alerts.email]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmailConfig {
    /// The mail server; no mail without it.
    pub server: Option<String>,
    /// Its port; 587 for STARTTLS, 465 for TLS, 25 without.
    pub port: Option<u16>,
    /// How the connection is kept private.
    pub security: MailSecurity,
    /// The sender's address.
    pub from: Option<String>,
    /// The recipients' addresses.
    pub to: Vec<String>,
    /// User name, if the server asks for one.
    pub username: Option<String>,
    /// File with the password; without it the systemd credential `alerts-email-password`.
    pub password_file: Option<PathBuf>,
    /// PEM file of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// How a connection to a mail server is kept private.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailSecurity {
    /// STARTTLS, and nothing is sent before it.
    #[default]
    StartTls,
    /// TLS from the first byte.
    Tls,
    /// Not at all: for a server on the same machine.
    None,
}
