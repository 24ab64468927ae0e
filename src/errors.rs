//! An error with its causes in one line, and the newest errors of this process for the error reports.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::reading::TimestampMs;

/// Error reports that are kept.
pub const MOST_REPORTS: usize = 50;
/// A report's text ends here.
const TEXT_CHARS: usize = 500;
/// What [`crate::rate::log_line`] adds: no part of what happened.
const COUNTED: &str = " more since the last such line)";

/// Something that went wrong, once or over and over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// Where: a stable word, for example `intake`.
    pub stage: String,
    /// `warn` or `error`.
    pub level: String,
    /// What, and the causes after it, each after a colon.
    pub text: String,
    /// How often.
    pub times: i64,
    /// The first time.
    pub first: TimestampMs,
    /// The last time.
    pub last: TimestampMs,
}

static UNKEPT: Mutex<Vec<ErrorReport>> = Mutex::new(Vec::new());

fn unkept() -> MutexGuard<'static, Vec<ErrorReport>> {
    UNKEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The stage that a part of the program belongs to; none for other people's.
pub fn stage(module: &str) -> Option<&'static str> {
    let path = module.strip_prefix("nightwatt::")?;
    // The first that fits.
    const STAGES: &[(&str, &str)] = &[
        ("mqtt::publish", "publishing"),
        ("mqtt::discovery", "publishing"),
        ("mqtt", "intake"),
        ("store", "store"),
        ("daemon::nights", "training"),
        ("daemon::forecasts", "forecast"),
        ("daemon::housekeeping", "housekeeping"),
        ("daemon::alerts", "alerts"),
        ("daemon::home_assistant", "publishing"),
        ("trainer", "training"),
        ("serving", "forecast"),
        ("alerts", "alerts"),
        ("http", "http"),
        ("update", "update"),
    ];
    let found = STAGES.iter().find(|(begin, _)| path.starts_with(begin));
    Some(found.map_or("daemon", |(_, stage)| stage))
}

/// Notes what went wrong until [`take`] fetches it; a repeat only counts, and of a flood the newest stay.
pub fn note(stage: &str, level: &str, text: String, at: TimestampMs) {
    note_in(&mut unkept(), stage, level, text, at);
}

fn note_in(
    reports: &mut Vec<ErrorReport>,
    stage: &str,
    level: &str,
    text: String,
    at: TimestampMs,
) {
    let counted = text.strip_suffix(COUNTED).and_then(|t| t.rfind(" ("));
    let text: String = text[..counted.unwrap_or(text.len())]
        .chars()
        .take(TEXT_CHARS)
        .collect();
    if let Some(same) = (reports.iter_mut()).find(|r| r.stage == stage && r.text == text) {
        same.times += 1;
        same.last = at;
        return;
    }
    if reports.len() == MOST_REPORTS {
        reports.remove(0);
    }
    reports.push(ErrorReport {
        stage: stage.to_owned(),
        level: level.to_owned(),
        text,
        times: 1,
        first: at,
        last: at,
    });
}

/// What was noted since the last time.
pub fn take() -> Vec<ErrorReport> {
    std::mem::take(&mut unkept())
}

/// Puts back what could not be kept, unless as much has been noted meanwhile.
pub fn put_back(mut reports: Vec<ErrorReport>) {
    let mut now = unkept();
    reports.append(&mut now);
    let beyond = reports.len().saturating_sub(MOST_REPORTS);
    reports.drain(..beyond);
    *now = reports;
}

/// The error and what caused it, each said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    causes(error).join(": ")
}

/// [`chain`], each cause for itself.
pub fn causes(error: &dyn std::error::Error) -> Vec<String> {
    let mut said = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(c) = cause {
        let next = c.to_string();
        // Many libraries repeat their cause in their own message.
        if !said.iter().any(|s| s.contains(&next)) {
            said.push(next);
        }
        cause = c.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn causes_follow_and_are_not_repeated() {
        let error = Layer(
            "a",
            Some(Box::new(Layer("b", Some(Box::new(Layer("b", None)))))),
        );
        assert_eq!(chain(&error), "a: b");
    }

    #[test]
    fn a_repeat_only_counts_and_the_newest_fifty_stay() {
        let mut reports = Vec::new();
        let mut note = |text: &str, ms| {
            note_in(
                &mut reports,
                "intake",
                "warn",
                text.to_owned(),
                TimestampMs(ms),
            )
        };
        note("gone", 1);
        note("gone (59 more since the last such line)", 2);
        for i in 0..50 {
            note(&format!("n{i}"), 3);
        }
        note("n1", 9);
        assert_eq!(reports.len(), MOST_REPORTS);
        assert_eq!(reports[0].text, "n0", "the oldest went");
        assert_eq!((reports[1].times, reports[1].last.0), (2, 9));
        let mut reports = Vec::new();
        for ms in [1, 2] {
            let text = "gone (59 more since the last such line)".to_owned();
            note_in(&mut reports, "intake", "warn", text, TimestampMs(ms));
        }
        assert_eq!((reports[0].text.as_str(), reports[0].times), ("gone", 2));
    }

    #[test]
    fn a_stage_is_a_word_for_a_part_of_ours() {
        assert_eq!(stage("nightwatt::mqtt::intake"), Some("intake"));
        assert_eq!(stage("nightwatt::mqtt::publish"), Some("publishing"));
        assert_eq!(stage("nightwatt::store::writer"), Some("store"));
        assert_eq!(stage("nightwatt::clock"), Some("daemon"));
        assert_eq!(stage("rustls::client"), None);
    }
}
