//! `models`: the versions, which was live when, and moving them in and out of service.

use hyper::Method;
use serde_json::json;

use super::alone::change;
use super::tables::{self, print};
use super::{Exit, Failure, ModelsArgs, ModelsVerb, Outcome};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::registry::Refusal;
use crate::serving::Service;
use crate::store::Reader;

/// Versions listed: all that are kept, or nearly.
const LISTED: usize = 32;
/// Lives listed.
const LIVES: usize = 100;

pub(super) fn models(config: &Config, args: ModelsArgs) -> Outcome {
    let (json, zone) = (args.json.json, config.site.zone());
    let reader = || Reader::open(&config.store.path);
    match args.verb.unwrap_or(ModelsVerb::List) {
        ModelsVerb::List => print(json, &reader()?.models(LISTED)?, |m| {
            tables::models(m, zone, tables::columns())
        }),
        ModelsVerb::History => print(json, &reader()?.model_lives(LIVES)?, |l| {
            tables::lives(l, zone, tables::columns())
        }),
        ModelsVerb::Show { version } => {
            let model = reader()?
                .model(version)?
                .ok_or(Refusal::Unknown { version })?;
            print(json, &model, |m| tables::model(m, zone))
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

/// Has the daemon move a version into service, or where none runs, moves it here.
fn bring(config: &Config, version: Option<i64>, json: bool) -> Outcome {
    let path = match version {
        Some(version) => format!("/api/ml/models/{version}/promote"),
        None => "/api/ml/models/rollback".to_owned(),
    };
    let answer = change(config, Method::POST, &path, async |store| {
        let service = Service {
            config,
            store,
            clock: &SystemClock,
        };
        let version = service.bring(version).await?;
        Ok(json!({ "version": version }))
    })?;
    let version = &answer["version"];
    match json {
        true => println!("{}", json!({ "version": version })),
        false => println!("version {version} is live"),
    }
    Ok(Exit::Done)
}
