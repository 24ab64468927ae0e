//! The first message alone, over MQTT 5: only there does a broker say that it drops what its rules forbid.

use std::time::Duration;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectReturnCode, Login, Packet, PubAckReason, Publish,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{FeedError, FeedOptions, client_id};

const PATIENCE: Duration = Duration::from_secs(5);
const PACKET_ID: u16 = 1;

/// Publishes one message at QoS 1; false where nobody can say whether it arrived: no plain TCP, no MQTT 5,
/// no answer. The feed sends it then and has the last word.
pub async fn publish_first(
    options: &FeedOptions,
    topic: &str,
    payload: &[u8],
) -> Result<bool, FeedError> {
    if options.broker.tls {
        return Ok(false);
    }
    match timeout(PATIENCE, exchange(options, topic, payload)).await {
        Ok(Some(PubAckReason::Success | PubAckReason::NoMatchingSubscribers)) => Ok(true),
        Ok(Some(PubAckReason::NotAuthorized)) => Err(FeedError::Dropped {
            broker: options.broker.clone(),
            topic: topic.to_owned(),
        }),
        Ok(_) | Err(_) => Ok(false),
    }
}

async fn exchange(options: &FeedOptions, topic: &str, payload: &[u8]) -> Option<PubAckReason> {
    let broker = &options.broker;
    let address = (broker.host.as_str(), broker.port);
    let mut stream = TcpStream::connect(address).await.ok()?;
    let connect = Connect {
        keep_alive: 30,
        client_id: client_id(),
        clean_start: true,
        properties: None,
    };
    let login = broker.username.as_ref().map(|user| {
        let password = options.password.clone().unwrap_or_default();
        Login::new(user, password)
    });
    let mut out = BytesMut::new();
    Packet::Connect(connect, None, login)
        .write(&mut out, None)
        .ok()?;
    stream.write_all(&out).await.ok()?;
    let mut read = BytesMut::new();
    let Packet::ConnAck(welcome) = packet(&mut stream, &mut read).await? else {
        return None;
    };
    if welcome.code != ConnectReturnCode::Success {
        return None;
    }
    let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload.to_vec(), None);
    publish.pkid = PACKET_ID;
    out.clear();
    Packet::Publish(publish).write(&mut out, None).ok()?;
    stream.write_all(&out).await.ok()?;
    let Packet::PubAck(ack) = packet(&mut stream, &mut read).await? else {
        return None;
    };
    Some(ack.reason)
}

async fn packet(stream: &mut TcpStream, read: &mut BytesMut) -> Option<Packet> {
    loop {
        match Packet::read(read, None) {
            Ok(packet) => return Some(packet),
            Err(Error::InsufficientBytes(_)) => {}
            Err(_) => return None,
        }
        if stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
    }
}
