//! `doctor`: gathers the facts that [`crate::doctor`] judges, and changes nothing.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use rustix::fs::{Access as Mode, StatVfsMountFlags};

use super::{Exit, Failure, Outcome, block_on, load};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Protocol};
use crate::doctor::{self, Access, Broker, Database, Disk, Env, Grade, Told};
use crate::errors::chain;
use crate::http::client;
use crate::mqtt::link::{LinkError, LinkEvent, LinkLoop, LinkOptions, LinkSender};
use crate::store::space::Reserve;
use crate::store::{Reader, StoreLock};

/// How long the broker may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the broker may take to say something of itself; it keeps that ready.
const TOLD: Duration = Duration::from_secs(2);
const VERSION: &str = "$SYS/broker/version";
const DROPPED: &str = "$SYS/broker/publish/messages/dropped";
/// How long we listen for a first message.
const LISTEN: Duration = Duration::from_secs(5);

pub(super) fn doctor(path: Option<&Path>, json: bool) -> Outcome {
    let (findings, valid) = match load(path) {
        Ok(config) => (doctor::examine(&gather(config, true)?), true),
        Err(Failure(_, why)) => {
            let env = gather(Config::places(path), false)?;
            (doctor::examine_places(&env, &why), false)
        }
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print!("{}", doctor::render(&findings));
    }
    let sick = findings.iter().any(|f| f.grade == Grade::Problem);
    Ok(match (valid, sick) {
        (false, _) => Exit::Usage,
        (true, true) => Exit::Failed,
        (true, false) => Exit::Done,
    })
}

/// The broker is asked only where the configuration says which.
fn gather(config: Config, ask: bool) -> Result<Env, Failure> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let db = config.store.path.clone();
    let folder = folder_of(&db);
    let (broker, daemon_answers) = block_on(async {
        let socket = &config.http.socket;
        let request = client::request(socket, Method::GET, "/api/status", String::new());
        let answered = tokio::time::timeout(ANSWER, request).await;
        let broker = match ask {
            true => ask_broker(&config, credentials.as_deref()).await,
            false => Broker::Unasked,
        };
        Ok((broker, matches!(answered, Ok(Ok(_)))))
    })?;
    let mqtt = &config.mqtt;
    let secrets = [&mqtt.password_file, &mqtt.client_key_file];
    let mode = |path: &PathBuf| std::fs::metadata(path).ok().map(|m| m.mode());
    let secrets = secrets.into_iter().flatten();
    Ok(Env {
        broker,
        folder: access(folder),
        file: access(&db),
        socket_folder: access(folder_of(&config.http.socket)),
        secrets: secrets.map(|path| (path.clone(), mode(path))).collect(),
        disk: disk(folder, &config),
        now: SystemClock.now(),
        synchronised: synchronised(),
        database: look_into(&db),
        holder: StoreLock::holder(&db),
        daemon_answers,
        config,
    })
}

/// Of a bare name it is the current folder.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}

fn access(path: &Path) -> Access {
    if !path.exists() {
        Access::Missing
    } else if rustix::fs::access(path, Mode::WRITE_OK).is_ok() {
        Access::Writable
    } else {
        Access::Denied
    }
}

fn disk(folder: &Path, config: &Config) -> Option<Disk> {
    let folder = folder.canonicalize().ok()?;
    let stat = rustix::fs::statvfs(&folder).ok()?;
    let reserve = Reserve::beside(&config.store.path, config.reserve_bytes());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    Some(Disk {
        room_bytes: reserve.room(stat.f_bavail * stat.f_frsize),
        kind: doctor::file_system_of(&mounts, &folder),
        read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY),
    })
}

/// What systemd knows of the kernel's clock.
fn synchronised() -> Option<bool> {
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return Some(true);
    }
    let out = std::process::Command::new("timedatectl")
        .args(["show", "-p", "NTPSynchronized", "--value"])
        .output()
        .ok()?;
    match String::from_utf8_lossy(&out.stdout).trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

fn look_into(db: &Path) -> Database {
    if !db.exists() {
        return Database::Absent;
    }
    match Reader::open(db).and_then(|reader| reader.totals()) {
        Ok(totals) => Database::Sound {
            devices: totals.devices,
        },
        Err(error) => Database::Unreadable(chain(&error)),
    }
}

/// Comes, goes, comes again under a name of our own, so that the daemon's session is left alone, and
/// takes the session with it at the end.
async fn ask_broker(config: &Config, credentials: Option<&Path>) -> Broker {
    match sessions(config, credentials).await {
        Ok(keeps_sessions) => match listen(config, credentials).await {
            Ok((refused_filters, heard)) => Broker::Answered {
                keeps_sessions,
                refused_filters,
                heard,
                // Some brokers throw out who asks.
                told: told(config, credentials).await.unwrap_or_default(),
            },
            Err(error) => Broker::Unreachable(chain(&error)),
        },
        Err(LinkError::Refused(why)) => Broker::Refused(why),
        Err(error) => {
            let mut older = config.clone();
            older.mqtt.protocol = Protocol::V311;
            let asked_v5 = config.mqtt.protocol == Protocol::V5;
            if asked_v5 && listen(&older, credentials).await.is_ok() {
                Broker::OnlyV311
            } else {
                Broker::Unreachable(chain(&error))
            }
        }
    }
}

/// Whether the broker still knows a session after its owner has gone.
async fn sessions(config: &Config, credentials: Option<&Path>) -> Result<bool, LinkError> {
    let mut present = false;
    for _ in 0..2 {
        let (sender, mut link) = open(config, credentials, true)?;
        present = connect(&mut link).await?;
        leave(&sender, &mut link).await;
    }
    Ok(present)
}

/// How many subscriptions were refused (none where there was no answer), and whether messages come.
async fn listen(
    config: &Config,
    credentials: Option<&Path>,
) -> Result<(Option<usize>, bool), LinkError> {
    let (sender, mut link) = open(config, credentials, false)?;
    connect(&mut link).await?;
    sender.subscribe(config.mqtt.topics.iter().map(|t| t.filter.as_str()));
    let (mut answered, mut heard) = (None, false);
    let end = tokio::time::Instant::now() + LISTEN;
    while answered.is_none() || !heard {
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        match answer(&mut link, left).await {
            Ok(LinkEvent::Subscribed { refused }) => answered = Some(refused),
            Ok(LinkEvent::Message(message)) => heard |= !message.retain,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    leave(&sender, &mut link).await;
    Ok((answered, heard))
}

/// What mosquitto keeps under `$SYS`.
async fn told(config: &Config, credentials: Option<&Path>) -> Result<Told, LinkError> {
    let (sender, mut link) = open(config, credentials, false)?;
    connect(&mut link).await?;
    sender.subscribe([VERSION, DROPPED].into_iter());
    let mut told = Told::default();
    let end = tokio::time::Instant::now() + TOLD;
    while told.version.is_none() || told.dropped.is_none() {
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        let message = match answer(&mut link, left).await {
            Ok(LinkEvent::Message(message)) => message,
            Ok(_) => continue,
            Err(_) => break,
        };
        let text = String::from_utf8_lossy(&message.payload);
        if message.topic == VERSION.as_bytes() {
            told.version = Some(text.chars().take(60).collect());
        } else {
            told.dropped = text.trim().parse().ok();
        }
    }
    leave(&sender, &mut link).await;
    Ok(told)
}

/// Until the goodbye is out; that the connection then breaks is how it ends.
async fn leave(sender: &LinkSender, link: &mut LinkLoop) {
    sender.disconnect();
    while let Ok(event) = answer(link, ANSWER).await {
        if let LinkEvent::Disconnected = event {
            break;
        }
    }
}

fn open(
    config: &Config,
    credentials: Option<&Path>,
    persistent: bool,
) -> Result<(LinkSender, LinkLoop), LinkError> {
    let mut options = LinkOptions::new(&config.mqtt, "-doctor", credentials)?;
    options.persistent = persistent;
    Ok(options.open())
}

/// Connects; whether a session was there.
async fn connect(link: &mut LinkLoop) -> Result<bool, LinkError> {
    loop {
        if let LinkEvent::Connected { session_present } = answer(link, ANSWER).await? {
            return Ok(session_present);
        }
    }
}

async fn answer(link: &mut LinkLoop, limit: Duration) -> Result<LinkEvent, LinkError> {
    match tokio::time::timeout(limit, link.poll(true)).await {
        Ok(polled) => polled,
        Err(_) => Err(LinkError::Broken(format!(
            "no answer for {} s",
            limit.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_bare_name_is_the_current_one() {
        let folder = |path: &'static str| folder_of(Path::new(path)).to_str();
        assert_eq!(folder("st3.sock"), Some("."));
        assert_eq!(folder("run/st3.sock"), Some("run"));
        assert_eq!(folder("/st3.sock"), Some("/"));
    }
}
