//! The page at `/`: one document without outside parts, readable without its script.
//!
//! A pure function of a [`View`]. What the browser may do with it stands in [`policy`]: its own style and
//! script by digest, requests to where it came from, and nothing else.

mod chart;
mod forecast;
mod html;
mod learning;
mod now;
mod station;

use std::sync::LazyLock;

use chrono_tz::Tz;
use sha2::{Digest, Sha256};

pub use chart::{Bin, Series};
use html::{local, put};

use crate::accuracy::DayAccuracy;
use crate::reading::DeviceId;
use crate::status::{Level, Status};
use crate::store::{ModelRow, RunRow, RunSummary};
use crate::trainer::FirstNight;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
/// Forecasts shown one by one; a page of all that there may be would be too long to read.
const LINES: usize = 50;

/// How a period is drawn: days before today, minutes of a bin, bins in a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Whole days before today.
    pub days: u32,
    /// Length of a bin.
    pub bin_min: u32,
    bins_per_row: usize,
    name: &'static str,
}

/// The periods there are; each has at most 400 bins.
pub const PERIODS: [Period; 6] = [
    Period {
        days: 1,
        bin_min: 10,
        bins_per_row: 6,
        name: "2 days",
    },
    Period {
        days: 3,
        bin_min: 15,
        bins_per_row: 8,
        name: "4 days",
    },
    Period {
        days: 7,
        bin_min: 30,
        bins_per_row: 6,
        name: "week",
    },
    Period {
        days: 30,
        bin_min: 120,
        bins_per_row: 12,
        name: "month",
    },
    Period {
        days: 90,
        bin_min: 360,
        bins_per_row: 4,
        name: "quarter",
    },
    Period {
        days: 365,
        bin_min: 1440,
        bins_per_row: 7,
        name: "year",
    },
];

impl Period {
    /// The shortest that holds so many days.
    pub fn holding(days: u32) -> Self {
        let found = PERIODS.into_iter().find(|p| p.days >= days);
        found.unwrap_or(PERIODS[PERIODS.len() - 1])
    }
}

/// What the chart shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// How far back.
    pub period: Period,
    /// Whose power; none where there is no device.
    pub device: Option<DeviceId>,
    /// Minutes ahead of the forecasts; none where there is no forecast.
    pub horizon_min: Option<u32>,
}

/// Everything the page shows.
#[derive(Clone, Debug)]
pub struct View {
    /// What `nightwatt status` shows.
    pub status: Status,
    /// Of local times and days.
    pub zone: Tz,
    /// What the chart shows.
    pub choice: Choice,
    /// Measured and forecast power of the chosen device.
    pub series: Series,
    /// Days of the chosen horizon, the oldest first.
    pub accuracy: Vec<DayAccuracy>,
    /// The newest nights, newest first.
    pub nights: Vec<RunRow>,
    /// Those of the last 30 days.
    pub summary: RunSummary,
    /// The newest versions, newest first.
    pub models: Vec<ModelRow>,
    /// The version that a rollback would bring back.
    pub back_to: Option<i64>,
    /// None once a model is live.
    pub first_night: Option<FirstNight>,
    /// The topic filters that are subscribed to.
    pub filters: Vec<String>,
}

/// The content security policy of the page.
pub fn policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let digest = |text: &str| html::base64(&Sha256::digest(text));
        format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; \
             img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            digest(STYLE),
            digest(SCRIPT)
        )
    });
    &POLICY
}

/// Headers of the page's answer, beside its type.
pub fn headers() -> [(&'static str, &'static str); 5] {
    [
        ("content-security-policy", policy()),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
    ]
}

/// The page.
pub fn page(view: &View) -> String {
    let mut out = String::with_capacity(64 * 1024);
    let out = &mut out;
    let status = &view.status;
    let (word, sign) = match status.verdict.level {
        Level::Ok => ("ok", "\u{2713}"),
        Level::Attention => ("attention", "!"),
        Level::Down => ("down", "\u{2715}"),
    };
    put!(
        out,
        "<!doctype html><html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <meta name=color-scheme content=\"light dark\"><title>{}: {} \u{2013} nightwatt</title>\
         <link rel=icon href=\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
         %3Ccircle cx='8' cy='8' r='7' fill='%231d5b8f'/%3E%3Cpath d='M8 1a7 7 0 0 1 0 14z' fill='%23e9a23b'/%3E%3C/svg%3E\"><style>",
        word,
        status.verdict.text
    );
    // The only unescaped text beside markup: two constants, checked by digest in the browser.
    out.push_str(STYLE);
    put!(
        out,
        "</style></head><body><a class=skip href=\"#main\">Skip to the content</a>\
         <header><p class=brand><svg viewBox=\"0 0 16 16\" width=22 height=22 aria-hidden=true><circle cx=8 cy=8 r=7 class=moon />\
         <path d=\"M8 1a7 7 0 0 1 0 14z\" class=sun /></svg>nightwatt</p>\
         <nav aria-label=\"Sections\"><a href=\"#now\">Now</a><a href=\"#forecast\">Forecast</a><a href=\"#accuracy\">Accuracy</a>\
         <a href=\"#nights\">Nights</a><a href=\"#models\">Models</a><a href=\"#intake\">Intake</a><a href=\"#station\">Station</a></nav>\
         <div class=fresh><label hidden data-needs-script><input type=checkbox id=refresh checked> Refresh each minute</label>\
         <span id=asof data-live>as of <time datetime=\"{}\">{}</time></span></div></header><main id=main tabindex=-1>",
        status.now.to_utc().format("%Y-%m-%dT%H:%M:%SZ"),
        local(status.now, view.zone, "%H:%M:%S %Z")
    );
    put!(
        out,
        "<section class=\"verdict {}\" id=verdict data-live aria-labelledby=\"verdict-t\"><span class=sign aria-hidden=true>{}</span>\
         <div><h1 id=\"verdict-t\"><span class=sr>{}: </span>{}</h1>",
        word,
        sign,
        word,
        status.verdict.text
    );
    if let Some(step) = &status.verdict.next_step {
        put!(
            out,
            "<p><span aria-hidden=true>\u{2192} </span><span class=sr>Next step: </span>{}</p>",
            step
        );
    }
    put!(out, "</div></section>");
    now::alerts(out, view);
    now::tiles(out, view);
    now::devices(out, view);
    forecast::section(out, view);
    learning::accuracy(out, view);
    learning::nights(out, view);
    learning::models(out, view);
    station::intake(out, view);
    station::station(out, view);
    station::manage(out);
    put!(
        out,
        "</main><footer><p>nightwatt {}</p><p>Times in {}. The same figures: <code>nightwatt status</code>, <a href=\"/api/status\">/api/status</a>.</p></footer>\
         <p id=said role=status class=toast></p><script>",
        status.version,
        view.zone.name()
    );
    out.push_str(SCRIPT);
    out.push_str("</script></body></html>");
    std::mem::take(out)
}

#[cfg(test)]
mod tests;
