//! Forecasts as they were published, and what was measured when their time came.

use rusqlite::{Row, params};

use super::{ForecastRow, Reader, Store, StoreError};
use crate::reading::{DeviceId, TimestampMs};

const COLUMNS: &str =
    "device_id, issued_ms, target_ms, horizon_min, power_w, p10_w, p90_w, smart_w,
    naive_w, model_version, source, actual_w, ramp_probability";
/// The furthest ahead that a forecast may be, and a day: what is older is not the newest.
const NEWEST_MS: i64 = 3 * 86_400_000;

impl Store {
    /// Keeps forecasts; a later one for the same device, moment and horizon replaces the earlier.
    pub async fn save_forecasts(&self, rows: Vec<ForecastRow>) -> Result<(), StoreError> {
        self.run("keep forecasts", move |tx| {
            let mut insert = tx.prepare_cached(
                "INSERT OR REPLACE INTO forecast (device_no, target_ms, horizon_min, issued_ms,
                    model_version, source, power_w, p10_w, p90_w, smart_w, naive_w, ramp_probability)
                 SELECT device_no, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12
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
                    f.naive_w,
                    f.ramp_probability
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
            "SELECT DISTINCT device_id, target_ms FROM forecast JOIN device USING (device_no)
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

    /// The newest forecast of each device and horizon, by name and minutes ahead.
    pub fn latest_forecasts(&self) -> Result<Vec<ForecastRow>, StoreError> {
        let query = format!(
            "SELECT {COLUMNS}, max(issued_ms) FROM forecast JOIN device USING (device_no)
             WHERE target_ms > (SELECT max(target_ms) FROM forecast) - ?1
             GROUP BY device_no, horizon_min ORDER BY device_id, horizon_min"
        );
        self.rows("read the latest forecasts", &query, [NEWEST_MS], forecast)
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
        ramp_probability: r.get(12)?,
    })
}
