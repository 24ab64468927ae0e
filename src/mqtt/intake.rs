//! Receives telemetry and hands it to the store; a message is acknowledged only after its commit.
//!
//! The loop owns the connection and is the only place that polls it. It never waits for the writer:
//! where there is no room it stops reading the socket, while acknowledgements and pings still go out;
//! the broker's window, or TCP's where a broker keeps none, holds the rest back.

mod acknowledger;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::admission::Admission;
use super::backoff::Backoff;
use super::link::{LinkError, LinkEvent, LinkLoop, LinkOptions, LinkSender, Message};
use super::payload::{self, RejectReason};
use super::publish::Publisher;
use crate::clock::Clock;
use crate::fault;
use crate::rate;
use crate::reading::{TimeSource, TimestampMs};
use crate::store::{
    AckToken, Append, MAX_UNACKNOWLEDGED, Reader, Reject, SAMPLE_BYTES, Store, StoreError,
    TOPIC_BYTES,
};
pub use acknowledger::Acknowledger;

/// Requests that may wait for the connection: room for an acknowledgement of every message that can
/// be unacknowledged at once, and for a few subscriptions, so that acknowledging never waits. Not
/// left to the window: mosquitto 2.0.11 keeps none and sends all it has.
pub const REQUESTS: usize = MAX_UNACKNOWLEDGED + 256;

/// What the broker's session was last subscribed to is kept under this.
const SUBSCRIPTIONS: &str = "subscriptions";
/// The client id that session was made under is kept under this.
const SESSION_OF: &str = "session_client_id";

/// What `status` shows of the intake.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IntakeStatus {
    /// Whether the broker has let us in and taken our subscriptions.
    pub connected: bool,
    /// Since when it is as it is.
    pub since: Option<TimestampMs>,
    /// Why the connection last broke.
    pub last_error: Option<String>,
    /// Where there is no connection: when the next is tried.
    #[serde(default)]
    pub next_attempt: Option<TimestampMs>,
    /// Connections made since start.
    pub connections: u64,
    /// How often the broker had forgotten our session (messages may be missing).
    pub sessions_lost: u64,
    /// Topic filters the broker refused.
    pub refused_filters: usize,
    /// Arrival of the newest message.
    pub last_message: Option<TimestampMs>,
}

/// Shared between the loop, the acknowledger and `status`.
#[derive(Default)]
pub struct IntakeShared {
    status: Mutex<IntakeStatus>,
    /// Messages received since start.
    pub received: AtomicU64,
    /// Retained messages without a time of their own, which are never new readings.
    pub retained_ignored: AtomicU64,
    /// Set once intake must take nothing more.
    stopping: AtomicBool,
    /// A request found no room: only a new connection makes up for it.
    reconnect: AtomicBool,
    wake: Notify,
    epoch: Mutex<u64>,
}

impl IntakeShared {
    /// For a start in a process that has run before: its counts go on.
    pub fn going_on_from(before: &Self) -> Self {
        let was = before.status();
        let count = |n: &AtomicU64| AtomicU64::new(n.load(Ordering::SeqCst));
        Self {
            status: Mutex::new(IntakeStatus {
                connections: was.connections,
                sessions_lost: was.sessions_lost,
                last_message: was.last_message,
                ..IntakeStatus::default()
            }),
            received: count(&before.received),
            retained_ignored: count(&before.retained_ignored),
            ..Self::default()
        }
    }

    /// A copy of what `status` shows.
    pub fn status(&self) -> IntakeStatus {
        self.lock().clone()
    }

    /// From now on messages are dropped unacknowledged; the broker keeps them for the next start.
    pub fn stop_taking(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, IntakeStatus> {
        self.status
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn epoch(&self) -> MutexGuard<'_, u64> {
        self.epoch
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

/// A topic whose messages are no readings: something is worth a look.
pub struct Announced {
    /// Which.
    pub topic: String,
    /// Who looks. Whatever the message says: anybody may have sent it.
    pub hint: Arc<Notify>,
}

/// Everything the loop works with.
pub struct Intake {
    /// Where updates are announced, if that is listened to.
    pub announced: Option<Announced>,
    /// The connection's polled end.
    pub link: LinkLoop,
    /// Its sending end.
    pub sender: LinkSender,
    /// How messages are read.
    pub reader: payload::Reader,
    /// Whose readings are taken.
    pub admission: Admission,
    /// Where readings go.
    pub store: Store,
    /// Publishes `online` once the subscriptions stand.
    pub publisher: Publisher,
    /// Figures and signals shared with others.
    pub shared: Arc<IntakeShared>,
    /// Receive times.
    pub clock: Arc<dyn Clock>,
    /// Whether the broker should know us: a new station has no session to lose.
    pub expects_session: bool,
    /// Whether the broker has taken our subscriptions since we started.
    pub subscribed: bool,
    /// What its session was subscribed to before that; see [`kept_subscriptions`].
    pub formerly: Vec<String>,
    /// The client id we connect under.
    pub client_id: String,
    /// The one our last session was made under; see [`kept_session_of`].
    pub session_of: Option<String>,
    /// Since when monotonic time is counted.
    pub started: Instant,
    /// A message that found the writer's queue full; nothing is read until it has found room.
    pub waiting: Option<Append>,
}

impl Intake {
    /// Options for the connection: session kept, acknowledged by hand, `offline` as the Will.
    pub fn options(mut options: LinkOptions, availability_topic: String) -> LinkOptions {
        options.will = Some((availability_topic, "offline".into()));
        options.requests = REQUESTS;
        options.persistent = true;
        options
    }

    /// Receives until our DISCONNECT is out (asked for through the sender after
    /// [`IntakeShared::stop_taking`]), or, where there is no connection, until intake is to stop.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let reconnect = self.shared.reconnect.load(Ordering::SeqCst);
            let room = !reconnect && !self.shared.stopping() && self.room();
            match self.link.poll(room).await {
                Ok(LinkEvent::Message(message)) => {
                    if !self.shared.stopping() {
                        self.take(message);
                    }
                }
                Ok(LinkEvent::Connected { session_present }) => {
                    backoff.connected(Instant::now());
                    self.connected(session_present);
                }
                Ok(LinkEvent::Subscribed { refused }) => self.subscribed(refused),
                Ok(LinkEvent::Disconnected) => return,
                // Only then: an acknowledgement that still waits to be sent would be lost too.
                Ok(LinkEvent::Quiet) if reconnect => self.next_epoch(),
                Ok(LinkEvent::Delivered | LinkEvent::Quiet | LinkEvent::Other) => {}
                Err(error) => {
                    self.broken(&error);
                    if wait(&self.shared, &*self.clock, &error, &mut backoff).await {
                        return;
                    }
                }
            }
        }
    }

    /// Whether another message can be taken.
    fn room(&mut self) -> bool {
        if let Some(append) = self.waiting.take() {
            self.waiting = self.store.try_append(append).err();
        }
        fault::without("back_pressure")
            || self.waiting.is_none() && self.link.unacknowledged() < MAX_UNACKNOWLEDGED
    }

    /// Parses one message and queues it, or keeps it until the writer has room.
    fn take(&mut self, message: Message) {
        self.shared.received.fetch_add(1, Ordering::Relaxed);
        let received = self.clock.now();
        if let Some(announced) = &self.announced
            && message.topic == announced.topic.as_bytes()
        {
            announced.hint.notify_one();
        }
        self.shared.lock().last_message = Some(received);
        let ack = AckToken {
            epoch: *self.shared.epoch(),
            packet_id: message.packet_id,
        };
        let mut append = Append {
            readings: Vec::new(),
            reject: None,
            ack: Some(ack),
        };
        let decoded = if message.cut {
            payload::Decoded {
                reject: Some(RejectReason::TooLarge),
                ..payload::Decoded::default()
            }
        } else {
            self.reader.decode(
                &message.topic,
                &message.payload,
                message.retain && !fault::without("retained_rule"),
                received,
                self.clock.trusted(),
            )
        };
        if message.retain && decoded == payload::Decoded::default() {
            self.shared.retained_ignored.fetch_add(1, Ordering::Relaxed);
        }
        let mut refused = decoded.reject;
        append.readings = decoded.readings;
        let now = self.started.elapsed();
        append.readings.retain(|reading| {
            let admitted = self.admission.admit(&reading.device, now);
            refused = admitted.err().or(refused);
            admitted.is_ok()
        });
        if let Some(reading) =
            (append.readings.iter()).find(|r| r.time_source == TimeSource::Implausible)
            && let Some(more) = rate::log_line("doubtful_time")
        {
            tracing::warn!(device = %reading.device, "a reading's own time cannot be believed; stored under its time of receipt{more}");
        }
        append.reject = refused.map(|reason| refuse(reason, message, received));
        if append.reject.is_some() && fault::without("rejects_acknowledged") {
            append.ack = None;
        }
        self.waiting = self.store.try_append(append).err();
    }

    fn connected(&mut self, session_present: bool) {
        {
            let mut status = self.shared.lock();
            status.connections += 1;
            status.next_attempt = None;
            status.since = Some(self.clock.now());
        }
        tracing::info!(session_present, "connected to the broker");
        if !session_present && std::mem::replace(&mut self.expects_session, true) {
            self.session_missing();
        }
        // The session keeps our subscriptions; the rules may have changed since it was made.
        if (session_present || fault::without("resubscribe")) && self.subscribed {
            self.ready();
            return;
        }
        self.subscribed = false;
        let wanted = self.subscriptions();
        let gone = self.formerly.iter().filter(|f| !wanted.contains(f));
        let gone: Vec<String> = gone.filter(|_| session_present).cloned().collect();
        // A session brings what rules that are no more have asked for until it is told otherwise; told
        // last, or what a new filter covers would be subscribed to by neither for a moment.
        let sent = self.sender.subscribe(wanted.iter().map(String::as_str))
            && (gone.is_empty() || self.sender.unsubscribe(gone));
        if !sent {
            self.shared.reconnect.store(true, Ordering::SeqCst);
        }
    }

    fn subscriptions(&self) -> Vec<String> {
        let announced = self.announced.iter().map(|a| a.topic.as_str());
        let wanted = payload::uncovered(self.reader.filters().chain(announced));
        wanted.into_iter().map(str::to_owned).collect()
    }

    fn keep(&self, key: &'static str, text: String) {
        let store = self.store.clone();
        tokio::spawn(async move {
            if let Err(error) = store.keep(key, text).await {
                tracing::warn!(%error, key, "what the broker's session is was not noted");
            }
        });
    }

    /// The broker knows no session of ours: it had forgotten it, or we have changed our name.
    fn session_missing(&self) {
        let formerly = self.session_of.as_ref().filter(|f| **f != self.client_id);
        let (kind, detail) = match formerly {
            Some(former) => (
                "session_left",
                format!(
                    "[mqtt] client_id was {former:?} and is {:?}: messages may still wait at the broker \
                     under the old one",
                    self.client_id
                ),
            ),
            None => {
                self.shared.lock().sessions_lost += 1;
                let detail =
                    "the broker had forgotten our session: messages it held for us are gone";
                ("session_lost", detail.into())
            }
        };
        tracing::warn!("{detail}");
        // The event waits in the writer's queue; the connection must not wait for it.
        let (store, now) = (self.store.clone(), self.clock.now());
        tokio::spawn(async move {
            if let Err(error) = store.note_event(now, kind, detail).await {
                tracing::warn!(%error, "the missing session was not noted");
            }
        });
    }

    fn subscribed(&mut self, refused: usize) {
        if refused > 0
            && let Some(more) = rate::log_line("subscription")
        {
            tracing::error!(
                refused,
                "the broker refused subscriptions; check its access rules{more}"
            );
        }
        self.subscribed = true;
        let wanted = self.subscriptions();
        if self.formerly != wanted {
            self.formerly.clone_from(&wanted);
            self.keep(SUBSCRIPTIONS, serde_json::Value::from(wanted).to_string());
        }
        if self.session_of.as_ref() != Some(&self.client_id) {
            self.session_of = Some(self.client_id.clone());
            self.keep(SESSION_OF, self.client_id.clone());
        }
        self.shared.lock().refused_filters = refused;
        self.ready();
    }

    fn ready(&self) {
        let mut status = self.shared.lock();
        status.connected = true;
        status.last_error = None;
        drop(status);
        self.publisher.availability("online");
    }

    fn broken(&mut self, error: &LinkError) {
        self.next_epoch();
        let mut status = self.shared.lock();
        if let Some(more) = rate::log_line("connection") {
            tracing::warn!(%error, "no connection to the broker{more}");
        }
        if status.connected || status.last_error.is_none() {
            status.since = Some(self.clock.now());
        }
        status.connected = false;
        status.last_error = Some(error.to_string());
    }

    /// Whatever is acknowledged from now on came in on the next connection; what is still waiting to
    /// be sent for the last one is dropped.
    fn next_epoch(&mut self) {
        *self.shared.epoch() += 1;
        self.shared.reconnect.store(false, Ordering::SeqCst);
        self.link.drop_connection();
    }
}

/// What the session at the broker was last subscribed to, as far as it is known.
pub fn kept_subscriptions(reader: &Reader) -> Result<Vec<String>, StoreError> {
    let kept = reader.kept(SUBSCRIPTIONS)?;
    Ok(kept
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default())
}

/// The client id our last session at the broker was made under, as far as it is known.
pub fn kept_session_of(reader: &Reader) -> Result<Option<String>, StoreError> {
    reader.kept(SESSION_OF)
}

/// What is kept of a message that could not become readings, and a word in the log.
fn refuse(reason: RejectReason, message: Message, at: TimestampMs) -> Reject {
    let mut topic = message.topic;
    topic.truncate(TOPIC_BYTES);
    let topic = String::from_utf8_lossy(&topic).into_owned();
    if let Some(more) = rate::log_line(reason.as_str()) {
        tracing::warn!(
            reason = reason.as_str(),
            topic,
            "a message was refused; nightwatt quarantine shows it{more}"
        );
    }
    let mut sample = message.payload;
    sample.truncate(SAMPLE_BYTES);
    sample.shrink_to_fit();
    Reject {
        at,
        topic,
        reason: reason.as_str(),
        sample,
    }
}

/// Waits before the next attempt; true where intake is to stop.
async fn wait(
    shared: &IntakeShared,
    clock: &dyn Clock,
    error: &LinkError,
    backoff: &mut Backoff,
) -> bool {
    let delay = backoff.next(matches!(error, LinkError::Refused(_)), Instant::now());
    shared.lock().next_attempt = Some(clock.now().plus_ms(delay.as_millis() as i64));
    let _ = tokio::time::timeout(delay, shared.wake.notified()).await;
    shared.stopping()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_refused_message_only_the_beginning_is_kept() {
        let message = Message {
            topic: vec![b't'; 5000],
            payload: vec![b'p'; 5000],
            retain: false,
            packet_id: 1,
            cut: false,
        };
        let kept = refuse(RejectReason::NotJson, message, TimestampMs(0));
        assert_eq!(kept.topic.len(), TOPIC_BYTES);
        assert_eq!(kept.sample.len(), SAMPLE_BYTES);
        assert!(kept.sample.capacity() < 2 * SAMPLE_BYTES);
    }
}
