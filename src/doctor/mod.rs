//! What may be wrong with a station before or while it runs: facts in, one finding a check out.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use crate::clock::{self, Standing};
use crate::config::{Config, Protocol};
use crate::reading::TimestampMs;
use crate::status::wrap;
use crate::words::count;

const TIGHT_BYTES: u64 = 50_000_000;
const LOW_BYTES: u64 = 500_000_000;
const COLUMNS: usize = 80;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// It works, and could be better or could not be looked at.
    Warning,
    /// It does not work or loses data.
    Problem,
}

/// What one check came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: a stable word.
    pub check: &'static str,
    /// How it is.
    pub grade: Grade,
    /// The sentence.
    pub text: String,
    /// What to do.
    pub advice: Option<String>,
}

/// What the broker answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broker {
    /// Nobody asked it: where it is stands in a configuration that is not valid.
    Unasked,
    /// No connection.
    Unreachable(String),
    /// User, password or client id is not welcome.
    Refused(String),
    /// It speaks MQTT 3.1.1 and was asked for MQTT 5.
    OnlyV311,
    /// It let us in.
    Answered {
        /// A session was there again after a disconnect.
        keeps_sessions: bool,
        /// Filters it refused at QoS 1; none where it did not answer.
        refused_filters: Option<usize>,
        /// A message arrived while we listened.
        heard: bool,
        /// What it says of itself.
        told: Told,
    },
}

/// What a broker publishes about itself below `$SYS/broker`, as far as it does and lets us see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Name and version.
    pub version: Option<String>,
    /// Messages it has dropped since its start, because too many waited for some client.
    pub dropped: Option<u64>,
}

/// Whether we may write somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// We may.
    Writable,
    /// We may not.
    Denied,
    /// It is not there.
    Missing,
}

/// The database as a reader finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// Not made yet.
    Absent,
    /// It can be read.
    Sound {
        /// How many devices are in it.
        devices: i64,
    },
    /// It cannot.
    Unreadable(String),
}

/// The file system under the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Free for us, bytes.
    pub free_bytes: u64,
    /// Its type as the kernel calls it.
    pub kind: Option<String>,
    /// Mounted read-only.
    pub read_only: bool,
}

/// Everything the checks look at.
#[derive(Clone, Debug)]
pub struct Env {
    /// The configuration.
    pub config: Config,
    /// What the broker answered.
    pub broker: Broker,
    /// The database's folder.
    pub folder: Access,
    /// The database file.
    pub file: Access,
    /// The socket's folder.
    pub socket_folder: Access,
    /// A file with a secret and its mode; no mode where it could not be looked at.
    pub secrets: Vec<(PathBuf, Option<u32>)>,
    /// The file system under the database.
    pub disk: Option<Disk>,
    /// The wall clock.
    pub now: TimestampMs,
    /// Whether a time service has set it; none where nobody can say.
    pub synchronised: Option<bool>,
    /// The database.
    pub database: Database,
    /// The process that holds the database's lock.
    pub holder: Option<u32>,
    /// A daemon answers on the socket.
    pub daemon_answers: bool,
}

/// Every check, in the order they are shown.
pub const CHECKS: &[fn(&Env) -> Finding] = &[
    configuration,
    broker,
    session,
    subscriptions,
    dropped,
    database_folder,
    socket,
    secrets,
    disk_space,
    file_system,
    clock_set,
    database,
    daemon,
];

/// Runs every check.
pub fn examine(env: &Env) -> Vec<Finding> {
    CHECKS.iter().map(|check| check(env)).collect()
}

/// Runs every check that a configuration which is not valid leaves: the places in it are known.
pub fn examine_places(env: &Env, why: &str) -> Vec<Finding> {
    let advice = "correct it; config/nightwatt.toml is the complete reference";
    let mut findings = examine(env);
    findings.retain(|f| !["configuration", "password"].contains(&f.check));
    findings.insert(0, problem("configuration", why, advice));
    findings
}

fn ok(check: &'static str, text: impl Into<String>) -> Finding {
    Finding {
        check,
        grade: Grade::Ok,
        text: text.into(),
        advice: None,
    }
}

fn warning(check: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding {
        check,
        grade: Grade::Warning,
        text: text.into(),
        advice: Some(advice.into()),
    }
}

/// Something that does not work or loses data.
pub fn problem(check: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding {
        grade: Grade::Problem,
        ..warning(check, text, advice)
    }
}

fn configuration(env: &Env) -> Finding {
    let check = "configuration";
    match env.config.site.site() {
        Some(_) => ok(check, "valid, and knows where the panels stand"),
        None => warning(
            check,
            "valid, but does not say where the panels stand",
            "set [site] latitude and longitude: forecasts then know the sun",
        ),
    }
}

fn broker(env: &Env) -> Finding {
    let check = "broker";
    let url = &env.config.mqtt.url;
    match &env.broker {
        Broker::Unasked => warning(
            check,
            "not looked at: the configuration is not valid",
            "correct that first",
        ),
        Broker::Unreachable(why) => problem(
            check,
            format!("no connection to {url}: {why}"),
            "start the broker, or correct [mqtt] url",
        ),
        Broker::Refused(why) => problem(
            check,
            why,
            "check [mqtt] username and password_file against the broker's password file",
        ),
        Broker::OnlyV311 => problem(
            check,
            format!("{url} does not speak MQTT 5"),
            "set [mqtt] protocol = \"3.1.1\", or install mosquitto 2",
        ),
        Broker::Answered { .. } if env.config.mqtt.protocol == Protocol::V311 => warning(
            check,
            format!("{url} answers; MQTT 3.1.1 as configured"),
            "with protocol = \"5\" the broker holds back what is too large or too much",
        ),
        Broker::Answered { told, .. } => {
            let version = told.version.as_ref().map(|v| format!(" ({v})"));
            let version = version.unwrap_or_default();
            ok(check, format!("{url} answers and speaks MQTT 5{version}"))
        }
    }
}

fn unasked(check: &'static str) -> Finding {
    warning(
        check,
        "not looked at: there is no connection to the broker",
        "mend that first",
    )
}

fn session(env: &Env) -> Finding {
    let check = "session";
    match env.broker {
        Broker::Answered {
            keeps_sessions: true,
            ..
        } => ok(check, "the broker keeps a session while its owner is away"),
        Broker::Answered { .. } => problem(
            check,
            "the broker forgot a session at once: what comes while nightwatt is away is lost",
            "let the broker keep sessions; config/mosquitto.conf is an example",
        ),
        _ => unasked(check),
    }
}

fn subscriptions(env: &Env) -> Finding {
    let check = "subscriptions";
    let rules = env.config.mqtt.topics.len();
    match env.broker {
        Broker::Answered {
            refused_filters: None,
            ..
        } => problem(
            check,
            "the broker did not answer a subscription",
            "look into the broker's log",
        ),
        Broker::Answered {
            refused_filters: Some(refused @ 1..),
            ..
        } => problem(
            check,
            format!("the broker refused {refused} of {rules} topics at QoS 1"),
            "let this user read the topics in [[mqtt.topics]] (mosquitto: acl_file)",
        ),
        Broker::Answered { heard: false, .. } => warning(
            check,
            "granted at QoS 1, but nothing arrived for some seconds",
            "normal with slow devices; else compare their topics with [[mqtt.topics]], and see \
             whether this user may read them: mosquitto grants what its acl_file then keeps back",
        ),
        Broker::Answered { .. } => ok(check, "granted at QoS 1, and messages arrive"),
        _ => unasked(check),
    }
}

fn dropped(env: &Env) -> Finding {
    let check = "dropped";
    let Broker::Answered { told, .. } = &env.broker else {
        return unasked(check);
    };
    match told.dropped {
        None => ok(check, "the broker does not tell this user what it drops"),
        Some(0) => ok(check, "the broker has dropped nothing since its start"),
        Some(messages) => warning(
            check,
            format!(
                "since its start the broker has dropped {messages} messages for one client or another"
            ),
            "where they were for nightwatt while it was away or its disk full, raise max_queued_messages \
             and max_queued_bytes (config/mosquitto.conf)",
        ),
    }
}

fn database_folder(env: &Env) -> Finding {
    let check = "permissions";
    let path = &env.config.store.path;
    let folder = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => std::path::Path::new("this folder"),
        parent => parent.unwrap_or(path),
    };
    let folder = folder.display();
    match (env.folder, env.file) {
        (Access::Writable, Access::Denied) => problem(
            check,
            format!("this user may not write {}", path.display()),
            "run as the user that owns it, or chown it",
        ),
        (Access::Writable, _) => ok(check, format!("{folder} can be written")),
        (Access::Denied, _) => problem(
            check,
            format!("this user may not write into {folder}"),
            "run as nightwatt's user (sudo -u nightwatt nightwatt doctor), or chown it",
        ),
        (Access::Missing, _) => warning(
            check,
            format!("{folder} does not exist yet"),
            "nightwatt run makes it where it may; else create it for nightwatt's user",
        ),
    }
}

fn socket(env: &Env) -> Finding {
    let check = "socket";
    let path = env.config.http.socket.display();
    if env.daemon_answers {
        return ok(check, format!("the daemon answers on {path}"));
    }
    match env.socket_folder {
        Access::Writable => ok(check, format!("{path} can be made")),
        Access::Denied => problem(
            check,
            format!("this user may not make {path}"),
            "set [http] socket to where it may, or run as nightwatt's user",
        ),
        Access::Missing => warning(
            check,
            format!("the folder of {path} does not exist"),
            "systemd makes it (RuntimeDirectory=nightwatt); else create it",
        ),
    }
}

fn secrets(env: &Env) -> Finding {
    let check = "password";
    for (path, mode) in &env.secrets {
        let path = path.display();
        match mode {
            None => {
                return problem(
                    check,
                    format!("{path} cannot be read"),
                    "create it, or correct [mqtt] password_file and client_key_file",
                );
            }
            Some(mode) if mode & 0o004 != 0 => {
                return problem(
                    check,
                    format!("every user of this machine may read {path}"),
                    format!("chmod o= {path}"),
                );
            }
            Some(_) => {}
        }
    }
    let login = env.config.mqtt.username.is_some() || env.config.mqtt.url.contains('@');
    if env.secrets.is_empty() && !login {
        return warning(
            check,
            "nightwatt logs in without a user name",
            "give the broker a password file; config/mosquitto.conf is an example",
        );
    }
    ok(check, "secrets are readable by those who need them only")
}

fn disk_space(env: &Env) -> Finding {
    let check = "disk";
    let Some(disk) = &env.disk else {
        return warning(
            check,
            "the file system could not be looked at",
            "check that the database's folder exists",
        );
    };
    let free = format!("{:.1} GB free", disk.free_bytes as f64 / 1e9);
    if disk.read_only {
        let text = "the file system of the database is mounted read-only";
        return problem(check, text, "dmesg says why; mount it writable again");
    }
    match disk.free_bytes {
        ..TIGHT_BYTES => problem(
            check,
            free,
            "free some space: readings cannot be stored soon",
        ),
        TIGHT_BYTES..LOW_BYTES => warning(check, free, "free some space"),
        _ => ok(check, free),
    }
}

fn file_system(env: &Env) -> Finding {
    let check = "file_system";
    let kind = env.disk.as_ref().and_then(|d| d.kind.as_deref());
    let Some(kind) = kind else {
        return warning(
            check,
            "the type of the file system is unknown",
            "keep the database on a local ext4, xfs, btrfs or f2fs",
        );
    };
    let move_it = "keep the database on a local ext4, xfs, btrfs or f2fs";
    match kind {
        "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "afs" | "ceph" | "fuse.sshfs" => problem(
            check,
            format!("the database is on a network file system ({kind})"),
            move_it,
        ),
        "tmpfs" | "ramfs" => problem(
            check,
            format!("the database is in memory ({kind}): a power cut takes it"),
            move_it,
        ),
        "vfat" | "exfat" | "ntfs" | "ntfs3" | "fuseblk" => warning(
            check,
            format!("{kind} does not survive power cuts well"),
            move_it,
        ),
        _ => ok(check, format!("the database is on {kind}")),
    }
}

fn clock_set(env: &Env) -> Finding {
    let check = "clock";
    let plausible = clock::plausible(env.now);
    let words = Standing::of(plausible, env.synchronised != Some(true)).words();
    if !plausible {
        return problem(
            check,
            format!("the clock says {}: {words}", env.now),
            "set it (timedatectl set-time), or connect a time server",
        );
    }
    match env.synchronised {
        Some(true) => ok(check, format!("{words}: a time service has set it")),
        Some(false) => warning(
            check,
            format!("{words}: no time service has set it"),
            "timedatectl set-ntp true, and allow NTP (UDP 123) out",
        ),
        None => warning(
            check,
            format!("{words}: nobody here can say whether a time service has set it"),
            "install systemd-timesyncd or chrony",
        ),
    }
}

fn database(env: &Env) -> Finding {
    let check = "database";
    match &env.database {
        Database::Absent => ok(check, "not made yet; nightwatt run makes it"),
        Database::Sound { devices } => {
            ok(check, format!("readable; {}", count(*devices, "device")))
        }
        Database::Unreadable(why) => problem(
            check,
            why,
            "stop nightwatt and keep the file aside together with its -wal and -shm",
        ),
    }
}

fn daemon(env: &Env) -> Finding {
    let check = "daemon";
    match (env.holder, env.daemon_answers) {
        (Some(pid), true) => ok(check, format!("running, process {pid} holds the database")),
        (None, true) => ok(check, "running"),
        (None, false) => warning(
            check,
            "not running",
            "systemctl start nightwatt (or: nightwatt run)",
        ),
        (Some(pid), false) => problem(
            check,
            format!("process {pid} holds the database and does not answer on the socket"),
            format!("see what it is (ps {pid}); a second nightwatt cannot start beside it"),
        ),
    }
}

/// The findings for people, at most 80 columns wide but for words that are longer.
pub fn render(findings: &[Finding]) -> String {
    let mut out = String::new();
    for f in findings {
        let grade = match f.grade {
            Grade::Ok => "ok",
            Grade::Warning => "warning",
            Grade::Problem => "PROBLEM",
        };
        sentence(&mut out, &format!("{grade:<8} {:<14} ", f.check), &f.text);
        if let Some(advice) = &f.advice {
            sentence(&mut out, &format!("{:24}", ""), &format!("-> {advice}"));
        }
    }
    let of = |grade| findings.iter().filter(|f| f.grade == grade).count();
    let _ = writeln!(
        out,
        "\n{}, {}",
        count(of(Grade::Problem), "problem"),
        count(of(Grade::Warning), "warning")
    );
    out
}

/// Writes `text` behind `head`, further lines as far in as the first.
fn sentence(out: &mut String, head: &str, text: &str) {
    let inset = head.chars().count();
    for (i, line) in wrap(text, COLUMNS - inset, usize::MAX).iter().enumerate() {
        let _ = writeln!(out, "{:inset$}{line}", if i == 0 { head } else { "" });
    }
}

/// The type of the file system that holds `path` (absolute, without links), from the text of
/// `/proc/self/mountinfo`.
pub fn file_system_of(mountinfo: &str, path: &std::path::Path) -> Option<String> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, rest) = line.split_once(" - ")?;
            let point = mount.split(' ').nth(4)?.replace("\\040", " ");
            let kind = rest.split(' ').next()?;
            path.starts_with(&point).then_some((point.len(), kind))
        })
        // Of two mounts on one point the later covers the earlier.
        .max_by_key(|(length, _)| *length)
        .map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests;
