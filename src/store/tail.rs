//! What has just been stored: for those who look on.

use rusqlite::params;
use serde::Serialize;

use super::read::{each, values};
use super::{Reader, StoreError, sql};
use crate::reading::{DeviceId, TimestampMs, Values};

/// A reading as it was stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredReading {
    /// Which device.
    pub device: DeviceId,
    /// When it was measured.
    pub at: TimestampMs,
    /// When it arrived.
    pub received: TimestampMs,
    /// What was measured.
    pub values: Values,
}

impl Reader {
    /// A number that changes whenever another connection has written.
    pub fn data_version(&self) -> Result<i64, StoreError> {
        let asked = self
            .conn
            .pragma_query_value(None, "data_version", |r| r.get(0));
        asked.map_err(sql("see whether the store has changed"))
    }

    /// Readings that arrived at `received` or later and whose own time is `since` or later, in the order
    /// of arrival; of one device where it is given. Reads everything measured since then.
    pub fn arrived(
        &self,
        device_no: Option<i64>,
        since: TimestampMs,
        received: TimestampMs,
    ) -> Result<Vec<StoredReading>, StoreError> {
        self.rows(
            "read what has arrived",
            &format!(
                "SELECT device_id, ts_ms, received_ms, {} FROM reading JOIN device USING (device_no)
                 WHERE ts_ms >= ?1 AND received_ms >= ?2 AND (?3 IS NULL OR device_no = ?3)
                 ORDER BY received_ms, ts_ms, device_id",
                each(", ", str::to_owned)
            ),
            params![since.0, received.0, device_no],
            |r| {
                Ok(StoredReading {
                    device: DeviceId::new(&r.get::<_, String>(0)?),
                    at: TimestampMs(r.get(1)?),
                    received: TimestampMs(r.get(2)?),
                    values: values(r, 3)?,
                })
            },
        )
    }

    /// The newest reading's own time.
    pub fn newest_ts(&self) -> Result<Option<TimestampMs>, StoreError> {
        let newest = self.rows(
            "find the newest reading",
            "SELECT max(ts_ms) FROM reading",
            [],
            |r| r.get::<_, Option<i64>>(0),
        )?;
        Ok(newest.into_iter().flatten().next().map(TimestampMs))
    }
}
