//! Hourly mean power of each device, for the energy that it will give.

use super::read::sound;
use super::{Reader, StoreError};
use crate::reading::DeviceId;

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
}
