//! What the reading commands print: their width, their JSON against docs/cli.md, and the same answers with and without a daemon.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rusqlite::Connection;
use serde_json::Value;

use crate::intake::publish;
use crate::support::{Broker, Station, free_port, put_history, wait_for};

fn nowhere() -> String {
    format!("mqtt://127.0.0.1:{}", free_port())
}

fn text(station: &Station, words: &[&str]) -> String {
    let out = station.run(words);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{words:?}: {said}");
    String::from_utf8(out.stdout).unwrap()
}

/// What a listing shows on a terminal; what is piped is not cut.
fn on_a_terminal(station: &Station, words: &[&str]) -> String {
    let command = station.command(words);
    let parts = [command.get_program()]
        .into_iter()
        .chain(command.get_args());
    let line: Vec<String> = parts
        .map(|part| format!("'{}'", part.to_str().unwrap()))
        .collect();
    let out = Command::new("script")
        .args(["-qec", &line.join(" "), "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(0), "{words:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap().replace('\r', "")
}

fn json(station: &Station, words: &[&str]) -> Value {
    let mut words = words.to_vec();
    words.push("--json");
    let out = station.run(&words);
    let said = String::from_utf8_lossy(&out.stderr);
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{words:?}: {e}: {said}"))
}

/// A station that has something of everything, with names as long as they may be, and no daemon.
fn station_with_everything() -> Station {
    let mut station = Station::new(
        &nowhere(),
        "[site]\nlatitude = 40.45\nlongitude = -3.73\n\
         timezone = \"America/Argentina/ComodRivadavia\"\n\
         [training]\nhorizon_min = [15, 60]",
    );
    station.start();
    station.stop();
    put_history(&station, 2, 4, 300);
    let conn = Connection::open(station.db()).unwrap();
    let long = "a-device-whose-name-nobody-would-type-".repeat(2);
    conn.execute(
        "UPDATE device SET device_id = ?1 WHERE device_no = 2",
        [&long],
    )
    .unwrap();
    // On the grid of readings every five minutes.
    let now = chrono::Utc::now().timestamp_millis() / 300_000 * 300_000;
    let wide = "w".repeat(200);
    conn.execute_batch(&format!(
        "UPDATE reading SET voltage = 123456.789, current = 98765.4321, temperature = -40.25,
                humidity = 50, servo_angle = 12, fan_on = 1 WHERE device_no = 1;
         INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted, power, lux)
             VALUES ({now} - 60000, 1, {now}, 0, 1, 1, 1);
         INSERT INTO event (at_ms, kind, detail) VALUES ({now}, 'session_lost', '{wide}');
         INSERT INTO quarantine (at_ms, topic, reason, payload)
             VALUES ({now}, '{wide}', 'new_devices_too_fast', CAST('{wide}' AS BLOB));
         INSERT INTO reject_count VALUES ('new_devices_too_fast', 123456789, {now});
         INSERT INTO reject_topic VALUES ('{wide}', 'new_devices_too_fast', 123456789, {now});
         INSERT INTO run (kind, mode, trigger, nominal_ms, started_ms, ended_ms, outcome, reason, report)
             VALUES ('training', 'incremental', 'running_time', {now}, {now} - 5000, {now},
                     'promoted', '{wide}', '{{}}'),
                    ('housekeeping', 'full', 'schedule', {now}, {now} - 5000, {now},
                     'done', 'done', '{{\"database_bytes\": 4096}}');
         INSERT INTO model (state, run_id, created_ms, promoted_ms, reason, metrics, bytes)
             VALUES ('live', 1, {now}, {now}, '{wide}', '{{}}', x'00');
         INSERT INTO model_life (version, from_ms, why) VALUES (1, {now}, '{wide}');
         INSERT INTO alert (kind, subject, level, text, next_step, raised_ms)
             VALUES ('nights_failed', '', 'attention', '{wide}', '{wide}', {now});
         INSERT INTO run (kind, mode, trigger, started_ms, ended_ms, outcome, reason)
             VALUES ('update', 'check', 'manual', {now}, {now}, 'done', 'nothing newer');
         INSERT INTO error_report (stage, level, text, times, first_ms, last_ms)
             VALUES ('intake', 'warn', '{wide}', 3, {now}, {now});"
    ))
    .unwrap();
    for (device, minutes, actual) in [
        (1, -15, "50"),
        (2, -15, "50"),
        (1, 15, "NULL"),
        (2, 15, "NULL"),
        (1, 60, "NULL"),
        (2, 60, "NULL"),
    ] {
        let target = now + minutes * 60_000;
        let horizon = minutes.abs();
        conn.execute_batch(&format!(
            "INSERT INTO forecast (target_ms, device_no, horizon_min, issued_ms, model_version,
                 source, power_w, p10_w, p90_w, smart_w, naive_w, actual_w, settled, ramp_probability)
             VALUES ({target}, {device}, {horizon}, {target} - {horizon} * 60000, 1, 'model',
                 123456.7, 12345.6, 234567.8, 55.5, 44.4, {actual}, 1, 0.5)"
        ))
        .unwrap();
    }
    station
}

/// Every listing there is.
const LISTINGS: &[&[&str]] = &[
    &["devices"],
    &["readings", "t01"],
    &["accuracy"],
    &["accuracy", "--by-device"],
    &["events"],
    &["forecast"],
    &["forecast", "--slots"],
    &["forecast", "--past"],
    &["runs"],
    &["runs", "show", "1"],
    &["models"],
    &["models", "history"],
    &["models", "show", "1"],
    &["quarantine"],
    &["alerts"],
    &["errors"],
    &["update", "history"],
    &["report"],
    &["train", "--dry-run"],
];

fn fits(words: &[&str], shown: &str) {
    for line in shown.lines() {
        assert!(line.chars().count() <= 80, "{words:?}: {line}\n{shown}");
    }
    assert!(!shown.contains('\u{1b}'), "{words:?} writes escape codes");
    assert!(shown.lines().count() > 1, "{words:?}: {shown}");
}

#[test]
fn every_listing_fits_80_columns_with_and_without_a_daemon() {
    let mut station = station_with_everything();
    let alone: Vec<String> = LISTINGS
        .iter()
        .map(|words| on_a_terminal(&station, words))
        .collect();
    for (words, shown) in LISTINGS.iter().zip(&alone) {
        fits(words, shown);
    }
    // Where no daemon runs, `status` says so and ends with 3.
    let out = station.run(&["status"]);
    assert_eq!(out.status.code(), Some(3));
    fits(&["status"], &String::from_utf8(out.stdout).unwrap());
    station.start();
    for (words, alone) in LISTINGS.iter().zip(&alone) {
        let shown = on_a_terminal(&station, words);
        fits(words, &shown);
        if ["devices", "readings", "accuracy", "events"].contains(&words[0]) {
            let head = |text: &str| text.lines().take(2).map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(head(&shown), head(alone), "{words:?}");
        }
    }
    let shown = text(&station, &["status"]);
    fits(&["status"], &shown);
    assert!(shown.lines().count() <= 40, "{shown}");
}

/// `a.b[].c` of every value in it.
fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let at = match at {
                    "" => name.clone(),
                    at => format!("{at}.{name}"),
                };
                found.insert(at.clone());
                paths(value, &at, found);
            }
        }
        Value::Array(values) => {
            for value in values {
                paths(value, &format!("{at}[]"), found);
            }
        }
        _ => {}
    }
}

/// Of docs/cli.md: each command with its documented fields, and whether a field must be there.
fn documented() -> Vec<(String, Vec<(String, bool)>)> {
    let doc = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md");
    let text = std::fs::read_to_string(doc).unwrap();
    let mut commands: Vec<(String, Vec<(String, bool)>)> = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            let command = title.split('`').nth(1).unwrap_or_default();
            commands.push((command.to_owned(), Vec::new()));
        } else if let Some(row) = line.strip_prefix("| `") {
            let (field, meaning) = row.split_once('`').unwrap();
            if let Some((_, fields)) = commands.last_mut() {
                fields.push((field.to_owned(), !meaning.contains("may be absent")));
            }
        }
    }
    commands.retain(|(_, fields)| !fields.is_empty());
    commands
}

#[test]
fn the_documented_fields_are_the_real_ones() {
    let mut station = station_with_everything();
    station.start();
    let commands = documented();
    assert!(commands.len() >= 12, "{commands:?}");
    for (command, fields) in commands {
        let words: Vec<&str> = command.split(' ').skip(1).collect();
        let shown = match words[..] {
            ["forecast", "--format", ..] => serde_json::from_str(&text(&station, &words)).unwrap(),
            _ => json(&station, &words),
        };
        let mut found = BTreeSet::new();
        paths(&shown, "", &mut found);
        // What is below a field that is documented as a whole (`report.*`) is not looked at.
        let whole: Vec<&str> = fields
            .iter()
            .filter_map(|(f, _)| f.strip_suffix(".*"))
            .collect();
        found.retain(|path| {
            !whole.iter().any(|w| {
                path.strip_prefix(w)
                    .is_some_and(|rest| rest.starts_with(['.', '[']))
            })
        });
        let named: BTreeSet<String> = fields
            .iter()
            .map(|(f, _)| f.trim_end_matches(".*").to_owned())
            .collect();
        let unknown: Vec<_> = found.difference(&named).collect();
        assert!(
            unknown.is_empty(),
            "{command}: not in docs/cli.md: {unknown:?}"
        );
        let required = fields.iter().filter(|(_, required)| *required);
        let required: BTreeSet<String> = required
            .map(|(f, _)| f.trim_end_matches(".*").to_owned())
            .collect();
        let missing: Vec<_> = required.difference(&found).collect();
        assert!(
            missing.is_empty(),
            "{command}: only in docs/cli.md: {missing:?}"
        );
    }
}

#[test]
fn a_list_is_the_same_from_the_daemon_and_from_its_database() {
    let mut station = station_with_everything();
    let words: &[&[&str]] = &[
        &["devices"],
        &[
            "readings",
            "t01",
            "--from",
            "2026-01-01T00:00:00Z",
            "--to",
            "2099-01-01T00:00:00Z",
            "--step",
            "30d",
        ],
        &["accuracy", "--days", "3"],
    ];
    let alone: Vec<Value> = words.iter().map(|w| json(&station, w)).collect();
    station.start();
    for (words, alone) in words.iter().zip(alone) {
        assert_eq!(json(&station, words), alone, "{words:?}");
    }
    for wrong in [
        &["readings", "nobody"][..],
        &["readings", "t01", "--step", "soon"],
        &["accuracy", "--days", "0"],
        &["events", "--limit", "0"],
        &["forecast", "nobody"],
    ] {
        let out = station.run(wrong);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{wrong:?}: {said}");
        assert!(said.starts_with("nightwatt: "), "{said}");
        assert!(!said.contains("/api/devices/nobody"), "{said}");
    }
}

#[test]
fn people_see_the_sites_clock_and_may_write_a_date() {
    let mut station = Station::new(&nowhere(), "[site]\ntimezone = \"Europe/Madrid\"");
    station.start();
    station.stop();
    let conn = Connection::open(station.db()).unwrap();
    conn.execute_batch(
        "INSERT INTO device VALUES (1, 't1', 1780268400000);
         INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted, power)
             VALUES (1780268400000, 1, 1780268400000, 0, 1, 7);",
    )
    .unwrap();
    // 2026-05-31T23:00:00Z is one in the morning of the first of June in Madrid.
    let day = [
        "readings",
        "t1",
        "--from",
        "2026-06-01",
        "--to",
        "2026-06-02",
        "--step",
        "1h",
    ];
    let shown = text(&station, &day);
    assert!(shown.starts_with("times of Europe/Madrid\n"), "{shown}");
    assert!(shown.contains("\n2026-06-01 01:00 "), "{shown}");
    let shown = json(&station, &day);
    assert_eq!(shown["from"], "2026-05-31T22:00:00Z");
    assert_eq!(shown["to"], "2026-06-01T22:00:00Z");
    assert_eq!(shown["points"][0]["at"], "2026-05-31T23:00:00Z");
    // The newest reading's age has room, however old it is.
    let shown = text(&station, &["devices"]);
    assert!(
        shown.contains("2026-06-01 01:00") && !shown.contains('…'),
        "{shown}"
    );
    let wrong = station.run(&["readings", "t1", "--from", "yesterday"]);
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(said.contains("2026-11-20"), "{said}");
}

#[test]
fn without_a_daemon_tail_says_so_and_does_not_wait() {
    let mut station = Station::new(&nowhere(), "");
    station.start();
    station.stop();
    let out = station.run(&["tail"]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(
        said.contains("no daemon answers") && said.contains("nightwatt run"),
        "{said}"
    );
    assert!(out.stdout.is_empty());
}

#[test]
fn what_is_said_to_people_is_in_their_words() {
    let mut station = Station::new(&nowhere(), "");
    station.start();
    for wrong in [
        &["readings", "nobody"][..],
        &["forecast", "nobody"],
        &["models", "promote", "99"],
        &["runs", "delete", "99"],
        &["events", "--limit", "0"],
        &["alerts", "acknowledge", "99"],
    ] {
        let out = station.run(wrong);
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(!said.contains("/api"), "{wrong:?}: {said}");
    }
    assert!(!station.log().contains("Some("), "{}", station.log());
    station.stop();
    // A wrong key is named with the file, or the variable, that it stands in.
    let file = station.dir.path().join("n.toml");
    station.set("[http]", "port = 80");
    let out = station.run(&["check-config"]);
    let said = String::from_utf8(out.stderr).unwrap();
    let start = format!(
        "nightwatt: {}: http.port = 80: there is no such key",
        file.display()
    );
    assert!(said.starts_with(&start), "{said}");
    let station = Station::new(&nowhere(), "");
    let mut command = station.command(&["check-config"]);
    let out = command.env("NIGHTWATT_STORE__SIZE", "3").output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(
        said.contains("NIGHTWATT_STORE__SIZE: store.size = 3"),
        "{said}"
    );
}

#[test]
fn tail_shows_readings_as_they_are_stored() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.start();
    station.wait_connected();
    publish(&broker, "solar/t1/telemetry", false, &["{\"power\":1}"]);
    wait_for("the first row", 20, || (station.rows() == 1).then_some(()));
    let mut tail = station
        .command(&["tail", "--json", "--count", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    // It does not say when it looks for the first time: publish until it has shown something.
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.by_ref() {
            let _ = tell.send(line.unwrap());
        }
    });
    let mut power = 10;
    let mut shown = Vec::new();
    wait_for("two lines", 30, || {
        power += 1;
        let at = chrono::Utc::now().to_rfc3339();
        let payload = format!("{{\"power\":{power},\"ts\":\"{at}\"}}");
        publish(&broker, "solar/t1/telemetry", false, &[&payload]);
        shown.extend(told.try_iter());
        (shown.len() >= 2).then_some(())
    });
    let ended = wait_for("the end of tail", 20, || tail.try_wait().unwrap());
    assert!(ended.success());
    let line: Value = serde_json::from_str(&shown[0]).unwrap();
    assert_eq!(line["device"], "t1");
    assert!(line["values"]["power"].as_f64().unwrap() > 10.0, "{line}");
    for time in ["at", "received"] {
        crate::support::ms(&line[time]);
    }
    assert!(shown.iter().collect::<BTreeSet<_>>().len() == shown.len());
    // Nobody of that name.
    assert_eq!(station.run(&["tail", "t9"]).status.code(), Some(1));
}

#[test]
fn a_page_of_the_report_asks_for_nothing_else() {
    let station = station_with_everything();
    let file = station.dir.path().join("report.html");
    text(
        &station,
        &["report", "--days", "7", "--html", file.to_str().unwrap()],
    );
    let page = std::fs::read_to_string(file).unwrap();
    for outside in ["http:", "https:", "src=", "href=", "<script", "url("] {
        assert!(!page.contains(outside), "{outside}: {page}");
    }
    for part in [
        "<svg",
        "Forecasts against persistence",
        "new_devices_too_fast",
        "session_lost",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let report = json(&station, &["report", "--days", "7"]);
    let readings = report["devices"][0]["readings"].as_i64();
    let stored: i64 = station.query("SELECT count(*) FROM reading WHERE device_no = 2");
    assert_eq!(readings, Some(stored));
}

#[test]
fn where_there_is_nothing_nothing_is_made() {
    let station = Station::new(&nowhere(), "");
    for words in [
        &["train"][..],
        &["train", "--dry-run"],
        &["runs", "delete", "1"],
        &["models", "rollback"],
        &["quarantine", "clear"],
        &["devices"],
        &["report"],
        &["tail"],
    ] {
        let out = station.run(words);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.contains("n.db"), "{words:?}: {said}");
        assert!(!station.db().exists(), "{words:?} made a store");
        let lock = station.dir.path().join("n.db.lock");
        assert!(!lock.exists(), "{words:?} made a lock");
    }
    let background = station.run(&["train", "--background"]);
    assert_eq!(background.status.code(), Some(3));
}

#[test]
fn a_command_that_writes_leaves_the_store_closed_in_order() {
    let mut station = Station::new(&nowhere(), "");
    station.start();
    station.stop();
    station.run(&["train", "--force"]);
    station.start();
    assert!(
        !station.log().contains("not stopped in order"),
        "{}",
        station.log()
    );
    // Control: after a kill it is not in order, and a command in between does not hide that.
    station.kill_9();
    station.run(&["train", "--force"]);
    station.start();
    assert!(
        station.log().contains("not stopped in order"),
        "{}",
        station.log()
    );
}

#[test]
fn train_waits_for_the_daemon_or_comes_back_at_once() {
    let mut station = Station::new(&nowhere(), "");
    station.start();
    // There is no reading to learn from, so the run ends soon.
    let out = station.run(&["train", "--force", "--json"]);
    let run: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(0), "{run}");
    assert_eq!(run["outcome"], "skipped");
    assert!(
        run["outcome"].is_string() && run["ended"].is_string(),
        "{run}"
    );
    assert!(out.stderr.is_empty(), "no bar where nobody looks");
    let begun = json(&station, &["train", "--force", "--background"]);
    assert!(
        begun["run_id"].is_i64() || begun["state"] == "queued",
        "{begun}"
    );
    let out = station.run(&["train", "--days", "1"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("days = 1: accepted are"), "{said}");
}

#[test]
fn check_config_names_the_place_and_that_there_is_no_file() {
    let south = "[site]\nlatitude = -7.77\nlongitude = -3.73";
    let shown = text(&Station::new(&nowhere(), south), &["check-config"]);
    assert!(shown.contains("7.77 S, 3.73 W"), "{shown}");
    if !std::path::Path::new("/etc/nightwatt/nightwatt.toml").exists() {
        let out = Command::new(crate::support::NIGHTWATT)
            .arg("check-config")
            .output()
            .unwrap();
        let shown = String::from_utf8(out.stdout).unwrap();
        assert!(shown.contains("  file           none"), "{shown}");
    }
    for words in [&["status"][..], &["check-config"], &["run"], &["devices"]] {
        let out = Command::new(crate::support::NIGHTWATT)
            .args(words)
            .args(["-c", "/nowhere.toml"])
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(2), "{words:?}");
    }
}

#[test]
fn a_filter_that_finds_nothing_does_not_say_that_nothing_was_refused() {
    let station = station_with_everything();
    let shown = text(&station, &["quarantine", "--reason", "bad_luck"]);
    assert!(shown.contains("asked for here"), "{shown}");
}

#[test]
fn simulate_says_that_the_broker_drops_what_it_publishes() {
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("acl");
    std::fs::write(&acl, "topic read #\n").unwrap();
    let rules = format!("user root\nacl_file {}", acl.display());
    let broker = Broker::start(dir.path(), &rules);
    let simulate = |broker: &Broker| {
        let words = ["simulate", "--days", "0.01", "--broker", &broker.url()];
        let out = Command::new(crate::support::NIGHTWATT)
            .args(words)
            .output()
            .unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        (out.status.code(), said)
    };
    let (code, said) = simulate(&broker);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("solar/t01/telemetry") && said.contains("acl_file"),
        "{said}"
    );
    let open = Broker::start(dir.path(), "");
    let (code, said) = simulate(&open);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("15 messages in"), "{said}");
}
