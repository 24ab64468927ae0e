//! A connection that the broker has let in: opened and greeted, written to, closed in order.

use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::tokio_rustls::TlsConnector;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::options::MAX_PACKET_BYTES;
use super::{LinkError, LinkOptions};
use crate::errors::chain;
use crate::mqtt::broker_url::BrokerUrl;
use crate::mqtt::packets::{Inbound, Incoming};

/// Our own publishes that the broker has not confirmed.
const PUBLISHES_AT_ONCE: u16 = 16;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that the broker has let in.
pub(super) struct Connection {
    pub(super) read: ReadHalf<Box<dyn Stream>>,
    pub(super) write: WriteHalf<Box<dyn Stream>>,
    pub(super) inbound: Inbound,
    pub(super) outbound: BytesMut,
    /// Something was written that TLS may still hold.
    pub(super) unflushed: bool,
    /// Our DISCONNECT is in `outbound` or gone.
    pub(super) said_goodbye: bool,
    pub(super) keep_alive: Duration,
    /// When the next ping is due.
    pub(super) beat: Pin<Box<Sleep>>,
    /// When the broker let us in.
    pub(super) made: Instant,
    /// When the broker last said anything.
    pub(super) heard: Instant,
    pub(super) publishes_at_once: usize,
    pub(super) last_packet_id: u16,
}

impl Connection {
    /// Connects and greets; the connection and whether the broker still knew us.
    pub(super) async fn open(options: &LinkOptions) -> Result<(Self, bool), LinkError> {
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
            made: Instant::now(),
            heard: Instant::now(),
            publishes_at_once: welcome.receive_maximum.min(PUBLISHES_AT_ONCE).into(),
            last_packet_id: 0,
        };
        Ok((connection, welcome.session_present))
    }

    /// Sends what waits and closes in order: a socket closed with messages unread is reset, and the
    /// reset would take acknowledgements along that the broker has not looked at.
    pub(super) async fn goodbye(&mut self) {
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

    pub(super) fn next_packet_id(&mut self) -> u16 {
        self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
        self.last_packet_id
    }
}

/// Writes some of `outbound`; may be dropped and called again at any point.
pub(super) async fn push(
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

pub(super) fn broken(error: std::io::Error) -> LinkError {
    LinkError::Broken(chain(&error))
}
