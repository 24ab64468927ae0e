//! The page's middle part: accuracy per day, nights, and models.

use super::View;
use super::chart::{self, Bars};
use super::html::{bytes, duration, moment, power, put, signed, watts};
use super::now::{count, maybe_moment};
use crate::models::bundle::Kind;
use crate::status::span;
use crate::store::{ModelRow, RunOutcome};
use crate::trainer::Contents;

/// Fewer than this many bars stand lost in a wide frame.
const FEWEST_BARS: usize = 7;

pub(super) fn accuracy(out: &mut String, view: &View) {
    let s = &view.status;
    put!(
        out,
        "<section class=card id=accuracy data-live aria-labelledby=\"accuracy-t\"><h2 id=\"accuracy-t\">Accuracy per day, against persistence</h2>"
    );
    if view.accuracy.is_empty() {
        put!(
            out,
            "<p class=empty>No forecast has met its actual value yet, so there is no accuracy to show.</p>"
        );
        put!(out, "</section>");
        return;
    }
    put!(
        out,
        "<p class=note>Mean absolute error by daylight{}; lower is better. Skill is 1 \u{2212} live / smart: above zero the station beats smart persistence.</p>",
        view.choice.horizon_min.map_or(String::new(), |h| format!(
            ", forecasts {h} min ahead, all devices"
        ))
    );
    put!(
        out,
        "<ul class=legend aria-hidden=true><li><svg class=key><rect class=live x=1 y=1 width=26 height=10 /></svg>live forecast</li>\
         <li><svg class=key><rect class=smart x=1 y=1 width=26 height=10 /></svg>smart persistence</li>\
         <li><svg class=key><rect class=naive x=1 y=1 width=26 height=10 /></svg>naive persistence</li></ul><div class=\"frame low\">"
    );
    let mut groups: Vec<Bars> = Vec::new();
    for day in &view.accuracy {
        groups.push(Bars {
            text: day.day.format("%-d %b").to_string(),
            heights_w: [
                day.accuracy.mae_w,
                day.accuracy.smart_mae_w,
                day.accuracy.naive_mae_w,
            ]
            .map(Some),
        });
    }
    while groups.len() < FEWEST_BARS {
        groups.push(Bars {
            text: String::new(),
            heights_w: [None; 3],
        });
    }
    let better = view
        .accuracy
        .iter()
        .filter(|d| d.accuracy.mae_w < d.accuracy.smart_mae_w)
        .count();
    let said = format!(
        "On {better} of {} the live forecast had a smaller error than smart persistence.",
        count(view.accuracy.len(), "day")
    );
    chart::bars(out, "mae", &groups, "Mean absolute error per day", &said);
    put!(out, "</div><p class=note>{}</p>", said);
    if !s.accuracy_by_horizon.is_empty() {
        put!(
            out,
            "<div class=scroll role=region aria-label=\"Accuracy of the last 7 days\" tabindex=0><table><caption>Last 7 days, each horizon</caption><thead><tr><th scope=col>Ahead</th><th scope=col class=n>Live</th><th scope=col class=n>Smart</th>\
             <th scope=col class=n>Naive</th><th scope=col class=n>Skill</th><th scope=col class=n>In P10\u{2013}P90</th><th scope=col class=n>Settled</th></tr></thead><tbody>"
        );
        for a in &s.accuracy_by_horizon {
            put!(out, "<tr><th scope=row>{}\u{a0}min</th>", a.horizon_min);
            figures(out, a);
            let coverage = a
                .coverage
                .map_or("\u{2013}".into(), |c| format!("{:.0}\u{a0}%", c * 100.0));
            put!(
                out,
                "<td class=n>{}</td><td class=n>{}</td></tr>",
                coverage,
                a.settled
            );
        }
        put!(out, "</tbody></table></div>");
    }
    put!(
        out,
        "<details id=mae-data><summary>The figures of each day</summary><div class=scroll role=region aria-label=\"Accuracy per day\" tabindex=0><table><caption>Mean absolute error per day</caption><thead><tr><th scope=col>Day</th><th scope=col class=n>Live</th><th scope=col class=n>Smart</th>\
         <th scope=col class=n>Naive</th><th scope=col class=n>Skill</th><th scope=col class=n>Settled</th></tr></thead><tbody>"
    );
    for day in view.accuracy.iter().rev() {
        put!(
            out,
            "<tr><th scope=row><time datetime=\"{}\">{}</time></th>",
            day.day,
            day.day.format("%a %-d %b")
        );
        figures(out, &day.accuracy);
        put!(out, "<td class=n>{}</td></tr>", day.accuracy.settled);
    }
    put!(out, "</tbody></table></div></details></section>");
}

fn figures(out: &mut String, a: &crate::store::LiveAccuracy) {
    for mae in [a.mae_w, a.smart_mae_w, a.naive_mae_w] {
        put!(
            out,
            "<td class=n><data value=\"{}\">{}</data></td>",
            mae,
            format!("{mae:.2}\u{a0}W")
        );
    }
    match a.skill() {
        Some(skill) => put!(
            out,
            "<td class=n><data value=\"{}\">{}</data></td>",
            skill,
            signed(skill)
        ),
        None => put!(out, "<td class=n>\u{2013}</td>"),
    }
}

/// How far the first night is.
fn first_steps(out: &mut String, view: &View) {
    let Some(first) = view.first_night else {
        return;
    };
    let there = match first.days {
        1 => "1 there is".into(),
        n => format!("{n} there are"),
    };
    if first.days >= first.needed {
        put!(
            out,
            " There are {} days of readings, enough for a night to learn from.",
            first.days
        );
        return;
    }
    put!(
        out,
        " Learning begins after {} days of readings; {}. Until then persistence forecasts.",
        first.needed,
        there
    );
    put!(
        out,
        "<progress max=\"{}\" value=\"{}\" aria-label=\"Days of readings\"></progress>",
        first.needed,
        first.days
    );
}

pub(super) fn nights(out: &mut String, view: &View) {
    let s = &view.status;
    put!(
        out,
        "<section class=card id=nights aria-labelledby=\"nights-t\"><div class=head><h2 id=\"nights-t\">Nights</h2>"
    );
    put!(
        out,
        "<button id=retrain hidden data-needs-script>Train now</button>"
    );
    put!(
        out,
        "</div><noscript><p class=note>To train now: <code>nightwatt train</code></p></noscript><div id=nights-data data-live>"
    );
    if view.nights.is_empty() {
        put!(out, "<p class=empty>No night has run yet.</p>");
        put!(out, "</div></section>");
        return;
    }
    let sum = &view.summary;
    put!(out, "<dl class=facts><div><dt>Success, 30 days</dt><dd>");
    match sum.success() {
        Some(share) => put!(
            out,
            "<data value=\"{}\">{}\u{a0}%</data>",
            share,
            format!("{:.0}", share * 100.0)
        ),
        None => put!(out, "<span class=none>no night had anything to do</span>"),
    }
    put!(out, "</dd></div><div><dt>Mean duration</dt><dd>");
    match sum.mean_s {
        Some(mean) => put!(out, "<data value=\"{}\">{}</data>", mean, duration(mean)),
        None => put!(out, "<span class=none>unknown</span>"),
    }
    put!(
        out,
        "</dd></div><div><dt>Outcomes, 30 days</dt><dd>{} promoted, {} kept, {} skipped, {} failed</dd></div></dl>",
        sum.promoted,
        sum.kept,
        sum.skipped,
        sum.failed
    );
    put!(
        out,
        "<table class=stack><caption class=sr>The newest nights</caption><thead><tr><th scope=col>Began</th><th scope=col>Outcome</th><th scope=col class=n>Took</th><th scope=col>Kind</th><th scope=col>Reason</th></tr></thead><tbody>"
    );
    for run in &view.nights {
        put!(out, "<tr><th scope=row>");
        moment(out, run.started, view.zone);
        let (class, sign, word) = outcome(run.outcome);
        put!(
            out,
            "</th><td data-l=Outcome><span class=\"badge {}\"><span aria-hidden=true>{}</span> {}</span></td><td class=n data-l=Took>",
            class,
            sign,
            word
        );
        match run.ended {
            Some(ended) => {
                let seconds = (ended.0 - run.started.0).max(0) as f64 / 1000.0;
                put!(out, "{}", duration(seconds));
            }
            None => put!(out, "{} so far", span((s.now.0 - run.started.0).max(0))),
        }
        put!(
            out,
            "</td><td data-l=Kind>{}, {}</td><td class=why data-l=Reason>{}</td></tr>",
            run.mode,
            run.trigger.replace('_', " "),
            run.reason.as_deref().unwrap_or("\u{2013}")
        );
    }
    put!(out, "</tbody></table></div></section>");
}

fn outcome(outcome: Option<RunOutcome>) -> (&'static str, &'static str, &'static str) {
    match outcome {
        Some(o @ RunOutcome::Promoted) => ("good", "\u{25b2}", o.as_str()),
        Some(o @ (RunOutcome::Kept | RunOutcome::Done)) => ("plain", "=", o.as_str()),
        Some(o @ RunOutcome::Skipped) => ("plain", "\u{2013}", o.as_str()),
        Some(o @ RunOutcome::Failed) => ("bad", "\u{2715}", o.as_str()),
        None => ("plain", "\u{2026}", "going on"),
    }
}

pub(super) fn models(out: &mut String, view: &View) {
    let s = &view.status;
    put!(
        out,
        "<section class=card id=models aria-labelledby=\"models-t\"><div class=head><h2 id=\"models-t\">Models</h2><span id=rollback-place data-live>"
    );
    if let Some(version) = view.back_to {
        put!(
            out,
            "<button id=rollback hidden data-needs-script data-version=\"{}\">Roll back to version {}</button>",
            version,
            version
        );
    }
    put!(out, "</span></div>");
    if let Some(version) = view.back_to {
        put!(
            out,
            "<noscript><p class=note>To go back to version {}: <code>nightwatt models rollback</code></p></noscript>",
            version
        );
    }
    put!(out, "<div id=models-data data-live>");
    if view.models.is_empty() {
        put!(out, "<p class=empty>No model yet.");
        first_steps(out, view);
        put!(out, "</p>");
        put!(out, "</div></section>");
        return;
    }
    let without: Vec<String> = s.by_persistence_min().iter().map(u32::to_string).collect();
    if !without.is_empty() && s.model.is_some() {
        put!(
            out,
            "<p class=note>{} min ahead smart persistence forecasts: no model has beaten it there yet.</p>",
            without.join(", ")
        );
    }
    put!(
        out,
        "<table class=stack><caption class=sr>The newest versions</caption><thead><tr><th scope=col>Version</th><th scope=col>State</th><th scope=col>Made</th><th scope=col>Last live from</th>\
         <th scope=col class=n>Held-back error</th><th scope=col class=n>Size</th><th scope=col>Reason</th></tr></thead><tbody>"
    );
    for model in &view.models {
        let (class, sign) = match model.state.as_str() {
            "live" => ("good", "\u{25cf}"),
            "damaged" => ("bad", "\u{2715}"),
            "candidate" => ("plain", "\u{2026}"),
            _ => ("plain", "\u{2013}"),
        };
        put!(
            out,
            "<tr><th scope=row>{}</th><td data-l=State><span class=\"badge {}\"><span aria-hidden=true>{}</span> {}</span></td><td data-l=Made>",
            model.version,
            class,
            sign,
            model.state
        );
        moment(out, model.created, view.zone);
        put!(out, "</td><td data-l=\"Last live from\">");
        maybe_moment(out, model.promoted, view);
        put!(out, "</td><td class=n data-l=\"Held-back error\">");
        held_back(out, model);
        put!(
            out,
            "</td><td class=n data-l=Size>{}</td><td class=why data-l=Reason>{}</td></tr>",
            bytes(model.size.max(0).cast_unsigned()),
            model.reason
        );
    }
    put!(out, "</tbody></table></div></section>");
}

/// The candidate's error on the held-back days beside smart persistence's, of each horizon.
fn held_back(out: &mut String, model: &ModelRow) {
    let contents: Option<Contents> = serde_json::from_value(model.metrics.clone()).ok();
    let mut any = false;
    for night in contents.iter().flat_map(|c| &c.horizons) {
        let made = contents
            .iter()
            .flat_map(|c| &c.parts)
            .any(|p| p.horizon_min == night.horizon_min && p.kind == Kind::Power);
        let (Some(own), Some(smart)) = (night.score("candidate"), night.score("smart")) else {
            continue;
        };
        let note = if made || model.state != "live" {
            ""
        } else {
            ", not served"
        };
        put!(out, "<div>");
        power(out, Some(own.daylight.mae));
        put!(
            out,
            " <small>+{}\u{a0}min, smart {}{}</small></div>",
            night.horizon_min,
            watts(smart.daylight.mae),
            note
        );
        any = true;
    }
    if !any {
        put!(out, "<span class=none>\u{2013}</span>");
    }
}
