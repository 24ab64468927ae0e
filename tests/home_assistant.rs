//! What Home Assistant would find on the broker, and that nothing of it stays once it is not wanted.

use std::process::Command;

use serde_json::Value;

use crate::intake::{now_plus_s, publish};
use crate::support::{Broker, Station, put_history, retained, wait_for};

const STATION: &str = "homeassistant/device/nightwatt/config";
const DEVICE: &str = "homeassistant/device/nightwatt_t01/config";

/// A station with a fortnight behind it that reads everything there is on the broker.
fn station(broker: &Broker) -> Station {
    let mut station = Station::new(
        &broker.url(),
        "[[mqtt.topics]]\nfilter = \"#\"\n[training]\nenabled = false\n\
         [home_assistant]\nenabled = true",
    );
    station.start();
    station.wait_connected();
    station.stop();
    put_history(&station, 2, 9, 600);
    station.start();
    station.wait_connected();
    station
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn send(broker: &Broker, words: &[&str]) {
    let sent = Command::new("mosquitto_pub")
        .args(["-p", &broker.port.to_string(), "-q", "1"])
        .args(words)
        .status();
    assert!(sent.unwrap().success());
}

fn config(broker: &Broker, topic: &str) -> Option<Value> {
    retained(broker, topic)
        .remove(topic)
        .map(|text| json(&text))
}

fn disable(station: &Station) {
    let path = station.dir.path().join("n.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("[home_assistant]\nenabled = true", "");
    std::fs::write(&path, text).unwrap();
}

fn nothing_left(broker: &Broker) {
    wait_for("everything to be taken back", 30, || {
        let mut left = retained(broker, "homeassistant/#");
        left.extend(retained(broker, "nightwatt/state"));
        left.extend(retained(broker, "nightwatt/+/state"));
        left.is_empty().then_some(())
    });
}

#[test]
fn devices_and_station_are_found_with_states_and_removed_without_a_trace() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    // Of a device that there was under an earlier installation.
    let gone = "homeassistant/device/nightwatt_gone/config";
    let payload = "{\"origin\":{\"name\":\"nightwatt\"},\"availability_topic\":\"nightwatt/status\",\
                   \"state_topic\":\"nightwatt/gone/state\"}";
    send(&broker, &["-r", "-t", gone, "-m", payload]);
    send(&broker, &["-r", "-t", "nightwatt/gone/state", "-m", "{}"]);
    let foreign = "homeassistant/device/zigbee/config";
    send(
        &broker,
        &["-r", "-t", foreign, "-m", "{\"origin\":{\"name\":\"z2m\"}}"],
    );
    let mut station = station(&broker);
    publish(
        &broker,
        "solar/t01/telemetry",
        false,
        &[&format!(
            "{{\"device_id\":\"t01\",\"ts\":\"{}\",\"power\":42}}",
            now_plus_s(0)
        )],
    );
    let about = wait_for("the discovery message", 30, || config(&broker, DEVICE));
    for part in ["device", "origin", "components"] {
        assert!(about[part].is_object(), "{about}");
    }
    for (key, entity) in about["components"].as_object().unwrap() {
        assert!(
            entity["platform"].is_string() && entity["unique_id"].is_string(),
            "{key}"
        );
    }
    assert_eq!(
        about["components"].as_object().unwrap().len(),
        6,
        "few entities"
    );
    assert_eq!(about["state_topic"], "nightwatt/t01/state");
    assert_eq!(
        config(&broker, STATION).unwrap()["components"]["health"]["device_class"],
        "enum"
    );
    let availability = about["availability_topic"].as_str().unwrap();
    assert_eq!(retained(&broker, availability)[availability], "online");
    assert!(config(&broker, gone).is_none() && config(&broker, foreign).is_some());

    // Home Assistant starts: everything is said again, with what is known by then.
    send(&broker, &["-t", "homeassistant/status", "-m", "online"]);
    let topic = "nightwatt/t01/state";
    let state = wait_for("the state", 30, || {
        let state = config(&broker, topic)?;
        (state["power_w"] == 42.0).then_some(state)
    });
    assert_eq!(state["problem"], "OFF", "{state}");
    assert!(state["tomorrow_wh"].as_f64() > Some(100.0), "{state}");
    assert!(
        state["left_today_wh"].is_f64() || state["left_today_wh"].is_i64(),
        "{state}"
    );
    send(&broker, &["-r", "-n", "-t", DEVICE]);
    send(&broker, &["-t", "homeassistant/status", "-m", "online"]);
    wait_for("the discovery message once more", 30, || {
        config(&broker, DEVICE)
    });

    // Nothing of it is taken for a reading, though `#` brings it all back to us.
    let refused: i64 = station
        .query("SELECT count(*) FROM quarantine WHERE topic GLOB 'homeassistant/device/*' OR topic GLOB 'nightwatt/*'");
    assert_eq!(refused, 0);

    disable(&station);
    station.signal("-HUP");
    send(&broker, &["-r", "-n", "-t", foreign]);
    nothing_left(&broker);
    let (end, _) = station.stop();
    assert!(end.success());
}

#[test]
fn what_a_station_left_behind_is_removed_by_the_next_start_or_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = station(&broker);
    wait_for("the discovery message", 30, || config(&broker, DEVICE));
    let refused = station.run(&["home-assistant", "remove"]);
    assert_eq!(refused.status.code(), Some(2), "it would be made again");
    station.kill_9();
    disable(&station);
    let removed = station.run(&["home-assistant", "remove"]);
    let said = String::from_utf8(removed.stdout).unwrap();
    assert_eq!(said, "3 devices removed from Home Assistant\n");
    nothing_left(&broker);

    // And by the daemon itself, which remembers that it made something.
    send(
        &broker,
        &[
            "-r",
            "-t",
            DEVICE,
            "-m",
            "{\"origin\":{\"name\":\"nightwatt\"},\"availability_topic\":\"nightwatt/status\",\"state_topic\":\"nightwatt/t01/state\"}",
        ],
    );
    station.start();
    nothing_left(&broker);
    let kept: String = wait_for("it to be forgotten", 10, || {
        let kept: String = station.query("SELECT value FROM meta WHERE key = 'home_assistant'");
        kept.is_empty().then_some(kept)
    });
    assert_eq!(kept, "");
}
