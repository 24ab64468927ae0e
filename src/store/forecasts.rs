//! Forecasts as they were published, and what was measured when their time came.

use rusqlite::{Row, params};

use super::{ForecastRow, LiveAccuracy, Reader, Store, StoreError, sql};
use crate::reading::{DeviceId, TimestampMs};

const COLUMNS: &str =
    "device_id, issued_ms, target_ms, horizon_min, power_w, p10_w, p90_w, smart_w,
    naive_w, model_version, source, actual_w";

impl Store {
    /// Keeps forecasts; a later one for the same device, moment and horizon replaces the earlier.
    pub async fn save_forecasts(&self, rows: Vec<ForecastRow>) -> Result<(), StoreError> {
        self.run("keep forecasts", move |tx| {
            let mut insert = tx.prepare_cached(
                "INSERT OR REPLACE INTO forecast (device_no, target_ms, horizon_min, issued_ms,
                    model_version, source, power_w, p10_w, p90_w, smart_w, naive_w)
                 SELECT device_no, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11
                 FROM device WHERE device_id = ?1",
            )?;
            for f in &rows {
                insert.execute(params![
                    f.device.as_str(),
                    f.target.0,
                    f.horizon_min,
                    f.issued.0,
                    f.model_version,
                    f.source,
                    f.power_w,
                    f.p10_w,
                    f.p90_w,
                    f.smart_w,
                    f.naive_w
                ])?;
            }
            Ok(())
        })
        .await
    }

    /// Fills in what was measured (`None`: it never will be) for device, target and horizon.
    pub async fn settle_forecasts(
        &self,
        rows: Vec<(DeviceId, TimestampMs, Option<f64>)>,
    ) -> Result<(), StoreError> {
        self.run("settle forecasts", move |tx| {
            let mut update = tx.prepare_cached(
                "UPDATE forecast SET actual_w = ?3, settled = 1
                 WHERE target_ms = ?2 AND settled = 0
                   AND device_no = (SELECT device_no FROM device WHERE device_id = ?1)",
            )?;
            for (device, target, actual_w) in &rows {
                update.execute(params![device.as_str(), target.0, actual_w])?;
            }
            Ok(())
        })
        .await
    }
}

impl Reader {
    /// Forecasts whose time has come and whose actual value is not known yet, oldest first.
    pub fn unsettled(
        &self,
        until: TimestampMs,
        limit: usize,
    ) -> Result<Vec<(DeviceId, TimestampMs)>, StoreError> {
        self.rows(
            "list unsettled forecasts",
            "SELECT device_id, target_ms FROM forecast JOIN device USING (device_no)
             WHERE settled = 0 AND target_ms <= ?1 ORDER BY target_ms LIMIT ?2",
            params![until.0, limit as i64],
            |r| {
                Ok((
                    DeviceId::new(&r.get::<_, String>(0)?),
                    TimestampMs(r.get(1)?),
                ))
            },
        )
    }

    /// The newest forecast of each device, by name.
    pub fn latest_forecasts(&self) -> Result<Vec<ForecastRow>, StoreError> {
        let query = format!(
            "SELECT {COLUMNS}, max(issued_ms) FROM forecast JOIN device USING (device_no)
             WHERE target_ms > (SELECT max(target_ms) FROM forecast) - 86400000
             GROUP BY device_no ORDER BY device_id"
        );
        self.rows("read the latest forecasts", &query, [], forecast)
    }

    /// How the forecasts with `from <= target < to` did against what was measured.
    pub fn live_accuracy(
        &self,
        from: TimestampMs,
        to: TimestampMs,
    ) -> Result<LiveAccuracy, StoreError> {
        self.conn
            .query_row(
                "SELECT count(*), coalesce(avg(abs(power_w - actual_w)), 0),
                        coalesce(avg(abs(smart_w - actual_w)), 0),
                        coalesce(avg(abs(naive_w - actual_w)), 0),
                        avg(CASE WHEN p10_w IS NOT NULL THEN actual_w BETWEEN p10_w AND p90_w END)
                 FROM forecast
                 WHERE actual_w IS NOT NULL AND (actual_w > 0 OR power_w > 0)
                   AND target_ms >= ?1 AND target_ms < ?2",
                params![from.0, to.0],
                |r| {
                    Ok(LiveAccuracy {
                        settled: r.get(0)?,
                        mae_w: r.get(1)?,
                        smart_mae_w: r.get(2)?,
                        naive_mae_w: r.get(3)?,
                        coverage: r.get(4)?,
                    })
                },
            )
            .map_err(sql("score the published forecasts"))
    }
}

fn forecast(r: &Row<'_>) -> rusqlite::Result<ForecastRow> {
    Ok(ForecastRow {
        device: DeviceId::new(&r.get::<_, String>(0)?),
        issued: TimestampMs(r.get(1)?),
        target: TimestampMs(r.get(2)?),
        horizon_min: r.get(3)?,
        power_w: r.get(4)?,
        p10_w: r.get(5)?,
        p90_w: r.get(6)?,
        smart_w: r.get(7)?,
        naive_w: r.get(8)?,
        model_version: r.get(9)?,
        source: r.get(10)?,
        actual_w: r.get(11)?,
    })
}
