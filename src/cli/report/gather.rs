//! The figures of a report, from the database alone.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use chrono_tz::Tz;
use serde::Serialize;

use crate::accuracy::local_days;
use crate::config::Config;
use crate::reading::{DeviceId, Field, TimestampMs};
use crate::store::space::room_bytes;
use crate::store::{
    AccuracyRow, EventRow, LifeRow, LiveAccuracy, Reader, RejectCount, RunOutcome, RunSummary,
    SeriesPoint, StoreError,
};

const HOUR_MS: i64 = 3_600_000;
/// Of a list that could be any length.
const MOST: usize = 1000;

/// What the station did in some days. Fields are only ever added.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) version: &'static str,
    pub(super) from: TimestampMs,
    pub(super) to: TimestampMs,
    pub(super) days: u32,
    pub(super) timezone: Tz,
    pub(super) devices: Vec<DeviceReport>,
    pub(super) energy_by_day: Vec<DayEnergy>,
    pub(super) accuracy: Vec<Accuracy>,
    pub(super) night_summary: RunSummary,
    /// Share of the nights that had something to do and did it.
    pub(super) night_success: Option<f64>,
    pub(super) nights: Vec<Night>,
    pub(super) models: Vec<LifeRow>,
    pub(super) quarantine: Vec<RejectCount>,
    pub(super) events: Vec<EventCount>,
    pub(super) disk: Disk,
}

/// One device's days.
#[derive(Debug, Default, Serialize)]
pub(super) struct DeviceReport {
    pub(super) device: String,
    pub(super) readings: i64,
    /// Mean power of each hour with readings, summed up; Wh.
    pub(super) energy_wh: f64,
    pub(super) peak_w: Option<f64>,
    /// Hours that have a reading.
    pub(super) hours: i64,
    /// Stretches of whole hours without one, after the first of the period.
    pub(super) gaps: i64,
    pub(super) longest_gap_h: i64,
    pub(super) missing_h: i64,
    #[serde(skip)]
    last_hour: Option<i64>,
}

impl DeviceReport {
    /// The next hour with readings.
    fn add(&mut self, p: &SeriesPoint) {
        self.readings += p.readings;
        self.hours += 1;
        self.energy_wh += p.means.get(Field::Power).unwrap_or(0.0);
        self.peak_w = match (self.peak_w, p.power_max) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        self.silent_until(p.at.0);
        self.last_hour = Some(p.at.0);
    }

    /// Counts the hours between the last with readings and the one that begins at `hour_ms`.
    fn silent_until(&mut self, hour_ms: i64) {
        let Some(last) = self.last_hour else { return };
        let missing = (hour_ms - last).div_euclid(HOUR_MS) - 1;
        if missing > 0 {
            self.gaps += 1;
            self.missing_h += missing;
            self.longest_gap_h = self.longest_gap_h.max(missing);
        }
    }
}

/// What all devices together gave in one local day.
#[derive(Debug, Serialize)]
pub(super) struct DayEnergy {
    pub(super) day: NaiveDate,
    pub(super) energy_wh: f64,
}

/// How forecasts did against persistence.
#[derive(Debug, Serialize)]
pub(super) struct Accuracy {
    /// Whose; none: all together.
    pub(super) device: Option<DeviceId>,
    #[serde(flatten)]
    pub(super) of: LiveAccuracy,
    pub(super) skill: Option<f64>,
}

impl From<AccuracyRow> for Accuracy {
    fn from(row: AccuracyRow) -> Self {
        Self {
            device: row.device,
            skill: row.accuracy.skill(),
            of: row.accuracy,
        }
    }
}

/// A night.
#[derive(Debug, Serialize)]
pub(super) struct Night {
    pub(super) run_id: i64,
    pub(super) started: TimestampMs,
    pub(super) took_s: Option<f64>,
    pub(super) outcome: Option<RunOutcome>,
    pub(super) reason: Option<String>,
}

/// How often something happened.
#[derive(Debug, Serialize)]
pub(super) struct EventCount {
    pub(super) kind: String,
    pub(super) count: usize,
    pub(super) last: TimestampMs,
}

/// What is on the disk now.
#[derive(Debug, Serialize)]
pub(super) struct Disk {
    pub(super) database_bytes: u64,
    pub(super) wal_bytes: u64,
    pub(super) free_bytes: Option<u64>,
    /// Since the first housekeeping of the period.
    pub(super) grown_bytes: Option<i64>,
}

pub(super) fn gather(
    config: &Config,
    reader: &Reader,
    now: TimestampMs,
    days: u32,
) -> Result<Report, StoreError> {
    let zone = config.site.zone();
    let from = local_days(zone, now, days).last().map_or(now, |d| d.1);
    let totals = reader.totals()?;
    let points = reader.series(None, &[Field::Power], (from, now), HOUR_MS)?;
    let runs = reader.runs(Some("training"), MOST)?;
    let night_summary = reader.run_summary("training", from)?;
    let then = reader.size_since(from)?;
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        from,
        to: now,
        days,
        timezone: zone,
        devices: devices(&points, now),
        energy_by_day: energy_by_day(&points, zone),
        accuracy: reader
            .accuracy(from, now)?
            .into_iter()
            .map(Accuracy::from)
            .collect(),
        night_success: night_summary.success(),
        night_summary,
        nights: runs
            .into_iter()
            .filter(|r| r.started >= from)
            .map(|r| Night {
                run_id: r.run_id,
                started: r.started,
                took_s: r.ended.map(|t| (t.0 - r.started.0).max(0) as f64 / 1000.0),
                outcome: r.outcome,
                reason: r.reason,
            })
            .collect(),
        models: reader
            .model_lives(MOST)?
            .into_iter()
            .filter(|life| life.to.is_none_or(|to| to >= from))
            .collect(),
        quarantine: totals
            .rejects
            .into_iter()
            .filter(|r| r.last >= from)
            .collect(),
        events: events(&reader.events_page(MOST, 0)?, from),
        disk: Disk {
            database_bytes: totals.database_bytes,
            wal_bytes: totals.wal_bytes,
            free_bytes: room_bytes(&config.store.path, config.reserve_bytes()),
            grown_bytes: then.map(|(_, bytes)| totals.database_bytes as i64 - bytes as i64),
        },
    })
}

fn devices(points: &[SeriesPoint], now: TimestampMs) -> Vec<DeviceReport> {
    let mut devices = BTreeMap::new();
    for point in points {
        let device: &mut DeviceReport = devices.entry(point.device.clone()).or_default();
        device.add(point);
    }
    let all = devices.into_iter().map(|(name, mut device)| {
        device.silent_until(now.0 - now.0.rem_euclid(HOUR_MS));
        device.device = name.to_string();
        device
    });
    all.collect()
}

fn energy_by_day(points: &[SeriesPoint], zone: Tz) -> Vec<DayEnergy> {
    let mut days: BTreeMap<NaiveDate, f64> = BTreeMap::new();
    for point in points {
        let day = point.at.to_utc().with_timezone(&zone).date_naive();
        *days.entry(day).or_default() += point.means.get(Field::Power).unwrap_or(0.0);
    }
    let days = days.into_iter();
    days.map(|(day, energy_wh)| DayEnergy { day, energy_wh })
        .collect()
}

/// By kind, most first.
fn events(rows: &[EventRow], from: TimestampMs) -> Vec<EventCount> {
    let mut kinds: Vec<EventCount> = Vec::new();
    // The newest come first.
    for row in rows.iter().filter(|row| row.at >= from) {
        match kinds.iter_mut().find(|k| k.kind == row.kind) {
            Some(kind) => kind.count += 1,
            None => kinds.push(EventCount {
                kind: row.kind.clone(),
                count: 1,
                last: row.at,
            }),
        }
    }
    kinds.sort_by_key(|k| std::cmp::Reverse(k.count));
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Values;

    fn hour(n: i64, power: f64) -> SeriesPoint {
        let mut means = Values::default();
        means.set(Field::Power, Some(power));
        SeriesPoint {
            device: DeviceId::new("t"),
            at: TimestampMs(n * HOUR_MS),
            readings: 60,
            means,
            power_min: Some(power),
            power_max: Some(power + 1.0),
        }
    }

    #[test]
    fn energy_is_the_sum_of_hourly_means_and_silence_is_counted_in_whole_hours() {
        let mut d = DeviceReport::default();
        for p in [hour(5, 100.0), hour(6, 50.0), hour(9, 10.0)] {
            d.add(&p);
        }
        assert_eq!((d.energy_wh, d.peak_w), (160.0, Some(101.0)));
        assert_eq!((d.readings, d.hours), (180, 3));
        assert_eq!((d.gaps, d.missing_h, d.longest_gap_h), (1, 2, 2));
        d.silent_until(14 * HOUR_MS);
        assert_eq!((d.gaps, d.missing_h, d.longest_gap_h), (2, 6, 4));
    }

    #[test]
    fn events_are_counted_by_kind_within_the_period() {
        let event = |at, kind: &str| EventRow {
            at: TimestampMs(at),
            kind: kind.into(),
            detail: String::new(),
        };
        let rows = [event(9, "a"), event(8, "b"), event(7, "b"), event(1, "a")];
        let counted = events(&rows, TimestampMs(5));
        let seen: Vec<_> = counted
            .iter()
            .map(|k| (k.kind.as_str(), k.count, k.last.0))
            .collect();
        assert_eq!(seen, [("b", 2, 8), ("a", 1, 9)]);
    }
}
