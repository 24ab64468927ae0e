//! Asks a running daemon over its Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Why the daemon did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no daemon answers on {}", socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// What connecting said.
        source: std::io::Error,
    },
    /// It may listen, but not to us.
    #[error("this user may not ask the daemon on {} (be root, or in the socket's group)", socket.display())]
    Denied {
        /// The socket.
        socket: PathBuf,
        /// What connecting said.
        source: std::io::Error,
    },
    /// It listens, but the exchange failed.
    #[error("the daemon on {} did not answer: {why}", socket.display())]
    Exchange {
        /// The socket.
        socket: PathBuf,
        /// Why it failed.
        why: String,
    },
    /// It answered that it cannot. The sentence is the daemon's; which path refused it says nothing to a
    /// person.
    #[error("{detail}")]
    Refused {
        /// The answer's status.
        status: u16,
        /// Its reason.
        detail: String,
    },
}

/// Sends one request with a JSON body (empty: none) and returns the JSON answer.
pub async fn request(
    socket: &Path,
    method: Method,
    path: &str,
    body: String,
) -> Result<serde_json::Value, ClientError> {
    request_within(TIMEOUT, socket, method, path, body).await
}

/// [`request`], with another limit of time.
pub async fn request_within(
    limit: Duration,
    socket: &Path,
    method: Method,
    path: &str,
    body: String,
) -> Result<serde_json::Value, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|source| {
        let socket = socket.to_owned();
        match source.kind() {
            std::io::ErrorKind::PermissionDenied => ClientError::Denied { socket, source },
            _ => ClientError::NotRunning { socket, source },
        }
    })?;
    let failed = |why: String| ClientError::Exchange {
        socket: socket.to_owned(),
        why,
    };
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "nightwatt")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)));
        let (answer, _) = tokio::join!(
            async {
                // The parts are constants and a path of ours.
                let response = sender
                    .send_request(request.expect("a valid request"))
                    .await?;
                let status = response.status();
                let body = response.into_body().collect().await?.to_bytes();
                drop(sender);
                Ok::<_, hyper::Error>((status, body))
            },
            connection
        );
        answer
    };
    let (status, body) = tokio::time::timeout(limit, exchange)
        .await
        .map_err(|_| failed(format!("no answer within {} s", limit.as_secs())))?
        .map_err(|e| failed(e.to_string()))?;
    let value: serde_json::Value =
        serde_json::from_slice(&body).map_err(|e| failed(e.to_string()))?;
    if status.is_success() {
        return Ok(value);
    }
    let detail = value["detail"].as_str().unwrap_or(status.as_str());
    Err(ClientError::Refused {
        status: status.as_u16(),
        detail: detail.to_owned(),
    })
}
