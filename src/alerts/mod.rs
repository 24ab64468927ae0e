//! Alerts: what is wrong becomes one alert that is raised once, told once, and told again when it is over.
//!
//! [`rules`] says what is wrong now (pure, from the findings of `status` and a little more), [`state`]
//! what that changes (pure, with hysteresis), [`deliver`] tells it to webhook and mail server. The rows
//! are in the store; `daemon::alerts` is the task.

pub mod deliver;
pub mod rules;
pub mod state;

use serde::Serialize;

use crate::reading::TimestampMs;
use crate::store::{AlertRow, Notified};

/// What a channel is told; as JSON it is the body of the webhook. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Notice {
    /// `raised`, `cleared` or, for a try, `test`.
    pub state: &'static str,
    /// The station's name at its broker.
    pub station: String,
    /// The alert's number; none while it could not be stored.
    pub id: Option<i64>,
    /// What it is about: a stable word.
    pub kind: String,
    /// Which device; empty for the station.
    pub subject: String,
    /// `attention` or `down`.
    pub level: String,
    /// The sentence.
    pub text: String,
    /// What to do about it.
    pub next_step: Option<String>,
    /// Since when it stands.
    pub raised: String,
    /// When it was over.
    pub cleared: Option<String>,
    /// Of the program.
    pub version: &'static str,
}

impl Notice {
    /// What is to be said of a stored alert.
    pub fn of(row: &AlertRow, what: Notified, station: &str) -> Self {
        Self {
            state: what.as_str(),
            station: station.to_owned(),
            id: (row.id > 0).then_some(row.id),
            kind: row.kind.clone(),
            subject: row.subject.clone(),
            level: row.level.clone(),
            text: row.text.clone(),
            next_step: row.next_step.clone(),
            raised: row.raised.to_string(),
            cleared: (row.cleared)
                .filter(|_| what == Notified::Cleared)
                .map(|t| t.to_string()),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// A try.
    pub fn test(station: &str, now: TimestampMs) -> Self {
        Self {
            state: "test",
            station: station.to_owned(),
            id: None,
            kind: "test".into(),
            subject: String::new(),
            level: "attention".into(),
            text: "this is a test: alerts come through".into(),
            next_step: None,
            raised: now.to_string(),
            cleared: None,
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// One line for people.
    pub fn title(&self) -> String {
        let text = self.text.replace(['\r', '\n'], " ");
        format!("[{}] {}: {text}", self.station, self.state)
    }
}
