//! The one SQLite file: everything that must survive a power cut, and all the SQL there is.
//!
//! # Ownership
//! One [`Writer`] thread owns the only writing and checkpointing connection; everything else asks it
//! through the bounded queue behind [`Store`]. Readers open their own read-only connections
//! ([`Reader`]) and keep each read short. Callers see rows, never a connection.
//!
//! # Durability
//! WAL with `synchronous=FULL`: a commit that returned is on the disk. The writer commits whatever has
//! queued (group commit) and only then hands the batch's acknowledgements on.
//!
//! # Compatibility
//! Migrations only add (`migrations.rs`); a file written by a newer version opens unless its
//! `min_reader_version` says otherwise.

mod accuracy;
mod ahead;
mod alerts;
mod append;
mod forecasts;
mod late;
mod memory;
mod meta;
mod migrations;
mod models;
mod open;
mod outlook;
mod quarantine;
mod read;
pub mod recover;
mod retention;
mod rows;
mod runs;
mod samples;
mod series;
pub mod snapshot;
pub mod space;
mod tail;
mod writer;

pub use accuracy::AccuracyRow;
pub use alerts::{AlertRow, NewAlert, Notified};
pub use migrations::SCHEMA_VERSION;
pub use models::ModelMove;
pub use open::StoreLock;
pub use quarantine::{OTHER_TOPICS, QuarantineRow, SAMPLE_BYTES, TOPIC_BYTES, TopicRejects};
pub use read::{NamedSample, Reader, Samples};
pub use retention::Removed;
pub use rows::{
    Deletion, EventRow, FailureKind, ForecastRow, Heard, LifeRow, LiveAccuracy, ModelRow, NewModel,
    NewRun, NightRecord, RejectCount, RunOutcome, RunRow, RunSummary, Sample, StoreTotals, Tries,
};
pub use runs::RunFilter;
pub use samples::ForecastPoint;
pub use series::{DeviceRow, SeriesPoint};
pub use tail::StoredReading;
pub use writer::{
    AckToken, Append, Committed, MAX_UNACKNOWLEDGED, Nobody, Reject, Store, Writer, WriterGauges,
};

use std::path::PathBuf;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A statement failed; the action names what it was for.
    #[error("cannot {action} in the store")]
    Sql {
        /// What was attempted.
        action: &'static str,
        /// SQLite's own word.
        source: rusqlite::Error,
    },
    /// The file or its folder could not be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Another daemon holds this store.
    #[error(
        "the store {} is in use by another nightwatt (its lock {} is held); stop that one first",
        path.display(), lock.display()
    )]
    Locked {
        /// The database.
        path: PathBuf,
        /// The lock file beside it.
        lock: PathBuf,
    },
    /// The file was written by a version whose data this one must not touch.
    #[error(
        "{} has schema {found} and asks for a nightwatt that knows schema {needed} or later; this one knows {known}: install the newer version",
        path.display()
    )]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The oldest reader it allows.
        needed: i64,
        /// What this binary knows.
        known: i64,
    },
    /// A pragma did not take, so durability could not be promised.
    #[error(
        "SQLite answered {name} = {found} where {wanted} was set; the store would not be durable"
    )]
    Pragma {
        /// The pragma's name.
        name: &'static str,
        /// What was asked for.
        wanted: &'static str,
        /// What it reads back.
        found: String,
    },
    /// The writer thread has ended, so nothing can be stored any more.
    #[error("cannot {action}: the store's writer has stopped")]
    WriterGone {
        /// What was attempted.
        action: &'static str,
    },
    /// Too little room for a copy.
    #[error(
        "no room for {what}: it needs {} MB, and {} MB are free",
        needed_bytes.div_ceil(1_000_000), free_bytes / 1_000_000
    )]
    NoRoom {
        /// What was to be written.
        what: &'static str,
        /// Room it would need, spare room included, bytes.
        needed_bytes: u64,
        /// What there is, bytes.
        free_bytes: u64,
    },
    /// A file is no sound database of ours.
    #[error("{} is not a sound nightwatt database: {why}", path.display())]
    Unsound {
        /// Which file.
        path: PathBuf,
        /// What SQLite says.
        why: String,
    },
    /// A stored value cannot be what it should be.
    #[error("the store holds {what} that cannot be read: {why}")]
    Damaged {
        /// Which value.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl StoreError {
    /// Whether SQLite says that the file itself is damaged.
    pub fn is_damage(&self) -> bool {
        matches!(self, StoreError::Sql { source, .. } if writer::is_damage(source))
    }
}

/// Names the action of a failed statement.
pub(crate) fn sql(action: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sql { action, source }
}
