//! Forecasts and availability out, over a connection of their own, so that they never hold up an acknowledgement.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::link::{LinkError, LinkEvent, LinkLoop, LinkOptions, LinkSender};

const FLUSH_POLL: Duration = Duration::from_millis(10);

/// Publishes without waiting. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    sender: LinkSender,
    prefix: Arc<str>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Publishes the broker has not confirmed yet.
    outstanding: AtomicI64,
    connected: AtomicBool,
    stopping: AtomicBool,
    wake: tokio::sync::Notify,
}

/// The polled end of the publisher's connection.
pub struct PublishLoop {
    link: LinkLoop,
    shared: Arc<Shared>,
}

impl Publisher {
    /// Both ends; everything goes below `prefix`.
    pub fn new(options: &LinkOptions, prefix: &str) -> (Self, PublishLoop) {
        let (sender, link) = options.open();
        let shared = Arc::new(Shared::default());
        let publisher = Self {
            sender,
            prefix: Arc::from(prefix),
            shared: shared.clone(),
        };
        (publisher, PublishLoop { link, shared })
    }

    /// The topic that says `online` or `offline`.
    pub fn availability_topic(prefix: &str) -> String {
        format!("{prefix}/status")
    }

    /// Publishes `payload`, retained, on `<prefix>/<topic>`. A publish that finds the queue full,
    /// after hours without a broker, is dropped: a newer one follows within a minute.
    pub fn retained(&self, topic: &str, payload: String) {
        let topic = format!("{}/{topic}", self.prefix);
        if self.sender.publish_retained(&topic, payload) {
            self.shared.outstanding.fetch_add(1, Ordering::SeqCst);
        } else {
            tracing::debug!(topic, "dropped: too many publishes wait for the broker");
        }
    }

    /// Publishes `online` or `offline`, retained.
    pub fn availability(&self, state: &'static str) {
        self.retained("status", state.into());
    }

    /// Waits until the broker has everything (at once where there is no connection), then says goodbye.
    pub async fn finish(&self) {
        let shared = &self.shared;
        while shared.connected.load(Ordering::SeqCst)
            && shared.outstanding.load(Ordering::SeqCst) > 0
        {
            // The loop that counts down runs on this same thread.
            tokio::time::sleep(FLUSH_POLL).await;
        }
        shared.stopping.store(true, Ordering::SeqCst);
        shared.wake.notify_one();
        self.sender.disconnect();
    }
}

impl PublishLoop {
    /// Keeps the connection and sends what was asked for, until [`Publisher::finish`].
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            match self.turn().await {
                Ok(LinkEvent::Connected { .. }) => backoff.connected(Instant::now()),
                Ok(LinkEvent::Disconnected) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "the publishing connection broke");
                    let wake = self.shared.wake.notified();
                    let refused = matches!(error, LinkError::Refused(_));
                    let _ = tokio::time::timeout(backoff.next(refused, Instant::now()), wake).await;
                    if self.shared.stopping.load(Ordering::SeqCst) {
                        return;
                    }
                }
            }
        }
    }

    /// One event of the connection, and what it says of the publishes that are on their way.
    async fn turn(&mut self) -> Result<LinkEvent, LinkError> {
        let event = self.link.poll(true).await;
        match &event {
            Ok(LinkEvent::Connected { .. }) => self.shared.connected.store(true, Ordering::SeqCst),
            Ok(LinkEvent::Delivered) => {
                self.shared.outstanding.fetch_sub(1, Ordering::SeqCst);
            }
            Ok(_) => {}
            Err(_) => {
                self.shared.connected.store(false, Ordering::SeqCst);
                // Days without a broker: what was dropped for newer ones nobody confirms any more.
                let waiting = self.link.unconfirmed() as i64;
                self.shared.outstanding.store(waiting, Ordering::SeqCst);
            }
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MqttConfig;

    /// What was dropped during days without a broker is never confirmed, so nothing may wait for it.
    #[tokio::test]
    async fn what_was_dropped_while_there_was_no_broker_is_not_waited_for() {
        let mqtt = MqttConfig {
            // Nobody listens there.
            url: "mqtt://127.0.0.1:1".into(),
            ..MqttConfig::default()
        };
        let mut options = LinkOptions::new(&mqtt, "", None).unwrap();
        options.requests = 4;
        let (publisher, mut publishing) = Publisher::new(&options, "p");
        let shared = publisher.shared.clone();
        let outstanding = || shared.outstanding.load(Ordering::SeqCst);
        for _ in 0..3 {
            for i in 0..4 {
                publisher.retained(&i.to_string(), String::new());
            }
            publishing.turn().await.unwrap_err();
        }
        assert_eq!(outstanding(), 4);
    }
}
