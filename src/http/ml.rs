//! Training and models: asking for runs, the run log, versions.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::devices::number_of;
use super::history::{lines, passed_over};
use super::problem::Problem;
use super::routes::{App, ask, blocking};
use crate::night::Mode;
use crate::reading::{DeviceId, TimestampMs};
use crate::store::{Deletion, Reader, RunFilter, RunOutcome};
use crate::trainer::{Asked, narrow_days};

/// How long it may take from the request to the run's row in the log.
const BEGIN: std::time::Duration = std::time::Duration::from_secs(5);
const MONTH_MS: i64 = 30 * 86_400_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Retrain {
    mode: Option<Mode>,
    #[serde(default)]
    force: bool,
    days: Option<u32>,
    device: Option<String>,
    #[serde(default)]
    background: bool,
}

pub(super) async fn retrain(
    State(station): State<App>,
    Query(retrain): Query<Retrain>,
) -> Result<Response, Problem> {
    let background = retrain.background;
    let (asked, usual_ms) = ask(&station, move |station, reader| {
        if let Some(days) = retrain.days {
            let (least, most) = narrow_days(station.config());
            if !(least..=most).contains(&days) {
                let detail = format!("days = {days}: accepted are {least} … {most}");
                return Err(Problem::wrong(detail));
            }
        }
        let device = retrain.device.as_deref();
        device.map(|d| number_of(reader, d)).transpose()?;
        let asked = Asked {
            mode: retrain.mode,
            force: retrain.force,
            days: retrain.days,
            device: device.map(DeviceId::new),
        };
        let mode = asked.mode.unwrap_or(station.config().training.mode);
        let usual_ms = reader.usual_run_ms(asked.kind(), &mode.to_string())?;
        Ok((asked, usual_ms))
    })
    .await?;
    let busy = station.training().running;
    let Some(mut ticket) = station.retrain(asked) else {
        return Err(Problem::conflict(
            "one run is queued already; it begins when the present one ends",
        ));
    };
    if !background {
        let Some(run_id) = ticket.ended().await else {
            let detail = "the station stopped before the run had ended";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
        };
        return Ok(run(State(station), Path(run_id)).await?.into_response());
    }
    let run_id = if busy {
        None
    } else {
        tokio::time::timeout(BEGIN, ticket.begun())
            .await
            .ok()
            .flatten()
    };
    // A queued one begins at a time that nobody knows.
    let end = run_id.and(usual_ms).map(|ms| station.now().plus_ms(ms));
    let answer = json!({
        "state": if run_id.is_some() { "running" } else { "queued" },
        "run_id": run_id,
        "estimated_duration_s": usual_ms.map(|ms| ms as f64 / 1000.0),
        "estimated_completion": end,
    });
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

pub(super) async fn status(State(station): State<App>) -> Result<Json<Value>, Problem> {
    ask(&station, |station, reader| {
        let training = station.training();
        let last = reader.last_run("training")?;
        let newest = reader.runs(None, 5)?;
        let running = newest
            .into_iter()
            .find(|r| r.outcome.is_none() && training.running && r.learns());
        let end = match &running {
            None => None,
            Some(run) => reader
                .usual_run_ms(&run.kind, &run.mode)?
                .map(|ms| run.started.plus_ms(ms)),
        };
        let now = station.now();
        let config = &station.config().training;
        Ok(Json(json!({
            "running": running,
            "estimated_completion": end,
            "queued": training.queued,
            "enabled": config.enabled,
            "next_night": training.next_night,
            "last": last,
            "record": reader.night_record(now)?,
            "summary_30_days": summary(reader, now)?,
            "live_version": reader.live_version()?,
            "horizons_min": config.horizon_min.iter().collect::<Vec<_>>(),
        })))
    })
    .await
}

fn summary(reader: &Reader, now: TimestampMs) -> Result<Value, Problem> {
    let summary = reader.run_summary("training", now.plus_ms(-MONTH_MS))?;
    let mut value = json!(summary);
    value["success"] = json!(summary.success());
    Ok(value)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Runs {
    kind: Option<String>,
    outcome: Option<RunOutcome>,
    limit: Option<usize>,
    #[serde(default)]
    skip: usize,
}

pub(super) async fn runs(
    State(station): State<App>,
    Query(asked): Query<Runs>,
) -> Result<Json<Value>, Problem> {
    let (limit, skip) = (lines(asked.limit)?, passed_over(asked.skip)?);
    ask(&station, move |_, reader| {
        let runs = reader.runs_page(&RunFilter {
            kind: asked.kind.as_deref(),
            outcome: asked.outcome,
            limit,
            skip,
        })?;
        Ok(Json(json!({ "limit": limit, "skip": skip, "runs": runs })))
    })
    .await
}

pub(super) async fn run(
    State(station): State<App>,
    Path(run_id): Path<i64>,
) -> Result<Json<Value>, Problem> {
    ask(&station, move |_, reader| {
        let found = reader.run(run_id)?;
        let run = found.ok_or_else(|| Problem::unknown(Deletion::Unknown.sentence(run_id)))?;
        Ok(Json(json!(run)))
    })
    .await
}

pub(super) async fn delete_run(
    State(station): State<App>,
    Path(run_id): Path<i64>,
) -> Result<Json<Value>, Problem> {
    let delete = move || station.delete_run(run_id).map_err(Problem::broken);
    match blocking(delete).await? {
        Deletion::Done => Ok(Json(json!({ "deleted": run_id }))),
        kept @ Deletion::Unknown => Err(Problem::unknown(kept.sentence(run_id))),
        kept => Err(Problem::conflict(kept.sentence(run_id))),
    }
}

pub(super) async fn current(State(station): State<App>) -> Result<Json<Value>, Problem> {
    ask(&station, |_, reader| {
        let live = reader.live_model_row()?;
        let live = live.ok_or_else(|| {
            Problem::unknown("no model is live: none has beaten persistence yet, which forecasts")
        })?;
        Ok(Json(json!(live)))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Newest {
    limit: Option<usize>,
}

pub(super) async fn models(
    State(station): State<App>,
    Query(asked): Query<Newest>,
) -> Result<Json<Value>, Problem> {
    let limit = lines(asked.limit)?;
    ask(&station, move |_, reader| {
        let earlier = reader.earlier_models()?;
        let models = reader.models(limit)?;
        let back = earlier.first().map(|(version, _)| version);
        Ok(Json(json!({ "models": models, "rollback_to": back })))
    })
    .await
}

pub(super) async fn lives(
    State(station): State<App>,
    Query(asked): Query<Newest>,
) -> Result<Json<Value>, Problem> {
    let limit = lines(asked.limit)?;
    ask(&station, move |_, reader| {
        Ok(Json(json!({ "history": reader.model_lives(limit)? })))
    })
    .await
}

pub(super) async fn model(
    State(station): State<App>,
    Path(version): Path<i64>,
) -> Result<Json<Value>, Problem> {
    ask(&station, move |_, reader| {
        let found = reader.model(version)?;
        let unknown = || Problem::unknown(format!("there is no version {version}"));
        Ok(Json(json!(found.ok_or_else(unknown)?)))
    })
    .await
}

pub(super) async fn promote(
    State(station): State<App>,
    Path(version): Path<i64>,
) -> Result<Json<Value>, Problem> {
    promoted(station.promote(Some(version)).await)
}

pub(super) async fn roll_back(State(station): State<App>) -> Result<Json<Value>, Problem> {
    promoted(station.promote(None).await)
}

fn promoted(outcome: Result<i64, String>) -> Result<Json<Value>, Problem> {
    let version = outcome.map_err(Problem::conflict)?;
    Ok(Json(json!({ "version": version })))
}
