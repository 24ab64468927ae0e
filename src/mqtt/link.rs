//! One broker connection, MQTT 5 or 3.1.1 behind the same few verbs.

use std::path::Path;
use std::time::Duration;

use rumqttc::{NetworkOptions, Outgoing, TlsConfiguration, Transport, v5};

use super::broker_url::{BrokerUrl, BrokerUrlError};
use super::tls;
use crate::config::{MqttConfig, Protocol};
use crate::errors::chain;

/// Largest packet we let a broker send us: MQTT 5 brokers keep larger ones to themselves.
const MAX_PACKET_BYTES: u32 = 256 * 1024;
/// With MQTT 3.1.1 the broker cannot be told, and a larger packet ends the connection.
const MAX_PACKET_BYTES_V311: usize = 1024 * 1024;
/// Unacknowledged messages an MQTT 5 broker may have on the way to us.
pub const RECEIVE_MAXIMUM: u16 = 200;
/// How long a broker keeps our session while we are away.
const SESSION_EXPIRY_S: u32 = 7 * 24 * 3600;
const CONNECT_TIMEOUT_S: u64 = 10;
/// Our own unacknowledged publishes; rumqttc allocates for as many as it may have.
const OUTGOING_INFLIGHT: u16 = 16;

/// What the error begins with where the broker does not let us in.
pub const REFUSED_BY_BROKER: &str = "the broker refused us";

/// A password that does not print.
#[derive(Clone)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Why a link could not be set up, or broke.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A file that the connection needs is missing or wrong; retrying does not help.
    #[error("cannot {action} {on}: {why}")]
    Setup {
        /// What was attempted.
        action: &'static str,
        /// On what.
        on: String,
        /// Why it failed.
        why: String,
    },
    /// The broker does not let us in.
    #[error("{REFUSED_BY_BROKER}: {0}")]
    Refused(String),
    /// The connection broke or could not be made.
    #[error("{0}")]
    Broken(String),
}

/// How to reach and greet the broker.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    broker: BrokerUrl,
    protocol: Protocol,
    client_id: String,
    login: Option<(String, Secret)>,
    tls: Option<std::sync::Arc<rustls::ClientConfig>>,
    keep_alive: Duration,
    /// Topic and payload the broker publishes, retained, when we vanish.
    pub will: Option<(String, String)>,
    /// Requests that may wait for the connection.
    pub requests: usize,
    /// Keep the session at the broker and acknowledge by hand.
    pub persistent: bool,
}

impl LinkOptions {
    /// From `[mqtt]`; reads the password and certificate files it names. `suffix` tells our
    /// connections apart. `credentials` is systemd's credential folder, if there is one.
    pub fn new(
        mqtt: &MqttConfig,
        suffix: &str,
        credentials: Option<&Path>,
    ) -> Result<Self, LinkError> {
        let setup = |e: BrokerUrlError| LinkError::Setup {
            action: "understand the broker's address",
            on: mqtt.url.clone(),
            why: e.to_string(),
        };
        let broker: BrokerUrl = mqtt.url.parse().map_err(setup)?;
        let tls = if broker.tls {
            Some(tls::client_config(mqtt)?)
        } else {
            None
        };
        let login = match mqtt.username.as_ref().or(broker.username.as_ref()) {
            None => None,
            Some(user) => Some((user.clone(), password(mqtt, credentials)?)),
        };
        Ok(Self {
            broker,
            protocol: mqtt.protocol,
            client_id: format!("{}{suffix}", mqtt.client_id),
            login,
            tls,
            keep_alive: Duration::from_secs(u64::from(mqtt.keep_alive_s)),
            will: None,
            requests: 1024,
            persistent: false,
        })
    }

    fn transport(&self) -> Transport {
        match &self.tls {
            Some(config) => Transport::tls_with_config(TlsConfiguration::Rustls(config.clone())),
            None => Transport::tcp(),
        }
    }

    /// Makes the two ends. Nothing is sent before the first [`LinkLoop::poll`].
    pub fn open(&self) -> (LinkSender, LinkLoop) {
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(CONNECT_TIMEOUT_S);
        let host = self
            .broker
            .host
            .trim_start_matches('[')
            .trim_end_matches(']');
        match self.protocol {
            Protocol::V5 => {
                let mut o = v5::MqttOptions::new(&self.client_id, host, self.broker.port);
                o.set_clean_start(!self.persistent);
                o.set_session_expiry_interval(self.persistent.then_some(SESSION_EXPIRY_S));
                o.set_receive_maximum(Some(RECEIVE_MAXIMUM));
                o.set_max_packet_size(Some(MAX_PACKET_BYTES));
                o.set_outgoing_inflight_upper_limit(OUTGOING_INFLIGHT);
                o.set_manual_acks(self.persistent);
                o.set_keep_alive(self.keep_alive);
                o.set_connection_timeout(CONNECT_TIMEOUT_S);
                o.set_network_options(network);
                o.set_transport(self.transport());
                if let Some((user, password)) = &self.login {
                    o.set_credentials(user, &password.0);
                }
                if let Some((topic, payload)) = &self.will {
                    let qos = v5::mqttbytes::QoS::AtLeastOnce;
                    let will = v5::mqttbytes::v5::LastWill::new(
                        topic.as_str(),
                        payload.as_str(),
                        qos,
                        true,
                        None,
                    );
                    o.set_last_will(will);
                }
                let (client, events) = v5::AsyncClient::new(o, self.requests);
                (LinkSender::V5(client), LinkLoop::V5(Box::new(events)))
            }
            Protocol::V311 => {
                let mut o = rumqttc::MqttOptions::new(&self.client_id, host, self.broker.port);
                o.set_clean_session(!self.persistent);
                o.set_max_packet_size(MAX_PACKET_BYTES_V311, MAX_PACKET_BYTES as usize);
                o.set_inflight(OUTGOING_INFLIGHT);
                o.set_manual_acks(self.persistent);
                o.set_keep_alive(self.keep_alive);
                o.set_transport(self.transport());
                if let Some((user, password)) = &self.login {
                    o.set_credentials(user, &password.0);
                }
                if let Some((topic, payload)) = &self.will {
                    let qos = rumqttc::QoS::AtLeastOnce;
                    let will = rumqttc::LastWill::new(topic.as_str(), payload.as_str(), qos, true);
                    o.set_last_will(will);
                }
                let (client, mut events) = rumqttc::AsyncClient::new(o, self.requests);
                events.set_network_options(network);
                (LinkSender::V311(client), LinkLoop::V311(Box::new(events)))
            }
        }
    }
}

/// The password: from the file named in `[mqtt]`, else from systemd's credential `mqtt-password`.
fn password(mqtt: &MqttConfig, credentials: Option<&Path>) -> Result<Secret, LinkError> {
    let credential = credentials.map(|folder| folder.join("mqtt-password"));
    let Some(path) = mqtt.password_file.clone().or(credential) else {
        return Ok(Secret(String::new()));
    };
    let text = std::fs::read_to_string(&path).map_err(|e| LinkError::Setup {
        action: "read the password in",
        on: path.display().to_string(),
        why: e.to_string(),
    })?;
    Ok(Secret(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// A message as it came.
#[derive(Clone, Debug)]
pub struct Message {
    /// Topic, not yet known to be UTF-8.
    pub topic: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
    /// Whether the broker had kept it from before our subscription.
    pub retain: bool,
    /// For the acknowledgement; 0 for QoS 0.
    pub packet_id: u16,
}

/// What happened on a link.
#[derive(Debug)]
pub enum LinkEvent {
    /// The broker let us in; without a session it has forgotten our subscriptions.
    Connected {
        /// Whether the broker still knew us.
        session_present: bool,
    },
    /// A message arrived.
    Message(Message),
    /// The broker answered a SUBSCRIBE: how many filters it refused.
    Subscribed {
        /// Refused filters, and those granted without acknowledgement (QoS 0).
        refused: usize,
    },
    /// The broker has one of our publishes.
    Delivered,
    /// Our DISCONNECT is on its way: the last event there is.
    Disconnected,
    /// Nothing to act on.
    Other,
}

/// The end that sends requests; never waits.
#[derive(Clone)]
pub enum LinkSender {
    /// MQTT 5.
    V5(v5::AsyncClient),
    /// MQTT 3.1.1.
    V311(rumqttc::AsyncClient),
}

impl LinkSender {
    /// Acknowledges a message; false where the request queue is full.
    pub fn ack(&self, packet_id: u16) -> bool {
        match self {
            LinkSender::V5(client) => {
                let mut p =
                    v5::mqttbytes::v5::Publish::new("", v5::mqttbytes::QoS::AtLeastOnce, "", None);
                p.pkid = packet_id;
                client.try_ack(&p).is_ok()
            }
            LinkSender::V311(client) => {
                let mut p = rumqttc::Publish::new("", rumqttc::QoS::AtLeastOnce, "");
                p.pkid = packet_id;
                client.try_ack(&p).is_ok()
            }
        }
    }

    /// Subscribes to `filters` at QoS 1; false where the request queue is full.
    pub fn subscribe<'a>(&self, filters: impl Iterator<Item = &'a str>) -> bool {
        match self {
            LinkSender::V5(client) => {
                client
                    .try_subscribe_many(filters.map(|f| {
                        let mut filter =
                            v5::mqttbytes::v5::Filter::new(f, v5::mqttbytes::QoS::AtLeastOnce);
                        // Not at each reconnect: the session has brought what came since.
                        filter.retain_forward_rule =
                            v5::mqttbytes::v5::RetainForwardRule::OnNewSubscribe;
                        filter
                    }))
                    .is_ok()
            }
            LinkSender::V311(client) => client
                .try_subscribe_many(filters.map(|f| {
                    rumqttc::SubscribeFilter::new(f.to_owned(), rumqttc::QoS::AtLeastOnce)
                }))
                .is_ok(),
        }
    }

    /// Publishes retained at QoS 1; false where the request queue is full.
    pub fn publish_retained(&self, topic: &str, payload: String) -> bool {
        match self {
            LinkSender::V5(client) => client
                .try_publish(topic, v5::mqttbytes::QoS::AtLeastOnce, true, payload)
                .is_ok(),
            LinkSender::V311(client) => client
                .try_publish(topic, rumqttc::QoS::AtLeastOnce, true, payload)
                .is_ok(),
        }
    }

    /// Says goodbye, after everything asked for before; false where the request queue is full.
    pub fn disconnect(&self) -> bool {
        match self {
            LinkSender::V5(client) => client.try_disconnect().is_ok(),
            LinkSender::V311(client) => client.try_disconnect().is_ok(),
        }
    }
}

/// The end that must be polled: connects, receives, sends what was asked for, keeps the link alive.
pub enum LinkLoop {
    /// MQTT 5.
    V5(Box<v5::EventLoop>),
    /// MQTT 3.1.1.
    V311(Box<rumqttc::EventLoop>),
}

impl LinkLoop {
    /// The next event. After an error the next call connects anew; the caller waits in between.
    pub async fn poll(&mut self) -> Result<LinkEvent, LinkError> {
        match self {
            LinkLoop::V5(events) => match events.poll().await {
                Ok(event) => Ok(event_v5(event)),
                Err(error) => Err(error_v5(error)),
            },
            LinkLoop::V311(events) => match events.poll().await {
                Ok(event) => Ok(event_v311(event)),
                Err(error) => Err(error_v311(error)),
            },
        }
    }

    /// Drops the connection, every acknowledgement that has not been sent, and every event that has
    /// not been polled: rumqttc would yield those after the next CONNACK, as if they were new.
    pub fn drop_connection(&mut self) {
        match self {
            LinkLoop::V5(events) => {
                events.clean();
                events.state.events.clear();
            }
            LinkLoop::V311(events) => {
                events.clean();
                events.state.events.clear();
            }
        }
    }
}

fn event_v5(event: v5::Event) -> LinkEvent {
    use v5::mqttbytes::v5::{Packet, SubscribeReasonCode};
    match event {
        v5::Event::Incoming(Packet::ConnAck(c)) => LinkEvent::Connected {
            session_present: c.session_present,
        },
        v5::Event::Incoming(Packet::Publish(p)) => LinkEvent::Message(Message {
            topic: p.topic.into(),
            payload: p.payload.into(),
            retain: p.retain,
            packet_id: p.pkid,
        }),
        v5::Event::Incoming(Packet::SubAck(s)) => LinkEvent::Subscribed {
            refused: s
                .return_codes
                .iter()
                .filter(|c| !matches!(c, SubscribeReasonCode::Success(qos) if *qos as u8 > 0))
                .count(),
        },
        v5::Event::Incoming(Packet::PubAck(_)) => LinkEvent::Delivered,
        v5::Event::Outgoing(Outgoing::Disconnect) => LinkEvent::Disconnected,
        _ => LinkEvent::Other,
    }
}

fn event_v311(event: rumqttc::Event) -> LinkEvent {
    use rumqttc::{Packet, SubscribeReasonCode};
    match event {
        rumqttc::Event::Incoming(Packet::ConnAck(c)) => LinkEvent::Connected {
            session_present: c.session_present,
        },
        rumqttc::Event::Incoming(Packet::Publish(p)) => LinkEvent::Message(Message {
            topic: p.topic.into_bytes(),
            payload: p.payload.into(),
            retain: p.retain,
            packet_id: p.pkid,
        }),
        rumqttc::Event::Incoming(Packet::SubAck(s)) => LinkEvent::Subscribed {
            refused: s
                .return_codes
                .iter()
                .filter(|c| !matches!(c, SubscribeReasonCode::Success(qos) if *qos as u8 > 0))
                .count(),
        },
        rumqttc::Event::Incoming(Packet::PubAck(_)) => LinkEvent::Delivered,
        rumqttc::Event::Outgoing(Outgoing::Disconnect) => LinkEvent::Disconnected,
        _ => LinkEvent::Other,
    }
}

fn error_v5(error: v5::ConnectionError) -> LinkError {
    use v5::mqttbytes::v5::ConnectReturnCode as Code;
    match &error {
        v5::ConnectionError::ConnectionRefused(
            Code::BadUserNamePassword | Code::NotAuthorized | Code::Banned,
        ) => LinkError::Refused(error.to_string()),
        _ => LinkError::Broken(chain(&error)),
    }
}

fn error_v311(error: rumqttc::ConnectionError) -> LinkError {
    use rumqttc::ConnectReturnCode as Code;
    match &error {
        rumqttc::ConnectionError::ConnectionRefused(
            Code::BadUserNamePassword | Code::NotAuthorized,
        ) => LinkError::Refused(error.to_string()),
        _ => LinkError::Broken(chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_comes_from_its_file_or_the_credential_and_never_prints() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mqtt-password"), "from-systemd\n").unwrap();
        std::fs::write(dir.path().join("own"), "from-file\r\n").unwrap();
        let mut mqtt = MqttConfig {
            username: Some("u".into()),
            ..MqttConfig::default()
        };
        let options = LinkOptions::new(&mqtt, "", Some(dir.path())).unwrap();
        assert_eq!(options.login.as_ref().unwrap().1.0, "from-systemd");
        assert!(!format!("{options:?}").contains("from-systemd"));
        mqtt.password_file = Some(dir.path().join("own"));
        let options = LinkOptions::new(&mqtt, "", Some(dir.path())).unwrap();
        assert_eq!(options.login.unwrap().1.0, "from-file");
        mqtt.password_file = Some(dir.path().join("missing"));
        let said = LinkOptions::new(&mqtt, "", None).unwrap_err().to_string();
        assert!(said.contains("missing"), "{said}");
    }
}
