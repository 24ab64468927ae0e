//! A batch of messages as one transaction: rows, merges, rejects.

use std::collections::HashMap;
use std::sync::LazyLock;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::Heard;
use super::late::Late;
use super::quarantine::{self, Quarantine};
use super::read::each;
use super::writer::Append;
use crate::fault;
use crate::reading::{DeviceId, Field, Reading, TimeSource, Values};

/// What the writer remembers of a device.
#[derive(Clone, Copy)]
pub(super) struct Device {
    number: i64,
    /// Where its last reading of doubtful time went; the next goes behind it.
    last_doubtful_ms: i64,
    /// The newest time that a reading of it was written under.
    newest_ms: i64,
    /// The last reading of it to arrive that was no repeat: the broker keeps one for a device that is gone.
    heard: Option<Heard>,
}

/// Every device the writer has met; forgotten when a transaction is rolled back.
pub(super) type Devices = HashMap<DeviceId, Device>;

/// Of each of them, by number, the newest time that was written.
pub(super) fn newest(devices: &Devices) -> impl Iterator<Item = (i64, i64)> {
    devices.values().map(|d| (d.number, d.newest_ms))
}

/// Of each of them, by number, the last reading to arrive.
pub(super) fn heard(devices: &Devices) -> impl Iterator<Item = (i64, Heard)> {
    devices.values().filter_map(|d| Some((d.number, d.heard?)))
}

/// What a batch came to.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) rows: u64,
    pub(super) duplicates: u64,
    pub(super) doubtful: u64,
    /// Times of the first and the last reading that changed something.
    pub(super) span: Option<(i64, i64)>,
}

/// All of the batch or none of it.
pub(super) fn write_batch(
    conn: &mut Connection,
    devices: &mut Devices,
    quarantine: &Quarantine,
    late: &Late,
    batch: &[Append],
) -> rusqlite::Result<Counts> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut counts = Counts::default();
    let mut sampled = false;
    for append in batch {
        for reading in &append.readings {
            counts.doubtful += u64::from(reading.time_source == TimeSource::Implausible);
            let device = device(&tx, devices, reading)?;
            let wrote = write_reading(&tx, device, reading)?;
            match wrote {
                Wrote::Row => counts.rows += 1,
                Wrote::IntoRow => {}
                Wrote::Nothing => counts.duplicates += 1,
            }
            if wrote != Wrote::Nothing {
                let t = reading.ts.0;
                let (first, last) = counts.span.unwrap_or((t, t));
                counts.span = Some((first.min(t), last.max(t)));
                device.heard = Some(Heard {
                    received: reading.received,
                    at: reading.ts,
                });
            }
        }
        if let Some(reject) = &append.reject {
            quarantine::write_sample(&tx, reject)?;
            sampled = true;
        }
    }
    if sampled {
        quarantine::trim_samples(&tx)?;
    }
    quarantine.write_counts(&tx)?;
    if let Some((first, _)) = counts.span {
        late.write(&tx, first)?;
    }
    tx.commit()?;
    Ok(counts)
}

fn device<'a>(
    tx: &Transaction<'_>,
    devices: &'a mut Devices,
    reading: &Reading,
) -> rusqlite::Result<&'a mut Device> {
    // Not entry(): the name would be cloned for every reading.
    if !devices.contains_key(&reading.device) {
        let number = device_number(tx, reading)?;
        devices.insert(
            reading.device.clone(),
            Device {
                number,
                last_doubtful_ms: i64::MIN,
                newest_ms: i64::MIN,
                heard: None,
            },
        );
    }
    devices
        .get_mut(&reading.device)
        .ok_or(rusqlite::Error::QueryReturnedNoRows)
}

fn device_number(tx: &Transaction<'_>, reading: &Reading) -> rusqlite::Result<i64> {
    let name = reading.device.as_str();
    let known: Option<i64> = tx
        .prepare_cached("SELECT device_no FROM device WHERE device_id = ?1")?
        .query_row([name], |r| r.get(0))
        .optional()?;
    if let Some(number) = known {
        return Ok(number);
    }
    tx.execute(
        "INSERT INTO device (device_id, first_seen_ms) VALUES (?1, ?2)",
        params![name, reading.received.0],
    )?;
    Ok(tx.last_insert_rowid())
}

/// What became of a reading.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrote {
    /// A row of its own.
    Row,
    /// It joined the row of its moment or minute.
    IntoRow,
    /// A repeat: its row had everything already.
    Nothing,
}

/// Writes one reading.
///
/// A row that is there keeps what it has: a repeat changes nothing, and a message that carries other
/// fields of the same moment fills them in. Values without a time of their own share a bucket, in
/// which the latest wins. A reading whose own time cannot be is no repeat of another that arrived in
/// the same millisecond: it goes to the next free one.
fn write_reading(
    tx: &Transaction<'_>,
    device: &mut Device,
    r: &Reading,
) -> rusqlite::Result<Wrote> {
    let source = if fault::without("unique_key") {
        TimeSource::Implausible
    } else {
        r.time_source
    };
    device.newest_ms = device.newest_ms.max(r.ts.0);
    let merge: &str = match source {
        TimeSource::Device => &MERGE_MISSING,
        TimeSource::Received => &MERGE_LATEST,
        TimeSource::Implausible => {
            let mut ts_ms = r.ts.0.max(device.last_doubtful_ms.saturating_add(1));
            while !insert(tx, device.number, ts_ms, r)? {
                ts_ms += 1;
            }
            device.last_doubtful_ms = ts_ms;
            device.newest_ms = device.newest_ms.max(ts_ms);
            return Ok(Wrote::Row);
        }
    };
    if insert(tx, device.number, r.ts.0, r)? {
        return Ok(Wrote::Row);
    }
    let changed = execute(tx, merge, &r.values, &[r.ts.0, device.number])?;
    Ok(match changed {
        0 => Wrote::Nothing,
        _ => Wrote::IntoRow,
    })
}

/// False where the key is taken.
fn insert(tx: &Transaction<'_>, device_no: i64, ts_ms: i64, r: &Reading) -> rusqlite::Result<bool> {
    let (source, trusted) = (r.time_source as i64, i64::from(r.clock_trusted));
    let rest = [ts_ms, device_no, r.received.0, source, trusted];
    Ok(execute(tx, &INSERT, &r.values, &rest)? == 1)
}

/// Runs a statement whose parameters are every field, in order, and then `rest`.
fn execute(
    tx: &Transaction<'_>,
    statement: &str,
    values: &Values,
    rest: &[i64],
) -> rusqlite::Result<usize> {
    let mut statement = tx.prepare_cached(statement)?;
    for (place, field) in (1..).zip(Field::ALL) {
        statement.raw_bind_parameter(place, values.get(field))?;
    }
    for (place, number) in (Field::ALL.len() + 1..).zip(rest) {
        statement.raw_bind_parameter(place, number)?;
    }
    statement.raw_execute()
}

// By name here and everywhere: the next version's table may have more columns. SQLite numbers what is
// given by name as it comes.
static INSERT: LazyLock<String> = LazyLock::new(|| {
    let (names, values) = (each(", ", str::to_owned), each(", ", |f| format!(":{f}")));
    format!(
        "INSERT INTO reading ({names}, ts_ms, device_no, received_ms, time_source, clock_trusted)
         VALUES ({values}, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    )
});

// The last condition keeps a plain repeat from writing a page at all.
static MERGE_MISSING: LazyLock<String> = LazyLock::new(|| {
    let set = each(", ", |f| format!("{f} = coalesce({f}, :{f})"));
    let more = each(" OR ", |f| format!("{f} IS NULL AND :{f} IS NOT NULL"));
    format!("UPDATE reading SET {set} WHERE ts_ms = ? AND device_no = ? AND ({more})")
});

static MERGE_LATEST: LazyLock<String> = LazyLock::new(|| {
    let set = each(", ", |f| format!("{f} = coalesce(:{f}, {f})"));
    format!("UPDATE reading SET {set} WHERE ts_ms = ? AND device_no = ?")
});

/// Keeps the newest `keep` rows of a log table.
pub(super) fn trim(tx: &Transaction<'_>, table: &'static str, keep: i64) -> rusqlite::Result<()> {
    tx.execute(
        &format!("DELETE FROM {table} WHERE id <= (SELECT max(id) FROM {table}) - ?1"),
        [keep],
    )?;
    Ok(())
}
