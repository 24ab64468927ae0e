//! The feed against mosquitto, and against a scripted broker that misbehaves.

use std::collections::BTreeSet;
use std::error::Error;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::mqtt::mosquitto::Mosquitto;

const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
const NOT_AUTHORIZED: [u8; 4] = [0x20, 2, 0, 5];

async fn scripted() -> (TcpListener, FeedOptions) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("mqtt://127.0.0.1:{port}").parse().unwrap();
    (listener, FeedOptions::new(url))
}

/// Reads one packet: its first byte and its body; `None` once the client is gone.
async fn packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await.ok()?;
    let (mut len, mut shift) = (0_usize, 0);
    loop {
        let byte = stream.read_u8().await.ok()?;
        len |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}

/// Packet id and payload of the next PUBLISH.
async fn publish(stream: &mut TcpStream) -> Option<([u8; 2], String)> {
    loop {
        let (kind, body) = packet(stream).await?;
        if kind >> 4 == 3 {
            let at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
            let payload = String::from_utf8(body[at + 2..].to_vec()).unwrap();
            return Some(([body[at], body[at + 1]], payload));
        }
    }
}

/// Accepts a client and its CONNECT.
async fn accept(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    packet(&mut stream).await.unwrap();
    stream.write_all(&CONNACK).await.unwrap();
    stream
}

#[tokio::test]
async fn every_message_reaches_a_subscriber_of_mosquitto_in_order() {
    const COUNT: usize = 20_000;
    let broker = Mosquitto::start();
    let mut options = MqttOptions::new("subscriber", "127.0.0.1", broker.url().port);
    options.set_clean_session(true);
    let (client, mut eventloop) = AsyncClient::new(options, 10);
    client
        .try_subscribe("solar/+/telemetry", QoS::AtLeastOnce)
        .unwrap();
    while !matches!(
        eventloop.poll().await.unwrap(),
        Event::Incoming(Packet::SubAck(_))
    ) {}
    let subscriber = tokio::spawn(async move {
        let mut received = Vec::new();
        while received.len() < COUNT {
            if let Event::Incoming(Packet::Publish(publish)) = eventloop.poll().await.unwrap() {
                received.push(String::from_utf8(publish.payload.to_vec()).unwrap());
            }
        }
        received
    });
    let feed = Feed::connect(FeedOptions::new(broker.url())).await.unwrap();
    for i in 0..COUNT {
        let message = i.to_string().into_bytes();
        feed.publish("solar/t01/telemetry", message).await.unwrap();
    }
    assert_eq!(feed.finish().await.unwrap(), COUNT as u64);
    let received = timeout(Duration::from_secs(60), subscriber)
        .await
        .unwrap()
        .unwrap();
    assert!(
        received
            .iter()
            .enumerate()
            .all(|(i, text)| *text == i.to_string())
    );
}

#[tokio::test]
async fn what_a_lost_connection_took_with_it_is_sent_again() {
    const COUNT: usize = 500;
    let (listener, mut options) = scripted().await;
    options.window = 50;
    let broker = tokio::spawn(async move {
        let mut acked = BTreeSet::new();
        // Each connection acknowledges some messages, swallows some more and drops.
        for lifetime in [3, 70, 120, i64::MAX] {
            let mut stream = accept(&listener).await;
            let mut seen = 0_i64;
            while let Some((id, payload)) = publish(&mut stream).await {
                seen += 1;
                if seen - 20 > lifetime {
                    break;
                }
                if seen <= lifetime {
                    stream.write_all(&[0x40, 2, id[0], id[1]]).await.unwrap();
                    acked.insert(payload);
                }
            }
        }
        acked
    });
    let feed = Feed::connect(options).await.unwrap();
    for i in 0..COUNT {
        feed.publish("t", format!("{i:03}").into_bytes())
            .await
            .unwrap();
    }
    assert_eq!(feed.finish().await.unwrap(), COUNT as u64);
    let acked = timeout(Duration::from_secs(10), broker)
        .await
        .unwrap()
        .unwrap();
    let expected: BTreeSet<String> = (0..COUNT).map(|i| format!("{i:03}")).collect();
    assert_eq!(acked, expected);
}

#[tokio::test]
async fn a_broker_that_never_acknowledges_is_given_up() {
    let (listener, mut options) = scripted().await;
    options.window = 2;
    options.patience = Duration::from_millis(200);
    let broker = tokio::spawn(async move {
        let mut stream = accept(&listener).await;
        while packet(&mut stream).await.is_some() {}
    });
    let feed = Feed::connect(options.clone()).await.unwrap();
    feed.publish("t", vec![1]).await.unwrap();
    let error = feed.finish().await.unwrap_err();
    assert!(matches!(error, FeedError::Silent { .. }), "{error}");
    assert!(error.to_string().contains(&options.broker.to_string()));
    timeout(Duration::from_secs(10), broker)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_broker_that_stays_away_is_given_up_with_its_address() {
    let (listener, mut options) = scripted().await;
    options.window = 2;
    options.patience = Duration::from_millis(300);
    let address = options.broker.to_string();
    let broker = tokio::spawn(async move {
        drop(accept(&listener).await);
    });
    let feed = Feed::connect(options).await.unwrap();
    broker.await.unwrap();
    let error = loop {
        if let Err(error) = feed.publish("t", vec![1]).await {
            break error;
        }
    };
    assert!(matches!(error, FeedError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&address) && error.source().is_some());
    assert!(matches!(feed.finish().await, Err(FeedError::Closed(_))));
}

#[tokio::test]
async fn nobody_listening_is_told_at_once() {
    let (listener, options) = scripted().await;
    drop(listener);
    let address = options.broker.to_string();
    let Err(error) = Feed::connect(options).await else {
        panic!("connected to nobody");
    };
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test]
async fn a_refused_login_is_not_tried_again() {
    let (listener, options) = scripted().await;
    let broker = tokio::spawn(async move {
        let mut stream = accept(&listener).await;
        publish(&mut stream).await;
        drop(stream);
        let (mut stream, _) = listener.accept().await.unwrap();
        packet(&mut stream).await.unwrap();
        stream.write_all(&NOT_AUTHORIZED).await.unwrap();
    });
    let feed = Feed::connect(options).await.unwrap();
    feed.publish("t", vec![1]).await.unwrap();
    // The patience is a minute: only a refusal can end this in time.
    let error = timeout(Duration::from_secs(10), feed.finish())
        .await
        .unwrap();
    let error = error.unwrap_err();
    assert!(
        error
            .source()
            .unwrap()
            .to_string()
            .contains("NotAuthorized")
    );
    broker.await.unwrap();
}

#[tokio::test]
async fn a_topic_with_a_wildcard_is_refused_and_takes_no_room() {
    let (listener, mut options) = scripted().await;
    options.window = 1;
    let broker = tokio::spawn(async move {
        let mut stream = accept(&listener).await;
        let (id, _) = publish(&mut stream).await.unwrap();
        stream.write_all(&[0x40, 2, id[0], id[1]]).await.unwrap();
        while packet(&mut stream).await.is_some() {}
    });
    let feed = Feed::connect(options).await.unwrap();
    let error = feed.publish("a/#", vec![1]).await.unwrap_err();
    assert!(matches!(error, FeedError::Topic { .. }), "{error}");
    feed.publish("a", vec![1]).await.unwrap();
    assert_eq!(feed.finish().await.unwrap(), 1);
    broker.await.unwrap();
}

#[tokio::test]
async fn tls_without_a_configuration_is_refused() {
    let options = FeedOptions::new("mqtts://127.0.0.1".parse().unwrap());
    assert!(matches!(
        Feed::connect(options).await,
        Err(FeedError::NoTls(_))
    ));
}
