//! Reads the same answers as the routes from the database, where no daemon runs.

use axum::extract::Query;
use axum::http::Uri;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::Problem;
use super::{devices, forecasts, history};
use crate::config::Config;
use crate::reading::TimestampMs;
use crate::store::Reader;

/// What `GET path` would answer; the error is the sentence for people.
pub fn answer(config: &Config, now: TimestampMs, path: &str) -> Result<Value, String> {
    look(config, now, path).map_err(Problem::detail)
}

fn look(config: &Config, now: TimestampMs, path: &str) -> Result<Value, Problem> {
    let uri: Uri = path
        .parse()
        .map_err(|e| Problem::wrong(format!("{path}: {e}")))?;
    let reader = Reader::open(&config.store.path)?;
    let parts: Vec<&str> = uri.path().split('/').collect();
    let name = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
    match parts[..] {
        ["", "api", "devices"] => devices::list(&reader),
        ["", "api", "devices", id, "readings"] => {
            devices::series(now, &reader, &name(id), &query(&uri)?)
        }
        ["", "api", "devices", id, "forecast"] => {
            forecasts::answer(config, now, &reader, Some(name(id)), query(&uri)?)
        }
        ["", "api", "forecast"] => forecasts::answer(config, now, &reader, None, query(&uri)?),
        ["", "api", "accuracy"] => history::by_day(config, now, &reader, &query(&uri)?),
        ["", "api", "events"] => history::events_page(&reader, &query(&uri)?),
        _ => Err(Problem::unknown(format!("{path} takes a daemon"))),
    }
}

fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let parsed = Query::try_from_uri(uri);
    parsed
        .map(|Query(asked)| asked)
        .map_err(|e| Problem::wrong(e.body_text()))
}
