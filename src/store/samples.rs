//! Long charts of forecasts: a few of each step instead of all of a year.

use rusqlite::params;

use super::{ForecastPoint, Reader, StoreError};
use crate::reading::{DeviceId, TimestampMs};

impl Reader {
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
