//! An MQTT broker inside this process, for the demo: loopback only, in memory, without files.
//!
//! rumqttd speaks MQTT 3.1.1 and MQTT 5 on separate ports over one set of topics. It has no way to
//! stop: its threads last as long as the process.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

use crate::mqtt::broker_url::BrokerUrl;

/// rumqttd keeps messages until this many bytes came after them, read or not, and drops them then
/// even for those who have not read them. 30 days of two devices are 86,400 messages of about
/// 230 bytes with their topic: 20 MB, so a subscriber that does not read at all still loses none.
const KEPT_SEGMENTS: usize = 32;
const SEGMENT_BYTES: usize = 1024 * 1024;
/// Kept from the first message on, even with nobody subscribed: without a matching filter
/// rumqttd drops the publisher's connection.
const TOPICS: &str = "#";
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A running broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemoBroker {
    /// The port for MQTT 3.1.1.
    pub port: u16,
    /// The port for MQTT 5.
    pub port_v5: u16,
}

/// Why the broker does not run.
#[derive(Debug, thiserror::Error)]
pub enum DemoBrokerError {
    /// No port, or no thread.
    #[error("cannot start the demo's broker")]
    Start(#[source] io::Error),
    /// It does not answer.
    #[error("the demo's broker does not answer on port {port}")]
    Silent {
        /// The port.
        port: u16,
        /// What the last attempt said.
        source: io::Error,
    },
}

impl DemoBroker {
    /// Starts a broker on free loopback ports and returns once it answers on both.
    pub fn start() -> Result<DemoBroker, DemoBrokerError> {
        // rumqttd cannot tell which port it got: find free ones, both held until both are known.
        let held = [listener()?, listener()?];
        let mut ports = [0; 2];
        for (port, listener) in ports.iter_mut().zip(&held) {
            *port = listener
                .local_addr()
                .map_err(DemoBrokerError::Start)?
                .port();
        }
        drop(held);
        let [port, port_v5] = ports;
        let config = config(port, port_v5);
        thread::Builder::new()
            .name("demo-broker".to_owned())
            .spawn(move || {
                if let Err(error) = Broker::new(config).start() {
                    tracing::error!(?error, "the demo's broker ended");
                }
            })
            .map_err(DemoBrokerError::Start)?;
        wait_for(port, 4)?;
        wait_for(port_v5, 5)?;
        Ok(DemoBroker { port, port_v5 })
    }

    /// Its address for MQTT 3.1.1 clients.
    pub fn url(&self) -> BrokerUrl {
        url(self.port)
    }

    /// Its address for MQTT 5 clients.
    pub fn url_v5(&self) -> BrokerUrl {
        url(self.port_v5)
    }
}

fn url(port: u16) -> BrokerUrl {
    BrokerUrl {
        tls: false,
        username: None,
        host: Ipv4Addr::LOCALHOST.to_string(),
        port,
    }
}

fn listener() -> Result<TcpListener, DemoBrokerError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(DemoBrokerError::Start)
}

fn config(port: u16, port_v5: u16) -> Config {
    let server = |name: &str, port: u16| {
        let settings = ServerSettings {
            name: name.to_owned(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            tls: None,
            next_connection_delay_ms: 1,
            connections: ConnectionSettings {
                connection_timeout_ms: 5000,
                max_payload_size: 1024 * 1024,
                // Packets read from a connection in one go.
                max_inflight_count: 100,
                auth: None,
                external_auth: None,
                dynamic_filters: false,
            },
        };
        Some([(name.to_owned(), settings)].into())
    };
    Config {
        router: RouterConfig {
            max_connections: 64,
            max_outgoing_packet_count: 200,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: KEPT_SEGMENTS,
            initialized_filters: Some(vec![TOPICS.to_owned()]),
            ..RouterConfig::default()
        },
        v4: server("demo-v4", port),
        v5: server("demo-v5", port_v5),
        ..Config::default()
    }
}

/// Shakes hands as an MQTT client of this protocol level, until the broker answers.
fn wait_for(port: u16, level: u8) -> Result<(), DemoBrokerError> {
    let deadline = Instant::now() + START_TIMEOUT;
    for attempt in 0_u16.. {
        match shake_hands(port, level, attempt) {
            Ok(()) => break,
            Err(source) if Instant::now() > deadline => {
                return Err(DemoBrokerError::Silent { port, source });
            }
            Err(_not_yet) => thread::sleep(Duration::from_millis(10)),
        }
    }
    Ok(())
}

/// Every attempt has a client id of its own: when a second client comes with the id of a first,
/// rumqttd may drop both and then panic at the third.
fn shake_hands(port: u16, level: u8, attempt: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(START_TIMEOUT))?;
    let client_id = format!("probe-{level}-{attempt}");
    let mut body = b"\x00\x04MQTT".to_vec();
    // Level, clean session, keep-alive of 60 s.
    body.extend([level, 2, 0, 60]);
    if level == 5 {
        // No properties.
        body.push(0);
    }
    body.extend([0, client_id.len() as u8]);
    body.extend(client_id.as_bytes());
    stream.write_all(&[0x10, body.len() as u8])?;
    stream.write_all(&body)?;
    // CONNACK, DISCONNECT, and then the broker closes.
    stream.read_exact(&mut [0; 4])?;
    stream.write_all(&[0xe0, 0])?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

#[cfg(test)]
mod tests;
