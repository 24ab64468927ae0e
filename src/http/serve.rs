//! Connections: accepted on the socket and on TCP, bounded in number and patience, ended in order.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tower_service::Service;

pub use super::guard::TokenError;
use super::guard::{Caller, Guard, Peer, groups_of};
use super::problem::Problem;
use super::wire::Wire;
use super::{Station, routes};
use crate::config::HttpConfig;
use crate::rate;
use crate::shutdown::Shutdown;

/// At once, on the socket and on TCP each: a flood on the one leaves the other alone.
const CONNECTIONS: usize = 64;
/// For the head of a request, and between two.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// To take in a last word; who does not listen is not waited for.
const LAST_WORD_TIME: Duration = Duration::from_millis(500);
/// After an accept that failed (out of descriptors, mostly), so as not to turn round and round.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why it cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// On the socket.
    #[error("cannot listen on {}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// On TCP.
    #[error("cannot listen on {address}")]
    Tcp {
        /// `[http] listen`.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// Whether the token that `[http]` names can be used.
pub fn check(http: &HttpConfig, credentials: Option<&Path>) -> Result<(), TokenError> {
    Guard::new(http, credentials).map(drop)
}

/// Listens, and answers nobody yet.
pub struct Server {
    socket: UnixListener,
    socket_gid: u32,
    tcp: Option<TcpListener>,
    guard: Guard,
}

impl Server {
    /// Binds the socket, replacing one that a crash left behind, and the TCP port where there is one.
    pub async fn bind(http: &HttpConfig, credentials: Option<&Path>) -> Result<Self, ServeError> {
        let guard = Guard::new(http, credentials)?;
        let tcp = match http.listen {
            None => None,
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                Some(bound.map_err(|source| ServeError::Tcp { address, source })?)
            }
        };
        let path = &http.socket;
        let failed = |source| ServeError::Socket {
            path: path.clone(),
            source,
        };
        let socket = bind(path).map_err(failed)?;
        let socket_gid = std::fs::metadata(path).map_err(failed)?.gid();
        Ok(Self {
            socket,
            socket_gid,
            tcp,
            guard,
        })
    }

    /// Answers until `closing`; then answers what has been asked, and ends.
    pub async fn run(self, station: Arc<dyn Station>, closing: Shutdown) {
        let router = routes::router(station, self.guard);
        let own_uid = rustix::process::geteuid().as_raw();
        let (of_socket, of_tcp) = (slots(), slots());
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                () = closing.begun() => break,
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, _)) => {
                        let peer = peer(&stream, own_uid, self.socket_gid);
                        let slot = of_socket.clone().try_acquire_owned().ok();
                        let (router, closing) = (router.clone(), closing.clone());
                        if peer.as_ref().is_some_and(Peer::may_ask) {
                            open.spawn(converse(stream, slot, router, Caller::Socket, closing));
                        } else {
                            tracing::warn!(?peer, "a stranger on the socket was sent away");
                            let detail = "only root, the station's own user and the socket's group may ask";
                            open.spawn(last_word(stream, Problem::new(StatusCode::FORBIDDEN, detail)));
                        }
                    }
                    Err(error) => pause(&error).await,
                },
                accepted = accept(self.tcp.as_ref()) => match accepted {
                    Ok((stream, port)) => {
                        let slot = of_tcp.clone().try_acquire_owned().ok();
                        let (router, closing) = (router.clone(), closing.clone());
                        open.spawn(converse(stream, slot, router, Caller::Tcp(port), closing));
                    }
                    Err(error) => pause(&error).await,
                },
                Some(_) = open.join_next() => {}
            }
        }
        // Nobody new; those who have asked get their answers.
        drop((self.socket, self.tcp));
        while open.join_next().await.is_some() {}
    }
}

fn slots() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CONNECTIONS))
}

async fn pause(error: &io::Error) {
    if let Some(more) = rate::log_line("accept") {
        tracing::warn!(%error, "a connection could not be accepted{more}");
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// The next connection, and the port it came to; never where nobody listens.
async fn accept(tcp: Option<&TcpListener>) -> io::Result<(TcpStream, u16)> {
    let Some(tcp) = tcp else {
        return std::future::pending().await;
    };
    let (stream, _) = tcp.accept().await?;
    let port = tcp.local_addr()?.port();
    Ok((stream, port))
}

fn peer(stream: &UnixStream, own_uid: u32, socket_gid: u32) -> Option<Peer> {
    let peer = stream.peer_cred().ok()?;
    let mut groups = vec![peer.gid()];
    let mut peer_found = Peer {
        uid: peer.uid(),
        groups: Vec::new(),
        own_uid,
        socket_gid,
    };
    if !peer_found.may_ask() {
        groups.extend(peer.pid().map(groups_of).unwrap_or_default());
    }
    peer_found.groups = groups;
    Some(peer_found)
}

/// Binds a socket that owner and group may connect to.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => {
            let why = "it is not a socket";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// One connection, from its first request to its end.
async fn converse<Stream>(
    stream: Stream,
    slot: Option<OwnedSemaphorePermit>,
    router: Router,
    caller: Caller,
    closing: Shutdown,
) where
    Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(_slot) = slot else {
        let detail = format!("{CONNECTIONS} connections are open already");
        return last_word(
            stream,
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail),
        )
        .await;
    };
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller);
        router.clone().call(request)
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(
            TokioIo::new(Wire {
                stream,
                kept_back: None,
            }),
            answer,
        );
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = closing.begun() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    let Err(error) = ended else { return };
    let parts = connection.into_parts();
    let wire = parts.io.into_inner();
    if error.is_parse() {
        // Where it has written nothing it was spoken to in HTTP/2.
        let status = wire
            .kept_back
            .unwrap_or(StatusCode::HTTP_VERSION_NOT_SUPPORTED);
        let detail = format!("this is no request that can be read: {error}");
        last_word(wire.stream, Problem::new(status, detail)).await;
    } else if error.is_timeout() {
        // Who has not begun to ask has only kept the line open.
        if !parts.read_buf.is_empty() {
            let detail = format!(
                "the head of a request took longer than {} s",
                HEAD_TIME.as_secs()
            );
            let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, detail);
            last_word(wire.stream, problem).await;
        }
    }
}

/// Says why, and closes.
async fn last_word<Stream>(mut stream: Stream, problem: Problem)
where
    Stream: AsyncRead + AsyncWrite + Unpin,
{
    let text = problem.on_the_wire();
    let say = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await
    };
    // Who has gone already does not hear it.
    let _ = tokio::time::timeout(LAST_WORD_TIME, say).await;
}
