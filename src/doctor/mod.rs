//! What may be wrong with a station before or while it runs: facts in, one finding a check out.

mod checks;
mod facts;

use std::fmt::Write as _;

use serde::Serialize;

use crate::status::wrap;
use crate::words::count;

pub use checks::{CHECKS, problem};
pub use facts::{Access, Broker, Database, Disk, Env, Told, file_system_of};

const COLUMNS: usize = 80;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// It works, and could be better or could not be looked at.
    Warning,
    /// It does not work or loses data.
    Problem,
}

/// What one check came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: a stable word.
    pub check: &'static str,
    /// How it is.
    pub grade: Grade,
    /// The sentence.
    pub text: String,
    /// What to do.
    pub advice: Option<String>,
}

/// Runs every check.
pub fn examine(env: &Env) -> Vec<Finding> {
    CHECKS.iter().map(|check| check(env)).collect()
}

/// Runs every check that a configuration which is not valid leaves: the places in it are known.
pub fn examine_places(env: &Env, why: &str) -> Vec<Finding> {
    let advice = "correct it; config/nightwatt.toml is the complete reference";
    let mut findings = examine(env);
    findings.retain(|f| !["configuration", "password"].contains(&f.check));
    findings.insert(0, problem("configuration", why, advice));
    findings
}

/// The findings for people, at most 80 columns wide but for words that are longer.
pub fn render(findings: &[Finding]) -> String {
    let mut out = String::new();
    for f in findings {
        let grade = match f.grade {
            Grade::Ok => "ok",
            Grade::Warning => "warning",
            Grade::Problem => "PROBLEM",
        };
        sentence(&mut out, &format!("{grade:<8} {:<14} ", f.check), &f.text);
        if let Some(advice) = &f.advice {
            sentence(&mut out, &format!("{:24}", ""), &format!("-> {advice}"));
        }
    }
    let of = |grade| findings.iter().filter(|f| f.grade == grade).count();
    let _ = writeln!(
        out,
        "\n{}, {}",
        count(of(Grade::Problem), "problem"),
        count(of(Grade::Warning), "warning")
    );
    out
}

/// Writes `text` behind `head`, further lines as far in as the first.
fn sentence(out: &mut String, head: &str, text: &str) {
    let inset = head.chars().count();
    for (i, line) in wrap(text, COLUMNS - inset, usize::MAX).iter().enumerate() {
        let _ = writeln!(out, "{:inset$}{line}", if i == 0 { head } else { "" });
    }
}

#[cfg(test)]
mod tests;
