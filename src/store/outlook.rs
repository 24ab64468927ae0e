//! What is looked up for each device beside its readings: hourly mean power, and the skill of its forecasts.

use rusqlite::params;

use super::read::sound;
use super::{Reader, StoreError};
use crate::reading::{DeviceId, TimestampMs};

const HOUR_MS: i64 = 3_600_000;

impl Reader {
    /// Mean power of each device and hour (hours since the epoch) from hour `from` on: rolled up, or
    /// from the readings where that has not been done yet.
    pub fn hourly_power(&self, from: i64) -> Result<Vec<(DeviceId, i64, f64)>, StoreError> {
        let query = format!(
            "WITH done AS (SELECT coalesce(max(hour_ms), 0) + {HOUR_MS} AS until FROM reading_hour)
             SELECT device_id, hour_ms / {HOUR_MS}, power
             FROM reading_hour JOIN device USING (device_no)
             WHERE hour_ms >= ?1 AND power IS NOT NULL
             UNION ALL
             SELECT device_id, ts_ms / {HOUR_MS} AS hour, avg(power)
             FROM reading JOIN device USING (device_no)
             WHERE ts_ms >= max(?1, (SELECT until FROM done)) AND power IS NOT NULL AND {}
             GROUP BY device_no, hour",
            sound()
        );
        self.rows("read hourly power", &query, [from * HOUR_MS], |r| {
            let device = DeviceId::new(&r.get::<_, String>(0)?);
            Ok((device, r.get(1)?, r.get(2)?))
        })
    }

    /// Skill against smart persistence of each device's forecasts, the shortest horizon's, whose time was
    /// in `from <= target < to`; of devices with at least a hundred of them.
    pub fn device_skill(
        &self,
        from: TimestampMs,
        to: TimestampMs,
    ) -> Result<Vec<(DeviceId, f64)>, StoreError> {
        self.rows(
            "score each device's forecasts",
            "SELECT device_id, 1 - sum(abs(power_w - actual_w)) / sum(abs(smart_w - actual_w))
             FROM forecast JOIN device USING (device_no)
             WHERE actual_w IS NOT NULL AND (actual_w > 0 OR power_w > 0)
               AND target_ms >= ?1 AND target_ms < ?2
               AND horizon_min = (SELECT min(horizon_min) FROM forecast
                                  WHERE target_ms >= ?1 AND target_ms < ?2)
             GROUP BY device_no
             HAVING count(*) >= 100 AND sum(abs(smart_w - actual_w)) > 0",
            params![from.0, to.0],
            |r| Ok((DeviceId::new(&r.get::<_, String>(0)?), r.get(1)?)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open;

    #[test]
    fn hours_are_the_rolled_up_ones_and_behind_them_the_means_of_the_readings() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("n.db");
        let conn = open::writing(&db).unwrap();
        conn.execute_batch(
            "INSERT INTO device VALUES (1, 'a', 0);
             INSERT INTO reading_hour (hour_ms, device_no, n, sealed, power)
             VALUES (3600000, 1, 2, 0, 5), (7200000, 1, 2, 0, 7);
             INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted, power)
             VALUES (7200001, 1, 0, 0, 1, 99), (10800000, 1, 0, 0, 1, 10), (10800001, 1, 0, 0, 1, 20);",
        )
        .unwrap();
        let hours = Reader::open(&db).unwrap().hourly_power(2).unwrap();
        let hours: Vec<_> = hours.into_iter().map(|(_, hour, w)| (hour, w)).collect();
        assert_eq!(hours, [(2, 7.0), (3, 15.0)]);
    }

    #[test]
    fn skill_is_that_of_each_device_once_there_are_enough_forecasts() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("n.db");
        let conn = open::writing(&db).unwrap();
        conn.execute_batch(
            "INSERT INTO device VALUES (1, 'a', 0), (2, 'b', 0);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150)
             INSERT INTO forecast (target_ms, device_no, horizon_min, issued_ms, source, power_w,
                                   smart_w, naive_w, actual_w, settled)
             SELECT i, 1 + (i > 100), 15, 0, 'model', 11, 14, 0, 10, 1 FROM n;",
        )
        .unwrap();
        let reader = Reader::open(&db).unwrap();
        let skill = reader.device_skill(TimestampMs(0), TimestampMs(1000));
        assert_eq!(skill.unwrap(), [(DeviceId::new("a"), 0.75)]);
    }
}
