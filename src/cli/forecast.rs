//! `forecast`: the newest of each horizon, the curve they make, earlier ones beside what was measured, and the lists other programs read.

use std::fmt::Write as _;

use chrono_tz::Tz;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::ask::{get, path};
use super::lists::{RangeArgs, list};
use super::tables::{self, number, print};
use super::when::times_of;
use super::{Exit, Failure, JsonArg, Outcome};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::store::{ForecastPoint, ForecastRow};
use crate::words::{clip, minute, printable};

#[derive(Args)]
pub(super) struct ForecastArgs {
    /// Only this device
    device: Option<String>,
    /// Only those of so many minutes ahead
    #[arg(long, value_name = "MIN")]
    horizon: Option<u32>,
    /// The curve that the newest forecasts make together, in slots of --step [default: 15m]
    #[arg(long, conflicts_with_all = ["past", "from", "to"])]
    slots: bool,
    /// Forecasts whose time has come, beside what was measured
    #[arg(long)]
    past: bool,
    #[command(flatten)]
    range: RangeArgs,
    /// The curve as a list that evcc or EMHASS reads; always JSON
    #[arg(long, value_enum, conflicts_with_all = ["slots", "past", "from", "to"])]
    format: Option<Format>,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Slots with start, end and watts
    Evcc,
    /// Watts in equal steps from now on
    Emhass,
}

pub(super) fn forecast(config: &Config, args: &ForecastArgs) -> Outcome {
    let mut asked = vec![("horizon", args.horizon.map(|h| h.to_string()))];
    let zone = config.site.zone();
    let mut range = args.range.asked(zone);
    let past = args.past || range[..2].iter().any(|(_, given)| given.is_some());
    if past && range[0].1.is_none() {
        // Without a beginning the API gives no past at all.
        range[1].1.get_or_insert(SystemClock.now().to_string());
    }
    asked.extend(range);
    let format = args.format.map(|format| match format {
        Format::Evcc => "evcc".to_owned(),
        Format::Emhass => "emhass".to_owned(),
    });
    let listed = format.is_some();
    asked.push(("format", format));
    let parts = match &args.device {
        Some(device) => vec!["api", "devices", device, "forecast"],
        None => vec!["api", "forecast"],
    };
    let mut answer = get(config, &path(&parts, &asked))?;
    if listed {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(Exit::Done);
    }
    if past {
        let past = answer["past"].take();
        let points = list(&past, "points")?;
        return print(args.json.json, &past, |past| {
            past_table(&points, &past["step_s"], zone)
        });
    }
    if args.slots {
        let slots = json!({
            "now": answer["now"], "step_s": answer["step_s"],
            "slots": answer["slots"], "sum": answer["sum"],
        });
        return print(args.json.json, &slots, |slots| slots_table(slots, zone));
    }
    let rows: Vec<ForecastRow> = list(&answer, "forecasts")?;
    if let Some(name) = args.device.as_ref().filter(|_| rows.is_empty()) {
        let text = format!("there is no forecast for {name}");
        return Err(Failure(Exit::Failed, text));
    }
    print(args.json.json, &answer["forecasts"], |_| {
        tables::forecasts(&rows, SystemClock.now(), zone)
    })
}

fn past_table(points: &[ForecastPoint], step_s: &Value, zone: Tz) -> String {
    if points.is_empty() {
        return "no forecast for this time\n".into();
    }
    let mut out = times_of(zone);
    let _ = writeln!(
        out,
        "{:<16} {:<12} {:>5} {:>7} {:>7} {:>7} {:>7} {:>8}",
        "for", "device", "ahead", "W", "P10", "P90", "smart", "measured"
    );
    for p in points {
        let _ = writeln!(
            out,
            "{:<16} {:<12} {:>5} {:>7.1} {:>7} {:>7} {:>7.1} {:>8}",
            minute(p.at, zone),
            clip(&printable(p.device.as_str()), 12),
            p.horizon_min,
            p.power_w,
            number(p.p10_w, 1),
            number(p.p90_w, 1),
            p.smart_w,
            number(p.actual_w, 1),
        );
    }
    out + &format!("means over {step_s} s; ahead: minutes\n")
}

fn slots_table(answer: &Value, zone: Tz) -> String {
    let rows = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
    let (slots, sums) = (rows("slots"), rows("sum"));
    if slots.is_empty() {
        return "no forecast yet\n".into();
    }
    let time = |value: &Value| {
        let at = value.as_str().and_then(|t| t.parse().ok());
        at.map(|at| minute(at, zone))
    };
    let mut out = times_of(zone);
    let _ = writeln!(
        out,
        "{:<16} {:<20} {:>5} {:>9} {:>9} {:>9}",
        "from", "device", "ahead", "W", "P10", "P90"
    );
    for slot in &slots {
        let watts = |name: &str| number(slot[name].as_f64(), 1);
        let _ = writeln!(
            out,
            "{:<16} {:<20} {:>5} {:>9} {:>9} {:>9}",
            time(&slot["start"]).unwrap_or_default(),
            clip(&printable(slot["device"].as_str().unwrap_or("")), 20),
            slot["horizon_min"],
            watts("power_w"),
            watts("p10_w"),
            watts("p90_w"),
        );
    }
    for sum in &sums {
        let _ = writeln!(
            out,
            "{:<16} {:<20} {:>5} {:>9}",
            time(&sum["start"]).unwrap_or_default(),
            "all devices",
            "",
            number(sum["power_w"].as_f64(), 1)
        );
    }
    out + &format!("slots of {} s\n", answer["step_s"])
}
