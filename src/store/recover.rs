//! A start after an unclean end: the check, and what is done with a damaged file. Nothing is deleted.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rusqlite::params;

use super::open::{self, Mark, StoreLock, file_error, suffixed};
use super::snapshot::{self, check, stamp};
use super::{StoreError, sql};
use crate::fault;
use crate::reading::TimestampMs;

const COMPANIONS: [&str; 3] = ["", "-wal", "-shm"];
/// A complete replacement, waiting to be put in place of the database.
const RESTORING: &str = ".restoring";
const CORRUPT: &str = ".corrupt-";
const BEFORE_RESTORE: &str = ".before-restore-";

/// What a start found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Closed in order, and as it was left; or not there yet.
    Clean,
    /// Not closed in order, and sound all the same; the check took this long, ms.
    Sound(u64),
    /// Damaged, moved aside and replaced; the sentence is in the event table.
    Replaced(String),
}

/// Makes sure that `db` can be opened: after anything but a clean end SQLite checks every page, and a
/// damaged file is moved aside for the newest good snapshot, or for an empty store.
///
/// A failing disk is an error and no damage: the next start may read it.
pub fn ensure_sound(db: &Path, lock: &StoreLock, now: TimestampMs) -> Result<Found, StoreError> {
    let began = Instant::now();
    let ready = suffixed(db, RESTORING);
    if !db.exists() && ready.exists() {
        // A restore that was cut short between its last two steps.
        set_aside(db, CORRUPT, now)?;
        place(db)?;
    } else if ready.exists() {
        // Cut short before that: the database still stands, and the snapshot is where it was.
        std::fs::remove_file(&ready).map_err(|e| file_error("remove", &ready, e))?;
    }
    let mark = lock.mark()?;
    let wal_left = std::fs::metadata(suffixed(db, "-wal")).is_ok_and(|m| m.len() > 0);
    let why = match std::fs::metadata(db).map_or(0, |m| m.len()) {
        0 if mark == Mark::Unused && !wal_left => return Ok(Found::Clean),
        0 => Some("it is empty or gone".to_owned()),
        _ if matches!(&mark, Mark::Clean(state) if open::file_state(db).is_ok_and(|s| s == *state)) =>
        {
            return Ok(Found::Clean);
        }
        _ if fault::without("start_check") => return Ok(Found::Clean),
        _ if mark == Mark::Damaged => damage(db, "integrity_check")?,
        _ => damage(db, "quick_check")?,
    };
    let Some(why) = why else {
        return Ok(Found::Sound(began.elapsed().as_millis() as u64));
    };
    replace(db, &why, now).map(Found::Replaced)
}

/// Files that were moved aside as damaged and are still there.
pub fn kept_damaged(db: &Path) -> Vec<PathBuf> {
    let prefix = format!(
        "{}{CORRUPT}",
        db.file_name().unwrap_or_default().to_string_lossy()
    );
    let Ok(entries) = std::fs::read_dir(db.parent().unwrap_or(Path::new("."))) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|e| {
            let name = e.file_name().to_string_lossy().into_owned();
            name.starts_with(&prefix) && !name.ends_with("-wal") && !name.ends_with("-shm")
        })
        .map(|e| e.path())
        .collect();
    found.sort();
    found
}

/// Puts the snapshot `from`, with the log beside it where there is one, in place of `db`, which is moved
/// aside; returns what was done. The lock says that no daemon runs.
pub fn restore(
    db: &Path,
    from: &Path,
    lock: &StoreLock,
    now: TimestampMs,
) -> Result<String, StoreError> {
    snapshot::verify(from)?;
    let said = format!("restored from {}", from.display());
    prepare(db, Some(from), now, "restored", &said)?;
    // What was really written, too: the next start takes it as it is.
    let ready = suffixed(db, RESTORING);
    snapshot::verify(&ready).inspect_err(|_| drop(std::fs::remove_file(&ready)))?;
    let aside = set_aside(db, BEFORE_RESTORE, now)?;
    place(db)?;
    lock.mark_clean(db)?;
    Ok(match aside {
        Some(aside) => format!("{said}; what was there is kept as {}", aside.display()),
        None => said,
    })
}

/// What is wrong with the file, if anything is.
fn damage(db: &Path, pragma: &str) -> Result<Option<String>, StoreError> {
    // Read-only: closing must not fold the log into a file that may be evidence.
    let found = open::read_only(db).and_then(|conn| check(&conn, pragma).map_err(sql("check")));
    match found {
        Err(error) if error.is_damage() => Ok(Some(crate::errors::chain(&error))),
        other => other,
    }
}

fn replace(db: &Path, why: &str, now: TimestampMs) -> Result<String, StoreError> {
    // A copy needs room; the reserve is made again once the daemon runs.
    super::space::Reserve::beside(db, 0).release()?;
    let (good, bad) = newest_good(db);
    let kept = aside_name(db, CORRUPT, now);
    let mut said = format!("the database was damaged ({why}); ");
    let kind = match &good {
        Some(good) => {
            said += &format!("{} was restored; readings since then", good.display());
            "store_restored"
        }
        None => {
            said += "there was no good snapshot, so an empty one was begun; all readings before";
            "store_lost"
        }
    };
    said += &format!(" are only in the kept file {}", kept.display());
    if bad > 0 {
        said += &format!(" ({bad} damaged snapshots were passed over)");
    }
    prepare(db, good.as_deref(), now, kind, &said)?;
    set_aside(db, CORRUPT, now)?;
    place(db)?;
    Ok(said)
}

fn newest_good(db: &Path) -> (Option<PathBuf>, usize) {
    let snapshots = snapshot::list(db);
    let good = snapshots
        .iter()
        .position(|path| snapshot::verify(path).is_ok());
    (
        good.map(|i| snapshots[i].clone()),
        good.unwrap_or(snapshots.len()),
    )
}

/// A replacement with the event in it, complete and synced under its waiting name.
fn prepare(
    db: &Path,
    from: Option<&Path>,
    now: TimestampMs,
    kind: &str,
    said: &str,
) -> Result<(), StoreError> {
    let act = "prepare the replacement in";
    let partial = suffixed(db, ".restoring.partial");
    for companion in COMPANIONS {
        let _ = std::fs::remove_file(suffixed(&partial, companion));
    }
    for suffix in ["", "-wal"] {
        let Some(from) = from.map(|from| suffixed(from, suffix)) else {
            continue;
        };
        let to = suffixed(&partial, suffix);
        match std::fs::copy(&from, &to) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && suffix == "-wal" => {}
            Err(e) => {
                // Half a copy would take the room that the next attempt needs.
                let _ = std::fs::remove_file(&partial);
                let _ = std::fs::remove_file(&to);
                return Err(file_error("copy the snapshot to", &to, e));
            }
            Ok(_) => {}
        }
    }
    let conn = open::writing(&partial)?;
    conn.execute(
        "INSERT INTO event (at_ms, kind, detail) VALUES (?1, ?2, ?3)",
        params![now.0, kind, said],
    )
    .map_err(sql(act))?;
    // The last close folds the log in and removes it.
    conn.close().map_err(|(_, e)| sql(act)(e))?;
    snapshot::put(&partial, &suffixed(db, RESTORING))
}

fn place(db: &Path) -> Result<(), StoreError> {
    let ready = suffixed(db, RESTORING);
    std::fs::rename(&ready, db)
        .map_err(|e| file_error("put the replacement in place of", db, e))?;
    snapshot::sync_folder(db)
}

fn aside_name(db: &Path, word: &str, now: TimestampMs) -> PathBuf {
    let first = suffixed(db, &format!("{word}{}", stamp(now)));
    let taken = |path: &PathBuf| COMPANIONS.iter().any(|c| suffixed(path, c).exists());
    std::iter::once(first.clone())
        .chain((2..).map(|n| suffixed(&first, &format!(".{n}"))))
        .find(|path| !taken(path))
        .unwrap_or(first)
}

/// Moves the database and its companions to a name that is free; none where there was nothing.
fn set_aside(db: &Path, word: &str, now: TimestampMs) -> Result<Option<PathBuf>, StoreError> {
    let aside = aside_name(db, word, now);
    let mut moved = false;
    // The log last: a cut in between leaves a log without its file, which is moved aside in turn.
    for companion in COMPANIONS {
        let (from, to) = (suffixed(db, companion), suffixed(&aside, companion));
        match std::fs::rename(&from, &to) {
            Ok(()) => moved = true,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(file_error("move aside", &from, e)),
        }
    }
    snapshot::sync_folder(db)?;
    Ok(moved.then_some(aside))
}
