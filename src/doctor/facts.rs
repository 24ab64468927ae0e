//! What the checks look at: facts about the station and its surroundings, gathered by others.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::reading::TimestampMs;

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
    /// Free for us without what the reserve still needs, bytes.
    pub room_bytes: u64,
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

/// The type of the file system that holds `path` (absolute, without links), from the text of
/// `/proc/self/mountinfo`.
pub fn file_system_of(mountinfo: &str, path: &Path) -> Option<String> {
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
