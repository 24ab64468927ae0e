//! `nightwatt backtest --energy`: how far off the energy left today and of tomorrow was, hour by hour as the live path has it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use chrono::Timelike;
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::{BacktestArgs, BacktestError};
use crate::clock::midnights;
use crate::energy::{DAYS, Hour, outlook};
use crate::grid::Grid;
use crate::reading::{DeviceId, Field, TimestampMs};
use crate::tidy::TidyReader;

const HOUR_MS: i64 = 3_600_000;
/// Local hours at which what is left is judged, and the one at which tomorrow is.
const LEFT_AT: [u32; 4] = [6, 9, 12, 15];
const TOMORROW_AT: u32 = 18;
/// The hours of a day of which this many are measured are judged.
const LEAST_HOURS: usize = 20;

/// The errors of one thing that is told, as shares of the mean energy of a day.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EnergyResult {
    /// `left at 06:00` … or `tomorrow at 18:00`.
    pub what: String,
    /// Days that were judged, of all devices.
    pub days: usize,
    /// Mean absolute error of what is told, percent of a mean day's energy.
    pub mae_percent: f64,
    /// The same of "as much as the day before".
    pub day_before_percent: f64,
    /// The same of the mean of the last fortnight.
    pub mean_percent: f64,
}

/// The report of one file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnergyReport {
    /// The file.
    pub file: String,
    /// A line for each thing that is told.
    pub results: Vec<EnergyResult>,
}

/// Judges the outlook over each file.
pub fn run(args: &BacktestArgs) -> Result<Vec<EnergyReport>, BacktestError> {
    args.files.iter().map(|file| one(args, file)).collect()
}

fn one(args: &BacktestArgs, file: &Path) -> Result<EnergyReport, BacktestError> {
    let zone = args.site.map_or(Tz::UTC, |site| site.zone);
    let mut sums: BTreeMap<(bool, u32), Sum> = BTreeMap::new();
    for hours in hourly(args, file)?.values() {
        judge(hours, zone, &mut sums);
    }
    let results = sums.into_iter().map(|((tomorrow, at), sum)| {
        let what = if tomorrow { "tomorrow" } else { "left" };
        sum.result(format!("{what} at {at:02}:00"))
    });
    Ok(EnergyReport {
        file: file.display().to_string(),
        results: results.collect(),
    })
}

/// Mean power of each device and hour.
fn hourly(
    args: &BacktestArgs,
    file: &Path,
) -> Result<BTreeMap<DeviceId, Vec<Hour>>, BacktestError> {
    let mut grids: BTreeMap<DeviceId, (Grid, Vec<Hour>)> = BTreeMap::new();
    for row in TidyReader::open(file)? {
        let (device, ts, values) = row?;
        if !args.device.is_empty() && !args.device.iter().any(|d| d == device.as_str()) {
            continue;
        }
        let (grid, hours) = (grids.entry(device)).or_insert_with(|| (Grid::new(60), Vec::new()));
        if let Some(slot) = grid.push(ts, &values) {
            hours.extend(slot.values.get(Field::Power).map(|w| (slot.index, w)));
        }
    }
    Ok(grids
        .into_iter()
        .map(|(d, (_, hours))| (d, hours))
        .collect())
}

#[derive(Default)]
struct Sum {
    days: usize,
    told: f64,
    day_before: f64,
    mean: f64,
    /// Energy of the days, for the scale.
    day_wh: f64,
}

impl Sum {
    fn result(self, what: String) -> EnergyResult {
        let percent = |error: f64| error / self.day_wh.max(f64::MIN_POSITIVE) * 100.0;
        EnergyResult {
            what,
            days: self.days,
            mae_percent: percent(self.told),
            day_before_percent: percent(self.day_before),
            mean_percent: percent(self.mean),
        }
    }
}

fn judge(hours: &[Hour], zone: Tz, sums: &mut BTreeMap<(bool, u32), Sum>) {
    let by_hour: BTreeMap<i64, f64> = hours.iter().copied().collect();
    // Energy between two whole hours, where enough of the day around them was measured.
    let energy_wh = |from: i64, to: i64| -> f64 { by_hour.range(from..to).map(|(_, w)| w).sum() };
    let measured = |from: i64, to: i64| by_hour.range(from..to).count() >= LEAST_HOURS;
    let Some(first) = hours.first() else {
        return;
    };
    for (hour, _) in hours.iter().filter(|(hour, _)| hour - first.0 >= DAYS * 24) {
        let now = TimestampMs(hour * HOUR_MS);
        let local = now.to_utc().with_timezone(&zone);
        let tomorrow = local.hour() == TOMORROW_AT;
        if !tomorrow && !LEFT_AT.contains(&local.hour()) {
            continue;
        }
        let Some((today_end, tomorrow_end)) = midnights(now, zone) else {
            continue;
        };
        let (end, next) = (today_end.0 / HOUR_MS, tomorrow_end.0 / HOUR_MS);
        let (from, to, day) = match tomorrow {
            true => (end, next, (end, next)),
            false => (*hour, end, (end - 24, end)),
        };
        // Of tomorrow's own day before, today's last hours are not known yet at that time; they are dark.
        if !measured(day.0, day.1) || !measured(day.0 - 24, day.1 - 24) {
            continue;
        }
        let begin = hours.partition_point(|(h, _)| *h < hour - DAYS * 24 - 24);
        let until = hours.partition_point(|(h, _)| h < hour);
        let Some(told) = outlook(&hours[begin..until], now, today_end, tomorrow_end) else {
            continue;
        };
        let told_wh = if tomorrow {
            told.tomorrow_wh
        } else {
            told.left_today_wh
        };
        let actual_wh = energy_wh(from, to);
        let back = |days: i64| energy_wh(from - 24 * days, to - 24 * days);
        let mean_wh = (1..=DAYS).map(back).sum::<f64>() / DAYS as f64;
        let sum = sums.entry((tomorrow, local.hour())).or_default();
        sum.days += 1;
        sum.told += (told_wh - actual_wh).abs();
        sum.day_before += (back(1) - actual_wh).abs();
        sum.mean += (mean_wh - actual_wh).abs();
        sum.day_wh += energy_wh(day.0, day.1);
    }
}

/// The reports as text.
pub fn render(reports: &[EnergyReport]) -> String {
    let mut out = String::new();
    for report in reports {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{}\n{:<20} {:>6} {:>9} {:>11} {:>11}",
            report.file, "energy", "days", "error %", "day before", "14 days"
        );
        for r in &report.results {
            let _ = writeln!(
                out,
                "{:<20} {:>6} {:>9.1} {:>11.1} {:>11.1}",
                r.what, r.days, r.mae_percent, r.day_before_percent, r.mean_percent
            );
        }
        out += "\nMean absolute error, percent of a mean day's energy; beside it what \"as the day\nbefore\" and \"as the mean of 14 days\" would have been off.\n\n";
    }
    out
}
