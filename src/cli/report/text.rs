//! A report for the terminal.

use std::fmt::Write as _;

use super::gather::Report;
use crate::cli::tables::{number, percent, skill};
use crate::store::RunOutcome;
use crate::words::{self, clip, count, printable};

pub(super) fn render(r: &Report) -> String {
    let minute = |ts| words::minute(ts, r.timezone);
    let mut out = format!(
        "{} to {} ({}; times of {})\n",
        minute(r.from),
        minute(r.to),
        count(r.days, "day"),
        r.timezone
    );
    devices(&mut out, r);
    accuracy(&mut out, r);
    nights(&mut out, r);
    out += "\nMODELS\n";
    if r.models.is_empty() {
        out += "no version was live: persistence forecasts\n";
    }
    for life in &r.models {
        let _ = writeln!(
            out,
            "version {:<4} {} to {:<16} {}",
            life.version,
            minute(life.from),
            life.to.map_or("now".into(), minute),
            printable(&life.why)
        );
    }
    out += "\nREFUSED (counts since they were last forgotten)\n";
    if r.quarantine.is_empty() {
        out += "nothing\n";
    }
    for q in &r.quarantine {
        let _ = writeln!(
            out,
            "{:>9} {:<22} last {}",
            q.count,
            q.reason,
            minute(q.last)
        );
    }
    out += "\nEVENTS\n";
    if r.events.is_empty() {
        out += "none\n";
    }
    for e in &r.events {
        let _ = writeln!(out, "{:>9} {:<22} last {}", e.count, e.kind, minute(e.last));
    }
    let mb = |bytes: f64| format!("{:.1} MB", bytes / 1e6);
    let d = &r.disk;
    let _ = write!(
        out,
        "\nDISK\n{} database, {} WAL",
        mb(d.database_bytes as f64),
        mb(d.wal_bytes as f64)
    );
    if let Some(grown) = d.grown_bytes {
        let _ = write!(out, ", grown by {}", mb(grown as f64));
    }
    if let Some(free) = d.free_bytes {
        let _ = write!(out, ", {} free", mb(free as f64));
    }
    out + "\n"
}

fn devices(out: &mut String, r: &Report) {
    out.push_str("\nENERGY AND INTAKE\n");
    if r.devices.is_empty() {
        out.push_str("no reading\n");
        return;
    }
    let _ = writeln!(
        out,
        "{:<24} {:>10} {:>8} {:>10} {:>5} {:>8} {:>9}",
        "device", "kWh", "peak W", "readings", "gaps", "longest", "silent"
    );
    for d in &r.devices {
        let _ = writeln!(
            out,
            "{:<24} {:>10.2} {:>8} {:>10} {:>5} {:>8} {:>9}",
            clip(&printable(&d.device), 24),
            d.energy_wh / 1000.0,
            number(d.peak_w, 0),
            d.readings,
            d.gaps,
            format!("{} h", d.longest_gap_h),
            format!("{} h", d.missing_h),
        );
    }
    let energy: f64 = r.devices.iter().map(|d| d.energy_wh).sum();
    let readings: i64 = r.devices.iter().map(|d| d.readings).sum();
    let _ = writeln!(
        out,
        "{:<24} {:>10.2} {:>8} {readings:>10}",
        "all",
        energy / 1000.0,
        ""
    );
}

fn accuracy(out: &mut String, r: &Report) {
    out.push_str("\nFORECASTS AGAINST PERSISTENCE (mean absolute error, W)\n");
    if r.accuracy.is_empty() {
        out.push_str("no forecast has met its actual value\n");
        return;
    }
    let _ = writeln!(
        out,
        "{:<16} {:>9} {:>8} {:>8} {:>8} {:>8} {:>6} {:>7}",
        "device", "min ahead", "count", "live", "smart", "naive", "skill", "P10-P90"
    );
    for row in &r.accuracy {
        let a = &row.of;
        let device = row.device.as_ref().map_or("all".into(), |d| d.to_string());
        let _ = writeln!(
            out,
            "{:<16} {:>9} {:>8} {:>8.2} {:>8.2} {:>8.2} {:>6} {:>7}",
            clip(&printable(&device), 16),
            a.horizon_min,
            a.settled,
            a.mae_w,
            a.smart_mae_w,
            a.naive_mae_w,
            skill(row.skill),
            percent(a.coverage)
        );
    }
}

fn nights(out: &mut String, r: &Report) {
    let s = &r.night_summary;
    let _ = writeln!(
        out,
        "\nNIGHTS\n{} promoted, {} kept, {} skipped, {} failed{}",
        s.promoted,
        s.kept,
        s.skipped,
        s.failed,
        r.night_success
            .map_or(String::new(), |s| format!("; {:.0} % succeeded", s * 100.0))
    );
    for n in &r.nights {
        let outcome = n.outcome.map_or("running", RunOutcome::as_str);
        let took = n.took_s.map_or("-".into(), |s| format!("{s:.1} s"));
        let _ = writeln!(
            out,
            "{:>5} {} {outcome:<8} {took:>8} {}",
            n.run_id,
            words::minute(n.started, r.timezone),
            printable(n.reason.as_deref().unwrap_or(""))
        );
    }
}
