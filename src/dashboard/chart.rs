//! Charts as SVG: data in per cent of the frame, so that they fit any width and text keeps its size.

use std::fmt::Write as _;

use chrono::{Datelike, Days, NaiveDate, TimeZone, Timelike};
use chrono_tz::Tz;

use super::html::put;
use crate::reading::TimestampMs;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Units across and up the part of a chart that stretches.
const UNITS: f64 = 1000.0;

/// What was measured and forecast in one stretch of time, W; none where there was nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bin {
    /// Mean of the readings.
    pub actual_w: Option<f64>,
    /// Mean of the forecasts for then.
    pub forecast_w: Option<f64>,
    /// Mean of their P10.
    pub p10_w: Option<f64>,
    /// Mean of their P90.
    pub p90_w: Option<f64>,
}

/// Power over time: bins of equal length without a hole, the first beginning at `from`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Start of the first bin.
    pub from: TimestampMs,
    /// Length of a bin, ms.
    pub step_ms: i64,
    /// The bins.
    pub bins: Vec<Bin>,
}

impl Series {
    /// The end of the last bin.
    pub fn to(&self) -> TimestampMs {
        self.from.plus_ms(self.step_ms * self.bins.len() as i64)
    }

    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.bins.iter().all(|b| *b == Bin::default())
    }

    fn max_w(&self) -> f64 {
        let all = self
            .bins
            .iter()
            .flat_map(|b| [b.actual_w, b.forecast_w, b.p90_w]);
        all.flatten().fold(0.0, f64::max)
    }

    /// The same in longer bins of `n` each.
    pub fn coarser(&self, n: usize) -> Series {
        let mean = |bins: &[Bin], of: fn(&Bin) -> Option<f64>| {
            let there: Vec<f64> = bins.iter().filter_map(of).collect();
            (!there.is_empty()).then(|| there.iter().sum::<f64>() / there.len() as f64)
        };
        let bins = self.bins.chunks(n.max(1)).map(|bins| Bin {
            actual_w: mean(bins, |b| b.actual_w),
            forecast_w: mean(bins, |b| b.forecast_w),
            p10_w: mean(bins, |b| b.p10_w),
            p90_w: mean(bins, |b| b.p90_w),
        });
        Series {
            from: self.from,
            step_ms: self.step_ms * n.max(1) as i64,
            bins: bins.collect(),
        }
    }
}

/// A step of 1, 2 or 5 times a power of ten that parts `max` into three to six, and how many reach it.
pub(super) fn nice_steps(max: f64) -> (f64, u32) {
    if !(max.is_finite() && max > 0.0) {
        return (0.25, 4);
    }
    let rough = max / 5.0;
    let ten = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|n| n * ten)
        .into_iter()
        .find(|s| *s >= rough * 0.999);
    let step = step.unwrap_or(10.0 * ten);
    (step, (max / step * 0.999).ceil().max(1.0) as u32)
}

/// A mark on the axis of time: when, its words, and whether a narrow screen does without it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    at: TimestampMs,
    text: String,
    minor: bool,
}

/// Marks at whole local hours, midnights or firsts of a month, whichever gives about eight.
pub(super) fn time_ticks(from: TimestampMs, to: TimestampMs, zone: Tz) -> Vec<Tick> {
    let (begin, end) = (
        from.to_utc().with_timezone(&zone),
        to.to_utc().with_timezone(&zone),
    );
    let days = (to.0 - from.0) as f64 / DAY_MS as f64;
    // The first moment of a local day that has one: where midnight is left out, an hour later.
    let midnight = |day: NaiveDate, hour: u32| {
        (hour..hour + 2).find_map(|h| {
            zone.from_local_datetime(&day.and_hms_opt(h, 0, 0)?)
                .earliest()
        })
    };
    let mut ticks = Vec::new();
    let mut day = begin.date_naive();
    let mut count = 0usize;
    while day <= end.date_naive() {
        let hours: &[u32] = if days <= 2.5 { &[0, 6, 12, 18] } else { &[0] };
        let due = match days {
            d if d > 100.0 => day.day() == 1,
            d if d > 45.0 => day.day() % 10 == 1 && day.day() < 30,
            d if d > 10.0 => day.num_days_from_ce() % 4 == 0,
            _ => true,
        };
        for &hour in hours.iter().filter(|_| due) {
            let Some(at) = midnight(day, hour) else {
                continue;
            };
            let text = match (days, hour) {
                (d, 0) if d > 100.0 => at.format("%b").to_string(),
                (d, 0) if d <= 10.0 => at.format("%a %-d").to_string(),
                (_, 0) => at.format("%-d %b").to_string(),
                _ => format!("{:02}:00", at.hour()),
            };
            let at = TimestampMs(at.timestamp_millis());
            if (from.0..=to.0).contains(&at.0) {
                ticks.push(Tick {
                    at,
                    text,
                    minor: count % 2 == 1,
                });
                count += 1;
            }
        }
        let Some(next) = day.checked_add_days(Days::new(1)) else {
            break;
        };
        day = next;
    }
    ticks
}

/// Draws measured and forecast power; `title` and `said` are what a screen reader tells.
pub(super) fn power(
    out: &mut String,
    id: &'static str,
    series: &Series,
    now: TimestampMs,
    zone: Tz,
    title: &str,
    said: &str,
) {
    open(out, id, title, said);
    let (step_w, steps) = nice_steps(series.max_w());
    let top_w = step_w * f64::from(steps);
    y_axis(out, step_w, steps);
    let (from, to) = (series.from, series.to());
    let across = |at: TimestampMs| (at.0 - from.0) as f64 / (to.0 - from.0).max(1) as f64;
    for tick in time_ticks(from, to, zone) {
        let x = format!("{:.2}%", across(tick.at) * 100.0);
        let class = if tick.minor { "x minor" } else { "x" };
        put!(
            out,
            "<line class=day x1=\"{}\" x2=\"{}\" y1=0 y2=\"100%\"/>",
            x,
            x
        );
        put!(
            out,
            "<text class=\"{}\" x=\"{}\" y=\"100%\" dy=\"1.5em\">{}</text>",
            class,
            x,
            tick.text
        );
    }
    put!(
        out,
        "<svg class=data viewBox=\"0 0 1000 1000\" preserveAspectRatio=none width=\"100%\" height=\"100%\">"
    );
    let place = |i: usize, w: f64| {
        let x = (i as f64 + 0.5) / series.bins.len() as f64 * UNITS;
        (x, (1.0 - (w / top_w).clamp(0.0, 1.0)) * UNITS)
    };
    let line = |of: fn(&Bin) -> Option<f64>| {
        pieces(series.bins.iter().map(of))
            .iter()
            .map(|piece| path(piece.iter().map(|&(i, w)| place(i, w))))
            .collect::<String>()
    };
    let mut band = String::new();
    for piece in pieces(series.bins.iter().map(|b| b.p10_w.zip(b.p90_w))) {
        let above = piece.iter().map(|&(i, (_, high))| place(i, high));
        let below = piece.iter().rev().map(|&(i, (low, _))| place(i, low));
        band += &path(above.chain(below));
        band.push('Z');
    }
    put!(out, "<path class=band d=\"{}\"/>", band);
    put!(out, "<path class=actual d=\"{}\"/>", line(|b| b.actual_w));
    put!(
        out,
        "<path class=forecast d=\"{}\"/></svg>",
        line(|b| b.forecast_w)
    );
    if (from.0..=to.0).contains(&now.0) {
        let x = format!("{:.2}%", across(now) * 100.0);
        put!(
            out,
            "<line class=now x1=\"{}\" x2=\"{}\" y1=0 y2=\"100%\"/>",
            x,
            x
        );
    }
    put!(out, "</svg>");
}

/// One group of bars: its words below, its heights in W, each none where there is nothing.
pub(super) struct Bars {
    /// Below the group.
    pub text: String,
    /// As many as there are classes.
    pub heights_w: [Option<f64>; 3],
}

const BAR_CLASSES: [&str; 3] = ["live", "smart", "naive"];

/// Draws groups of three bars.
pub(super) fn bars(out: &mut String, id: &'static str, groups: &[Bars], title: &str, said: &str) {
    open(out, id, title, said);
    let heights = groups.iter().flat_map(|g| g.heights_w).flatten();
    let (step_w, steps) = nice_steps(heights.fold(0.0, f64::max));
    let top_w = step_w * f64::from(steps);
    y_axis(out, step_w, steps);
    let width = 100.0 / groups.len().max(1) as f64;
    let bar = (width * 0.72 / 3.0).min(3.0);
    let every = groups.len().div_ceil(16).max(1);
    for (i, group) in groups.iter().enumerate() {
        let middle = (i as f64 + 0.5) * width;
        for ((n, class), height) in BAR_CLASSES.iter().enumerate().zip(group.heights_w) {
            let Some(height) = height else { continue };
            let up = (height / top_w).clamp(0.0, 1.0) * 100.0;
            put!(
                out,
                "<rect class=\"{}\" x=\"{}%\" y=\"{}%\" width=\"{}%\" height=\"{}%\"/>",
                class,
                short(middle + (n as f64 - 1.5) * bar),
                short(100.0 - up),
                short(bar * 0.86),
                short(up)
            );
        }
        if i % every == 0 {
            let class = if i % (4 * every) == 0 { "x" } else { "x minor" };
            put!(
                out,
                "<text class=\"{}\" x=\"{}%\" y=\"100%\" dy=\"1.5em\">{}</text>",
                class,
                short(middle),
                group.text
            );
        }
    }
    put!(out, "</svg>");
}

fn open(out: &mut String, id: &'static str, title: &str, said: &str) {
    put!(
        out,
        "<svg class=plot role=img aria-labelledby=\"{}-t {}-d\"><title id=\"{}-t\">{}</title><desc id=\"{}-d\">{}</desc>",
        id,
        id,
        id,
        title,
        id,
        said
    );
}

fn y_axis(out: &mut String, step_w: f64, steps: u32) {
    let (unit_w, unit) = if step_w * f64::from(steps) >= 1000.0 {
        (1000.0, "kW")
    } else {
        (1.0, "W")
    };
    let step = step_w / unit_w;
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    for n in 0..=steps {
        let y = format!(
            "{}%",
            short(100.0 - f64::from(n) / f64::from(steps) * 100.0)
        );
        let class = if n == 0 { "base" } else { "grid" };
        put!(
            out,
            "<line class=\"{}\" x1=0 x2=\"100%\" y1=\"{}\" y2=\"{}\"/>",
            class,
            y,
            y
        );
        let unit = if n == steps {
            format!("\u{a0}{unit}")
        } else {
            String::new()
        };
        let text = format!("{:.decimals$}{unit}", step * f64::from(n));
        put!(
            out,
            "<text class=y x=0 dx=-8 y=\"{}\" dy=\".32em\">{}</text>",
            y,
            text
        );
    }
}

/// Two decimals at most, and none that say nothing.
fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Values that follow each other without a gap, with their places.
pub(super) fn pieces<T>(values: impl Iterator<Item = Option<T>>) -> Vec<Vec<(usize, T)>> {
    let mut pieces: Vec<Vec<(usize, T)>> = Vec::new();
    let mut after_gap = true;
    for (i, value) in values.enumerate() {
        let Some(value) = value else {
            after_gap = true;
            continue;
        };
        if std::mem::take(&mut after_gap) {
            pieces.push(Vec::new());
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push((i, value));
        }
    }
    pieces
}

/// A path through points in whole units; a single point is drawn as a dot by its round ends.
fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut out = String::new();
    for (i, (x, y)) in points.enumerate() {
        let command = match i {
            0 => "M",
            1 => "L",
            _ => " ",
        };
        let _ = write!(out, "{command}{} {}", x.round(), y.round());
    }
    if !out.contains('L') {
        out.push_str("h0");
    }
    out
}

#[cfg(test)]
mod tests;
