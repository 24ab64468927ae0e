//! The routes:
//!
//! | method | path                  | meaning                                            |
//! |--------|-----------------------|----------------------------------------------------|
//! | GET    | `/api/status`         | everything `nightwatt status` shows                |
//! | POST   | `/api/ml/retrain`     | train now (`?mode=full`, `?force=true`: however little is new); 202, queued once where a run is going on |
//! | POST   | `/api/store/snapshot` | take a snapshot; answers when it is verified        |
//! | POST   | `/api/quarantine/clear` | forget refused messages; how many there were      |
//! | POST   | `/api/ml/models/{version}/promote` | make that version live; 409 where it may not or cannot be |
//! | POST   | `/api/ml/models/rollback` | make the version live that was before; 409 likewise |
//! | DELETE | `/api/ml/runs/{id}`   | take a run out of the log; 409 where it is going on or the schedule counts from it |
//!
//! Errors are problem details (RFC 9457).

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::{Path as PathOf, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde_json::json;
use tokio::net::UnixListener;

use crate::status::Status;
use crate::store::Deletion;
use crate::store::snapshot::Snapshot;
use crate::trainer::Asked;

/// What the routes need from the daemon.
pub trait Station: Send + Sync + 'static {
    /// What is going on; reads the database, so it may take milliseconds.
    fn status(&self) -> Result<Status, String>;
    /// Takes a snapshot of the store; may take minutes.
    fn snapshot(&self) -> Result<Snapshot, String>;
    /// Asks for a training run; false where one is queued already.
    fn retrain(&self, asked: Asked) -> bool;
    /// Takes a run out of the log. Waits for the writer.
    fn delete_run(&self, run_id: i64) -> Result<Deletion, String>;
    /// Forgets every refused message; how many there were. Waits for the writer.
    fn clear_quarantine(&self) -> Result<usize, String>;
    /// Makes `version` live, or the one that was live before; which it was, or why nothing was changed.
    fn promote(&self, version: Option<i64>) -> Promoting<'_>;
}

/// A promotion under way.
pub type Promoting<'a> = Pin<Box<dyn Future<Output = Result<i64, String>> + Send + 'a>>;

/// Binds the socket, replacing one that a crash left behind; group and owner may connect.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "it is not a socket",
            ));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Answers until the returned future is dropped.
pub async fn serve(listener: UnixListener, station: Arc<dyn Station>) -> io::Result<()> {
    let router = Router::new()
        .route("/api/status", get(status))
        .route("/api/ml/retrain", post(retrain))
        .route("/api/store/snapshot", post(snapshot))
        .route("/api/quarantine/clear", post(clear_quarantine))
        .route("/api/ml/models/{version}/promote", post(promote))
        .route("/api/ml/models/rollback", post(roll_back))
        .route("/api/ml/runs/{id}", delete(delete_run))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "there is no such path") })
        .with_state(station);
    axum::serve(listener, router).await
}

async fn status(State(station): State<Arc<dyn Station>>) -> Response {
    match tokio::task::spawn_blocking(move || station.status()).await {
        Ok(Ok(status)) => Json(status).into_response(),
        Ok(Err(detail)) => problem(StatusCode::INTERNAL_SERVER_ERROR, &detail),
        Err(_) => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the status could not be put together",
        ),
    }
}

async fn snapshot(State(station): State<Arc<dyn Station>>) -> Response {
    match tokio::task::spawn_blocking(move || station.snapshot()).await {
        Ok(Ok(snapshot)) => Json(snapshot).into_response(),
        Ok(Err(detail)) => problem(StatusCode::INTERNAL_SERVER_ERROR, &detail),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the snapshot broke off"),
    }
}

async fn retrain(State(station): State<Arc<dyn Station>>, Query(asked): Query<Asked>) -> Response {
    let queued = station.retrain(asked);
    (StatusCode::ACCEPTED, Json(json!({ "queued": queued }))).into_response()
}

async fn delete_run(State(station): State<Arc<dyn Station>>, PathOf(id): PathOf<i64>) -> Response {
    match tokio::task::spawn_blocking(move || station.delete_run(id)).await {
        Ok(Ok(Deletion::Done)) => Json(json!({ "deleted": id })).into_response(),
        Ok(Ok(kept @ Deletion::Unknown)) => problem(StatusCode::NOT_FOUND, &kept.sentence(id)),
        Ok(Ok(kept)) => problem(StatusCode::CONFLICT, &kept.sentence(id)),
        Ok(Err(detail)) => problem(StatusCode::INTERNAL_SERVER_ERROR, &detail),
        Err(_) => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the run could not be deleted",
        ),
    }
}

async fn clear_quarantine(State(station): State<Arc<dyn Station>>) -> Response {
    match tokio::task::spawn_blocking(move || station.clear_quarantine()).await {
        Ok(Ok(cleared)) => Json(json!({ "cleared": cleared })).into_response(),
        Ok(Err(detail)) => problem(StatusCode::INTERNAL_SERVER_ERROR, &detail),
        Err(_) => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the quarantine could not be cleared",
        ),
    }
}

async fn promote(
    State(station): State<Arc<dyn Station>>,
    axum::extract::Path(version): axum::extract::Path<i64>,
) -> Response {
    promoted(station.promote(Some(version)).await)
}

async fn roll_back(State(station): State<Arc<dyn Station>>) -> Response {
    promoted(station.promote(None).await)
}

fn promoted(outcome: Result<i64, String>) -> Response {
    match outcome {
        Ok(version) => Json(json!({ "version": version })).into_response(),
        Err(detail) => problem(StatusCode::CONFLICT, &detail),
    }
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let body = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut response = (status, body.to_string()).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/problem+json"),
    );
    response
}
