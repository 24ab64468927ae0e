//! Room on the disk: what there is, what that means, and the reserve for when there is none.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::open::{file_error, suffixed};

/// How much room there is, in words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskLevel {
    /// Enough.
    #[default]
    Normal,
    /// Old readings go before their time.
    Low,
    /// Nothing is stored or acknowledged until there is room.
    Full,
}

/// Below how much room the levels begin, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// [`DiskLevel::Low`].
    pub low_bytes: u64,
    /// [`DiskLevel::Full`].
    pub full_bytes: u64,
}

impl DiskLevel {
    /// The level after a look at the disk. A worse level begins at its mark and ends a quarter above
    /// it, so that it does not flicker; what SQLite reports counts whatever the figures say.
    pub fn next(self, room_bytes: u64, reported_full: bool, marks: Marks) -> Self {
        let left = |mark: u64| room_bytes >= mark + mark / 4;
        match self {
            _ if reported_full || room_bytes < marks.full_bytes => DiskLevel::Full,
            DiskLevel::Full if !left(marks.full_bytes) => DiskLevel::Full,
            _ if room_bytes < marks.low_bytes => DiskLevel::Low,
            DiskLevel::Full | DiskLevel::Low if !left(marks.low_bytes) => DiskLevel::Low,
            _ => DiskLevel::Normal,
        }
    }
}

/// Free space for us on the file system of `path`, bytes.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail * stat.f_frsize)
}

/// Room for the database `db`, bytes: what is free without the part that is needed to make its reserve again.
/// The one figure of `status`, log, alerts and `doctor`, and the one the levels go by.
pub fn room_bytes(db: &Path, reserve_bytes: u64) -> Option<u64> {
    let reserve = Reserve::beside(db, reserve_bytes);
    free_bytes(db).map(|free| reserve.room(free))
}

/// A file beside the database that only takes up room: given up, it lets a commit, a checkpoint and
/// retention work on a full disk (SQLite's own DELETE needs room, too).
#[derive(Clone, Debug)]
pub struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// The reserve of the database `db`; of 0 bytes it is none.
    pub fn beside(db: &Path, bytes: u64) -> Self {
        Self {
            path: suffixed(db, ".reserve"),
            bytes,
        }
    }

    /// Where the levels begin for this reserve: room below a quarter of it is none.
    pub fn marks(&self, low_bytes: u64) -> Marks {
        Marks {
            low_bytes,
            full_bytes: (self.bytes / 4).max(1 << 20),
        }
    }

    /// Whether it is there in full.
    pub fn held(&self) -> bool {
        std::fs::metadata(&self.path).map_or(0, |m| m.len()) == self.bytes
    }

    /// Of what is free, the part that is not needed to make the reserve again.
    pub fn room(&self, free_bytes: u64) -> u64 {
        let owed = if self.held() { 0 } else { self.bytes };
        free_bytes.saturating_sub(owed)
    }

    /// Makes it, with its blocks really allocated.
    pub fn make(&self) -> Result<(), StoreError> {
        if self.bytes == 0 {
            return self.release();
        }
        let made = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&self.path)
            .and_then(|file| allocate(&file, self.bytes));
        made.map_err(|source| {
            // Half a reserve would pass for none and still take room.
            let _ = std::fs::remove_file(&self.path);
            file_error("allocate the reserve", &self.path, source)
        })
    }

    /// Gives its room back.
    pub fn release(&self) -> Result<(), StoreError> {
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(file_error("give the reserve up", &self.path, e))
            }
            _ => Ok(()),
        }
    }
}

fn allocate(mut file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // FAT and some network file systems cannot; zeros take room, too.
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let zeros = vec![0; 1 << 16];
            let mut left = bytes;
            while left > 0 {
                let n = left.min(zeros.len() as u64);
                file.write_all(&zeros[..n as usize])?;
                left -= n;
            }
        }
        other => other?,
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks {
        low_bytes: 1000,
        full_bytes: 100,
    };

    #[test]
    fn levels_begin_at_their_marks_and_end_a_quarter_above() {
        use DiskLevel::{Full, Low, Normal};
        for (from, room, to) in [
            (Normal, 1000, Normal),
            (Normal, 999, Low),
            (Low, 1249, Low),
            (Low, 1250, Normal),
            (Low, 100, Low),
            (Low, 99, Full),
            (Normal, 99, Full),
            (Full, 124, Full),
            (Full, 125, Low),
            (Full, 1249, Low),
            (Full, 1250, Normal),
        ] {
            assert_eq!(from.next(room, false, MARKS), to, "{from:?} at {room}");
            assert_eq!(from.next(room, true, MARKS), Full, "reported, at {room}");
        }
    }

    #[test]
    fn the_reserve_takes_real_blocks_and_gives_them_back() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::beside(&dir.path().join("n.db"), 3 << 20);
        assert!(!reserve.held());
        assert_eq!(reserve.room(10 << 20), 7 << 20);
        assert_eq!(reserve.room(1 << 20), 0);
        reserve.make().unwrap();
        let meta = std::fs::metadata(dir.path().join("n.db.reserve")).unwrap();
        assert!(meta.blocks() * 512 >= 3 << 20, "{} blocks", meta.blocks());
        assert!(reserve.held());
        assert_eq!(reserve.room(10 << 20), 10 << 20);
        reserve.release().unwrap();
        reserve.release().unwrap();
        assert!(!reserve.held());
    }

    #[test]
    fn a_reserve_that_finds_no_room_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::beside(&dir.path().join("n.db"), 1 << 60);
        assert!(reserve.make().is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
