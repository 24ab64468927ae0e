//! Alerts with what was told of them to whom, and the newest errors.

use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::{Reader, Store, StoreError, sql};
use crate::errors::ErrorReport;
use crate::reading::TimestampMs;

/// Alerts that are over are kept up to this many.
const KEPT: i64 = 500;
const COLUMNS: &str =
    "id, kind, subject, level, text, next_step, raised_ms, cleared_ms, acknowledged_ms";

/// An alert to raise.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAlert {
    /// What it is about: a stable word.
    pub kind: String,
    /// Which device; empty for the station.
    pub subject: String,
    /// `attention` or `down`.
    pub level: String,
    /// The sentence.
    pub text: String,
    /// What to do about it.
    pub next_step: Option<String>,
}

/// An alert as it was raised, and what has become of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertRow {
    /// Its number.
    pub id: i64,
    /// What it is about: a stable word.
    pub kind: String,
    /// Which device; empty for the station.
    pub subject: String,
    /// `attention` or `down`.
    pub level: String,
    /// The sentence of then.
    pub text: String,
    /// What to do about it.
    pub next_step: Option<String>,
    /// Since when it stands.
    pub raised: TimestampMs,
    /// When it was over; none while it stands.
    pub cleared: Option<TimestampMs>,
    /// When somebody said that they know.
    pub acknowledged: Option<TimestampMs>,
    /// The channels that have not been told yet.
    #[serde(default)]
    pub waiting: Vec<String>,
}

/// What a channel is told: that an alert was raised, or that it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notified {
    /// It has begun to stand.
    Raised,
    /// It is over.
    Cleared,
}

impl Notified {
    /// The stored and published word.
    pub fn as_str(self) -> &'static str {
        match self {
            Notified::Raised => "raised",
            Notified::Cleared => "cleared",
        }
    }
}

impl Store {
    /// Raises an alert, to be told to `channels` (`told`: which they have been already); nothing
    /// where it stands. Also while readings cannot be committed.
    pub async fn raise_alert(
        &self,
        alert: NewAlert,
        at: TimestampMs,
        channels: Vec<&'static str>,
        told: bool,
    ) -> Result<Option<i64>, StoreError> {
        self.chore("raise an alert", move |tx| {
            let added = tx.execute(
                "INSERT OR IGNORE INTO alert (kind, subject, level, text, next_step, raised_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    alert.kind,
                    alert.subject,
                    alert.level,
                    alert.text,
                    alert.next_step,
                    at.0
                ],
            )?;
            if added == 0 {
                return Ok(None);
            }
            let id = tx.last_insert_rowid();
            for channel in &channels {
                tx.execute(
                    "INSERT INTO alert_delivery VALUES (?1, 'raised', ?2, ?3, ?4)",
                    params![id, channel, at.0, told.then_some(at.0)],
                )?;
            }
            forget_old(tx)?;
            Ok(Some(id))
        })
        .await
    }

    /// Ends an alert; every channel that was to be told of it is to be told of that too.
    pub async fn clear_alert(&self, id: i64, at: TimestampMs) -> Result<(), StoreError> {
        self.chore("clear an alert", move |tx| {
            let over = tx.execute(
                "UPDATE alert SET cleared_ms = ?2 WHERE id = ?1 AND cleared_ms IS NULL",
                params![id, at.0],
            )?;
            if over == 1 {
                tx.execute(
                    "INSERT INTO alert_delivery
                     SELECT alert_id, 'cleared', channel, ?2, NULL FROM alert_delivery
                     WHERE alert_id = ?1 AND state = 'raised'",
                    params![id, at.0],
                )?;
            }
            Ok(())
        })
        .await
    }

    /// Notes that somebody knows of an alert, or of all that stand; how many were not known before.
    pub async fn acknowledge_alerts(
        &self,
        id: Option<i64>,
        at: TimestampMs,
    ) -> Result<usize, StoreError> {
        self.run("acknowledge alerts", move |tx| {
            tx.execute(
                "UPDATE alert SET acknowledged_ms = ?2 WHERE acknowledged_ms IS NULL
                 AND (id = ?1 OR ?1 IS NULL AND cleared_ms IS NULL)",
                params![id, at.0],
            )
        })
        .await
    }

    /// Notes that a channel has been told.
    pub async fn alert_delivered(
        &self,
        id: i64,
        what: Notified,
        channel: &'static str,
        at: TimestampMs,
    ) -> Result<(), StoreError> {
        self.chore("note that an alert was told", move |tx| {
            tx.execute(
                "UPDATE alert_delivery SET delivered_ms = ?4
                 WHERE alert_id = ?1 AND state = ?2 AND channel = ?3",
                params![id, what.as_str(), channel, at.0],
            )
            .map(drop)
        })
        .await
    }

    /// Keeps error reports, one for each text of a stage, the newest `most`.
    pub async fn keep_errors(
        &self,
        reports: Vec<ErrorReport>,
        most: usize,
    ) -> Result<(), StoreError> {
        self.run("keep error reports", move |tx| {
            for r in &reports {
                tx.execute(
                    "INSERT INTO error_report (stage, level, text, times, first_ms, last_ms)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT (stage, text) DO UPDATE SET
                         times = times + excluded.times, last_ms = excluded.last_ms",
                    params![r.stage, r.level, r.text, r.times, r.first.0, r.last.0],
                )?;
            }
            tx.execute(
                "DELETE FROM error_report WHERE id NOT IN
                     (SELECT id FROM error_report ORDER BY last_ms DESC, id DESC LIMIT ?1)",
                [most as i64],
            )
            .map(drop)
        })
        .await
    }
}

fn forget_old(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    let old = "cleared_ms IS NOT NULL AND id <= (SELECT max(id) FROM alert) - ?1";
    tx.execute(
        &format!("DELETE FROM alert_delivery WHERE alert_id IN (SELECT id FROM alert WHERE {old})"),
        [KEPT],
    )?;
    tx.execute(&format!("DELETE FROM alert WHERE {old}"), [KEPT])?;
    Ok(())
}

impl Reader {
    /// The newest alerts, newest first; `standing` for those that are not over, all of them.
    pub fn alerts(&self, standing: bool, limit: usize) -> Result<Vec<AlertRow>, StoreError> {
        self.rows(
            "list alerts",
            &format!(
                "SELECT {COLUMNS},
                    (SELECT group_concat(DISTINCT channel) FROM alert_delivery
                     WHERE alert_id = id AND delivered_ms IS NULL)
                 FROM alert WHERE NOT ?1 OR cleared_ms IS NULL ORDER BY id DESC LIMIT ?2"
            ),
            params![standing, if standing { -1 } else { limit as i64 }],
            alert,
        )
    }

    /// One alert.
    pub fn alert(&self, id: i64) -> Result<Option<AlertRow>, StoreError> {
        let query = format!("SELECT {COLUMNS}, NULL FROM alert WHERE id = ?1");
        Ok(self.rows("read an alert", &query, [id], alert)?.pop())
    }

    /// The newest alert of each kind and subject: what a retained topic has to say.
    pub fn last_alerts(&self) -> Result<Vec<AlertRow>, StoreError> {
        self.rows(
            "list the last alerts",
            &format!(
                "SELECT {COLUMNS}, NULL FROM alert
                 WHERE id IN (SELECT max(id) FROM alert GROUP BY kind, subject) ORDER BY id"
            ),
            [],
            alert,
        )
    }

    /// The oldest thing queued since then that `channel` has not been told.
    pub fn undelivered(
        &self,
        channel: &str,
        since: TimestampMs,
    ) -> Result<Option<(AlertRow, Notified)>, StoreError> {
        // Raised before cleared where both are of the same millisecond: 'r' > 'c'.
        self.conn
            .query_row(
                &format!(
                    "SELECT {COLUMNS}, NULL, state = 'raised'
                     FROM alert_delivery JOIN alert ON id = alert_id
                     WHERE channel = ?1 AND delivered_ms IS NULL AND queued_ms >= ?2
                     ORDER BY queued_ms, alert_id, state DESC LIMIT 1"
                ),
                params![channel, since.0],
                |r| {
                    let raised: bool = r.get(10)?;
                    let what = if raised {
                        Notified::Raised
                    } else {
                        Notified::Cleared
                    };
                    Ok((alert(r)?, what))
                },
            )
            .optional()
            .map_err(sql("look for alerts to tell"))
    }

    /// The newest errors, newest first.
    pub fn errors(&self, limit: usize) -> Result<Vec<ErrorReport>, StoreError> {
        self.rows(
            "list errors",
            "SELECT stage, level, text, times, first_ms, last_ms FROM error_report
             ORDER BY last_ms DESC, id DESC LIMIT ?1",
            [limit as i64],
            |r| {
                Ok(ErrorReport {
                    stage: r.get(0)?,
                    level: r.get(1)?,
                    text: r.get(2)?,
                    times: r.get(3)?,
                    first: TimestampMs(r.get(4)?),
                    last: TimestampMs(r.get(5)?),
                })
            },
        )
    }

    /// The events of these kinds since then, newest first.
    pub fn events_since(
        &self,
        kinds: &[&str],
        since: TimestampMs,
    ) -> Result<Vec<super::EventRow>, StoreError> {
        let mut found = self.rows(
            "list events of a kind",
            "SELECT at_ms, kind, detail FROM event WHERE at_ms >= ?1 ORDER BY id DESC",
            [since.0],
            |r| {
                Ok(super::EventRow {
                    at: TimestampMs(r.get(0)?),
                    kind: r.get(1)?,
                    detail: r.get(2)?,
                })
            },
        )?;
        found.retain(|e| kinds.contains(&e.kind.as_str()));
        Ok(found)
    }
}

fn alert(r: &Row<'_>) -> rusqlite::Result<AlertRow> {
    let time = |n| Ok::<_, rusqlite::Error>(r.get::<_, Option<i64>>(n)?.map(TimestampMs));
    let waiting: Option<String> = r.get(9)?;
    Ok(AlertRow {
        id: r.get(0)?,
        kind: r.get(1)?,
        subject: r.get(2)?,
        level: r.get(3)?,
        text: r.get(4)?,
        next_step: r.get(5)?,
        raised: TimestampMs(r.get(6)?),
        cleared: time(7)?,
        acknowledged: time(8)?,
        waiting: waiting.map_or(Vec::new(), |w| w.split(',').map(str::to_owned).collect()),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::{Nobody, Writer};

    fn new(kind: &str) -> NewAlert {
        NewAlert {
            kind: kind.into(),
            subject: String::new(),
            level: "down".into(),
            text: "t".into(),
            next_step: None,
        }
    }

    fn at(ms: i64) -> TimestampMs {
        TimestampMs(ms)
    }

    #[tokio::test]
    async fn an_alert_is_raised_once_and_each_channel_is_told_of_beginning_and_end() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("n.db");
        let store = Writer::start(&db, Duration::ZERO, 1, Nobody).unwrap();
        let raise = |ms, told| store.raise_alert(new("disk_full"), at(ms), vec!["webhook"], told);
        let id = raise(1, false).await.unwrap().unwrap();
        assert_eq!(raise(2, false).await.unwrap(), None, "it stands");
        store.clear_alert(id, at(3)).await.unwrap();
        let reader = Reader::open(&db).unwrap();
        for (what, ms) in [(Notified::Raised, 4), (Notified::Cleared, 5)] {
            let (row, found) = reader.undelivered("webhook", at(0)).unwrap().unwrap();
            assert_eq!((row.id, found), (id, what));
            store
                .alert_delivered(id, what, "webhook", at(ms))
                .await
                .unwrap();
        }
        assert_eq!(reader.undelivered("webhook", at(0)).unwrap(), None);
        assert_eq!(reader.undelivered("email", at(0)).unwrap(), None);
        // The next time is another alert; one that was told from memory is told to be over only.
        let again = raise(6, true).await.unwrap().unwrap();
        assert!(again > id);
        assert_eq!(reader.undelivered("webhook", at(0)).unwrap(), None);
        assert_eq!(store.acknowledge_alerts(None, at(7)).await.unwrap(), 1);
        assert_eq!(
            store.acknowledge_alerts(Some(again), at(8)).await.unwrap(),
            0
        );
        store.clear_alert(again, at(9)).await.unwrap();
        let (row, what) = reader.undelivered("webhook", at(0)).unwrap().unwrap();
        assert_eq!((row.acknowledged, what), (Some(at(7)), Notified::Cleared));
        assert_eq!(
            reader.undelivered("webhook", at(10)).unwrap(),
            None,
            "too old"
        );
        assert_eq!(reader.alerts(true, 0).unwrap(), []);
        assert_eq!(reader.alerts(false, 9).unwrap().len(), 2);
        assert_eq!(reader.last_alerts().unwrap()[0].id, again);
    }

    #[tokio::test]
    async fn alerts_that_are_over_and_errors_stay_within_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("n.db");
        let store = Writer::start(&db, Duration::ZERO, 1, Nobody).unwrap();
        let stands = store.raise_alert(new("stands"), at(0), vec!["email"], false);
        stands.await.unwrap();
        for ms in 1..=KEPT + 5 {
            let raised = store.raise_alert(new("comes"), at(ms), vec!["email"], false);
            let id = raised.await.unwrap().unwrap();
            store.clear_alert(id, at(ms)).await.unwrap();
        }
        let reader = Reader::open(&db).unwrap();
        let rows = reader.alerts(false, 10_000).unwrap();
        assert_eq!(rows.len() as i64, KEPT + 1);
        assert_eq!(rows.last().unwrap().kind, "stands", "it is not over");
        let report = |i: i64| ErrorReport {
            stage: "store".into(),
            level: "warn".into(),
            text: format!("n{}", i % 60),
            times: 1,
            first: at(i),
            last: at(i),
        };
        for i in 0..61 {
            store.keep_errors(vec![report(i)], 50).await.unwrap();
        }
        let errors = reader.errors(100).unwrap();
        assert_eq!(errors.len(), 50);
        assert_eq!((errors[0].text.as_str(), errors[0].last), ("n0", at(60)));
    }
}
