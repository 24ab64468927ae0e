//! Tables for people, at most 80 columns wide on a terminal.

use std::fmt::Write as _;
use std::io::IsTerminal;

use chrono_tz::Tz;
use serde::Serialize;

use super::when::times_of;
use super::{Exit, Outcome};
use crate::models::bundle::Kind;
use crate::models::ramp::BrierScore;
use crate::night::NightReport;
use crate::quality::Quality;
use crate::reading::TimestampMs;
use crate::status::wrap;
use crate::store::{ForecastRow, LifeRow, ModelRow, RunOutcome, RunRow, RunSummary};
use crate::trainer::{Contents, Preview, Report};
use crate::words::{clip, count, local, minute, printable};

/// The scores of a night: every forecaster on the same held-back days.
fn night(report: &NightReport) -> String {
    let mut out = String::new();
    if report.scores.is_empty() {
        return out;
    }
    let _ = writeln!(
        out,
        "{} min ahead, {} held back, {} learnt from",
        report.horizon_min,
        count(report.days_held_back, "day"),
        count(report.rows_train, "row")
    );
    let _ = writeln!(
        out,
        "{:<12} {:>9} {:>9} {:>8} {:>8}",
        "", "MAE W", "RMSE W", "R2", "skill"
    );
    for s in &report.scores {
        let r2 = s.daylight.r2.map_or("-".into(), |r| format!("{r:.3}"));
        let skill = s.skill_mae.map_or("-".into(), |k| format!("{k:+.3}"));
        let _ = writeln!(
            out,
            "{:<12} {:>9.2} {:>9.2} {r2:>8} {skill:>8}",
            s.name, s.daylight.mae, s.daylight.rmse
        );
    }
    if let Some(coverage) = report.coverage_p10_p90 {
        let _ = writeln!(
            out,
            "P10 to P90 held {:.0} % of what was measured",
            coverage * 100.0
        );
    }
    let ramp = report.ramp.and_then(|r| Some((r.candidate?, r)));
    if let Some((candidate, ramp)) = ramp {
        let skill =
            |score: BrierScore| score.skill.map_or("unknown".into(), |s| format!("{s:+.3}"));
        let live = ramp
            .live
            .map_or(String::new(), |l| format!(", live {}", skill(l)));
        let _ = writeln!(
            out,
            "Ramp warning: Brier skill {}{live}; a fall followed {:.0} % of {} rows",
            skill(candidate),
            candidate.base_rate * 100.0,
            candidate.rows
        );
    }
    out
}

/// The scores of a run, horizon by horizon.
pub(crate) fn report(nights: &[NightReport]) -> String {
    let nights = nights.iter().map(night).filter(|text| !text.is_empty());
    nights.collect::<Vec<_>>().join("\n")
}

/// Prints `what` as JSON, or as its table.
pub(super) fn print<T: Serialize + ?Sized>(
    json: bool,
    what: &T,
    table: impl FnOnce(&T) -> String,
) -> Outcome {
    if json {
        println!("{}", serde_json::to_string_pretty(what)?);
    } else {
        print!("{}", fit(&table(what), columns()));
    }
    Ok(Exit::Done)
}

/// How wide a table may be: what is piped is never cut.
pub(super) fn columns() -> usize {
    match std::io::stdout().is_terminal() {
        true => 80,
        false => usize::MAX,
    }
}

/// The last of a row's cells, which begins after `indent` columns: to its end, on as many lines as that takes.
pub(super) fn to_the_end(text: &str, indent: usize, columns: usize) -> String {
    let width = columns - indent;
    let mut lines = Vec::new();
    for line in wrap(text, width, usize::MAX) {
        // A path may be longer than a line.
        let letters: Vec<char> = line.chars().collect();
        lines.extend(letters.chunks(width).map(String::from_iter));
    }
    lines.join(&format!("\n{:indent$}", ""))
}

/// Every line cut where the table ends.
fn fit(text: &str, columns: usize) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        out += clip(line, columns).trim_end();
        out.push('\n');
    }
    out
}

/// A sentence to its end, on lines of 80 columns.
pub(super) fn told(text: &str) -> String {
    wrap(text, 80, usize::MAX).join("\n")
}

/// The run log.
pub(crate) fn runs(runs: &[RunRow], zone: Tz, columns: usize) -> String {
    // Where the reason begins.
    const INDENT: usize = 53;
    if runs.is_empty() {
        return "no run yet\n".into();
    }
    let mut out = times_of(zone);
    let _ = writeln!(
        out,
        "{:>5} {:<16} {:<12} {:<8} {:>7} reason",
        "run", "started", "what", "outcome", "took"
    );
    for r in runs {
        let outcome = r.outcome.map_or("running", RunOutcome::as_str);
        let reason = printable(r.reason.as_deref().unwrap_or(""));
        let reason = match r.outcome {
            // In full, on lines of its own where the row has no room.
            Some(RunOutcome::Failed) if reason.chars().count() > columns - INDENT => {
                format!("\n      {}", to_the_end(&reason, 6, columns))
            }
            _ => clip(&reason, columns - INDENT),
        };
        // Of a night it says more why it took place.
        let what = if r.kind == "training" {
            &r.trigger
        } else {
            &r.kind
        };
        let _ = writeln!(
            out,
            "{:>5} {:<16} {:<12} {outcome:<8} {:>7} {reason}",
            r.run_id,
            minute(r.started, zone),
            clip(what, 12),
            took(r)
        );
    }
    out
}

/// How the runs of one kind went.
pub(crate) fn run_summary(kind: &str, days: i64, s: &RunSummary) -> String {
    let Some(success) = s.success() else {
        return format!(
            "{days} days: {} skipped, none other\n",
            count(s.skipped, &format!("{kind} run"))
        );
    };
    let mut out = format!(
        "{days} days: {:.0} % of {} succeeded ({} promoted, {} kept), {} skipped",
        success * 100.0,
        count(s.promoted + s.kept + s.failed, &format!("{kind} run")),
        s.promoted,
        s.kept,
        s.skipped
    );
    if let Some(mean_s) = s.mean_s {
        let _ = write!(out, "\n         {mean_s:.1} s on average");
    }
    out + "\n"
}

fn took(r: &RunRow) -> String {
    r.ended.map_or("-".into(), |ended| {
        format!("{:.1} s", (ended.0 - r.started.0).max(0) as f64 / 1000.0)
    })
}

/// One run with everything it measured.
pub(crate) fn run(r: &RunRow, zone: Tz) -> String {
    let outcome = r.outcome.map_or("running", RunOutcome::as_str);
    let reason = told(r.reason.as_deref().unwrap_or(""));
    let mut out = format!(
        "run {} ({}, {}, {}): {outcome}\n{reason}\n",
        r.run_id, r.kind, r.mode, r.trigger
    );
    let ended = r.ended.map_or("still running".into(), |t| minute(t, zone));
    let _ = writeln!(
        out,
        "{} to {ended} ({zone}), took {}",
        minute(r.started, zone),
        took(r)
    );
    if let Some(nominal) = r.nominal {
        let _ = writeln!(out, "for the night of {}", minute(nominal, zone));
    }
    let Some(report) = &r.report else {
        return out;
    };
    if let Ok(measured) = serde_json::from_value::<Report>(report.clone()) {
        out += &self::report(&measured.horizons);
    }
    if let Some(failure) = report["failure"].as_str() {
        let _ = writeln!(out, "a {} failure", failure.replace('_', " "));
    }
    if let Ok(quality) = serde_json::from_value(report["quality"].clone()) {
        out += &faults(&quality);
    }
    if let Some(stages) = report["stages_ms"].as_object() {
        let stages: Vec<String> = stages.iter().map(|(s, ms)| format!("{s} {ms}")).collect();
        let _ = writeln!(out, "stages, ms: {}", stages.join(", "));
    }
    out
}

/// What a run would do.
pub(crate) fn preview(p: &Preview) -> String {
    let verdict = if p.would_train {
        "would train"
    } else {
        "would not train"
    };
    format!(
        "{}\n{} of {} to learn from, {} new\n{}",
        told(&format!("{verdict}: {}", p.reason)),
        count(p.rows, "reading"),
        count(p.days, "day"),
        count(p.new.days, "day"),
        faults(&p.quality)
    )
}

/// What is wrong with the readings, the first devices by name.
fn faults(q: &Quality) -> String {
    const SHOWN: usize = 8;
    let mut out = format!(
        "new readings: {} of {}, {} with faults\n",
        q.rows,
        count(q.devices, "device"),
        q.faults.len()
    );
    for (device, f) in q.faults.iter().take(SHOWN) {
        let mut words = Vec::new();
        if f.gaps > 0 {
            words.push(format!(
                "{} (up to {} min)",
                count(f.gaps, "gap"),
                f.longest_gap_min
            ));
        }
        for (field, n) in &f.stuck {
            words.push(format!("{} stuck {n}x", field.name()));
        }
        for (what, n) in &f.impossible {
            words.push(format!("{} {n}x", what.replace('_', " ")));
        }
        let words = clip(&words.join(", "), 64);
        let _ = writeln!(out, "  {:<12} {words}", clip(device, 12));
    }
    if q.faults.len() > SHOWN {
        let _ = writeln!(
            out,
            "  and {} more",
            count(q.faults.len() - SHOWN, "device")
        );
    }
    out
}

/// One model with what it scored when it was judged.
pub(crate) fn model(m: &ModelRow, zone: Tz) -> String {
    let mut out = format!(
        "model {}: {}, {} bytes\n{}\n",
        m.version,
        m.state,
        m.size,
        told(&m.reason)
    );
    let _ = writeln!(out, "made {} ({zone})", minute(m.created, zone));
    let contents = serde_json::from_value::<Contents>(m.metrics.clone()).unwrap_or_default();
    for part in &contents.parts {
        let what = match part.kind {
            Kind::Power => "power",
            Kind::Ramp => "ramp warning",
        };
        let _ = writeln!(
            out,
            "holds {what} {} min ahead, made in run {}",
            part.horizon_min, part.run_id
        );
    }
    out + &report(&contents.horizons)
}

/// What was live when.
pub(crate) fn lives(lives: &[LifeRow], zone: Tz, columns: usize) -> String {
    if lives.is_empty() {
        return "no version has been live yet\n".into();
    }
    let mut out = times_of(zone);
    let _ = writeln!(out, "{:>7} {:<17} {:<17} why", "version", "from", "to");
    for l in lives {
        let _ = writeln!(
            out,
            "{:>7} {:<17} {:<17} {}",
            l.version,
            minute(l.from, zone),
            l.to.map_or("now".into(), |t| minute(t, zone)),
            clip(&l.why, columns - 44)
        );
    }
    out
}

/// The models.
pub(crate) fn models(models: &[ModelRow], zone: Tz, columns: usize) -> String {
    if models.is_empty() {
        return "no model yet\n".into();
    }
    let mut out = times_of(zone);
    let _ = writeln!(
        out,
        "{:>7} {:<9} {:<17} {:>8} reason",
        "version", "state", "made", "bytes"
    );
    for m in models {
        let _ = writeln!(
            out,
            "{:>7} {:<9} {:<17} {:>8} {}",
            m.version,
            m.state,
            minute(m.created, zone),
            m.size,
            clip(&m.reason, columns - 45)
        );
    }
    out
}

/// The newest forecasts, with their age.
pub(crate) fn forecasts(rows: &[ForecastRow], now: TimestampMs, zone: Tz) -> String {
    if rows.is_empty() {
        return "no forecast yet\n".into();
    }
    let mut out = times_of(zone);
    let _ = writeln!(
        out,
        "{:<12} {:<11} {:>5} {:>7} {:>7} {:>7} {:>7} {:>5} {:>4} age",
        "device", "for", "ahead", "W", "P10", "P90", "smart", "by", "ramp"
    );
    for f in rows {
        let _ = writeln!(
            out,
            "{:<12} {:<11} {:>5} {:>7.1} {:>7} {:>7} {:>7.1} {:>5} {:>4} {} min",
            clip(&printable(f.device.as_str()), 12),
            local(f.target, zone, "%m-%d %H:%M"),
            f.horizon_min,
            f.power_w,
            number(f.p10_w, 1),
            number(f.p90_w, 1),
            f.smart_w,
            f.source,
            f.ramp_probability
                .map_or("-".into(), |p| format!("{:.0}%", p * 100.0)),
            (now.0 - f.issued.0) / 60_000
        );
    }
    out + "ahead: minutes from the beginning of the slot with the newest reading\n"
}

/// Skill against persistence, where it is known.
pub(crate) fn skill(skill: Option<f64>) -> String {
    skill.map_or("-".into(), |s| format!("{s:+.2}"))
}

/// A share as a percentage, where it is known.
pub(crate) fn percent(share: Option<f64>) -> String {
    share.map_or("-".into(), |s| format!("{:.0} %", s * 100.0))
}

/// A value that may be absent.
pub(crate) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |v| format!("{v:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHY: &str = "the update's file of 9.9.1 cannot be written: No space left on device (os error 28), on \
                       /var/lib/nightwatt/updates/versions/.new/a-name-of-its-own/that-is-longer-than-any-line-of-a-terminal";

    fn failed(outcome: RunOutcome) -> RunRow {
        RunRow {
            run_id: 7,
            kind: "update".into(),
            mode: "apply".into(),
            trigger: "manual".into(),
            nominal: None,
            started: TimestampMs(0),
            ended: Some(TimestampMs(1500)),
            outcome: Some(outcome),
            reason: Some(WHY.into()),
            report: None,
        }
    }

    #[test]
    fn why_a_run_failed_is_told_to_its_end_on_lines_that_fit_a_terminal() {
        let text = runs(&[failed(RunOutcome::Failed)], Tz::UTC, 80);
        let shown = fit(&text, 80);
        assert_eq!(shown.replace('\u{2026}', ""), shown, "nothing is cut");
        let together: String = shown.split_whitespace().collect();
        assert!(together.contains(&WHY.replace(' ', "")), "{shown}");
        assert!(
            shown.lines().all(|line| line.chars().count() <= 80),
            "{shown}"
        );
        let skipped = runs(&[failed(RunOutcome::Skipped)], Tz::UTC, 80);
        assert_eq!(skipped.lines().count(), 3, "a line each: {skipped}");
    }

    #[test]
    fn what_is_piped_is_not_cut_and_has_a_line_for_each_row() {
        for outcome in [RunOutcome::Failed, RunOutcome::Skipped] {
            let shown = fit(&runs(&[failed(outcome)], Tz::UTC, usize::MAX), usize::MAX);
            let last = shown.lines().last().unwrap();
            assert!(
                last.starts_with("    7 1970") && last.ends_with(WHY),
                "{shown}"
            );
        }
    }
}
