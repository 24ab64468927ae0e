//! An update cut off, by a kill at every system call and by power cuts, in its install, its launch and its commit; and on a
//! full disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nightwatt::update::switch::TRIES;

use super::disk::SmallDisk;
use super::power::{Ext4, can_cut};
use super::{Harm, available, can_mount, check, count, full, random, succeeds};
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
        let layout = nightwatt::update::layout::Layout::beside(Path::new(db));
        layout.commit(&keys).unwrap();
        layout.settle().unwrap();
    }
}

/// A station with sequence 7 in force; where asked for, 8 is on trial.
fn station(folder: Option<&Path>, publisher: &Publisher, trial: bool) -> Updated {
    let updated = Updated::at(folder, "mqtt://127.0.0.1:1", &[publisher], "");
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
    let updated = station(None, &publisher, trial);
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

/// Cuts `act` off at one point.
fn cut(act: Act, trial: bool, (name, k): &(String, u32)) -> Harm {
    let publisher = Publisher::new();
    let updated = station(None, &publisher, trial);
    let inject = format!("inject={name}:signal=KILL:when={k}");
    traced(
        &act(&updated, &publisher),
        &["-e", &inject, "-o", "/dev/null"],
    );
    comes_back(&updated, &publisher, &format!("{name} {k}"))
}

/// Whatever there is after `what`, a start is old or new, and the update, done again, complete.
fn comes_back(updated: &Updated, publisher: &Publisher, what: &str) -> Harm {
    let mut lost = 0;
    let started = updated.started();
    if started != "sequence 7" && started != "sequence 8" {
        eprintln!("after {what}: {started:?}");
        lost += 1;
    }
    // Whatever there is by now, it ends with the new version in force.
    if updated.layout().linked("current") != Some(8) {
        if updated.layout().trial().is_none() {
            updated.update("apply", 8, &["--again"]);
        }
        if let Err(error) = updated.layout().commit(&publisher.keys()) {
            eprintln!("after {what}: {error}");
            lost += 1;
        }
    }
    if updated.started() != "sequence 8" {
        eprintln!("after {what}: not completed");
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

/// The three steps of an update, and whether 8 is on trial before each.
const STEPS: [(&str, Act, bool); 3] = [
    ("install", install, false),
    ("launch", launch, true),
    ("commit", commit, true),
];

#[test]
fn o1_the_power_cut_at_any_moment_of_install_launch_and_commit() {
    if !can_cut() {
        return;
    }
    // How long each takes here without a cut.
    let spans = STEPS.map(|(_, act, trial)| {
        let (publisher, disk) = (Publisher::new(), Ext4::new());
        let updated = station(Some(&disk.root()), &publisher, trial);
        let began = Instant::now();
        let done = act(&updated, &publisher).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        began.elapsed()
    });
    check(
        "power cut in an update's install, launch or commit",
        count(6, 200),
        "update_sync",
        |without, seed| cut_the_power(without, seed, &spans),
    );
}

/// Cuts the power somewhere in a step, or shortly after it: what was done by then has to be there, and the station
/// comes back.
fn cut_the_power(without: &'static str, seed: u32, spans: &[Duration; 3]) -> Harm {
    let mut random_state = u64::from(seed);
    let step = seed as usize % STEPS.len();
    let (name, act, trial) = STEPS[step];
    let (publisher, disk) = (Publisher::new(), Ext4::new());
    let updated = station(Some(&disk.root()), &publisher, trial);
    let at = random(&mut random_state, spans[step].as_micros() as u64 * 3 / 2);
    let mut child = act(&updated, &publisher)
        .env("NIGHTWATT_FAULT", without)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::park_timeout(Duration::from_micros(at));
    let done = child.try_wait().unwrap().is_some_and(|s| s.success());
    disk.cut();
    // It may have ended by itself meanwhile.
    let _ = child.kill();
    child.wait().unwrap();
    disk.remount();
    let layout = updated.layout();
    let kept = match name {
        "install" => layout.trial().is_some(),
        // Before the candidate runs its try is gone, whatever it does to the machine.
        "launch" => layout.trial().is_some_and(|t| t.tries_left < TRIES),
        _ => layout.linked("current") == Some(8),
    };
    let what = format!("a power cut {at} µs into the {name}");
    let mut harm = comes_back(&updated, &publisher, &what);
    if done && !kept {
        eprintln!("after {what}: it had been done");
        harm.lost += 1;
    }
    harm
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
