//! Devices of many kinds at once, through a real broker into exact rows; and what `topics` makes of them.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use crate::intake::publish;
use crate::support::{Broker, Station, wait_for};

const RULES: &str = r#"
[[mqtt.topics]]
filter = "solar/+/telemetry"

[[mqtt.topics]]
filter = "solar/+/batch"
preset = "batch"

[[mqtt.topics]]
filter = "tele/+/SENSOR"
preset = "tasmota"
timezone = "Asia/Tokyo"
fields = { power = { key = "ENERGY.kW", unit = "kW" } }

[[mqtt.topics]]
filter = "+/sensor/+/state"
preset = "esphome"
fields = { power = "panel_power", lux = { key = "adc", scale = 0.5 } }

[[mqtt.topics]]
filter = "dtu/+/#"
preset = "opendtu"

[[mqtt.topics]]
filter = "N/+/+/+/#"
preset = "victron"

[[mqtt.topics]]
filter = "zigbee2mqtt/+"
preset = "zigbee2mqtt"

[[mqtt.topics]]
filter = "+/events/rpc"
preset = "shelly"
"#;

/// A whole second lately, so that every preset's spelling of it is exact.
fn lately() -> chrono::DateTime<chrono::Utc> {
    let now = chrono::Utc::now().timestamp() - 3600;
    chrono::DateTime::from_timestamp(now, 0).unwrap()
}

/// What is published: topic and payload; every message is of the moment `at`, where it says one.
fn messages(at: chrono::DateTime<chrono::Utc>) -> Vec<(&'static str, String)> {
    let s = at.timestamp();
    let tokyo = (at + chrono::Duration::hours(9)).format("%Y-%m-%dT%H:%M:%S");
    let iso = at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    vec![
        (
            "solar/f/telemetry",
            format!(
                "{{\"ts\":\"{iso}\",\"power\":0.1,\"lux\":\"1,5\",\"fan_on\":\"ON\",\"humidity\":\"nan\"}}"
            ),
        ),
        ("solar/f/telemetry", "{\"power\":\"unavailable\"}".into()),
        (
            "solar/b/batch",
            format!(
                "{{\"readings\":[{{\"ts\":{s},\"power\":1}},{{\"ts\":{},\"power\":2}},{{\"ts\":{s},\"power\":\"x\"}}]}}",
                s + 1
            ),
        ),
        (
            "tele/tas/SENSOR",
            format!(
                "{{\"Time\":\"{tokyo}\",\"ENERGY\":{{\"kW\":0.25,\"Voltage\":231}},\"BH1750\":{{\"Illuminance\":7}}}}"
            ),
        ),
        ("esp/sensor/panel_power/state", "288.2".into()),
        ("esp/sensor/adc/state", "1023".into()),
        ("esp/sensor/wifi/state", "-61".into()),
        ("dtu/116180001234/status/last_update", s.to_string()),
        ("dtu/116180001234/status/limit_absolute", "600".into()),
        ("dtu/116180001234/0/power", "300.5".into()),
        ("dtu/116180001234/1/voltage", "36.9".into()),
        ("N/p/pvinverter/20/Ac/Power", "{\"value\": 288}".into()),
        (
            "N/p/pvinverter/20/Ac/L1/Voltage",
            "{\"value\": null}".into(),
        ),
        (
            "zigbee2mqtt/zig",
            format!(
                "{{\"illuminance\":48210,\"voltage\":3000,\"linkquality\":9,\"last_seen\":{s}000}}"
            ),
        ),
        (
            "zigbee2mqtt/lamp",
            "{\"state\":\"ON\",\"linkquality\":9}".into(),
        ),
        (
            "shelly/events/rpc",
            format!(
                "{{\"method\":\"NotifyStatus\",\"params\":{{\"ts\":{s}.5,\"switch:0\":{{\"apower\":5.5}}}}}}"
            ),
        ),
    ]
}

#[test]
fn devices_of_many_kinds_are_stored_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), RULES);
    let out = station.run(&["check-config"]);
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(
        said.contains("solar/+/telemetry (flat)") && said.contains("dtu/+/# (opendtu)"),
        "{said}"
    );
    let at = lately();
    publish(&broker, "ret/sensor/panel_power/state", true, &["1"]);
    publish(
        &broker,
        "dtu/old/status/last_update",
        true,
        &[&at.timestamp().to_string()],
    );
    station.start();
    station.wait_connected();
    let messages = messages(at);
    for (topic, payload) in &messages {
        publish(&broker, topic, false, &[payload]);
    }
    publish(&broker, "dtu/old/0/power", false, &["1"]);
    let end = "{\"ts\":".to_owned() + &at.timestamp().to_string() + ",\"power\":0}";
    publish(&broker, "solar/z/telemetry", false, &[&end]);
    wait_for("the last message's row", 20, || {
        (station.query::<i64>("SELECT count(*) FROM telemetry WHERE device_id = 'z'") == 1)
            .then_some(())
    });
    let conn = station.reader();
    // Rows by minute of receipt may be two where the minute ended in between; their fields are not.
    let mut select = conn
        .prepare(
            "SELECT device_id, CASE WHEN time_source = 0 THEN ts_ms END AS at, max(lux), max(voltage), max(current),
                    max(power), max(fan_on), max(humidity)
             FROM reading JOIN device USING (device_no) GROUP BY device_id, at ORDER BY device_id, at",
        )
        .unwrap();
    type Row = (String, Option<i64>, Vec<Option<f64>>);
    let rows: Vec<Row> = select
        .query_map([], |r| {
            let values = (2..8).map(|i| r.get(i)).collect::<Result<_, _>>()?;
            Ok((r.get(0)?, r.get(1)?, values))
        })
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let ms = at.timestamp_millis();
    let row = |device: &str, at: Option<i64>, lux, voltage, power, fan| -> Row {
        (
            device.into(),
            at,
            vec![lux, voltage, None, power, fan, None],
        )
    };
    let expected = vec![
        row(
            "116180001234",
            Some(ms),
            None,
            Some(36.9),
            Some(300.5),
            None,
        ),
        row("b", Some(ms), None, None, Some(1.0), None),
        row("b", Some(ms + 1000), None, None, Some(2.0), None),
        row("esp", None, Some(511.5), None, Some(288.2), None),
        row("f", Some(ms), Some(1.5), None, Some(0.1), Some(1.0)),
        row("pvinverter-20", None, None, None, Some(288.0), None),
        row("shelly", Some(ms + 500), None, None, Some(5.5), None),
        row("tas", Some(ms), Some(7.0), Some(231.0), Some(250.0), None),
        row("z", Some(ms), None, None, Some(0.0), None),
        row("zig", Some(ms), Some(48210.0), None, None, None),
    ];
    assert_eq!(rows, expected);
    let rejects: Vec<(String, String)> = conn
        .prepare("SELECT topic, reason FROM quarantine ORDER BY id")
        .unwrap()
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let reject = |topic: &str, reason: &str| (topic.to_owned(), reason.to_owned());
    assert_eq!(
        rejects,
        [
            reject("solar/b/batch", "bad_value"),
            reject("dtu/old/0/power", "no_time")
        ]
    );
    // All of them, also those with nothing new, are acknowledged: a restart brings none back.
    station.stop();
    let before = station.rows();
    station.start();
    station.wait_connected();
    publish(&broker, "solar/zz/telemetry", false, &[&end]);
    wait_for("a new row", 20, || {
        (station.rows() == before + 1).then_some(())
    });
    assert_eq!(station.status()["daemon"]["rejects"], 0);
}

#[test]
fn topics_proposes_rules_that_read_what_it_heard() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let station = Station::new(&broker.url(), "");
    // Retained, so that it hears them whenever it comes.
    for (topic, payload) in messages(lately()) {
        publish(&broker, topic, true, &[&payload]);
    }
    publish(&broker, "door", true, &["open"]);
    let out = station.run(&["topics", "--seconds", "4", "--json"]);
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let heard: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let presets: Vec<_> = heard["patterns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["filter"].as_str().unwrap(), p["preset"].as_str().unwrap()))
        .collect();
    assert_eq!(
        presets,
        [
            ("+/events/rpc", "shelly"),
            ("+/sensor/+/state", "esphome"),
            ("N/+/+/+/#", "victron"),
            ("dtu/+/#", "opendtu"),
            ("solar/+/batch", "batch"),
            ("tele/+/SENSOR", "tasmota"),
            ("zigbee2mqtt/+", "zigbee2mqtt"),
        ],
        "{heard:#}"
    );
    assert_eq!(heard["unrecognised"][0]["topic"], "door");
    // Pasted, the rules are a configuration.
    let pasted = Station::new(&broker.url(), heard["rules"].as_str().unwrap());
    let out = pasted.run(&["check-config"]);
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    // It publishes nothing and leaves nothing behind: the broker still holds what it held.
    let again = station.run(&["topics", "--seconds", "4", "--json", "--filter", "door"]);
    let heard: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(heard["messages"], 1);
}

#[test]
fn topics_fills_in_the_sites_zone_where_times_carry_none() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let at = lately();
    let iso = at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let tokyo = (at + chrono::Duration::hours(9)).format("%Y-%m-%dT%H:%M:%S");
    let station = Station::new(&broker.url(), "[site]\ntimezone = \"Asia/Tokyo\"");
    for (topic, payload) in [
        (
            "tele/shed/SENSOR",
            format!("{{\"Time\":\"{tokyo}\",\"ENERGY\":{{\"Power\":5}}}}"),
        ),
        (
            "solar/t/telemetry",
            format!("{{\"ts\":\"{iso}\",\"power\":5}}"),
        ),
    ] {
        publish(&broker, topic, true, &[&payload]);
    }
    let out = station.run(&["topics", "--seconds", "3", "--json"]);
    let heard: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let rules = heard["rules"].as_str().unwrap();
    assert_eq!(
        rules.matches("\ntimezone = \"Asia/Tokyo\"").count(),
        1,
        "{rules}"
    );
    let readings: Vec<String> = heard["patterns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["readings"][0].to_string())
        .collect();
    assert!(readings.iter().all(|r| r.contains(&iso)), "{readings:?}");
    let pasted = Station::new(&broker.url(), rules);
    assert!(pasted.run(&["check-config"]).status.success(), "{rules}");
}

#[test]
fn check_config_says_where_only_the_payload_can_name_the_device() {
    let rules = "[[mqtt.topics]]\nfilter = \"roof/state\"\n\
                 [[mqtt.topics]]\nfilter = \"a/+\"\n\
                 [[mqtt.topics]]\nfilter = \"b/c\"\ndevice = \"c\"";
    let station = Station::new("mqtt://127.0.0.1", rules);
    let out = station.run(&["check-config"]);
    let said = String::from_utf8(out.stdout).unwrap();
    let part = "roof/state (flat): refuses what does not name its device as device_id or device";
    assert!(said.contains(part), "{said}");
    assert_eq!(said.matches("does not name").count(), 1, "{said}");
}

#[test]
fn what_two_rules_match_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let rules = "[[mqtt.topics]]\nfilter = \"ov/+/telemetry\"\n\
                 [[mqtt.topics]]\nfilter = \"ov/+/#\"\npreset = \"opendtu\"\n\
                 [[mqtt.topics]]\nfilter = \"+/t/end\"";
    let mut station = Station::new(&broker.url(), rules);
    let out = station.run(&["check-config"]);
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(said.contains("ov/+/# and +/t/end share topics"), "{said}");
    assert_eq!(said.matches("share topics").count(), 1, "{said}");
    station.start();
    station.wait_connected();
    // Stored under the moment of receipt: twice would be two rows.
    publish(
        &broker,
        "ov/t/telemetry",
        false,
        &["{\"ts\":1,\"power\":5}"],
    );
    publish(&broker, "ov/t/telemetry", false, &["broken"]);
    let end = format!("{{\"ts\":{},\"power\":0}}", lately().timestamp());
    publish(&broker, "x/t/end", false, &[&end]);
    wait_for("the last message's row", 20, || {
        let last = "SELECT count(*) FROM telemetry WHERE power = 0";
        (station.query::<i64>(last) == 1).then_some(())
    });
    assert_eq!(station.rows(), 2);
    let status = station.status();
    let daemon = &status["daemon"];
    assert_eq!(
        (&daemon["received"], &daemon["rejects"]),
        (&3.into(), &1.into()),
        "{daemon}"
    );
}

#[test]
fn topics_ends_early_and_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(dir.path(), "");
    let station = Station::new(&broker.url(), "");
    let mut child = station
        .command(&["topics", "--seconds", "3600"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.starts_with("listening to #"), "{line}");
    let pid = child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let status = wait_for("topics to end", 20, || child.try_wait().unwrap());
    let mut out = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .unwrap();
    assert!(
        status.success() && out.contains("0 messages on 0 topics"),
        "{out}"
    );

    assert_eq!(
        station.run(&["topics", "--filter", "a/#/b"]).status.code(),
        Some(2)
    );
    let out = station.run(&["topics", "--presets"]);
    assert!(String::from_utf8(out.stdout).unwrap().contains("[tasmota]"));
    broker.kill();
    let out = station.run(&["topics"]);
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains(&broker.url()), "{said}");
}
