//! How published forecasts did: sums of their errors, by the hour, and of hours that are over remembered.

use std::collections::BTreeMap;

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{LiveAccuracy, Reader, StoreError, sql};
use crate::reading::{DeviceId, TimestampMs};

const HOUR_MS: i64 = 3_600_000;

/// Which device, of which horizon, and how well its forecasts did; without a device all of them together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccuracyRow {
    /// Whose forecasts; none: everybody's.
    pub device: Option<DeviceId>,
    /// How they did, with the horizon.
    #[serde(flatten)]
    pub accuracy: LiveAccuracy,
}

/// Sums that means can be taken of, and that can be added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Errors {
    settled: i64,
    banded: i64,
    live: f64,
    smart: f64,
    naive: f64,
    inside: i64,
}

/// By minutes ahead and number of the device.
pub(super) type Sums = BTreeMap<(u32, i64), Errors>;

impl Errors {
    fn add(&mut self, other: &Self) {
        self.settled += other.settled;
        self.banded += other.banded;
        self.live += other.live;
        self.smart += other.smart;
        self.naive += other.naive;
        self.inside += other.inside;
    }

    fn accuracy(&self, horizon_min: u32) -> LiveAccuracy {
        let mean = |sum: f64| sum / self.settled.max(1) as f64;
        LiveAccuracy {
            horizon_min,
            settled: self.settled,
            mae_w: mean(self.live),
            smart_mae_w: mean(self.smart),
            naive_mae_w: mean(self.naive),
            coverage: (self.banded > 0).then(|| self.inside as f64 / self.banded as f64),
        }
    }
}

fn add_up(into: &mut Sums, more: &Sums) {
    for (key, errors) in more {
        into.entry(*key).or_default().add(errors);
    }
}

impl Reader {
    /// How the forecasts with `from <= target < to` did, over daylight rows (actual or forecast above
    /// zero): of every horizon first all devices together, then each.
    pub fn accuracy(
        &self,
        from: TimestampMs,
        to: TimestampMs,
    ) -> Result<Vec<AccuracyRow>, StoreError> {
        let each = self.error_sums(from.0, to.0)?;
        let names: BTreeMap<i64, DeviceId> = self.devices()?.into_iter().collect();
        let mut table: BTreeMap<(u32, Option<DeviceId>), Errors> = BTreeMap::new();
        for ((horizon_min, device_no), errors) in &each {
            let device = names.get(device_no).cloned();
            for row in [None, device] {
                table.entry((*horizon_min, row)).or_default().add(errors);
            }
        }
        let rows = table
            .into_iter()
            .map(|((horizon_min, device), errors)| AccuracyRow {
                device,
                accuracy: errors.accuracy(horizon_min),
            });
        Ok(rows.collect())
    }

    /// The sums of a stretch of time: whole hours that are over from memory, where there is one.
    fn error_sums(&self, from: i64, to: i64) -> Result<Sums, StoreError> {
        let mut sums = Sums::new();
        let first = from.div_euclid(HOUR_MS) + i64::from(from.rem_euclid(HOUR_MS) > 0);
        let end = self.settled_until()?.min(to).div_euclid(HOUR_MS);
        let mut live = vec![(from, to)];
        if let Some(memory) = self.memory.as_ref().filter(|_| first < end) {
            live = vec![(from, first * HOUR_MS), (end * HOUR_MS, to)];
            for missing in memory.errors((first, end), |hour| add_up(&mut sums, hour)) {
                let stretch = (missing.start * HOUR_MS, missing.end * HOUR_MS);
                let mut found: BTreeMap<i64, Sums> = missing.map(|h| (h, Sums::new())).collect();
                found.extend(self.errors_by_hour(stretch.0, stretch.1)?);
                found.values().for_each(|hour| add_up(&mut sums, hour));
                memory.remember(found, end);
            }
        }
        for (from, to) in live {
            for (_, hour) in self.errors_by_hour(from, to)? {
                add_up(&mut sums, &hour);
            }
        }
        Ok(sums)
    }

    /// Before this no forecast changes any more: each has been settled or given up, and new ones are
    /// for later.
    fn settled_until(&self) -> Result<i64, StoreError> {
        let issued = self.memory.as_ref().and_then(|m| m.newest_issue());
        let Some(issued) = issued else {
            return Ok(i64::MIN);
        };
        let query = "SELECT min(target_ms) FROM forecast WHERE settled = 0";
        let unsettled: Option<i64> = self
            .conn
            .query_row(query, [], |r| r.get(0))
            .map_err(sql("find the first unsettled forecast"))?;
        Ok(unsettled.unwrap_or(i64::MAX).min(issued.0 - HOUR_MS))
    }

    /// The sums of each hour, in order. One pass in the order of the key; summed up here, since a GROUP BY
    /// of anything but the key sorts every row first.
    fn errors_by_hour(&self, from: i64, to: i64) -> Result<Vec<(i64, Sums)>, StoreError> {
        let mut hours: Vec<(i64, Sums)> = Vec::new();
        if from >= to {
            return Ok(hours);
        }
        let mut add = |r: &rusqlite::Row<'_>| -> rusqlite::Result<()> {
            let hour = r.get::<_, i64>(0)?.div_euclid(HOUR_MS);
            if hours.last().is_none_or(|(h, _)| *h != hour) {
                hours.push((hour, Sums::new()));
            }
            let Some((_, sums)) = hours.last_mut() else {
                return Ok(());
            };
            let errors = sums.entry((r.get(1)?, r.get(2)?)).or_default();
            let (power, actual): (f64, f64) = (r.get(3)?, r.get(4)?);
            let (p10, p90): (Option<f64>, Option<f64>) = (r.get(5)?, r.get(6)?);
            errors.settled += 1;
            errors.live += (power - actual).abs();
            errors.smart += (r.get::<_, f64>(7)? - actual).abs();
            errors.naive += (r.get::<_, f64>(8)? - actual).abs();
            errors.banded += i64::from(p10.is_some());
            let inside = p10
                .zip(p90)
                .is_some_and(|(p10, p90)| (p10..=p90).contains(&actual));
            errors.inside += i64::from(inside);
            Ok(())
        };
        let act = "score the published forecasts";
        let mut query = self
            .conn
            .prepare(
                "SELECT target_ms, horizon_min, device_no, power_w, actual_w, p10_w, p90_w, smart_w, naive_w
                 FROM forecast
                 WHERE target_ms >= ?1 AND target_ms < ?2
                   AND actual_w IS NOT NULL AND (actual_w > 0 OR power_w > 0)",
            )
            .map_err(sql(act))?;
        let mut rows = query.query(params![from, to]).map_err(sql(act))?;
        while let Some(row) = rows.next().map_err(sql(act))? {
            add(row).map_err(sql(act))?;
        }
        drop(rows);
        drop(query);
        Ok(hours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;
    use crate::store::open;
    use std::sync::Arc;

    const DAY_MS: i64 = 24 * HOUR_MS;

    /// Ten days of forecasts of two devices and horizons, some without a band, some of the night; those
    /// of the last two hours are not settled.
    fn station() -> (tempfile::TempDir, rusqlite::Connection, Reader) {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("n.db");
        let conn = open::writing(&db).unwrap();
        conn.execute_batch(
            "INSERT INTO device VALUES (1, 'b', 0), (2, 'a', 0);
             WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 10 * 288 - 1)
             INSERT INTO forecast (target_ms, device_no, horizon_min, issued_ms, source, power_w, p10_w,
                                   p90_w, smart_w, naive_w, actual_w, settled)
             SELECT i * 300000, d, h, i * 300000 - h * 60000, 'model', i % 288, iif(i % 3, i % 280, NULL),
                    iif(i % 3, i % 300, NULL), i % 17, i % 23,
                    iif(i % 288 > 100 AND i < 10 * 288 - 24, i % 291, 0), i < 10 * 288 - 24
             FROM n, (SELECT 1 AS d UNION SELECT 2), (SELECT 15 AS h UNION SELECT 60);",
        )
        .unwrap();
        let reader = Reader::open(&db).unwrap();
        (dir, conn, reader)
    }

    /// The sums as one statement.
    fn by_sql(conn: &rusqlite::Connection, from: i64, to: i64) -> Sums {
        conn.prepare(
            "SELECT horizon_min, device_no, count(*), sum(p10_w IS NOT NULL),
                    sum(abs(power_w - actual_w)), sum(abs(smart_w - actual_w)),
                    sum(abs(naive_w - actual_w)), total(actual_w BETWEEN p10_w AND p90_w)
             FROM forecast
             WHERE actual_w IS NOT NULL AND (actual_w > 0 OR power_w > 0)
               AND target_ms >= ?1 AND target_ms < ?2
             GROUP BY horizon_min, device_no",
        )
        .unwrap()
        .query_map([from, to], |r| {
            let errors = Errors {
                settled: r.get(2)?,
                banded: r.get(3)?,
                live: r.get(4)?,
                smart: r.get(5)?,
                naive: r.get(6)?,
                inside: r.get::<_, f64>(7)? as i64,
            };
            Ok(((r.get(0)?, r.get(1)?), errors))
        })
        .unwrap()
        .map(Result::unwrap)
        .collect()
    }

    #[test]
    fn sums_are_those_of_one_statement_with_and_without_memory() {
        let (_dir, conn, mut reader) = station();
        let ranges = [
            (0, 10 * DAY_MS),
            (9 * DAY_MS + 1234, 10 * DAY_MS),
            (7 * DAY_MS + HOUR_MS / 2, 8 * DAY_MS + HOUR_MS / 2),
            (3 * DAY_MS, 3 * DAY_MS + 600_000),
            (5 * DAY_MS, 5 * DAY_MS),
        ];
        for memory in [false, true] {
            reader.memory = memory.then(|| Arc::new(Memory::load(&reader).unwrap()));
            // The second time from memory.
            for (from, to) in ranges.into_iter().chain(ranges) {
                let sums = reader.error_sums(from, to).unwrap();
                assert_eq!(sums, by_sql(&conn, from, to), "{memory} {from} {to}");
            }
        }
    }

    #[test]
    fn an_hour_is_remembered_only_once_all_of_it_is_settled() {
        let (_dir, conn, mut reader) = station();
        reader.memory = Some(Arc::new(Memory::load(&reader).unwrap()));
        let range = (8 * DAY_MS, 10 * DAY_MS);
        let before = reader.error_sums(range.0, range.1).unwrap();
        conn.execute_batch("UPDATE forecast SET actual_w = 7, settled = 1 WHERE settled = 0")
            .unwrap();
        let after = reader.error_sums(range.0, range.1).unwrap();
        assert_ne!(before, after);
        assert_eq!(after, by_sql(&conn, range.0, range.1));
        // What is over is not read again.
        conn.execute_batch(&format!(
            "DELETE FROM forecast WHERE target_ms < {}",
            9 * DAY_MS
        ))
        .unwrap();
        assert_eq!(reader.error_sums(range.0, range.1).unwrap(), after);
    }
}
