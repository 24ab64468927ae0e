//! Opens the database the one way that keeps its promises: locked, WAL, FULL, read back.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::{StoreError, migrations, sql};
use crate::fault;

pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// SQLite before 3.51.3 can corrupt a WAL database when two connections checkpoint at once.
const OLDEST_SQLITE: i32 = 3_051_003;

/// Held for as long as this process may write to the store; the lock goes with the process.
///
/// The lock file's text is the mark that tells the next start how the last one ended.
#[derive(Debug)]
pub struct StoreLock {
    file: File,
    path: PathBuf,
}

/// How the last use of the store ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// There was none.
    Unused,
    /// In order, and the database had this size and time of change.
    Clean(String),
    /// It did not end: a crash, a power cut, a kill.
    Running,
    /// SQLite had found damage.
    Damaged,
}

impl StoreLock {
    /// Takes the lock beside `db`, creating the folder where it is missing.
    pub fn acquire(db: &Path) -> Result<Self, StoreError> {
        if let Some(folder) = db.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|source| file_error("create the folder", folder, source))?;
        }
        let lock = suffixed(db, ".lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&lock)
            .map_err(|source| file_error("open the lock", &lock, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file, path: lock }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked {
                path: db.to_owned(),
                lock,
            }),
            Err(TryLockError::Error(source)) => Err(file_error("lock", &lock, source)),
        }
    }

    /// The process that holds the lock beside `db`, as the kernel tells; the lock itself is not touched.
    pub fn holder(db: &Path) -> Option<u32> {
        let inode = std::fs::metadata(suffixed(db, ".lock")).ok()?.ino();
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        lock_holder(&locks, inode)
    }

    /// The process that works on the store beside `db`, if one does. The lock is tried only where the kernel
    /// names a holder: a daemon that starts at this moment must not find it taken by the question.
    pub fn in_use(db: &Path) -> Option<u32> {
        let process = Self::holder(db)?;
        let file = File::open(suffixed(db, ".lock")).ok()?;
        matches!(file.try_lock(), Err(TryLockError::WouldBlock)).then_some(process)
    }

    /// Whether `db` is as it was when it was last closed in order.
    pub fn was_closed_in_order(&self, db: &Path) -> Result<bool, StoreError> {
        let mark = self.mark()?;
        Ok(matches!(mark, Mark::Clean(state) if file_state(db).is_ok_and(|s| s == state)))
    }

    /// From here on the store counts as in use: an end without [`StoreLock::mark_clean`] was none.
    pub fn mark_running(&self) -> Result<(), StoreError> {
        self.write_mark("running")
    }

    /// The store `db` was closed in order.
    pub fn mark_clean(&self, db: &Path) -> Result<(), StoreError> {
        let state = file_state(db).map_err(|e| file_error("look at", db, e))?;
        self.write_mark(&format!("clean {state}"))
    }

    /// SQLite has found damage: the next start looks at every page and at every index.
    pub fn mark_damaged(&self) -> Result<(), StoreError> {
        self.write_mark("damaged")
    }

    pub(super) fn mark(&self) -> Result<Mark, StoreError> {
        let mut text = [0; 100];
        let n = self
            .file
            .read_at(&mut text, 0)
            .map_err(|e| file_error("read", &self.path, e))?;
        let text = String::from_utf8_lossy(&text[..n]);
        Ok(match text.trim() {
            "" => Mark::Unused,
            "damaged" => Mark::Damaged,
            other => match other.strip_prefix("clean ") {
                Some(state) => Mark::Clean(state.to_owned()),
                None => Mark::Running,
            },
        })
    }

    fn write_mark(&self, text: &str) -> Result<(), StoreError> {
        // One write over the old text, filled up to its length: no moment without a mark.
        self.file
            .write_all_at(format!("{text:<99}\n").as_bytes(), 0)
            .and_then(|()| self.file.sync_all())
            .map_err(|e| file_error("write", &self.path, e))
    }
}

/// Size and time of change: a file that was put in its place is noticed.
pub(super) fn file_state(path: &Path) -> std::io::Result<String> {
    let m = std::fs::metadata(path)?;
    Ok(format!("{} {}.{:09}", m.len(), m.mtime(), m.mtime_nsec()))
}

/// The process that holds a `flock` on the file with this inode, from the text of `/proc/locks`.
fn lock_holder(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (kind, pid, file) = (words.get(1)?, words.get(4)?, words.get(5)?);
        let found = *kind == "FLOCK" && file.rsplit(':').next() == Some(&inode.to_string());
        found.then(|| pid.parse().ok()).flatten()
    })
}

/// The database's companion with this suffix (`-wal`, `.lock`).
pub(super) fn suffixed(db: &Path, suffix: &str) -> PathBuf {
    let mut name = db.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(super) fn file_error(action: &'static str, path: &Path, source: std::io::Error) -> StoreError {
    StoreError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

/// The writing connection, migrated. The caller holds the [`StoreLock`].
pub(super) fn writing(db: &Path) -> Result<Connection, StoreError> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        return Err(StoreError::Pragma {
            name: "the library version",
            wanted: "3.51.3 or later",
            found: rusqlite::version().to_owned(),
        });
    }
    let mut conn = Connection::open(db).map_err(sql("open the database"))?;
    conn.busy_timeout(BUSY_TIMEOUT)
        .map_err(sql("set the busy timeout"))?;
    // Only takes on a file without tables; it lets retention give pages back without a VACUUM.
    conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")
        .map_err(sql("set auto_vacuum"))?;
    if fault::without("wal") {
        set(&conn, "journal_mode", "MEMORY", "memory")?;
    } else {
        set(&conn, "journal_mode", "WAL", "wal")?;
    }
    if fault::without("full_sync") {
        set(&conn, "synchronous", "NORMAL", "1")?;
    } else {
        set(&conn, "synchronous", "FULL", "2")?;
    }
    set(&conn, "journal_size_limit", "16777216", "16777216")?;
    set(&conn, "mmap_size", "0", "0")?;
    // KiB: rows are appended in the order of time, so what is written next is near what was last.
    set(&conn, "cache_size", "-1024", "-1024")?;
    set(&conn, "foreign_keys", "ON", "1")?;
    migrations::apply(&mut conn, db)?;
    Ok(conn)
}

/// A read-only connection; works beside a running daemon and on a file nobody has open.
pub(super) fn reading(db: &Path) -> Result<Connection, StoreError> {
    let conn = read_only(db)?;
    migrations::check_readable(&conn, db)?;
    Ok(conn)
}

/// [`reading`] without a look at the schema.
pub(super) fn read_only(db: &Path) -> Result<Connection, StoreError> {
    // SQLite would say "unable to open database file" and nothing else. Looked at and never opened:
    // closing any descriptor of the file drops every POSIX lock that this process has on it, the
    // writer's too, and the next foreign program to close the database would delete the live WAL.
    let looked = std::fs::metadata(db).and_then(|m| match m.is_file() {
        true => Ok(()),
        false => Err(std::io::Error::other("it is not a file")),
    });
    looked.map_err(|source| file_error("read the database", db, source))?;
    let open = || -> Result<Connection, rusqlite::Error> {
        let conn = Connection::open_with_flags(db, READ_ONLY)?;
        conn.busy_timeout(BUSY_TIMEOUT)?;
        conn.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
        Ok(conn)
    };
    match open() {
        // Nobody writes (there is no WAL) and the folder is not ours to put a -shm into.
        Err(_) if !suffixed(db, "-wal").exists() => immutable(db),
        other => other,
    }
    .map_err(sql("open the database for reading"))
}

const READ_ONLY: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_ONLY.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// Reads a file that nobody writes to, and leaves nothing beside it.
pub(super) fn immutable(db: &Path) -> Result<Connection, rusqlite::Error> {
    let name = format!("file:{}?immutable=1", percent_encoded(db));
    let conn = Connection::open_with_flags(name, READ_ONLY | OpenFlags::SQLITE_OPEN_URI)?;
    conn.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
    Ok(conn)
}

fn percent_encoded(path: &Path) -> String {
    path.to_string_lossy()
        .replace('%', "%25")
        .replace('?', "%3f")
        .replace('#', "%23")
}

fn set(
    conn: &Connection,
    name: &'static str,
    value: &'static str,
    wanted: &'static str,
) -> Result<(), StoreError> {
    conn.pragma_update(None, name, value)
        .map_err(sql("set a pragma"))?;
    let found: String = conn
        .pragma_query_value(None, name, |r| {
            r.get::<_, rusqlite::types::Value>(0).map(|v| match v {
                rusqlite::types::Value::Integer(i) => i.to_string(),
                rusqlite::types::Value::Text(t) => t,
                other => format!("{other:?}"),
            })
        })
        .map_err(sql("read a pragma back"))?;
    if found.eq_ignore_ascii_case(wanted) {
        Ok(())
    } else {
        Err(StoreError::Pragma {
            name,
            wanted,
            found,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_the_lock_ends_with_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("deep/er/n.db");
        let first = StoreLock::acquire(&db).unwrap();
        assert_eq!(StoreLock::holder(&db), Some(std::process::id()));
        let refused = StoreLock::acquire(&db).unwrap_err();
        assert!(matches!(refused, StoreError::Locked { .. }), "{refused}");
        drop(first);
        StoreLock::acquire(&db).unwrap();
    }

    #[test]
    fn the_holder_of_a_lock_is_found_by_inode_and_kind() {
        let locks = "1: POSIX  ADVISORY  READ 11 08:01:42 128 128\n\
                     2: FLOCK  ADVISORY  WRITE 12 08:01:142 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 13 08:01:42 0 EOF";
        assert_eq!(lock_holder(locks, 42), Some(13));
        assert_eq!(lock_holder(locks, 2), None);
    }

    #[test]
    fn the_pragmas_that_durability_rests_on_are_really_set() {
        let dir = tempfile::tempdir().unwrap();
        let conn = writing(&dir.path().join("n.db")).unwrap();
        let get = |name: &str| -> String {
            conn.pragma_query_value(None, name, |r| r.get::<_, rusqlite::types::Value>(0))
                .map(|v| format!("{v:?}"))
                .unwrap()
        };
        assert_eq!(get("journal_mode"), "Text(\"wal\")");
        assert_eq!(get("synchronous"), "Integer(2)");
        assert_eq!(get("auto_vacuum"), "Integer(2)");
    }

    #[test]
    fn a_reader_cannot_write_and_a_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("n.db");
        let said = reading(&db).unwrap_err().to_string();
        assert!(said.contains("n.db"), "{said}");
        drop(writing(&db).unwrap());
        let conn = reading(&db).unwrap();
        conn.execute("DELETE FROM device", []).unwrap_err();
    }
}
