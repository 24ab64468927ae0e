//! An update cut off at every system call of its install, its launch and its commit; and on a full disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::disk::SmallDisk;
use super::{Harm, available, can_mount, check, full, succeeds};
use crate::update::{Publisher, Updated, speaking};

/// What the cut-off commit of a child is told by.
const COMMIT_OF: &str = "NIGHTWATT_TEST_COMMIT";

/// A step of an update as a process of its own.
type Act = fn(&Updated, &Publisher) -> Command;

fn install(updated: &Updated, _: &Publisher) -> Command {
    let folder = updated.release(8);
    updated
        .station
        .command(&["update", "apply", folder.to_str().unwrap()])
}

fn launch(updated: &Updated, _: &Publisher) -> Command {
    let mut command = updated.station.command(&["launch"]);
    // Where it comes to the factory binary, that ends at once.
    command.env("NIGHTWATT_MQTT__URL", "nowhere");
    command
}

fn commit(updated: &Updated, publisher: &Publisher) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "faults::update::commit_in_a_process_of_its_own",
        "--test-threads=1",
    ]);
    let told = format!(
        "{}\n{}",
        updated.station.db().display(),
        publisher.public_key()
    );
    command.env(COMMIT_OF, told);
    command
}

/// No test by itself: what [`commit`] starts.
#[test]
fn commit_in_a_process_of_its_own() {
    if let Ok(told) = std::env::var(COMMIT_OF) {
        let (db, key) = told.split_once('\n').unwrap();
        let keys = nightwatt::update::signature::Keys::new(&[key.to_owned()]).unwrap();
        nightwatt::update::layout::Layout::beside(Path::new(db))
            .commit(&keys)
            .unwrap();
    }
}

/// A station with sequence 7 in force; where asked for, 8 is on trial.
fn station(publisher: &Publisher, trial: bool) -> Updated {
    let updated = Updated::new(&[publisher], "");
    updated.commit(publisher, 7, &speaking(7));
    publisher.publish(&updated.release(8), 8, &speaking(8), |_| ());
    if trial {
        assert_eq!(updated.report("apply", 8, &[])["outcome"], "trial");
    }
    updated
}

/// How often `act` makes each system call that could matter.
fn calls(act: Act, trial: bool) -> BTreeMap<String, u32> {
    let publisher = Publisher::new();
    let updated = station(&publisher, trial);
    let trace = updated.releases.path().join("trace");
    traced(&act(&updated, &publisher), &["-o", trace.to_str().unwrap()]);
    let mut calls = BTreeMap::new();
    for line in std::fs::read_to_string(trace).unwrap().lines() {
        // With -f a line begins with the process.
        let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let name = line.split('(').next().unwrap();
        // Memory, threads and signals are no part of it.
        let other = [
            "futex",
            "madvise",
            "mmap",
            "munmap",
            "mprotect",
            "brk",
            "rt_",
            "sig",
            "clock",
            "sched",
            "prlimit",
            "arch",
            "set_",
            "rseq",
            "getrandom",
            "poll",
            "exit",
            "clone",
            "wait",
            "epoll",
            "pread",
        ];
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if plain && !other.iter().any(|o| name.starts_with(o)) {
            *calls.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    calls
}

/// Runs `act` under strace with these words.
fn traced(act: &Command, words: &[&str]) {
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq"])
        .args(words)
        .arg(act.get_program())
        .args(act.get_args());
    for (name, value) in act.get_envs() {
        strace.env(name, value.unwrap_or_default());
    }
    strace.output().unwrap();
}

/// Every point where something is changed, all others too with the full counts.
fn points(act: Act, trial: bool) -> Vec<(String, u32)> {
    let changing = [
        "fsync",
        "rename",
        "renameat",
        "renameat2",
        "symlink",
        "symlinkat",
        "unlink",
        "unlinkat",
        "execve",
    ];
    let found = calls(act, trial);
    assert!(found.contains_key("fsync"), "{found:?}");
    let chosen = found
        .into_iter()
        .filter(|(name, _)| full() || changing.contains(&name.as_str()));
    chosen
        .flat_map(|(name, n)| (1..=n).map(move |k| (name.clone(), k)))
        .collect()
}

/// Cuts `act` off at one point; then a start has to be old or new, and the update, done again, complete.
fn cut(act: Act, trial: bool, (name, k): &(String, u32)) -> Harm {
    let publisher = Publisher::new();
    let updated = station(&publisher, trial);
    let inject = format!("inject={name}:signal=KILL:when={k}");
    traced(
        &act(&updated, &publisher),
        &["-e", &inject, "-o", "/dev/null"],
    );
    let mut lost = 0;
    let started = updated.started();
    if started != "sequence 7" && started != "sequence 8" {
        eprintln!("after {name} {k}: {started:?}");
        lost += 1;
    }
    // Whatever there is by now, it ends with the new version in force.
    if updated.layout().linked("current") != Some(8) {
        if updated.layout().trial().is_none() {
            updated.update("apply", 8, &["--again"]);
        }
        if let Err(error) = updated.layout().commit(&publisher.keys()) {
            eprintln!("after {name} {k}: {error}");
            lost += 1;
        }
    }
    if updated.started() != "sequence 8" {
        eprintln!("after {name} {k}: not completed");
        lost += 1;
    }
    Harm { lost, doubled: 0 }
}

fn at_every_call(what: &str, act: Act, trial: bool) {
    if !available("strace", succeeds("strace", &["-V"])) {
        return;
    }
    let points = points(act, trial);
    let fault = format!("kill -9 at each system call of an update's {what}");
    check(&fault, points.len() as u32, "", |_, seed| {
        cut(act, trial, &points[seed as usize])
    });
}

#[test]
fn o1_killed_at_every_system_call_of_the_install() {
    at_every_call("install", install, false);
}

#[test]
fn o1_killed_at_every_system_call_of_the_launch() {
    at_every_call("launch", launch, true);
}

#[test]
fn o1_killed_at_every_system_call_of_the_commit() {
    at_every_call("commit", commit, true);
}

#[test]
fn o10_on_a_full_disk_the_old_version_runs_on() {
    if !can_mount() {
        return;
    }
    let publisher = Publisher::new();
    let disk = SmallDisk::new(6);
    let updated = Updated::at(Some(disk.path()), "mqtt://127.0.0.1:1", &[&publisher], "");
    updated.commit(&publisher, 7, &speaking(7));
    // Larger than what may be used, then larger than what there is.
    let mut large = speaking(8);
    large.resize(3 << 20, b'\n');
    publisher.publish(&updated.release(8), 8, &large, |_| ());
    let out = updated.update("apply", 8, &[]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("no room for the update"), "{said}");
    assert_eq!(updated.started(), "sequence 7");
    publisher.publish(&updated.release(9), 9, &speaking(9), |_| ());
    disk.fill();
    assert_eq!(updated.update("apply", 9, &[]).status.code(), Some(1));
    assert_eq!(updated.started(), "sequence 7");
    disk.empty();
    // On trial, and no room to write that a start is used up: then it is not tried.
    assert_eq!(updated.report("apply", 9, &[])["outcome"], "trial");
    disk.fill();
    assert_eq!(updated.started(), "sequence 7");
    disk.empty();
    assert_eq!(updated.started(), "sequence 9");
    let layout = updated.layout();
    assert!(!layout.path("versions").join(".new").exists() && !layout.path("download").exists());
    assert_eq!(layout.versions(), [7, 9]);
}
