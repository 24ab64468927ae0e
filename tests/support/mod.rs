//! What the tests share: a broker of their own, the daemon as a process, and waiting with a deadline.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

pub const NIGHTWATT: &str = env!("CARGO_BIN_EXE_nightwatt");

/// Polls `condition` until it gives a value; fails with `what` after the deadline.
pub fn wait_for<T>(what: &str, seconds: u64, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {seconds} s for {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A time of an answer in JSON, milliseconds since 1970.
pub fn ms(time: &serde_json::Value) -> i64 {
    let text = time.as_str().unwrap_or_else(|| panic!("{time} is no time"));
    let parsed = chrono::DateTime::parse_from_rfc3339(text);
    parsed
        .unwrap_or_else(|e| panic!("{text}: {e}"))
        .timestamp_millis()
}

/// A port nobody listens on at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A mosquitto of our own on loopback.
pub struct Broker {
    pub port: u16,
    child: Child,
    conf: PathBuf,
}

impl Broker {
    pub fn start(dir: &Path, extra: &str) -> Self {
        let port = free_port();
        let conf = dir.join(format!("mosquitto-{port}.conf"));
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nlog_type error\n{extra}\n"
        );
        std::fs::write(&conf, text).unwrap();
        Self::with_conf(port, conf)
    }

    /// One with a configuration of its own that listens on `port`.
    pub fn with_conf(port: u16, conf: PathBuf) -> Self {
        let child = Self::spawn(&conf);
        let broker = Self { port, child, conf };
        broker.wait_until_listening();
        broker
    }

    fn spawn(conf: &Path) -> Child {
        Command::new("mosquitto")
            .arg("-c")
            .arg(conf)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto must be installed: scripts/test does that")
    }

    fn wait_until_listening(&self) {
        wait_for("mosquitto to listen", 10, || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// An orderly end: what is to be kept is saved.
    pub fn stop(&mut self) {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(asked.unwrap().success());
        self.child.wait().unwrap();
    }

    pub fn restart(&mut self) {
        self.child = Self::spawn(&self.conf);
        self.wait_until_listening();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have been killed by the test already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A station: a folder with a configuration, a store and a socket, and the daemon while it runs.
pub struct Station {
    pub dir: tempfile::TempDir,
    /// The protection taken out of this daemon; empty for none (feature `fault-controls`).
    pub without: &'static str,
    db: PathBuf,
    child: Option<Child>,
}

impl Station {
    /// A station with this `[mqtt] url`; further lines go on in `[mqtt]` or begin other sections.
    pub fn new(url: &str, extra: &str) -> Self {
        Self::storing_in(None, url, extra)
    }

    /// The same with its database in another folder.
    pub fn storing_in(folder: Option<&Path>, url: &str, extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = folder.unwrap_or(dir.path()).join("n.db");
        let text = format!(
            "[store]\npath = \"{}\"\nreserve_mb = 1\n[http]\nsocket = \"n.sock\"\n[mqtt]\nurl = \"{url}\"\n{extra}\n",
            db.display()
        );
        std::fs::write(dir.path().join("n.toml"), text).unwrap();
        Self {
            dir,
            without: "",
            db,
            child: None,
        }
    }

    pub fn db(&self) -> PathBuf {
        self.db.clone()
    }

    /// Adds a line to a section of the configuration.
    pub fn set(&self, section: &str, line: &str) {
        let path = self.dir.path().join("n.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let with = text.replace(section, &format!("{section}\n{line}"));
        std::fs::write(path, with).unwrap();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// `nightwatt <words> -c <our configuration>`, not yet run.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(NIGHTWATT);
        command
            .args(words)
            .arg("-c")
            .arg(self.dir.path().join("n.toml"));
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Starts the daemon; it is up once its socket answers.
    pub fn start(&mut self) {
        self.start_unready();
        self.wait_for_the_socket();
    }

    fn wait_for_the_socket(&mut self) {
        wait_for("the daemon's socket", 20, || {
            assert!(self.exited().is_none(), "the daemon ended:\n{}", self.log());
            std::os::unix::net::UnixStream::connect(self.dir.path().join("n.sock")).ok()
        });
    }

    pub fn start_unready(&mut self) {
        self.start_with(&[]);
    }

    /// Starts the launcher; up once the socket of what it becomes answers.
    pub fn launch(&mut self) {
        self.start_as("launch", &[]);
        self.wait_for_the_socket();
    }

    /// Starts the daemon with these variables in its environment.
    pub fn start_with(&mut self, environment: &[(&str, &str)]) {
        self.start_as("run", environment);
    }

    fn start_as(&mut self, verb: &str, environment: &[(&str, &str)]) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let mut command = self.command(&[verb]);
        command
            .stdout(Stdio::null())
            .stderr(log)
            .envs(environment.iter().copied());
        if !self.without.is_empty() {
            command.env("NIGHTWATT_FAULT", self.without);
        }
        self.child = Some(command.spawn().unwrap());
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon was started").id()
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child
            .as_mut()
            .expect("the daemon was started")
            .try_wait()
            .unwrap()
    }

    pub fn signal(&self, signal: &str) {
        let done = Command::new("kill")
            .args([signal, &self.pid().to_string()])
            .status()
            .unwrap();
        assert!(done.success());
    }

    /// SIGTERM, and how long the end took.
    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        self.signal("-TERM");
        let status = wait_for("the daemon to end", 20, || self.exited());
        self.child = None;
        (status, began.elapsed())
    }

    pub fn kill_9(&mut self) {
        let mut child = self.child.take().expect("the daemon was started");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The status where a daemon answers.
    pub fn try_status(&self) -> Option<serde_json::Value> {
        let out = self.run(&["status", "--json"]);
        serde_json::from_slice(&out.stdout).ok()
    }

    pub fn status(&self) -> serde_json::Value {
        let out = self.run(&["status", "--json"]);
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| {
            panic!(
                "{e}: {}{}",
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr)
            )
        })
    }

    /// One value from the database.
    pub fn query<T: rusqlite::types::FromSql>(&self, sql: &str) -> T {
        self.reader().query_row(sql, [], |r| r.get(0)).unwrap()
    }

    pub fn reader(&self) -> Connection {
        let conn =
            Connection::open_with_flags(self.db(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        conn.busy_timeout(Duration::from_secs(5)).unwrap();
        conn
    }

    pub fn rows(&self) -> i64 {
        self.query("SELECT count(*) FROM reading")
    }

    pub fn wait_connected(&self) {
        wait_for("the broker connection", 20, || {
            self.status()["daemon"]["intake"]["connected"]
                .as_bool()
                .filter(|c| *c)
        });
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the broker keeps of topics that match, by topic.
pub fn retained(broker: &Broker, filter: &str) -> std::collections::BTreeMap<String, String> {
    let out = Command::new("mosquitto_sub")
        .args(["-p", &broker.port.to_string(), "-t", filter])
        .args(["-F", "%t\t%p", "--retained-only", "-W", "1"])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    lines
        .map(|(topic, payload)| (topic.into(), payload.into()))
        .collect()
}

/// Puts readings of `devices` trackers into the store of a station that has none running: so many whole days, the last
/// of them yesterday, one reading every `step_s`. Clouds come from a lot drawn by place, not by date, and lux sees them
/// a quarter of an hour ahead, so that whatever the day and hour of the test a learner beats persistence by far.
pub fn put_history(station: &Station, devices: i64, days: i64, step_s: i64) {
    let mut conn = Connection::open(station.db()).unwrap();
    let writing = conn.transaction().unwrap();
    let (day_ms, step_ms) = (86_400_000, step_s * 1000);
    let now_ms = chrono::Utc::now().timestamp_millis();
    let first_ms = now_ms / day_ms * day_ms - days * day_ms;
    let ahead = (900 / step_s) as usize;
    for device in 1..=devices {
        let id = format!("t{device:02}");
        let device_sql = "INSERT OR IGNORE INTO device VALUES (?1, ?2, 0)";
        writing.execute(device_sql, (device, &id)).unwrap();
        let (mut lot, mut cloud) = (6 + device as u64, 1.0);
        let sky: Vec<f64> = (0..days * day_ms / step_ms + ahead as i64)
            .map(|_| {
                lot = lot.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if lot >> 61 == 0 {
                    cloud = 0.2 + 0.8 * (lot >> 11 & 0xFF) as f64 / 255.0;
                }
                cloud
            })
            .collect();
        for (slot, pair) in sky.windows(ahead + 1).enumerate() {
            let at_ms = first_ms + slot as i64 * step_ms;
            let hour = (at_ms % day_ms) as f64 / 3_600_000.0;
            let light = ((hour - 6.0) / 12.0 * std::f64::consts::PI).sin().max(0.0);
            let reading_sql =
                "INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted, power, lux)
                 VALUES (?1, ?2, 0, 0, 1, ?3, ?4)";
            let values = (
                at_ms,
                device,
                100.0 * light * pair[0],
                90_000.0 * light * pair[ahead],
            );
            writing.execute(reading_sql, values).unwrap();
        }
    }
    writing.commit().unwrap();
}

/// A file of real data, or nothing with a loud word: the data is not ours to hand on.
pub fn data(name: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let folder = std::env::var_os("NIGHTWATT_DATA").map_or(own, PathBuf::from);
    let path = folder.join(name);
    if path.exists() {
        return Some(path);
    }
    // Not eprintln!, which the test runner keeps to itself while tests pass.
    let word = format!(
        "SKIPPED: {name} is not in {} (set NIGHTWATT_DATA)\n",
        folder.display()
    );
    std::io::stderr().write_all(word.as_bytes()).unwrap();
    None
}
