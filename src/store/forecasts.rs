//! Forecasts as they were published, and what was measured when their time came.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Row, params};

use super::memory::Newest;
use super::{ForecastRow, Reader, Store, StoreError, sql};
use crate::reading::{DeviceId, TimestampMs};

const COLUMNS: &str =
    "device_id, issued_ms, target_ms, horizon_min, power_w, p10_w, p90_w, smart_w,
    naive_w, model_version, source, actual_w, ramp_probability";
/// The furthest ahead that a forecast may be, and a day: what is older is not the newest.
const NEWEST_MS: i64 = 3 * 86_400_000;

impl Store {
    /// Keeps forecasts; a later one for the same device, moment and horizon replaces the earlier.
    pub async fn save_forecasts(&self, rows: Vec<ForecastRow>) -> Result<(), StoreError> {
        let key = |f: &ForecastRow| ((f.device.clone(), f.horizon_min), (f.issued, f.target));
        let newest = rows.iter().map(key).collect();
        let kept = self.run("keep forecasts", move |tx| {
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
        });
        kept.await?;
        self.memory.kept(newest);
        Ok(())
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
        let newest = match &self.memory {
            Some(memory) => memory.forecasts(),
            None => self.scan_forecasts()?,
        };
        let act = "read the latest forecasts";
        let oldest = self.furthest()? - NEWEST_MS;
        let query = format!(
            "SELECT {COLUMNS} FROM forecast JOIN device USING (device_no)
             WHERE target_ms = ?1 AND device_id = ?2 AND horizon_min = ?3"
        );
        let mut query = self.conn.prepare(&query).map_err(sql(act))?;
        let mut rows = Vec::with_capacity(newest.len());
        for ((device, horizon_min), (_, target)) in newest {
            if target.0 > oldest {
                let key = params![target.0, device.as_str(), horizon_min];
                rows.extend(
                    query
                        .query_row(key, forecast)
                        .optional()
                        .map_err(sql(act))?,
                );
            }
        }
        Ok(rows)
    }

    /// The time of the furthest forecast.
    fn furthest(&self) -> Result<i64, StoreError> {
        let furthest: Option<i64> = self
            .conn
            .query_row("SELECT max(target_ms) FROM forecast", [], |r| r.get(0))
            .map_err(sql("find the furthest forecast"))?;
        Ok(furthest.unwrap_or(0))
    }

    /// When the newest forecast of each device and horizon was made, and for when. Looks at the keys of
    /// three days: what asks often has them in memory.
    pub(super) fn scan_forecasts(&self) -> Result<Newest, StoreError> {
        let mut newest: BTreeMap<(i64, u32), (TimestampMs, TimestampMs)> = BTreeMap::new();
        self.rows(
            "find the latest forecasts",
            "SELECT device_no, horizon_min, issued_ms, target_ms FROM forecast WHERE target_ms > ?1",
            [self.furthest()? - NEWEST_MS],
            |r| {
                let times = (TimestampMs(r.get(2)?), TimestampMs(r.get(3)?));
                let newest = newest.entry((r.get(0)?, r.get(1)?)).or_insert(times);
                *newest = times.max(*newest);
                Ok(())
            },
        )?;
        let names: BTreeMap<i64, DeviceId> = self.devices()?.into_iter().collect();
        let named = newest
            .into_iter()
            .filter_map(|((device_no, horizon_min), times)| {
                Some(((names.get(&device_no)?.clone(), horizon_min), times))
            });
        Ok(named.collect())
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
