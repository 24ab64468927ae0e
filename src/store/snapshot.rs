//! Verified copies of the database beside it: written under another name, checked, synced, then named.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::open::{self, file_error, suffixed};
use super::{StoreError, migrations, space, sql};
use crate::reading::TimestampMs;

/// Snapshots kept; with room low, one.
pub const KEEP: usize = 2;
const PARTIAL: &str = ".partial";

/// A finished snapshot.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Snapshot {
    /// Where it is.
    pub path: PathBuf,
    /// Its size, bytes.
    pub bytes: u64,
    /// How long it took, ms.
    pub ms: u64,
}

/// The snapshots of `db`, the newest first.
pub fn list(db: &Path) -> Vec<PathBuf> {
    let prefix = format!("{}-", stem(db));
    let mut found = files(db, |name| {
        name.starts_with(&prefix) && name.ends_with(".db")
    });
    // The names hold the time, so that a copied folder keeps its order.
    found.sort();
    found.reverse();
    found
}

/// Writes a snapshot of `db` into its folder, keeps the newest [`KEEP`], and leaves `spare_bytes` free.
///
/// Reads through a connection of its own; the writer goes on, into its log, which cannot be folded in
/// until the copy is made.
pub fn write(db: &Path, now: TimestampMs, spare_bytes: u64) -> Result<Snapshot, StoreError> {
    let folder = folder(db);
    std::fs::create_dir_all(&folder).map_err(|e| file_error("create the folder", &folder, e))?;
    // A kill in the middle leaves one behind; nobody else writes here.
    let prefix = format!("{}-", stem(db));
    for left in files(db, |n| n.starts_with(&prefix) && n.contains(PARTIAL)) {
        remove(&left)?;
    }
    let name = format!("{}-{}.db", stem(db), stamp(now));
    let snapshot = write_to(db, &folder.join(name), spare_bytes)?;
    prune(db, KEEP)?;
    Ok(snapshot)
}

/// Writes a verified copy of `db` under the name `to`, which must be free.
pub fn write_to(db: &Path, to: &Path, spare_bytes: u64) -> Result<Snapshot, StoreError> {
    let began = Instant::now();
    if to.exists() {
        let taken = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        return Err(file_error("write the snapshot", to, taken));
    }
    check_room("a snapshot", db, parent(to), spare_bytes)?;
    let partial = suffixed(to, PARTIAL);
    let written = copy(db, &partial)
        .and_then(|()| verify(&partial))
        .and_then(|()| put(&partial, to));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&partial);
        return Err(error);
    }
    Ok(Snapshot {
        bytes: size(to),
        path: to.to_owned(),
        ms: began.elapsed().as_millis() as u64,
    })
}

/// Removes all but the newest `keep` snapshots; returns how many went.
pub fn prune(db: &Path, keep: usize) -> Result<usize, StoreError> {
    let old: Vec<PathBuf> = list(db).into_iter().skip(keep).collect();
    old.iter().try_for_each(|path| remove(path))?;
    Ok(old.len())
}

/// Holds a file that nobody writes to, with the log beside it, to SQLite's own check and to our schema.
pub fn verify(path: &Path) -> Result<(), StoreError> {
    let unsound = |why: String| StoreError::Unsound {
        path: path.to_owned(),
        why,
    };
    std::fs::metadata(path).map_err(|e| file_error("read", path, e))?;
    let conn = match size(&suffixed(path, "-wal")) {
        0 => open::immutable(path).map_err(|e| unsound(e.to_string()))?,
        _ => open::read_only(path).map_err(|e| unsound(crate::errors::chain(&e)))?,
    };
    migrations::check_readable(&conn, path)?;
    conn.query_row(
        "SELECT count(*) FROM (SELECT 1 FROM reading LIMIT 1)",
        [],
        |_| Ok(()),
    )
    .map_err(|e| unsound(e.to_string()))?;
    match check(&conn, "quick_check") {
        Ok(None) => Ok(()),
        Ok(Some(why)) => Err(unsound(why)),
        Err(error) => Err(unsound(error.to_string())),
    }
}

/// The first thing that SQLite's check (`quick_check`, `integrity_check`) finds wrong.
pub(super) fn check(conn: &rusqlite::Connection, pragma: &str) -> rusqlite::Result<Option<String>> {
    let said: String = conn.query_row(&format!("PRAGMA {pragma}(1)"), [], |r| r.get(0))?;
    Ok((said != "ok").then_some(said))
}

/// Refuses what would leave less than `spare_bytes` in `folder` after a copy of `db`.
pub(super) fn check_room(
    what: &'static str,
    db: &Path,
    folder: &Path,
    spare_bytes: u64,
) -> Result<(), StoreError> {
    let copied = size(db) + size(&suffixed(db, "-wal"));
    let needed_bytes = copied + copied / 5 + spare_bytes;
    match space::free_bytes(folder) {
        Some(free_bytes) if free_bytes < needed_bytes => Err(StoreError::NoRoom {
            what,
            needed_bytes,
            free_bytes,
        }),
        _ => Ok(()),
    }
}

fn copy(db: &Path, to: &Path) -> Result<(), StoreError> {
    let act = "write the snapshot";
    let name = to.to_str().ok_or_else(|| {
        let odd = std::io::Error::other("the name is not UTF-8");
        file_error(act, to, odd)
    })?;
    let conn = open::reading(db)?;
    // A file from elsewhere may lack it; its copy then has it. (No write: the connection cannot.)
    let _ = conn.pragma_update(None, "auto_vacuum", "INCREMENTAL");
    conn.execute("VACUUM INTO ?1", [name]).map_err(sql(act))?;
    Ok(())
}

/// Gives a finished file its name, so that a power cut finds all of it there or nothing.
pub(super) fn put(file: &Path, name: &Path) -> Result<(), StoreError> {
    File::open(file)
        .and_then(|f| f.sync_all())
        .map_err(|e| file_error("sync", file, e))?;
    std::fs::rename(file, name).map_err(|e| file_error("name the finished file", name, e))?;
    sync_folder(name)
}

/// Makes what was renamed beside `path` last.
pub(super) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    let folder = parent(path);
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| file_error("sync the folder", folder, e))
}

/// A time as part of a file name, in order of time.
pub(super) fn stamp(now: TimestampMs) -> String {
    now.to_utc().format("%Y%m%dT%H%M%S%.3fZ").to_string()
}

fn folder(db: &Path) -> PathBuf {
    parent(db).join("snapshots")
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn stem(db: &Path) -> String {
    db.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn files(db: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder(db)) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|e| wanted(&e.file_name().to_string_lossy()))
        .map(|e| e.path())
        .collect()
}

fn remove(path: &Path) -> Result<(), StoreError> {
    std::fs::remove_file(path).map_err(|e| file_error("remove the old snapshot", path, e))
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}
