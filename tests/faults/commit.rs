//! A kill, and an I/O error, at every system call that the writer makes for a commit.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use super::{Harm, available, check, full, harm_at_the_end, succeeds};
use crate::intake::{now_plus_s, publish};
use crate::support::{Broker, Station, wait_for};

/// SQLite takes the second where it was told that there is one.
const SYNCS: [&str; 2] = ["fsync", "fdatasync"];

/// strace on the writer thread.
struct Traced(Child);

impl Traced {
    fn attach(station: &Station, words: &[&str]) -> Self {
        let trace = station.dir.path().join("trace");
        let _ = std::fs::remove_file(&trace);
        let said = station.dir.path().join("strace");
        let strace = Command::new("strace")
            .args(["-o", trace.to_str().unwrap(), "-p", &writer(station)])
            .args(words)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&said).unwrap())
            .spawn()
            .unwrap();
        wait_for("strace to attach", 10, || {
            std::fs::read_to_string(&said)
                .unwrap()
                .contains("attached")
                .then_some(())
        });
        Self(strace)
    }

    fn detach(mut self) {
        // It may have ended with the thread it watched.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        self.0.wait().unwrap();
    }
}

/// The thread id of the writer.
fn writer(station: &Station) -> String {
    let tasks = format!("/proc/{}/task", station.pid());
    wait_for("the writer thread", 10, || {
        std::fs::read_dir(&tasks).unwrap().find_map(|task| {
            let task = task.unwrap();
            let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
            (name.trim() == "writer").then(|| task.file_name().into_string().unwrap())
        })
    })
}

fn started(broker: &Broker, without: &'static str) -> Station {
    let mut station = Station::new(&broker.url(), "");
    station.without = without;
    station.start();
    station.wait_connected();
    // The device is known and the WAL is begun.
    send(broker, 1);
    wait_for("the first row", 10, || (station.rows() == 1).then_some(()));
    station
}

fn send(broker: &Broker, power: i64) {
    let payload = format!("{{\"ts\":\"{}\",\"power\":{power}}}", now_plus_s(power));
    publish(broker, "solar/t/telemetry", false, &[&payload]);
}

/// How often the writer makes each system call for one commit of one message.
fn calls_of_a_commit() -> BTreeMap<String, u32> {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let station = started(&broker, "");
    let traced = Traced::attach(&station, &[]);
    send(&broker, 2);
    wait_for("the traced row", 10, || (station.rows() == 2).then_some(()));
    station.status();
    traced.detach();
    let mut calls = BTreeMap::new();
    for line in std::fs::read_to_string(station.dir.path().join("trace"))
        .unwrap()
        .lines()
    {
        let name = line.split('(').next().unwrap();
        // Waiting, waking, memory and the clock are no part of the commit.
        let other = [
            "futex",
            "restart_syscall",
            "madvise",
            "mmap",
            "munmap",
            "brk",
            "clock",
        ];
        if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !name.is_empty()
            && !other.iter().any(|o| name.starts_with(o))
        {
            *calls.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    let syncs = calls.keys().any(|c| SYNCS.contains(&c.as_str()));
    assert!(syncs && calls.contains_key("pwrite64"), "{calls:?}");
    calls
}

/// The calls to disturb: in a quick run the first of those that write.
fn points() -> Vec<(String, u32)> {
    calls_of_a_commit()
        .into_iter()
        .filter(|(name, _)| full() || SYNCS.contains(&name.as_str()) || name == "pwrite64")
        .flat_map(|(name, n)| (1..=if full() { n } else { 1 }).map(move |k| (name.clone(), k)))
        .collect()
}

#[test]
fn a_kill_and_an_error_at_every_system_call_of_a_commit() {
    if !available("strace", succeeds("strace", &["-V"])) {
        return;
    }
    let points = points();
    let times = points.len() as u32;
    let point = |seed: u32| points[seed as usize % points.len()].clone();
    check(
        "kill -9 at each system call of a commit",
        times,
        "commit_before_ack",
        |without, seed| {
            let (name, k) = point(seed);
            let dir = tempfile::tempdir().unwrap();
            let broker = Broker::start(dir.path(), "");
            let mut station = started(&broker, without);
            let traced = Traced::attach(
                &station,
                &["-e", &format!("inject={name}:signal=KILL:when={k}")],
            );
            send(&broker, 2);
            wait_for("the kill", 20, || station.exited());
            traced.detach();
            station.start();
            harm_at_the_end(&broker, &station, 2)
        },
    );
    check(
        "EIO once at each system call of a commit",
        times,
        "retry",
        |without, seed| disturbed(without, &point(seed), "EIO"),
    );
    check(
        "ENOSPC ten times on at each of them",
        times,
        "retry",
        |without, seed| disturbed(without, &point(seed), "ENOSPC"),
    );
}

/// `name` fails at its k-th call; then the daemon is killed, and what it acknowledged must be there.
fn disturbed(without: &'static str, (name, k): &(String, u32), error: &str) -> Harm {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = started(&broker, without);
    let last = if error == "EIO" { *k } else { k + 9 };
    let inject = format!("inject={name}:error={error}:when={k}..{last}");
    let traced = Traced::attach(&station, &["-e", &inject]);
    send(&broker, 2);
    wait_for("the message to be dealt with", 60, || {
        // It may be ending just now.
        let status = station.try_status().unwrap_or_default();
        let dealt = status["daemon"]["committed"].as_i64() >= Some(2);
        (dealt || station.exited().is_some()).then_some(())
    });
    traced.detach();
    if station.exited().is_none() {
        station.kill_9();
    }
    station.start();
    harm_at_the_end(&broker, &station, 2)
}
