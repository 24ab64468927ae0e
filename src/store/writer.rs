//! The one writer: a thread that commits whatever has queued, then acknowledges it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::append::{Counts, Devices, trim, write_batch};
use super::{StoreError, open, sql};
use crate::fault;
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

enum Command {
    Append(Append),
    Job(Job),
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
    /// Wall-clock time of the last commit, ms; 0 before the first.
    pub last_commit_ms: AtomicI64,
}

/// The handle through which everything asks the writer. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    queue: flume::Sender<Command>,
    gauges: Arc<WriterGauges>,
}

impl Store {
    /// Queues a message's outcome; gives it back where the queue is full.
    pub fn try_append(&self, append: Append) -> Result<(), Append> {
        self.queue
            .try_send(Command::Append(append))
            .map_err(|e| match e.into_inner() {
                Command::Append(a) => a,
                Command::Job(_) | Command::Stop(_) => unreachable!("an append was sent"),
            })
    }

    /// Free places in the queue.
    pub fn room(&self) -> usize {
        QUEUE.saturating_sub(self.queue.len())
    }

    /// The writer's figures.
    pub fn gauges(&self) -> &WriterGauges {
        &self.gauges
    }

    /// Makes an idle writer turn once; whether it did shows in [`WriterGauges::turns`]. A full queue
    /// makes it turn anyway.
    pub fn nudge(&self) {
        let _ = self.queue.try_send(Command::Job(Box::new(|_| ())));
    }

    /// Runs `job` in a transaction of its own, after everything queued before it.
    pub(super) async fn run<T, F>(&self, action: &'static str, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = flume::bounded(1);
        let job: Job = Box::new(move |conn| {
            let outcome = conn
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .and_then(|tx| {
                    let value = job(&tx)?;
                    tx.commit()?;
                    Ok(value)
                });
            // The asker may have given up waiting; the work is done either way.
            let _ = reply.send(outcome);
        });
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

    /// Commits and acknowledges what is queued, checkpoints, closes; returns once it is done.
    pub async fn stop(&self) {
        let (done, stopped) = flume::bounded(1);
        if self.queue.send_async(Command::Stop(done)).await.is_ok() {
            // An error means the writer ended on its own, which is as stopped as it gets.
            let _ = stopped.recv_async().await;
        }
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
        let conn = open::writing(db)?;
        let (queue, commands) = flume::bounded(QUEUE);
        let gauges = Arc::new(WriterGauges::default());
        let thread = Thread {
            conn,
            commands,
            linger,
            window: window.clamp(1, BATCH),
            committed: Box::new(committed),
            gauges: gauges.clone(),
            devices: Devices::default(),
        };
        std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || thread.run())
            .map_err(|source| StoreError::File {
                action: "start the writer for",
                path: db.to_owned(),
                source,
            })?;
        Ok(Store { queue, gauges })
    }
}

struct Thread {
    conn: Connection,
    commands: flume::Receiver<Command>,
    linger: Duration,
    window: usize,
    committed: Box<dyn Committed>,
    gauges: Arc<WriterGauges>,
    devices: Devices,
}

impl Thread {
    fn run(mut self) {
        let mut batch = Vec::with_capacity(64);
        while let Ok(first) = self.commands.recv() {
            self.gauges.turns.fetch_add(1, Ordering::Relaxed);
            let after = self.gather(first, &mut batch);
            self.commit(&mut batch);
            match after {
                None => {}
                Some(Command::Job(job)) => job(&mut self.conn),
                Some(Command::Stop(done)) => {
                    self.close();
                    let _ = done.send(());
                    return;
                }
                Some(Command::Append(_)) => unreachable!("gather keeps every append"),
            }
        }
        self.close();
    }

    /// Takes appends until there are none, the batch is full, or something else is next.
    fn gather(&self, first: Command, batch: &mut Vec<Append>) -> Option<Command> {
        let end = Instant::now() + self.linger;
        let limit = if self.linger.is_zero() {
            BATCH
        } else {
            self.window
        };
        let mut next = first;
        loop {
            match next {
                Command::Append(append) => batch.push(append),
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

    /// Commits the batch, however long it takes: it is all that stands between the readings and the
    /// broker's copy of them, so it is retried for as long as the process lives.
    fn commit(&mut self, batch: &mut Vec<Append>) {
        if batch.is_empty() {
            return;
        }
        if fault::without("commit_before_ack") {
            self.acknowledge(batch);
        }
        let counts = loop {
            match write_batch(&mut self.conn, &mut self.devices, batch) {
                Ok(counts) => break counts,
                Err(_) if fault::without("retry") => break Counts::default(),
                Err(error) => {
                    // Numbers given to devices in the rolled-back transaction are void.
                    self.devices.clear();
                    if !self.gauges.failing.swap(true, Ordering::Relaxed) {
                        tracing::error!(%error, messages = batch.len(), "commit failed; holding the batch unacknowledged and trying again");
                    }
                    self.gauges.turns.fetch_add(1, Ordering::Relaxed);
                    std::thread::park_timeout(RETRY);
                }
            }
        };
        if self.gauges.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(messages = batch.len(), "commits succeed again");
        }
        let g = &self.gauges;
        g.messages.fetch_add(batch.len() as u64, Ordering::Relaxed);
        g.rows.fetch_add(counts.rows, Ordering::Relaxed);
        g.duplicates.fetch_add(counts.duplicates, Ordering::Relaxed);
        g.rejects.fetch_add(counts.rejects, Ordering::Relaxed);
        g.doubtful.fetch_add(counts.doubtful, Ordering::Relaxed);
        g.commits.fetch_add(1, Ordering::Relaxed);
        let last = batch
            .iter()
            .flat_map(|a| &a.readings)
            .map(|r| r.received.0)
            .max();
        if let Some(last) = last {
            g.last_commit_ms.store(last, Ordering::Relaxed);
        }
        self.acknowledge(batch);
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

    fn close(&mut self) {
        let done = self
            .conn
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = done {
            // A reader may hold the log; the next start folds it in.
            tracing::warn!(%error, "the write-ahead log was left for the next start");
        }
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
        self.run("note an event", move |tx| {
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
    fn refused_messages_are_kept_bounded_counted_and_acknowledged() {
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
            1000
        );
        assert_eq!(
            query::<i64>(dir.path(), "SELECT count FROM reject_count"),
            1200
        );
        assert_eq!(heard.0.lock().unwrap().0.len(), 1200);
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
