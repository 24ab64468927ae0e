//! A QoS 1 publisher that counts a message only when the broker has acknowledged it.
//!
//! One task polls and nothing else. Callers take a permit per unacknowledged message, so memory is
//! bounded and a slow broker slows them down. The feed keeps every unacknowledged message itself:
//! it asks for a clean session and publishes them again, in order, on every connection, so neither
//! a lost connection nor a restarted broker loses one (some may arrive twice).

mod probe;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Outgoing,
    Packet, QoS, StateError, Transport,
};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

pub use probe::publish_first;

use super::broker_url::BrokerUrl;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// The largest packet MQTT knows: what is too large is the broker's decision.
const PACKET_BYTES_MAX: usize = 268_435_455;

/// How to reach a broker and how hard to try.
#[derive(Clone)]
pub struct FeedOptions {
    /// The broker; a user name in it is used with `password`.
    pub broker: BrokerUrl,
    /// The password of the broker's user.
    pub password: Option<String>,
    /// How to encrypt; required for `mqtts`.
    pub tls: Option<Transport>,
    /// Unacknowledged messages at most.
    pub window: u16,
    /// How long the broker may be away, or acknowledge nothing, before the feed gives up.
    pub patience: Duration,
}

impl FeedOptions {
    /// Plain TCP, no password, a window of 1000 messages and a minute's patience.
    pub fn new(broker: BrokerUrl) -> Self {
        Self {
            broker,
            password: None,
            tls: None,
            window: 1000,
            patience: Duration::from_secs(60),
        }
    }
}

/// Why messages did not reach the broker.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// No connection, for longer than the patience or at the first attempt.
    #[error("cannot reach broker {broker}")]
    Unreachable {
        /// The broker's address.
        broker: BrokerUrl,
        /// What the last attempt said.
        #[source]
        source: Box<ConnectionError>,
    },
    /// Connected, but nothing was acknowledged within the patience.
    #[error("broker {broker} has acknowledged nothing for {patience_s} s")]
    Silent {
        /// The broker's address.
        broker: BrokerUrl,
        /// The patience, seconds.
        patience_s: u64,
    },
    /// `mqtts` without a TLS configuration.
    #[error("broker {0} asks for TLS, which is not configured")]
    NoTls(BrokerUrl),
    /// A topic with wildcards, or none.
    #[error("cannot publish to topic `{topic}` on broker {broker}")]
    Topic {
        /// The broker's address.
        broker: BrokerUrl,
        /// The topic refused.
        topic: String,
    },
    /// The broker takes messages and drops them: its rules forbid this topic.
    #[error(
        "broker {broker} drops what is published on {topic}: its rules do not let this user write there (mosquitto: acl_file)"
    )]
    Dropped {
        /// The broker's address.
        broker: BrokerUrl,
        /// The topic.
        topic: String,
    },
    /// The feed had failed before; the first error told why.
    #[error("the feed to broker {0} has failed")]
    Closed(BrokerUrl),
}

/// A running publisher; see the module's description.
pub struct Feed {
    options: FeedOptions,
    client: AsyncClient,
    shared: Arc<Shared>,
    poller: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// One permit for each message that may still be sent unacknowledged; closed on failure.
    permits: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connected: bool,
    /// In the order sent, which is the order in which brokers acknowledge (MQTT 3.1.1, 4.6).
    unacked: VecDeque<(String, Vec<u8>)>,
    acked: u64,
    failure: Option<FeedError>,
}

impl Feed {
    /// Connects; the first attempt must succeed, so that a wrong address is told at once.
    pub async fn connect(options: FeedOptions) -> Result<Feed, FeedError> {
        let broker = &options.broker;
        if broker.tls && options.tls.is_none() {
            return Err(FeedError::NoTls(broker.clone()));
        }
        let mut mqtt = MqttOptions::new(client_id(), &broker.host, broker.port);
        mqtt.set_clean_session(true)
            .set_inflight(options.window)
            .set_keep_alive(Duration::from_secs(30))
            .set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        if let Some(user) = &broker.username {
            mqtt.set_credentials(user, options.password.clone().unwrap_or_default());
        }
        if let Some(transport) = options.tls.clone().filter(|_| broker.tls) {
            mqtt.set_transport(transport);
        }
        // Room for the whole window and the final DISCONNECT: `try_publish` never finds it full.
        let (client, mut eventloop) = AsyncClient::new(mqtt, usize::from(options.window) + 1);
        let mut network = eventloop.network_options();
        network.set_tcp_nodelay(true);
        eventloop.set_network_options(network);
        if let Err(source) = eventloop.poll().await {
            return Err(unreachable_by(broker, source));
        }
        let shared = Arc::new(Shared {
            permits: Semaphore::new(usize::from(options.window)),
            state: Mutex::new(State {
                connected: true,
                ..State::default()
            }),
        });
        let poller = tokio::spawn(poll(
            eventloop,
            client.clone(),
            shared.clone(),
            options.clone(),
        ));
        Ok(Feed {
            options,
            client,
            shared,
            poller,
        })
    }

    /// Hands one message over; waits while the window is full.
    pub async fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<(), FeedError> {
        self.permits(1).await?;
        let mut state = self.shared.lock();
        // While the connection is down the message only queues: it is sent on the next one.
        if state.connected && !send(&self.client, topic, payload.clone()) {
            self.shared.permits.add_permits(1);
            return Err(FeedError::Topic {
                broker: self.options.broker.clone(),
                topic: topic.to_owned(),
            });
        }
        state.unacked.push_back((topic.to_owned(), payload));
        Ok(())
    }

    /// Waits until every message is acknowledged, disconnects and returns how many there were.
    pub async fn finish(mut self) -> Result<u64, FeedError> {
        self.permits(u32::from(self.options.window)).await?;
        // Not reachable any more means the connection is gone, which is what is wanted.
        let _ = self.client.try_disconnect();
        let _ = timeout(BACKOFF_MAX, &mut self.poller).await;
        Ok(self.shared.lock().acked)
    }

    /// Takes permits for good; acknowledgements bring them back.
    async fn permits(&self, count: u32) -> Result<(), FeedError> {
        let acquired = timeout(
            self.options.patience,
            self.shared.permits.acquire_many(count),
        )
        .await;
        match acquired {
            Ok(Ok(permits)) => {
                permits.forget();
                Ok(())
            }
            Ok(Err(_closed)) => Err(self.failure()),
            // A feed that is reconnecting has its own, more telling end of patience.
            Err(_elapsed) if !self.shared.lock().connected => {
                match self.shared.permits.acquire_many(count).await {
                    Ok(permits) => permits.forget(),
                    Err(_closed) => return Err(self.failure()),
                }
                Ok(())
            }
            Err(_elapsed) => Err(FeedError::Silent {
                broker: self.options.broker.clone(),
                patience_s: self.options.patience.as_secs(),
            }),
        }
    }

    fn failure(&self) -> FeedError {
        let failure = self.shared.lock().failure.take();
        failure.unwrap_or_else(|| FeedError::Closed(self.options.broker.clone()))
    }
}

/// A feed dropped without `finish` stops at once.
impl Drop for Feed {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest message has arrived.
    fn acknowledged(&self, state: &mut State) {
        if state.unacked.pop_front().is_some() {
            state.acked += 1;
            self.permits.add_permits(1);
        }
    }
}

/// False where the client refuses the topic; the request channel has room for the whole window.
fn send(client: &AsyncClient, topic: &str, payload: Vec<u8>) -> bool {
    client
        .try_publish(topic, QoS::AtLeastOnce, false, payload)
        .is_ok()
}

async fn poll(
    mut eventloop: EventLoop,
    client: AsyncClient,
    shared: Arc<Shared>,
    options: FeedOptions,
) {
    let mut backoff = BACKOFF_MIN;
    let mut trouble_since: Option<Instant> = None;
    loop {
        match eventloop.poll().await {
            Ok(Event::Incoming(Packet::PubAck(_))) => {
                (backoff, trouble_since) = (BACKOFF_MIN, None);
                shared.acknowledged(&mut shared.lock());
            }
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                let mut state = shared.lock();
                state.connected = true;
                for (topic, payload) in &state.unacked {
                    send(&client, topic, payload.clone());
                }
                if state.unacked.is_empty() {
                    (backoff, trouble_since) = (BACKOFF_MIN, None);
                }
            }
            Ok(Event::Outgoing(Outgoing::Disconnect)) => return,
            Ok(_) => {}
            Err(error) => {
                {
                    // Under the lock, so that no message slips into the channel afterwards: what
                    // is in there now is dropped on the next connection and sent again by us.
                    let mut state = shared.lock();
                    state.connected = false;
                    eventloop.clean();
                    let mut left = std::mem::take(&mut eventloop.state.events);
                    if matches!(
                        error,
                        ConnectionError::MqttState(StateError::Unsolicited(_))
                    ) {
                        // The last one acknowledged nothing: that is the error.
                        left.pop_back();
                    }
                    // Otherwise these came out after the next ConnAck and were counted again.
                    for event in left {
                        if matches!(event, Event::Incoming(Packet::PubAck(_))) {
                            shared.acknowledged(&mut state);
                        }
                    }
                }
                let since = *trouble_since.get_or_insert_with(Instant::now);
                if is_final(&error) || since.elapsed() >= options.patience {
                    shared.lock().failure = Some(unreachable_by(&options.broker, error));
                    shared.permits.close();
                    return;
                }
                tracing::warn!(broker = %options.broker, %error, "feed lost its broker, retrying");
                sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// Trying again does not help against a refusal that is about us.
fn is_final(error: &ConnectionError) -> bool {
    matches!(
        error,
        ConnectionError::ConnectionRefused(code) if *code != ConnectReturnCode::ServiceUnavailable
    )
}

fn unreachable_by(broker: &BrokerUrl, source: ConnectionError) -> FeedError {
    FeedError::Unreachable {
        broker: broker.clone(),
        source: Box::new(source),
    }
}

/// Unique on this machine; brokers drop the older of two clients with one name.
fn client_id() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("nightwatt-feed-{}-{count}", std::process::id())
}

#[cfg(test)]
mod tests;
