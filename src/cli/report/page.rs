//! A report as one HTML page that asks for nothing else: no script, no font, no image from elsewhere.

use std::fmt::{self, Display, Write as _};

use super::gather::Report;
use crate::cli::tables::{number, percent, skill};
use crate::store::RunOutcome;
use crate::words;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{padding:.2rem .6rem;border-bottom:1px solid #8884;text-align:left;vertical-align:top}\
.n{text-align:right;white-space:nowrap}\
section{overflow-x:auto}svg{width:100%;height:auto}rect{fill:#2a78d6}text{fill:currentColor;font-size:10px}";

/// Text that a device or a broker may have written.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if c.is_control() => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A table; every cell is escaped. Columns whose head begins with `#` hold numbers.
fn table(out: &mut String, title: &str, heads: &[&str], rows: &[Vec<String>]) {
    let _ = write!(out, "<section><h2>{}</h2>", Escaped(title));
    if rows.is_empty() {
        out.push_str("<p>none</p></section>");
        return;
    }
    let class = |i: usize| match heads.get(i).is_some_and(|h| h.starts_with('#')) {
        true => " class=n",
        false => "",
    };
    out.push_str("<table><thead><tr>");
    for (i, head) in heads.iter().enumerate() {
        let head = Escaped(head.trim_start_matches('#'));
        let _ = write!(out, "<th scope=col{}>{head}</th>", class(i));
    }
    out.push_str("</tr></thead><tbody>");
    for row in rows {
        out.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            let _ = write!(out, "<td{}>{}</td>", class(i), Escaped(cell));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></section>");
}

pub(super) fn render(r: &Report) -> String {
    let minute = |ts| words::minute(ts, r.timezone);
    let title = format!("nightwatt, {} to {}", minute(r.from), minute(r.to));
    let mut out = format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <title>{0}</title><style>{STYLE}</style></head><body><h1>{0}</h1>\
         <p>Days and times of {1}; nightwatt {2}.</p>",
        Escaped(&title),
        Escaped(r.timezone),
        Escaped(r.version)
    );
    chart(&mut out, r);
    let mut rows: Vec<_> = (r.devices.iter())
        .map(|d| {
            vec![
                d.device.clone(),
                format!("{:.2}", d.energy_wh / 1000.0),
                number(d.peak_w, 0),
                d.readings.to_string(),
                d.gaps.to_string(),
                d.longest_gap_h.to_string(),
                d.missing_h.to_string(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let energy_wh: f64 = r.devices.iter().map(|d| d.energy_wh).sum();
        let readings: i64 = r.devices.iter().map(|d| d.readings).sum();
        let mut all = vec![String::new(); 7];
        all[0] = "all".into();
        all[1] = format!("{:.2}", energy_wh / 1000.0);
        all[3] = readings.to_string();
        rows.push(all);
    }
    let heads = [
        "device",
        "#kWh",
        "#peak W",
        "#readings",
        "#gaps",
        "#longest, h",
        "#silent, h",
    ];
    table(&mut out, "Energy and intake", &heads, &rows);
    let rows: Vec<_> = (r.accuracy.iter())
        .map(|row| {
            vec![
                row.device.as_ref().map_or("all".into(), |d| d.to_string()),
                row.of.horizon_min.to_string(),
                row.of.settled.to_string(),
                format!("{:.2}", row.of.mae_w),
                format!("{:.2}", row.of.smart_mae_w),
                format!("{:.2}", row.of.naive_mae_w),
                skill(row.skill),
                percent(row.of.coverage),
            ]
        })
        .collect();
    let heads = [
        "device",
        "#min ahead",
        "#count",
        "#live",
        "#smart",
        "#naive",
        "#skill",
        "#P10 to P90",
    ];
    table(
        &mut out,
        "Forecasts against persistence: mean absolute error, W",
        &heads,
        &rows,
    );
    let s = &r.night_summary;
    let nights = format!(
        "Nights: {} promoted, {} kept, {} skipped, {} failed",
        s.promoted, s.kept, s.skipped, s.failed
    );
    let rows: Vec<_> = (r.nights.iter())
        .map(|n| {
            vec![
                n.run_id.to_string(),
                minute(n.started),
                n.outcome.map_or("running", RunOutcome::as_str).to_owned(),
                number(n.took_s, 1),
                n.reason.clone().unwrap_or_default(),
            ]
        })
        .collect();
    table(
        &mut out,
        &nights,
        &["#run", "began", "outcome", "#took, s", "why"],
        &rows,
    );
    let rows: Vec<_> = (r.models.iter())
        .map(|life| {
            vec![
                life.version.to_string(),
                minute(life.from),
                life.to.map_or("now".into(), minute),
                life.why.clone(),
            ]
        })
        .collect();
    table(
        &mut out,
        "Models",
        &["#version", "live from", "to", "why"],
        &rows,
    );
    let rows: Vec<_> = (r.quarantine.iter())
        .map(|q| vec![q.count.to_string(), q.reason.clone(), minute(q.last)])
        .collect();
    let title = "Refused messages (counts since they were last forgotten)";
    table(&mut out, title, &["#count", "reason", "last"], &rows);
    let rows: Vec<_> = (r.events.iter())
        .map(|e| vec![e.count.to_string(), e.kind.clone(), minute(e.last)])
        .collect();
    table(&mut out, "Events", &["#count", "event", "last"], &rows);
    let mb = |bytes: f64| format!("{:.1}", bytes / 1e6);
    let d = &r.disk;
    let rows = vec![vec![
        mb(d.database_bytes as f64),
        mb(d.wal_bytes as f64),
        d.grown_bytes.map_or("-".into(), |b| mb(b as f64)),
        d.free_bytes.map_or("-".into(), |b| mb(b as f64)),
    ]];
    table(
        &mut out,
        "Disk, MB",
        &["#database", "#log", "#grown by", "#free"],
        &rows,
    );
    out + "</body></html>\n"
}

/// Energy by day as bars.
fn chart(out: &mut String, r: &Report) {
    const WIDTH: f64 = 720.0;
    const HEIGHT: f64 = 160.0;
    let days = &r.energy_by_day;
    let most = days.iter().map(|d| d.energy_wh).fold(0.0, f64::max);
    if most <= 0.0 {
        return;
    }
    let wide = WIDTH / days.len() as f64;
    let _ = write!(
        out,
        "<section><h2>Energy by day, kWh</h2><svg viewBox=\"0 0 {WIDTH} {}\" role=img \
         aria-label=\"Energy by day, at most {:.2} kWh\">",
        HEIGHT + 14.0,
        most / 1000.0
    );
    for (i, day) in days.iter().enumerate() {
        let high = (HEIGHT - 14.0) * day.energy_wh.max(0.0) / most;
        let _ = write!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{high:.1}\">\
             <title>{}: {:.2} kWh</title></rect>",
            i as f64 * wide,
            HEIGHT - high,
            (wide - 1.0).max(0.5),
            day.day,
            day.energy_wh / 1000.0
        );
    }
    if let (Some(first), Some(last)) = (days.first(), days.last()) {
        let y = HEIGHT + 11.0;
        let _ = write!(
            out,
            "<text x=0 y=10>{:.2}</text><text x=0 y={y}>{}</text>\
             <text x={WIDTH} y={y} text-anchor=end>{}</text>",
            most / 1000.0,
            first.day,
            last.day
        );
    }
    out.push_str("</svg></section>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_text_and_never_markup() {
        let mut out = String::new();
        let wrote = "<script>alert(\"1\")</script>&'\u{1b}".to_owned();
        table(&mut out, "t", &["a"], &[vec![wrote]]);
        assert!(
            out.contains("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;\u{fffd}")
        );
        assert!(!out.contains("<script"));
    }
}
