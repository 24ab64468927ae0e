//! `runs`: the run log with how it went over 30 days, one run in full, and deleting one.

use hyper::Method;
use serde_json::Value;

use super::alone::change;
use super::tables::{self, print};
use super::{Exit, Failure, Outcome, RunsArgs, RunsVerb};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::store::{Deletion, Reader};

const SUMMARY_DAYS: i64 = 30;
const DAY_MS: i64 = 86_400_000;

pub(super) fn runs(config: &Config, args: RunsArgs) -> Outcome {
    match args.verb {
        Some(RunsVerb::Show { run_id }) => show(config, run_id, args.json.json),
        Some(RunsVerb::Delete { run_id }) => delete(config, run_id),
        None => list(config, &args),
    }
}

fn list(config: &Config, args: &RunsArgs) -> Outcome {
    let reader = Reader::open(&config.store.path)?;
    let runs = reader.runs(args.kind.as_deref(), args.limit)?;
    let kind = args.kind.as_deref().unwrap_or("training");
    let since = SystemClock.now().plus_ms(-SUMMARY_DAYS * DAY_MS);
    let summary = reader.run_summary(kind, since)?;
    print(args.json.json, &runs, |runs| {
        tables::runs(runs, config.site.zone(), tables::columns())
            + &tables::run_summary(kind, SUMMARY_DAYS, &summary)
    })
}

fn show(config: &Config, run_id: i64, json: bool) -> Outcome {
    let run = Reader::open(&config.store.path)?
        .run(run_id)?
        .ok_or_else(|| Failure(Exit::Failed, Deletion::Unknown.sentence(run_id)))?;
    print(json, &run, |run| tables::run(run, config.site.zone()))
}

/// Where no daemon runs, nothing can be going on.
fn delete(config: &Config, run_id: i64) -> Outcome {
    let path = format!("/api/ml/runs/{run_id}");
    change(config, Method::DELETE, &path, async |store| {
        match store.delete_run(run_id).await? {
            Deletion::Done => Ok(Value::Null),
            kept => Err(Failure(Exit::Failed, kept.sentence(run_id))),
        }
    })?;
    println!("{}", Deletion::Done.sentence(run_id));
    Ok(Exit::Done)
}
