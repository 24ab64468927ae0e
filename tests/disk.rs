//! The file itself: damage at start and while running, snapshots, restore, retention through the real binary.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::support::{NIGHTWATT, Station, free_port, ms, wait_for};

const NOWHERE: &str =
    "\n[training]\nenabled = false\nlookback_days = 3\nmin_days = 1\nholdback_days = 1";
const NOW_MS: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

fn station() -> Station {
    Station::new(&format!("mqtt://127.0.0.1:{}", free_port()), NOWHERE)
}

/// A station whose store holds `rows` readings, one a minute back from now, and is closed.
fn seeded(rows: i64) -> Station {
    let mut station = station();
    station.start();
    station.stop();
    insert(&station.db(), 1, rows);
    station
}

fn insert(db: &Path, first: i64, last: i64) {
    let conn = Connection::open(db).unwrap();
    conn.execute_batch(&format!(
        "INSERT OR IGNORE INTO device VALUES (1, 't', 0);
         WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})
         INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted, power)
         SELECT {NOW_MS} / 60000 * 60000 - i * 60000, 1, {NOW_MS}, 0, 1, i FROM n;"
    ))
    .unwrap();
    conn.close().unwrap();
}

fn snapshot(station: &Station) -> PathBuf {
    let out = station.run(&["snapshot"]);
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    PathBuf::from(said.split(": ").next().unwrap())
}

fn with_name(dir: &Path, part: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .map(|entries| entries.map(|e| e.unwrap().path()).collect())
        .unwrap_or_default();
    found.retain(|p| p.file_name().unwrap().to_string_lossy().contains(part));
    found.sort();
    found
}

/// The databases that were moved aside, without their companions.
fn kept_damaged(station: &Station) -> Vec<PathBuf> {
    let mut kept = with_name(station.dir.path(), ".corrupt-");
    kept.retain(|p| p.to_string_lossy().ends_with('Z'));
    kept
}

fn count(db: &Path) -> i64 {
    let conn = Connection::open(db).unwrap();
    let sound: String = conn
        .query_row("PRAGMA integrity_check", [], |r| r.get(0))
        .unwrap();
    assert_eq!(sound, "ok");
    conn.query_row("SELECT count(*) FROM reading", [], |r| r.get(0))
        .unwrap()
}

fn garble(path: &Path, from: u64, bytes: usize) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0xA5; bytes], from).unwrap();
}

fn cut(path: &Path, bytes: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(bytes).unwrap();
}

type Damage = fn(&Path);

const DAMAGES: [(&str, Damage); 4] = [
    ("garbled pages", |db| garble(db, 8 * 4096, 20 * 4096)),
    ("cut in half", |db| {
        cut(db, std::fs::metadata(db).unwrap().len() / 2)
    }),
    ("empty", |db| cut(db, 0)),
    ("a garbled header", |db| garble(db, 0, 4096)),
];

#[test]
fn a_damaged_database_is_kept_aside_and_the_snapshot_restored() {
    for (what, damage) in DAMAGES {
        let mut station = seeded(5000);
        snapshot(&station);
        insert(&station.db(), 5001, 5010);
        damage(&station.db());
        let evidence = std::fs::read(station.db()).unwrap();
        station.start();
        assert_eq!(station.rows(), 5000, "{what}: {}", station.log());
        let kept = kept_damaged(&station);
        assert_eq!(kept.len(), 1, "{what}: {kept:?}");
        assert_eq!(std::fs::read(&kept[0]).unwrap(), evidence, "{what}");
        let said: String = station.query("SELECT detail FROM event WHERE kind = 'store_restored'");
        assert!(said.contains(kept[0].to_str().unwrap()), "{what}: {said}");
        let findings = station.status()["kept_damaged"].to_string();
        assert!(findings.contains(".corrupt-"), "{what}: {findings}");
        assert!(station.stop().0.success());
        assert_eq!(count(&station.db()), 5000, "{what}");
    }
}

#[test]
fn without_a_good_snapshot_the_store_begins_empty_with_an_alarm() {
    for (what, damage) in DAMAGES {
        let mut station = seeded(5000);
        damage(&snapshot(&station));
        damage(&station.db());
        let evidence = std::fs::read(station.db()).unwrap();
        station.start();
        assert_eq!(station.rows(), 0, "{what}");
        let kept = kept_damaged(&station);
        assert_eq!(std::fs::read(&kept[0]).unwrap(), evidence, "{what}");
        let said: String = station.query("SELECT detail FROM event WHERE kind = 'store_lost'");
        assert!(
            said.contains("no good snapshot") && said.contains("1 damaged"),
            "{what}: {said}"
        );
    }
}

#[test]
fn the_snapshot_before_is_taken_where_the_newest_is_damaged() {
    let mut station = seeded(3000);
    let first = snapshot(&station);
    insert(&station.db(), 3001, 4000);
    let second = snapshot(&station);
    garble(&second, 8 * 4096, 8 * 4096);
    garble(&station.db(), 8 * 4096, 8 * 4096);
    station.start();
    assert_eq!(station.rows(), 3000, "{}", station.log());
    let said: String = station.query("SELECT detail FROM event WHERE kind = 'store_restored'");
    assert!(
        said.contains(first.to_str().unwrap()) && said.contains("1 damaged"),
        "{said}"
    );
}

fn snapshot_named(station: &Station, to: &Path) -> PathBuf {
    let out = station.run(&["snapshot", "--to", to.to_str().unwrap()]);
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    to.to_owned()
}

#[test]
fn only_an_unclean_end_is_followed_by_the_check() {
    let mut station = station();
    for _ in 0..2 {
        station.start();
        assert!(station.stop().0.success());
    }
    assert!(
        !station.log().contains("the database is sound"),
        "{}",
        station.log()
    );
    station.start();
    station.kill_9();
    station.start();
    assert!(
        station.log().contains("the database is sound"),
        "{}",
        station.log()
    );
}

#[test]
fn a_garbled_log_loses_its_tail_and_nothing_else() {
    for (from_end, kept_at_least) in [(3000, 100), (u64::MAX, 100)] {
        let mut station = seeded(100);
        let conn = Connection::open(station.db()).unwrap();
        conn.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        for i in 101..=110 {
            conn.execute(
                "INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted) VALUES (?1, 1, 0, 0, 1)",
                [i],
            )
            .unwrap();
        }
        // As a power cut leaves them: with the log not folded in.
        let wal = station.db().with_extension("db-wal");
        let copies = [
            std::fs::read(station.db()).unwrap(),
            std::fs::read(&wal).unwrap(),
        ];
        drop(conn);
        std::fs::write(station.db(), &copies[0]).unwrap();
        std::fs::write(&wal, &copies[1]).unwrap();
        let length = copies[1].len() as u64;
        let from = length.saturating_sub(from_end);
        garble(&wal, from, (length - from) as usize);
        station.start();
        let rows = station.rows();
        assert!((kept_at_least..110).contains(&rows), "{rows}");
        assert!(kept_damaged(&station).is_empty());
        station.stop();
        assert_eq!(count(&station.db()), rows);
    }
}

#[test]
fn damage_found_while_running_ends_the_daemon_and_the_next_start_mends_it() {
    let mut station = seeded(5000);
    snapshot(&station);
    station.start();
    garble(&station.db(), 8 * 4096, 20 * 4096);
    let out = station.run(&["snapshot"]);
    assert_eq!(out.status.code(), Some(1));
    let end = wait_for("the daemon to end itself", 20, || station.exited());
    assert_eq!(end.code(), Some(1), "{}", station.log());
    station.start();
    assert_eq!(station.rows(), 5000);
    assert_eq!(kept_damaged(&station).len(), 1);
}

#[test]
fn a_snapshot_of_a_running_store_is_complete_and_two_are_kept() {
    let mut station = seeded(2000);
    station.start();
    insert(&station.db(), 2001, 2500);
    let first = snapshot(&station);
    assert_eq!(count(&first), 2500);
    let elsewhere = station.dir.path().join("else.db");
    assert_eq!(count(&snapshot_named(&station, &elsewhere)), 2500);
    let again = station.run(&["snapshot", "--to", elsewhere.to_str().unwrap()]);
    assert_eq!(
        again.status.code(),
        Some(1),
        "an existing file was overwritten"
    );
    for old in ["n-20200101T000000Z.db", "n-20200102T000000Z.db"] {
        std::fs::copy(&elsewhere, first.with_file_name(old)).unwrap();
    }
    let newest = snapshot(&station);
    let left = with_name(first.parent().unwrap(), "n-");
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.contains(&newest), "{left:?}");
    assert_eq!(
        station.status()["verdict"]["level"],
        "down",
        "no broker, and nothing worse"
    );
}

#[test]
fn a_kill_during_a_snapshot_leaves_no_half_one_under_its_name() {
    let station = seeded(300_000);
    let folder = station.dir.path().join("snapshots");
    for attempt in 0..5 {
        let mut child = station.command(&["snapshot"]).spawn().unwrap();
        wait_for("the copy to grow", 20, || {
            let ended = child.try_wait().unwrap().is_some();
            let bytes: u64 = with_name(&folder, ".partial")
                .iter()
                .filter_map(|p| p.metadata().ok())
                .map(|m| m.len())
                .sum();
            (ended || bytes > attempt * 2_000_000).then_some(())
        });
        child.kill().unwrap();
        child.wait().unwrap();
        for finished in with_name(&folder, ".db") {
            if !finished.to_string_lossy().contains(".partial") {
                assert_eq!(count(&finished), 300_000);
            }
        }
    }
    assert_eq!(count(&snapshot(&station)), 300_000);
    assert!(with_name(&folder, ".partial").is_empty(), "left over");
}

#[test]
fn restore_waits_for_no_daemon_verifies_and_keeps_what_was_there() {
    let mut station = seeded(1000);
    let taken = snapshot(&station);
    insert(&station.db(), 1001, 1100);
    station.start();
    let refused = station.run(&["restore", "--latest"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("in use by another nightwatt"), "{said}");
    station.stop();

    let bad = station.dir.path().join("bad.db");
    std::fs::copy(&taken, &bad).unwrap();
    garble(&bad, 8 * 4096, 4 * 4096);
    let refused = station.run(&["restore", bad.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(count(&station.db()), 1100);

    let out = station.run(&["restore", "--latest"]);
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let said = String::from_utf8(out.stdout).unwrap();
    let kept = with_name(station.dir.path(), ".before-restore-");
    assert!(said.contains(kept[0].to_str().unwrap()), "{said}");
    assert_eq!((count(&kept[0]), count(&station.db())), (1100, 1000));
    assert_eq!(count(&taken), 1000);
    let before = station.log().matches("the database is sound").count();
    station.start();
    assert_eq!(
        station.query::<i64>("SELECT count(*) FROM event WHERE kind = 'restored'"),
        1
    );
    // It was checked by the command, and is as that left it.
    assert_eq!(
        station.log().matches("the database is sound").count(),
        before,
        "{}",
        station.log()
    );
}

/// What an earlier `restore` kept of a station that was killed: the newest rows are in the log beside it.
#[test]
fn a_file_is_restored_with_the_log_beside_it() {
    let station = seeded(100);
    let conn = Connection::open(station.db()).unwrap();
    conn.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    conn.execute_batch(
        "INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted)
         VALUES (1, 1, 0, 0, 1), (2, 1, 0, 0, 1)",
    )
    .unwrap();
    let kept = station.dir.path().join("kept.db");
    for suffix in ["db", "db-wal"] {
        let (from, to) = (station.db(), kept.clone());
        std::fs::copy(from.with_extension(suffix), to.with_extension(suffix)).unwrap();
    }
    drop(conn);
    let out = station.run(&["restore", kept.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
    assert_eq!(count(&station.db()), 102);
}

/// `-c n.toml` with a bare store path: both are in the current folder.
#[test]
fn beside_a_configuration_in_the_current_folder_everything_is_found() {
    let station = seeded(10);
    let dir = station.dir.path();
    let config = std::fs::read_to_string(dir.join("n.toml")).unwrap();
    let db = station.db().display().to_string();
    std::fs::write(dir.join("n.toml"), config.replace(&db, "n.db")).unwrap();
    std::fs::write(dir.join("n.db.corrupt-20260101T000000.000Z"), "x").unwrap();
    let out = std::process::Command::new(NIGHTWATT)
        .args(["status", "--json", "-c", "n.toml"])
        .current_dir(dir)
        .output()
        .unwrap();
    let status: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let kept = status["kept_damaged"].to_string();
    assert!(kept.contains(".corrupt-2026"), "{status}");
}

#[test]
fn the_night_removes_exactly_what_is_too_old_and_keeps_its_hours() {
    // Ten days, a reading a minute; three are kept.
    let mut station = seeded(10 * 1440);
    let size = |s: &Station| std::fs::metadata(s.db()).unwrap().len();
    let before = size(&station);
    let total: f64 = station.query("SELECT sum(power) FROM reading");
    station.start_with(&[("NIGHTWATT_STORE__KEEP_DAYS", "3")]);
    let run = wait_for("housekeeping", 60, || {
        let run = station.status()["housekeeping"].clone();
        run["outcome"].as_str().map(|_| run.clone())
    });
    assert_eq!(run["outcome"], "done", "{run}");
    // Whole hours, none of which reaches into the last three days.
    let cut = ms(&run["started"]);
    let cut = (cut - 3 * 86_400_000) / 3_600_000 * 3_600_000;
    let oldest: i64 = station.query("SELECT min(ts_ms) FROM reading");
    assert!((cut..cut + 3_600_000).contains(&oldest), "{oldest} {cut}");
    let left: i64 = station.rows();
    let expected: i64 = station.query(&format!(
        "SELECT ({NOW_MS} - {oldest}) / 60000 - ({NOW_MS} - max(ts_ms)) / 60000 + 1 FROM reading"
    ));
    assert!((left - expected).abs() <= 1, "{left} {expected}");
    let gone = 10 * 1440 - left;
    let sealed: i64 = station.query("SELECT sum(n) FROM reading_hour WHERE sealed");
    assert_eq!(sealed, gone);
    let kept: f64 = station.query("SELECT sum(power) FROM reading");
    let sum: f64 = station.query("SELECT sum(power * n) FROM reading_hour WHERE sealed");
    assert!((sum + kept - total).abs() < 1e-3, "{sum} {kept} {total}");
    assert!(
        size(&station) < before / 2,
        "{} of {before}",
        size(&station)
    );
    let copies = with_name(&station.dir.path().join("snapshots"), "n-");
    assert_eq!(copies.len(), 1);
    assert_eq!(count(&copies[0]), left);
}
