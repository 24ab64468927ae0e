//! What is and what was: status, accuracy by day, refused messages, events; and the store's chores on request.

use axum::Json;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::problem::Problem;
use super::routes::{App, ask, blocking};
use crate::accuracy;
use crate::config::Config;
use crate::errors::chain;
use crate::reading::TimestampMs;
use crate::status::Status;
use crate::store::Reader;
use crate::update::{Ask, Report};

/// Days of accuracy at most: what a year's table takes to count would hold everything else up.
const MOST_DAYS: u32 = 92;
/// Lines a list may have.
pub(super) const MOST_LINES: usize = 1000;

pub(super) async fn status(State(station): State<App>) -> Result<Json<Status>, Problem> {
    blocking(move || station.status().map(Json).map_err(Problem::broken)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Accuracy {
    days: Option<u32>,
}

pub(super) async fn accuracy(
    State(station): State<App>,
    Query(asked): Query<Accuracy>,
) -> Result<Json<Value>, Problem> {
    ask(&station, move |station, reader| {
        by_day(station.config(), station.now(), reader, &asked).map(Json)
    })
    .await
}

/// The answer to [`accuracy`].
pub(super) fn by_day(
    config: &Config,
    now: TimestampMs,
    reader: &Reader,
    asked: &Accuracy,
) -> Result<Value, Problem> {
    let days = asked.days.unwrap_or(7);
    if !(1..=MOST_DAYS).contains(&days) {
        return Err(Problem::wrong(format!(
            "days = {days}: accepted are 1 … {MOST_DAYS}"
        )));
    }
    let zone = config.site.zone();
    let rows = accuracy::by_day(reader, zone, now, days)?;
    Ok(json!({ "days": days, "timezone": zone, "accuracy": rows }))
}

/// Which part of a list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    limit: Option<usize>,
    #[serde(default)]
    skip: usize,
}

/// The limit, where it is one.
pub(super) fn lines(limit: Option<usize>) -> Result<usize, Problem> {
    let limit = limit.unwrap_or(50);
    if !(1..=MOST_LINES).contains(&limit) {
        return Err(Problem::wrong(format!(
            "limit = {limit}: accepted are 1 … {MOST_LINES}"
        )));
    }
    Ok(limit)
}

/// How many are passed over, as SQL can count.
pub(super) fn passed_over(skip: usize) -> Result<usize, Problem> {
    match u32::try_from(skip) {
        Ok(_) => Ok(skip),
        Err(_) => Err(Problem::wrong(format!(
            "skip = {skip}: accepted are 0 … {}",
            u32::MAX
        ))),
    }
}

pub(super) async fn events(
    State(station): State<App>,
    Query(part): Query<Part>,
) -> Result<Json<Value>, Problem> {
    ask(&station, move |_, reader| {
        events_page(reader, &part).map(Json)
    })
    .await
}

/// The answer to [`events`].
pub(super) fn events_page(reader: &Reader, part: &Part) -> Result<Value, Problem> {
    let (limit, skip) = (lines(part.limit)?, passed_over(part.skip)?);
    let events = reader.events_page(limit, skip)?;
    Ok(json!({ "limit": limit, "skip": skip, "events": events }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refused {
    reason: Option<String>,
    topic: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn quarantine(
    State(station): State<App>,
    Query(asked): Query<Refused>,
) -> Result<Json<Value>, Problem> {
    let limit = lines(asked.limit)?;
    ask(&station, move |_, reader| {
        let (reason, topic) = (asked.reason.as_deref(), asked.topic.as_deref());
        let messages = reader.quarantine(reason, topic, limit)?;
        let messages: Vec<Value> = messages
            .iter()
            .map(|m| {
                json!({
                    "id": m.id,
                    "at": m.at,
                    "topic": m.topic,
                    "reason": m.reason,
                    "payload": String::from_utf8_lossy(&m.payload),
                })
            })
            .collect();
        let totals = reader.totals()?;
        Ok(Json(json!({
            "counts": totals.rejects,
            "topics": totals.reject_topics,
            "messages": messages,
        })))
    })
    .await
}

pub(super) async fn clear_quarantine(State(station): State<App>) -> Result<Json<Value>, Problem> {
    let clear = move || station.clear_quarantine().map_err(Problem::broken);
    let cleared = blocking(clear).await?;
    Ok(Json(json!({ "cleared": cleared })))
}

pub(super) async fn update(
    State(station): State<App>,
    Json(ask): Json<Ask>,
) -> Result<Json<Report>, Problem> {
    let done = station.update(ask).await;
    done.map(Json).map_err(|error| match error.is_misuse() {
        true => Problem::wrong(chain(&error)),
        false => Problem::conflict(chain(&error)),
    })
}

pub(super) async fn snapshot(State(station): State<App>) -> Result<Json<Value>, Problem> {
    let take = move || station.snapshot().map_err(Problem::broken);
    Ok(Json(json!(blocking(take).await?)))
}
