//! The status as one screen of at most 80 columns.

use std::fmt::Write as _;

use chrono_tz::Tz;

use super::{Level, Status};
use crate::reading::TimestampMs;
use crate::store::{ForecastRow, LiveAccuracy};
use crate::words::{clip, count, local, printable};

/// Columns beside the label.
const COLUMNS: usize = 69;
/// Lines for alerts.
const ALERTS: usize = 3;
/// Labels of lines that are sentences: those may take three lines.
const SENTENCES: [&str; 5] = ["OK", "ATTENTION", "DOWN", "", "night"];

/// One screen, at most 80 columns wide, with times of `zone`.
pub fn render(s: &Status, zone: Tz) -> String {
    let mut out = String::new();
    // Sentences are told to their end; figures are cut at the edge.
    let mut lines = |label: &str, text: &str, at_most: usize| {
        for (i, part) in wrap(text, COLUMNS, at_most).iter().enumerate() {
            let part = clip(part, COLUMNS);
            let _ = writeln!(out, "{:<10} {part}", if i == 0 { label } else { "" });
        }
    };
    let mut line = |label: &str, text: String| {
        lines(label, &text, if SENTENCES.contains(&label) { 3 } else { 1 })
    };
    let mark = match s.verdict.level {
        Level::Ok => "OK",
        Level::Attention => "ATTENTION",
        Level::Down => "DOWN",
    };
    line(mark, s.verdict.text.clone());
    if let Some(step) = &s.verdict.next_step {
        line("", format!("-> {step}"));
    }
    let shown = match s.alerts.len() {
        0..=ALERTS => ALERTS,
        _ => ALERTS - 1,
    };
    for alert in s.alerts.iter().take(shown) {
        let known = alert.acknowledged.map_or("", |_| " (known)");
        let text = printable(&alert.text);
        line(
            "alert",
            format!("{}{known}: {text}", ago(s.now, alert.raised)),
        );
    }
    if s.alerts.len() > ALERTS {
        let more = s.alerts.len() - shown;
        line("", format!("and {more} more; nightwatt alerts lists them"));
    }
    match &s.daemon {
        Some(d) => {
            let state = if d.intake.connected {
                "connected"
            } else {
                "not connected"
            };
            line(
                "broker",
                format!(
                    "{} {state}, sessions lost {}",
                    d.broker, d.intake.sessions_lost
                ),
            );
            line(
                "intake",
                format!(
                    "{} received, {}, {}, {} refused since start",
                    d.received,
                    count(d.rows, "new row"),
                    count(d.duplicates, "repeat"),
                    d.rejects
                ),
            );
        }
        None => line(
            "daemon",
            format!("not running; read from {}", s.store_path.display()),
        ),
    }
    line("store", store_line(s));
    if let Some(text) = disk_line(s) {
        line("disk", text);
    }
    if !s.store.rejects.is_empty() {
        let reasons: Vec<String> = s
            .store
            .rejects
            .iter()
            .map(|r| format!("{} {}", r.count, r.reason))
            .collect();
        line("refused", reasons.join(", "));
        let most = s.store.reject_topics.iter().find(|t| !t.topic.is_empty());
        let topic = most.map_or(String::new(), |t| {
            format!("most on {}; ", printable(&t.topic))
        });
        line("", format!("{topic}see nightwatt quarantine"));
    }
    for (device, at, power) in s.devices.iter().take(8) {
        let power = power.map_or("no power".into(), |p| format!("{p:.1} W"));
        let forecasts: Vec<String> = s
            .forecasts
            .iter()
            .filter(|f| f.device == *device)
            .map(|f| forecast_words(f, s.now, zone))
            .collect();
        let forecast = match forecasts.is_empty() {
            true => "no forecast yet".into(),
            false => forecasts.join(", "),
        };
        line(
            "device",
            format!("{device}: {power} {}; {forecast}", ago(s.now, *at)),
        );
    }
    if s.devices.len() > 8 {
        line(
            "",
            format!("and {} more", count(s.devices.len() - 8, "device")),
        );
    }
    line(
        "model",
        match &s.model {
            Some(m) => format!(
                "version {}, live for {}{}",
                m.version,
                span(s.now.0 - m.promoted.unwrap_or(m.created).0),
                without_model(s)
            ),
            None => "none yet: smart persistence forecasts".into(),
        },
    );
    for (i, accuracy) in s.accuracy_by_horizon.iter().enumerate() {
        line(
            if i == 0 { "accuracy" } else { "" },
            accuracy_line(accuracy),
        );
    }
    if s.accuracy_by_horizon.is_empty() {
        let text = "no forecast of the last 7 days has met its actual value yet";
        line("accuracy", text.into());
    }
    line("night", night_line(s));
    for event in &s.events {
        line(
            "event",
            format!("{} {}: {}", ago(s.now, event.at), event.kind, event.detail),
        );
    }
    out
}

fn without_model(s: &Status) -> String {
    let minutes: Vec<String> = s.by_persistence_min().iter().map(u32::to_string).collect();
    match minutes.is_empty() {
        true => String::new(),
        false => format!("; smart persistence {} min ahead", minutes.join(", ")),
    }
}

fn store_line(s: &Status) -> String {
    let size = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let mut text = format!(
        "{}, {} database, {} WAL",
        count(s.store.devices, "device"),
        size(s.store.database_bytes),
        size(s.store.wal_bytes)
    );
    if let Some(free) = s.disk_free_bytes {
        let _ = write!(text, ", {} free", size(free));
    }
    text
}

fn disk_line(s: &Status) -> Option<String> {
    let written = s
        .written_mb_per_day
        .map(|mb| format!("{mb:.1} MB written a day"));
    let left = s.disk_days_left.map(|days| match days {
        366.. => "room for more than a year".into(),
        days => format!("room for {}", count(days, "day")),
    });
    let words: Vec<String> = written.into_iter().chain(left).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn forecast_words(f: &ForecastRow, now: TimestampMs, zone: Tz) -> String {
    let day = |ts| local(ts, zone, "%F");
    let at = match day(f.target) == day(now) {
        true => local(f.target, zone, "%H:%M"),
        false => local(f.target, zone, "%a %H:%M"),
    };
    let band = match (f.p10_w, f.p90_w) {
        (Some(low), Some(high)) => format!(" ({low:.1} … {high:.1})"),
        _ => String::new(),
    };
    format!(
        "{at} {:.1} W{band} {}{}",
        f.power_w,
        f.source,
        f.ramp_probability
            .map_or(String::new(), |p| format!(", ramp {:.0} %", p * 100.0))
    )
}

fn accuracy_line(a: &LiveAccuracy) -> String {
    let mut text = format!(
        "7 days, +{} min: MAE {:.2} W, smart {:.2}, naive {:.2}",
        a.horizon_min, a.mae_w, a.smart_mae_w, a.naive_mae_w
    );
    if let Some(skill) = a.skill() {
        let _ = write!(text, ", skill {skill:+.2}");
    }
    if let Some(coverage) = a.coverage {
        let _ = write!(text, ", P10-P90 {:.0} %", coverage * 100.0);
    }
    text
}

fn night_line(s: &Status) -> String {
    let last = match &s.last_run {
        None => "none yet".into(),
        Some(run) => {
            let by_hand = match run.trigger.as_str() {
                "manual" => ", by hand",
                _ => "",
            };
            match (run.outcome, run.reason.as_deref()) {
                (None, _) => format!("going on for {}{by_hand}", span(s.now.0 - run.started.0)),
                (Some(outcome), reason) => {
                    let reason = reason.map_or(String::new(), |r| format!(": {r}"));
                    let when = ago(s.now, run.started);
                    format!("{}{reason} ({when}{by_hand})", outcome.as_str())
                }
            }
        }
    };
    match s.daemon.as_ref().and_then(|d| d.next_night) {
        Some(next) => format!("next in {}; last: {last}", span(next.0 - s.now.0)),
        None => last,
    }
}

/// At most `at_most` lines, broken between words; a word is never broken.
pub(crate) fn wrap(text: &str, columns: usize, at_most: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let n = lines.len();
        let last = &mut lines[n - 1];
        let longer = last.chars().count() + 1 + word.chars().count() > columns;
        if longer && !last.is_empty() && n < at_most {
            lines.push(word.to_owned());
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

pub(crate) fn ago(now: TimestampMs, then: TimestampMs) -> String {
    match now.0 - then.0 {
        past if past >= 0 => format!("{} ago", span(past)),
        ahead => format!("{} in the future", span(-ahead)),
    }
}

pub(crate) fn span(ms: i64) -> String {
    match ms / 1000 {
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", s / 60),
        s if s < 172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}
