//! The chart of forecast against actual, with what is chosen for it and its figures.

use std::collections::BTreeSet;

use super::chart;
use super::html::{in_query, local, maybe_watts, put, watts};
use super::{PERIODS, View};
use crate::status::span;

/// So many devices are chosen from a list; the name of one of more is typed in.
const LISTED: usize = 200;

pub(super) fn section(out: &mut String, view: &View) {
    let (s, choice, series) = (&view.status, &view.choice, &view.series);
    put!(
        out,
        "<section class=card id=forecast data-live aria-labelledby=\"forecast-t\"><div class=head><h2 id=\"forecast-t\">Forecast against actual</h2>"
    );
    let device = choice.device.as_ref().map_or("", |d| d.as_str());
    let horizon = choice
        .horizon_min
        .map_or(String::new(), |h| format!("&horizon={h}"));
    if choice.device.is_none() {
        put!(
            out,
            "</div><p class=empty>Nothing to draw yet: the chart begins with the first reading.</p></section>"
        );
        return;
    }
    put!(out, "<nav class=pick aria-label=\"Period\">");
    for period in PERIODS {
        let current = if period == choice.period {
            "true"
        } else {
            "false"
        };
        put!(
            out,
            "<a href=\"?days={}&amp;device={}{}#forecast\" aria-current=\"{}\">{}</a>",
            period.days,
            in_query(device),
            horizon,
            current,
            period.name
        );
    }
    put!(out, "</nav></div>");
    pickers(out, view);
    if series.is_empty() {
        put!(
            out,
            "<p class=empty>Nothing of {} was measured or forecast in this period.</p></section>",
            device
        );
        return;
    }
    let forecasts = series
        .bins
        .iter()
        .filter(|b| b.forecast_w.is_some())
        .count();
    if forecasts == 0 {
        put!(
            out,
            "<p class=note>No forecast fell into this period yet: only what was measured is drawn.</p>"
        );
    }
    put!(
        out,
        "<ul class=legend aria-hidden=true><li><svg class=key><line class=actual x1=0 x2=28 y1=6 y2=6 /></svg>measured</li>\
         <li><svg class=key><line class=forecast x1=0 x2=28 y1=6 y2=6 /></svg>forecast</li>\
         <li><svg class=key><rect class=band x=0 y=0 width=28 height=12 /></svg>P10 \u{2013} P90: eight of ten actual values should lie in it</li></ul>"
    );
    let title = format!("Measured and forecast power of {device}");
    let said = describe(view, forecasts);
    put!(out, "<div class=frame>");
    chart::power(out, "power", series, s.now, view.zone, &title, &said);
    put!(out, "</div>");
    let rows = series.coarser(choice.period.bins_per_row);
    put!(
        out,
        "<details id=power-data><summary>The figures of this chart</summary><div class=scroll role=region aria-label=\"Figures of the chart\" tabindex=0><table><caption>Means of {}, from the time given</caption><thead>\
         <tr><th scope=col>From</th><th scope=col class=n>Measured</th><th scope=col class=n>Forecast</th><th scope=col class=n>P10</th><th scope=col class=n>P90</th></tr></thead><tbody>",
        span(rows.step_ms)
    );
    for (i, bin) in rows
        .bins
        .iter()
        .enumerate()
        .filter(|(_, b)| **b != chart::Bin::default())
    {
        let at = rows.from.plus_ms(rows.step_ms * i as i64);
        put!(
            out,
            "<tr><th scope=row>{}</th>",
            local(at, view.zone, "%a %-d %b %H:%M")
        );
        for value in [bin.actual_w, bin.forecast_w, bin.p10_w, bin.p90_w] {
            put!(out, "<td class=n>{}</td>", maybe_watts(value));
        }
        put!(out, "</tr>");
    }
    put!(out, "</tbody></table></div></details></section>");
}

/// Which device and which horizon, where there is a choice: a form, which works without the script.
fn pickers(out: &mut String, view: &View) {
    let (s, choice) = (&view.status, &view.choice);
    let horizons: BTreeSet<u32> = s.forecasts.iter().map(|f| f.horizon_min).collect();
    if s.devices.len() < 2 && horizons.len() < 2 {
        return;
    }
    put!(
        out,
        "<form class=pickers action=\"/#forecast\"><input type=hidden name=days value=\"{}\">",
        choice.period.days
    );
    if s.devices.len() > LISTED {
        put!(
            out,
            "<label>Device <input name=device value=\"{}\"></label>",
            choice.device.as_ref().map_or("", |d| d.as_str())
        );
    } else {
        put!(out, "<label>Device <select name=device>");
        for (device, _, _) in &s.devices {
            let selected = if choice.device.as_ref() == Some(device) {
                "selected"
            } else {
                ""
            };
            put!(out, "<option {}>{}</option>", selected, device);
        }
        put!(out, "</select></label>");
    }
    if horizons.len() > 1 {
        put!(out, "<label>Ahead <select name=horizon>");
        for minutes in horizons {
            let selected = if choice.horizon_min == Some(minutes) {
                "selected"
            } else {
                ""
            };
            put!(
                out,
                "<option value=\"{}\" {}>{}\u{a0}min</option>",
                minutes,
                selected,
                minutes
            );
        }
        put!(out, "</select></label>");
    }
    put!(out, "<button>Show</button></form>");
}

/// The chart in a sentence or two.
fn describe(view: &View, forecasts: usize) -> String {
    let series = &view.series;
    let highest = series
        .bins
        .iter()
        .filter_map(|b| b.actual_w)
        .fold(None, |m: Option<f64>, w| Some(m.map_or(w, |m| m.max(w))));
    let from = local(series.from, view.zone, "%-d %B %Y");
    let mut said = format!("Since {from}, in means of {}. ", span(series.step_ms));
    match highest {
        Some(w) => said += &format!("Measured power reached {}. ", watts(w)),
        None => said += "Nothing was measured. ",
    }
    let pairs: Vec<(f64, f64)> = series
        .bins
        .iter()
        .filter_map(|b| b.actual_w.zip(b.forecast_w))
        .collect();
    if forecasts == 0 {
        said += "There is no forecast in it.";
    } else if !pairs.is_empty() {
        let off: f64 = pairs.iter().map(|(a, f)| (a - f).abs()).sum::<f64>() / pairs.len() as f64;
        said += &format!(
            "Forecast and measured means differ by {} on average.",
            watts(off)
        );
    }
    said
}
