//! The disk full, the database damaged, a foreign program at it.

use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use super::{Harm, can_mount, check, count, full, harm, harm_at_the_end, succeeds};
use crate::intake::{now_plus_s, numbered, publish};
use crate::support::{Broker, Station, wait_for};

/// A tmpfs of this many MiB; unmounted when dropped.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn new(mib: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let size = format!("size={mib}m");
        assert!(succeeds(
            "mount",
            &["-t", "tmpfs", "-o", &size, "tmpfs", path]
        ));
        Self(dir)
    }

    pub fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    /// Takes all the space there is.
    pub fn fill(&self) {
        let path = self.0.path().join("filler");
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path);
        let mut file = file.unwrap();
        for block in [1 << 20, 4096] {
            while file.write_all(&vec![1; block]).is_ok() {}
        }
    }

    pub fn empty(&self) {
        std::fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        succeeds("umount", &["-l", self.0.path().to_str().unwrap()]);
    }
}

#[test]
fn a_full_disk_is_borne_and_nothing_is_acknowledged_meanwhile() {
    if !can_mount() {
        return;
    }
    check(
        "disk full, killed while full",
        count(1, 3),
        "commit_before_ack",
        disk_full,
    );
}

/// A commit has failed, or the watch of the disk has stopped the writer before one could.
fn noticed(station: &Station) -> bool {
    let daemon = &station.status()["daemon"];
    daemon["store_failing"] == true || daemon["disk"] == "full"
}

fn disk_full(without: &'static str, _: u32) -> Harm {
    const MESSAGES: i64 = 3000;
    let full_for = Duration::from_secs(if full() { 120 } else { 2 });
    let disk = SmallDisk::new(48);
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::storing_in(Some(disk.0.path()), &broker.url(), "");
    station.without = without;
    station.start();
    station.wait_connected();
    let readings = numbered(MESSAGES);
    let lines: Vec<&str> = readings.iter().map(String::as_str).collect();
    publish(&broker, "solar/t/telemetry", false, &lines[..1000]);
    wait_for("rows before", 20, || (station.rows() >= 1000).then_some(()));
    disk.fill();
    publish(&broker, "solar/t/telemetry", false, &lines[1000..2000]);
    wait_for("the daemon to notice", 30, || {
        disk.fill();
        noticed(&station).then_some(())
    });
    let since = Instant::now();
    wait_for("the time of the full disk", 200, || {
        disk.fill();
        assert!(
            station.exited().is_none(),
            "the daemon ended:\n{}",
            station.log()
        );
        (since.elapsed() > full_for).then_some(())
    });
    assert_eq!(station.status()["daemon"]["intake"]["connected"], true);
    // With the next start's disk empty again: whatever was acknowledged has to be there.
    station.kill_9();
    disk.empty();
    station.start();
    publish(&broker, "solar/t/telemetry", false, &lines[2000..]);
    harm_at_the_end(&broker, &station, MESSAGES)
}

#[test]
fn once_there_is_space_again_it_goes_on_unaided() {
    if !can_mount() {
        return;
    }
    check(
        "disk full, then space again",
        count(1, 5),
        "retry",
        |without, _| {
            let disk = SmallDisk::new(48);
            let dir = tempfile::tempdir().unwrap();
            let broker = Broker::start(dir.path(), "");
            let mut station = Station::storing_in(Some(disk.0.path()), &broker.url(), "");
            station.without = without;
            station.start();
            station.wait_connected();
            disk.fill();
            let readings = numbered(1000);
            let lines: Vec<&str> = readings.iter().map(String::as_str).collect();
            publish(&broker, "solar/t/telemetry", false, &lines);
            if without.is_empty() {
                wait_for("the daemon to notice", 30, || {
                    disk.fill();
                    noticed(&station).then_some(())
                });
            } else {
                wait_for("the messages to be dealt with", 30, || {
                    disk.fill();
                    (station.status()["daemon"]["committed"] == 1000).then_some(())
                });
            }
            disk.empty();
            harm_at_the_end(&broker, &station, 1000)
        },
    );
}

/// A stopped station with `rows` rows, its WAL not folded in.
fn killed_station(broker: &Broker, rows: usize, without: &'static str) -> Station {
    let mut station = Station::new(&broker.url(), "");
    station.without = without;
    station.start();
    station.wait_connected();
    for chunk in numbered(rows as i64).chunks(rows / 10) {
        let lines: Vec<&str> = chunk.iter().map(String::as_str).collect();
        let before = station.rows();
        publish(broker, "solar/t/telemetry", false, &lines);
        wait_for("the chunk", 20, || {
            (station.rows() >= before + chunk.len() as i64).then_some(())
        });
    }
    station.kill_9();
    station
}

/// What a card that lies about its flushes leaves behind. Rows in the torn part are gone, that cannot
/// be helped; the rest must be whole and the daemon must start. Without the log what is torn is the database.
#[test]
fn a_torn_wal_tail_costs_the_last_commits_and_nothing_else() {
    check(
        "torn WAL tail (of whole frames that stand)",
        count(8, 72),
        "wal",
        |without, seed| {
            let dir = tempfile::tempdir().unwrap();
            let broker = Broker::start(dir.path(), "");
            let mut station = killed_station(&broker, 200, without);
            let wal = station.db().with_extension("db-wal");
            assert_eq!(wal.exists(), without.is_empty());
            let written_last = if wal.exists() { wal } else { station.db() };
            let length = std::fs::metadata(&written_last).unwrap().len();
            // Anywhere in the last three frames of 4,096 + 24 bytes: cut off, or overwritten.
            let tail = length - u64::from(seed % 24 + 1) * 512;
            let file = std::fs::OpenOptions::new().write(true).open(written_last);
            let mut file = file.unwrap();
            if seed % 2 == 0 {
                file.set_len(tail).unwrap();
            } else {
                file.seek(SeekFrom::Start(tail)).unwrap();
                file.write_all(&[0xa5; 512]).unwrap();
            }
            drop(file);
            station.start();
            wait_for_the_rest(&broker, &station);
            let whole = station.query::<String>("PRAGMA integrity_check") == "ok";
            // Commits of the stream before the last three frames are at least the first half.
            let first_half: i64 =
                station.query("SELECT count(DISTINCT power) FROM telemetry WHERE power < 100");
            Harm {
                lost: 100 - first_half + i64::from(!whole),
                ..harm(
                    &station,
                    station.query("SELECT count(DISTINCT power) FROM telemetry"),
                )
            }
            .without_end()
        },
    );
}

impl Harm {
    /// The row of the end marker has no power, so it counts as a row too many.
    fn without_end(self) -> Self {
        Self {
            doubled: self.doubled - 1,
            ..self
        }
    }
}

fn wait_for_the_rest(broker: &Broker, station: &Station) {
    station.wait_connected();
    super::wait_for_the_end(broker, station);
}

/// A page of zeros somewhere in the table. The start finds it, moves the file aside as it is and puts the
/// snapshot in its place, and what waits at the broker comes in.
#[test]
fn a_zeroed_page_is_mended_from_the_snapshot_and_loses_no_message() {
    const ROWS: i64 = 2000;
    check(
        "zeroed page in the table",
        count(1, 8),
        "start_check",
        |without, seed| {
            let dir = tempfile::tempdir().unwrap();
            let broker = Broker::start(dir.path(), "");
            let mut station = Station::new(&broker.url(), "");
            station.without = without;
            station.start();
            station.wait_connected();
            let readings = numbered(ROWS);
            let lines: Vec<&str> = readings.iter().map(String::as_str).collect();
            publish(&broker, "solar/t/telemetry", false, &lines);
            wait_for("the rows", 20, || (station.rows() == ROWS).then_some(()));
            assert!(station.run(&["snapshot"]).status.success());
            let pages = "FROM dbstat WHERE name = 'reading' ORDER BY path";
            let all: i64 = station.query(&format!("SELECT count(*) {pages}"));
            let nth = i64::from(seed) % all;
            let page: i64 = station.query(&format!("SELECT pageno {pages} LIMIT 1 OFFSET {nth}"));
            station.stop();
            let file = std::fs::OpenOptions::new().write(true).open(station.db());
            let mut file = file.unwrap();
            file.seek(SeekFrom::Start((page as u64 - 1) * 4096))
                .unwrap();
            file.write_all(&[0; 4096]).unwrap();
            drop(file);
            let damaged = std::fs::read(station.db()).unwrap();
            let new = format!("{{\"ts\":\"{}\",\"power\":{ROWS}}}", now_plus_s(5));
            publish(&broker, "solar/t/telemetry", false, &[&new]);
            station.start_unready();
            // Without the check it may end, or run on with a file that cannot be read.
            let deadline = Instant::now() + Duration::from_secs(30);
            let mut found = readable(&station);
            while found.0 <= ROWS && station.exited().is_none() && Instant::now() < deadline {
                std::thread::park_timeout(Duration::from_millis(10));
                found = readable(&station);
            }
            if without.is_empty() {
                let aside = std::fs::read_dir(station.dir.path()).unwrap().any(|e| {
                    let path = e.unwrap().path();
                    path.to_string_lossy().contains(".corrupt-")
                        && std::fs::read(path).unwrap() == damaged
                });
                assert!(aside, "the damaged file is not there as it was");
            }
            let (distinct, rows) = found;
            Harm {
                lost: ROWS + 1 - distinct,
                doubled: rows - distinct,
            }
        },
    );
}

/// Distinct powers and rows, as far as the database can be read at all.
fn readable(station: &Station) -> (i64, i64) {
    let sql = "SELECT count(DISTINCT power), count(*) FROM telemetry";
    rusqlite::Connection::open_with_flags(station.db(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
        .and_then(|conn| conn.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?))))
        .unwrap_or((0, 0))
}

/// Closing the database in a foreign program deletes the WAL where nobody seems to have it open. The
/// daemon's own readers must not lose it the lock that says somebody has.
#[test]
fn a_foreign_reader_does_not_take_the_wal_away() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    station.start();
    station.wait_connected();
    let send = |power: i64| {
        let payload = format!("{{\"ts\":\"{}\",\"power\":{power}}}", now_plus_s(power));
        publish(&broker, "solar/t/telemetry", false, &[&payload]);
        wait_for("the row", 10, || (station.rows() == power).then_some(()));
    };
    send(1);
    station.status();
    // SQLite's SHARED lock, as the kernel sees it: what a foreign program's close is stopped by.
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(station.db()).unwrap());
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    let ours = format!(" READ {} ", station.pid());
    let held = locks
        .lines()
        .any(|l| l.contains(&ours) && l.contains(&format!(":{inode} ")));
    assert!(held, "the daemon holds no lock on its database:\n{locks}");
    let foreign = rusqlite::Connection::open(station.db()).unwrap();
    let _: i64 = foreign
        .query_row("SELECT count(*) FROM telemetry", [], |r| r.get(0))
        .unwrap();
    foreign.close().unwrap();
    assert!(
        station.db().with_extension("db-wal").exists(),
        "the WAL of a running daemon is gone"
    );
    send(2);
    send(3);
    assert_eq!(station.status()["verdict"]["level"], "ok");
    station.kill_9();
    assert_eq!(station.rows(), 3);
}
