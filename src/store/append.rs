//! A batch of messages as one transaction: rows, merges, rejects.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::quarantine::{self, Quarantine};
use super::writer::Append;
use crate::fault;
use crate::reading::{DeviceId, Field, Reading, TimeSource};

/// What the writer remembers of a device.
#[derive(Clone, Copy)]
pub(super) struct Device {
    number: i64,
    /// Where its last reading of doubtful time went; the next goes behind it.
    last_doubtful_ms: i64,
}

/// Every device the writer has met; forgotten when a transaction is rolled back.
pub(super) type Devices = HashMap<DeviceId, Device>;

/// What a batch came to.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) rows: u64,
    pub(super) duplicates: u64,
    pub(super) doubtful: u64,
}

/// All of the batch or none of it.
pub(super) fn write_batch(
    conn: &mut Connection,
    devices: &mut Devices,
    quarantine: &Quarantine,
    batch: &[Append],
) -> rusqlite::Result<Counts> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut counts = Counts::default();
    let mut sampled = false;
    for append in batch {
        for reading in &append.readings {
            counts.doubtful += u64::from(reading.time_source == TimeSource::Implausible);
            let device = device(&tx, devices, reading)?;
            if write_reading(&tx, device, reading)? {
                counts.rows += 1;
            } else {
                counts.duplicates += 1;
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

/// Writes one row; true where it is new.
///
/// A row that is there keeps what it has: a repeat changes nothing, and a message that carries other
/// fields of the same moment fills them in. Values without a time of their own share a bucket, in
/// which the latest wins. A reading whose own time cannot be is no repeat of another that arrived in
/// the same millisecond: it goes to the next free one.
fn write_reading(tx: &Transaction<'_>, device: &mut Device, r: &Reading) -> rusqlite::Result<bool> {
    let source = if fault::without("unique_key") {
        TimeSource::Implausible
    } else {
        r.time_source
    };
    match source {
        TimeSource::Device => {
            let new = insert(tx, device.number, r.ts.0, r)?;
            if !new {
                merge(tx, MERGE_MISSING, device.number, r)?;
            }
            Ok(new)
        }
        TimeSource::Received => {
            let new = insert(tx, device.number, r.ts.0, r)?;
            if !new {
                merge(tx, MERGE_LATEST, device.number, r)?;
            }
            Ok(new)
        }
        TimeSource::Implausible => {
            let mut ts_ms = r.ts.0.max(device.last_doubtful_ms.saturating_add(1));
            while !insert(tx, device.number, ts_ms, r)? {
                ts_ms += 1;
            }
            device.last_doubtful_ms = ts_ms;
            Ok(true)
        }
    }
}

/// False where the key is taken.
fn insert(tx: &Transaction<'_>, device_no: i64, ts_ms: i64, r: &Reading) -> rusqlite::Result<bool> {
    let v = |f: Field| r.values.get(f);
    let row = params![
        ts_ms,
        device_no,
        r.received.0,
        r.time_source as i64,
        r.clock_trusted,
        v(Field::ServoAngle),
        v(Field::Lux),
        v(Field::Voltage),
        v(Field::Current),
        v(Field::Power),
        v(Field::Temperature),
        v(Field::Humidity),
        v(Field::FanOn)
    ];
    let inserted = tx
        .prepare_cached(
            // By name here and everywhere: the next version's table may have more columns.
            "INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted,
                 servo_angle, lux, voltage, current, power, temperature, humidity, fan_on)
             VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13)
             ON CONFLICT DO NOTHING",
        )?
        .execute(row)?;
    Ok(inserted == 1)
}

fn merge(
    tx: &Transaction<'_>,
    statement: &'static str,
    device_no: i64,
    r: &Reading,
) -> rusqlite::Result<()> {
    let v = |f: Field| r.values.get(f);
    tx.prepare_cached(statement)?
        .execute(params![
            r.ts.0,
            device_no,
            v(Field::ServoAngle),
            v(Field::Lux),
            v(Field::Voltage),
            v(Field::Current),
            v(Field::Power),
            v(Field::Temperature),
            v(Field::Humidity),
            v(Field::FanOn)
        ])
        .map(drop)
}

// The WHERE keeps a plain repeat from writing a page at all.
const MERGE_MISSING: &str = "
    UPDATE reading SET
        servo_angle = coalesce(servo_angle, ?3), lux = coalesce(lux, ?4),
        voltage = coalesce(voltage, ?5), current = coalesce(current, ?6),
        power = coalesce(power, ?7), temperature = coalesce(temperature, ?8),
        humidity = coalesce(humidity, ?9), fan_on = coalesce(fan_on, ?10)
    WHERE ts_ms = ?1 AND device_no = ?2 AND (
        servo_angle IS NULL AND ?3 IS NOT NULL OR lux IS NULL AND ?4 IS NOT NULL
        OR voltage IS NULL AND ?5 IS NOT NULL OR current IS NULL AND ?6 IS NOT NULL
        OR power IS NULL AND ?7 IS NOT NULL OR temperature IS NULL AND ?8 IS NOT NULL
        OR humidity IS NULL AND ?9 IS NOT NULL OR fan_on IS NULL AND ?10 IS NOT NULL)";
const MERGE_LATEST: &str = "
    UPDATE reading SET
        servo_angle = coalesce(?3, servo_angle), lux = coalesce(?4, lux),
        voltage = coalesce(?5, voltage), current = coalesce(?6, current),
        power = coalesce(?7, power), temperature = coalesce(?8, temperature),
        humidity = coalesce(?9, humidity), fan_on = coalesce(?10, fan_on)
    WHERE ts_ms = ?1 AND device_no = ?2";

/// Keeps the newest `keep` rows of a log table.
pub(super) fn trim(tx: &Transaction<'_>, table: &'static str, keep: i64) -> rusqlite::Result<()> {
    tx.execute(
        &format!("DELETE FROM {table} WHERE id <= (SELECT max(id) FROM {table}) - ?1"),
        [keep],
    )?;
    Ok(())
}
