//! What is asked of an update, what comes of it, and what is here.

use serde::{Deserialize, Serialize};

use super::layout::Rejection;
use super::manifest::{Allowed, Manifest};
use super::switch::Trial;

/// How far to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Look and judge.
    #[default]
    Check,
    /// Also bring it here.
    Fetch,
    /// Also start its trial.
    Apply,
    /// Back to the version before.
    Rollback,
}

impl Verb {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Check => "check",
            Verb::Fetch => "fetch",
            Verb::Apply => "apply",
            Verb::Rollback => "rollback",
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// How far to go.
    pub verb: Verb,
    /// From where instead of the configured source.
    #[serde(default)]
    pub source: Option<String>,
    /// What a person has allowed.
    #[serde(default)]
    pub allowed: Allowed,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// What is offered is in force.
    UpToDate,
    /// Something newer is offered.
    Available,
    /// Something newer is offered and not for now.
    Waiting,
    /// What is offered is not taken.
    Refused,
    /// It is here.
    Fetched,
    /// Its trial begins with the next launch.
    Trial,
    /// The version before is in force.
    RolledBack,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// Of what is offered, or in force again; none for the factory binary.
    pub sequence: Option<u64>,
    /// The same for people.
    pub version: Option<String>,
    /// Why it was refused, in a stable word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// One sentence.
    pub text: String,
}

/// What is here, for `update status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Here {
    /// Whether anything is looked for by itself.
    pub enabled: bool,
    /// The version of the factory binary.
    pub factory_version: String,
    /// The sequence in force; none for the factory binary.
    pub sequence: Option<u64>,
    /// The version in force.
    pub version: String,
    /// The committed one before.
    pub previous: Option<u64>,
    /// What is being tried.
    pub trial: Option<Trial>,
    /// What was given up.
    pub rejected: Vec<Rejection>,
    /// The highest sequence ever committed: nothing older under its key is taken.
    #[serde(default)]
    pub floor: Option<u64>,
    /// Every version that has a folder.
    pub held: Vec<u64>,
    /// For how long nothing newly signed has come, days, where that is too long.
    pub frozen_days: Option<i64>,
    /// What was found wrong with committed versions.
    pub damaged: Vec<String>,
}

impl Report {
    /// What is offered is not taken, for this reason.
    pub(super) fn refused(reason: &str, m: Option<&Manifest>, text: String) -> Self {
        Self {
            outcome: Outcome::Refused,
            sequence: m.map(|m| m.sequence),
            version: m.map(|m| m.version.to_string()),
            reason: Some(reason.into()),
            text,
        }
    }
}
