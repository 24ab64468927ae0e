//! Power cuts: an ext4 of its own, shut down without flushing its log, as when the mains fail.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Harm, available, can_mount, check, count, harm_at_the_end, random, succeeds};
use crate::intake::{numbered, publish};
use crate::support::{Broker, Station, wait_for};

/// `FS_IOC_SHUTDOWN` with `NOLOGFLUSH`: what was not synced is gone, the journal replays at the mount.
const CUT: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// An ext4 in a file; unmounted when dropped.
pub struct Ext4 {
    dir: tempfile::TempDir,
}

impl Ext4 {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(96 << 20)
            .unwrap();
        assert!(succeeds(
            "mkfs.ext4",
            &["-q", "-F", image.to_str().unwrap()]
        ));
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        let disk = Self { dir };
        disk.mount();
        disk
    }

    pub fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("mnt")
    }

    fn mount(&self) {
        let image = self.dir.path().join("image");
        let words = ["-o", "loop", image.to_str().unwrap()];
        let mount = self.root();
        assert!(succeeds(
            "mount",
            &[&words[..], &[mount.to_str().unwrap()]].concat()
        ));
    }

    pub fn cut(&self) {
        assert!(succeeds("python3", &["-c", CUT, text(&self.root())]));
    }

    /// Mounts what the cut has left, from a copy: as long as any other mount namespace of the machine holds
    /// the first mount, the kernel would hand the same file system out again, still shut down.
    pub fn remount(&self) {
        wait_for("the unmount", 20, || {
            succeeds("umount", &[text(&self.root())]).then_some(())
        });
        let (image, copy) = (self.dir.path().join("image"), self.dir.path().join("copy"));
        std::fs::copy(&image, &copy).unwrap();
        std::fs::rename(&copy, &image).unwrap();
        self.mount();
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        succeeds("umount", &["-l", text(&self.root())]);
    }
}

/// What a cut needs.
pub fn can_cut() -> bool {
    can_mount() && available("python3", succeeds("python3", &["-V"]))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_power_cut_loses_no_acknowledged_row() {
    if !can_cut() {
        return;
    }
    check(
        "power cut in mid-stream",
        count(3, 100),
        "full_sync",
        cut_in_mid_stream,
    );
    check(
        "power cut, against acknowledging too soon",
        count(1, 5),
        "commit_before_ack",
        cut_in_mid_stream,
    );
}

fn cut_in_mid_stream(without: &'static str, seed: u32) -> Harm {
    const CHUNKS: i64 = 60;
    const CHUNK: i64 = 50;
    let mut random_state = u64::from(seed);
    let disk = Ext4::new();
    let root = disk.root();
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::storing_in(Some(&root), &broker.url(), "");
    station.without = without;
    station.start();
    station.wait_connected();
    let readings = numbered(CHUNKS * CHUNK);
    let published = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            // In pieces, so that there are many commits.
            for chunk in readings.chunks(CHUNK as usize) {
                let lines: Vec<&str> = chunk.iter().map(String::as_str).collect();
                publish(&broker, "solar/t/telemetry", false, &lines);
            }
            published.store(true, Ordering::SeqCst);
        });
        let at = 200 + random(&mut random_state, 2000) as i64;
        wait_for("progress before the cut", 60, || {
            (station.rows() > at || published.load(Ordering::SeqCst)).then_some(())
        });
        // Without current nothing runs: left running, it may hear from an fsync that was under way that it succeeded, and
        // acknowledge what is gone (shutdown.py shows that).
        station.signal("-STOP");
        disk.cut();
        station.kill_9();
        disk.remount();
        // Whatever the journal gave back; a database that never reached the disk is a new one.
        station.start();
    });
    let harm = harm_at_the_end(&broker, &station, CHUNKS * CHUNK);
    assert_eq!(station.query::<String>("PRAGMA integrity_check"), "ok");
    station.kill_9();
    harm
}
