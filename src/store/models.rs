//! Models as bytes, state and figures; the pointer to the live one is the row whose state says so.

use rusqlite::{OptionalExtension, params};

use super::{ModelRow, NewModel, Reader, Store, StoreError, sql};
use crate::reading::TimestampMs;

/// Versions kept beside the live one.
const KEEP: i64 = 30;

impl Store {
    /// Keeps a model in the state it was given; returns its version.
    ///
    /// A model that enters as `live` takes the place of the one that was, in the same transaction.
    pub async fn add_model(&self, model: NewModel) -> Result<i64, StoreError> {
        self.run("keep a model", move |tx| {
            let live = model.state == "live";
            if live {
                retire_live(tx, model.created)?;
            }
            tx.execute(
                "INSERT INTO model (state, run_id, created_ms, promoted_ms, reason, metrics, bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    model.state,
                    model.run_id,
                    model.created.0,
                    live.then_some(model.created.0),
                    model.reason,
                    model.metrics,
                    model.bytes
                ],
            )?;
            let version = tx.last_insert_rowid();
            tx.execute(
                "DELETE FROM model WHERE state <> 'live' AND version NOT IN
                     (SELECT version FROM model WHERE state <> 'live' ORDER BY version DESC LIMIT ?1)",
                [KEEP],
            )?;
            Ok(version)
        })
        .await
    }
}

fn retire_live(tx: &rusqlite::Transaction<'_>, at: TimestampMs) -> rusqlite::Result<()> {
    tx.execute(
        "UPDATE model SET state = 'retired', retired_ms = ?1 WHERE state = 'live'",
        [at.0],
    )
    .map(drop)
}

impl Reader {
    /// The newest models, newest first, without their bytes.
    pub fn models(&self, limit: usize) -> Result<Vec<ModelRow>, StoreError> {
        self.select_models("ORDER BY version DESC LIMIT ?1", limit as i64)
    }

    /// The live model without its bytes.
    pub fn live_model_row(&self) -> Result<Option<ModelRow>, StoreError> {
        Ok(self
            .select_models("WHERE state = 'live' LIMIT ?1", 1)?
            .pop())
    }

    /// One model without its bytes.
    pub fn model(&self, version: i64) -> Result<Option<ModelRow>, StoreError> {
        Ok(self.select_models("WHERE version = ?1", version)?.pop())
    }

    fn select_models(&self, clause: &str, value: i64) -> Result<Vec<ModelRow>, StoreError> {
        let query = format!(
            "SELECT version, state, created_ms, promoted_ms, retired_ms, reason, metrics, length(bytes)
             FROM model {clause}"
        );
        self.rows("list models", &query, [value], |r| {
            let time = |i| r.get::<_, Option<i64>>(i).map(|t| t.map(TimestampMs));
            Ok(ModelRow {
                version: r.get(0)?,
                state: r.get(1)?,
                created: TimestampMs(r.get(2)?),
                promoted: time(3)?,
                retired: time(4)?,
                reason: r.get(5)?,
                metrics: serde_json::from_str(&r.get::<_, String>(6)?).unwrap_or_default(),
                size: r.get(7)?,
            })
        })
    }

    /// The live model's version and bytes.
    pub fn live_model(&self) -> Result<Option<(i64, Vec<u8>)>, StoreError> {
        self.conn
            .query_row(
                "SELECT version, bytes FROM model WHERE state = 'live'",
                [],
                |r| Ok((r.get(0)?, r.get(1)?)),
            )
            .optional()
            .map_err(sql("read the live model"))
    }

    /// A version's bytes.
    pub fn model_bytes(&self, version: i64) -> Result<Option<Vec<u8>>, StoreError> {
        self.conn
            .query_row(
                "SELECT bytes FROM model WHERE version = ?1",
                [version],
                |r| r.get(0),
            )
            .optional()
            .map_err(sql("read a model"))
    }
}
