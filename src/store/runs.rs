//! The run log: one row per run, opened when it starts and closed with exactly one outcome.

use rusqlite::{OptionalExtension, params};

use super::{
    Deletion, FailureKind, NewRun, NightRecord, Reader, RunOutcome, RunRow, RunSummary, Store,
    StoreError, Tries, sql,
};
use crate::reading::TimestampMs;

/// Runs looked at for the record of the newest nights.
const RECORD_RUNS: i64 = 200;

/// Which runs a list is to show.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunFilter<'a> {
    /// Only of this kind.
    pub kind: Option<&'a str>,
    /// Only with this outcome.
    pub outcome: Option<RunOutcome>,
    /// At most so many.
    pub limit: usize,
    /// Without the newest so many.
    pub skip: usize,
}

impl Store {
    /// Opens a run and returns its number.
    pub async fn start_run(&self, run: NewRun) -> Result<i64, StoreError> {
        self.run("open a run", move |tx| {
            tx.execute(
                "INSERT INTO run (kind, mode, trigger, nominal_ms, started_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![run.kind, run.mode, run.trigger, run.nominal.map(|t| t.0), run.started.0],
            )?;
            Ok(tx.last_insert_rowid())
        })
        .await
    }

    /// Closes a run, with the mode that was carried out if it came to that; a run that is closed stays
    /// as it is.
    pub async fn end_run(
        &self,
        run_id: i64,
        ended: TimestampMs,
        mode: Option<String>,
        outcome: RunOutcome,
        reason: String,
        report: Option<serde_json::Value>,
    ) -> Result<(), StoreError> {
        self.run("close a run", move |tx| {
            tx.execute(
                "UPDATE run SET ended_ms = ?2, outcome = ?3, reason = ?4, report = ?5,
                        mode = coalesce(?6, mode)
                 WHERE run_id = ?1 AND outcome IS NULL",
                params![
                    run_id,
                    ended.0,
                    outcome.as_str(),
                    reason,
                    report.map(|r| r.to_string()),
                    mode
                ],
            )
            .map(drop)
        })
        .await
    }

    /// Closes every run that a crash or a power cut left open; returns how many there were.
    pub async fn close_interrupted_runs(&self, now: TimestampMs) -> Result<usize, StoreError> {
        self.run("close interrupted runs", move |tx| {
            tx.execute(
                "UPDATE run SET ended_ms = ?1, outcome = 'failed',
                        reason = 'the station stopped before the run had ended',
                        report = json_object('failure', ?2)
                 WHERE outcome IS NULL",
                params![now.0, FailureKind::CutShort.as_str()],
            )
        })
        .await
    }

    /// Takes scheduled moments after `limit` out of the log: a wrong clock has put them there.
    pub async fn forget_nominals_after(&self, limit: TimestampMs) -> Result<usize, StoreError> {
        self.run("correct the run log", move |tx| {
            tx.execute(
                "UPDATE run SET nominal_ms = NULL WHERE nominal_ms > ?1",
                [limit.0],
            )
        })
        .await
    }

    /// Deletes a run, but neither one that is going on nor the one the schedule counts from.
    pub async fn delete_run(&self, run_id: i64) -> Result<Deletion, StoreError> {
        self.run("delete a run", move |tx| {
            let found: Option<(bool, bool)> = tx
                .query_row(
                    "SELECT outcome IS NULL,
                            kind = 'training' AND nominal_ms IS
                                (SELECT max(nominal_ms) FROM run WHERE kind = 'training')
                                AND nominal_ms IS NOT NULL
                     FROM run WHERE run_id = ?1",
                    [run_id],
                    |r| Ok((r.get(0)?, r.get(1)?)),
                )
                .optional()?;
            match found {
                None => return Ok(Deletion::Unknown),
                Some((true, _)) => return Ok(Deletion::Running),
                Some((_, true)) => return Ok(Deletion::Newest),
                Some(_) => {}
            }
            tx.execute("UPDATE model SET run_id = NULL WHERE run_id = ?1", [run_id])?;
            tx.execute("DELETE FROM run WHERE run_id = ?1", [run_id])?;
            Ok(Deletion::Done)
        })
        .await
    }
}

impl Reader {
    /// The newest runs, newest first; of one kind where it is given.
    pub fn runs(&self, kind: Option<&str>, limit: usize) -> Result<Vec<RunRow>, StoreError> {
        self.runs_page(&RunFilter {
            kind,
            outcome: None,
            limit,
            skip: 0,
        })
    }

    /// The runs that a filter lets through, newest first.
    pub fn runs_page(&self, filter: &RunFilter<'_>) -> Result<Vec<RunRow>, StoreError> {
        self.select_runs(
            "WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR outcome = ?2)
             ORDER BY run_id DESC LIMIT ?3 OFFSET ?4",
            params![
                filter.kind,
                filter.outcome.map(RunOutcome::as_str),
                filter.limit as i64,
                filter.skip as i64
            ],
        )
    }

    /// How long runs of this kind and mode took that had something to do: the mean of the newest ten, ms.
    pub fn usual_run_ms(&self, kind: &str, mode: &str) -> Result<Option<i64>, StoreError> {
        let found = self.rows(
            "see how long runs take",
            "SELECT CAST(avg(took) AS INTEGER) FROM (
                 SELECT max(ended_ms - started_ms, 0) AS took FROM run
                 WHERE kind = ?1 AND mode = ?2 AND outcome IN ('promoted', 'kept')
                 ORDER BY run_id DESC LIMIT 10)",
            params![kind, mode],
            |r| r.get::<_, Option<i64>>(0),
        )?;
        Ok(found.into_iter().flatten().next())
    }

    /// One run.
    pub fn run(&self, run_id: i64) -> Result<Option<RunRow>, StoreError> {
        Ok(self.select_runs("WHERE run_id = ?1", [run_id])?.pop())
    }

    /// The newest run of a kind.
    pub fn last_run(&self, kind: &str) -> Result<Option<RunRow>, StoreError> {
        let clause = "WHERE kind = ?1 ORDER BY run_id DESC LIMIT 1";
        Ok(self.select_runs(clause, [kind])?.pop())
    }

    /// The newest night. A run that was asked for by hand and found nothing new says nothing of the nights.
    pub fn last_night(&self) -> Result<Option<RunRow>, StoreError> {
        let clause = "WHERE kind = 'training' AND NOT (trigger = 'manual' AND outcome IS 'skipped')
                      ORDER BY run_id DESC LIMIT 1";
        Ok(self.select_runs(clause, [])?.pop())
    }

    /// The oldest housekeeping since `from` that noted the database's size: its time and those bytes.
    pub fn size_since(&self, from: TimestampMs) -> Result<Option<(TimestampMs, u64)>, StoreError> {
        let found = self.rows(
            "read the database's size of then",
            "SELECT started_ms, json_extract(report, '$.database_bytes') AS bytes FROM run
             WHERE kind = 'housekeeping' AND started_ms >= ?1 AND bytes IS NOT NULL
             ORDER BY run_id LIMIT 1",
            [from.0],
            |r| Ok((TimestampMs(r.get(0)?), r.get::<_, i64>(1)?.max(0) as u64)),
        )?;
        Ok(found.first().copied())
    }

    /// The nominal moment of the newest run of this kind that stands for one.
    pub fn last_nominal(&self, kind: &str) -> Result<Option<TimestampMs>, StoreError> {
        let newest = self.rows(
            "find the last scheduled run",
            "SELECT max(nominal_ms) FROM run WHERE kind = ?1",
            [kind],
            |r| r.get::<_, Option<i64>>(0),
        )?;
        Ok(newest.into_iter().flatten().next().map(TimestampMs))
    }

    /// What became of the training runs that stood for `nominal`.
    pub fn tries(&self, nominal: TimestampMs) -> Result<Tries, StoreError> {
        self.conn
            .query_row(
                "SELECT count(*) FILTER (WHERE failure = ?2), count(*) FILTER (WHERE failure = ?3),
                        count(*) FILTER (WHERE outcome IS NOT NULL
                                         AND (failure IS NULL OR failure NOT IN (?2, ?3)))
                 FROM (SELECT outcome, json_extract(report, '$.failure') AS failure
                       FROM run WHERE kind = 'training' AND nominal_ms = ?1)",
                params![
                    nominal.0,
                    FailureKind::Transient.as_str(),
                    FailureKind::CutShort.as_str()
                ],
                |r| {
                    Ok(Tries {
                        transient: r.get(0)?,
                        cut_short: r.get(1)?,
                        finished: r.get(2)?,
                    })
                },
            )
            .map_err(sql("count the tries of a night"))
    }

    /// When the newest night that learned began, as of `now`, and the scheduled moment it stood for.
    pub fn last_learned(
        &self,
        now: TimestampMs,
    ) -> Result<Option<(TimestampMs, Option<TimestampMs>)>, StoreError> {
        let newest = self.rows(
            "find the last night that learned",
            "SELECT started_ms, nominal_ms FROM run
             WHERE kind = 'training' AND outcome IN ('promoted', 'kept') AND started_ms <= ?1
             ORDER BY started_ms DESC LIMIT 1",
            [now.0],
            |r| Ok((TimestampMs(r.get(0)?), r.get::<_, Option<i64>>(1)?)),
        )?;
        Ok(newest
            .into_iter()
            .next()
            .map(|(began, nominal)| (began, nominal.map(TimestampMs))))
    }

    /// How the runs of `kind` that began since then did.
    pub fn run_summary(&self, kind: &str, since: TimestampMs) -> Result<RunSummary, StoreError> {
        self.conn
            .query_row(
                "SELECT count(*) FILTER (WHERE outcome = 'promoted'),
                        count(*) FILTER (WHERE outcome = 'kept'),
                        count(*) FILTER (WHERE outcome = 'skipped'),
                        count(*) FILTER (WHERE outcome = 'failed'),
                        avg(max(ended_ms - started_ms, 0)) FILTER (WHERE outcome <> 'skipped') / 1000.0
                 FROM run WHERE kind = ?1 AND started_ms >= ?2",
                params![kind, since.0],
                |r| {
                    Ok(RunSummary {
                        promoted: r.get(0)?,
                        kept: r.get(1)?,
                        skipped: r.get(2)?,
                        failed: r.get(3)?,
                        mean_s: r.get(4)?,
                    })
                },
            )
            .map_err(sql("sum the run log up"))
    }

    /// How the newest nights went.
    pub fn night_record(&self, now: TimestampMs) -> Result<NightRecord, StoreError> {
        let newest = self.rows(
            "read the record of the nights",
            "SELECT outcome, nominal_ms FROM run WHERE kind = 'training' AND outcome IS NOT NULL
             ORDER BY run_id DESC LIMIT ?1",
            [RECORD_RUNS],
            |r| Ok((r.get::<_, String>(0)?, r.get::<_, Option<i64>>(1)?)),
        )?;
        let in_row = |outcome: RunOutcome| {
            let mut nights: Vec<Option<i64>> = newest
                .iter()
                .take_while(|(word, _)| word == outcome.as_str())
                .map(|(_, nominal)| *nominal)
                .collect();
            // The tries of one night stand together.
            nights.dedup_by(|a, b| a.is_some() && a == b);
            nights.len() as u32
        };
        Ok(NightRecord {
            failed_in_row: in_row(RunOutcome::Failed),
            skipped_in_row: in_row(RunOutcome::Skipped),
            learned: self.last_learned(now)?.map(|(began, _)| began),
        })
    }

    fn select_runs(
        &self,
        clause: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<RunRow>, StoreError> {
        let query = format!(
            "SELECT run_id, kind, mode, trigger, nominal_ms, started_ms, ended_ms, outcome, reason, report
             FROM run {clause}"
        );
        self.rows("read the run log", &query, parameters, |r| {
            let time = |i| r.get::<_, Option<i64>>(i).map(|t| t.map(TimestampMs));
            Ok(RunRow {
                run_id: r.get(0)?,
                kind: r.get(1)?,
                mode: r.get(2)?,
                trigger: r.get(3)?,
                nominal: time(4)?,
                started: TimestampMs(r.get(5)?),
                ended: time(6)?,
                outcome: r
                    .get::<_, Option<String>>(7)?
                    .and_then(|w| RunOutcome::parse(&w)),
                reason: r.get(8)?,
                report: r
                    .get::<_, Option<String>>(9)?
                    .and_then(|text| serde_json::from_str(&text).ok()),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Nobody, Writer};

    const HOUR_MS: i64 = 3_600_000;

    fn at(hour: i64) -> TimestampMs {
        TimestampMs(hour * HOUR_MS)
    }

    /// A store with one run an hour: how each ended, what it stood for, and which failure it was.
    async fn with(
        runs: &[(Option<RunOutcome>, Option<i64>, Option<FailureKind>)],
    ) -> (tempfile::TempDir, Store, Reader) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n.db");
        let store = Writer::start(&path, std::time::Duration::ZERO, 1, Nobody).unwrap();
        for (i, (outcome, nominal, failure)) in runs.iter().enumerate() {
            let run = NewRun {
                kind: "training",
                mode: "full".into(),
                trigger: "schedule",
                nominal: nominal.map(at),
                started: at(i as i64),
            };
            let id = store.start_run(run).await.unwrap();
            if let Some(outcome) = outcome {
                let report = failure.map(|f| serde_json::json!({ "failure": f }));
                let ended = at(i as i64).plus_ms(2000);
                store
                    .end_run(id, ended, None, *outcome, "because".into(), report)
                    .await
                    .unwrap();
            }
        }
        let reader = Reader::open(&path).unwrap();
        (dir, store, reader)
    }

    use RunOutcome::{Failed, Kept, Promoted, Skipped};

    #[tokio::test]
    async fn the_tries_of_a_night_are_told_apart() {
        let (_dir, store, reader) = with(&[
            (Some(Failed), Some(5), Some(FailureKind::Transient)),
            (Some(Failed), Some(5), Some(FailureKind::Transient)),
            (None, Some(5), None),
            (Some(Failed), Some(6), Some(FailureKind::Permanent)),
            (Some(Failed), Some(7), None),
        ])
        .await;
        store.close_interrupted_runs(at(9)).await.unwrap();
        let tries = |hour| reader.tries(at(hour)).unwrap();
        let wanted = Tries {
            transient: 2,
            cut_short: 1,
            finished: 0,
        };
        assert_eq!(tries(5), wanted);
        assert_eq!((tries(6).finished, tries(7).finished), (1, 1));
        assert_eq!(tries(8), Tries::default());
        let closed = reader.run(3).unwrap().unwrap();
        assert_eq!((closed.outcome, closed.ended), (Some(Failed), Some(at(9))));
    }

    #[tokio::test]
    async fn what_was_asked_for_in_vain_is_not_the_last_night() {
        let (_dir, store, reader) = with(&[(Some(Promoted), Some(1), None)]).await;
        let mut last = Vec::new();
        for outcome in [Skipped, Kept] {
            let run = NewRun {
                kind: "training",
                mode: "full".into(),
                trigger: "manual",
                nominal: None,
                started: at(2),
            };
            let id = store.start_run(run).await.unwrap();
            let going_on = reader.last_night().unwrap().map(|run| run.run_id);
            assert_eq!(going_on, Some(id));
            let why = "because".into();
            store
                .end_run(id, at(3), None, outcome, why, None)
                .await
                .unwrap();
            last.push(reader.last_night().unwrap().and_then(|run| run.outcome));
        }
        assert_eq!(last, [Some(Promoted), Some(Kept)]);
    }

    #[tokio::test]
    async fn the_record_counts_nights_and_not_tries() {
        let again = Some(FailureKind::Transient);
        let (_dir, _store, reader) = with(&[
            (Some(Promoted), Some(1), None),
            (Some(Failed), Some(2), again),
            (Some(Failed), Some(3), again),
            (Some(Failed), Some(3), again),
            (Some(Failed), None, None),
            (Some(Failed), None, None),
        ])
        .await;
        let record = reader.night_record(at(99)).unwrap();
        assert_eq!((record.failed_in_row, record.skipped_in_row), (4, 0));
        assert_eq!(record.learned, Some(at(0)));
        let summary = reader.run_summary("training", at(1)).unwrap();
        assert_eq!((summary.failed, summary.promoted), (5, 0));
        assert_eq!(summary.success(), Some(0.0));
        assert_eq!(summary.mean_s, Some(2.0));
        assert_eq!(reader.run_summary("update", at(0)).unwrap().success(), None);
    }

    #[tokio::test]
    async fn a_wrong_clocks_nights_are_taken_back() {
        let (_dir, store, reader) =
            with(&[(Some(Kept), Some(5), None), (Some(Kept), Some(900), None)]).await;
        assert_eq!(store.forget_nominals_after(at(30)).await.unwrap(), 1);
        assert_eq!(reader.last_nominal("training").unwrap(), Some(at(5)));
        // What began later than now is no night of the past.
        assert_eq!(
            reader.last_learned(at(0)).unwrap(),
            Some((at(0), Some(at(5))))
        );
        assert_eq!(reader.last_learned(at(1)).unwrap(), Some((at(1), None)));
    }

    #[tokio::test]
    async fn a_run_is_deleted_unless_it_is_needed() {
        let (_dir, store, reader) = with(&[
            (Some(Skipped), Some(1), None),
            (Some(Kept), Some(2), None),
            (Some(Kept), None, None),
            (None, None, None),
        ])
        .await;
        for (run_id, wanted) in [
            (1, Deletion::Done),
            (1, Deletion::Unknown),
            (2, Deletion::Newest),
            (3, Deletion::Done),
            (4, Deletion::Running),
        ] {
            assert_eq!(store.delete_run(run_id).await.unwrap(), wanted, "{run_id}");
        }
        let left: Vec<i64> = reader
            .runs(None, 9)
            .unwrap()
            .iter()
            .map(|r| r.run_id)
            .collect();
        assert_eq!(left, [4, 2]);
        assert_eq!(reader.runs(Some("training"), 1).unwrap().len(), 1);
        assert!(reader.runs(Some("update"), 9).unwrap().is_empty());
    }
}
