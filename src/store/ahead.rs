//! Forecasts whose time is still to come, as the slots of a curve: only what belongs together.

use super::samples::only;
use super::{ForecastPoint, Reader, Store, StoreError};
use crate::reading::TimestampMs;

/// Under which key the length of the slots is kept that forecasts start from.
const GRID_MIN: &str = "forecast_grid_min";

impl Store {
    /// Notes the minutes of a slot that forecasts start from from now on.
    pub async fn keep_forecast_grid(&self, grid_min: u32) -> Result<(), StoreError> {
        self.keep(GRID_MIN, grid_min.to_string()).await
    }
}

impl Reader {
    /// Minutes of a slot that the newest forecasts start from.
    pub fn forecast_grid_min(&self) -> Result<Option<u32>, StoreError> {
        Ok(self.kept(GRID_MIN)?.and_then(|text| text.parse().ok()))
    }

    /// Forecasts for `from <= target < to` as means over steps of `step_ms`, of one device and horizon or
    /// of all, in order of time, device, horizon; without what is left over: a forecast that does not
    /// start from a slot of the present grid was made while slots had another length, and one that was
    /// made later than `now` under a clock that was wrong. Bounds are there where every forecast in the
    /// mean has them.
    pub fn forecasts_ahead(
        &self,
        device_no: Option<i64>,
        horizon_min: Option<u32>,
        now: TimestampMs,
        (from, to): (TimestampMs, TimestampMs),
        step_ms: i64,
    ) -> Result<Vec<ForecastPoint>, StoreError> {
        let step_ms = step_ms.max(1000);
        let grid_ms = i64::from(self.forecast_grid_min()?.unwrap_or(1).max(1)) * 60_000;
        let query = format!(
            "SELECT target_ms, device_no, horizon_min, issued_ms,
                    power_w, p10_w, p90_w, smart_w, naive_w, NULL
             FROM forecast
             WHERE target_ms >= ?1 AND target_ms < ?2 AND issued_ms <= ?3
               AND (target_ms - horizon_min * 60000) % {grid_ms} = 0{}{}",
            only("device_no", device_no),
            only("horizon_min", horizon_min.map(i64::from))
        );
        let parameters = [from.0, to.0, now.0];
        self.forecast_means(
            "read the forecasts ahead",
            &query,
            &parameters,
            step_ms,
            true,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open;

    const MIN: i64 = 60_000;

    #[test]
    fn what_is_ahead_is_of_the_present_grid_and_was_made_by_now() {
        // 30 minutes ahead on slots of one minute, until at 08:03 they became slots of ten; and one
        // forecast that was made while the clock was an hour ahead.
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("n.db");
        let conn = open::writing(&db).unwrap();
        conn.execute_batch(
            "INSERT INTO device VALUES (1, 'a', 0);
             WITH RECURSIVE n(i) AS (SELECT 470 UNION ALL SELECT i + 1 FROM n WHERE i < 483)
             INSERT INTO forecast (target_ms, device_no, horizon_min, issued_ms, source, power_w, smart_w, naive_w)
                 SELECT (i + 30) * 60000, 1, 30, i * 60000, 'smart', 900, 0, 0 FROM n;
             INSERT OR REPLACE INTO forecast (target_ms, device_no, horizon_min, issued_ms, source, power_w,
                                              p10_w, p90_w, smart_w, naive_w)
                 VALUES (510 * 60000, 1, 30, 484 * 60000, 'model', 100, 50, 150, 0, 0),
                        (560 * 60000, 1, 30, 530 * 60000, 'model', 9, 5, 15, 0, 0);",
        )
        .unwrap();
        let reader = Reader::open(&db).unwrap();
        let now = TimestampMs(485 * MIN);
        let range = (TimestampMs(495 * MIN), TimestampMs(1440 * MIN));
        let ahead = || {
            let points = reader.forecasts_ahead(None, None, now, range, 15 * MIN);
            let points = points.unwrap().into_iter();
            let point = |p: ForecastPoint| (p.at.0 / MIN, p.power_w, p.p10_w);
            points.map(point).collect::<Vec<_>>()
        };
        // Control: without the grid the fresh one drowns in what is left over, and its bounds would not
        // be those of the mean.
        assert_eq!(ahead(), [(495, 900.0, None), (510, 700.0, None)]);
        let noted = "INSERT INTO meta (key, value) VALUES ('forecast_grid_min', '10')";
        conn.execute(noted, []).unwrap();
        assert_eq!(ahead(), [(495, 900.0, None), (510, 100.0, Some(50.0))]);
    }
}
