//! The routes:
//!
//! | method | path | meaning |
//! | ------ | ---- | ------- |
//! | GET    | `/` | the dashboard (`days`, `device`, `horizon`) |
//! | GET    | `/health/live` | the process answers |
//! | GET    | `/health/ready` | intake, store, last night, model, age of the forecasts, clock; 503 where one fails |
//! | GET    | `/metrics` | figures for Prometheus (OpenMetrics text) |
//! | GET    | `/api/openapi.json` | this, for programs |
//! | GET    | `/api/status` | everything `nightwatt status` shows |
//! | GET    | `/api/devices` | every device with its newest reading |
//! | GET    | `/api/devices/{id}/readings` | its readings in equal steps |
//! | GET    | `/api/devices/{id}/forecast` | its forecasts; `format=evcc` and `emhass` as these read them |
//! | GET    | `/api/forecast` | the same of all devices and of their sum |
//! | GET    | `/api/accuracy` | errors of the forecasts, day by day |
//! | GET    | `/api/quarantine` | refused messages, and counts of them |
//! | POST   | `/api/quarantine/clear` | forget them; how many there were |
//! | GET    | `/api/events` | what happened |
//! | GET    | `/api/alerts` | the alerts that stand; with `all=true` also those that are over |
//! | POST   | `/api/alerts/{id}/acknowledge` | somebody knows of it; `all` for every one that stands |
//! | GET    | `/api/errors` | the newest errors with stage, causes and times |
//! | POST   | `/api/store/snapshot` | take a snapshot; answers when it is verified |
//! | POST   | `/api/update` | check, fetch, apply or roll back (`{"verb":"check"}`); 400 where nothing can come of it, 409 where it could not be done |
//! | POST   | `/api/ml/retrain` | train now; waits for the end, or 202 with `background=true` |
//! | GET    | `/api/ml/status` | what the nights are at |
//! | GET    | `/api/ml/runs` | the run log |
//! | GET    | `/api/ml/runs/{id}` | one run with everything it measured |
//! | DELETE | `/api/ml/runs/{id}` | take it out of the log; 409 where it goes on or the schedule counts from it |
//! | GET    | `/api/ml/model/current` | the live model |
//! | GET    | `/api/ml/models` | the newest versions |
//! | GET    | `/api/ml/models/history` | which was live when, and why |
//! | GET    | `/api/ml/models/{version}` | one version |
//! | POST   | `/api/ml/models/{version}/promote` | make it live; 409 where it may not or cannot be |
//! | POST   | `/api/ml/models/rollback` | make the version live that was before; 409 likewise |
//!
//! Errors are problem details (RFC 9457). `openapi.json` describes parameters and answers; a test holds
//! it to this table.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{from_fn_with_state, map_response};
use axum::routing::{MethodRouter, delete, get, post};

use super::guard::{self, Guard};
use super::problem::{Problem, dress};
use super::{Station, alerts, devices, forecasts, health, history, metrics, ml, openapi, page};
use crate::store::Reader;

/// What every handler gets.
pub(super) type App = Arc<dyn Station>;

/// Method, path and handler of every route.
pub(super) fn table() -> Vec<(&'static str, &'static str, MethodRouter<App>)> {
    vec![
        ("GET", "/", get(page::page)),
        ("GET", "/health/live", get(health::live)),
        ("GET", "/health/ready", get(health::ready)),
        ("GET", "/metrics", get(metrics::metrics)),
        ("GET", "/api/openapi.json", get(openapi::openapi)),
        ("GET", "/api/status", get(history::status)),
        ("GET", "/api/devices", get(devices::devices)),
        ("GET", "/api/devices/{id}/readings", get(devices::readings)),
        (
            "GET",
            "/api/devices/{id}/forecast",
            get(forecasts::of_device),
        ),
        ("GET", "/api/forecast", get(forecasts::of_all)),
        ("GET", "/api/accuracy", get(history::accuracy)),
        ("GET", "/api/quarantine", get(history::quarantine)),
        (
            "POST",
            "/api/quarantine/clear",
            post(history::clear_quarantine),
        ),
        ("GET", "/api/events", get(history::events)),
        ("GET", "/api/alerts", get(alerts::alerts)),
        (
            "POST",
            "/api/alerts/{id}/acknowledge",
            post(alerts::acknowledge),
        ),
        ("GET", "/api/errors", get(alerts::errors)),
        ("POST", "/api/store/snapshot", post(history::snapshot)),
        ("POST", "/api/update", post(history::update)),
        ("POST", "/api/ml/retrain", post(ml::retrain)),
        ("GET", "/api/ml/status", get(ml::status)),
        ("GET", "/api/ml/runs", get(ml::runs)),
        ("GET", "/api/ml/runs/{id}", get(ml::run)),
        ("DELETE", "/api/ml/runs/{id}", delete(ml::delete_run)),
        ("GET", "/api/ml/model/current", get(ml::current)),
        ("GET", "/api/ml/models", get(ml::models)),
        ("GET", "/api/ml/models/history", get(ml::lives)),
        ("GET", "/api/ml/models/{version}", get(ml::model)),
        (
            "POST",
            "/api/ml/models/{version}/promote",
            post(ml::promote),
        ),
        ("POST", "/api/ml/models/rollback", post(ml::roll_back)),
    ]
}

/// All of it, behind the guard.
pub(super) fn router(station: App, guard: Guard) -> Router {
    let guard = Arc::new(guard);
    let router = table()
        .into_iter()
        .fold(Router::new(), |router, (_, path, handler)| {
            router.route(path, handler)
        });
    router
        .route_layer(from_fn_with_state(guard.clone(), guard::change))
        .fallback(|request: Request| async move {
            let path = request.uri().path();
            Problem::unknown(format!(
                "there is no {path}; /api/openapi.json lists what there is"
            ))
        })
        .layer(from_fn_with_state(guard, guard::address))
        .layer(map_response(dress))
        .with_state(station)
}

/// Asks the database, on a thread for work that waits, over a connection opened for this question.
pub(super) async fn ask<T: Send + 'static>(
    station: &App,
    question: impl FnOnce(&App, &Reader) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let station = station.clone();
    blocking(move || {
        let reader = station.store().reader()?;
        question(&station, &reader)
    })
    .await
}

/// Does work that waits on a thread for such.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(Problem::broken("the answer could not be put together")),
    }
}
