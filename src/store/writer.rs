//! The one writer as everybody else sees it: what it is given, what it tells, and the handle to ask it by.

#[cfg(test)]
mod tests;
mod thread;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};

use super::append::{Devices, trim};
use super::late::Late;
use super::memory::Memory;
use super::quarantine::Quarantine;
use super::{Reader, StoreError, open, sql};
use crate::reading::{Reading, TimestampMs};
use thread::{Thread, truncate_wal};

/// Commands that may wait for the writer; beyond it the sender waits or holds back.
const QUEUE: usize = 2048;
/// Messages in one commit at most: keeps the last of them waiting a few milliseconds, not seconds.
const BATCH: usize = 1024;
/// Messages that can be with the writer at once, queued or in a batch.
pub const MAX_UNACKNOWLEDGED: usize = QUEUE + BATCH;
const EVENT_ENTRIES: i64 = 1000;
/// How long folding the log in waits for a reader: commits wait with it.
const CHORE_PATIENCE: Duration = Duration::from_millis(50);

/// What the network side needs to acknowledge one message: the connection it came in on and its packet id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckToken {
    /// Number of the connection; an acknowledgement never crosses connections.
    pub epoch: u64,
    /// The MQTT packet id; 0 for QoS 0, which has no acknowledgement.
    pub packet_id: u16,
}

/// A message that could not become a reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// When it arrived.
    pub at: TimestampMs,
    /// Where it was published.
    pub topic: String,
    /// A stable word, for example `not_json`.
    pub reason: &'static str,
    /// The beginning of the payload.
    pub sample: Vec<u8>,
}

/// One message's outcome: rows, or a reject, or nothing at all; acknowledged once committed.
#[derive(Clone, Debug)]
pub struct Append {
    /// The rows it carried.
    pub readings: Vec<Reading>,
    /// Why it was refused, if it was.
    pub reject: Option<Reject>,
    /// What to acknowledge.
    pub ack: Option<AckToken>,
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;
type Answer<T> = flume::Receiver<rusqlite::Result<T>>;

enum Command {
    Append(Append),
    Job(Job),
    /// Nothing to do but to turn, and to see to the chores.
    Nudge,
    Stop(flume::Sender<()>),
}

/// What others hear of a commit.
pub trait Committed: Send {
    /// These messages are on the disk, in the order they arrived.
    fn acknowledge(&mut self, tokens: &[AckToken]);
    /// These readings are on the disk (new ones and repeats alike).
    fn stored(&mut self, readings: Vec<Reading>);
}

/// Hears of commits where there is no broker to tell.
pub struct Nobody;

impl Committed for Nobody {
    fn acknowledge(&mut self, _: &[AckToken]) {}
    fn stored(&mut self, _: Vec<Reading>) {}
}

/// Figures the writer keeps for `status` and the watchdog; all since the process started.
#[derive(Debug, Default)]
pub struct WriterGauges {
    /// Messages whose commit succeeded.
    pub messages: AtomicU64,
    /// Rows that were new.
    pub rows: AtomicU64,
    /// Readings that were there already and brought nothing new.
    pub duplicates: AtomicU64,
    /// Rows stored under their time of receipt because their own could not be believed.
    pub doubtful: AtomicU64,
    /// Messages kept aside.
    pub rejects: AtomicU64,
    /// Commits.
    pub commits: AtomicU64,
    /// Rises whenever the thread does anything, a failed commit included: it is not stuck.
    pub turns: AtomicU64,
    /// True while commits fail (disk full, I/O error); nothing is acknowledged meanwhile.
    pub failing: AtomicBool,
    /// True from a commit that found the disk full until one succeeds.
    pub disk_full: AtomicBool,
    /// Set by the space watch: batches wait, unacknowledged, and only chores are done.
    pub hold: AtomicBool,
    /// SQLite has found the file damaged; the writer has ended, and the start has to see to it.
    pub damaged: AtomicBool,
    /// Wall-clock time of the last commit, ms; 0 before the first.
    pub last_commit_ms: AtomicI64,
    /// How long commits took.
    pub commit_seconds: CommitSeconds,
    /// Readings whose hour had been summed up before they came.
    pub late: Late,
}

/// How long commits took, from the first row to the disk's word, in seconds.
#[derive(Debug)]
pub struct CommitSeconds(pub Histogram);

impl Default for CommitSeconds {
    fn default() -> Self {
        // 0.25 ms (NVMe) to 8 s (an SD card on a bad day), each bound twice the one before.
        Self(Histogram::new(exponential_buckets(0.000_25, 2.0, 16)))
    }
}

impl WriterGauges {
    /// For a start in a process that has run before: its counts go on.
    pub fn going_on_from(before: &Self) -> Self {
        let count = |n: &AtomicU64| AtomicU64::new(n.load(Ordering::SeqCst));
        Self {
            messages: count(&before.messages),
            rows: count(&before.rows),
            duplicates: count(&before.duplicates),
            doubtful: count(&before.doubtful),
            rejects: count(&before.rejects),
            commits: count(&before.commits),
            commit_seconds: CommitSeconds(before.commit_seconds.0.clone()),
            ..Self::default()
        }
    }

    /// Remembers what an error says about the disk and the file.
    fn note(&self, error: &rusqlite::Error) {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => self.disk_full.store(true, Ordering::Relaxed),
            _ if is_damage(error) => self.damaged.store(true, Ordering::Relaxed),
            _ => {}
        }
    }
}

/// Whether SQLite says that the file itself is damaged.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// The handle through which everything asks the writer. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    queue: flume::Sender<Command>,
    chores: flume::Sender<Job>,
    gauges: Arc<WriterGauges>,
    pub(super) memory: Arc<Memory>,
    pub(super) path: Arc<Path>,
}

impl Store {
    /// Queues a message's outcome; gives it back where the queue is full.
    pub fn try_append(&self, append: Append) -> Result<(), Append> {
        self.queue
            .try_send(Command::Append(append))
            .map_err(|e| match e.into_inner() {
                Command::Append(a) => a,
                _ => unreachable!("an append was sent"),
            })
    }

    /// Whether at least half of the queue is free.
    pub fn half_empty(&self) -> bool {
        self.queue.len() <= self.queue_capacity() / 2
    }

    /// Messages and jobs that wait for the writer.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// How many of them there is room for.
    pub fn queue_capacity(&self) -> usize {
        self.queue.capacity().unwrap_or(QUEUE)
    }

    /// A read-only connection that knows what the writer remembers.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        let mut reader = Reader::open(&self.path)?;
        reader.memory = Some(self.memory.clone());
        Ok(reader)
    }

    /// The writer's figures.
    pub fn gauges(&self) -> &Arc<WriterGauges> {
        &self.gauges
    }

    /// Makes an idle writer turn once; whether it did shows in [`WriterGauges::turns`]. A full queue
    /// makes it turn anyway.
    pub fn nudge(&self) {
        let _ = self.queue.try_send(Command::Nudge);
    }

    /// Runs `job` in a transaction of its own between two commits, whatever is queued: also while
    /// commits fail or are held, so that retention can make room on a full disk.
    pub(super) async fn chore<T, F>(&self, action: &'static str, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (job, answer) = self.in_transaction(job);
        self.send_chore(action, job, answer).await
    }

    /// Folds the write-ahead log into the database and gives its blocks back.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        let (reply, answer) = flume::bounded(1);
        let job: Job = Box::new(move |conn| {
            let _ = reply.send(truncate_wal(conn, CHORE_PATIENCE));
        });
        self.send_chore("fold the log in", job, answer).await
    }

    async fn send_chore<T>(
        &self,
        action: &'static str,
        job: Job,
        answer: Answer<T>,
    ) -> Result<T, StoreError> {
        let gone = || StoreError::WriterGone { action };
        self.chores.send_async(job).await.map_err(|_| gone())?;
        self.nudge();
        answer
            .recv_async()
            .await
            .map_err(|_| gone())?
            .map_err(sql(action))
    }

    fn in_transaction<T, F>(&self, job: F) -> (Job, Answer<T>)
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = flume::bounded(1);
        let gauges = self.gauges.clone();
        let job: Job = Box::new(move |conn| {
            let outcome = conn
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .and_then(|tx| {
                    let value = job(&tx)?;
                    tx.commit()?;
                    Ok(value)
                })
                .inspect_err(|error| gauges.note(error));
            // The asker may have given up waiting; the work is done either way.
            let _ = reply.send(outcome);
        });
        (job, answer)
    }

    /// Runs `job` in a transaction of its own, after everything queued before it.
    pub(super) async fn run<T, F>(&self, action: &'static str, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (job, answer) = self.in_transaction(job);
        let gone = |_| StoreError::WriterGone { action };
        self.queue
            .send_async(Command::Job(job))
            .await
            .map_err(|_| StoreError::WriterGone { action })?;
        answer
            .recv_async()
            .await
            .map_err(gone)?
            .map_err(sql(action))
    }

    /// Commits and acknowledges what is queued, checkpoints, closes; returns once it is done, and
    /// false where the writer had ended on its own.
    pub async fn stop(&self) -> bool {
        let (done, stopped) = flume::bounded(1);
        self.queue.send_async(Command::Stop(done)).await.is_ok()
            && stopped.recv_async().await.is_ok()
    }
}

/// Starts the writer thread.
pub struct Writer;

impl Writer {
    /// Opens `db` for writing and starts the thread. The caller holds the lock.
    ///
    /// `linger` waits that long for company before a commit (fewer, larger writes for SD cards);
    /// zero commits whatever has queued at once. `window` ends a linger early: with that many
    /// messages unacknowledged the broker sends no more.
    pub fn start(
        db: &Path,
        linger: Duration,
        window: usize,
        committed: impl Committed + 'static,
    ) -> Result<Store, StoreError> {
        Self::go_on(db, linger, window, WriterGauges::default(), committed)
    }

    /// [`Writer::start`], counting on from `gauges`.
    pub fn go_on(
        db: &Path,
        linger: Duration,
        window: usize,
        gauges: WriterGauges,
        committed: impl Committed + 'static,
    ) -> Result<Store, StoreError> {
        Self::start_sized(db, linger, window, (QUEUE, gauges), committed)
    }

    /// [`Writer::go_on`] with room for `places` commands.
    pub(crate) fn start_sized(
        db: &Path,
        linger: Duration,
        window: usize,
        (places, gauges): (usize, WriterGauges),
        committed: impl Committed + 'static,
    ) -> Result<Store, StoreError> {
        let conn = open::writing(db)?;
        gauges
            .late
            .load(&conn)
            .map_err(sql("read up to where hours are summed up"))?;
        let memory = Arc::new(Memory::load(&Reader::open(db)?)?);
        let (chores, waiting_chores) = flume::bounded(1);
        let (queue, commands) = flume::bounded(places);
        let gauges = Arc::new(gauges);
        let thread = Thread {
            conn,
            commands,
            chores: waiting_chores,
            linger,
            window: window.clamp(1, BATCH),
            committed: Box::new(committed),
            gauges: gauges.clone(),
            memory: memory.clone(),
            devices: Devices::default(),
            quarantine: Quarantine::default(),
            started: Instant::now(),
        };
        std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || thread.run())
            .map_err(|source| StoreError::File {
                action: "start the writer for",
                path: db.to_owned(),
                source,
            })?;
        Ok(Store {
            queue,
            chores,
            gauges,
            memory,
            path: db.into(),
        })
    }
}

impl Store {
    /// Notes that something happened; the newest thousand are kept.
    pub async fn note_event(
        &self,
        at: TimestampMs,
        kind: &'static str,
        detail: String,
    ) -> Result<(), StoreError> {
        self.chore("note an event", move |tx| note_event(tx, at, kind, &detail))
            .await
    }
}

/// Notes that something happened, in the transaction in which it does.
pub(super) fn note_event(
    tx: &Transaction<'_>,
    at: TimestampMs,
    kind: &str,
    detail: &str,
) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO event (at_ms, kind, detail) VALUES (?1, ?2, ?3)",
        params![at.0, kind, detail],
    )?;
    trim(tx, "event", EVENT_ENTRIES)
}
