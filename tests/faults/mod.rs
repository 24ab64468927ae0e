//! Faults done to the real daemon: few of each in every test run, all of them with `scripts/test faults`.
//!
//! A scenario returns what it lost and doubled. It must be nothing; and with the protection in
//! question taken out (feature `fault-controls`) the same scenario must notice.

mod broker;
mod commit;
pub mod disk;
mod kill;
mod payloads;
mod power;
mod update;
mod wire;

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Broker, Station, wait_for};

/// What a scenario found; each is bad unless it is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Harm {
    /// Acknowledged messages that are not in the database, or promises otherwise not kept.
    lost: i64,
    /// Rows too many.
    doubled: i64,
}

/// Whether the full counts are asked for; then nothing may be skipped.
fn full() -> bool {
    std::env::var_os("NIGHTWATT_FAULTS").is_some_and(|v| v == "full")
}

fn count(quick: u32, full_count: u32) -> u32 {
    if full() { full_count } else { quick }
}

/// After so long without a new row no more are expected.
const NOTHING_MORE: Duration = Duration::from_secs(5);

/// How often a control may run before it must have noticed.
const CONTROL_TRIES: u32 = 10;

/// Runs `scenario` `times` times, and where the controls are compiled in, until it notices that
/// `protection` is missing (empty: no switch exists, and the table says so).
fn check(
    fault: &str,
    times: u32,
    protection: &'static str,
    scenario: impl Fn(&'static str, u32) -> Harm,
) {
    let mut sum = Harm::default();
    for seed in 0..times {
        let harm = scenario("", seed);
        sum.lost += harm.lost;
        sum.doubled += harm.doubled;
    }
    let mut control = String::from("none");
    if !protection.is_empty() {
        control = format!("without {protection}: not compiled in");
        if cfg!(feature = "fault-controls") {
            let seen = (0..CONTROL_TRIES)
                .map(|seed| scenario(protection, 1000 + seed))
                .find(|harm| *harm != Harm::default());
            control = match seen {
                Some(h) => format!(
                    "without {protection}: {} lost, {} doubled",
                    h.lost, h.doubled
                ),
                None => format!("without {protection}: NOT NOTICED"),
            };
        }
    }
    record(&format!(
        "| {fault} | {times} | {} | {} | {control} |",
        sum.lost, sum.doubled
    ));
    assert_eq!(sum, Harm::default(), "{fault}");
    assert!(!control.contains("NOT NOTICED"), "{fault}: {control}");
}

/// A line of the table that `scripts/test faults` prints.
fn record(line: &str) {
    if let Some(path) = std::env::var_os("NIGHTWATT_FAULTS_TABLE") {
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path);
        writeln!(file.unwrap(), "{line}").unwrap();
    }
}

/// Whether `what` is there; where it is not, the full run fails and a quick one says so loudly.
fn available(what: &str, there: bool) -> bool {
    if !there {
        assert!(!full(), "{what} is needed for the full counts");
        let word = format!("SKIPPED: no {what} here\n");
        std::io::stderr().write_all(word.as_bytes()).unwrap();
    }
    there
}

fn succeeds(program: &str, words: &[&str]) -> bool {
    let output = Command::new(program).args(words).output();
    output.is_ok_and(|o| o.status.success())
}

/// What the tests with loop devices and tmpfs need.
pub fn can_mount() -> bool {
    available(
        "root with mount and mkfs.ext4",
        rustix::process::geteuid().is_root()
            && succeeds("mkfs.ext4", &["-V"])
            && succeeds("mount", &["-V"]),
    )
}

/// Distinct numbers among the stored powers, and rows: what is missing of `sent`, what is too much.
fn harm(station: &Station, sent: i64) -> Harm {
    let distinct: i64 = station.query("SELECT count(DISTINCT power) FROM telemetry");
    Harm {
        lost: sent - distinct,
        doubled: station.rows() - distinct,
    }
}

/// Publishes a last reading and waits until it is stored: everything before it has come by then,
/// or never will.
fn wait_for_the_end(broker: &Broker, station: &Station) {
    let end = format!(
        "{{\"ts\":\"{}\",\"lux\":1}}",
        crate::intake::now_plus_s(100)
    );
    crate::intake::publish(broker, "solar/end/telemetry", false, &[&end]);
    wait_for("the last reading", 120, || {
        let seen: i64 = station.query("SELECT count(*) FROM telemetry WHERE device_id = 'end'");
        (seen > 0).then_some(())
    });
}

/// [`harm`] where [`wait_for_the_end`] has added its own row. mosquitto lets a new message overtake a backlog,
/// so what is missing is lost only once nothing more comes.
fn harm_at_the_end(broker: &Broker, station: &Station, sent: i64) -> Harm {
    wait_for_the_end(broker, station);
    let mut last = (harm(station, sent), Instant::now());
    let harm = wait_for("the rest, or nothing more", 600, || {
        let now = harm(station, sent);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (now.lost <= 0 || last.1.elapsed() >= NOTHING_MORE).then_some(now)
    });
    let ends: i64 = station.query("SELECT count(*) FROM telemetry WHERE device_id = 'end'");
    Harm {
        doubled: harm.doubled - ends,
        ..harm
    }
}

/// A pseudo-random number below `bound` (splitmix64): the same faults for the same seed.
fn random(state: &mut u64, bound: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % bound
}
