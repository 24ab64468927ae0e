//! The run log: one row per run, opened when it starts and closed with exactly one outcome.

use rusqlite::params;

use super::{NewRun, Reader, RunOutcome, RunRow, Store, StoreError};
use crate::reading::TimestampMs;

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
                        reason = 'the station stopped before the run had ended'
                 WHERE outcome IS NULL",
                [now.0],
            )
        })
        .await
    }
}

impl Reader {
    /// The newest runs, newest first.
    pub fn runs(&self, limit: usize) -> Result<Vec<RunRow>, StoreError> {
        self.select_runs("ORDER BY run_id DESC LIMIT ?1", limit as i64)
    }

    /// One run.
    pub fn run(&self, run_id: i64) -> Result<Option<RunRow>, StoreError> {
        Ok(self.select_runs("WHERE run_id = ?1", run_id)?.pop())
    }

    /// The newest run of a kind.
    pub fn last_run(&self, kind: &str) -> Result<Option<RunRow>, StoreError> {
        let clause = "WHERE kind = ?1 ORDER BY run_id DESC LIMIT 1";
        Ok(self.select_runs(clause, kind)?.pop())
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

    fn select_runs(
        &self,
        clause: &str,
        value: impl rusqlite::ToSql,
    ) -> Result<Vec<RunRow>, StoreError> {
        let query = format!(
            "SELECT run_id, kind, mode, trigger, nominal_ms, started_ms, ended_ms, outcome, reason, report
             FROM run {clause}"
        );
        self.rows("read the run log", &query, [value], |r| {
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
