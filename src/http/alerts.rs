//! What is wrong and who knows of it, and what went wrong lately.

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::history::lines;
use super::problem::Problem;
use super::routes::{App, ask};
use crate::errors::{MOST_REPORTS, chain};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    #[serde(default)]
    all: bool,
    limit: Option<usize>,
}

pub(super) async fn alerts(
    State(station): State<App>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    let limit = lines(asked.limit)?;
    ask(&station, move |_, reader| {
        let mut alerts = reader.alerts(!asked.all, limit)?;
        alerts.truncate(limit);
        Ok(Json(json!({ "alerts": alerts })))
    })
    .await
}

pub(super) async fn errors(State(station): State<App>) -> Result<Json<Value>, Problem> {
    ask(&station, |_, reader| {
        Ok(Json(json!({ "errors": reader.errors(MOST_REPORTS)? })))
    })
    .await
}

pub(super) async fn acknowledge(
    State(station): State<App>,
    Path(which): Path<String>,
) -> Result<Json<Value>, Problem> {
    let id = match which.as_str() {
        "all" => None,
        number => Some(number.parse().map_err(|_| {
            Problem::wrong("an alert has a number; \"all\" is every one that stands")
        })?),
    };
    if let Some(id) = id {
        let known = ask(&station, move |_, reader| Ok(reader.alert(id)?.is_some())).await?;
        if !known {
            return Err(Problem::unknown(format!("there is no alert {id}")));
        }
    }
    let acknowledged = station.store().acknowledge_alerts(id, station.now()).await;
    let acknowledged = acknowledged.map_err(|e| Problem::broken(chain(&e)))?;
    Ok(Json(json!({ "acknowledged": acknowledged })))
}
