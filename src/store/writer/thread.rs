//! The thread that commits whatever has queued, then acknowledges it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::{AckToken, Append, BATCH, Command, Committed, Job, WriterGauges};
use crate::fault;
use crate::rate;
use crate::reading::Reading;
use crate::store::append::{Counts, Devices, heard, newest, write_batch};
use crate::store::memory::Memory;
use crate::store::open;
use crate::store::quarantine::Quarantine;

/// How long the writer waits before it tries a failed commit again.
const RETRY: Duration = Duration::from_secs(1);
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// Only where the control acknowledges before the commit.
const TOO_SOON: Duration = Duration::from_millis(200);

/// What the thread works with.
pub(super) struct Thread {
    pub(super) conn: Connection,
    pub(super) commands: flume::Receiver<Command>,
    pub(super) chores: flume::Receiver<Job>,
    pub(super) linger: Duration,
    pub(super) window: usize,
    pub(super) committed: Box<dyn Committed>,
    pub(super) gauges: Arc<WriterGauges>,
    pub(super) memory: Arc<Memory>,
    pub(super) devices: Devices,
    pub(super) quarantine: Quarantine,
    pub(super) started: Instant,
}

impl Thread {
    /// Works until it is told to stop.
    pub(super) fn run(mut self) {
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
                    let refuse = self.refusal();
                    // The file is closed before anybody is told that it is.
                    drop(self);
                    let _ = done.send(());
                    return refuse();
                }
                // Dropped unanswered: it was not closed in order.
                Some(Command::Stop(_)) => {}
                Some(Command::Append(_)) => unreachable!("gather keeps every append"),
            }
            self.see_to_chores();
            if self.damaged() {
                tracing::error!("the database is damaged: nothing more is stored or acknowledged");
                return self.refusal()();
            }
        }
        self.close();
    }

    /// Drops whatever comes for as long as there is somebody to ask: what stays in a queue would be waited
    /// for without end.
    fn refusal(&self) -> impl FnOnce() + use<> {
        let (commands, chores) = (self.commands.clone(), self.chores.clone());
        let gauges = self.gauges.clone();
        move || {
            while commands.recv().is_ok() {
                gauges.turns.fetch_add(1, Ordering::Relaxed);
                chores.drain();
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
        let readings = || batch.iter().flat_map(|a| &a.readings);
        let last = readings().map(|r| r.received.0).max();
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
            let (devices, late) = (&mut self.devices, &self.gauges.late);
            match write_batch(&mut self.conn, devices, &self.quarantine, late, batch) {
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
        if let Some((first, last)) = counts.span {
            self.gauges.late.stored(first, last);
        }
        self.memory.stored(newest(&self.devices));
        self.memory.heard_of(heard(&self.devices));
        self.gauges.commits.fetch_add(1, Ordering::Relaxed);
        Some(counts)
    }

    fn close(&mut self) {
        if self.quarantine.patience(Duration::ZERO).is_some() {
            let (devices, late) = (&mut self.devices, &self.gauges.late);
            let write = write_batch(&mut self.conn, devices, &self.quarantine, late, &[]);
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
pub(super) fn truncate_wal(conn: &Connection, patience: Duration) -> rusqlite::Result<()> {
    conn.busy_timeout(patience)?;
    let done = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    conn.busy_timeout(open::BUSY_TIMEOUT)?;
    done
}
