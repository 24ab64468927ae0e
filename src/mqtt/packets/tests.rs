//! Packets there and back: ours are the library's byte for byte, what is too large is cut, what is no MQTT refused.

use super::*;

fn inbound(protocol: Protocol, limit: usize, bytes: &[u8]) -> Inbound {
    let mut inbound = Inbound::new(protocol, limit);
    inbound.bytes.extend_from_slice(bytes);
    inbound
}

fn message(packet: Option<Incoming>) -> Message {
    match packet {
        Some(Incoming::Publish(message)) => message,
        _ => panic!("no message"),
    }
}

#[test]
fn a_message_too_large_is_cut_and_the_next_one_follows() {
    for protocol in [Protocol::V5, Protocol::V311] {
        let mut sent = BytesMut::new();
        protocol.publish(7, "a/b", &"x".repeat(50_000), &mut sent);
        protocol.publish(8, "a/c", "good", &mut sent);
        let mut inbound = inbound(protocol, 10_000, &[]);
        let mut seen = Vec::new();
        for part in sent.chunks(999) {
            inbound.bytes.extend_from_slice(part);
            while let Some(packet) = inbound.next().unwrap() {
                seen.push(message(Some(packet)));
            }
        }
        assert_eq!(seen.len(), 2);
        assert_eq!((seen[0].packet_id, seen[0].cut), (7, true));
        assert_eq!(seen[0].topic, b"a/b");
        assert_eq!(seen[0].payload.len(), SAMPLE_BYTES);
        assert_eq!((seen[1].packet_id, seen[1].cut), (8, false));
        assert_eq!(seen[1].payload, b"good");
    }
}

#[test]
fn what_is_no_mqtt_is_an_error_and_no_endless_wait() {
    for bytes in [
        &[0xffu8, 0xff, 0xff, 0xff, 0xff, 0xff][..],
        &[0x30, 0xff, 0xff, 0xff, 0xff, 0x7f],
        &[0x00, 0x00, 0x00],
    ] {
        assert!(inbound(Protocol::V5, 1000, bytes).next().is_err());
        assert!(inbound(Protocol::V311, 1000, bytes).next().is_err());
    }
    let waits = inbound(Protocol::V5, 1000, &[0x30]).next();
    assert!(waits.unwrap().is_none());
}

#[test]
fn what_we_write_ourselves_is_the_same_bytes_as_the_library_writes() {
    let ours = |protocol: Protocol, write: &dyn Fn(Protocol, &mut BytesMut)| {
        let mut out = BytesMut::new();
        write(protocol, &mut out);
        out
    };
    let v5 = |packet: p5::Packet| {
        let mut out = BytesMut::new();
        packet.write(&mut out, None).unwrap();
        out
    };
    let v4 = |packet: p4::Packet| {
        let mut out = BytesMut::new();
        packet.write(&mut out, usize::MAX).unwrap();
        out
    };
    let ack = |p: Protocol, out: &mut BytesMut| p.ack(0x1234, out);
    let theirs = v5(p5::Packet::PubAck(p5::PubAck::new(0x1234, None)));
    assert_eq!(ours(Protocol::V5, &ack), theirs);
    let theirs = v4(p4::Packet::PubAck(p4::PubAck::new(0x1234)));
    assert_eq!(ours(Protocol::V311, &ack), theirs);

    let filters = ["solar/+/telemetry".to_owned(), "#".to_owned()];
    let subscribe = |p: Protocol, out: &mut BytesMut| p.subscribe(7, &filters, out);
    let mut theirs = p5::Subscribe::new_many(
        filters.iter().map(|f| p5::Filter {
            retain_forward_rule: p5::RetainForwardRule::OnNewSubscribe,
            ..p5::Filter::new(f, v5::QoS::AtLeastOnce)
        }),
        None,
    );
    theirs.pkid = 7;
    assert_eq!(
        ours(Protocol::V5, &subscribe),
        v5(p5::Packet::Subscribe(theirs))
    );
    let mut theirs = p4::Subscribe::new_many(
        filters
            .iter()
            .map(|f| p4::SubscribeFilter::new(f.clone(), v4::QoS::AtLeastOnce)),
    );
    theirs.pkid = 7;
    assert_eq!(
        ours(Protocol::V311, &subscribe),
        v4(p4::Packet::Subscribe(theirs))
    );

    let unsubscribe = |p: Protocol, out: &mut BytesMut| p.unsubscribe(7, &filters, out);
    let theirs = p5::Unsubscribe {
        pkid: 7,
        filters: filters.to_vec(),
        properties: None,
    };
    assert_eq!(
        ours(Protocol::V5, &unsubscribe),
        v5(p5::Packet::Unsubscribe(theirs))
    );
    let theirs = p4::Unsubscribe {
        pkid: 7,
        topics: filters.to_vec(),
    };
    assert_eq!(
        ours(Protocol::V311, &unsubscribe),
        v4(p4::Packet::Unsubscribe(theirs))
    );

    for payload in ["", "on", &"x".repeat(200), &"x".repeat(70_000)] {
        let publish = |p: Protocol, out: &mut BytesMut| p.publish(7, "a/b", payload, out);
        let mut theirs = p5::Publish::new("a/b", v5::QoS::AtLeastOnce, payload.to_owned(), None);
        (theirs.pkid, theirs.retain) = (7, true);
        assert_eq!(
            ours(Protocol::V5, &publish),
            v5(p5::Packet::Publish(theirs))
        );
        let mut theirs = p4::Publish::new("a/b", v4::QoS::AtLeastOnce, payload);
        (theirs.pkid, theirs.retain) = (7, true);
        assert_eq!(
            ours(Protocol::V311, &publish),
            v4(p4::Packet::Publish(theirs))
        );
    }
}

#[test]
fn a_publish_that_the_broker_refused_is_told_from_one_that_nobody_reads() {
    let answer = |reason: u8| match inbound(Protocol::V5, 1000, &[0x40, 3, 0, 7, reason]).next() {
        Ok(Some(Incoming::PubAck { packet_id, refused })) => (packet_id, refused),
        _ => panic!("no PUBACK"),
    };
    assert_eq!(answer(0), (7, None));
    assert_eq!(answer(0x10), (7, None));
    assert_eq!(answer(0x87), (7, Some("NotAuthorized".into())));
}
