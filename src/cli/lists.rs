//! `devices`, `readings`, `accuracy`, `events`: what the station knows, as tables or as the API's JSON.

use std::fmt::Write as _;

use chrono_tz::Tz;
use clap::Args;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ask::{get, path};
use super::tables::{columns, number, percent, print, skill, to_the_end};
use super::when::{Moment, times_of};
use super::{JsonArg, Outcome};
use crate::accuracy::DayAccuracy;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::reading::{Field, TimestampMs};
use crate::status::ago;
use crate::store::{DeviceRow, EventRow};
use crate::words::{clip, minute, printable};

#[derive(Args)]
pub(super) struct ReadingsArgs {
    /// The device
    device: String,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    json: JsonArg,
}

/// A time range in equal steps.
#[derive(Args)]
pub(super) struct RangeArgs {
    /// Begin: RFC 3339, or a date for its midnight at the site [default: a day before the end]
    #[arg(long, value_name = "TIME")]
    from: Option<Moment>,
    /// End, likewise [default: now]
    #[arg(long, value_name = "TIME")]
    to: Option<Moment>,
    /// Length of a step: 30s, 15m, 1h, 1d [default: about 300 steps]
    #[arg(long)]
    step: Option<String>,
}

impl RangeArgs {
    pub(super) fn asked(&self, zone: Tz) -> [(&'static str, Option<String>); 3] {
        [
            ("from", self.from.map(|t| t.at(zone).to_string())),
            ("to", self.to.map(|t| t.at(zone).to_string())),
            ("step", self.step.clone()),
        ]
    }
}

#[derive(Args)]
pub(super) struct AccuracyArgs {
    /// Local days, the newest of them today
    #[arg(long, value_name = "N", default_value_t = 7)]
    days: u32,
    /// Every device by itself as well
    #[arg(long)]
    by_device: bool,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Args)]
pub(super) struct EventsArgs {
    /// How many, the newest first
    #[arg(long, value_name = "N", default_value_t = 30)]
    limit: usize,
    /// Without so many of the newest
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: usize,
    #[command(flatten)]
    json: JsonArg,
}

pub(super) fn devices(config: &Config, json: &JsonArg) -> Outcome {
    let answer = get(config, "/api/devices")?;
    let rows = list(&answer, "devices")?;
    print(json.json, &answer, |_| {
        devices_table(&rows, SystemClock.now(), config.site.zone())
    })
}

pub(super) fn readings(config: &Config, args: &ReadingsArgs) -> Outcome {
    let zone = config.site.zone();
    let parts = ["api", "devices", &args.device, "readings"];
    let answer = get(config, &path(&parts, &args.range.asked(zone)))?;
    print(args.json.json, &answer, |answer| {
        readings_table(answer, zone)
    })
}

pub(super) fn accuracy(config: &Config, args: &AccuracyArgs) -> Outcome {
    let days = [("days", Some(args.days.to_string()))];
    let answer = get(config, &path(&["api", "accuracy"], &days))?;
    let mut rows: Vec<DayAccuracy> = list(&answer, "accuracy")?;
    rows.retain(|row| args.by_device || row.device.is_none());
    print(args.json.json, &answer, |_| {
        accuracy_table(&rows, args.days, args.by_device)
    })
}

pub(super) fn events(config: &Config, args: &EventsArgs) -> Outcome {
    let part = [
        ("limit", Some(args.limit.to_string())),
        ("skip", Some(args.skip.to_string())),
    ];
    let answer = get(config, &path(&["api", "events"], &part))?;
    let rows = list(&answer, "events")?;
    print(args.json.json, &answer, |_| {
        events_table(&rows, config.site.zone(), columns())
    })
}

/// The rows of an answer.
pub(super) fn list<T: DeserializeOwned>(
    answer: &Value,
    name: &str,
) -> Result<Vec<T>, serde_json::Error> {
    Vec::deserialize(&answer[name])
}

fn devices_table(rows: &[DeviceRow], now: TimestampMs, zone: Tz) -> String {
    if rows.is_empty() {
        return "no device has sent a reading yet\n".into();
    }
    let mut out = times_of(zone);
    let _ = writeln!(
        out,
        "{:<20} {:<16} {:>9} {:>8} {:>6}  newest",
        "device", "first received", "W", "lux", "°C"
    );
    for row in rows {
        let value = |field| number(row.values.get(field), 1);
        let newest = row.newest.map_or("over a day ago".into(), |t| ago(now, t));
        let _ = writeln!(
            out,
            "{:<20} {:<16} {:>9} {:>8} {:>6}  {newest}",
            clip(&printable(row.device.as_str()), 20),
            minute(row.first_seen, zone),
            value(Field::Power),
            number(row.values.get(Field::Lux), 0),
            value(Field::Temperature),
        );
    }
    out
}

fn readings_table(answer: &Value, zone: Tz) -> String {
    let points = answer["points"].as_array().map_or(&[][..], Vec::as_slice);
    if points.is_empty() {
        return "no reading in this time\n".into();
    }
    let mut out = times_of(zone);
    let _ = writeln!(
        out,
        "{:<16} {:>6} {:>8} {:>8} {:>8} {:>7} {:>6} {:>6} {:>6}",
        "at", "count", "W", "least", "most", "lux", "V", "A", "°C"
    );
    for point in points {
        let value = |name: &str, digits| number(point[name].as_f64(), digits);
        let at = point["at"].as_str().and_then(|t| t.parse().ok());
        let _ = writeln!(
            out,
            "{:<16} {:>6} {:>8} {:>8} {:>8} {:>7} {:>6} {:>6} {:>6}",
            minute(at.unwrap_or_default(), zone),
            point["readings"],
            value("power", 1),
            value("power_min", 1),
            value("power_max", 1),
            value("lux", 0),
            value("voltage", 1),
            value("current", 2),
            value("temperature", 1),
        );
    }
    out + &format!("steps of {} s\n", answer["step_s"])
}

fn accuracy_table(rows: &[DayAccuracy], days: u32, by_device: bool) -> String {
    if rows.is_empty() {
        return format!("no forecast of the last {days} days has met its actual value yet\n");
    }
    let head = if by_device { "device" } else { "" };
    let mut out = format!(
        "{:<10} {head:<12} {:>5} {:>6} {:>8} {:>8} {:>8} {:>6} {:>7}\n",
        "day", "ahead", "count", "MAE W", "smart", "naive", "skill", "P10-P90"
    );
    for row in rows {
        let a = &row.accuracy;
        let device = row.device.as_ref().map_or("all".into(), |d| d.to_string());
        let device = if by_device { device } else { String::new() };
        let _ = writeln!(
            out,
            "{:<10} {:<12} {:>5} {:>6} {:>8.2} {:>8.2} {:>8.2} {:>6} {:>7}",
            row.day.to_string(),
            clip(&printable(&device), 12),
            a.horizon_min,
            a.settled,
            a.mae_w,
            a.smart_mae_w,
            a.naive_mae_w,
            skill(row.skill),
            percent(a.coverage),
        );
    }
    out + "ahead: minutes; skill: 1 - MAE / MAE of smart persistence\n"
}

fn events_table(rows: &[EventRow], zone: Tz, columns: usize) -> String {
    if rows.is_empty() {
        return "nothing has happened yet\n".into();
    }
    let mut out = times_of(zone);
    let _ = writeln!(out, "{:<16} {:<18} what", "at", "event");
    for row in rows {
        let _ = writeln!(
            out,
            "{:<16} {:<18} {}",
            minute(row.at, zone),
            row.kind,
            to_the_end(&printable(&row.detail), 36, columns)
        );
    }
    out
}
