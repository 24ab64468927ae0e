//! The page's upper part: figures of the moment, and each device.

use std::collections::BTreeSet;

use super::html::{in_query, local, moment, power, put, signed, watts};
use super::{LINES, View};
use crate::reading::TimestampMs;
use crate::status::{ago, span};
use crate::store::{ForecastRow, RunOutcome};

/// Alerts shown.
const ALERTS: usize = 10;
/// A reading this old is no longer what there is now.
const STALE_MS: i64 = 3_600_000;

pub(super) fn tiles(out: &mut String, view: &View) {
    let s = &view.status;
    put!(
        out,
        "<section class=tiles id=tiles data-live aria-label=\"At a glance\"><dl>"
    );
    let fresh: Vec<f64> = s
        .devices
        .iter()
        .filter(|(_, at, _)| s.now.0 - at.0 < STALE_MS)
        .filter_map(|(_, _, power)| *power)
        .collect();
    put!(out, "<div><dt>Power now</dt><dd>");
    if fresh.is_empty() {
        put!(
            out,
            "<b class=none>none</b><small>no reading within the hour</small>"
        );
    } else {
        let sum: f64 = fresh.iter().sum();
        put!(
            out,
            "<b><data value=\"{}\">{}</data></b><small>{}</small>",
            sum,
            watts(sum),
            count(fresh.len(), "device")
        );
    }
    put!(out, "</dd></div><div><dt>Forecast");
    let ahead = s.forecasts.iter().map(|f| f.horizon_min).min();
    let coming: Vec<&ForecastRow> = s
        .forecasts
        .iter()
        .filter(|f| Some(f.horizon_min) == ahead && f.target.0 > s.now.0 - STALE_MS)
        .collect();
    match (&coming[..], ahead) {
        ([], _) | (_, None) => {
            put!(
                out,
                "</dt><dd><b class=none>none</b><small>no fresh forecast</small>"
            );
        }
        (rows, Some(minutes)) => {
            let sum: f64 = rows.iter().map(|f| f.power_w).sum();
            put!(
                out,
                " +{}\u{a0}min</dt><dd><b><data value=\"{}\">{}</data></b><small>",
                minutes,
                sum,
                watts(sum)
            );
            let oldest = rows.iter().map(|f| f.issued.0).min().unwrap_or(s.now.0);
            match rows {
                [only] => put!(out, "{}, ", band(only)),
                _ => put!(out, "{}, ", count(rows.len(), "device")),
            }
            put!(out, "made {}</small>", ago(s.now, TimestampMs(oldest)));
        }
    }
    put!(out, "</dd></div><div><dt>Skill, 7 days</dt><dd>");
    match s.skill {
        Some(skill) => {
            put!(
                out,
                "<b><data value=\"{}\">{}</data></b>",
                skill,
                signed(skill)
            );
            let word = if skill > 0.0 { "smaller" } else { "larger" };
            let percent = format!("{:.0}", skill.abs() * 100.0);
            put!(
                out,
                "<small>error {}\u{a0}% {} than smart persistence\u{2019}s</small>",
                percent,
                word
            );
        }
        None => put!(
            out,
            "<b class=none>unknown</b><small>no forecast has met its actual value yet</small>"
        ),
    }
    put!(out, "</dd></div><div><dt>Last night</dt><dd>");
    match &s.last_run {
        Some(run) => {
            let outcome = run.outcome.map_or("going on", RunOutcome::as_str);
            put!(
                out,
                "<b>{}</b><small>{}</small>",
                outcome,
                ago(s.now, run.started)
            );
        }
        None => put!(
            out,
            "<b class=none>none yet</b><small>no night has run</small>"
        ),
    }
    put!(out, "</dd></div><div><dt>Next night</dt><dd>");
    let daemon = s.daemon.as_ref();
    match (
        daemon.is_some_and(|d| d.training),
        daemon.and_then(|d| d.next_night),
    ) {
        (true, _) => put!(out, "<b>now</b><small>a run is going on</small>"),
        (false, Some(next)) => {
            put!(
                out,
                "<b>{}</b><small>in {}</small>",
                local(next, view.zone, "%H:%M"),
                span(next.0 - s.now.0)
            );
        }
        (false, None) => put!(
            out,
            "<b class=none>none</b><small>not scheduled, or nothing confirms the clock</small>"
        ),
    }
    put!(out, "</dd></div></dl></section>");
}

/// The alerts that stand; an empty place where there is none, which a refresh may fill.
pub(super) fn alerts(out: &mut String, view: &View) {
    let s = &view.status;
    put!(out, "<section id=alerts data-live aria-label=Alerts");
    if s.alerts.is_empty() {
        put!(out, " hidden></section>");
        return;
    }
    put!(out, " class=card><h2>Alerts</h2><ul class=events>");
    for alert in s.alerts.iter().take(ALERTS) {
        put!(out, "<li>");
        moment(out, alert.raised, view.zone);
        put!(
            out,
            " <span class=\"badge bad\">{}</span> {}",
            alert.level,
            alert.text
        );
        if alert.acknowledged.is_some() {
            put!(out, " <small>acknowledged</small>");
        }
        put!(out, "</li>");
    }
    put!(out, "</ul>");
    if s.alerts.len() > ALERTS {
        let more = count(s.alerts.len() - ALERTS, "more alert");
        put!(
            out,
            "<p class=note>and {}; <code>nightwatt alerts</code> lists all</p>",
            more
        );
    }
    put!(out, "</section>");
}

pub(super) fn devices(out: &mut String, view: &View) {
    let s = &view.status;
    put!(
        out,
        "<section class=card id=now data-live aria-labelledby=\"now-t\"><h2 id=\"now-t\">Now</h2>"
    );
    if s.devices.is_empty() {
        put!(
            out,
            "<p class=empty>No reading yet. nightwatt listens on <code>{}</code>; <code>nightwatt topics</code> shows what the broker carries.</p></section>",
            view.filters.join(", ")
        );
        return;
    }
    let scale = s
        .devices
        .iter()
        .filter_map(|d| d.2)
        .chain(s.forecasts.iter().map(|f| f.p90_w.unwrap_or(f.power_w)));
    let scale_w = scale.fold(1.0, f64::max);
    put!(
        out,
        "<table class=stack><caption class=sr>Power and newest forecast of each device</caption><thead><tr><th scope=col>Device</th>\
         <th scope=col class=n>Power</th><th scope=col class=n>Forecast</th><th scope=col class=n>P10 \u{2013} P90</th><th scope=col class=wide aria-hidden=true></th>\
         <th scope=col>Forecast made</th></tr></thead><tbody>"
    );
    let horizons: BTreeSet<u32> = s.forecasts.iter().map(|f| f.horizon_min).collect();
    let shown = LINES / horizons.len().max(1);
    for (device, at, power_w) in s.devices.iter().take(shown) {
        let rows: Vec<&ForecastRow> = s.forecasts.iter().filter(|f| f.device == *device).collect();
        put!(
            out,
            "<tr><th scope=row><a href=\"?days={}&amp;device={}#forecast\">{}</a></th>",
            view.choice.period.days,
            in_query(device.as_str()),
            device
        );
        put!(out, "<td class=n data-l=Power><div>");
        power(out, *power_w);
        let stale = s.now.0 - at.0 >= STALE_MS;
        put!(
            out,
            " <small class=\"{}\">{}</small></div></td>",
            if stale { "warn" } else { "" },
            ago(s.now, *at)
        );
        if rows.is_empty() {
            put!(
                out,
                "<td colspan=4 class=none data-l=Forecast>no forecast yet</td></tr>"
            );
            continue;
        }
        put!(out, "<td class=n data-l=Forecast>");
        for f in &rows {
            put!(out, "<div>");
            power(out, Some(f.power_w));
            put!(out, " <small>+{}\u{a0}min</small></div>", f.horizon_min);
        }
        put!(out, "</td><td class=n data-l=\"P10 \u{2013} P90\">");
        for f in &rows {
            put!(out, "<div>{}</div>", band(f));
        }
        put!(out, "</td><td class=wide aria-hidden=true>");
        for f in &rows {
            range(out, f, *power_w, scale_w);
        }
        put!(out, "</td><td data-l=\"Forecast made\">");
        for f in &rows {
            let late = s.now.0 > f.target.0;
            put!(
                out,
                "<div><span class=\"{}\">{}</span>",
                if late { "warn" } else { "" },
                ago(s.now, f.issued)
            );
            match f.model_version {
                Some(version) => put!(out, " <small>by version {}", version),
                None => put!(out, " <small>by {} persistence", f.source),
            }
            if let Some(p) = f.ramp_probability {
                put!(out, ", drop {}\u{a0}%", format!("{:.0}", p * 100.0));
            }
            put!(out, "</small></div>");
        }
        put!(out, "</td></tr>");
    }
    put!(out, "</tbody></table>");
    if s.devices.len() > shown {
        put!(
            out,
            "<p class=note>and {}; <code>nightwatt forecast</code> and <code>/api/devices</code> list all</p>",
            count(s.devices.len() - shown, "more device")
        );
    }
    put!(out, "</section>");
}

fn band(f: &ForecastRow) -> String {
    match (f.p10_w, f.p90_w) {
        (Some(low), Some(high)) => format!("{} \u{2013} {}", watts(low), watts(high)),
        _ => "no interval yet".into(),
    }
}

/// P10 … P90 as a bar, the forecast as a dot on it and the power now as a stroke; the cells beside it say the same.
fn range(out: &mut String, f: &ForecastRow, now_w: Option<f64>, scale_w: f64) {
    let at = |w: f64| format!("{:.1}%", (w / scale_w).clamp(0.0, 1.0) * 96.0 + 2.0);
    put!(
        out,
        "<svg class=range><line class=rail x1=\"2%\" x2=\"98%\" y1=10 y2=10 />"
    );
    if let (Some(low), Some(high)) = (f.p10_w, f.p90_w) {
        put!(
            out,
            "<line class=span x1=\"{}\" x2=\"{}\" y1=10 y2=10 />",
            at(low),
            at(high)
        );
    }
    if let Some(w) = now_w {
        put!(
            out,
            "<line class=mark x1=\"{}\" x2=\"{}\" y1=3 y2=17 />",
            at(w),
            at(w)
        );
    }
    put!(
        out,
        "<circle class=dot cx=\"{}\" cy=10 r=4 /></svg>",
        at(f.power_w)
    );
}

/// A number with its noun.
pub(super) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// A moment, or a dash.
pub(super) fn maybe_moment(out: &mut String, at: Option<TimestampMs>, view: &View) {
    match at {
        Some(at) => moment(out, at, view.zone),
        None => put!(out, "<span class=none>none</span>"),
    }
}
