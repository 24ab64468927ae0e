//! How to reach and greet the broker, and the password, which never prints.

use std::path::Path;
use std::time::Duration;

use super::LinkError;
use crate::config::{MqttConfig, Protocol};
use crate::fault;
use crate::mqtt::broker_url::{BrokerUrl, BrokerUrlError};
use crate::mqtt::packets::Greeting;
use crate::mqtt::tls;

/// Largest packet we take: MQTT 5 brokers keep larger ones to themselves, an MQTT 3.1.1 broker cannot
/// be told, and only the beginning of what it sends is kept.
pub(super) const MAX_PACKET_BYTES: u32 = 256 * 1024;
/// Unacknowledged messages an MQTT 5 broker may have on the way to us.
pub const RECEIVE_MAXIMUM: u16 = 200;
/// How long a broker keeps our session while we are away.
const SESSION_EXPIRY_S: u32 = 7 * 24 * 3600;

/// A password that does not print.
#[derive(Clone)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// How to reach and greet the broker.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    pub(super) broker: BrokerUrl,
    pub(super) protocol: Protocol,
    pub(super) client_id: String,
    pub(super) login: Option<(String, Secret)>,
    pub(super) tls: Option<std::sync::Arc<rustls::ClientConfig>>,
    pub(super) keep_alive: Duration,
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

    pub(super) fn greeting(&self) -> Greeting<'_> {
        Greeting {
            client_id: &self.client_id,
            persistent: self.persistent && !fault::without("session"),
            keep_alive_s: self.keep_alive.as_secs() as u16,
            session_expiry_s: SESSION_EXPIRY_S,
            receive_maximum: RECEIVE_MAXIMUM,
            max_packet_bytes: MAX_PACKET_BYTES,
            will: self.will.as_ref().map(|(t, p)| (t.as_str(), p.as_str())),
            login: self
                .login
                .as_ref()
                .map(|(user, password)| (user.as_str(), password.0.as_str())),
        }
    }
}

/// The password: the first line of the file named in `[mqtt]`, else of systemd's credential `mqtt-password`.
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
    Ok(Secret(text.lines().next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_comes_from_its_file_or_the_credential_and_never_prints() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mqtt-password"), "from-systemd\n").unwrap();
        std::fs::write(
            dir.path().join("own"),
            "from-file\r\n# of the roof's broker\n",
        )
        .unwrap();
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
