//! The one writer: a thread that commits whatever has queued, then acknowledges it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};

use super::append::{Counts, Devices, trim, write_batch};
use super::quarantine::Quarantine;
use super::{StoreError, open, sql};
use crate::fault;
use crate::rate;
use crate::reading::{Reading, TimestampMs};

/// Commands that may wait for the writer; beyond it the sender waits or holds back.
const QUEUE: usize = 2048;
/// Messages in one commit at most: keeps the last of them waiting a few milliseconds, not seconds.
const BATCH: usize = 1024;
/// Messages that can be with the writer at once, queued or in a batch.
pub const MAX_UNACKNOWLEDGED: usize = QUEUE + BATCH;
const EVENT_ENTRIES: i64 = 1000;
/// How long the writer waits before it tries a failed commit again.
const RETRY: Duration = Duration::from_secs(1);
/// How long folding the log in waits for a reader: commits wait with it.
const CHORE_PATIENCE: Duration = Duration::from_millis(50);
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// Only where the control acknowledges before the commit.
const TOO_SOON: Duration = Duration::from_millis(200);

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

/// Figures the writer keeps for `status` and the watchdog; all since start.
#[derive(Debug, Default)]
pub struct WriterGauges {
    /// Messages whose commit succeeded.
    pub messages: AtomicU64,
    /// Rows that were new.
    pub rows: AtomicU64,
    /// Rows that were already there.
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

    /// The writer's figures.
    pub fn gauges(&self) -> &WriterGauges {
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
        Self::start_sized(db, linger, window, QUEUE, committed)
    }

    /// [`Writer::start`] with room for `places` commands.
    pub(crate) fn start_sized(
        db: &Path,
        linger: Duration,
        window: usize,
        places: usize,
        committed: impl Committed + 'static,
    ) -> Result<Store, StoreError> {
        let conn = open::writing(db)?;
        let (chores, waiting_chores) = flume::bounded(1);
        let (queue, commands) = flume::bounded(places);
        let gauges = Arc::new(WriterGauges::default());
        let thread = Thread {
            conn,
            commands,
            chores: waiting_chores,
            linger,
            window: window.clamp(1, BATCH),
            committed: Box::new(committed),
            gauges: gauges.clone(),
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
            path: db.into(),
        })
    }
}

struct Thread {
    conn: Connection,
    commands: flume::Receiver<Command>,
    chores: flume::Receiver<Job>,
    linger: Duration,
    window: usize,
    committed: Box<dyn Committed>,
    gauges: Arc<WriterGauges>,
    devices: Devices,
    quarantine: Quarantine,
    started: Instant,
}

impl Thread {
    fn run(mut self) {
        let mut batch = Vec::with_capacity(64);
        while let Some(first) = self.next() {
            self.turn();
            let after = self.gather(first, &mut batch);
            self.commit(&mut batch);
            match after {
                None | Some(Command::Nudge) => {}
                Some(Command::Job(job)) => job(&mut self.conn),
                Some(Command::Stop(done)) if !self.damaged() => {
                    self.close();
                    // The file is closed before anybody is told that it is.
                    drop(self);
                    let _ = done.send(());
                    return;
                }
                // Dropped unanswered: it was not closed in order.
                Some(Command::Stop(_)) => return,
                Some(Command::Append(_)) => unreachable!("gather keeps every append"),
            }
            self.see_to_chores();
            if self.damaged() {
                tracing::error!("the database is damaged: nothing more is stored or acknowledged");
                return self.refuse();
            }
        }
        self.close();
    }

    /// Drops whatever comes, so that nobody waits for an answer, until the end.
    fn refuse(self) {
        while let Ok(command) = self.commands.recv() {
            self.turn();
            self.chores.drain();
            if matches!(command, Command::Stop(_)) {
                return;
            }
        }
    }

    fn damaged(&self) -> bool {
        self.gauges.damaged.load(Ordering::Relaxed)
    }

    fn turn(&self) {
        self.gauges.turns.fetch_add(1, Ordering::Relaxed);
    }

    fn see_to_chores(&mut self) {
        while let Ok(job) = self.chores.try_recv() {
            job(&mut self.conn);
        }
    }

    /// The next command; a nudge where counts want to be written and nothing comes.
    fn next(&self) -> Option<Command> {
        match self.quarantine.patience(self.started.elapsed()) {
            None => self.commands.recv().ok(),
            Some(patience) => match self.commands.recv_timeout(patience) {
                Ok(command) => Some(command),
                Err(flume::RecvTimeoutError::Timeout) => Some(Command::Nudge),
                Err(flume::RecvTimeoutError::Disconnected) => None,
            },
        }
    }

    /// Takes appends until there are none, the batch is full, or something else is next.
    fn gather(&mut self, first: Command, batch: &mut Vec<Append>) -> Option<Command> {
        let end = Instant::now() + self.linger;
        let limit = if self.linger.is_zero() {
            BATCH
        } else {
            self.window
        };
        let mut next = first;
        self.turn();
        loop {
            match next {
                Command::Append(append) => batch.push(append),
                // The watchdog's question must not end a linger; alone, there is nothing to wait for.
                Command::Nudge if !batch.is_empty() => {
                    self.turn();
                    self.see_to_chores();
                }
                other => return Some(other),
            }
            if batch.len() >= limit {
                return None;
            }
            let wait = end.saturating_duration_since(Instant::now());
            next = match self.commands.recv_timeout(wait) {
                Ok(command) => command,
                Err(_) => return None,
            };
        }
    }

    /// Waits a second, or as long as a chore takes.
    fn wait_with_chores(&mut self) {
        self.turn();
        if let Ok(job) = self.chores.recv_timeout(RETRY) {
            job(&mut self.conn);
        }
    }

    /// Commits the batch, however long it takes: it is all that stands between the readings and the
    /// broker's copy of them, so it is retried for as long as the process lives. Only a damaged file
    /// ends that: the batch is left to the broker, which sends it again after the restart.
    fn commit(&mut self, batch: &mut Vec<Append>) {
        let now = self.started.elapsed();
        let rejects = self.quarantine.sift(batch, now);
        let kept = |a: &Append| !a.readings.is_empty() || a.reject.is_some();
        let counts_due = self.quarantine.patience(now) == Some(Duration::ZERO);
        let too_soon = fault::without("commit_before_ack") && !batch.is_empty();
        if too_soon {
            self.acknowledge(batch);
            // What lies between the two is wide enough for every kill to hit.
            std::thread::sleep(TOO_SOON);
        }
        let counts = if batch.iter().any(kept) || counts_due {
            let Some(counts) = self.write(batch) else {
                return;
            };
            counts
        } else {
            Counts::default()
        };
        if batch.is_empty() {
            return;
        }
        let g = &self.gauges;
        g.messages.fetch_add(batch.len() as u64, Ordering::Relaxed);
        g.rows.fetch_add(counts.rows, Ordering::Relaxed);
        g.duplicates.fetch_add(counts.duplicates, Ordering::Relaxed);
        g.rejects.fetch_add(rejects, Ordering::Relaxed);
        g.doubtful.fetch_add(counts.doubtful, Ordering::Relaxed);
        let last = batch
            .iter()
            .flat_map(|a| &a.readings)
            .map(|r| r.received.0)
            .max();
        if let Some(last) = last {
            g.last_commit_ms.store(last, Ordering::Relaxed);
        }
        if !too_soon {
            self.acknowledge(batch);
        }
        let readings: Vec<Reading> = batch.drain(..).flat_map(|a| a.readings).collect();
        if !readings.is_empty() {
            self.committed.stored(readings);
        }
    }

    fn acknowledge(&mut self, batch: &[Append]) {
        let tokens: Vec<AckToken> = batch
            .iter()
            .filter_map(|a| a.ack)
            .filter(|t| t.packet_id != 0)
            .collect();
        self.committed.acknowledge(&tokens);
    }

    /// One transaction, tried until it succeeds; none where the file turns out to be damaged.
    fn write(&mut self, batch: &[Append]) -> Option<Counts> {
        while self.gauges.hold.load(Ordering::Relaxed) && !self.damaged() {
            self.wait_with_chores();
        }
        let counts = loop {
            if self.damaged() {
                return None;
            }
            let began = Instant::now();
            match write_batch(&mut self.conn, &mut self.devices, &self.quarantine, batch) {
                Ok(counts) => {
                    let took_s = began.elapsed().as_secs_f64();
                    self.gauges.commit_seconds.0.observe(took_s);
                    break counts;
                }
                Err(_) if fault::without("retry") => break Counts::default(),
                Err(error) => {
                    // Numbers given to devices in the rolled-back transaction are void.
                    self.devices.clear();
                    self.gauges.note(&error);
                    self.gauges.failing.store(true, Ordering::Relaxed);
                    if let Some(more) = rate::log_line("commit") {
                        tracing::error!(%error, messages = batch.len(), "commit failed; holding the batch unacknowledged and trying again{more}");
                    }
                    if !self.damaged() {
                        self.wait_with_chores();
                    }
                }
            }
        };
        self.gauges.disk_full.store(false, Ordering::Relaxed);
        if self.gauges.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(messages = batch.len(), "commits succeed again");
        }
        self.quarantine.committed(self.started.elapsed());
        self.gauges.commits.fetch_add(1, Ordering::Relaxed);
        Some(counts)
    }

    fn close(&mut self) {
        if self.quarantine.patience(Duration::ZERO).is_some() {
            let write = write_batch(&mut self.conn, &mut self.devices, &self.quarantine, &[]);
            if let Err(error) = write {
                tracing::warn!(%error, "the last counts of refused messages were not written");
            }
        }
        if let Err(error) = truncate_wal(&self.conn, CLOSE_PATIENCE) {
            // A reader may hold the log; the next start folds it in.
            tracing::warn!(%error, "the write-ahead log was left for the next start");
        }
    }
}

/// Folds the log in, as far as readers let it within `patience`.
fn truncate_wal(conn: &Connection, patience: Duration) -> rusqlite::Result<()> {
    conn.busy_timeout(patience)?;
    let done = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    conn.busy_timeout(open::BUSY_TIMEOUT)?;
    done
}

impl Store {
    /// Notes that something happened; the newest thousand are kept.
    pub async fn note_event(
        &self,
        at: TimestampMs,
        kind: &'static str,
        detail: String,
    ) -> Result<(), StoreError> {
        self.chore("note an event", move |tx| {
            tx.execute(
                "INSERT INTO event (at_ms, kind, detail) VALUES (?1, ?2, ?3)",
                params![at.0, kind, detail],
            )?;
            trim(tx, "event", EVENT_ENTRIES)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{DeviceId, Field, TimeSource, Values};
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<(Vec<AckToken>, usize)>>);

    impl Committed for Heard {
        fn acknowledge(&mut self, tokens: &[AckToken]) {
            self.0.lock().unwrap().0.extend_from_slice(tokens);
        }
        fn stored(&mut self, readings: Vec<Reading>) {
            self.0.lock().unwrap().1 += readings.len();
        }
    }

    fn reading(ts: i64, set: &[(Field, f64)], time_source: TimeSource) -> Reading {
        let mut values = Values::default();
        for (f, v) in set {
            values.set(*f, Some(*v));
        }
        Reading {
            device: DeviceId::new("t01"),
            ts: TimestampMs(ts),
            received: TimestampMs(ts + 5),
            time_source,
            clock_trusted: true,
            values,
        }
    }

    fn append(readings: Vec<Reading>, packet_id: u16) -> Append {
        Append {
            readings,
            reject: None,
            ack: Some(AckToken {
                epoch: 1,
                packet_id,
            }),
        }
    }

    fn block_on<T>(f: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(f)
    }

    fn start(dir: &Path) -> (Store, Heard) {
        let heard = Heard::default();
        (
            Writer::start(&dir.join("n.db"), Duration::ZERO, 100, heard.clone()).unwrap(),
            heard,
        )
    }

    fn query<T: rusqlite::types::FromSql>(dir: &Path, q: &str) -> T {
        open::reading(&dir.join("n.db"))
            .unwrap()
            .query_row(q, [], |r| r.get(0))
            .unwrap()
    }

    #[test]
    fn acknowledged_in_order_of_arrival_and_only_once_stored() {
        let dir = tempfile::tempdir().unwrap();
        let (store, heard) = start(dir.path());
        for i in 1..=500u16 {
            let r = reading(i64::from(i), &[(Field::Power, 1.5)], TimeSource::Device);
            store.try_append(append(vec![r], i)).unwrap();
        }
        block_on(store.stop());
        let heard = heard.0.lock().unwrap();
        assert_eq!(
            heard.0.iter().map(|t| t.packet_id).collect::<Vec<_>>(),
            (1..=500).collect::<Vec<_>>()
        );
        assert_eq!(
            (
                heard.1,
                query::<i64>(dir.path(), "SELECT count(*) FROM telemetry")
            ),
            (500, 500)
        );
    }

    #[test]
    fn a_repeat_is_one_row_and_other_fields_of_the_moment_are_filled_in() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = start(dir.path());
        for set in [
            &[(Field::Power, 10.0)][..],
            &[(Field::Power, 99.0)],
            &[(Field::Lux, 7.0), (Field::Power, 98.0)],
        ] {
            store
                .try_append(append(vec![reading(1, set, TimeSource::Device)], 1))
                .unwrap();
        }
        block_on(store.stop());
        let g = store.gauges();
        assert_eq!(
            (
                g.rows.load(Ordering::Relaxed),
                g.duplicates.load(Ordering::Relaxed)
            ),
            (1, 2)
        );
        let row: String = query(
            dir.path(),
            "SELECT count(*) || ' ' || power || ' ' || lux FROM telemetry",
        );
        assert_eq!(row, "1 10.0 7.0");
    }

    #[test]
    fn in_a_bucket_without_device_time_the_latest_value_wins() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = start(dir.path());
        for power in [10.0, 12.0] {
            let r = reading(60_000, &[(Field::Power, power)], TimeSource::Received);
            store.try_append(append(vec![r], 1)).unwrap();
        }
        block_on(store.stop());
        assert_eq!(
            query::<f64>(dir.path(), "SELECT power FROM telemetry"),
            12.0
        );
    }

    #[test]
    fn readings_of_doubtful_time_never_swallow_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = start(dir.path());
        for power in 0..200 {
            let r = reading(
                5,
                &[(Field::Power, f64::from(power))],
                TimeSource::Implausible,
            );
            store.try_append(append(vec![r], 1)).unwrap();
        }
        block_on(store.stop());
        let (again, _) = start(dir.path());
        let r = reading(5, &[(Field::Power, 200.0)], TimeSource::Implausible);
        again.try_append(append(vec![r], 1)).unwrap();
        block_on(again.stop());
        let n: i64 = query(dir.path(), "SELECT count(DISTINCT power) FROM telemetry");
        assert_eq!(n, 201);
    }

    #[test]
    fn a_flood_of_refused_messages_is_sampled_counted_and_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let (store, heard) = start(dir.path());
        for i in 0..1200 {
            let reject = Reject {
                at: TimestampMs(i),
                topic: "x/y".into(),
                reason: "not_json",
                sample: b"{".to_vec(),
            };
            let a = Append {
                readings: vec![],
                reject: Some(reject),
                ack: Some(AckToken {
                    epoch: 1,
                    packet_id: 1,
                }),
            };
            store.try_append(a).unwrap();
        }
        block_on(store.stop());
        assert_eq!(
            query::<i64>(dir.path(), "SELECT count(*) FROM quarantine"),
            20
        );
        assert_eq!(
            query::<i64>(dir.path(), "SELECT count FROM reject_count"),
            1200
        );
        assert_eq!(store.gauges().rejects.load(Ordering::Relaxed), 1200);
        assert_eq!(heard.0.lock().unwrap().0.len(), 1200);
    }

    #[test]
    fn a_linger_ends_with_a_full_window_and_not_with_the_watchdogs_question() {
        let dir = tempfile::tempdir().unwrap();
        let heard = Heard::default();
        let linger = Duration::from_secs(600);
        let db = dir.path().join("n.db");
        let store = Writer::start(&db, linger, 5, heard.clone()).unwrap();
        let acknowledged = |n: usize| {
            let deadline = Instant::now() + Duration::from_secs(20);
            while heard.0.lock().unwrap().0.len() < n {
                assert!(Instant::now() < deadline, "waited for {n} acknowledgements");
                std::thread::yield_now();
            }
        };
        let send = |ts: i64| {
            let r = reading(ts, &[(Field::Power, 1.0)], TimeSource::Device);
            store.try_append(append(vec![r], 1)).unwrap();
        };
        (0..4).for_each(send);
        let before = store.gauges().turns.load(Ordering::Relaxed);
        for _ in 0..3 {
            store.nudge();
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while store.gauges().turns.load(Ordering::Relaxed) < before + 3 {
            assert!(Instant::now() < deadline, "a nudge must make it turn");
            std::thread::yield_now();
        }
        // A chore is done meanwhile and ends nothing either.
        block_on(store.checkpoint()).unwrap();
        assert_eq!(store.gauges().commits.load(Ordering::Relaxed), 0);
        send(4);
        acknowledged(5);
        assert_eq!(store.gauges().commits.load(Ordering::Relaxed), 1);
        block_on(store.stop());
    }

    #[test]
    fn what_is_only_counted_costs_no_commit_and_is_written_soon_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (store, heard) = start(dir.path());
        let send = |n: u16| {
            for _ in 0..n {
                let reject = Reject {
                    at: TimestampMs(1),
                    topic: "x/y".into(),
                    reason: "not_json",
                    sample: vec![],
                };
                let mut a = append(vec![], 1);
                a.reject = Some(reject);
                store.try_append(a).unwrap();
            }
        };
        let wait = |what: &str, done: &dyn Fn() -> bool| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while !done() {
                assert!(Instant::now() < deadline, "{what}");
                std::thread::yield_now();
            }
        };
        let counted = || query::<Option<i64>>(dir.path(), "SELECT sum(count) FROM reject_topic");
        send(30);
        wait("the first are not counted", &|| counted() == Some(30));
        let before = store.gauges().commits.load(Ordering::Relaxed);
        for round in 1..=20 {
            send(20);
            let acked = || heard.0.lock().unwrap().0.len();
            wait("not acknowledged", &|| acked() == 30 + 20 * round);
        }
        wait("nothing else comes and they stay unwritten", &|| {
            counted() == Some(430)
        });
        let commits = store.gauges().commits.load(Ordering::Relaxed) - before;
        assert!(commits < 15, "{commits} commits for what is only counted");
        block_on(store.stop());
    }

    #[test]
    fn while_held_nothing_is_acknowledged_and_chores_are_done() {
        let dir = tempfile::tempdir().unwrap();
        let (store, heard) = start(dir.path());
        store.gauges().hold.store(true, Ordering::Relaxed);
        let r = reading(1, &[(Field::Power, 1.0)], TimeSource::Device);
        store.try_append(append(vec![r], 7)).unwrap();
        for at in 0..3 {
            let noted = store.note_event(TimestampMs(at), "x", "while held".into());
            block_on(noted).unwrap();
        }
        assert!(heard.0.lock().unwrap().0.is_empty());
        store.gauges().hold.store(false, Ordering::Relaxed);
        block_on(store.stop());
        assert_eq!(heard.0.lock().unwrap().0.len(), 1);
    }

    #[test]
    fn damage_ends_the_writer_without_an_acknowledgement() {
        let dir = tempfile::tempdir().unwrap();
        let (store, heard) = start(dir.path());
        let told: Result<(), _> = block_on(store.run("stumble over damage", |_| {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            Err(rusqlite::Error::SqliteFailure(code, None))
        }));
        assert!(told.unwrap_err().is_damage());
        let r = reading(1, &[(Field::Power, 1.0)], TimeSource::Device);
        let _ = store.try_append(append(vec![r], 7));
        assert!(!block_on(store.stop()), "it counts as closed in order");
        assert!(heard.0.lock().unwrap().0.is_empty());
    }

    #[test]
    fn a_failing_commit_acknowledges_nothing_until_it_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let (store, heard) = start(dir.path());
        // Another writer holds the database longer than the busy timeout would bear in a test.
        let other = Connection::open(dir.path().join("n.db")).unwrap();
        block_on(store.run("shorten the patience", |tx| {
            tx.busy_timeout(Duration::from_millis(1))
        }))
        .unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        store
            .try_append(append(
                vec![reading(1, &[(Field::Power, 1.0)], TimeSource::Device)],
                7,
            ))
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !store.gauges().failing.load(Ordering::Relaxed) {
            assert!(Instant::now() < deadline, "the commit did not fail");
            std::thread::yield_now();
        }
        assert!(heard.0.lock().unwrap().0.is_empty());
        other.execute_batch("COMMIT").unwrap();
        block_on(store.stop());
        assert_eq!(
            heard.0.lock().unwrap().0,
            [AckToken {
                epoch: 1,
                packet_id: 7
            }]
        );
    }
}
