//! What the routes need from the daemon.

use std::pin::Pin;
use std::sync::Arc;

use crate::config::Config;
use crate::reading::TimestampMs;
use crate::status::Status;
use crate::store::snapshot::Snapshot;
use crate::store::{Deletion, Store};
use crate::trainer::{Asked, Ticket};
use crate::update::{Ask, Report, UpdateError};

/// What the routes need from the daemon.
pub trait Station: Send + Sync + 'static {
    /// The configuration in force.
    fn config(&self) -> &Config;
    /// Wall-clock time.
    fn now(&self) -> TimestampMs;
    /// The writer, for its figures.
    fn store(&self) -> &Store;
    /// What is going on; reads the database, so it may take milliseconds.
    fn status(&self) -> Result<Status, String>;
    /// What the nights are at.
    fn training(&self) -> Training;
    /// Takes a snapshot of the store; may take minutes.
    fn snapshot(&self) -> Result<Snapshot, String>;
    /// Asks for a training run; none where one is queued already.
    fn retrain(&self, asked: Asked) -> Option<Ticket>;
    /// Takes a run out of the log. Waits for the writer.
    fn delete_run(&self, run_id: i64) -> Result<Deletion, String>;
    /// Forgets every refused message; how many there were. Waits for the writer.
    fn clear_quarantine(&self) -> Result<usize, String>;
    /// Does what is asked of an update, which may take hours; or why nothing was done.
    fn update(&self, ask: Ask) -> Updating<'_>;
    /// Makes `version` live, or the one that was live before; which it was, or why nothing was changed.
    fn promote(&self, version: Option<i64>) -> Promoting<'_>;
}

/// What the nights are at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Training {
    /// A run is going on.
    pub running: bool,
    /// Another one waits for its end.
    pub queued: bool,
    /// When the schedule trains next.
    pub next_night: Option<TimestampMs>,
}

/// An update under way.
pub type Updating<'a> = Pin<Box<dyn Future<Output = Result<Report, Arc<UpdateError>>> + Send + 'a>>;

/// A promotion under way.
pub type Promoting<'a> = Pin<Box<dyn Future<Output = Result<i64, String>> + Send + 'a>>;
