//! Discovery messages against what Home Assistant requires of them, written down as data.

use super::*;
use crate::reading::TimestampMs;
use crate::status::Verdict;

fn names() -> Names {
    Names {
        discovery_prefix: "homeassistant".into(),
        topic_prefix: "nightwatt".into(),
    }
}

/// From Home Assistant's `components/mqtt/schemas.py` (device discovery), `sensor.py`, `binary_sensor.py`
/// and `update.py`: what must be there, and what may be.
const DEVICE_REQUIRED: &[&str] = &["device", "origin", "components"];
const DEVICE_KNOWN: &[&str] = &[
    "identifiers",
    "connections",
    "manufacturer",
    "model",
    "name",
    "hw_version",
    "serial_number",
    "sw_version",
    "via_device",
    "suggested_area",
    "configuration_url",
];
const ORIGIN_KNOWN: &[&str] = &["name", "sw_version", "support_url"];
const SHARED_KNOWN: &[&str] = &[
    "device",
    "origin",
    "components",
    "availability",
    "availability_mode",
    "availability_template",
    "availability_topic",
    "payload_available",
    "payload_not_available",
    "state_topic",
    "command_topic",
    "qos",
    "encoding",
];
const ENTITY_REQUIRED: &[&str] = &["platform", "unique_id"];
const ENTITY_KNOWN: &[&str] = &[
    "platform",
    "unique_id",
    "default_entity_id",
    "name",
    "icon",
    "entity_category",
    "json_attributes_topic",
    "json_attributes_template",
    "value_template",
    "device_class",
];
const PLATFORM_KNOWN: &[(&str, &[&str])] = &[
    (
        "sensor",
        &[
            "expire_after",
            "state_class",
            "unit_of_measurement",
            "options",
            "suggested_display_precision",
        ],
    ),
    (
        "binary_sensor",
        &["expire_after", "payload_on", "payload_off"],
    ),
    (
        "update",
        &["title", "latest_version_topic", "latest_version_template"],
    ),
];
/// Device class, units it takes, state classes it takes.
const SENSOR_CLASSES: &[(&str, &[&str], &[&str])] = &[
    ("power", &["W", "kW"], &["measurement"]),
    ("energy", &["Wh", "kWh"], &["total", "total_increasing"]),
    ("enum", &[], &[]),
];

/// Fails where Home Assistant would not take the message.
pub fn check(topic: &str, payload: &str) {
    let levels: Vec<&str> = topic.split('/').collect();
    assert_eq!(
        (levels.len(), levels[1], levels[3]),
        (4, "device", "config")
    );
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    assert!(levels[2].chars().all(allowed), "{topic}");
    let config: Value = serde_json::from_str(payload).unwrap();
    let keys = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let known = |v: &Value, known: &[&str]| {
        for key in keys(v) {
            assert!(known.contains(&key.as_str()), "{key} in {v}");
        }
    };
    for key in DEVICE_REQUIRED {
        assert!(config[key].is_object(), "{key} is missing in {config}");
    }
    known(&config, SHARED_KNOWN);
    known(&config["device"], DEVICE_KNOWN);
    assert!(config["device"]["identifiers"][0].is_string());
    known(&config["origin"], ORIGIN_KNOWN);
    assert!(config["origin"]["name"].is_string());
    for (key, entity) in config["components"].as_object().unwrap() {
        for required in ENTITY_REQUIRED {
            assert!(entity[required].is_string(), "{required} of {key}");
        }
        let platform = entity["platform"].as_str().unwrap();
        let (_, more) = PLATFORM_KNOWN
            .iter()
            .find(|(name, _)| *name == platform)
            .unwrap();
        known(entity, &[ENTITY_KNOWN, more].concat());
        let default = entity["default_entity_id"].as_str().unwrap();
        assert!(default.starts_with(&format!("{platform}.")), "{default}");
        if platform == "sensor"
            && let Some(class) = entity["device_class"].as_str()
        {
            let (_, units, states) = SENSOR_CLASSES.iter().find(|(c, ..)| *c == class).unwrap();
            let fits = |value: &Value, of: &[&str]| value.as_str().is_none_or(|v| of.contains(&v));
            assert!(fits(&entity["unit_of_measurement"], units), "{entity}");
            assert!(fits(&entity["state_class"], states), "{entity}");
            assert_eq!(entity["options"].is_array(), class == "enum", "{entity}");
        }
    }
}

#[test]
fn every_message_is_one_that_home_assistant_takes() {
    let devices = ["t07", "Dach Süd/1", "a b"].map(DeviceId::new);
    let configs = names().configs(&devices);
    assert_eq!(configs.len(), 4);
    for (topic, payload) in &configs {
        check(topic, payload);
    }
    let all: Vec<Value> = configs
        .iter()
        .map(|(_, payload)| serde_json::from_str(payload).unwrap())
        .collect();
    let ids: std::collections::BTreeSet<String> = all
        .iter()
        .flat_map(|c| c["components"].as_object().unwrap().values())
        .map(|e| e["unique_id"].to_string())
        .collect();
    assert_eq!(ids.len(), 3 + 3 * 6, "{ids:?}");
    // A device hangs on a station that is there.
    assert_eq!(
        all[1]["device"]["via_device"],
        all[0]["device"]["identifiers"][0]
    );
}

#[test]
fn a_station_is_called_nightwatt_once_and_by_its_prefix_where_that_is_another() {
    let called = |prefix: &str| {
        let names = Names {
            topic_prefix: prefix.into(),
            ..names()
        };
        let config: Value = serde_json::from_str(&names.configs(&[])[0].1).unwrap();
        config["device"]["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(called("nightwatt"), "nightwatt");
    assert_eq!(called("garden"), "nightwatt garden");
}

#[test]
fn names_that_differ_give_identifiers_that_differ() {
    assert_eq!(identifier("t07"), "t07");
    let all = ["a/b", "a b", "a_b", "a.b"].map(identifier);
    let different: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(different.len(), 4, "{all:?}");
}

#[test]
fn ours_are_told_from_others_and_name_their_state_topic() {
    let (_, payload) = names().configs(&[DeviceId::new("t")]).remove(1);
    assert_eq!(
        names().ours(payload.as_bytes()).as_deref(),
        Some("nightwatt/t/state")
    );
    let other = Names {
        topic_prefix: "garden".into(),
        ..names()
    };
    assert_eq!(other.ours(payload.as_bytes()), None);
    assert_eq!(names().ours(b""), None);
    assert_eq!(names().ours(b"{\"origin\":{\"name\":\"z2m\"}}"), None);
}

/// Every `value_json.x` of a template is a field of the state that it reads.
#[test]
fn every_template_finds_its_field() {
    let station = station_state(&Status::default(), None);
    let device = device_state(&DeviceFacts::default());
    let configs = names().configs(&[DeviceId::new("t")]);
    for ((_, payload), state) in configs.iter().zip([station, device]) {
        let state: Value = serde_json::from_str(&state).unwrap();
        let named = payload.split("value_json.").skip(1).map(|rest| {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            &rest[..end.unwrap()]
        });
        for field in named {
            assert!(state.get(field).is_some(), "{field} is not in {state}");
        }
    }
}

#[test]
fn a_state_says_what_is_known_and_null_for_the_rest() {
    let facts = DeviceFacts {
        power_w: Some(12.5),
        forecasts: [15, 60]
            .map(|horizon_min| {
                let power_w = f64::from(horizon_min);
                ForecastRow::by_smart(DeviceId::new("t"), TimestampMs(0), horizon_min, power_w)
            })
            .to_vec(),
        left_today_wh: Some(100.4),
        problem: Some("silent".into()),
        ..DeviceFacts::default()
    };
    let state: Value = serde_json::from_str(&device_state(&facts)).unwrap();
    assert_eq!(state["power_w"], 12.5);
    assert_eq!(state["forecast_w"], 15.0);
    assert_eq!(state["forecast"]["further"][0]["horizon_min"], 60);
    assert_eq!(state["left_today_wh"], 100.0);
    assert!(state["tomorrow_wh"].is_null() && state["skill"].is_null());
    assert_eq!(
        (&state["problem"], &state["reason"]),
        (&json!("ON"), &json!("silent"))
    );
    let status = Status {
        verdict: Verdict {
            level: Level::Attention,
            text: "x".into(),
            ..Verdict::default()
        },
        ..Status::default()
    };
    let state: Value = serde_json::from_str(&station_state(&status, Some("9.9.9"))).unwrap();
    assert_eq!(
        (&state["health"], &state["verdict"]["text"]),
        (&json!("attention"), &json!("x"))
    );
    assert!(state["last_night"].is_null());
    assert_eq!(state["update"]["latest_version"], "9.9.9");
}
