//! A full disk, on a small file system of its own: nothing is acknowledged, nothing is lost, it goes on unaided.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;

use crate::intake::{now_plus_s, numbered, publish};
use crate::support::{Broker, Station, wait_for};

/// A tmpfs over a folder, until dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Over the station's folder; nothing, with a loud word, where mounting is not allowed.
    fn over(station: &Station, mb: u32) -> Option<Self> {
        let dir = station.dir.path();
        let config = std::fs::read_to_string(dir.join("n.toml")).unwrap();
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={mb}m"),
                "nightwatt-test",
            ])
            .arg(dir)
            .output();
        if !mounted.is_ok_and(|out| out.status.success()) {
            // Not eprintln!, which the test runner keeps to itself while tests pass.
            let word = b"SKIPPED: a full disk needs a small tmpfs, and mounting one needs root\n";
            std::io::stderr().write_all(word).unwrap();
            return None;
        }
        let config = config.replace("reserve_mb = 1", "reserve_mb = 4\nlow_disk_mb = 6");
        std::fs::write(dir.join("n.toml"), config).unwrap();
        Some(Self(dir.to_owned()))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Takes all there is but so many bytes.
    fn fill(&self, leave: u64) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        while self.free() > leave {
            let n = (self.free() - leave).min(1 << 16) as usize;
            if file.write_all(&vec![1; n]).is_err() {
                break;
            }
        }
    }

    fn relieve(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn wait_for_level(station: &Station, level: &str) {
    wait_for(level, 30, || {
        (station.status()["daemon"]["disk"] == level).then_some(())
    });
}

fn reserve(station: &Station) -> Option<u64> {
    let path = station.db().with_extension("db.reserve");
    std::fs::metadata(path).ok().map(|m| m.len())
}

#[test]
fn while_the_disk_is_full_nothing_is_acknowledged_and_then_everything_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    let Some(disk) = SmallDisk::over(&station, 24) else {
        return;
    };
    station.start();
    station.wait_connected();
    wait_for("the reserve", 10, || {
        (reserve(&station) == Some(4_000_000)).then_some(())
    });
    let readings = numbered(1000);
    let lines: Vec<&str> = readings.iter().map(String::as_str).collect();
    publish(&broker, "solar/t/telemetry", false, &lines[..200]);
    wait_for("the first rows", 10, || {
        (station.rows() == 200).then_some(())
    });

    disk.fill(0);
    wait_for_level(&station, "full");
    publish(&broker, "solar/t/telemetry", false, &lines[200..]);
    let status = wait_for("messages that wait", 20, || {
        let status = station.status();
        (status["daemon"]["received"].as_i64() > Some(200)).then_some(status)
    });
    assert_eq!(status["verdict"]["level"], "down");
    assert!(
        status["verdict"]["text"].to_string().contains("full"),
        "{status}"
    );
    for _ in 0..10 {
        assert_eq!(station.status()["daemon"]["committed"], 200);
    }
    assert!(station.exited().is_none());

    disk.relieve();
    wait_for("every row", 30, || (station.rows() == 1000).then_some(()));
    wait_for_level(&station, "normal");
    wait_for("the reserve again", 30, || {
        (reserve(&station) == Some(4_000_000)).then_some(())
    });
    let events: i64 = station.query("SELECT count(*) FROM event WHERE kind = 'disk_full'");
    assert_eq!(events, 1);
    assert_eq!(station.query::<String>("PRAGMA integrity_check"), "ok");
}

/// The file system stays as full as it is: what makes room is the reserve first, then old readings.
#[test]
fn on_a_full_disk_the_reserve_lets_old_readings_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "");
    let Some(disk) = SmallDisk::over(&station, 32) else {
        return;
    };
    station.start();
    station.wait_connected();
    station.stop();
    seed(&station.db(), 20, 100_000);
    seed(&station.db(), 13, 5_000);
    station.start();
    wait_for("the reserve", 10, || {
        (reserve(&station) == Some(4_000_000)).then_some(())
    });
    station.stop();
    disk.fill(0);
    // Opening needs room, too.
    station.start();
    station.wait_connected();
    let now = format!("{{\"ts\":\"{}\",\"power\":1}}", now_plus_s(0));
    publish(&broker, "solar/new/telemetry", false, &[&now]);
    wait_for("the new reading", 60, || {
        (station.query::<i64>("SELECT count(*) FROM telemetry WHERE device_id = 'new'") == 1)
            .then_some(())
    });
    // What is not two weeks old stays; of what went, the hours do.
    let young: i64 = station.query("SELECT count(*) FROM reading WHERE power = 13");
    assert_eq!(young, 5_000);
    let (old, rolled): (i64, i64) = (
        station.query("SELECT count(*) FROM reading WHERE power = 20"),
        station.query("SELECT sum(n) FROM reading_hour WHERE sealed"),
    );
    assert!(old < 100_000, "nothing went");
    assert_eq!(old + rolled, 100_000);
    assert!(disk.filler().exists());
}

/// Readings a second apart from so many days ago; the power says how many.
fn seed(db: &Path, days: i64, rows: i64) {
    let conn = Connection::open(db).unwrap();
    conn.execute_batch(&format!(
        "INSERT OR IGNORE INTO device VALUES (1, 't', 0);
         WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {rows} - 1)
         INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted, power)
         SELECT (unixepoch() - {days} * 86400 + i) * 1000, 1, 0, 0, 1, {days} FROM n;"
    ))
    .unwrap();
    conn.close().unwrap();
}
