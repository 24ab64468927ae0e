//! The connection over which Home Assistant is told: publishes, answers its birth message, and removes what is no longer ours.
//!
//! The broker itself is the list of what was ever made: our retained discovery messages come back to us,
//! and those that are not wanted are emptied, with their state topics; also of devices that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::discovery::Names;
use super::link::{LinkError, LinkEvent, LinkLoop, LinkOptions, LinkSender, Message};

/// When nothing of ours has come for so long, there is nothing more.
const QUIET: Duration = Duration::from_secs(2);

/// What happened that somebody has to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A new connection, or Home Assistant has started: everything is to be said again.
    SayAgain,
    /// The rest was seen to here.
    Nothing,
}

/// The connection with what is wanted on it.
pub struct Session {
    names: Names,
    sender: LinkSender,
    link: LinkLoop,
    /// Discovery topics and payloads that are to be there.
    wanted: BTreeMap<String, String>,
    /// What waits for the connection, by topic: a newer payload takes an older one's place.
    outbox: BTreeMap<String, String>,
    /// Handed to the link and not confirmed.
    outstanding: usize,
    removed: BTreeSet<String>,
    subscribed: bool,
}

impl Session {
    /// A session on a connection of its own that is made with the first [`Session::turn`].
    pub fn new(options: &LinkOptions, names: Names) -> Self {
        let (sender, link) = options.open();
        Self {
            names,
            sender,
            link,
            wanted: BTreeMap::new(),
            outbox: BTreeMap::new(),
            outstanding: 0,
            removed: BTreeSet::new(),
            subscribed: false,
        }
    }

    /// Exactly these discovery messages are to be there from now on; new and changed ones are said.
    pub fn want(&mut self, configs: Vec<(String, String)>) {
        let wanted: BTreeMap<_, _> = configs.into_iter().collect();
        let before = std::mem::take(&mut self.wanted);
        for (topic, payload) in &wanted {
            if before.get(topic) != Some(payload) {
                self.outbox.insert(topic.clone(), payload.clone());
            }
        }
        for (topic, payload) in before {
            if !wanted.contains_key(&topic) {
                self.take_back(topic, payload.as_bytes());
            }
        }
        self.wanted = wanted;
    }

    /// Says every discovery message once more.
    pub fn say_again(&mut self) {
        for (topic, payload) in &self.wanted {
            self.outbox.insert(topic.clone(), payload.clone());
        }
    }

    /// Publishes, retained, as soon as there is a connection.
    pub fn publish(&mut self, topic: String, payload: String) {
        self.outbox.insert(topic, payload);
    }

    /// One event of the connection. May be dropped and called again once connected.
    pub async fn turn(&mut self) -> Result<Heard, LinkError> {
        while self.subscribed
            && let Some(next) = self.outbox.first_entry()
        {
            if !self.sender.publish_retained(next.key(), next.get().clone()) {
                break;
            }
            self.outstanding += 1;
            next.remove();
        }
        let event = self.link.poll(true).await;
        self.subscribed &= event.is_ok();
        match event? {
            LinkEvent::Connected { .. } => {
                self.subscribed = false;
                let filters = [self.names.birth_topic(), self.names.discovery_filter()];
                self.sender.subscribe(filters.iter().map(String::as_str));
                return Ok(Heard::SayAgain);
            }
            LinkEvent::Subscribed { .. } => self.subscribed = true,
            LinkEvent::Delivered => self.outstanding = self.outstanding.saturating_sub(1),
            LinkEvent::Message(message) => return Ok(self.message(message)),
            LinkEvent::Disconnected | LinkEvent::Quiet | LinkEvent::Other => {}
        }
        Ok(Heard::Nothing)
    }

    fn message(&mut self, message: Message) -> Heard {
        if message.packet_id != 0 {
            self.sender.ack(vec![message.packet_id]);
        }
        let Ok(topic) = String::from_utf8(message.topic) else {
            return Heard::Nothing;
        };
        if topic == self.names.birth_topic() {
            // A retained one says that it started some time ago.
            let started = message.payload == b"online" && !message.retain;
            return if started {
                Heard::SayAgain
            } else {
                Heard::Nothing
            };
        }
        if !self.wanted.contains_key(&topic) {
            self.take_back(topic, &message.payload);
        }
        Heard::Nothing
    }

    /// Empties a discovery topic and the state topic it names, where they are ours.
    fn take_back(&mut self, topic: String, payload: &[u8]) {
        let Some(state_topic) = self.names.ours(payload) else {
            return;
        };
        self.outbox.insert(topic.clone(), String::new());
        if state_topic.starts_with(&format!("{}/", self.names.topic_prefix)) {
            self.outbox.insert(state_topic, String::new());
        }
        self.removed.insert(topic);
    }

    /// Removes everything of ours from the broker; how many devices that were.
    pub async fn remove_all(mut self) -> Result<usize, LinkError> {
        loop {
            if !self.subscribed {
                // Until it is connected it must not be interrupted.
                self.turn().await?;
                continue;
            }
            let settled = self.outbox.is_empty() && self.outstanding == 0;
            match tokio::time::timeout(QUIET, self.turn()).await {
                Ok(turned) => drop(turned?),
                Err(_) if settled => break,
                Err(_) => {}
            }
        }
        let removed = self.removed.len();
        self.goodbye().await;
        Ok(removed)
    }

    /// Leaves the broker in order.
    pub async fn goodbye(mut self) {
        self.sender.disconnect();
        let leave = async {
            while !matches!(
                self.link.poll(true).await,
                Ok(LinkEvent::Disconnected) | Err(_)
            ) {}
        };
        let _ = tokio::time::timeout(QUIET, leave).await;
    }
}
