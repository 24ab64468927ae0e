//! What is proposed for what devices of each kind send.

use super::*;

const NOW: TimestampMs = TimestampMs(1_789_214_430_500);

fn guessed(messages: &[(&str, &str)]) -> Guesses {
    let seen: Vec<Seen> = messages
        .iter()
        .map(|(topic, sample)| Seen {
            topic: (*topic).into(),
            messages: 1,
            sample: (*sample).into(),
        })
        .collect();
    guess(&seen, NOW, Tz::UTC)
}

/// Of messages of one kind: the rule without its header, and the first reading.
fn one(messages: &[(&str, &str)]) -> (String, String) {
    let found = guessed(messages).patterns;
    assert_eq!(found.len(), 1, "{found:?}");
    let rule = found[0].toml.strip_prefix("[[mqtt.topics]]\n").unwrap();
    (rule.to_owned(), describe(&found[0].readings[0]))
}

#[test]
fn each_kind_of_device_is_recognised() {
    for (messages, rule, reading) in [
        (
            &[("solar/t07/telemetry", r#"{"ts":1789214400,"power":288.2}"#)][..],
            "filter = \"solar/+/telemetry\"\npreset = \"flat\"\n",
            "t07 2026-09-12T12:00:00Z power=288.2",
        ),
        (
            &[(
                "trackers/t07",
                r#"{"device":"t07","ts":1789214400123,"angle_deg":37.5,"lux":48210,"v":36.9,"i":7.81,"p":288.2,"temp_c":41.3,"rh":22,"fan":true,"battery_v":3.7}"#,
            )],
            "filter = \"trackers/+\"\npreset = \"flat\"\nfields = { servo_angle = \"angle_deg\", voltage = \"v\", current = \"i\", power = \"p\", temperature = \"temp_c\", humidity = \"rh\", fan_on = \"fan\" }\n",
            "t07 2026-09-12T12:00:00.123Z servo_angle=37.5 lux=48210 voltage=36.9 current=7.81 power=288.2 temperature=41.3 humidity=22 fan_on=1",
        ),
        (
            &[("trackers/t07", r#"{"ts":1789214400,"p":288.2,"lux":NaN}"#)],
            "filter = \"trackers/+\"\npreset = \"flat\"\nfields = { power = \"p\" }\n",
            "t07 2026-09-12T12:00:00Z power=288.2",
        ),
        (
            &[(
                "mytracker",
                r#"{"time":1789214400,"pv":{"power_kw":0.2882}}"#,
            )],
            "filter = \"mytracker\"\npreset = \"flat\"\ndevice = \"mytracker\"\nfields = { power = { key = \"pv.power_kw\", unit = \"kW\" } }\n",
            "mytracker 2026-09-12T12:00:00Z power=288.2",
        ),
        (
            &[(
                "trackers/t07/batch",
                r#"{"device":"t07","log":[{"ts":1789214400,"p":288.2},{"ts":1789214460,"p":290.0}]}"#,
            )],
            "filter = \"trackers/+/batch\"\npreset = \"batch\"\nbatch = \"log\"\nfields = { power = \"p\" }\n",
            "t07 2026-09-12T12:01:00Z power=290",
        ),
        (
            &[(
                "tele/pv_shed/SENSOR",
                r#"{"Time":"2026-09-12T12:00:00","ENERGY":{"Total":412.771,"Power":[288,0],"Voltage":231,"Current":1.247},"BH1750":{"Illuminance":48210}}"#,
            )],
            "filter = \"tele/+/SENSOR\"\npreset = \"tasmota\"\n# Its times carry no zone; without one they are taken as UTC:\n# timezone = \"Europe/Madrid\"\n",
            "pv_shed 2026-09-12T12:00:00Z lux=48210 voltage=231 current=1.247 power=288",
        ),
        (
            &[
                ("tracker-07/status", "online"),
                ("tracker-07/sensor/panel_power/state", "288.2"),
                ("tracker-07/sensor/illuminance/state", "48210"),
                ("tracker-07/sensor/wifi_signal/state", "-61"),
            ],
            "filter = \"+/sensor/+/state\"\npreset = \"esphome\"\nfields = { lux = \"illuminance\", power = \"panel_power\" }\n",
            "tracker-07 2026-09-12T12:00:00Z lux=48210 power=288.2 (minute of receipt)",
        ),
        (
            &[
                ("house/sensor/roof_power/state", "288.2"),
                (
                    "house/sensor/roof_power/last_updated",
                    "2026-09-12T12:00:00+00:00",
                ),
            ],
            "filter = \"house/sensor/+/state\"\npreset = \"statestream\"\nfields = { power = \"roof_power\" }\n",
            "home 2026-09-12T12:00:00Z power=288.2 (minute of receipt)",
        ),
        (
            &[
                ("solar/116180001234/0/power", "288.2"),
                ("solar/116180001234/1/voltage", "36.9"),
                ("solar/116180001234/status/limit_relative", "100"),
                ("solar/116180001234/status/last_update", "1789214400"),
            ],
            "filter = \"solar/+/#\"\npreset = \"opendtu\"\n",
            "116180001234 2026-09-12T12:00:00Z voltage=36.9 power=288.2",
        ),
        (
            &[
                ("N/0011aabbccdd/pvinverter/20/Ac/Power", r#"{"value": 288}"#),
                (
                    "N/0011aabbccdd/system/0/Serial",
                    r#"{"value": "0011aabbccdd"}"#,
                ),
            ],
            "filter = \"N/+/+/+/#\"\npreset = \"victron\"\n",
            "pvinverter-20 2026-09-12T12:00:00Z power=288 (minute of receipt)",
        ),
        (
            &[
                (
                    "zigbee2mqtt/lux7",
                    r#"{"illuminance":48210,"temperature":41.3,"battery":88,"voltage":3000,"linkquality":102,"last_seen":"2026-09-12T14:00:00+02:00"}"#,
                ),
                ("zigbee2mqtt/bridge/state", r#"{"state":"online"}"#),
            ],
            "filter = \"zigbee2mqtt/+\"\npreset = \"zigbee2mqtt\"\n",
            "lux7 2026-09-12T12:00:00Z lux=48210 temperature=41.3",
        ),
        (
            &[(
                "zigbee2mqtt/lux7",
                r#"{"illuminance":48210,"last_seen":"2026-09-12T14:00:00+02:00"}"#,
            )],
            "filter = \"zigbee2mqtt/+\"\npreset = \"zigbee2mqtt\"\n",
            "lux7 2026-09-12T12:00:00Z lux=48210",
        ),
        (
            &[(
                "shellyplus1pm-0a1b2c/events/rpc",
                r#"{"src":"shellyplus1pm-0a1b2c","method":"NotifyStatus","params":{"ts":1789214400.42,"switch:0":{"id":0,"apower":288.2,"current":1.25}}}"#,
            )],
            "filter = \"+/events/rpc\"\npreset = \"shelly\"\n",
            "shellyplus1pm-0a1b2c 2026-09-12T12:00:00.420Z current=1.25 power=288.2",
        ),
        (
            &[(
                "home/shelly1/status/switch:0",
                r#"{"id":0,"output":true,"apower":288.2,"voltage":231.0}"#,
            )],
            "filter = \"home/+/status/+\"\npreset = \"shelly\"\n",
            "shelly1 2026-09-12T12:00:00Z voltage=231 power=288.2 (minute of receipt)",
        ),
        (
            &[("garden/t1/power_kw", "0,5"), ("garden/t1/lux", "7")],
            "filter = \"garden/+/+\"\npreset = \"value\"\nfields = { power = { key = \"power_kw\", unit = \"kW\" } }\n",
            "t1 2026-09-12T12:00:00Z lux=7 power=500 (minute of receipt)",
        ),
    ] {
        assert_eq!(one(messages), (rule.to_owned(), reading.to_owned()));
    }
}

#[test]
fn the_sums_of_an_opendtu_are_no_devices_and_trackers_beside_it_are() {
    let found = guessed(&[
        ("dtu/116180001234/0/power", "288.2"),
        ("dtu/116180001234/status/last_update", "1789214400"),
        ("dtu/116180001234/status/producing", "1"),
        ("dtu/ac/power", "288.2"),
        ("dtu/dc/power", "300.1"),
        ("dtu/dtu/rssi", "-61"),
        ("dtu/t07/telemetry", r#"{"ts":1789214400,"power":1}"#),
        ("garden/t1/power", "5"),
    ]);
    let kinds: Vec<_> = found
        .patterns
        .iter()
        .map(|p| (p.rule.filter.as_str(), p.rule.preset_name()))
        .collect();
    assert_eq!(
        kinds,
        [
            ("dtu/+/#", "opendtu"),
            ("dtu/+/telemetry", "flat"),
            ("garden/+/+", "value")
        ]
    );
}

#[test]
fn kinds_are_kept_apart_and_what_is_nothing_is_said() {
    let found = guessed(&[
        ("solar/t07/telemetry", r#"{"ts":1789214400,"power":1}"#),
        ("solar/t08/telemetry", r#"{"ts":1789214400,"power":2}"#),
        (
            "tele/shed/SENSOR",
            r#"{"Time":"2026-09-12T12:00:00","ENERGY":{"Power":3}}"#,
        ),
        ("tele/shed/LWT", "Online"),
        ("door/front", "open"),
        ("camera/1/jpeg", "\u{0}\u{1}"),
    ]);
    let kinds: Vec<_> = found
        .patterns
        .iter()
        .map(|p| (p.rule.filter.as_str(), p.topics, p.readings.len()))
        .collect();
    assert_eq!(
        kinds,
        [("solar/+/telemetry", 2, 2), ("tele/+/SENSOR", 1, 1)]
    );
    let left: Vec<_> = found
        .unrecognised
        .iter()
        .map(|s| s.topic.as_str())
        .collect();
    assert_eq!(left, ["tele/shed/LWT", "door/front", "camera/1/jpeg"]);
}
