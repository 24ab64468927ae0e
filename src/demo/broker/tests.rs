//! That nothing is lost on the way through the embedded broker, with MQTT 3.1.1 and MQTT 5.

use std::time::Duration;

use rumqttc::v5;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use tokio::time::timeout;

use super::*;
use crate::mqtt::feed::{Feed, FeedOptions};

const TOPIC: &str = "solar/t01/telemetry";
const FILTER: &str = "solar/+/telemetry";
const PATIENCE: Duration = Duration::from_secs(120);

async fn publish(broker: DemoBroker, numbers: std::ops::Range<usize>) {
    let feed = Feed::connect(FeedOptions::new(broker.url())).await.unwrap();
    let count = numbers.len() as u64;
    for number in numbers {
        // As long as a real reading.
        let payload = format!("{number:0200}").into_bytes();
        feed.publish(TOPIC, payload).await.unwrap();
    }
    assert_eq!(feed.finish().await.unwrap(), count);
}

fn number(payload: &[u8]) -> usize {
    std::str::from_utf8(payload).unwrap().parse().unwrap()
}

/// A subscriber with a persistent session, subscribed, and whether the session was there before.
///
/// It subscribes to new sessions only: with 100 messages unacknowledged, which a resumed session
/// has at once, rumqttd answers neither SUBSCRIBE nor PINGREQ.
async fn subscriber(broker: DemoBroker) -> (AsyncClient, EventLoop, bool) {
    let mut options = MqttOptions::new("collector", "127.0.0.1", broker.port);
    options.set_clean_session(false).set_manual_acks(true);
    let (client, mut eventloop) = AsyncClient::new(options, 200);
    loop {
        match eventloop.poll().await.unwrap() {
            Event::Incoming(Packet::ConnAck(ack)) if ack.session_present => {
                return (client, eventloop, true);
            }
            Event::Incoming(Packet::ConnAck(_)) => {
                client.try_subscribe(FILTER, QoS::AtLeastOnce).unwrap();
            }
            Event::Incoming(Packet::SubAck(_)) => return (client, eventloop, false),
            _ => {}
        }
    }
}

/// Receives and acknowledges until `last` came; returns what came, in order.
async fn receive(client: &AsyncClient, eventloop: &mut EventLoop, last: usize) -> Vec<usize> {
    let mut received = Vec::new();
    while received.last() != Some(&last) {
        let event = timeout(PATIENCE, eventloop.poll()).await.unwrap().unwrap();
        if let Event::Incoming(Packet::Publish(publish)) = event {
            received.push(number(&publish.payload));
            client.try_ack(&publish).unwrap();
        }
    }
    received
}

#[tokio::test]
async fn a_hundred_thousand_messages_flat_out_arrive_exactly_once_in_order() {
    const COUNT: usize = 100_000;
    let broker = DemoBroker::start().unwrap();
    let (client, mut eventloop, _) = subscriber(broker).await;
    let publisher = tokio::spawn(publish(broker, 0..COUNT));
    let began = Instant::now();
    let received = receive(&client, &mut eventloop, COUNT - 1).await;
    println!(
        "{:.0} messages/s",
        COUNT as f64 / began.elapsed().as_secs_f64()
    );
    publisher.await.unwrap();
    assert_eq!(received.len(), COUNT);
    assert!(received.iter().enumerate().all(|(i, &n)| i == n));
}

#[tokio::test]
async fn a_subscriber_that_was_away_for_all_of_the_history_still_gets_it() {
    const COUNT: usize = 90_000;
    let broker = DemoBroker::start().unwrap();
    let (client, mut eventloop, session) = subscriber(broker).await;
    assert!(!session);
    // Ten messages arrive, five of them are acknowledged, then the connection breaks.
    publish(broker, 0..10).await;
    let mut unacked = Vec::new();
    while unacked.len() < 10 {
        if let Event::Incoming(Packet::Publish(publish)) = eventloop.poll().await.unwrap() {
            unacked.push(publish);
        }
    }
    for publish in &unacked[..5] {
        client.try_ack(publish).unwrap();
    }
    client.try_disconnect().unwrap();
    while eventloop.poll().await.is_ok() {}
    drop((client, eventloop));

    publish(broker, 10..COUNT).await;
    let (client, mut eventloop, session) = subscriber(broker).await;
    assert!(session, "the broker kept the session");
    let received = receive(&client, &mut eventloop, COUNT - 1).await;
    assert!(received.into_iter().eq(5..COUNT));
}

#[tokio::test]
async fn messages_published_with_nobody_subscribed_do_not_drop_the_publisher() {
    let broker = DemoBroker::start().unwrap();
    publish(broker, 0..1000).await;
}

#[tokio::test]
async fn mqtt_5_works_with_manual_acks_and_a_session_that_outlives_the_connection() {
    const COUNT: usize = 2000;
    let broker = DemoBroker::start().unwrap();
    let connect = || {
        let mut options = v5::MqttOptions::new("collector", "127.0.0.1", broker.port_v5);
        options
            .set_clean_start(false)
            .set_manual_acks(true)
            .set_receive_maximum(Some(50))
            .set_session_expiry_interval(Some(3600))
            .set_outgoing_inflight_upper_limit(16);
        v5::AsyncClient::new(options, 200)
    };
    use v5::mqttbytes::{QoS, v5::Packet};
    let (mut expected, mut in_flight_most) = (0, 0);
    for (part, session) in [(0..COUNT, false), (COUNT..2 * COUNT, true)] {
        let (client, mut eventloop) = connect();
        loop {
            match timeout(PATIENCE, eventloop.poll()).await.unwrap().unwrap() {
                v5::Event::Incoming(Packet::ConnAck(ack)) => {
                    assert_eq!(ack.session_present, session);
                    client.try_subscribe(FILTER, QoS::AtLeastOnce).unwrap();
                }
                v5::Event::Incoming(Packet::SubAck(_)) => break,
                _ => {}
            }
        }
        let last = part.end - 1;
        let publisher = tokio::spawn(publish(broker, part));
        let mut unacked = Vec::new();
        while expected <= last {
            // Acknowledge only when nothing comes any more, so that the broker's window shows.
            match timeout(Duration::from_millis(20), eventloop.poll()).await {
                Ok(event) => {
                    if let v5::Event::Incoming(Packet::Publish(publish)) = event.unwrap() {
                        assert_eq!(number(&publish.payload), expected);
                        expected += 1;
                        unacked.push(publish);
                        in_flight_most = in_flight_most.max(unacked.len());
                    }
                }
                Err(_quiet) => {
                    for publish in unacked.drain(..) {
                        client.try_ack(&publish).unwrap();
                    }
                }
            }
        }
        for publish in unacked.drain(..) {
            client.try_ack(&publish).unwrap();
        }
        publisher.await.unwrap();
        client.try_disconnect().unwrap();
        while eventloop.poll().await.is_ok() {}
    }
    // rumqttd does not read the receive maximum of 50: a collector must have room for its own 100.
    assert!((51..=100).contains(&in_flight_most), "{in_flight_most}");
}
