//! What a link says of its end, against a real broker.

use super::*;
use crate::config::{MqttConfig, Protocol};
use crate::mqtt::mosquitto::Mosquitto;

async fn connected(link: &mut LinkLoop) {
    let event = link.poll(true).await;
    assert!(
        matches!(event, Ok(LinkEvent::Connected { .. })),
        "{event:?}"
    );
}

/// What the first of two clients of one name hears.
async fn pushed_out(protocol: Protocol) -> LinkError {
    let broker = Mosquitto::start();
    let mqtt = MqttConfig {
        url: broker.url().to_string(),
        client_id: "roof".into(),
        protocol,
        ..MqttConfig::default()
    };
    let options = LinkOptions::new(&mqtt, "", None).unwrap();
    let ((_to_first, mut first), (_to_second, mut second)) = (options.open(), options.open());
    connected(&mut first).await;
    connected(&mut second).await;
    let limit = Duration::from_secs(10);
    let heard = tokio::time::timeout(limit, async {
        loop {
            if let Err(error) = first.poll(true).await {
                return error;
            }
        }
    });
    heard.await.unwrap()
}

#[tokio::test]
async fn whoever_is_pushed_out_by_its_own_name_is_told_the_name_and_the_key() {
    for protocol in [Protocol::V5, Protocol::V311] {
        let error = pushed_out(protocol).await.to_string();
        assert!(error.contains(ANOTHER_CLIENT), "{protocol:?}: {error}");
        assert!(error.contains("roof"), "{protocol:?}: {error}");
        assert!(error.contains("[mqtt] client_id"), "{protocol:?}: {error}");
    }
}
