//! The factory binary as a start: it picks a version that is what its publisher signed, and becomes it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use semver::Version;
use serde::{Deserialize, Serialize};

use super::UpdateError;
use super::layout::{Layout, Rejection};
use super::signature::Keys;
use super::switch::{Step, step};
use crate::errors::chain;

/// The variable that tells a version how it came to run.
const LAUNCHED: &str = "NIGHTWATT_LAUNCHED";
const BOOT: &str = "NIGHTWATT_BOOT";

/// What the launcher tells the version it becomes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launched {
    /// The launcher.
    pub factory: PathBuf,
    /// Its version.
    pub factory_version: Version,
    /// Which version was chosen; none for the factory binary.
    pub sequence: Option<u64>,
    /// Whether it has yet to prove itself.
    pub trial: bool,
    /// Versions that should have been started and could not, and why.
    #[serde(default)]
    pub passed_over: Vec<String>,
}

/// How this process was launched, if it was.
pub fn launched() -> Option<Launched> {
    serde_json::from_str(&std::env::var(LAUNCHED).ok()?).ok()
}

/// The version of this binary.
pub fn own_version() -> Version {
    // Cargo refuses a package whose version is none.
    Version::parse(env!("CARGO_PKG_VERSION")).unwrap_or(Version::new(0, 0, 0))
}

/// Where this binary is.
pub fn own_path() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/bin/nightwatt"))
}

/// A version that is committed, whole and newer than the factory binary; the first of these: the current,
/// the previous. With what was found wrong on the way.
pub fn committed(layout: &Layout, keys: &Keys, factory: &Version) -> (Option<u64>, Vec<String>) {
    let mut passed_over = Vec::new();
    for name in ["current", "previous"] {
        let Some(sequence) = layout.linked(name) else {
            continue;
        };
        match layout.held(sequence, keys) {
            Ok(held) if held.manifest.version > *factory => return (Some(sequence), passed_over),
            Ok(_) => {}
            Err(why) => passed_over.push(format!(
                "sequence {sequence} ({name}) was passed over: {why}"
            )),
        }
    }
    (None, passed_over)
}

/// Becomes the version that is due. Returns only where not even the factory binary can be started.
pub fn launch(layout: &Layout, keys: &Keys, arguments: &[String]) -> std::io::Error {
    let factory = own_path();
    let mut launched = Launched {
        factory: factory.clone(),
        factory_version: own_version(),
        sequence: None,
        trial: false,
        passed_over: Vec::new(),
    };
    if let Some(candidate) = candidate(layout, keys) {
        (launched.sequence, launched.trial) = (Some(candidate), true);
        let error = become_it(&layout.program(candidate), &launched, arguments);
        // Nothing would start it another time: what runs now does not end.
        let version = layout.version_text(candidate);
        if let Err(error) = give_up(
            layout,
            candidate,
            version,
            format!("it cannot be started: {error}"),
        ) {
            tracing::error!(candidate, "it could not be given up: {}", chain(&error));
        }
        launched.trial = false;
    }
    let (sequence, passed_over) = committed(layout, keys, &launched.factory_version);
    passed_over
        .iter()
        .for_each(|said| tracing::error!("{said}"));
    launched.passed_over = passed_over;
    launched.sequence = sequence;
    if let Some(sequence) = sequence {
        let error = become_it(&layout.program(sequence), &launched, arguments);
        tracing::error!(sequence, %error, "the version in force cannot be started");
        (launched.passed_over).push(format!("sequence {sequence} cannot be started: {error}"));
        launched.sequence = None;
    }
    become_it(&factory, &launched, arguments)
}

/// The kernel's name of this boot; empty where nothing tells it.
fn boot_id() -> String {
    // The unit hides the kernel's file and hands the name in, without dashes.
    std::env::var(BOOT)
        .or_else(|_| std::fs::read_to_string("/proc/sys/kernel/random/boot_id"))
        .unwrap_or_default()
        .replace('-', "")
}

/// Ends a trial without a commit.
fn give_up(
    layout: &Layout,
    sequence: u64,
    version: String,
    why: String,
) -> Result<(), UpdateError> {
    tracing::error!(sequence, "the candidate is given up: {why}");
    layout.reject(Rejection {
        sequence,
        version,
        why,
        noted: false,
    })?;
    layout.end_trial()
}

/// The candidate to become, its try already taken off.
fn candidate(layout: &Layout, keys: &Keys) -> Option<u64> {
    let boot = boot_id();
    let trial = layout.trial()?;
    let sequence = trial.sequence;
    let give_up = |why| give_up(layout, sequence, trial.version.clone(), why).map(|()| None);
    let done = match step(Some(&trial), layout.linked("current"), boot.trim()) {
        // It does not run any more, so the way further back is free.
        Step::Committed if trial.taken_back => layout.end_trial().map(|()| None),
        Step::Committed => Ok(None),
        Step::GiveUp(why) => give_up(why),
        Step::Try(next) => match layout.held(sequence, keys) {
            Err(why) => give_up(why),
            Ok(held) if held.manifest.version <= own_version() => {
                give_up("the factory binary has become newer".into())
            }
            // Before the candidate runs: whatever it does, the try is gone.
            Ok(_) => layout.try_out(&next).map(|()| Some(sequence)),
        },
    };
    done.unwrap_or_else(|error| {
        tracing::error!(sequence, "no trial at this start: {}", chain(&error));
        None
    })
}

fn become_it(program: &Path, launched: &Launched, arguments: &[String]) -> std::io::Error {
    let mut command = Command::new(program);
    command.arg("run").args(arguments);
    if let Ok(text) = serde_json::to_string(launched) {
        command.env(LAUNCHED, text);
    }
    command.exec()
}

/// Has the launcher choose anew, in place of this process.
pub fn relaunch(launched: &Launched, arguments: &[String]) -> std::io::Error {
    let mut command = Command::new(&launched.factory);
    command.arg("launch").args(arguments).env_remove(LAUNCHED);
    command.exec()
}
