//! The checks: each turns the facts into one finding.

use super::{Access, Broker, Database, Env, Finding, Grade};
use crate::clock::{self, Standing};
use crate::config::Protocol;
use crate::store::space::{DiskLevel, Reserve};
use crate::words::count;

const TIGHT_BYTES: u64 = 50_000_000;
const LOW_BYTES: u64 = 500_000_000;

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
    let free = match disk.room_bytes {
        room @ ..1_000_000_000 => format!("{:.1} MB free", room as f64 / 1e6),
        room => format!("{:.1} GB free", room as f64 / 1e9),
    };
    if disk.read_only {
        let text = "the file system of the database is mounted read-only";
        return problem(check, text, "dmesg says why; mount it writable again");
    }
    // A level ends a quarter above its mark: this is the worst that the daemon may be at.
    let config = &env.config;
    let marks =
        Reserve::beside(&config.store.path, config.reserve_bytes()).marks(config.low_disk_bytes());
    match DiskLevel::Full.next(disk.room_bytes, false, marks) {
        DiskLevel::Full => problem(
            check,
            free,
            "free some space: nothing is stored until there is room",
        ),
        _ if disk.room_bytes < TIGHT_BYTES => problem(
            check,
            free,
            "free some space: readings cannot be stored soon",
        ),
        DiskLevel::Low => warning(check, free, "free some space: old readings go early"),
        DiskLevel::Normal if disk.room_bytes < LOW_BYTES => warning(check, free, "free some space"),
        DiskLevel::Normal => ok(check, free),
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
