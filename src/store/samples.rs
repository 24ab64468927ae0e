//! Charts of forecasts beside what was measured; long ones from a few of each step instead of all of a year.

use std::collections::BTreeMap;

use rusqlite::{Row, params, params_from_iter};
use serde::{Deserialize, Serialize};

use super::{Reader, StoreError};
use crate::reading::{DeviceId, TimestampMs};

/// Forecasts of one device and horizon for one step of time, and what was measured then; means, W.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForecastPoint {
    /// Whose power.
    pub device: DeviceId,
    /// Minutes ahead.
    pub horizon_min: u32,
    /// The beginning of the step.
    pub at: TimestampMs,
    /// When the newest of them was made.
    pub issued: TimestampMs,
    /// The forecasts.
    pub power_w: f64,
    /// Their lower bounds.
    pub p10_w: Option<f64>,
    /// Their upper bounds.
    pub p90_w: Option<f64>,
    /// Smart persistence.
    pub smart_w: f64,
    /// Naive persistence.
    pub naive_w: f64,
    /// What was measured, where it is known.
    pub actual_w: Option<f64>,
}

/// SQL for "and this column has this number", where there is one.
pub(super) fn only(column: &str, number: Option<i64>) -> String {
    number.map_or_else(String::new, |n| format!(" AND {column} = {n}"))
}

/// A mean under way.
#[derive(Clone, Copy, Default)]
struct Mean {
    sum: f64,
    of: u32,
}

impl Mean {
    fn add(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.sum += value;
            self.of += 1;
        }
    }

    fn value(self) -> Option<f64> {
        (self.of > 0).then(|| self.sum / f64::from(self.of))
    }
}

/// The forecasts of one step: the newest's time, and means of what the columns 4 and later hold.
#[derive(Default)]
struct Step {
    issued: i64,
    means: [Mean; 6],
}

impl Step {
    fn add(&mut self, r: &Row<'_>) -> rusqlite::Result<()> {
        self.issued = self.issued.max(r.get(3)?);
        for (i, mean) in self.means.iter_mut().enumerate() {
            mean.add(r.get(4 + i)?);
        }
        Ok(())
    }
}

impl Reader {
    /// Forecasts for `from <= target < to` as means over steps of `step_ms`, of one device and horizon or
    /// of all, in order of time, device, horizon. They are read in the order of the key and summed up
    /// here: SQLite would sort them all first.
    pub fn forecast_series(
        &self,
        device_no: Option<i64>,
        horizon_min: Option<u32>,
        (from, to): (TimestampMs, TimestampMs),
        step_ms: i64,
    ) -> Result<Vec<ForecastPoint>, StoreError> {
        let step_ms = step_ms.max(1000);
        let query = format!(
            "SELECT target_ms, device_no, horizon_min, issued_ms,
                    power_w, p10_w, p90_w, smart_w, naive_w, actual_w
             FROM forecast WHERE target_ms >= ?1 AND target_ms < ?2{}{}",
            only("device_no", device_no),
            only("horizon_min", horizon_min.map(i64::from))
        );
        self.forecast_means("chart forecasts", &query, &[from.0, to.0], step_ms, false)
    }

    /// Means over steps of the rows of `query`: target, number of the device, minutes ahead, time of issue
    /// and six values, in the order of the key. `whole`: bounds only where every forecast of a step has them.
    pub(super) fn forecast_means(
        &self,
        action: &'static str,
        query: &str,
        parameters: &[i64],
        step_ms: i64,
        whole: bool,
    ) -> Result<Vec<ForecastPoint>, StoreError> {
        let names: BTreeMap<i64, DeviceId> = self.devices()?.into_iter().collect();
        let mut steps: BTreeMap<(i64, &DeviceId, u32), Step> = BTreeMap::new();
        self.rows(action, query, params_from_iter(parameters), |r| {
            let target: i64 = r.get(0)?;
            if let Some(device) = names.get(&r.get(1)?) {
                let key = (target - target.rem_euclid(step_ms), device, r.get(2)?);
                steps.entry(key).or_default().add(r)?;
            }
            Ok(())
        })?;
        let points = steps.into_iter().map(|((at, device, horizon_min), step)| {
            let [power, p10, p90, smart, naive, actual] = step.means;
            let bound = |mean: Mean| mean.value().filter(|_| !whole || mean.of == power.of);
            ForecastPoint {
                device: device.clone(),
                horizon_min,
                at: TimestampMs(at),
                issued: TimestampMs(step.issued),
                power_w: power.value().unwrap_or_default(),
                p10_w: bound(p10),
                p90_w: bound(p90),
                smart_w: smart.value().unwrap_or_default(),
                naive_w: naive.value().unwrap_or_default(),
                actual_w: actual.value(),
            }
        });
        Ok(points.collect())
    }

    /// Forecasts of one device and horizon for `from <= target < to` as means over steps of `step_ms`
    /// (counted from 1970), in order of time; of every `sample_ms` only the first is looked at. One look
    /// into the key for each, however many forecasts there are.
    pub fn forecast_samples(
        &self,
        device_no: i64,
        horizon_min: u32,
        (from, to): (TimestampMs, TimestampMs),
        step_ms: i64,
        sample_ms: i64,
    ) -> Result<Vec<ForecastPoint>, StoreError> {
        let (step_ms, sample_ms) = (step_ms.max(1000), sample_ms.max(1000));
        self.rows(
            "sample forecasts",
            "WITH RECURSIVE sample(at) AS (
                 SELECT ?3 UNION ALL SELECT at + ?6 FROM sample WHERE at + ?6 < ?4),
             found(target) AS (
                 SELECT (SELECT target_ms FROM forecast
                         WHERE target_ms >= at AND target_ms < min(at + ?6, ?4)
                           AND device_no = ?1 AND horizon_min = ?2
                         ORDER BY target_ms LIMIT 1)
                 FROM sample)
             SELECT device_id, target_ms - target_ms % ?5 AS step, max(issued_ms), avg(power_w),
                    avg(p10_w), avg(p90_w), avg(smart_w), avg(naive_w), avg(actual_w)
             FROM found CROSS JOIN forecast ON target_ms = target AND device_no = ?1 AND horizon_min = ?2
                  JOIN device USING (device_no)
             GROUP BY step ORDER BY step",
            params![device_no, horizon_min, from.0, to.0, step_ms, sample_ms],
            |r| {
                Ok(ForecastPoint {
                    device: DeviceId::new(&r.get::<_, String>(0)?),
                    horizon_min,
                    at: TimestampMs(r.get(1)?),
                    issued: TimestampMs(r.get(2)?),
                    power_w: r.get(3)?,
                    p10_w: r.get(4)?,
                    p90_w: r.get(5)?,
                    smart_w: r.get(6)?,
                    naive_w: r.get(7)?,
                    actual_w: r.get(8)?,
                })
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open;

    #[test]
    fn of_each_stretch_the_first_forecast_counts_and_only_of_that_device_and_horizon() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("n.db");
        let conn = open::writing(&db).unwrap();
        // Two devices, two horizons, a forecast a minute; power is the minute's number.
        conn.execute_batch(
            "INSERT INTO device VALUES (1, 'a', 0), (2, 'b', 0);
             WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 239)
             INSERT INTO forecast (target_ms, device_no, horizon_min, issued_ms, source, power_w, p10_w, smart_w, naive_w)
             SELECT i * 60000, d, h, 7, 'model', iif(d = 1 AND h = 15, i, 1e6), i - 1, 0, 0
             FROM n, (SELECT 1 AS d UNION SELECT 2), (SELECT 15 AS h UNION SELECT 60)
             WHERE i NOT BETWEEN 60 AND 119;",
        )
        .unwrap();
        let reader = Reader::open(&db).unwrap();
        let hour = 3_600_000;
        let span = (TimestampMs(0), TimestampMs(4 * hour));
        let points = reader
            .forecast_samples(1, 15, span, hour, hour / 2)
            .unwrap();
        let seen: Vec<_> = points
            .iter()
            .map(|p| (p.at.0 / hour, p.power_w, p.p10_w, p.issued.0))
            .collect();
        let wanted = [
            (0, 15.0, Some(14.0), 7),
            (2, 135.0, Some(134.0), 7),
            (3, 195.0, Some(194.0), 7),
        ];
        assert_eq!(seen, wanted);
        // Every one, where the stretch is a minute: as the means of all of them.
        let all = reader.forecast_samples(1, 15, span, hour, 60_000).unwrap();
        assert_eq!(
            all,
            reader
                .forecast_series(Some(1), Some(15), span, hour)
                .unwrap()
        );
    }
}
