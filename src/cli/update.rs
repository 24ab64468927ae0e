//! `update`, and what the launcher and a candidate are started with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono_tz::Tz;
use clap::{Args, Subcommand};
use hyper::{Method, StatusCode};

use super::tables::{columns, print, to_the_end};
use super::when::times_of;
use super::{Exit, Failure, JsonArg, Outcome, block_on, load};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::daemon::reload;
use crate::errors::chain;
use crate::http::client::{self, ClientError};
use crate::logging::{self, Format};
use crate::reading::TimestampMs;
use crate::store::{Reader, StoreLock};
use crate::update::launcher;
use crate::update::layout::Layout;
use crate::update::manifest::Allowed;
use crate::update::signature::Keys;
use crate::update::{Ask, Here, Outcome as Ended, Report, Updater, Verb};
use crate::words::{minute, printable};

/// A transfer over a slow line takes its time; the daemon has limits of its own.
const TRANSFER_LIMIT: Duration = Duration::from_secs(3 * 3600);
const LISTED: usize = 50;

#[derive(Args)]
pub(super) struct UpdateArgs {
    #[command(subcommand)]
    verb: UpdateVerb,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Args, Default)]
struct From {
    /// A folder's path or address instead of [update] source
    folder: Option<String>,
    /// A sequence that was given up here, once more
    #[arg(long)]
    again: bool,
    /// Past its time, from a folder of this machine
    #[arg(long)]
    allow_expired: bool,
}

#[derive(Subcommand)]
enum UpdateVerb {
    /// Whether there is a newer version
    Check(From),
    /// Bring it here, verified
    Fetch(From),
    /// Bring it here and try it; it stays once it has proved itself
    Apply(From),
    /// What runs, what is being tried, what was given up
    Status,
    /// Back to the version before; the one left is not taken again by itself
    Rollback,
    /// What was looked for, tried, kept and taken back
    History,
}

pub(super) fn update(config: &Config, path: Option<&Path>, args: UpdateArgs) -> Outcome {
    let json = args.json.json;
    let asked = |verb, from: From| -> Outcome {
        let allowed = Allowed {
            by_hand: true,
            again: from.again,
            expired: from.allow_expired,
        };
        // The daemon stands in another folder.
        let source = match from.folder {
            Some(f) if !f.contains("://") => {
                Some(std::path::absolute(f)?.to_string_lossy().into_owned())
            }
            other => other,
        };
        perform(
            config,
            path,
            Ask {
                verb,
                source,
                allowed,
            },
            json,
        )
    };
    match args.verb {
        UpdateVerb::Check(from) => asked(Verb::Check, from),
        UpdateVerb::Fetch(from) => asked(Verb::Fetch, from),
        UpdateVerb::Apply(from) => asked(Verb::Apply, from),
        UpdateVerb::Rollback => asked(Verb::Rollback, From::default()),
        UpdateVerb::Status => status(config, path, json),
        UpdateVerb::History => history(config, json),
    }
}

/// The daemon does it where one runs; else it is done here, and the next launch sees it.
fn perform(config: &Config, path: Option<&Path>, ask: Ask, json: bool) -> Outcome {
    let body = serde_json::to_string(&ask)?;
    let socket = &config.http.socket;
    let answer = block_on(async {
        let asking =
            client::request_within(TRANSFER_LIMIT, socket, Method::POST, "/api/update", body);
        match asking.await {
            Ok(answer) => Ok(Some(serde_json::from_value::<Report>(answer)?)),
            Err(ClientError::Refused { status, detail }) => {
                Err(Failure(exit(status == StatusCode::BAD_REQUEST), detail))
            }
            Err(ClientError::NotRunning { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    })?;
    let report = match answer {
        Some(report) => report,
        None => {
            logging::to_stderr(Format::Text, "warn");
            own_the_store(config)?;
            let now = SystemClock.trusted().then(|| SystemClock.now());
            let done = Updater::new(config, path, None)?.perform(&ask, now);
            done.map_err(|e| Failure(exit(e.is_misuse()), chain(&e)))?
        }
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", report.text);
    }
    Ok(match report.outcome {
        Ended::Refused => Exit::Failed,
        _ => Exit::Done,
    })
}

/// How a call ends that could not be done.
fn exit(misuse: bool) -> Exit {
    match misuse {
        true => Exit::Usage,
        false => Exit::Failed,
    }
}

/// What root writes the daemon could not change any more.
fn own_the_store(config: &Config) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;
    let folder = config.store.path.parent().unwrap_or(Path::new("."));
    let owner = std::fs::metadata(folder).map_or(0, |m| m.uid());
    if rustix::process::geteuid().is_root() && owner != 0 {
        let text =
            "the daemon does not run: start it, or run this as its user (sudo -u nightwatt …)";
        return Err(Failure(Exit::Failed, text.into()));
    }
    Ok(())
}

fn status(config: &Config, path: Option<&Path>, json: bool) -> Outcome {
    let now = SystemClock.trusted().then(|| SystemClock.now());
    let updater = Updater::new(config, path, None)?;
    // What cannot be looked into is not nothing.
    let folder = updater.layout.folder();
    if let Err(error) = std::fs::read_dir(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        let text = format!("cannot read {}: {error}", folder.display());
        return Err(Failure(Exit::Failed, text));
    }
    let here = updater.here(now);
    match json {
        true => println!("{}", serde_json::to_string_pretty(&here)?),
        // Reasons are told to their end.
        false => print!("{}", shown(&here)),
    }
    Ok(Exit::Done)
}

fn shown(h: &Here) -> String {
    let place = |s: Option<u64>| s.map_or("the factory binary".into(), |s| format!("sequence {s}"));
    let mut text = format!("in force   {} ({})\n", h.version, place(h.sequence));
    text += &format!("factory    {}\n", h.factory_version);
    if h.sequence.is_some() {
        text += &format!("before     {}\n", place(h.previous));
    }
    if let Some(t) = &h.trial {
        text += &format!(
            "on trial   {} (sequence {}), {} starts left\n",
            t.version, t.sequence, t.tries_left
        );
    }
    let tried = h.trial.as_ref().map(|t| t.sequence);
    let named = [h.sequence, h.previous, tried];
    for sequence in h.held.iter().filter(|s| !named.contains(&Some(**s))) {
        text += &format!("at hand    sequence {sequence}\n");
    }
    if let Some(floor) = h.floor {
        text += &format!("floor      sequence {floor}; nothing older under its key is taken\n");
    }
    for r in &h.rejected {
        text += &format!(
            "given up   {} (sequence {}): {}\n",
            r.version, r.sequence, r.why
        );
    }
    for said in &h.damaged {
        text += &format!("damaged    {said}\n");
    }
    if let Some(days) = h.frozen_days {
        text += &format!("updates may be frozen: nothing newly signed for {days} days\n");
    }
    text += match h.enabled {
        true => "updates are looked for by themselves\n",
        false => "updates are not looked for by themselves ([update] enabled)\n",
    };
    text
}

/// The run log's updates and the events about them, the newest first.
fn history(config: &Config, json: bool) -> Outcome {
    let reader = Reader::open(&config.store.path)?;
    let mut lines: Vec<_> = (reader.runs(Some("update"), LISTED)?.into_iter())
        .map(|run| (run.started, run.mode, run.reason.unwrap_or_default()))
        .collect();
    for kind in [
        "update_committed",
        "update_rolled_back",
        "update_taken_back",
    ] {
        let events = reader.events_of(kind, LISTED)?;
        lines.extend(events.into_iter().map(|e| (e.at, e.kind, e.detail)));
    }
    lines.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
    let rows: Vec<_> = (lines.iter())
        .map(|(at, what, text)| serde_json::json!({ "at": at, "what": what, "text": text }))
        .collect();
    print(json, &rows, |_| {
        history_table(&lines, config.site.zone(), columns())
    })
}

fn history_table(lines: &[(TimestampMs, String, String)], zone: Tz, columns: usize) -> String {
    if lines.is_empty() {
        return "nothing has been looked for or changed yet\n".into();
    }
    let mut out = times_of(zone);
    for (at, what, text) in lines {
        let what = what.trim_start_matches("update_");
        let text = to_the_end(&printable(text), 30, columns);
        out += &format!("{} {what:<12} {text}\n", minute(*at, zone));
    }
    out
}

/// What a version is started with, by the launcher and again by itself.
pub(super) fn arguments(path: Option<&Path>, log: Format) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(path) = path {
        words.extend(["-c".to_owned(), path.to_string_lossy().into_owned()]);
    }
    if log == Format::Json {
        words.extend(["--log".to_owned(), "json".to_owned()]);
    }
    words
}

pub(super) fn launch(path: Option<PathBuf>, log: Format) -> Outcome {
    logging::to_stderr(log, "info");
    // A configuration for a newer version need not make sense to the factory binary.
    let config = load(path.as_deref()).unwrap_or_else(|_| Config::places(path.as_deref()));
    let no_keys = Vec::new();
    let keys = Keys::new(&config.update.public_keys).or_else(|_| Keys::new(&no_keys));
    let keys =
        keys.map_err(|key| Failure(Exit::Usage, format!("{key:?} is no minisign public key")))?;
    // No version could work beside it, and the tries of one on trial are not for this.
    if let Some(process) = StoreLock::in_use(&config.store.path) {
        return Err(Failure(
            Exit::Failed,
            format!(
                "a daemon runs here already, or a command works on its store (process {process}): nothing was started"
            ),
        ));
    }
    let layout = Layout::beside(&config.store.path);
    let error = launcher::launch(&layout, &keys, &arguments(path.as_deref(), log));
    Err(Failure(
        Exit::Failed,
        format!("cannot start the daemon: {error}"),
    ))
}

/// Whether this version gets on with the station's configuration and database; its name comes first.
pub(super) fn self_check(path: Option<&Path>) -> Outcome {
    println!("nightwatt {}", env!("CARGO_PKG_VERSION"));
    let config = load(path)?;
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    reload::check(&config, credentials.as_deref())?;
    if config.store.path.exists() {
        Reader::open(&config.store.path)?.totals()?;
    }
    Ok(Exit::Done)
}
