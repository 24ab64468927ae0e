//! Acknowledges what has been committed, on the connection it came in on and on no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::IntakeShared;
use crate::fault;
use crate::mqtt::link::LinkSender;
use crate::rate;
use crate::reading::Reading;
use crate::store::{AckToken, Committed};

/// Acknowledges what the writer has committed, and passes the readings on.
///
/// An acknowledgement belongs to the connection its message came in on: packet ids start again when
/// the broker has lost the session, and a stale one would confirm another message. The epoch is
/// checked and the request queued under one lock, so none can slip between a break and its notice.
pub struct Acknowledger {
    shared: Arc<IntakeShared>,
    sender: LinkSender,
    stored: flume::Sender<Reading>,
    missed: Arc<AtomicBool>,
}

impl Acknowledger {
    /// `stored` hears of committed readings; where it is full, `missed` is set instead.
    pub fn new(
        shared: Arc<IntakeShared>,
        sender: LinkSender,
        stored: flume::Sender<Reading>,
        missed: Arc<AtomicBool>,
    ) -> Self {
        Self {
            shared,
            sender,
            stored,
            missed,
        }
    }
}

impl Committed for Acknowledger {
    fn acknowledge(&mut self, tokens: &[AckToken]) {
        let epoch = self.shared.epoch();
        let ours = tokens
            .iter()
            .filter(|t| t.epoch == *epoch || fault::without("epochs"));
        let packet_ids: Vec<u16> = ours.map(|t| t.packet_id).collect();
        if !packet_ids.is_empty() && !self.sender.ack(packet_ids) {
            // The queue is sized so that it cannot be. If it is, redelivery and the unique key make
            // up for it; without a reconnect the broker's window would fill for good.
            self.shared.reconnect.store(true, Ordering::SeqCst);
            if let Some(more) = rate::log_line("ack_lost") {
                tracing::error!("acknowledgements found their queue full{more}");
            }
        }
    }

    fn stored(&mut self, readings: Vec<Reading>) {
        for reading in readings {
            if self.stored.try_send(reading).is_err() {
                self.missed.store(true, Ordering::Relaxed);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MqttConfig;
    use crate::mqtt::intake::{Intake, REQUESTS};
    use crate::mqtt::link::{LinkLoop, LinkOptions};
    use crate::reading::{DeviceId, TimeSource, TimestampMs, Values};

    fn acknowledger() -> (Acknowledger, LinkLoop, flume::Receiver<Reading>) {
        let options = LinkOptions::new(&MqttConfig::default(), "", None).unwrap();
        let (sender, link) = Intake::options(options, "s".into()).open();
        let (tx, rx) = flume::bounded(1);
        let shared = Arc::new(IntakeShared::default());
        (
            Acknowledger::new(shared, sender, tx, Arc::default()),
            link,
            rx,
        )
    }

    #[test]
    fn every_message_that_can_be_unacknowledged_finds_room_for_its_acknowledgement() {
        let (acknowledger, _link, _rx) = acknowledger();
        for i in 0..REQUESTS {
            assert!(
                acknowledger.sender.ack(vec![1 + (i % 60_000) as u16]),
                "{i}"
            );
        }
        assert!(
            !acknowledger.sender.ack(vec![1]),
            "the queue is not bounded"
        );
    }

    #[test]
    fn an_acknowledgement_never_crosses_connections() {
        let (mut acknowledger, mut link, _rx) = acknowledger();
        let token = |epoch| AckToken {
            epoch,
            packet_id: 1,
        };
        *acknowledger.shared.epoch() = 2;
        for epoch in [1, 2] {
            for _ in 0..REQUESTS {
                acknowledger.acknowledge(&[token(epoch)]);
            }
        }
        assert!(
            !acknowledger.sender.ack(vec![1]),
            "only the second epoch's have filled the queue"
        );
        link.drop_connection();
        assert!(
            acknowledger.sender.ack(vec![1]),
            "unsent acknowledgements outlived their connection"
        );
    }

    fn reading() -> Reading {
        Reading {
            device: DeviceId::new("t"),
            ts: TimestampMs(0),
            received: TimestampMs(0),
            time_source: TimeSource::Device,
            clock_trusted: true,
            values: Values::default(),
        }
    }

    #[test]
    fn readings_that_nobody_fetches_are_missed_and_not_waited_for() {
        let (mut acknowledger, _link, rx) = acknowledger();
        acknowledger.stored(vec![reading()]);
        assert!(!acknowledger.missed.load(Ordering::Relaxed));
        acknowledger.stored(vec![reading()]);
        assert!(acknowledger.missed.load(Ordering::Relaxed));
        assert_eq!(rx.len(), 1);
    }
}
