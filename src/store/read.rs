//! Read-only access: short reads beside the running writer.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::memory::Memory;
use super::{RejectCount, Sample, StoreError, StoreTotals, open, sql};
use crate::reading::{DeviceId, Field, TimeSource, TimestampMs, Values};

/// Rows fetched under one read transaction: a longer one would keep the WAL from being folded in.
const PAGE: usize = 20_000;

/// Device, time and values of a reading.
pub type NamedSample = (DeviceId, TimestampMs, Values);

/// A read-only connection to the store.
pub struct Reader {
    pub(super) conn: Connection,
    /// Of the running daemon, so that it need not scan.
    pub(super) memory: Option<Arc<Memory>>,
    path: PathBuf,
}

/// SQL for "this reading's time is known": its own, or that of receipt by a clock that was trusted.
pub(super) fn sound() -> String {
    let (device, received) = (TimeSource::Device as i64, TimeSource::Received as i64);
    format!("(time_source = {device} OR (time_source = {received} AND clock_trusted))")
}

/// `text` of the column of every field, in their order.
pub(super) fn each(between: &str, text: impl Fn(&str) -> String) -> String {
    Field::ALL.map(|f| text(f.name())).join(between)
}

impl Reader {
    /// Opens the database at `path`, whether or not a daemon is writing to it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            conn: open::reading(path)?,
            memory: None,
            path: path.to_owned(),
        })
    }

    /// Every device ever seen, with the store's number for it.
    pub fn devices(&self) -> Result<Vec<(i64, DeviceId)>, StoreError> {
        self.rows(
            "list devices",
            "SELECT device_no, device_id FROM device ORDER BY device_no",
            [],
            |r| Ok((r.get(0)?, DeviceId::new(&r.get::<_, String>(1)?))),
        )
    }

    /// Every reading of all devices with `from <= ts < to`, in order of time and device, fetched a page
    /// at a time.
    ///
    /// Rows whose time is known to be wrong are left out: nothing can be learnt from them.
    pub fn samples(&self, from: TimestampMs, to: TimestampMs) -> Samples<'_> {
        Samples {
            reader: self,
            after: (from.0, i64::MIN),
            to,
            page: Vec::new().into_iter(),
            last_page: false,
        }
    }

    /// [`Reader::samples`] with the devices' names.
    pub fn named_samples(
        &self,
        from: TimestampMs,
        to: TimestampMs,
    ) -> Result<impl Iterator<Item = Result<NamedSample, StoreError>> + '_, StoreError> {
        let names: HashMap<i64, DeviceId> = self.devices()?.into_iter().collect();
        Ok(self.samples(from, to).map(move |sample| {
            let s = sample?;
            let device = names
                .get(&s.device_no)
                .cloned()
                .ok_or(StoreError::Damaged {
                    what: "a reading",
                    why: format!("device number {} has no name", s.device_no),
                })?;
            Ok((device, s.ts, s.values))
        }))
    }

    /// How many readings [`Reader::samples`] would give.
    pub fn count(&self, from: TimestampMs, to: TimestampMs) -> Result<u64, StoreError> {
        self.conn
            .query_row(
                &format!(
                    "SELECT count(*) FROM reading WHERE ts_ms >= ?1 AND ts_ms < ?2 AND {}",
                    sound()
                ),
                params![from.0, to.0],
                |row| row.get(0).map(i64::cast_unsigned),
            )
            .map_err(sql("count readings"))
    }

    /// The page after `(ts_ms, device_no)`, and whether it was the last; the key of its last row.
    fn page(&self, after: (i64, i64), to: TimestampMs) -> Result<Page, StoreError> {
        let rows = self.rows(
            "read readings",
            &format!(
                "SELECT ts_ms, device_no, {}, {} FROM reading
                 WHERE (ts_ms, device_no) > (?1, ?2) AND ts_ms < ?3
                 ORDER BY ts_ms, device_no LIMIT ?4",
                each(", ", str::to_owned),
                sound()
            ),
            params![after.0, after.1, to.0, PAGE as i64],
            |row| {
                let sample = Sample {
                    ts: TimestampMs(row.get(0)?),
                    device_no: row.get(1)?,
                    values: values(row, 2)?,
                };
                Ok((sample, row.get::<_, bool>(10)?))
            },
        )?;
        Ok(Page {
            end: rows.last().map_or(after, |(s, _)| (s.ts.0, s.device_no)),
            last: rows.len() < PAGE,
            samples: rows
                .into_iter()
                .filter(|(_, sound)| *sound)
                .map(|(s, _)| s)
                .collect(),
        })
    }

    /// The hours since the epoch, from `from` to before `to`, in which there is a reading. One look
    /// into the key for each of them, however many readings they hold.
    pub fn hours_with_readings(
        &self,
        from: TimestampMs,
        to: TimestampMs,
    ) -> Result<Vec<i64>, StoreError> {
        let act = "find the hours with readings";
        let mut first = self
            .conn
            .prepare("SELECT min(ts_ms) FROM reading WHERE ts_ms >= ?1 AND ts_ms < ?2")
            .map_err(sql(act))?;
        let (mut hours, mut from) = (Vec::new(), from.0);
        while let Some(ts) = first
            .query_row([from, to.0], |r| r.get::<_, Option<i64>>(0))
            .map_err(sql(act))?
        {
            let hour = ts.div_euclid(3_600_000);
            hours.push(hour);
            from = (hour + 1) * 3_600_000;
        }
        Ok(hours)
    }

    /// What the store holds.
    pub fn totals(&self) -> Result<StoreTotals, StoreError> {
        let act = "sum the store up";
        let one = |q: &str| -> Result<Option<i64>, StoreError> {
            self.conn
                .query_row(q, [], |r| r.get(0))
                .optional()
                .map(Option::flatten)
                .map_err(sql(act))
        };
        let size = |suffix: &str| {
            std::fs::metadata(open::suffixed(&self.path, suffix))
                .map(|m| m.len())
                .unwrap_or(0)
        };
        Ok(StoreTotals {
            devices: one("SELECT count(*) FROM device")?.unwrap_or(0),
            newest: one("SELECT max(ts_ms) FROM reading")?.map(TimestampMs),
            oldest: one("SELECT min(ts_ms) FROM reading")?.map(TimestampMs),
            database_bytes: size(""),
            wal_bytes: size("-wal"),
            rejects: self.rows(
                act,
                "SELECT reason, count, last_ms FROM reject_count ORDER BY count DESC",
                [],
                |r| {
                    Ok(RejectCount {
                        reason: r.get(0)?,
                        count: r.get(1)?,
                        last: TimestampMs(r.get(2)?),
                    })
                },
            )?,
            reject_topics: self.reject_topics()?,
        })
    }

    pub(super) fn rows<T>(
        &self,
        action: &'static str,
        query: &str,
        parameters: impl rusqlite::Params,
        row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        self.conn
            .prepare(query)
            .and_then(|mut s| s.query_map(parameters, row)?.collect())
            .map_err(sql(action))
    }
}

struct Page {
    samples: Vec<Sample>,
    end: (i64, i64),
    last: bool,
}

/// Readings in order; see [`Reader::samples`].
pub struct Samples<'a> {
    reader: &'a Reader,
    after: (i64, i64),
    to: TimestampMs,
    page: std::vec::IntoIter<Sample>,
    last_page: bool,
}

impl Iterator for Samples<'_> {
    type Item = Result<Sample, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(sample) = self.page.next() {
                return Some(Ok(sample));
            }
            if self.last_page {
                return None;
            }
            match self.reader.page(self.after, self.to) {
                Ok(page) => {
                    self.after = page.end;
                    self.last_page = page.last;
                    self.page = page.samples.into_iter();
                }
                Err(error) => {
                    self.last_page = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

pub(super) fn values(row: &Row<'_>, first: usize) -> rusqlite::Result<Values> {
    let mut values = Values::default();
    for (i, field) in Field::ALL.into_iter().enumerate() {
        values.set(field, row.get(first + i)?);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_come_in_time_order_across_pages_without_those_of_doubtful_time() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("n.db");
        let conn = open::writing(&db).unwrap();
        conn.execute_batch(
            "INSERT INTO device VALUES (1, 'a', 0), (2, 'b', 0);
             WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 24999)
             INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted, power)
             SELECT i / 2 * 1000, 1 + i % 2, 0, CASE i WHEN 10 THEN 2 WHEN 11 THEN 1 ELSE 0 END,
                    i <> 11 AND i <> 12, i FROM n;",
        )
        .unwrap();
        let reader = Reader::open(&db).unwrap();
        let seen: Vec<_> = reader
            .samples(TimestampMs(1000), TimestampMs(12_000_000))
            .map(|s| {
                s.map(|s| (s.ts.0, s.device_no, s.values.get(Field::Power)))
                    .unwrap()
            })
            .collect();
        assert_eq!(seen.len(), 24_000 - 2 - 2);
        assert!(seen.is_sorted_by_key(|s| (s.0, s.1)));
        assert_eq!(seen[0], (1000, 1, Some(2.0)));
        let counted = reader.count(TimestampMs(1000), TimestampMs(12_000_000));
        assert_eq!(counted.unwrap(), seen.len() as u64);
        assert_eq!(reader.devices().unwrap().len(), 2);
    }

    #[test]
    fn hours_with_readings_are_found_however_many_those_are() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("n.db");
        let conn = open::writing(&db).unwrap();
        conn.execute_batch(
            "INSERT INTO device VALUES (1, 'a', 0);
             INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted)
             VALUES (3599999, 1, 0, 0, 1), (3600000, 1, 0, 0, 1), (3600001, 1, 0, 0, 1),
                    (18000000, 1, 0, 0, 1), (21600000, 1, 0, 0, 1);",
        )
        .unwrap();
        let reader = Reader::open(&db).unwrap();
        let hours = |from, to| {
            reader
                .hours_with_readings(TimestampMs(from), TimestampMs(to))
                .unwrap()
        };
        assert_eq!(hours(0, 21_600_000), [0, 1, 5]);
        assert_eq!(hours(3_600_000, 21_600_001), [1, 5, 6]);
        assert_eq!(hours(30_000_000, i64::MAX), Vec::<i64>::new());
    }
}
