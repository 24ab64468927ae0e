//! `runs`: the run log with how it went over 30 days, one run in full, and deleting one.

use hyper::Method;

use super::alone::Alone;
use super::{Exit, Failure, Outcome, RunsArgs, RunsVerb, block_on, tables};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::http::client::{self, ClientError};
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
    if args.json.json {
        println!("{}", serde_json::to_string_pretty(&runs)?);
        return Ok(Exit::Done);
    }
    print!("{}", tables::fit(&tables::runs(&runs)));
    let kind = args.kind.as_deref().unwrap_or("training");
    let since = SystemClock.now().plus_ms(-SUMMARY_DAYS * DAY_MS);
    let summary = reader.run_summary(kind, since)?;
    print!("{}", tables::run_summary(kind, SUMMARY_DAYS, &summary));
    Ok(Exit::Done)
}

fn show(config: &Config, run_id: i64, json: bool) -> Outcome {
    let run = Reader::open(&config.store.path)?
        .run(run_id)?
        .ok_or_else(|| Failure(Exit::Failed, Deletion::Unknown.sentence(run_id)))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&run)?);
    } else {
        print!("{}", tables::fit(&tables::run(&run)));
    }
    Ok(Exit::Done)
}

/// The daemon deletes where one runs; else nothing can be going on, and it is done here.
fn delete(config: &Config, run_id: i64) -> Outcome {
    block_on(async {
        let path = format!("/api/ml/runs/{run_id}");
        let answer =
            client::request(&config.http.socket, Method::DELETE, &path, String::new()).await;
        let deletion = match answer {
            Ok(_) => Deletion::Done,
            Err(ClientError::Refused { detail, .. }) => return Err(Failure(Exit::Failed, detail)),
            Err(ClientError::NotRunning { .. }) => {
                let alone = Alone::open(config).await?;
                let deletion = alone.store.delete_run(run_id).await;
                alone.close().await?;
                deletion?
            }
            Err(error) => return Err(error.into()),
        };
        match deletion {
            Deletion::Done => println!("{}", deletion.sentence(run_id)),
            kept => return Err(Failure(Exit::Failed, kept.sentence(run_id))),
        }
        Ok(Exit::Done)
    })
}
