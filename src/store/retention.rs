//! How long things are kept: hourly means for good, what is older than asked removed an hour at a time.

use std::sync::LazyLock;

use rusqlite::{Transaction, params};

use super::{Reader, Store, StoreError};
use crate::reading::{Field, TimeSource, TimestampMs};

const HOUR_MS: i64 = 3_600_000;
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

impl Store {
    /// Computes the means of the first hour with readings at or after `from` that ended before
    /// `until`; returns the end of that hour. What is there and right is not written again.
    pub async fn roll_up_hour(
        &self,
        from: TimestampMs,
        until: TimestampMs,
    ) -> Result<Option<TimestampMs>, StoreError> {
        self.chore("roll an hour up", move |tx| {
            let first = "SELECT min(ts_ms) FROM reading WHERE ts_ms >= ?1";
            let first: Option<i64> = tx.query_row(first, [from.0], |r| r.get(0))?;
            let Some(hour) = first.map(hour_of).filter(|h| h + HOUR_MS <= until.0) else {
                return Ok(None);
            };
            roll_up(tx, hour, false)?;
            Ok(Some(TimestampMs(hour + HOUR_MS)))
        })
        .await
    }

    /// Removes the oldest hour of readings and forecasts, if all of it is older than `before`, in one
    /// transaction with its roll-up.
    pub async fn remove_oldest_hour(
        &self,
        before: TimestampMs,
    ) -> Result<Option<Removed>, StoreError> {
        self.chore("remove an hour", move |tx| {
            let oldest: Option<i64> = tx.query_row(
                "SELECT min(t) FROM (SELECT min(ts_ms) AS t FROM reading
                                     UNION ALL SELECT min(target_ms) FROM forecast)",
                [],
                |r| r.get(0),
            )?;
            let Some(hour) = oldest.map(hour_of).filter(|h| h + HOUR_MS <= before.0) else {
                return Ok(None);
            };
            roll_up(tx, hour, true)?;
            let end = hour + HOUR_MS;
            let readings = tx.execute("DELETE FROM reading WHERE ts_ms < ?1", [end])?;
            let forecasts = tx.execute("DELETE FROM forecast WHERE target_ms < ?1", [end])?;
            Ok(Some(Removed {
                readings,
                forecasts,
            }))
        })
        .await
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
}

fn hour_of(ts_ms: i64) -> i64 {
    ts_ms - ts_ms.rem_euclid(HOUR_MS)
}

/// Computes an hour from its readings: in place of what is there, or, where the readings behind that
/// are gone (`sealed`) and these came late, added to it.
fn roll_up(tx: &Transaction<'_>, hour: i64, seal: bool) -> rusqlite::Result<()> {
    let doubtful = TimeSource::Implausible as i64;
    tx.prepare_cached(if seal { &SEAL } else { &REFRESH })?
        .execute(params![hour, hour + HOUR_MS, doubtful])
        .map(drop)
}

// Like the learner, without readings whose time is known to be wrong.
static INSERT: LazyLock<String> = LazyLock::new(|| {
    let names = each(", ", |f| f.into());
    let means = each(", ", |f| format!("avg({f})"));
    format!(
        "INSERT INTO reading_hour (hour_ms, device_no, n, sealed, {names}, power_min, power_max)
         SELECT ?1, device_no, count(*), SEALED, {means}, min(power), max(power) FROM reading
         WHERE ts_ms >= ?1 AND ts_ms < ?2 AND clock_trusted AND time_source <> ?3
         GROUP BY device_no
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

fn each(between: &str, text: impl Fn(&str) -> String) -> String {
    Field::ALL.map(|f| text(f.name())).join(between)
}

#[cfg(test)]
mod tests;
