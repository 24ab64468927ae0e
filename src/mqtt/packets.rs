//! MQTT 5 and 3.1.1 packets to bytes and back, behind one set of verbs; pure.

use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use rumqttc::mqttbytes::{self as v4, v4 as p4};
use rumqttc::v5::mqttbytes::{self as v5, v5 as p5};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::link::{LinkError, Message};
use crate::config::Protocol;
use crate::fault;
use crate::store::SAMPLE_BYTES;

/// What a read of the socket has room for.
const READ_BYTES: usize = 16 * 1024;
const PUBLISH: u8 = 0x30;

/// What the first packet says.
pub(super) struct Greeting<'a> {
    pub(super) client_id: &'a str,
    /// Ask for a session that outlives the connection.
    pub(super) persistent: bool,
    pub(super) keep_alive_s: u16,
    pub(super) session_expiry_s: u32,
    pub(super) receive_maximum: u16,
    pub(super) max_packet_bytes: u32,
    /// Topic and payload, published retained when we vanish.
    pub(super) will: Option<(&'a str, &'a str)>,
    /// User and password.
    pub(super) login: Option<(&'a str, &'a str)>,
}

/// What the broker answered to the greeting.
pub(super) struct Welcome {
    pub(super) session_present: bool,
    /// The broker's own wish, which overrides ours.
    pub(super) keep_alive: Option<Duration>,
    /// Unconfirmed publishes the broker takes.
    pub(super) receive_maximum: u16,
}

/// A packet from the broker.
pub(super) enum Incoming {
    ConnAck(Result<Welcome, LinkError>),
    Publish(Message),
    SubAck {
        refused: usize,
    },
    PubAck {
        packet_id: u16,
        /// Why the broker did not take the message; MQTT 3.1.1 cannot say.
        refused: Option<String>,
    },
    Disconnect {
        why: String,
        /// Another client has connected under our name.
        taken_over: bool,
    },
    Other,
}

/// Encoding cannot fail but for sizes that our own packets never reach, so these return nothing.
impl Protocol {
    pub(super) fn connect(self, g: &Greeting<'_>, out: &mut BytesMut) {
        match self {
            Self::V5 => {
                let mut properties = p5::ConnectProperties::new();
                properties.session_expiry_interval = g.persistent.then_some(g.session_expiry_s);
                properties.receive_maximum = Some(g.receive_maximum);
                properties.max_packet_size =
                    (!fault::without("size_limit")).then_some(g.max_packet_bytes);
                let connect = p5::Connect {
                    keep_alive: g.keep_alive_s,
                    client_id: g.client_id.into(),
                    clean_start: !g.persistent,
                    properties: Some(properties),
                };
                let will = g
                    .will
                    .map(|(t, p)| p5::LastWill::new(t, p, v5::QoS::AtLeastOnce, true, None));
                let login = g
                    .login
                    .map(|(user, password)| p5::Login::new(user, password));
                let _ = p5::Packet::Connect(connect, will, login).write(out, None);
            }
            Self::V311 => {
                let mut connect = p4::Connect::new(g.client_id);
                connect.keep_alive = g.keep_alive_s;
                connect.clean_session = !g.persistent;
                connect.last_will = g
                    .will
                    .map(|(t, p)| p4::LastWill::new(t, p, v4::QoS::AtLeastOnce, true));
                connect.login = g
                    .login
                    .map(|(user, password)| p4::Login::new(user, password));
                let _ = p4::Packet::Connect(connect).write(out, usize::MAX);
            }
        }
    }

    /// The same four bytes in both versions.
    pub(super) fn ack(self, packet_id: u16, out: &mut BytesMut) {
        let [high, low] = packet_id.to_be_bytes();
        out.extend_from_slice(&[0x40, 2, high, low]);
    }

    /// At QoS 1; with MQTT 5 without the retained messages where the subscription stands already: the session
    /// has brought what came since.
    pub(super) fn subscribe(self, packet_id: u16, filters: &[String], out: &mut BytesMut) {
        let options = match self {
            Self::V5 => 0x11,
            Self::V311 => 0x01,
        };
        let mut body = self.head(packet_id);
        for filter in filters {
            put_text(filter, &mut body);
            body.put_u8(options);
        }
        put_packet(0x82, &body, out);
    }

    pub(super) fn unsubscribe(self, packet_id: u16, filters: &[String], out: &mut BytesMut) {
        let mut body = self.head(packet_id);
        for filter in filters {
            put_text(filter, &mut body);
        }
        put_packet(0xa2, &body, out);
    }

    /// Retained, at QoS 1.
    pub(super) fn publish(self, packet_id: u16, topic: &str, payload: &str, out: &mut BytesMut) {
        let mut body = BytesMut::with_capacity(topic.len() + payload.len() + 5);
        put_text(topic, &mut body);
        body.unsplit(self.head(packet_id));
        body.extend_from_slice(payload.as_bytes());
        put_packet(0x33, &body, out);
    }

    /// A packet id, and with MQTT 5 that there are no properties.
    fn head(self, packet_id: u16) -> BytesMut {
        let mut head = BytesMut::new();
        head.put_u16(packet_id);
        if self == Self::V5 {
            head.put_u8(0);
        }
        head
    }

    pub(super) fn ping(self, out: &mut BytesMut) {
        out.extend_from_slice(&[0xc0, 0]);
    }

    pub(super) fn disconnect(self, out: &mut BytesMut) {
        out.extend_from_slice(&[0xe0, 0]);
    }
}

fn put_text(text: &str, out: &mut BytesMut) {
    out.put_u16(text.len() as u16);
    out.extend_from_slice(text.as_bytes());
}

/// The first byte, the length in groups of seven bits, the rest.
fn put_packet(first: u8, body: &[u8], out: &mut BytesMut) {
    out.put_u8(first);
    let mut left = body.len();
    while left > 0x7f {
        out.put_u8((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.put_u8(left as u8);
    out.extend_from_slice(body);
}

/// What has been read and not yet understood.
pub(super) struct Inbound {
    protocol: Protocol,
    max_packet_bytes: usize,
    bytes: BytesMut,
    /// Still to come, and to be thrown away, of a message too large to take.
    skip: usize,
}

impl Inbound {
    pub(super) fn new(protocol: Protocol, max_packet_bytes: usize) -> Self {
        Self {
            protocol,
            max_packet_bytes,
            bytes: BytesMut::new(),
            skip: 0,
        }
    }

    /// Reads some more; how much. Only once [`Inbound::next`] has nothing left, and never more at once than
    /// has room: a buffer that grows with what the socket holds grows without end while a backlog comes in.
    /// May be dropped and called again at any point.
    pub(super) async fn receive(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
    ) -> std::io::Result<usize> {
        self.bytes.reserve(READ_BYTES);
        from.read_buf(&mut (&mut self.bytes).limit(READ_BYTES))
            .await
    }

    /// Throws away what has been read.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// The next whole packet; of a message too large, its beginning. An error ends the connection.
    pub(super) fn next(&mut self) -> Result<Option<Incoming>, String> {
        let skipped = self.skip.min(self.bytes.len());
        self.bytes.advance(skipped);
        self.skip -= skipped;
        let Some((kind, header, body)) = fixed_header(&self.bytes) else {
            return Ok(None);
        };
        if body > self.max_packet_bytes {
            return self.cut(kind, header, body);
        }
        if self.bytes.len() < header + body {
            return Ok(None);
        }
        match self.protocol {
            Protocol::V5 => match p5::Packet::read(&mut self.bytes, None) {
                Ok(packet) => Ok(Some(incoming_v5(packet))),
                Err(error) => Err(error.to_string()),
            },
            Protocol::V311 => match p4::Packet::read(&mut self.bytes, usize::MAX) {
                Ok(packet) => Ok(Some(incoming_v4(packet))),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    /// A message too large: its topic, its packet id and its first bytes; the rest is skipped.
    fn cut(&mut self, kind: u8, header: usize, body: usize) -> Result<Option<Incoming>, String> {
        if kind & 0xf0 != PUBLISH || fault::without("size_limit") {
            return Err(format!("the broker sent a packet of {body} bytes"));
        }
        let rest = self.bytes.get(header..).unwrap_or_default();
        let Some(topic_bytes) = rest
            .first_chunk::<2>()
            .map(|b| usize::from(u16::from_be_bytes(*b)))
        else {
            return Ok(None);
        };
        let id_bytes = if kind & 0b110 == 0 { 0 } else { 2 };
        let payload = 2 + topic_bytes + id_bytes;
        if payload > body {
            return Err("the broker sent a malformed message".into());
        }
        if rest.len() < payload + SAMPLE_BYTES.min(body - payload) {
            return Ok(None);
        }
        let id = &rest[2 + topic_bytes..payload];
        let message = Message {
            topic: rest[2..2 + topic_bytes].to_vec(),
            payload: rest[payload..payload + SAMPLE_BYTES.min(body - payload)].to_vec(),
            retain: kind & 1 == 1,
            packet_id: id.first_chunk::<2>().map_or(0, |b| u16::from_be_bytes(*b)),
            cut: true,
        };
        self.skip = header + body;
        Ok(Some(Incoming::Publish(message)))
    }
}

/// First byte, length of the header, length of the rest; none where more bytes are needed.
fn fixed_header(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let mut body = 0;
    for (i, byte) in bytes.iter().skip(1).take(4).enumerate() {
        body |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((bytes[0], i + 2, body));
        }
    }
    // Five length bytes are no MQTT: more than can be, so that it is refused.
    (bytes.len() > 4).then_some((0, 5, usize::MAX))
}

fn incoming_v5(packet: p5::Packet) -> Incoming {
    use p5::{ConnectReturnCode as Code, Packet, PubAckReason, SubscribeReasonCode};
    match packet {
        Packet::ConnAck(c) if c.code == Code::Success => {
            let p = c.properties.as_ref();
            Incoming::ConnAck(Ok(Welcome {
                session_present: c.session_present,
                keep_alive: p
                    .and_then(|p| p.server_keep_alive)
                    .filter(|s| *s > 0)
                    .map(|s| Duration::from_secs(s.into())),
                receive_maximum: p.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
            }))
        }
        Packet::ConnAck(c) => {
            use Code::{BadUserNamePassword, Banned, NotAuthorized};
            let unwelcome = matches!(c.code, BadUserNamePassword | NotAuthorized | Banned);
            not_let_in(unwelcome, c.code)
        }
        Packet::Publish(p) => Incoming::Publish(Message {
            topic: p.topic.into(),
            payload: p.payload.into(),
            retain: p.retain,
            packet_id: p.pkid,
            cut: false,
        }),
        Packet::SubAck(s) => Incoming::SubAck {
            refused: s
                .return_codes
                .iter()
                .filter(|c| !matches!(c, SubscribeReasonCode::Success(qos) if *qos as u8 > 0))
                .count(),
        },
        Packet::PubAck(a) => {
            use PubAckReason::{NoMatchingSubscribers, Success};
            let taken = matches!(a.reason, Success | NoMatchingSubscribers);
            Incoming::PubAck {
                packet_id: a.pkid,
                refused: (!taken).then(|| format!("{:?}", a.reason)),
            }
        }
        Packet::Disconnect(d) => Incoming::Disconnect {
            why: format!("the broker ends it: {:?}", d.reason_code),
            taken_over: d.reason_code == p5::DisconnectReasonCode::SessionTakenOver,
        },
        _ => Incoming::Other,
    }
}

fn not_let_in(unwelcome: bool, code: impl std::fmt::Debug) -> Incoming {
    Incoming::ConnAck(Err(if unwelcome {
        LinkError::Refused(format!("{code:?}"))
    } else {
        LinkError::Broken(format!("the broker answers {code:?}"))
    }))
}

fn incoming_v4(packet: p4::Packet) -> Incoming {
    use p4::{ConnectReturnCode as Code, Packet, SubscribeReasonCode};
    match packet {
        Packet::ConnAck(c) if c.code == Code::Success => Incoming::ConnAck(Ok(Welcome {
            session_present: c.session_present,
            keep_alive: None,
            receive_maximum: u16::MAX,
        })),
        Packet::ConnAck(c) => {
            let unwelcome = matches!(c.code, Code::BadUserNamePassword | Code::NotAuthorized);
            not_let_in(unwelcome, c.code)
        }
        Packet::Publish(p) => Incoming::Publish(Message {
            topic: p.topic.into_bytes(),
            payload: p.payload.into(),
            retain: p.retain,
            packet_id: p.pkid,
            cut: false,
        }),
        Packet::SubAck(s) => Incoming::SubAck {
            refused: s
                .return_codes
                .iter()
                .filter(|c| !matches!(c, SubscribeReasonCode::Success(qos) if *qos as u8 > 0))
                .count(),
        },
        Packet::PubAck(a) => Incoming::PubAck {
            packet_id: a.pkid,
            refused: None,
        },
        _ => Incoming::Other,
    }
}

#[cfg(test)]
mod tests;
