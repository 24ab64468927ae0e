//! `models`: the versions, which was live when, and moving them in and out of service.

use hyper::Method;
use serde::Serialize;

use super::alone::Alone;
use super::{Exit, Failure, ModelsArgs, ModelsVerb, Outcome, block_on, tables};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::http::client::{self, ClientError};
use crate::registry::Refusal;
use crate::serving::Service;
use crate::store::Reader;

/// Versions listed: all that are kept, or nearly.
const LISTED: usize = 32;
/// Lives listed.
const LIVES: usize = 100;

pub(super) fn models(config: &Config, args: ModelsArgs) -> Outcome {
    let json = args.json.json;
    let reader = || Reader::open(&config.store.path);
    match args.verb.unwrap_or(ModelsVerb::List) {
        ModelsVerb::List => print(json, &reader()?.models(LISTED)?, |m| tables::models(m)),
        ModelsVerb::History => print(json, &reader()?.model_lives(LIVES)?, |l| tables::lives(l)),
        ModelsVerb::Show { version } => {
            let model = reader()?
                .model(version)?
                .ok_or(Refusal::Unknown { version })?;
            print(json, &model, tables::model)
        }
        ModelsVerb::Promote { version } => bring(config, Some(version), json),
        ModelsVerb::Rollback => bring(config, None, json),
        ModelsVerb::Export { version, file } => {
            let bytes = reader()?
                .model_bytes(version)?
                .ok_or(Refusal::Unknown { version })?;
            let file = file.unwrap_or_else(|| format!("nightwatt-model-{version}.bin").into());
            std::fs::write(&file, &bytes).map_err(|e| {
                Failure(
                    Exit::Failed,
                    format!("cannot write {}: {e}", file.display()),
                )
            })?;
            println!("{} bytes in {}", bytes.len(), file.display());
            Ok(Exit::Done)
        }
    }
}

fn print<T: Serialize>(json: bool, what: &T, table: impl Fn(&T) -> String) -> Outcome {
    if json {
        println!("{}", serde_json::to_string_pretty(what)?);
    } else {
        print!("{}", tables::fit(&table(what)));
    }
    Ok(Exit::Done)
}

/// Has the daemon move a version into service, or where none runs, moves it here.
fn bring(config: &Config, version: Option<i64>, json: bool) -> Outcome {
    let path = match version {
        Some(version) => format!("/api/ml/models/{version}/promote"),
        None => "/api/ml/models/rollback".to_owned(),
    };
    let version = block_on(async {
        let socket = &config.http.socket;
        match client::request(socket, Method::POST, &path, String::new()).await {
            Ok(answer) => Ok(answer["version"].as_i64()),
            // The sentence is the daemon's; which path refused it says nothing to a person.
            Err(ClientError::Refused { detail, .. }) => Err(Failure(Exit::Failed, detail)),
            Err(ClientError::NotRunning { .. }) => {
                let alone = Alone::open(config).await?;
                let service = Service {
                    config,
                    store: &alone.store,
                    clock: &SystemClock,
                };
                let outcome = service.bring(version).await;
                alone.close().await?;
                Ok(Some(outcome?))
            }
            Err(error) => Err(error.into()),
        }
    })?;
    if json {
        println!("{}", serde_json::json!({ "version": version }));
    } else if let Some(version) = version {
        println!("version {version} is live");
    }
    Ok(Exit::Done)
}
