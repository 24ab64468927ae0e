//! Opens the database the one way that keeps its promises: locked, WAL, FULL, read back.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::{StoreError, migrations, sql};
use crate::fault;

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// SQLite before 3.51.3 can corrupt a WAL database when two connections checkpoint at once.
const OLDEST_SQLITE: i32 = 3_051_003;

/// Held for as long as this process may write to the store; the lock goes with the process.
#[derive(Debug)]
pub struct StoreLock {
    _file: File,
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
            .write(true)
            .open(&lock)
            .map_err(|source| file_error("open the lock", &lock, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked {
                path: db.to_owned(),
                lock,
            }),
            Err(TryLockError::Error(source)) => Err(file_error("lock", &lock, source)),
        }
    }
}

/// The database's companion with this suffix (`-wal`, `.lock`).
pub(super) fn suffixed(db: &Path, suffix: &str) -> PathBuf {
    let mut name = db.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn file_error(action: &'static str, path: &Path, source: std::io::Error) -> StoreError {
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
    set(&conn, "journal_mode", "WAL", "wal")?;
    if fault::without("full_sync") {
        set(&conn, "synchronous", "NORMAL", "1")?;
    } else {
        set(&conn, "synchronous", "FULL", "2")?;
    }
    set(&conn, "journal_size_limit", "16777216", "16777216")?;
    set(&conn, "mmap_size", "0", "0")?;
    set(&conn, "foreign_keys", "ON", "1")?;
    migrations::apply(&mut conn, db)?;
    Ok(conn)
}

/// A read-only connection; works beside a running daemon and on a file nobody has open.
pub(super) fn reading(db: &Path) -> Result<Connection, StoreError> {
    // SQLite would say "unable to open database file" and nothing else. Looked at and never opened:
    // closing any descriptor of the file drops every POSIX lock that this process has on it, the
    // writer's too, and the next foreign program to close the database would delete the live WAL.
    std::fs::metadata(db).map_err(|source| file_error("read the database", db, source))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = |uri: bool| -> Result<Connection, rusqlite::Error> {
        let conn = if uri {
            // Nobody writes (there is no WAL) and the folder is not ours to put a -shm into.
            let name = format!("file:{}?immutable=1", percent_encoded(db));
            Connection::open_with_flags(name, flags | OpenFlags::SQLITE_OPEN_URI)?
        } else {
            Connection::open_with_flags(db, flags)?
        };
        conn.busy_timeout(BUSY_TIMEOUT)?;
        conn.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
        Ok(conn)
    };
    let conn = match open(false) {
        Err(_) if !suffixed(db, "-wal").exists() => open(true),
        other => other,
    }
    .map_err(sql("open the database for reading"))?;
    migrations::check_readable(&conn, db)?;
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
        let refused = StoreLock::acquire(&db).unwrap_err();
        assert!(matches!(refused, StoreError::Locked { .. }), "{refused}");
        drop(first);
        StoreLock::acquire(&db).unwrap();
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
