//! Questions of charts and tables: the newest readings, readings in equal steps, events.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::read::{sound, values};
use super::samples::only;
use super::{EventRow, Heard, Reader, StoreError, sql};
use crate::reading::{DeviceId, Field, TimestampMs, Values};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Number of a device, time and values of its reading.
type Numbered = (i64, TimestampMs, Values);

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
    /// all.
    pub fn latest(&self) -> Result<Vec<(DeviceId, TimestampMs, Values)>, StoreError> {
        let found = match &self.memory {
            Some(memory) => self.latest_known(memory.readings())?,
            None => self.scan_latest()?,
        };
        let names: BTreeMap<i64, DeviceId> = self.devices()?.into_iter().collect();
        let named = found
            .into_iter()
            .filter_map(|(no, ts, values)| Some((names.get(&no)?.clone(), (ts, values))));
        let by_name: BTreeMap<DeviceId, _> = named.collect();
        Ok(by_name.into_iter().map(|(d, (ts, v))| (d, ts, v)).collect())
    }

    /// Of each device the last reading to arrive; of those that a running store remembers.
    pub fn heard(&self) -> Result<BTreeMap<DeviceId, Heard>, StoreError> {
        let Some(memory) = &self.memory else {
            return Ok(BTreeMap::new());
        };
        let (heard, devices) = (memory.heard(), self.devices()?.into_iter());
        Ok(devices
            .filter_map(|(no, device)| Some((device, *heard.get(&no)?)))
            .collect())
    }

    /// When these readings (numbers of devices and own times) arrived.
    pub(super) fn received(
        &self,
        readings: &HashMap<i64, i64>,
    ) -> Result<HashMap<i64, Heard>, StoreError> {
        let query = "SELECT received_ms FROM reading WHERE device_no = ?1 AND ts_ms = ?2";
        let mut heard = HashMap::new();
        for (&device_no, &ts) in readings {
            let at = TimestampMs(ts);
            let act = "find when a reading arrived";
            for received in self.rows(act, query, [device_no, ts], |r| r.get(0))? {
                let received = TimestampMs(received);
                heard.insert(device_no, Heard { received, at });
            }
        }
        Ok(heard)
    }

    /// [`Reader::latest`] by number, where the times are known: one look into the key for each. From
    /// there on backwards, since what is known may be newer than what this connection sees.
    fn latest_known(&self, known: Vec<(i64, i64)>) -> Result<Vec<Numbered>, StoreError> {
        let act = "read the latest readings";
        let oldest = self.newest_ts()?.map_or(0, |ts| ts.0) - DAY_MS;
        let select = |which: &str| {
            let fields = names_of(&Field::ALL);
            let text = format!(
                "SELECT device_no, ts_ms, {fields} FROM reading WHERE device_no = ?1 AND {which}"
            );
            self.conn.prepare(&text).map_err(sql(act))
        };
        let mut exact = select("ts_ms = ?2 AND ts_ms > ?3")?;
        let mut before = select("ts_ms < ?2 AND ts_ms > ?3 ORDER BY ts_ms DESC LIMIT 1")?;
        let mut found = Vec::with_capacity(known.len());
        for (device_no, ts) in known.into_iter().filter(|(_, ts)| *ts > oldest) {
            let key = [device_no, ts, oldest];
            let row = match exact.query_row(key, numbered).optional() {
                Ok(None) => before.query_row(key, numbered).optional(),
                found => found,
            };
            found.extend(row.map_err(sql(act))?);
        }
        Ok(found)
    }

    /// [`Reader::latest`] by number. Reads backwards until every device was met, which one that is silent
    /// makes all readings of a day.
    pub(super) fn scan_latest(&self) -> Result<Vec<Numbered>, StoreError> {
        let act = "read the latest readings";
        let devices = self.devices()?.len();
        let mut query = self
            .conn
            .prepare(&format!(
                "SELECT device_no, ts_ms, {} FROM reading
                 WHERE ts_ms > (SELECT max(ts_ms) FROM reading) - {DAY_MS}
                 ORDER BY ts_ms DESC, device_no DESC",
                names_of(&Field::ALL)
            ))
            .map_err(sql(act))?;
        let mut rows = query.query([]).map_err(sql(act))?;
        let (mut met, mut found) = (BTreeSet::new(), Vec::new());
        while met.len() < devices
            && let Some(row) = rows.next().map_err(sql(act))?
        {
            if met.insert(row.get::<_, i64>(0).map_err(sql(act))?) {
                found.push(numbered(row).map_err(sql(act))?);
            }
        }
        Ok(found)
    }

    /// Means of `fields` over steps of `step_ms` (counted from 1970) in `from <= t < to`, of one device
    /// or of all, in order of time.
    ///
    /// Steps of whole hours come from the hourly means as far as these go, and so does, an hour a point,
    /// whatever is older than the readings that are kept. A step with no reading has no point. Of one
    /// device that sends more than a reading a second not every one is looked at.
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
        let mut steps = Steps::default();
        if from < turn {
            self.add_hours(
                &mut steps,
                device_no,
                fields,
                (from, turn),
                step_ms.max(HOUR_MS),
            )?;
        }
        if turn < to.0 {
            self.add_readings(&mut steps, device_no, fields, (turn, to.0), step_ms)?;
        }
        let names: BTreeMap<i64, DeviceId> = self.devices()?.into_iter().collect();
        let name = |no: &i64| names.get(no).cloned().unwrap_or_else(|| DeviceId::new("?"));
        let points = steps.0.iter();
        Ok(points
            .map(|((at, device_no), sums)| sums.point(name(device_no), TimestampMs(*at), fields))
            .collect())
    }

    /// Hourly means. They come in order of time and are summed up here: SQLite would sort them first.
    fn add_hours(
        &self,
        steps: &mut Steps,
        device_no: Option<i64>,
        fields: &[Field],
        (from, to): (i64, i64),
        step_ms: i64,
    ) -> Result<(), StoreError> {
        let act = "chart readings";
        let mut query = self
            .conn
            .prepare(&format!(
                "SELECT hour_ms, device_no, n, power_min, power_max, {} FROM reading_hour
                 WHERE hour_ms >= ?1 AND hour_ms < ?2{}",
                names_of(fields),
                only("device_no", device_no)
            ))
            .map_err(sql(act))?;
        let mut rows = query.query([from, to]).map_err(sql(act))?;
        while let Some(r) = rows.next().map_err(sql(act))? {
            steps.add(r, fields, step_ms).map_err(sql(act))?;
        }
        Ok(())
    }

    /// Readings themselves. Where a device sends more than one a second, of each sixtieth of a step only
    /// so many are looked at as it has seconds: a look into the key goes on behind the rest.
    fn add_readings(
        &self,
        steps: &mut Steps,
        device_no: Option<i64>,
        fields: &[Field],
        (mut from, to): (i64, i64),
        step_ms: i64,
    ) -> Result<(), StoreError> {
        let act = "chart readings";
        let slot_ms = (step_ms / 60).max(1000);
        let most = match device_no {
            Some(_) => slot_ms / 1000,
            None => i64::MAX,
        };
        let mut query = self
            .conn
            .prepare(&format!(
                "SELECT ts_ms, device_no, 1, power, power, {} FROM reading
                 WHERE ts_ms >= ?1 AND ts_ms < ?2{} AND {} ORDER BY ts_ms, device_no",
                names_of(fields),
                only("device_no", device_no),
                sound()
            ))
            .map_err(sql(act))?;
        loop {
            let mut rows = query.query([from, to]).map_err(sql(act))?;
            let (mut slot, mut met) = (i64::MIN, 0);
            loop {
                let Some(r) = rows.next().map_err(sql(act))? else {
                    return Ok(());
                };
                let at = r.get::<_, i64>(0).map_err(sql(act))?.div_euclid(slot_ms);
                met = if at == slot { met + 1 } else { 1 };
                slot = at;
                if met > most {
                    break;
                }
                steps.add(r, fields, step_ms).map_err(sql(act))?;
            }
            from = (slot + 1) * slot_ms;
        }
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

fn numbered(row: &Row<'_>) -> rusqlite::Result<Numbered> {
    Ok((row.get(0)?, TimestampMs(row.get(1)?), values(row, 2)?))
}

/// Sums by beginning of the step and number of the device.
#[derive(Default)]
struct Steps(BTreeMap<(i64, i64), StepSums>);

/// What readings or hours of one step add up to.
#[derive(Clone, Copy, Default)]
struct StepSums {
    readings: i64,
    power_min: Option<f64>,
    power_max: Option<f64>,
    /// In the order of the fields that are asked for: sum, and how many were in it.
    fields: [(f64, f64); Field::ALL.len()],
}

impl Steps {
    /// Adds a row: time, device, readings, least and greatest power, and the means of `fields`.
    fn add(&mut self, r: &Row<'_>, fields: &[Field], step_ms: i64) -> rusqlite::Result<()> {
        let ts: i64 = r.get(0)?;
        let sums = self
            .0
            .entry((ts - ts.rem_euclid(step_ms), r.get(1)?))
            .or_default();
        let readings: i64 = r.get(2)?;
        sums.readings += readings;
        let (least, most): (Option<f64>, Option<f64>) = (r.get(3)?, r.get(4)?);
        sums.power_min = sums.power_min.into_iter().chain(least).reduce(f64::min);
        sums.power_max = sums.power_max.into_iter().chain(most).reduce(f64::max);
        for (i, (sum, weight)) in sums.fields.iter_mut().enumerate().take(fields.len()) {
            if let Some(mean) = r.get::<_, Option<f64>>(5 + i)? {
                *sum += mean * readings as f64;
                *weight += readings as f64;
            }
        }
        Ok(())
    }
}

impl StepSums {
    fn point(&self, device: DeviceId, at: TimestampMs, fields: &[Field]) -> SeriesPoint {
        let mut means = Values::default();
        for (field, (sum, weight)) in fields.iter().zip(self.fields) {
            means.set(*field, (weight > 0.0).then(|| sum / weight));
        }
        SeriesPoint {
            device,
            at,
            readings: self.readings,
            means,
            power_min: self.power_min,
            power_max: self.power_max,
        }
    }
}

#[cfg(test)]
mod tests;
