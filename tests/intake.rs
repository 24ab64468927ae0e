//! From a published message to a stored, acknowledged row, through the real daemon and a real broker.

use std::process::Command;

use crate::support::{Broker, NIGHTWATT, Station, data, wait_for};

/// mosquitto_pub -l ends with the acknowledgement of its last packet id, and those begin again after so many lines.
const MOST_LINES: usize = 65_535;

/// Publishes lines through mosquitto_pub, QoS 1, and waits until the broker has them.
pub fn publish(broker: &Broker, topic: &str, retain: bool, payloads: &[&str]) {
    publish_with(broker, &[], topic, retain, payloads);
}

/// [`publish`] with further words for mosquitto_pub.
pub fn publish_with(broker: &Broker, words: &[&str], topic: &str, retain: bool, payloads: &[&str]) {
    use std::io::Write;
    assert!(
        payloads.len() <= MOST_LINES,
        "mosquitto_pub would send a part only"
    );
    let mut command = Command::new("mosquitto_pub");
    command.args(words);
    command.args([
        "-h",
        "127.0.0.1",
        "-p",
        &broker.port.to_string(),
        "-q",
        "1",
        "-t",
        topic,
        "-l",
    ]);
    if retain {
        command.arg("-r");
    }
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for p in payloads {
        writeln!(stdin, "{p}").unwrap();
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

pub fn now_plus_s(seconds: i64) -> String {
    stamp(chrono::Utc::now(), seconds)
}

/// `count` readings, one a second backwards from now, each with its number as its power.
pub fn numbered(count: i64) -> Vec<String> {
    let now = chrono::Utc::now();
    (0..count)
        .map(|i| format!("{{\"ts\":\"{}\",\"power\":{i}}}", stamp(now, -i)))
        .collect()
}

fn stamp(from: chrono::DateTime<chrono::Utc>, seconds: i64) -> String {
    let t = from + chrono::Duration::seconds(seconds);
    t.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[test]
fn both_protocol_versions_store_and_keep_what_comes_while_away() {
    for protocol in ["5", "3.1.1"] {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::start(dir.path(), "");
        let mut station = Station::new(&broker.url(), &format!("protocol = \"{protocol}\""));
        station.start();
        station.wait_connected();
        let at = |s| format!("{{\"ts\":\"{}\",\"power\":{s}}}", now_plus_s(s));
        publish(&broker, "solar/t1/telemetry", false, &[&at(1), &at(2)]);
        wait_for("two rows", 10, || (station.rows() == 2).then_some(()));
        station.stop();
        publish(
            &broker,
            "solar/t1/telemetry",
            false,
            &[&at(3), &at(4), &at(4)],
        );
        station.start();
        wait_for("what was published while away", 10, || {
            (station.rows() == 4).then_some(())
        });
        let status = station.status();
        assert_eq!(status["daemon"]["intake"]["sessions_lost"], 0, "{protocol}");
        wait_for("the repeat", 10, || {
            (station.status()["daemon"]["duplicates"] == 1).then_some(())
        });
    }
}

#[test]
fn malformed_payloads_are_counted_kept_and_do_not_stop_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.start();
    station.wait_connected();
    let good = format!("{{\"ts\":\"{}\",\"power\":5}}", now_plus_s(0));
    publish(
        &broker,
        "solar/t1/telemetry",
        false,
        &[
            "{\"power\":",
            "[1,2]",
            "{\"power\":1e300}",
            "{\"watts\":1}",
            "{\"ts\":\"x\",\"power\":1}",
            &good,
        ],
    );
    wait_for("the good row", 10, || (station.rows() == 1).then_some(()));
    let status = station.status();
    assert_eq!(status["daemon"]["rejects"], 5);
    let reasons: Vec<_> = status["store"]["rejects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["reason"].as_str().unwrap().to_owned())
        .collect();
    for reason in [
        "not_json",
        "not_an_object",
        "bad_value",
        "no_values",
        "bad_time",
    ] {
        assert!(
            reasons.iter().any(|r| r == reason),
            "{reasons:?} lacks {reason}"
        );
    }
    assert_eq!(
        station.query::<i64>("SELECT count(*) FROM quarantine WHERE topic = 'solar/t1/telemetry'"),
        5
    );
    // Acknowledged: a restart brings none of them back.
    station.stop();
    station.start();
    station.wait_connected();
    publish(
        &broker,
        "solar/t1/telemetry",
        false,
        &[&good.replace(":5}", ":6,\"lux\":7}")],
    );
    wait_for("the filled-in field", 10, || {
        station
            .query::<Option<f64>>("SELECT lux FROM telemetry")
            .filter(|l| *l == 7.0)
    });
    assert_eq!(station.status()["daemon"]["rejects"], 0);
}

#[test]
fn a_message_too_large_for_us_does_not_stop_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.start();
    station.wait_connected();
    let large = format!("{{\"power\":1,\"x\":\"{}\"}}", "x".repeat(300_000));
    let twenty_kb = format!(
        "{{\"ts\":\"{}\",\"power\":1,\"x\":\"{}\"}}",
        now_plus_s(1),
        "x".repeat(20_000)
    );
    let good = format!("{{\"ts\":\"{}\",\"power\":5}}", now_plus_s(2));
    publish(
        &broker,
        "solar/t1/telemetry",
        false,
        &[&large, &twenty_kb, &good],
    );
    wait_for("the two good rows", 10, || {
        (station.rows() == 2).then_some(())
    });
    assert_eq!(station.status()["daemon"]["intake"]["connections"], 1);
}

#[test]
fn a_retained_value_is_never_a_new_reading() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    publish(&broker, "solar/old/telemetry", true, &["{\"power\":1}"]);
    let mut station = Station::new(&broker.url(), "");
    station.start();
    station.wait_connected();
    publish(&broker, "solar/new/telemetry", false, &["{\"power\":2}"]);
    wait_for("the live value", 10, || (station.rows() == 1).then_some(()));
    assert_eq!(
        station.query::<String>("SELECT device_id FROM telemetry"),
        "new"
    );
}

/// The broker's session would go on bringing what a rule that was removed has asked for.
#[test]
fn a_topic_whose_rule_is_gone_is_not_sent_any_more() {
    for protocol in ["5", "3.1.1"] {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::start(dir.path(), "");
        let (rule, other) = (
            "[[mqtt.topics]]\nfilter = \"old/+\"\n",
            "[[mqtt.topics]]\nfilter = \"new/+\"\n",
        );
        let lines = format!("protocol = \"{protocol}\"\n{rule}{other}");
        let mut station = Station::new(&broker.url(), &lines);
        station.start();
        station.wait_connected();
        publish(&broker, "old/t", false, &["{\"ts\":1,\"power\":1}"]);
        wait_for("the first row", 10, || (station.rows() == 1).then_some(()));
        station.stop();
        let path = station.dir.path().join("n.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(rule, "")).unwrap();
        station.start();
        station.wait_connected();
        publish(&broker, "old/t", false, &["{\"power\":2}"]);
        publish(&broker, "new/t", false, &["{\"power\":3}"]);
        wait_for("the second row", 10, || (station.rows() == 2).then_some(()));
        let status = station.status();
        assert_eq!(status["daemon"]["received"], 1, "MQTT {protocol}");
        assert_eq!(status["daemon"]["rejects"], 0, "MQTT {protocol}");
    }
}

/// The whole path: UPM days through mosquitto into the daemon; every stored row equals the file's.
#[test]
fn every_replayed_row_is_stored_as_it_stands_in_the_file() {
    let Some(file) = data("upm_madrid_5min.csv.gz") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.start();
    station.wait_connected();
    let out = Command::new(NIGHTWATT)
        .args([
            "replay",
            "--broker",
            &broker.url(),
            "--days",
            "3",
            "--start",
            &now_plus_s(-4 * 86_400),
        ])
        .arg(&file)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let rows: Vec<_> = nightwatt::tidy::TidyReader::open(&file)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let first = rows[0].1;
    let days: Vec<_> = rows
        .into_iter()
        .take_while(|r| r.1.0 < first.0 + 3 * 86_400_000)
        .collect();
    assert!(days.len() > 3000, "{} rows", days.len());
    wait_for("every row", 60, || {
        (station.rows() == days.len() as i64).then_some(())
    });
    let shift: i64 = station.query::<i64>("SELECT min(ts_ms) FROM telemetry") - first.0;
    let conn = station.reader();
    let mut select = conn
        .prepare(
            "SELECT servo_angle, lux, voltage, current, power, temperature, humidity, fan_on
             FROM telemetry WHERE device_id = ?1 AND ts_ms = ?2",
        )
        .unwrap();
    for (device, ts, values) in &days {
        let stored: Vec<Option<f64>> = select
            .query_row((device.as_str(), ts.0 + shift), |r| {
                (0..8).map(|i| r.get(i)).collect()
            })
            .unwrap();
        let wanted: Vec<Option<f64>> = nightwatt::reading::Field::ALL
            .into_iter()
            .map(|f| values.get(f))
            .collect();
        assert_eq!(stored, wanted, "{device} {ts}");
    }
}
