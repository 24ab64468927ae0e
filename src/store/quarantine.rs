//! Messages that could not become readings: a bounded, fair sample of them, and counts by reason and topic.
//!
//! Under a flood nothing grows and little is written: of each reason so many samples a minute are
//! kept, beyond that only counts move, and counts alone are written once a second.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::writer::{Append, Reject};
use super::{Reader, Store, StoreError, sql};
use crate::rate::Bucket;
use crate::reading::TimestampMs;

/// Samples kept; of the reason that has most of them the oldest leaves.
pub(super) const ENTRIES: i64 = 1000;
/// Of a refused payload, kept to look at.
pub const SAMPLE_BYTES: usize = 1024;
/// Of its topic; MQTT allows 64 KiB.
pub const TOPIC_BYTES: usize = 256;
/// Topics counted by name; the rest together are [`OTHER_TOPICS`].
const TOPICS: i64 = 100;
/// What refused messages of topics beyond those counted by name are counted under.
pub const OTHER_TOPICS: &str = "";
/// Samples of one reason in one minute.
const SAMPLES_PER_MIN: u32 = 20;
/// Pairs of reason and topic whose counts may wait for a commit.
const WAITING: usize = 256;
/// How long counts may wait where nothing else is to be committed.
const FLUSH: Duration = Duration::from_secs(1);

/// The writer's side: what is sampled, and which counts are still to be written.
#[derive(Default)]
pub(super) struct Quarantine {
    samples: HashMap<&'static str, Bucket>,
    waiting: HashMap<(&'static str, String), Waiting>,
    written: Duration,
}

#[derive(Clone, Copy)]
struct Waiting {
    count: i64,
    last: TimestampMs,
}

impl Quarantine {
    /// Counts the rejects of a batch and takes those out of it that are not to be kept; how many there
    /// were. `now` is the time since any fixed moment. Called once a batch, however often it is tried.
    pub(super) fn sift(&mut self, batch: &mut [Append], now: Duration) -> u64 {
        let mut rejects = 0;
        for append in batch {
            let Some(reject) = &append.reject else {
                continue;
            };
            self.count(reject);
            rejects += 1;
            let fresh = || Bucket::new(SAMPLES_PER_MIN);
            let bucket = self.samples.entry(reject.reason).or_insert_with(fresh);
            if !bucket.take(now) {
                append.reject = None;
            }
        }
        rejects
    }

    fn count(&mut self, reject: &Reject) {
        let mut key = (reject.reason, reject.topic.clone());
        if self.waiting.len() >= WAITING && !self.waiting.contains_key(&key) {
            key.1 = OTHER_TOPICS.into();
        }
        let waiting = self.waiting.entry(key).or_insert(Waiting {
            count: 0,
            last: reject.at,
        });
        waiting.count += 1;
        waiting.last = reject.at;
    }

    /// How long the writer may sleep before counts want to be written; none where there are none.
    pub(super) fn patience(&self, now: Duration) -> Option<Duration> {
        let due = self.written.saturating_add(FLUSH);
        (!self.waiting.is_empty()).then(|| due.saturating_sub(now))
    }

    /// Writes the waiting counts; [`Quarantine::committed`] says that they have stayed written.
    pub(super) fn write_counts(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        for ((reason, topic), waiting) in &self.waiting {
            tx.prepare_cached(
                "INSERT INTO reject_count (reason, count, last_ms) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE
                 SET count = count + excluded.count, last_ms = excluded.last_ms",
            )?
            .execute(params![reason, waiting.count, waiting.last.0])?;
            tx.prepare_cached(
                "INSERT INTO reject_topic (topic, reason, count, last_ms)
                 VALUES (iif(EXISTS (SELECT 1 FROM reject_topic WHERE topic = ?1)
                             OR (SELECT count(DISTINCT topic) FROM reject_topic WHERE topic <> ?6) < ?5,
                             ?1, ?6), ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET count = count + excluded.count, last_ms = excluded.last_ms",
            )?
            .execute(params![topic, reason, waiting.count, waiting.last.0, TOPICS, OTHER_TOPICS])?;
        }
        Ok(())
    }

    /// The counts are on the disk.
    pub(super) fn committed(&mut self, now: Duration) {
        self.waiting.clear();
        self.written = now;
    }
}

/// Keeps one sample.
pub(super) fn write_sample(tx: &Transaction<'_>, reject: &Reject) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO quarantine (at_ms, topic, reason, payload) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![
        reject.at.0,
        reject.topic,
        reject.reason,
        reject.sample
    ])?;
    Ok(())
}

/// Lets the oldest samples go, of whichever reason has most: a noisy reason pushes out its own.
pub(super) fn trim_samples(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "DELETE FROM quarantine WHERE id IN (
             SELECT id FROM (
                 SELECT id, row_number() OVER (PARTITION BY reason ORDER BY id DESC) AS behind
                 FROM quarantine)
             ORDER BY behind DESC, id
             LIMIT max(0, (SELECT count(*) FROM quarantine) - ?1))",
    )?
    .execute([ENTRIES])?;
    Ok(())
}

/// One refused message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineRow {
    /// Its number; later is higher.
    pub id: i64,
    /// When it arrived.
    pub at: TimestampMs,
    /// Where it was published; at most [`TOPIC_BYTES`] of it.
    pub topic: String,
    /// Why it was refused: a stable word.
    pub reason: String,
    /// The payload; at most [`SAMPLE_BYTES`] of it.
    pub payload: Vec<u8>,
}

/// How often messages of one topic were refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRejects {
    /// The topic; empty for all beyond the hundred that are counted by name.
    pub topic: String,
    /// The reason's stable word.
    pub reason: String,
    /// How many, since the store was made or the quarantine cleared.
    pub count: i64,
    /// The last of them.
    pub last: TimestampMs,
}

impl Reader {
    /// The newest refused messages, newest first, of one reason and one topic where these are given.
    pub fn quarantine(
        &self,
        reason: Option<&str>,
        topic: Option<&str>,
        limit: usize,
    ) -> Result<Vec<QuarantineRow>, StoreError> {
        self.rows(
            "list the quarantine",
            "SELECT id, at_ms, topic, reason, payload FROM quarantine
             WHERE (?1 IS NULL OR reason = ?1) AND (?2 IS NULL OR topic = ?2)
             ORDER BY id DESC LIMIT ?3",
            params![reason, topic, limit as i64],
            quarantine_row,
        )
    }

    /// One refused message.
    pub fn quarantined(&self, id: i64) -> Result<Option<QuarantineRow>, StoreError> {
        self.conn
            .query_row(
                "SELECT id, at_ms, topic, reason, payload FROM quarantine WHERE id = ?1",
                [id],
                quarantine_row,
            )
            .optional()
            .map_err(sql("read the quarantine"))
    }

    /// Refused messages by topic and reason, most first.
    pub fn reject_topics(&self) -> Result<Vec<TopicRejects>, StoreError> {
        let act = "count refused messages";
        let known: i64 = self
            .conn
            .query_row(
                "SELECT count(*) FROM sqlite_master WHERE name = 'reject_topic'",
                [],
                |r| r.get(0),
            )
            .map_err(sql(act))?;
        if known == 0 {
            // A file that no daemon of this version has opened yet.
            return Ok(Vec::new());
        }
        self.rows(
            act,
            "SELECT topic, reason, count, last_ms FROM reject_topic
             ORDER BY count DESC, topic, reason",
            [],
            |r| {
                Ok(TopicRejects {
                    topic: r.get(0)?,
                    reason: r.get(1)?,
                    count: r.get(2)?,
                    last: TimestampMs(r.get(3)?),
                })
            },
        )
    }
}

fn quarantine_row(r: &Row<'_>) -> rusqlite::Result<QuarantineRow> {
    Ok(QuarantineRow {
        id: r.get(0)?,
        at: TimestampMs(r.get(1)?),
        topic: r.get(2)?,
        reason: r.get(3)?,
        payload: r.get(4)?,
    })
}

impl Store {
    /// Forgets every refused message and every count of them; how many messages there were.
    pub async fn clear_quarantine(&self) -> Result<usize, StoreError> {
        self.run("clear the quarantine", |tx| {
            tx.execute_batch("DELETE FROM reject_count; DELETE FROM reject_topic;")?;
            tx.execute("DELETE FROM quarantine", [])
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open;

    fn append(reason: &'static str, topic: &str, at: i64) -> Append {
        Append {
            readings: vec![],
            reject: Some(Reject {
                at: TimestampMs(at),
                topic: topic.into(),
                reason,
                sample: b"{".to_vec(),
            }),
            ack: None,
        }
    }

    /// A store into which batches go as the writer puts them.
    struct Bench {
        dir: tempfile::TempDir,
        conn: rusqlite::Connection,
        quarantine: Quarantine,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let conn = open::writing(&dir.path().join("n.db")).unwrap();
            Self {
                dir,
                conn,
                quarantine: Quarantine::default(),
            }
        }

        fn put(&mut self, mut batch: Vec<Append>, now: Duration) {
            self.quarantine.sift(&mut batch, now);
            let tx = self.conn.transaction().unwrap();
            for reject in batch.iter().filter_map(|a| a.reject.as_ref()) {
                write_sample(&tx, reject).unwrap();
            }
            trim_samples(&tx).unwrap();
            self.quarantine.write_counts(&tx).unwrap();
            tx.commit().unwrap();
            self.quarantine.committed(now);
        }

        fn reader(&self) -> Reader {
            Reader::open(&self.dir.path().join("n.db")).unwrap()
        }
    }

    #[test]
    fn a_flood_keeps_a_few_samples_a_minute_and_counts_the_rest() {
        let mut bench = Bench::new();
        for second in 0..60 {
            let flood = (0..1000).map(|i| append("not_json", "a/b", i)).collect();
            bench.put(flood, Duration::from_secs(second));
        }
        let kept = bench.reader().quarantine(None, None, 5000).unwrap().len();
        assert!((20..=40).contains(&kept), "{kept}");
        let totals = bench.reader().totals().unwrap();
        assert_eq!(totals.rejects[0].count, 60_000);
        assert_eq!(totals.reject_topics[0].count, 60_000);
    }

    #[test]
    fn a_noisy_reason_pushes_out_its_own_samples_and_no_others() {
        let mut bench = Bench::new();
        let rare = (0..10).map(|i| append("no_device", "rare", i)).collect();
        bench.put(rare, Duration::ZERO);
        for minute in 1..=100 {
            let flood = (0..50).map(|i| append("not_json", "noisy", i)).collect();
            bench.put(flood, Duration::from_secs(60 * minute));
        }
        let reader = bench.reader();
        assert_eq!(reader.quarantine(None, None, 5000).unwrap().len(), 1000);
        let rare = reader.quarantine(Some("no_device"), Some("rare"), 5000);
        assert_eq!(rare.unwrap().len(), 10);
        let newest = reader.quarantine(None, None, 1).unwrap().remove(0);
        assert_eq!(reader.quarantined(newest.id).unwrap(), Some(newest));
    }

    #[test]
    fn a_flood_for_one_reason_leaves_room_for_samples_of_another() {
        let mut bench = Bench::new();
        let flood = (0..1000).map(|i| append("not_json", "noisy", i));
        let rare = (0..10).map(|i| append("no_device", "rare", i));
        bench.put(flood.chain(rare).collect(), Duration::ZERO);
        let kept = |reason| bench.reader().quarantine(Some(reason), None, 5000);
        assert_eq!(kept("not_json").unwrap().len(), 20);
        assert_eq!(kept("no_device").unwrap().len(), 10);
    }

    #[test]
    fn topics_beyond_the_hundred_are_counted_together() {
        let mut bench = Bench::new();
        for round in 0..40 {
            let flood = (0..50).map(|i| append("not_json", &format!("t/{round}/{i}"), i));
            bench.put(flood.collect(), Duration::from_secs(round));
        }
        bench.put(
            vec![append("no_values", "t/0/7", 1)],
            Duration::from_secs(99),
        );
        bench.put(
            vec![append("no_values", "late", 1)],
            Duration::from_secs(99),
        );
        let counted = bench.reader().reject_topics().unwrap();
        assert_eq!(counted.len(), 100 + 1 + 1 + 1);
        assert_eq!(
            (counted[0].topic.as_str(), counted[0].count),
            (OTHER_TOPICS, 1900)
        );
        assert_eq!(counted.iter().map(|c| c.count).sum::<i64>(), 2002);
        assert!(
            counted
                .iter()
                .any(|c| c.topic == "t/0/7" && c.reason == "no_values")
        );
        assert!(counted.iter().all(|c| c.topic != "late"));
    }

    #[test]
    fn counts_waiting_for_a_commit_are_bounded_and_complete() {
        let mut quarantine = Quarantine::default();
        let mut flood: Vec<Append> = (0..5000)
            .map(|i| append("not_json", &format!("t/{i}"), i))
            .collect();
        assert_eq!(quarantine.sift(&mut flood, Duration::ZERO), 5000);
        assert!(quarantine.waiting.len() <= WAITING + 1);
        assert_eq!(
            quarantine.waiting.values().map(|w| w.count).sum::<i64>(),
            5000
        );
        assert_eq!(quarantine.patience(Duration::ZERO), Some(FLUSH));
        assert_eq!(quarantine.patience(FLUSH * 2), Some(Duration::ZERO));
        quarantine.committed(FLUSH);
        assert_eq!(quarantine.patience(FLUSH * 9), None);
    }
}
