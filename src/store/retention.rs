//! How long things are kept: hourly means for good, what is older than asked removed an hour at a time.

use std::sync::LazyLock;

use rusqlite::{Transaction, params};

use super::read::{each, sound};
use super::{Reader, Store, StoreError};
use crate::reading::TimestampMs;

pub(super) const HOUR_MS: i64 = 3_600_000;
/// Pages given back in one transaction; each may mean moving another page.
const PAGES_A_SLICE: i64 = 200;

/// What one slice removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Readings that are gone; their hour is in `reading_hour`.
    pub readings: usize,
    /// Forecasts that are gone.
    pub forecasts: usize,
}

/// What one device measured in an hour: the number of readings, the mean of each field, least and
/// greatest power.
struct HourMeans {
    device_no: i64,
    n: i64,
    means: [Option<f64>; 8],
    power_min: Option<f64>,
    power_max: Option<f64>,
}

/// An hour of readings, summed up beside the writer so that commits do not wait for it.
struct Hour {
    start: i64,
    devices: Vec<HourMeans>,
}

impl Store {
    /// Computes the means of the first hour with readings at or after `from` that ended before
    /// `until`; returns the end of that hour. What is there and right is not written again.
    async fn roll_up_hour(
        &self,
        from: TimestampMs,
        until: TimestampMs,
    ) -> Result<Option<TimestampMs>, StoreError> {
        let first = move |reader: &Reader| reader.first_hour(from, until, false);
        let Some(hour) = self.summed_up(first).await? else {
            return Ok(None);
        };
        let end = TimestampMs(hour.start + HOUR_MS);
        self.chore("roll an hour up", move |tx| keep(tx, &hour, &REFRESH))
            .await?;
        Ok(Some(end))
    }

    /// Computes the means of the hours of a span, after which all before `until` are right but for those that
    /// readings came in for meanwhile; returns how many hours there were.
    pub async fn roll_up(
        &self,
        (mut from, to): (TimestampMs, TimestampMs),
        until: TimestampMs,
    ) -> Result<usize, StoreError> {
        let gauges = self.gauges().clone();
        gauges.late.begin(until);
        let mut hours = 0;
        while let Some(end) = self.roll_up_hour(from, to).await? {
            from = end;
            hours += 1;
        }
        self.chore("note up to where hours are summed up", move |tx| {
            gauges.late.end(tx)
        })
        .await?;
        Ok(hours)
    }

    /// Removes the oldest hour of readings and forecasts, if all of it is older than `before`, in one
    /// transaction with its roll-up.
    pub async fn remove_oldest_hour(
        &self,
        before: TimestampMs,
    ) -> Result<Option<Removed>, StoreError> {
        let first = move |reader: &Reader| reader.first_hour(TimestampMs(i64::MIN), before, true);
        let Some(hour) = self.summed_up(first).await? else {
            return Ok(None);
        };
        self.chore("remove an hour", move |tx| remove(tx, &hour).map(Some))
            .await
    }

    async fn summed_up(
        &self,
        read: impl FnOnce(&Reader) -> Result<Option<Hour>, StoreError> + Send + 'static,
    ) -> Result<Option<Hour>, StoreError> {
        let path = self.path.clone();
        let reading = move || Reader::open(&path).and_then(|reader| read(&reader));
        match tokio::task::spawn_blocking(reading).await {
            Ok(hour) => hour,
            Err(_) => Err(StoreError::WriterGone {
                action: "sum an hour up",
            }),
        }
    }

    /// Removes runs that began before `before`, but those that models name and the newest of their kind.
    pub async fn remove_old_runs(&self, before: TimestampMs) -> Result<usize, StoreError> {
        self.chore("remove old runs", move |tx| {
            tx.execute(
                "DELETE FROM run WHERE started_ms < ?1
                     AND run_id NOT IN (SELECT run_id FROM model WHERE run_id IS NOT NULL)
                     AND run_id NOT IN (SELECT max(run_id) FROM run GROUP BY kind)
                     AND nominal_ms IS NOT
                         (SELECT max(r.nominal_ms) FROM run r WHERE r.kind = run.kind)",
                [before.0],
            )
        })
        .await
    }

    /// Gives a slice of unused pages back to the file system; true where more than `keep_percent` of
    /// the file is still unused. A few are best kept: the next day needs them again.
    pub async fn give_back_pages(&self, keep_percent: i64) -> Result<bool, StoreError> {
        self.chore("give unused pages back", move |tx| {
            let count = |pragma| tx.pragma_query_value(None, pragma, |r| r.get::<_, i64>(0));
            // Without auto_vacuum (a file from elsewhere) pages are only used again, never given back.
            if count("auto_vacuum")? != 2 {
                return Ok(false);
            }
            let spare = count("freelist_count")? - count("page_count")? * keep_percent / 100;
            if spare <= 0 {
                return Ok(false);
            }
            let slice = spare.min(PAGES_A_SLICE);
            let mut step = tx.prepare(&format!("PRAGMA incremental_vacuum({slice})"))?;
            // One row a page; it works only as far as it is stepped.
            let mut pages = step.query([])?;
            while pages.next()?.is_some() {}
            Ok(spare > slice)
        })
        .await
    }
}

impl Reader {
    /// The newest hour that has been rolled up.
    pub fn newest_hour(&self) -> Result<Option<TimestampMs>, StoreError> {
        let newest = "SELECT max(hour_ms) FROM reading_hour";
        let found = self.rows("find the newest hour", newest, [], |r| {
            r.get::<_, Option<i64>>(0)
        })?;
        Ok(found.into_iter().flatten().next().map(TimestampMs))
    }

    /// The first hour at or after `from`, if it ended before `until`; of readings, or of forecasts too.
    ///
    /// Like the learner, without readings whose time is known to be wrong.
    fn first_hour(
        &self,
        from: TimestampMs,
        until: TimestampMs,
        forecasts: bool,
    ) -> Result<Option<Hour>, StoreError> {
        let act = "sum an hour up";
        let first = self.rows(
            act,
            "SELECT min(t) FROM (SELECT min(ts_ms) AS t FROM reading WHERE ts_ms >= ?1
                 UNION ALL SELECT min(target_ms) FROM forecast WHERE ?2 AND target_ms >= ?1)",
            params![from.0, forecasts],
            |r| r.get::<_, Option<i64>>(0),
        )?;
        let first = first.into_iter().flatten().next().map(hour_of);
        let Some(start) = first.filter(|h| h + HOUR_MS <= until.0) else {
            return Ok(None);
        };
        let means = each(", ", |f| format!("avg({f})"));
        let devices = self.rows(
            act,
            &format!(
                "SELECT device_no, count(*), min(power), max(power), {means} FROM reading
                 WHERE ts_ms >= ?1 AND ts_ms < ?2 AND {}
                 GROUP BY device_no",
                sound()
            ),
            params![start, start + HOUR_MS],
            |r| {
                let mut means = [None; 8];
                for (i, mean) in means.iter_mut().enumerate() {
                    *mean = r.get(4 + i)?;
                }
                Ok(HourMeans {
                    device_no: r.get(0)?,
                    n: r.get(1)?,
                    power_min: r.get(2)?,
                    power_max: r.get(3)?,
                    means,
                })
            },
        )?;
        Ok(Some(Hour { start, devices }))
    }
}

pub(super) fn hour_of(ts_ms: i64) -> i64 {
    ts_ms - ts_ms.rem_euclid(HOUR_MS)
}

/// Seals an hour and removes everything up to its end, or nothing where a reading came in since it was summed up.
fn remove(tx: &Transaction<'_>, hour: &Hour) -> rusqlite::Result<Removed> {
    let end = hour.start + HOUR_MS;
    keep(tx, hour, &SEAL)?;
    let summed_up: i64 = hour.devices.iter().map(|d| d.n).sum();
    let doubtful = tx
        .prepare_cached(&format!(
            "DELETE FROM reading WHERE ts_ms < ?1 AND NOT {}",
            sound()
        ))?
        .execute([end])?;
    let readings = tx
        .prepare_cached("DELETE FROM reading WHERE ts_ms < ?1")?
        .execute([end])?;
    if readings as i64 != summed_up {
        // Rolled back, and summed up anew with the next attempt.
        return Err(rusqlite::Error::StatementChangedRows(readings));
    }
    let forecasts = tx.execute("DELETE FROM forecast WHERE target_ms < ?1", [end])?;
    Ok(Removed {
        readings: readings + doubtful,
        forecasts,
    })
}

/// Writes an hour: in place of what is there, or, where the readings behind that are gone (sealed) and
/// these came late, added to it.
fn keep(tx: &Transaction<'_>, hour: &Hour, statement: &str) -> rusqlite::Result<()> {
    let mut insert = tx.prepare_cached(statement)?;
    for d in &hour.devices {
        let m = &d.means;
        insert.execute(params![
            hour.start,
            d.device_no,
            d.n,
            m[0],
            m[1],
            m[2],
            m[3],
            m[4],
            m[5],
            m[6],
            m[7],
            d.power_min,
            d.power_max
        ])?;
    }
    Ok(())
}

static INSERT: LazyLock<String> = LazyLock::new(|| {
    let names = each(", ", |f| f.into());
    format!(
        "INSERT INTO reading_hour (sealed, hour_ms, device_no, n, {names}, power_min, power_max)
         VALUES (SEALED, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT DO UPDATE SET "
    )
});

static REFRESH: LazyLock<String> = LazyLock::new(|| {
    let set = each(", ", |f| format!("{f} = excluded.{f}"));
    let old = each(", ", |f| format!("reading_hour.{f}"));
    let new = each(", ", |f| format!("excluded.{f}"));
    INSERT.replace("SEALED", "0")
        + &format!(
            "n = excluded.n, {set}, power_min = excluded.power_min, power_max = excluded.power_max
             WHERE reading_hour.sealed = 0 AND
                 (reading_hour.n, {old}, reading_hour.power_min, reading_hour.power_max)
                 IS NOT (excluded.n, {new}, excluded.power_min, excluded.power_max)"
        )
});

// Late readings are weighted by the number of readings, not by how many carried the field.
static SEAL: LazyLock<String> = LazyLock::new(|| {
    let merged = |f: &str, both: String| {
        format!(
            "{f} = CASE WHEN reading_hour.sealed = 0 OR reading_hour.{f} IS NULL THEN excluded.{f}
                        WHEN excluded.{f} IS NULL THEN reading_hour.{f} ELSE {both} END"
        )
    };
    let means = each(", ", |f| {
        merged(
            f,
            format!(
                "(reading_hour.{f} * reading_hour.n + excluded.{f} * excluded.n)
                 / (reading_hour.n + excluded.n)"
            ),
        )
    });
    let least = "min(reading_hour.power_min, excluded.power_min)".to_owned();
    let most = "max(reading_hour.power_max, excluded.power_max)".to_owned();
    INSERT.replace("SEALED", "1")
        + &format!(
            "{means}, {}, {}, n = excluded.n + reading_hour.n * reading_hour.sealed, sealed = 1",
            merged("power_min", least),
            merged("power_max", most)
        )
});

#[cfg(test)]
mod tests;
