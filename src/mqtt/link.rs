//! One broker connection: receives only when asked to, and sends acknowledgements by the commit.

use std::collections::VecDeque;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::tokio_rustls::TlsConnector;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::broker_url::{BrokerUrl, BrokerUrlError};
use super::packets::{Greeting, Inbound, Incoming};
use super::tls;
use crate::config::{MqttConfig, Protocol};
use crate::errors::chain;
use crate::fault;

/// Largest packet we take: MQTT 5 brokers keep larger ones to themselves, an MQTT 3.1.1 broker cannot
/// be told, and only the beginning of what it sends is kept.
const MAX_PACKET_BYTES: u32 = 256 * 1024;
/// Unacknowledged messages an MQTT 5 broker may have on the way to us.
pub const RECEIVE_MAXIMUM: u16 = 200;
/// How long a broker keeps our session while we are away.
const SESSION_EXPIRY_S: u32 = 7 * 24 * 3600;
const CONNECT_TIMEOUT_S: u64 = 10;
/// Our own publishes that the broker has not confirmed.
const PUBLISHES_AT_ONCE: u16 = 16;
/// While this much waits for the socket nothing more is encoded.
const OUTBOUND_BYTES: usize = 16 * 1024;
/// How often a caller that takes nothing gets a chance to think again.
const NOT_READING: Duration = Duration::from_millis(20);

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

    fn greeting(&self) -> Greeting<'_> {
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

    /// Makes the two ends. Nothing is sent before the first [`LinkLoop::poll`].
    pub fn open(&self) -> (LinkSender, LinkLoop) {
        let (sender, requests) = flume::bounded(self.requests);
        let link = LinkLoop {
            options: self.clone(),
            requests,
            pending: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            unacknowledged: 0,
            connection: None,
        };
        (LinkSender(sender), link)
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
    /// Larger than we take: `payload` is only its beginning.
    pub cut: bool,
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
    /// While nothing was read, nothing waited to be sent either.
    Quiet,
    /// Nothing to act on.
    Other,
}

/// What the sending end asks the polled end for.
enum Request {
    Ack(Vec<u16>),
    Subscribe(Vec<String>),
    Publish(Publish),
    Disconnect,
}

/// A retained publish at QoS 1.
struct Publish {
    topic: String,
    payload: String,
}

/// The end that sends requests; never waits.
#[derive(Clone)]
pub struct LinkSender(flume::Sender<Request>);

impl LinkSender {
    /// Acknowledges messages in this order; false where the request queue is full.
    pub fn ack(&self, packet_ids: Vec<u16>) -> bool {
        self.0.try_send(Request::Ack(packet_ids)).is_ok()
    }

    /// Subscribes to `filters` at QoS 1; false where the request queue is full.
    pub fn subscribe<'a>(&self, filters: impl Iterator<Item = &'a str>) -> bool {
        let filters = filters.map(str::to_owned).collect();
        self.0.try_send(Request::Subscribe(filters)).is_ok()
    }

    /// Publishes retained at QoS 1; false where the request queue is full.
    pub fn publish_retained(&self, topic: &str, payload: String) -> bool {
        let topic = topic.to_owned();
        let publish = Publish { topic, payload };
        self.0.try_send(Request::Publish(publish)).is_ok()
    }

    /// Says goodbye, after everything asked for before; false where the request queue is full.
    pub fn disconnect(&self) -> bool {
        self.0.try_send(Request::Disconnect).is_ok()
    }
}

/// The end that must be polled: connects, receives, sends what was asked for, keeps the link alive.
pub struct LinkLoop {
    options: LinkOptions,
    requests: flume::Receiver<Request>,
    /// Asked for before the last connection broke.
    pending: VecDeque<Request>,
    /// Publishes that the broker has not confirmed, with their packet ids; sent again on a new
    /// connection.
    unconfirmed: VecDeque<(u16, Publish)>,
    unacknowledged: usize,
    connection: Option<Connection>,
}

impl LinkLoop {
    /// Messages handed out on this connection whose acknowledgement is not yet on its way.
    pub fn unacknowledged(&self) -> usize {
        self.unacknowledged
    }

    /// The next event. After an error the next call connects anew; the caller waits in between.
    ///
    /// Unless `reading`, nothing is taken from the socket, so that the broker's window or TCP's holds
    /// messages back, while acknowledgements and pings still go out; the call then returns within
    /// [`NOT_READING`] for another look. May be dropped and called again at any point once connected.
    pub async fn poll(&mut self, reading: bool) -> Result<LinkEvent, LinkError> {
        let outcome = self.step(reading).await;
        if outcome.is_err() {
            self.drop_connection();
        }
        outcome
    }

    async fn step(&mut self, reading: bool) -> Result<LinkEvent, LinkError> {
        let Some(connection) = &mut self.connection else {
            return self.connect().await;
        };
        if connection.said_goodbye {
            connection.goodbye().await;
            self.connection = None;
            return Ok(LinkEvent::Disconnected);
        }
        if reading && let Some(packet) = connection.inbound.next().map_err(LinkError::Broken)? {
            return self.received(packet);
        }
        let may_ask = connection.outbound.len() < OUTBOUND_BYTES
            && self.unconfirmed.len() < connection.publishes_at_once;
        if may_ask && let Some(request) = self.pending.pop_front() {
            self.send(request);
            return Ok(LinkEvent::Other);
        }
        let c = connection;
        tokio::select! {
            biased;
            sent = push(&mut c.write, &mut c.outbound, &mut c.unflushed),
                if c.unflushed || !c.outbound.is_empty() => sent.map_err(broken)?,
            Ok(request) = self.requests.recv_async(), if may_ask => {
                self.send(request);
                // One write carries the acknowledgements of every commit that waits.
                while self.has_room() && let Ok(request) = self.requests.try_recv() {
                    self.send(request);
                }
            }
            read = c.inbound.receive(&mut c.read), if reading => {
                if read.map_err(broken)? == 0 {
                    return Err(LinkError::Broken("the broker closed the connection".into()));
                }
                c.heard = Instant::now();
            }
            () = c.beat.as_mut() => {
                // Two pings without a word; whoever does not read cannot hear one.
                let silent = c.heard.elapsed() >= c.keep_alive;
                if reading && silent && !fault::without("silence_ends_it") {
                    return Err(LinkError::Broken("the broker has gone silent".into()));
                }
                c.beat.as_mut().reset(Instant::now() + c.keep_alive / 2);
                self.options.protocol.ping(&mut c.outbound);
            }
            () = tokio::time::sleep(NOT_READING), if !reading => {
                c.heard = Instant::now();
                return Ok(LinkEvent::Quiet);
            }
        }
        Ok(LinkEvent::Other)
    }

    fn has_room(&self) -> bool {
        self.connection.as_ref().is_some_and(|c| {
            c.outbound.len() < OUTBOUND_BYTES && self.unconfirmed.len() < c.publishes_at_once
        })
    }

    async fn connect(&mut self) -> Result<LinkEvent, LinkError> {
        let limit = Duration::from_secs(CONNECT_TIMEOUT_S);
        let (connection, session_present) =
            tokio::time::timeout(limit, Connection::open(&self.options))
                .await
                .map_err(|_| LinkError::Broken("the broker does not answer".into()))??;
        self.connection = Some(connection);
        let again = std::mem::take(&mut self.unconfirmed);
        for (_, publish) in again.into_iter().rev() {
            self.pending.push_front(Request::Publish(publish));
        }
        Ok(LinkEvent::Connected { session_present })
    }

    fn received(&mut self, packet: Incoming) -> Result<LinkEvent, LinkError> {
        Ok(match packet {
            Incoming::Publish(message) => {
                self.unacknowledged += usize::from(message.packet_id != 0);
                LinkEvent::Message(message)
            }
            Incoming::SubAck { refused } => LinkEvent::Subscribed { refused },
            Incoming::PubAck(packet_id) => {
                self.unconfirmed.retain(|(id, _)| *id != packet_id);
                LinkEvent::Delivered
            }
            Incoming::Disconnect(why) => return Err(LinkError::Broken(why)),
            Incoming::ConnAck(_) | Incoming::Other => LinkEvent::Other,
        })
    }

    fn send(&mut self, request: Request) {
        let Some(c) = &mut self.connection else {
            return;
        };
        let protocol = self.options.protocol;
        match request {
            Request::Ack(packet_ids) => {
                self.unacknowledged = self.unacknowledged.saturating_sub(packet_ids.len());
                for packet_id in packet_ids {
                    protocol.ack(packet_id, &mut c.outbound);
                }
            }
            Request::Subscribe(filters) => {
                protocol.subscribe(c.next_packet_id(), &filters, &mut c.outbound);
            }
            Request::Publish(publish) => {
                let id = c.next_packet_id();
                protocol.publish(id, &publish.topic, &publish.payload, &mut c.outbound);
                self.unconfirmed.push_back((id, publish));
            }
            Request::Disconnect => {
                protocol.disconnect(&mut c.outbound);
                c.said_goodbye = true;
            }
        }
    }

    /// Drops the connection and every acknowledgement that has not been sent.
    pub fn drop_connection(&mut self) {
        self.connection = None;
        self.unacknowledged = 0;
        let asked = self.requests.drain();
        self.pending
            .extend(asked.filter(|request| !matches!(request, Request::Ack(_))));
        // Days without a broker: the newest publishes are the ones worth having.
        while self.pending.len() > self.options.requests {
            self.pending.pop_front();
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that the broker has let in.
struct Connection {
    read: ReadHalf<Box<dyn Stream>>,
    write: WriteHalf<Box<dyn Stream>>,
    inbound: Inbound,
    outbound: BytesMut,
    /// Something was written that TLS may still hold.
    unflushed: bool,
    /// Our DISCONNECT is in `outbound` or gone.
    said_goodbye: bool,
    keep_alive: Duration,
    /// When the next ping is due.
    beat: Pin<Box<Sleep>>,
    /// When the broker last said anything.
    heard: Instant,
    publishes_at_once: usize,
    last_packet_id: u16,
}

impl Connection {
    /// Connects and greets; the connection and whether the broker still knew us.
    async fn open(options: &LinkOptions) -> Result<(Self, bool), LinkError> {
        let BrokerUrl { host, port, .. } = &options.broker;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let tcp = TcpStream::connect((host, *port)).await.map_err(broken)?;
        tcp.set_nodelay(true).map_err(broken)?;
        let stream: Box<dyn Stream> = match &options.tls {
            None => Box::new(tcp),
            Some(config) => {
                let name = ServerName::try_from(host.to_owned())
                    .map_err(|e| LinkError::Broken(e.to_string()))?;
                let connector = TlsConnector::from(config.clone());
                Box::new(connector.connect(name, tcp).await.map_err(broken)?)
            }
        };
        let (mut read, mut write) = tokio::io::split(stream);
        let mut outbound = BytesMut::new();
        options.protocol.connect(&options.greeting(), &mut outbound);
        write.write_all_buf(&mut outbound).await.map_err(broken)?;
        write.flush().await.map_err(broken)?;
        let mut inbound = Inbound::new(options.protocol, MAX_PACKET_BYTES as usize);
        let welcome = loop {
            match inbound.next().map_err(LinkError::Broken)? {
                Some(Incoming::ConnAck(welcome)) => break welcome?,
                Some(_) => return Err(LinkError::Broken("the broker greets wrongly".into())),
                None => {}
            }
            if inbound.receive(&mut read).await.map_err(broken)? == 0 {
                return Err(LinkError::Broken("the broker hung up on us".into()));
            }
        };
        let keep_alive = welcome.keep_alive.unwrap_or(options.keep_alive);
        let connection = Self {
            read,
            write,
            inbound,
            outbound,
            unflushed: false,
            said_goodbye: false,
            keep_alive,
            beat: Box::pin(tokio::time::sleep(keep_alive / 2)),
            heard: Instant::now(),
            publishes_at_once: welcome.receive_maximum.min(PUBLISHES_AT_ONCE).into(),
            last_packet_id: 0,
        };
        Ok((connection, welcome.session_present))
    }

    /// Sends what waits and closes in order: a socket closed with messages unread is reset, and the
    /// reset would take acknowledgements along that the broker has not looked at.
    async fn goodbye(&mut self) {
        let sent = async {
            self.write.write_all_buf(&mut self.outbound).await?;
            self.write.shutdown().await?;
            while self.inbound.receive(&mut self.read).await? > 0 {
                self.inbound.clear();
            }
            Ok::<_, std::io::Error>(())
        };
        // A broker that is gone needs no goodbye.
        let _ = sent.await;
    }

    fn next_packet_id(&mut self) -> u16 {
        self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
        self.last_packet_id
    }
}

/// Writes some of `outbound`; may be dropped and called again at any point.
async fn push(
    write: &mut WriteHalf<Box<dyn Stream>>,
    outbound: &mut BytesMut,
    unflushed: &mut bool,
) -> std::io::Result<()> {
    if !outbound.is_empty() {
        *unflushed = true;
        write.write_buf(outbound).await?;
    }
    if outbound.is_empty() {
        write.flush().await?;
        *unflushed = false;
    }
    Ok(())
}

fn broken(error: std::io::Error) -> LinkError {
    LinkError::Broken(chain(&error))
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
