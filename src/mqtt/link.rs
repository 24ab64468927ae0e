//! One broker connection: receives only when asked to, and sends acknowledgements by the commit.

mod connection;
mod options;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use tokio::time::Instant;

use super::packets::Incoming;
use crate::errors::chain;
use crate::fault;
use crate::rate;
use connection::{Connection, broken, push};
pub use options::{LinkOptions, RECEIVE_MAXIMUM};

const CONNECT_TIMEOUT_S: u64 = 10;
/// While this much waits for the socket nothing more is encoded.
const OUTBOUND_BYTES: usize = 16 * 1024;
/// How often a caller that takes nothing gets a chance to think again.
const NOT_READING: Duration = Duration::from_millis(20);

/// What the error begins with where the broker does not let us in.
pub const REFUSED_BY_BROKER: &str = "the broker refused us";

/// What the error says where the broker may have let another client in under our name.
pub const ANOTHER_CLIENT: &str = "another client may be connected under the same client_id";

/// Two clients of one name push each other out after at most the longest wait for the next attempt.
const SHORT_LIVED: Duration = Duration::from_secs(60);

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
    /// The broker ended a connection that it had let in, as it does where another client has our name.
    #[error("{why}: {ANOTHER_CLIENT}, {client_id} ([mqtt] client_id)")]
    PushedOut {
        /// How the broker ended it.
        why: String,
        /// The name in question, with the suffix of this connection.
        client_id: String,
    },
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
    Unsubscribe(Vec<String>),
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

    /// Ends the subscriptions to `filters`; false where the request queue is full.
    pub fn unsubscribe(&self, filters: Vec<String>) -> bool {
        self.0.try_send(Request::Unsubscribe(filters)).is_ok()
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

impl LinkOptions {
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

    /// Publishes that the broker has not confirmed, sent or not.
    pub fn unconfirmed(&self) -> usize {
        let waiting = |request: &&Request| matches!(request, Request::Publish(_));
        self.unconfirmed.len() + self.pending.iter().filter(waiting).count()
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
                match read {
                    Ok(0) => {
                        return Err(self.ended("the broker closed the connection".into(), false));
                    }
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                        return Err(self.ended(chain(&error), false));
                    }
                    read => read.map_err(broken)?,
                };
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
            Incoming::PubAck { packet_id, refused } => {
                let at = self.unconfirmed.iter().position(|(id, _)| *id == packet_id);
                let publish = at.and_then(|at| self.unconfirmed.remove(at));
                if let (Some((_, publish)), Some(why)) = (publish, refused)
                    && let Some(more) = rate::log_line("publish")
                {
                    let topic = publish.topic;
                    tracing::warn!(
                        topic,
                        why,
                        "the broker refused what we published; check its access rules{more}"
                    );
                }
                LinkEvent::Delivered
            }
            Incoming::Disconnect { why, taken_over } => return Err(self.ended(why, taken_over)),
            Incoming::ConnAck(_) | Incoming::Other => LinkEvent::Other,
        })
    }

    /// The error where the broker ended the connection; `taken_over` where it said that another client has it.
    fn ended(&self, why: String, taken_over: bool) -> LinkError {
        let made = self.connection.as_ref().map(|c| c.made);
        if taken_over || made.is_some_and(|made| made.elapsed() < SHORT_LIVED) {
            let client_id = self.options.client_id.clone();
            return LinkError::PushedOut { why, client_id };
        }
        LinkError::Broken(why)
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
            Request::Unsubscribe(filters) => {
                protocol.unsubscribe(c.next_packet_id(), &filters, &mut c.outbound);
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

#[cfg(test)]
mod tests;
