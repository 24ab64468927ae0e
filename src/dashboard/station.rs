//! The page's lower part: intake and quarantine, disk and clock, and the token for changes.

use super::View;
use super::html::{bytes, moment, put};
use super::now::{count, maybe_moment};
use crate::clock::Standing;
use crate::status::{ago, span};
use crate::store::space::DiskLevel;

/// Topics shown.
const TOPICS: usize = 10;

pub(super) fn intake(out: &mut String, view: &View) {
    let s = &view.status;
    put!(
        out,
        "<div class=pair><section class=card id=intake data-live aria-labelledby=\"intake-t\"><h2 id=\"intake-t\">Intake and quarantine</h2><dl class=facts>"
    );
    match &s.daemon {
        Some(d) => {
            let (class, word) = if d.intake.connected {
                ("good", "\u{25cf} connected")
            } else {
                ("bad", "\u{2715} not connected")
            };
            put!(
                out,
                "<div><dt>Broker</dt><dd><code>{}</code> <span class=\"badge {}\">{}</span>",
                d.broker,
                class,
                word
            );
            if let Some(since) = d.intake.since {
                put!(
                    out,
                    " <small>for {}</small>",
                    span((s.now.0 - since.0).max(0))
                );
            }
            if let Some(error) = d.intake.last_error.as_ref().filter(|_| !d.intake.connected) {
                put!(out, " <small>{}</small>", error);
            }
            put!(out, "</dd></div><div><dt>Newest message</dt><dd>");
            match d.intake.last_message {
                Some(at) => put!(out, "{}", ago(s.now, at)),
                None => put!(out, "<span class=none>none since the start</span>"),
            }
            put!(out, "</dd></div>");
            for (name, value) in [
                ("Messages received", d.received),
                ("Stored as new rows", d.rows),
                ("Repeats", d.duplicates),
                ("Refused", d.rejects),
            ] {
                put!(
                    out,
                    "<div><dt>{}</dt><dd><data value=\"{}\">{}</data></dd></div>",
                    name,
                    value,
                    grouped(value)
                );
            }
            put!(
                out,
                "<div><dt>Sessions lost</dt><dd>{}</dd></div>",
                d.intake.sessions_lost
            );
            if d.doubtful_times > 0 {
                put!(
                    out,
                    "<div><dt>Times not believed</dt><dd>{}</dd></div>",
                    grouped(d.doubtful_times)
                );
            }
            put!(
                out,
                "</dl><p class=note>Counted since the start {}.</p>",
                ago(s.now, d.started)
            );
        }
        None => put!(out, "<div><dt>Daemon</dt><dd>not running</dd></div></dl>"),
    }
    if s.store.rejects.is_empty() {
        put!(
            out,
            "<p class=empty>Nothing is in quarantine: every message was understood.</p></section>"
        );
        return;
    }
    put!(
        out,
        "<div class=scroll role=region aria-label=Quarantine tabindex=0><table><caption>Refused messages</caption><thead><tr><th scope=col>Reason</th><th scope=col>Topic</th><th scope=col class=n>Count</th><th scope=col>Last</th></tr></thead><tbody>"
    );
    if s.store.reject_topics.is_empty() {
        for r in &s.store.rejects {
            put!(
                out,
                "<tr><th scope=row>{}</th><td>\u{2013}</td><td class=n>{}</td><td>{}</td></tr>",
                r.reason.replace('_', " "),
                r.count,
                ago(s.now, r.last)
            );
        }
    }
    for t in s.store.reject_topics.iter().take(TOPICS) {
        let topic = if t.topic.is_empty() {
            "others"
        } else {
            &t.topic
        };
        put!(
            out,
            "<tr><th scope=row>{}</th><td class=topic>{}</td><td class=n>{}</td><td>{}</td></tr>",
            t.reason.replace('_', " "),
            topic,
            t.count,
            ago(s.now, t.last)
        );
    }
    put!(out, "</tbody></table></div>");
    if s.store.reject_topics.len() > TOPICS {
        put!(
            out,
            "<p class=note>and {}</p>",
            count(s.store.reject_topics.len() - TOPICS, "more line")
        );
    }
    put!(
        out,
        "<p class=note><code>nightwatt quarantine</code> shows the messages themselves.</p></section>"
    );
}

pub(super) fn station(out: &mut String, view: &View) {
    let s = &view.status;
    put!(
        out,
        "<section class=card id=station data-live aria-labelledby=\"station-t\"><h2 id=\"station-t\">Disk and clock</h2><dl class=facts>"
    );
    let level = s.daemon.as_ref().map_or(DiskLevel::Normal, |d| d.disk);
    let (class, word) = match level {
        DiskLevel::Normal => ("good", "\u{25cf} enough room"),
        DiskLevel::Low => ("bad", "! low"),
        DiskLevel::Full => ("bad", "\u{2715} full"),
    };
    put!(out, "<div><dt>Disk</dt><dd>");
    if let Some(free) = s.disk_free_bytes {
        put!(out, "<data value=\"{}\">{}</data> free ", free, bytes(free));
    }
    put!(
        out,
        "<span class=\"badge {}\">{}</span></dd></div>",
        class,
        word
    );
    if let Some(days) = s.disk_days_left {
        let text = if days >= 366 {
            "more than a year".into()
        } else {
            count(days as usize, "day")
        };
        put!(out, "<div><dt>Room for</dt><dd>{}</dd></div>", text);
    }
    put!(
        out,
        "<div><dt>Database</dt><dd><data value=\"{}\">{}</data> <small>and {} of log</small></dd></div>",
        s.store.database_bytes,
        bytes(s.store.database_bytes),
        bytes(s.store.wal_bytes)
    );
    if let Some(mb) = s.written_mb_per_day {
        put!(
            out,
            "<div><dt>Written a day</dt><dd>{}\u{a0}MB</dd></div>",
            format!("{mb:.1}")
        );
    }
    put!(out, "<div><dt>Readings</dt><dd>");
    match (s.store.oldest, s.store.newest) {
        (Some(oldest), Some(newest)) => {
            moment(out, oldest, view.zone);
            put!(out, " to ");
            moment(out, newest, view.zone);
        }
        _ => put!(out, "<span class=none>none</span>"),
    }
    put!(out, "</dd></div><div><dt>Housekeeping</dt><dd>");
    match &s.housekeeping {
        Some(run) => {
            put!(out, "{} ", run.outcome.map_or("going on", |o| o.as_str()));
            maybe_moment(out, Some(run.started), view);
            if let Some(reason) = &run.reason {
                put!(out, " <small>{}</small>", reason);
            }
        }
        None => put!(out, "<span class=none>none yet</span>"),
    }
    let (class, sign) = match s.clock() {
        Standing::Impossible => ("bad", "\u{2715}"),
        Standing::Doubtful => ("bad", "!"),
        Standing::Believed => ("good", "\u{25cf}"),
    };
    put!(out, "</dd></div><div><dt>Clock</dt><dd>");
    moment(out, s.now, view.zone);
    put!(
        out,
        " <span class=\"badge {}\">{} {}</span></dd></div></dl>",
        class,
        sign,
        s.clock().words()
    );
    if !s.events.is_empty() {
        put!(out, "<h3>What happened last</h3><ul class=events>");
        for event in &s.events {
            put!(out, "<li>");
            moment(out, event.at, view.zone);
            put!(
                out,
                " <b>{}</b> {}</li>",
                event.kind.replace('_', " "),
                event.detail
            );
        }
        put!(out, "</ul>");
    }
    put!(out, "</section></div>");
}

/// Where the token is entered; only the script can use it, so without the script there is none.
pub(super) fn manage(out: &mut String) {
    put!(
        out,
        "<section class=card id=manage hidden data-needs-script aria-labelledby=\"manage-t\"><h2 id=\"manage-t\">Changes</h2>\
         <p class=note id=token-note>Training and rolling back need the station\u{2019}s token. It is kept in this tab only, until the tab is closed.</p>\
         <form id=token-form><label for=token>Token</label><input id=token type=password autocomplete=off spellcheck=false aria-describedby=\"token-note\">\
         <button>Use</button><button type=button id=token-forget>Forget</button></form></section>"
    );
}

/// A count with spaces between thousands.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(c);
    }
    out
}
