//! The management interface, over both its ways in: who may do what, every route, and bad input that leaves the intake alone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::Value;

use crate::intake::{now_plus_s, publish};
use crate::support::{Broker, Station, free_port, put_history, wait_for};

const TOKEN: &str = "a-token-of-the-tests-0123456789";

/// What came back.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    fn read(mut stream: impl Read) -> Self {
        let mut bytes = Vec::new();
        // A server that closes on us may do so with a reset; what it said before counts.
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        Self {
            status: status.unwrap_or(0),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {} {}", self.head, self.body))
    }

    /// Expects a problem of this status, and gives its sentence.
    fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}\n{}", self.head, self.body);
        assert!(
            self.head.contains("content-type: application/problem+json"),
            "{}",
            self.head
        );
        let body = self.json();
        assert_eq!(body["status"], status, "{body}");
        assert!(
            body["title"].is_string() && body["type"].is_string(),
            "{body}"
        );
        body["detail"].as_str().unwrap().to_owned()
    }
}

fn request(method: &str, path: &str, host: &str, headers: &[&str]) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for header in headers {
        text += &format!("{header}\r\n");
    }
    text + "\r\n"
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream
}

fn raw(port: u16, text: &str) -> Answer {
    let mut stream = connect(port);
    // What is refused early may be closed before it is all sent.
    let _ = stream.write_all(text.as_bytes());
    Answer::read(stream)
}

/// Over TCP.
pub fn ask(port: u16, method: &str, path: &str, headers: &[&str]) -> Answer {
    raw(
        port,
        &request(method, path, &format!("127.0.0.1:{port}"), headers),
    )
}

/// Over the socket.
fn ask_socket(station: &Station, method: &str, path: &str) -> Answer {
    let mut stream = UnixStream::connect(station.dir.path().join("n.sock")).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let text = request(method, path, "nightwatt", &["content-length: 0"]);
    stream.write_all(text.as_bytes()).unwrap();
    Answer::read(stream)
}

fn bearer() -> String {
    format!("authorization: Bearer {TOKEN}")
}

/// A station with TCP on a port of its own, and the token.
fn listening(url: &str, extra: &str) -> (Station, u16) {
    let port = free_port();
    let station = Station::new(url, extra);
    std::fs::write(station.dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
    station.set(
        "[http]",
        &format!("listen = \"127.0.0.1:{port}\"\ntoken_file = \"token\""),
    );
    (station, port)
}

fn nowhere() -> String {
    format!("mqtt://127.0.0.1:{}", free_port())
}

#[test]
fn over_tcp_reading_is_open_and_changes_take_the_token() {
    let (mut station, port) = listening(&nowhere(), "");
    station.start();
    assert_eq!(ask(port, "GET", "/api/status", &[]).status, 200);
    assert_eq!(ask(port, "HEAD", "/api/status", &[]).body, "");
    let clear = "/api/quarantine/clear";
    let refused = ask(port, "POST", clear, &[]);
    refused.problem(401);
    assert!(
        refused.head.contains("www-authenticate: bearer"),
        "{}",
        refused.head
    );
    ask(
        port,
        "POST",
        clear,
        &["authorization: Bearer wrong-wrong-wrong-wrong"],
    )
    .problem(401);
    ask(port, "DELETE", "/api/ml/runs/1", &[]).problem(401);
    assert_eq!(ask(port, "POST", clear, &[&bearer()]).json()["cleared"], 0);
    assert_eq!(ask_socket(&station, "POST", clear).json()["cleared"], 0);
    ask(port, "DELETE", "/api/ml/runs/1", &[&bearer()]).problem(404);

    // A reload takes a new token and a new port; without a token changes are off and it says how.
    let config = station.dir.path().join("n.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let other = free_port();
    let text = text.replace(&port.to_string(), &other.to_string());
    std::fs::write(&config, text.replace("token_file = \"token\"", "")).unwrap();
    station.signal("-HUP");
    wait_for("the other port", 20, || {
        TcpStream::connect(("127.0.0.1", other)).ok()
    });
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    let how = ask(other, "POST", clear, &[&bearer()]).problem(403);
    assert!(how.contains("token_file"), "{how}");
    assert_eq!(ask(other, "GET", "/api/devices", &[]).status, 200);
    assert!(!station.log().contains(TOKEN), "{}", station.log());
    assert!(!station.status().to_string().contains(TOKEN));
}

#[test]
fn a_token_that_is_none_and_an_address_for_everybody_are_refused() {
    let (station, port) = listening(&nowhere(), "");
    std::fs::write(station.dir.path().join("token"), "short\n").unwrap();
    let out = station.run(&["check-config"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        !out.status.success() && said.contains("16 characters"),
        "{said}"
    );
    let config = station.dir.path().join("n.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let open = text.replace(&format!("127.0.0.1:{port}"), &format!("0.0.0.0:{port}"));
    std::fs::write(&config, open).unwrap();
    let out = station.run(&["check-config"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        !out.status.success() && said.contains("http.listen"),
        "{said}"
    );
}

#[test]
fn pages_of_other_sites_are_sent_away() {
    let (mut station, port) = listening(&nowhere(), "");
    station.set("[http]", "hosts = [\"pv.example.org\"]");
    station.start();
    let to =
        |host: &str, headers: &[&str]| raw(port, &request("GET", "/api/status", host, headers));
    to("evil.example", &[]).problem(421);
    to(&format!("evil.example:{port}"), &[]).problem(421);
    to("127.0.0.1:1", &[]).problem(421);
    to("pv.example.org", &["origin: https://evil.example"]).problem(403);
    to(&format!("localhost:{port}"), &["origin: null"]).problem(403);
    raw(port, "GET /api/status HTTP/1.0\r\n\r\n").problem(421);
    for host in [format!("localhost:{port}"), "pv.example.org".into()] {
        let origin = format!("origin: http://{host}");
        assert_eq!(to(&host, &[]).status, 200, "{host}");
        assert_eq!(to(&host, &[&origin]).status, 200, "{host}");
    }
}

/// Everything wrong with a request that one line can say, and what it is answered with.
const WRONG: &[(&str, &str, u16)] = &[
    ("GET", "/nothing", 404),
    ("GET", "/api", 404),
    ("GET", "/api/status/", 404),
    ("GET", "//api/status", 404),
    ("GET", "/api/../etc/passwd", 404),
    ("GET", "/api/devices/%2e%2e/readings", 404),
    ("GET", "/api/devices/..%2f..%2fetc%2fpasswd/readings", 404),
    ("GET", "/api/devices/nobody/readings", 404),
    ("GET", "/api/devices/%00/readings", 404),
    ("GET", "/api/devices/%ff/readings", 400),
    ("GET", "/api/devices/nobody/forecast", 404),
    ("GET", "/api/devices/x/readings?from=yesterday", 400),
    (
        "GET",
        "/api/devices/x/readings?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
        400,
    ),
    ("GET", "/api/devices/x/readings?step=0", 400),
    (
        "GET",
        "/api/devices/x/readings?step=1s&from=2026-01-01T00:00:00Z",
        400,
    ),
    ("GET", "/api/devices/x/readings?steps=60", 400),
    ("GET", "/api/forecast?format=xml", 400),
    ("GET", "/api/forecast?step=9999999", 400),
    ("GET", "/?horizon=0", 400),
    ("GET", "/?horizon=2881", 400),
    ("GET", "/?horizon=4294967295", 400),
    ("GET", "/api/accuracy?days=0", 400),
    ("GET", "/api/accuracy?days=-1", 400),
    ("GET", "/api/accuracy?days=100000000000000000000", 400),
    ("GET", "/api/events?limit=1001", 400),
    ("GET", "/api/events?skip=99999999999", 400),
    ("GET", "/api/quarantine?limit=many", 400),
    ("GET", "/api/ml/runs/one", 400),
    ("GET", "/api/ml/runs/99", 404),
    ("GET", "/api/ml/runs?outcome=won", 400),
    ("GET", "/api/ml/models/99", 404),
    ("GET", "/api/ml/models/99999999999999999999", 400),
    ("GET", "/api/ml/model/current", 404),
    ("POST", "/api/ml/retrain?mode=twice", 400),
    ("POST", "/api/ml/retrain?days=0", 400),
    ("POST", "/api/ml/retrain?device=nobody", 404),
    ("POST", "/api/ml/retrain?force=perhaps", 400),
    ("POST", "/api/ml/models/99/promote", 409),
    ("POST", "/api/ml/models/rollback", 409),
    ("POST", "/api/status", 405),
    ("DELETE", "/api/status", 405),
    ("OPTIONS", "/api/status", 405),
    ("GET", "/api/ml/retrain", 405),
    ("PUT", "/api/ml/runs/1", 405),
    ("BREW", "/api/status", 405),
    ("GET", "/api/ml/retrain?days=7&background=yes", 405),
    ("DELETE", "/api/ml/runs/0", 404),
];

#[test]
fn bad_input_is_answered_with_a_problem_and_the_intake_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let (mut station, port) = listening(&broker.url(), "");
    station.start();
    station.wait_connected();
    for (method, path, status) in WRONG {
        let answer = ask(port, method, path, &[&bearer()]);
        assert_eq!(answer.status, *status, "{method} {path}: {}", answer.body);
        answer.problem(*status);
        if *status == 405 {
            assert!(
                answer.head.contains("\r\nallow: "),
                "{method} {path}: {}",
                answer.head
            );
        }
    }
    let mebi = 1024 * 1024;
    let huge = format!("content-length: {}", mebi + 1);
    ask(port, "POST", "/api/quarantine/clear", &[&bearer(), &huge]).problem(413);
    ask(port, "GET", "/api/status", &[&huge]).problem(413);
    // A length that is not announced is counted.
    let chunk = format!("{:x}\r\n{}\r\n", 64 * 1024, "x".repeat(64 * 1024));
    let head = [bearer(), "transfer-encoding: chunked".into()];
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let host = format!("127.0.0.1:{port}");
    let text = request("POST", "/api/quarantine/clear", &host, &head) + &chunk.repeat(17);
    raw(port, &text).problem(413);
    // Without the token nobody makes us read it.
    let text = request(
        "POST",
        "/api/quarantine/clear",
        &host,
        &["transfer-encoding: chunked"],
    );
    raw(port, &text).problem(401);
    // What is no HTTP at all.
    for text in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "GET /a b HTTP/1.1\r\n\r\n",
    ] {
        raw(port, text).problem(400);
    }
    raw(port, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").problem(505);
    let long = request("GET", &format!("/{}", "a".repeat(70_000)), &host, &[]);
    raw(port, &long).problem(414);
    raw(
        port,
        &request("GET", "/api/status", &host, &["many: 1"; 150]),
    )
    .problem(431);
    // Also behind a request that could be read.
    let text = format!("GET /api/status HTTP/1.1\r\nhost: {host}\r\n\r\n\0\r\n\r\n");
    let both = raw(port, &text);
    assert_eq!(both.status, 200);
    assert!(
        both.body.contains("application/problem+json"),
        "{}",
        both.body
    );

    publish(&broker, "solar/t/telemetry", false, &[&reading(0)]);
    wait_for("the row", 10, || (station.rows() == 1).then_some(()));
    let found = ask(port, "GET", "/api/devices/t/readings?step=1m", &[]).json();
    assert_eq!(found["points"][0]["power"], 1.0, "{found}");
}

fn reading(second: i64) -> String {
    format!("{{\"ts\":\"{}\",\"power\":1}}", now_plus_s(second))
}

#[test]
fn a_thousand_connections_and_slow_ones_leave_socket_and_intake_alone() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let (mut station, port) = listening(&broker.url(), "");
    station.start();
    station.wait_connected();
    let mut open: Vec<TcpStream> = (0..1000).map(|_| connect(port)).collect();
    // Each of them begins to ask, and stops in the middle of a line.
    for stream in &mut open {
        let _ = stream.write_all(b"GET /api/status HTTP/1.1\r\nhost: 127");
    }
    publish(&broker, "solar/t/telemetry", false, &[&reading(0)]);
    wait_for("the row", 10, || (station.rows() == 1).then_some(()));
    let status = ask_socket(&station, "GET", "/api/status");
    assert_eq!(status.status, 200, "{}", status.body);
    let mut counted = std::collections::BTreeMap::new();
    for stream in open {
        let answer = Answer::read(stream);
        if answer.status != 0 {
            answer.problem(answer.status);
        }
        *counted.entry(answer.status).or_insert(0) += 1;
    }
    // Sixty-four were waited for; the others hear that there is no room (or only the line going dead).
    assert_eq!(counted.get(&408), Some(&64), "{counted:?}");
    assert!(counted.get(&503).is_some_and(|n| *n > 100), "{counted:?}");
    wait_for("room again", 20, || {
        (ask(port, "GET", "/health/live", &[]).status == 200).then_some(())
    });
}

#[test]
fn the_end_does_not_wait_for_open_connections() {
    let (mut station, port) = listening(&nowhere(), "");
    station.start();
    let mut open: Vec<TcpStream> = (0..20).map(|_| connect(port)).collect();
    for stream in &mut open[..10] {
        stream.write_all(b"GET /api/status HTTP/1.1\r\n").unwrap();
    }
    let (end, took) = station.stop();
    assert!(end.success());
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(station.log().contains("stopped"));
}

/// A path of the document with its parameters filled in.
fn filled(path: &str) -> String {
    path.replace("{id}", "1").replace("{version}", "1")
}

#[test]
fn every_route_of_the_document_answers_as_it_says() {
    let (mut station, port) = listening(&nowhere(), "");
    station.start();
    let document = ask(port, "GET", "/api/openapi.json", &[]).json();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 20);
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            let method = method.to_uppercase();
            let answer = ask(port, &method, &filled(path), &[&bearer()]);
            let described = &operation["responses"][answer.status.to_string()];
            assert!(
                described.is_object(),
                "{method} {path}: {} {}",
                answer.status,
                answer.body
            );
            assert!(!answer.body.contains("there is no /"), "{method} {path}");
            // Over TCP, changes are those that the document marks.
            let marked = operation["security"].is_array();
            let without = ask(port, &method, &filled(path), &[]).status;
            assert_eq!(without == 401, marked, "{method} {path}: {without}");
        }
    }
}

#[test]
fn a_run_is_waited_for_or_answered_at_once_and_a_trial_never_goes_live() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let eager = "[training]\nenabled = false\nmin_days = 2\nholdback_days = 2";
    let (mut station, port) = listening(&broker.url(), eager);
    station.start();
    assert!(station.stop().0.success());
    put_history(&station, 2, 8, 300);
    station.start();
    let post = |path: &str| ask(port, "POST", path, &[&bearer()]);

    let trial = post("/api/ml/retrain?device=t01").json();
    assert_eq!(
        (&trial["kind"], &trial["outcome"]),
        (&"trial".into(), &"kept".into()),
        "{trial}"
    );
    assert!(
        trial["reason"].as_str().unwrap().contains("t01 alone"),
        "{trial}"
    );
    ask(port, "GET", "/api/ml/model/current", &[]).problem(404);

    let narrow = post("/api/ml/retrain?days=6").json();
    assert_eq!(
        (&narrow["kind"], &narrow["mode"]),
        (&"training".into(), &"full".into()),
        "{narrow}"
    );
    let (all, six) = (&trial, &narrow);
    assert!(
        six["report"]["horizons"][0]["rows_train"].as_u64() > Some(0),
        "{six}"
    );
    assert!(
        all["report"]["horizons"][0]["rows_train"].as_u64() > Some(0),
        "{all}"
    );
    let caches = std::fs::read_dir(station.dir.path()).unwrap();
    let caches = caches.filter(|f| {
        f.as_ref()
            .unwrap()
            .path()
            .to_string_lossy()
            .contains("cache")
    });
    assert_eq!(caches.count(), 0, "neither left a cache behind");

    let begun = post("/api/ml/retrain?background=true&force=true");
    assert_eq!(begun.status, 202, "{}", begun.body);
    let begun = begun.json();
    assert_eq!(begun["state"], "running", "{begun}");
    let run_id = begun["run_id"].as_i64().unwrap();
    let run = wait_for("the run", 120, || {
        let run = ask(port, "GET", &format!("/api/ml/runs/{run_id}"), &[]).json();
        run["outcome"].is_string().then_some(run)
    });
    assert!(
        ["promoted", "kept"].contains(&run["outcome"].as_str().unwrap()),
        "{run}"
    );
    let model = ask(port, "GET", "/api/ml/model/current", &[]).json();
    assert_eq!(model["state"], "live", "{model}");

    // One that goes on, one that waits, and no third.
    let busy = [0, 1, 2].map(|_| post("/api/ml/retrain?background=true&force=true&mode=full"));
    assert_eq!(busy[0].json()["state"], "running");
    assert!(
        busy[0].json()["estimated_duration_s"].is_number(),
        "{}",
        busy[0].body
    );
    assert!(
        busy[0].json()["estimated_completion"].is_string(),
        "{}",
        busy[0].body
    );
    assert_eq!(
        (busy[1].status, &busy[1].json()["state"]),
        (202, &"queued".into())
    );
    busy[2].problem(409);
    let last = busy[0].json()["run_id"].as_i64().unwrap() + 1;
    wait_for("both runs", 120, || {
        let run = ask(port, "GET", &format!("/api/ml/runs/{last}"), &[]);
        (run.status == 200 && run.json()["outcome"].is_string()).then_some(())
    });
    let runs = ask(
        port,
        "GET",
        "/api/ml/runs?kind=training&limit=2&skip=1",
        &[],
    )
    .json();
    let ids: Vec<_> = runs["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["run_id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids, [last - 1, last - 2], "{runs}");
    assert_eq!(
        ask(port, "DELETE", "/api/ml/runs/1", &[&bearer()]).json()["deleted"],
        1
    );
    ask(port, "GET", "/api/ml/runs/1", &[]).problem(404);
}

#[test]
fn forecasts_come_in_the_shapes_that_evcc_and_emhass_read() {
    let (mut station, port) = listening(&nowhere(), "[training]\nhorizon_min = 180");
    station.start();
    assert!(station.stop().0.success());
    let conn = Connection::open(station.db()).unwrap();
    let quarter = 900_000;
    let begun = chrono::Utc::now().timestamp_millis() / quarter * quarter;
    conn.execute_batch("INSERT INTO device VALUES (1, 'a', 0), (2, 'b', 0)")
        .unwrap();
    for slot in 0..12 {
        for device in [1, 2] {
            let sql = "INSERT INTO forecast (target_ms, device_no, horizon_min, issued_ms, source, power_w,
                           smart_w, naive_w) VALUES (?1, ?2, 180, ?3, 'smart', ?4, 1, 1)";
            let watts = f64::from(slot * device);
            let row = (begun + i64::from(slot) * quarter, device, begun, watts);
            conn.execute(sql, row).unwrap();
        }
    }
    // Left over: of slots that began elsewhere, and of a horizon that is configured no longer.
    for (late_ms, horizon) in [(30_000, 180), (60_000, 15)] {
        let sql =
            "INSERT INTO forecast (target_ms, device_no, horizon_min, issued_ms, source, power_w,
                       smart_w, naive_w) VALUES (?1, 1, ?2, ?3, 'smart', 9999, 1, 1)";
        let row = (begun + 11 * quarter + late_ms, horizon, begun);
        conn.execute(sql, row).unwrap();
    }
    drop(conn);
    station.start();
    let evcc = ask(port, "GET", "/api/forecast?format=evcc", &[]).json();
    // The first may have passed while this was put together.
    let rows = evcc.as_array().unwrap();
    let last = rows.last().unwrap();
    assert!(rows.len() >= 11, "{evcc}");
    assert_eq!(last["value"], 33.0);
    let ms = |key: &str| crate::support::ms(&last[key]);
    assert_eq!(
        (ms("start"), ms("end")),
        (begun + 11 * quarter, begun + 12 * quarter)
    );
    let emhass = ask(
        port,
        "GET",
        "/api/devices/b/forecast?format=emhass&step=15m",
        &[],
    )
    .json();
    let watts = emhass["pv_power_forecast"].as_array().unwrap();
    assert_eq!(watts.last().unwrap(), 22.0, "{emhass}");
    assert_eq!(emhass["prediction_horizon"], watts.len());
    let all = ask(port, "GET", "/api/forecast", &[]).json();
    assert_eq!(all["forecasts"].as_array().unwrap().len(), 2, "{all}");
}

#[test]
fn metrics_are_text_that_prometheus_reads_and_health_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(dir.path(), "");
    let (mut station, port) = listening(&broker.url(), "");
    station.start();
    station.wait_connected();
    publish(
        &broker,
        "solar/t \"1\"/telemetry",
        false,
        &[&reading(0), "{\"power\":\"much\"}"],
    );
    wait_for("the row", 10, || (station.rows() == 1).then_some(()));
    let text = wait_for("the quarantine", 10, || {
        let text = ask(port, "GET", "/metrics", &[]).body;
        text.contains("nightwatt_quarantined_total{reason=")
            .then_some(text)
    });
    for line in [
        "nightwatt_rows_total 1\n",
        "nightwatt_connected 1.0\n",
        "nightwatt_commit_duration_seconds_count ",
        "# UNIT nightwatt_database_bytes bytes\n",
        "nightwatt_device_power_watts{device=\"t \\\"1\\\"\"} 1.0\n",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line:?} in\n{text}");
    }
    let ready = ask(port, "GET", "/health/ready", &[]);
    assert_eq!(ready.status, 200, "{}", ready.body);
    broker.kill();
    let ready = wait_for("the break", 20, || {
        let ready = ask(port, "GET", "/health/ready", &[]);
        (ready.status == 503).then_some(ready)
    });
    assert_eq!(ready.json()["checks"][0]["name"], "intake");
    assert_eq!(ready.json()["checks"][0]["status"], "fail");
    assert_eq!(ask(port, "GET", "/health/live", &[]).status, 200);
    let began = Instant::now();
    assert!(station.stop().0.success(), "{:?}", began.elapsed());
}
