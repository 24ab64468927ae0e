//! Messages that are too large, malformed, too many, of another decade, or old ones kept by the broker.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use nightwatt::config::MqttConfig;
use nightwatt::mqtt::link::{LinkEvent, LinkOptions};

use super::{Harm, check, count, full, harm_at_the_end, random};
use crate::intake::{now_plus_s, numbered, publish};
use crate::support::{Broker, Station, wait_for};

/// Resident memory the daemon may have reached; a debug build's own pages included.
const RESIDENT_MIB: u64 = 64;

#[test]
fn poison_sizes_stop_nothing_in_either_protocol_version() {
    check(
        "20 kB, 300 kB and 20 MB, MQTT 5 and 3.1.1",
        count(1, 5),
        "size_limit",
        |without, _| {
            let mut sum = Harm::default();
            for protocol in ["5", "3.1.1"] {
                let dir = tempfile::tempdir().unwrap();
                let broker = Broker::start(dir.path(), "");
                let mut station =
                    Station::new(&broker.url(), &format!("protocol = \"{protocol}\""));
                station.without = without;
                station.start();
                station.wait_connected();
                let readings = numbered(40);
                let lines: Vec<&str> = readings.iter().map(String::as_str).collect();
                publish(&broker, "solar/t/telemetry", false, &lines[1..20]);
                let large = |beginning: &str, bytes| {
                    publish_large(
                        &broker,
                        &format!("{beginning},\"x\":\"{}\"}}", "x".repeat(bytes)),
                    );
                };
                // The first is large and good: 20 kB is no reason to refuse it.
                large(readings[0].trim_end_matches('}'), 20_000);
                large("{\"power\":1", 300_000);
                large("{\"power\":1", 20_000_000);
                publish(&broker, "solar/t/telemetry", false, &lines[20..]);
                let caught_up = wait_for("the good ones, or long enough", 60, || {
                    let rows = station.rows();
                    let connections = station.status()["daemon"]["intake"]["connections"].as_i64();
                    (rows == 40 || connections > Some(2)).then_some(rows == 40)
                });
                if caught_up {
                    sum.lost += i64::from(station.status()["daemon"]["intake"]["connections"] != 1);
                    let harm = harm_at_the_end(&broker, &station, 40);
                    sum.lost += harm.lost;
                    sum.doubled += harm.doubled;
                } else {
                    sum.lost += 40 - station.rows();
                }
                sum.lost += i64::from(resident_peak_mib(&station) > RESIDENT_MIB);
            }
            sum
        },
    );
}

/// Publishes a message that is too long for a line: mosquitto_pub takes a minute for one of 20 MB.
fn publish_large(broker: &Broker, payload: &str) {
    let port = broker.port.to_string();
    let mut child = Command::new("mosquitto_pub")
        .args(["-p", &port, "-q", "1", "-t", "solar/t/telemetry", "-s"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(payload.as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

/// Publishes retained on many topics, over one connection.
fn retain(broker: &Broker, messages: &[(String, String)]) {
    let mqtt = MqttConfig {
        url: broker.url(),
        client_id: "retains".into(),
        ..MqttConfig::default()
    };
    let (sender, mut link) = LinkOptions::new(&mqtt, "", None).unwrap().open();
    for (topic, payload) in messages {
        assert!(sender.publish_retained(topic, payload.clone()));
    }
    let mut confirmed = 0;
    let deliver = async {
        while confirmed < messages.len() {
            if let LinkEvent::Delivered = link.poll(true).await.unwrap() {
                confirmed += 1;
            }
        }
    };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(deliver);
}

fn resident_peak_mib(station: &Station) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", station.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

/// A publisher that is fed as time goes on.
struct Stream(Child, ChildStdin);

impl Stream {
    fn start(broker: &Broker, topic: &str) -> Self {
        let mut child = Command::new("mosquitto_pub")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &broker.port.to_string(),
                "-q",
                "1",
                "-t",
                topic,
                "-l",
            ])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        Self(child, stdin)
    }

    fn end(mut self) {
        drop(self.1);
        assert!(self.0.wait().unwrap().success());
    }
}

/// Broken in every way JSON can be, with a pinch of chance.
fn malformed(state: &mut u64) -> String {
    let good = numbered(1).remove(0);
    match random(state, 12) {
        0 => good[..random(state, good.len() as u64) as usize].to_owned() + " ",
        1 => "{\"power\":0x10}".into(),
        2 => "{\"power\":1e400}".into(),
        3 => "[".repeat(random(state, 4000) as usize + 1),
        4 => format!("{}1{}", "{\"a\":".repeat(500), "}".repeat(500)),
        5 => "{\"ts\":\"yesterday\",\"power\":1}".into(),
        6 => "{\"power\":{\"w\":1}}".into(),
        7 => format!("[{}]", vec!["1"; 2000].join(",")),
        8 => "null".into(),
        9 => "{\"power\":\"\u{1}\u{fffd}\"}".into(),
        10 => "{\"ts\":true,\"power\":1}".into(),
        _ => (0..random(state, 200) + 1)
            .map(|_| char::from(33 + random(state, 90) as u8))
            .collect(),
    }
}

/// 10,000 messages a second, all malformed but one in a hundred.
#[test]
fn a_malformed_flood_is_kept_aside_and_memory_stays_bounded() {
    let seconds = count(2, 60);
    check(
        "malformed flood at 10,000/s, seconds",
        seconds,
        "rejects_acknowledged",
        |without, seed| {
            if seed % 1000 != 0 {
                return Harm::default();
            }
            let dir = tempfile::tempdir().unwrap();
            let broker = Broker::start(dir.path(), "");
            let mut station = Station::new(&broker.url(), "");
            station.without = without;
            station.start();
            station.wait_connected();
            let mut random_state = 1;
            let corpus: Vec<String> = (0..1000)
                .map(|_| malformed(&mut random_state).replace(['\n', '\r'], " "))
                // Nothing at all is absence and no fault.
                .filter(|text| !text.trim().is_empty() && text != "null")
                .collect();
            // The control stays below the receive window: with that many unacknowledged the broker would send
            // nothing more, the last reading neither, and there would be nothing to count.
            let pieces = if without.is_empty() { seconds * 100 } else { 1 };
            let good = numbered(i64::from(pieces));
            let mut stream = Stream::start(&broker, "solar/t/telemetry");
            let began = Instant::now();
            for (i, reading) in good.iter().enumerate() {
                for k in 0..99 {
                    writeln!(stream.1, "{}", corpus[(i * 99 + k) % corpus.len()]).unwrap();
                }
                writeln!(stream.1, "{reading}").unwrap();
                // 100 messages every 10 ms.
                let due = began + Duration::from_millis(10) * (i as u32 + 1);
                std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
            }
            stream.end();
            let mut harm = harm_at_the_end(&broker, &station, good.len() as i64);
            let rejects = station.status()["daemon"]["rejects"].as_i64().unwrap();
            let kept: i64 = station.query("SELECT count(*) FROM quarantine");
            harm.lost += (good.len() as i64 * 99 - rejects).abs();
            harm.lost += i64::from(kept > 1000);
            harm.lost += i64::from(resident_peak_mib(&station) > RESIDENT_MIB);
            // Acknowledged: the broker has nothing left to send again.
            station.stop();
            station.start();
            station.wait_connected();
            super::wait_for_the_end(&broker, &station);
            harm.lost += station.status()["daemon"]["rejects"].as_i64().unwrap();
            harm
        },
    );
}

/// Good messages as fast as the broker takes them, many devices: the queue holds back and loses none.
#[test]
fn a_flood_of_good_messages_is_held_back_and_stored() {
    check(
        "flood of good messages, flat out",
        count(1, 3),
        "back_pressure",
        |without, _| {
            let messages = if full() { 100_000 } else { 20_000 };
            let dir = tempfile::tempdir().unwrap();
            let broker = Broker::start(dir.path(), "");
            let mut station = Station::new(&broker.url(), "");
            station.without = without;
            station.start();
            station.wait_connected();
            // A backlog: mosquitto sends it without regard to any window.
            station.signal("-STOP");
            let readings = numbered(messages);
            let lines: Vec<&str> = readings.iter().map(String::as_str).collect();
            for part in lines.chunks(50_000) {
                publish(&broker, "solar/t/telemetry", false, part);
            }
            station.signal("-CONT");
            let mut harm = harm_at_the_end(&broker, &station, messages);
            harm.lost += i64::from(resident_peak_mib(&station) > RESIDENT_MIB);
            harm.lost += i64::from(station.log().contains("queue full"));
            // Acknowledged, all of them: the next start has nothing to take again.
            station.stop();
            station.start();
            station.wait_connected();
            super::wait_for_the_end(&broker, &station);
            harm.doubled += (station.status()["daemon"]["received"].as_i64().unwrap() - 1).max(0);
            harm
        },
    );
}

/// A device that believes it is 1970, or ten years ahead: stored once each, under the time of receipt,
/// flagged, and not learnt from. The control believes 1970.
#[test]
fn absurd_device_clocks_are_flagged_and_the_time_of_receipt_is_used() {
    let scenario = |without: &'static str, _| {
        let believe = if without.is_empty() {
            ""
        } else {
            "max_age_days = 36500"
        };
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::start(dir.path(), "");
        let mut station = Station::new(&broker.url(), believe);
        station.start();
        station.wait_connected();
        let ten_years = now_plus_s(10 * 365 * 86_400);
        let lines: Vec<String> = ["1970-01-01T00:00:07Z", &ten_years, &now_plus_s(0)]
            .iter()
            .enumerate()
            .map(|(i, ts)| format!("{{\"ts\":\"{ts}\",\"power\":{i}}}"))
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        publish(&broker, "solar/t/telemetry", false, &lines);
        let harm = harm_at_the_end(&broker, &station, 3);
        let year = "cast(strftime('%Y', ts_ms / 1000, 'unixepoch') AS integer)";
        let now = "cast(strftime('%Y', 'now') AS integer)";
        let absurd: i64 = station.query(&format!(
            "SELECT count(*) FROM telemetry WHERE abs({year} - {now}) > 1"
        ));
        let flagged = station.status()["daemon"]["doubtful_times"]
            .as_i64()
            .unwrap();
        Harm {
            lost: harm.lost + absurd + (2 - flagged).abs(),
            ..harm
        }
    };
    check(
        "device clocks at 1970 and +10 years",
        count(1, 5),
        "max_age_days",
        scenario,
    );
}

/// Retained values come again with every subscription; they are no new readings.
#[test]
fn retained_values_replayed_at_each_start_add_no_row() {
    check(
        "retained replay, restarts",
        count(2, 20),
        "retained_rule",
        |without, _| {
            let topics = if full() { 1000 } else { 50 };
            let dir = tempfile::tempdir().unwrap();
            let broker = Broker::start(dir.path(), "");
            let timed = numbered(1).remove(0);
            // Half of them with a time of their own: one row each, however often they come.
            let payloads = [timed.as_str(), "{\"power\":0}"];
            let messages: Vec<(String, String)> = (0..topics)
                .map(|i| (format!("solar/r{i}/telemetry"), payloads[i % 2].to_owned()))
                .collect();
            retain(&broker, &messages);
            let mut station = Station::new(&broker.url(), "");
            // Every topic is a device, and they all come at once.
            station.set("[store]", "max_devices = 2000");
            station.set("[store]", "new_devices_per_min = 2000");
            station.without = without;
            for _ in 0..3 {
                station.start();
                station.wait_connected();
                super::wait_for_the_end(&broker, &station);
                station.stop();
            }
            let rows: i64 =
                station.query("SELECT count(*) FROM telemetry WHERE device_id <> 'end'");
            let timed_rows = topics as i64 / 2;
            Harm {
                lost: (timed_rows - rows).max(0),
                doubled: (rows - timed_rows).max(0),
            }
        },
    );
}
