//! Questions of charts and tables: readings in equal steps, forecasts beside what was measured, sums of their errors.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::read::sound;
use super::{EventRow, LiveAccuracy, Reader, StoreError, sql};
use crate::reading::{DeviceId, Field, TimestampMs, Values};

const HOUR_MS: i64 = 3_600_000;

/// A device as lists show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// Its name.
    pub device: DeviceId,
    /// When its first reading arrived.
    pub first_seen: TimestampMs,
    /// The newest reading's own time, where that is within a day of the newest of all.
    pub newest: Option<TimestampMs>,
    /// What that reading holds.
    pub values: Values,
}

/// What a device measured in one step of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeriesPoint {
    /// Which device.
    pub device: DeviceId,
    /// The beginning of the step.
    pub at: TimestampMs,
    /// Readings in it.
    pub readings: i64,
    /// The mean of each field that was asked for.
    pub means: Values,
    /// Least power of the step, W.
    pub power_min: Option<f64>,
    /// Greatest power of the step, W.
    pub power_max: Option<f64>,
}

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
#[derive(Clone, Copy, Default)]
struct Errors {
    settled: i64,
    banded: i64,
    live: f64,
    smart: f64,
    naive: f64,
    inside: i64,
}

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

impl Reader {
    /// The store's number of a device.
    pub fn device_no(&self, device: &str) -> Result<Option<i64>, StoreError> {
        let query = "SELECT device_no FROM device WHERE device_id = ?1";
        let found = self.conn.query_row(query, [device], |r| r.get(0));
        found.optional().map_err(sql("find a device"))
    }

    /// Every device ever seen with its newest reading, by name.
    pub fn device_rows(&self) -> Result<Vec<DeviceRow>, StoreError> {
        let mut rows = self.rows(
            "list devices",
            "SELECT device_id, first_seen_ms FROM device ORDER BY device_id",
            [],
            |r| {
                Ok(DeviceRow {
                    device: DeviceId::new(&r.get::<_, String>(0)?),
                    first_seen: TimestampMs(r.get(1)?),
                    newest: None,
                    values: Values::default(),
                })
            },
        )?;
        for (device, ts, values) in self.latest()? {
            if let Ok(at) = rows.binary_search_by(|row| row.device.cmp(&device)) {
                rows[at].newest = Some(ts);
                rows[at].values = values;
            }
        }
        Ok(rows)
    }

    /// The newest reading of each device, by name; of those that have one within a day of the newest of
    /// all. Read backwards until every device was met, however many readings that day has.
    pub fn latest(&self) -> Result<Vec<(DeviceId, TimestampMs, Values)>, StoreError> {
        let act = "read the latest readings";
        let names: BTreeMap<i64, DeviceId> = self.devices()?.into_iter().collect();
        let mut query = self
            .conn
            .prepare(&format!(
                "SELECT device_no, ts_ms, {} FROM reading
                 WHERE ts_ms > (SELECT max(ts_ms) FROM reading) - 86400000
                 ORDER BY ts_ms DESC, device_no DESC",
                names_of(&Field::ALL)
            ))
            .map_err(sql(act))?;
        let mut rows = query.query([]).map_err(sql(act))?;
        let mut met = BTreeMap::new();
        while met.len() < names.len()
            && let Some(row) = rows.next().map_err(sql(act))?
        {
            let device_no: i64 = row.get(0).map_err(sql(act))?;
            let Some(name) = names.get(&device_no).filter(|n| !met.contains_key(*n)) else {
                continue;
            };
            let mut values = Values::default();
            for (i, field) in Field::ALL.into_iter().enumerate() {
                values.set(field, row.get(2 + i).map_err(sql(act))?);
            }
            let ts = TimestampMs(row.get(1).map_err(sql(act))?);
            met.insert(name.clone(), (ts, values));
        }
        Ok(met.into_iter().map(|(d, (ts, v))| (d, ts, v)).collect())
    }

    /// Means of `fields` over steps of `step_ms` (counted from 1970) in `from <= t < to`, of one device
    /// or of all, in order of time.
    ///
    /// Steps of whole hours come from the hourly means as far as these go, and so does, an hour a point,
    /// whatever is older than the readings that are kept. A step with no reading has no point.
    pub fn series(
        &self,
        device_no: Option<i64>,
        fields: &[Field],
        (from, to): (TimestampMs, TimestampMs),
        step_ms: i64,
    ) -> Result<Vec<SeriesPoint>, StoreError> {
        let step_ms = step_ms.max(1000);
        let from = from.0 - from.0.rem_euclid(step_ms);
        let hourly_until = if step_ms % HOUR_MS == 0 {
            self.newest_hour()?.map(|hour| hour.0 + HOUR_MS)
        } else {
            let oldest = "SELECT min(ts_ms) FROM reading";
            let oldest = self.rows("find the oldest reading", oldest, [], |r| {
                r.get::<_, Option<i64>>(0)
            })?;
            let oldest = oldest.into_iter().flatten().next();
            Some(oldest.map_or(i64::MAX, |t| t - t.rem_euclid(HOUR_MS)))
        };
        let turn = hourly_until.unwrap_or(i64::MIN).clamp(from, to.0.max(from));
        let mut points: BTreeMap<(i64, i64), SeriesPoint> = BTreeMap::new();
        let names: BTreeMap<i64, DeviceId> = self.devices()?.into_iter().collect();
        for (hourly, from, to) in [(true, from, turn), (false, turn, to.0)] {
            if from >= to {
                continue;
            }
            self.add_points(
                hourly,
                device_no,
                fields,
                (from, to),
                step_ms,
                |key, point| {
                    let name = names.get(&key.1).cloned();
                    let name = name.unwrap_or_else(|| DeviceId::new("?"));
                    match points.entry(key) {
                        std::collections::btree_map::Entry::Vacant(free) => {
                            free.insert(SeriesPoint {
                                device: name,
                                ..point
                            });
                        }
                        // A step that hours and readings share.
                        std::collections::btree_map::Entry::Occupied(mut half) => {
                            merge(half.get_mut(), &point);
                        }
                    }
                },
            )?;
        }
        Ok(points.into_values().collect())
    }

    fn add_points(
        &self,
        hourly: bool,
        device_no: Option<i64>,
        fields: &[Field],
        (from, to): (i64, i64),
        step_ms: i64,
        mut add: impl FnMut((i64, i64), SeriesPoint),
    ) -> Result<(), StoreError> {
        let act = "chart readings";
        let (table, time, count, least, most, also) = if hourly {
            let step = "sum(n)";
            (
                "reading_hour",
                "hour_ms",
                step,
                "power_min",
                "power_max",
                "1".to_owned(),
            )
        } else {
            ("reading", "ts_ms", "count(*)", "power", "power", sound())
        };
        let means: String = fields
            .iter()
            .map(|f| match hourly {
                true => format!(", sum({0} * n) / sum(iif({0} IS NULL, 0, n))", f.name()),
                false => format!(", avg({})", f.name()),
            })
            .collect();
        let step_ms = if hourly {
            step_ms.max(HOUR_MS)
        } else {
            step_ms
        };
        let mut query = self
            .conn
            .prepare(&format!(
                "SELECT {time} - ({time} % {step_ms}), device_no, {count}, min({least}), max({most}){means}
                 FROM {table} WHERE {time} >= ?1 AND {time} < ?2
                   AND (?3 IS NULL OR device_no = ?3) AND {also}
                 GROUP BY 1, 2"
            ))
            .map_err(sql(act))?;
        let mut rows = query
            .query(params![from, to, device_no])
            .map_err(sql(act))?;
        while let Some(r) = rows.next().map_err(sql(act))? {
            let mut read = || -> rusqlite::Result<()> {
                let mut means = Values::default();
                for (i, field) in fields.iter().enumerate() {
                    means.set(*field, r.get(5 + i)?);
                }
                let at: i64 = r.get(0)?;
                let point = SeriesPoint {
                    device: DeviceId::new(""),
                    at: TimestampMs(at),
                    readings: r.get(2)?,
                    means,
                    power_min: r.get(3)?,
                    power_max: r.get(4)?,
                };
                add((at, r.get(1)?), point);
                Ok(())
            };
            read().map_err(sql(act))?;
        }
        Ok(())
    }

    /// Forecasts for `from <= target < to` as means over steps of `step_ms`, of one device and horizon or
    /// of all, in order of time, device, horizon.
    pub fn forecast_series(
        &self,
        device_no: Option<i64>,
        horizon_min: Option<u32>,
        (from, to): (TimestampMs, TimestampMs),
        step_ms: i64,
    ) -> Result<Vec<ForecastPoint>, StoreError> {
        let step_ms = step_ms.max(1000);
        self.rows(
            "chart forecasts",
            &format!(
                "SELECT device_id, horizon_min, target_ms - (target_ms % {step_ms}) AS at,
                        max(issued_ms), avg(power_w), avg(p10_w), avg(p90_w), avg(smart_w),
                        avg(naive_w), avg(actual_w)
                 FROM forecast JOIN device USING (device_no)
                 WHERE target_ms >= ?1 AND target_ms < ?2
                   AND (?3 IS NULL OR device_no = ?3) AND (?4 IS NULL OR horizon_min = ?4)
                 GROUP BY at, device_no, horizon_min ORDER BY at, device_id, horizon_min"
            ),
            params![from.0, to.0, device_no, horizon_min],
            |r| {
                Ok(ForecastPoint {
                    device: DeviceId::new(&r.get::<_, String>(0)?),
                    horizon_min: r.get(1)?,
                    at: TimestampMs(r.get(2)?),
                    issued: TimestampMs(r.get(3)?),
                    power_w: r.get(4)?,
                    p10_w: r.get(5)?,
                    p90_w: r.get(6)?,
                    smart_w: r.get(7)?,
                    naive_w: r.get(8)?,
                    actual_w: r.get(9)?,
                })
            },
        )
    }

    /// How the forecasts with `from <= target < to` did, over daylight rows (actual or forecast above
    /// zero): of every horizon first all devices together, then each.
    pub fn accuracy(
        &self,
        from: TimestampMs,
        to: TimestampMs,
    ) -> Result<Vec<AccuracyRow>, StoreError> {
        let each = self.rows(
            "score the published forecasts",
            "SELECT horizon_min, device_no, count(*), sum(p10_w IS NOT NULL),
                    sum(abs(power_w - actual_w)), sum(abs(smart_w - actual_w)),
                    sum(abs(naive_w - actual_w)), total(actual_w BETWEEN p10_w AND p90_w)
             FROM forecast
             WHERE actual_w IS NOT NULL AND (actual_w > 0 OR power_w > 0)
               AND target_ms >= ?1 AND target_ms < ?2
             GROUP BY horizon_min, device_no",
            params![from.0, to.0],
            |r| {
                let errors = Errors {
                    settled: r.get(2)?,
                    banded: r.get(3)?,
                    live: r.get(4)?,
                    smart: r.get(5)?,
                    naive: r.get(6)?,
                    inside: r.get::<_, f64>(7)? as i64,
                };
                Ok((r.get::<_, u32>(0)?, r.get::<_, i64>(1)?, errors))
            },
        )?;
        let names: BTreeMap<i64, DeviceId> = self.devices()?.into_iter().collect();
        let mut table: BTreeMap<(u32, Option<DeviceId>), Errors> = BTreeMap::new();
        for (horizon_min, device_no, errors) in &each {
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

    /// Events, newest first, without the `skip` newest.
    pub fn events_page(&self, limit: usize, skip: usize) -> Result<Vec<EventRow>, StoreError> {
        self.select_events(None, limit, skip)
    }

    /// The newest events of one kind, newest first.
    pub fn events_of(&self, kind: &str, limit: usize) -> Result<Vec<EventRow>, StoreError> {
        self.select_events(Some(kind), limit, 0)
    }

    fn select_events(
        &self,
        kind: Option<&str>,
        limit: usize,
        skip: usize,
    ) -> Result<Vec<EventRow>, StoreError> {
        self.rows(
            "list events",
            "SELECT at_ms, kind, detail FROM event WHERE ?1 IS NULL OR kind = ?1
             ORDER BY id DESC LIMIT ?2 OFFSET ?3",
            params![kind, limit as i64, skip as i64],
            |r| {
                Ok(EventRow {
                    at: TimestampMs(r.get(0)?),
                    kind: r.get(1)?,
                    detail: r.get(2)?,
                })
            },
        )
    }
}

fn names_of(fields: &[Field]) -> String {
    fields
        .iter()
        .map(|f| f.name())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Joins what two sources know of one step; means weighted by the number of readings.
fn merge(into: &mut SeriesPoint, other: &SeriesPoint) {
    let (a, b) = (into.readings as f64, other.readings as f64);
    for field in Field::ALL {
        let both = match (into.means.get(field), other.means.get(field)) {
            (Some(x), Some(y)) => Some((x * a + y * b) / (a + b)),
            (x, y) => x.or(y),
        };
        into.means.set(field, both);
    }
    let either = |x: Option<f64>, y: Option<f64>, pick: fn(f64, f64) -> f64| match (x, y) {
        (Some(x), Some(y)) => Some(pick(x, y)),
        (x, y) => x.or(y),
    };
    into.power_min = either(into.power_min, other.power_min, f64::min);
    into.power_max = either(into.power_max, other.power_max, f64::max);
    into.readings += other.readings;
}

#[cfg(test)]
mod tests;
