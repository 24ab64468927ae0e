//! Who may ask what: peers on the socket; on TCP the Host, the Origin and, for changes, the token; and how much they may send.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::problem::Problem;
use crate::config::HttpConfig;

/// No body that a route wants is larger.
pub(super) const BODY_BYTES: usize = 1024 * 1024;
/// A body that takes longer is not sent by somebody who wants an answer.
const BODY_TIME: Duration = Duration::from_secs(10);
/// An answer that takes longer is not waited for.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// What may take minutes: it ends with the work, not by the clock.
const LONG: &[&str] = &["/api/ml/retrain", "/api/store/snapshot", "/api/update"];
/// Shorter tokens can be guessed by trying.
const TOKEN_CHARACTERS: usize = 16;
/// A user id that this user namespace has no name for appears as this one.
const OVERFLOW_UID: u32 = 65_534;

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// The Unix socket: may do everything.
    Socket,
    /// TCP, to this port of ours: may read, and with the token do everything.
    Tcp(u16),
}

/// Why a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Its file cannot be read.
    #[error("cannot read the token of [http] from {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is too easily guessed.
    #[error(
        "[http] token_file: the first line of {} is no token: it takes at least {TOKEN_CHARACTERS} characters", path.display()
    )]
    Short {
        /// Which file.
        path: PathBuf,
    },
}

/// The rules for TCP.
#[derive(Clone, Default)]
pub(super) struct Guard {
    /// SHA-256 of the token: equal lengths to compare, and nothing that a log could show.
    token: Option<[u8; 32]>,
    hosts: Vec<String>,
}

impl Guard {
    /// Reads the token: from the file named in `[http]`, else from systemd's credential `http-token`.
    pub(super) fn new(http: &HttpConfig, credentials: Option<&Path>) -> Result<Self, TokenError> {
        let credential = credentials.map(|folder| folder.join("http-token"));
        let credential = credential.filter(|path| path.exists());
        let path = http.token_file.clone().or(credential);
        let token = path.map(|path| {
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(source) => return Err(TokenError::Read { path, source }),
            };
            let token = text.lines().next().unwrap_or_default().trim();
            if token.chars().count() < TOKEN_CHARACTERS {
                return Err(TokenError::Short { path });
            }
            Ok(Sha256::digest(token).into())
        });
        Ok(Self {
            token: token.transpose()?,
            hosts: http.hosts.clone(),
        })
    }

    /// Whether a request to `port` names us: a page of another site whose name was made to lead here
    /// (DNS rebinding) names that site, and says so in `Origin`.
    fn names_us(&self, port: u16, headers: &HeaderMap) -> Result<(), Problem> {
        let text = |value: &HeaderValue| value.to_str().map(str::to_lowercase).ok();
        let host = headers.get(HOST).and_then(text).unwrap_or_default();
        let several = headers.get_all(HOST).iter().count() > 1;
        let local = ["localhost", "127.0.0.1", "[::1]"];
        let known = local.iter().any(|name| host == format!("{name}:{port}"))
            || self.hosts.iter().any(|name| {
                let name = name.to_lowercase();
                host == name || host.strip_prefix(&name).is_some_and(is_port)
            });
        if several || !known {
            let detail = "this is not the host asked for; [http] hosts lists further names";
            return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        let Some(origin) = headers.get(ORIGIN) else {
            return Ok(());
        };
        let origin = text(origin).unwrap_or_default();
        let of_host = ["http://", "https://"].map(|scheme| format!("{scheme}{host}"));
        if headers.get_all(ORIGIN).iter().count() > 1 || !of_host.contains(&origin) {
            let detail = "pages of other origins may not ask this station";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        Ok(())
    }

    /// Whether a change over TCP carries the token.
    fn may_change(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(token) = self.token else {
            let detail = "changes over TCP are off: put a token into a file and name it in [http] token_file (or use the Unix socket)";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        };
        let given = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
        let given = given.and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let digest: [u8; 32] = Sha256::digest(given.unwrap_or_default()).into();
        if given.is_some() && bool::from(digest.ct_eq(&token)) {
            return Ok(());
        }
        let detail = match given {
            None => "changes over TCP take the header Authorization: Bearer <token>",
            Some(_) => "this is not the token",
        };
        let realm = HeaderValue::from_static("Bearer realm=\"nightwatt\"");
        Err(Problem::new(StatusCode::UNAUTHORIZED, detail).with(WWW_AUTHENTICATE, realm))
    }
}

fn is_port(rest: &str) -> bool {
    rest.strip_prefix(':')
        .is_some_and(|p| p.parse::<u16>().is_ok())
}

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// For every request: Host and Origin, the announced size, the time an answer may take.
pub(super) async fn address(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    let caller = request.extensions().get::<Caller>().copied();
    if let Some(Caller::Tcp(port)) = caller
        && let Err(problem) = guard.names_us(port, request.headers())
    {
        return problem.into_response();
    }
    let announced = request.headers().get(CONTENT_LENGTH);
    let announced = announced.and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > BODY_BYTES as u64) {
        return too_large().into_response();
    }
    if LONG.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let answer = tokio::time::timeout(ANSWER_TIME, next.run(request));
    answer.await.unwrap_or_else(|_| {
        let detail = format!("there was no answer within {} s", ANSWER_TIME.as_secs());
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response()
    })
}

/// For every request that a route has been found for: the token, then the body, in this order, so that
/// nobody without the one can make us hold the other.
pub(super) async fn change(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    let over_tcp = request.extensions().get::<Caller>() != Some(&Caller::Socket);
    if over_tcp
        && !reads(request.method())
        && let Err(problem) = guard.may_change(request.headers())
    {
        return problem.into_response();
    }
    let (parts, body) = request.into_parts();
    let body = match tokio::time::timeout(BODY_TIME, Limited::new(body, BODY_BYTES).collect()).await
    {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return too_large().into_response(),
        Ok(Err(_)) => return Problem::wrong("the body broke off").into_response(),
        Err(_) => {
            let detail = format!("the body took longer than {} s", BODY_TIME.as_secs());
            return Problem::new(StatusCode::REQUEST_TIMEOUT, detail).into_response();
        }
    };
    next.run(Request::from_parts(parts, Body::from(body))).await
}

fn too_large() -> Problem {
    let detail = format!("a body has at most {BODY_BYTES} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

/// Who is at the other end of the socket, and whose socket it is.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) uid: u32,
    /// Its group, and the further ones that its process has.
    pub(super) groups: Vec<u32>,
    /// Our own user.
    pub(super) own_uid: u32,
    /// The socket's group.
    pub(super) socket_gid: u32,
}

impl Peer {
    /// root, our own user, and members of the socket's group. The socket's mode says the same; this
    /// holds where somebody has loosened it. Users that our user namespace cannot name have passed the
    /// mode, and there is no more to know about them.
    pub(super) fn may_ask(&self) -> bool {
        [0, self.own_uid, OVERFLOW_UID].contains(&self.uid)
            || self.groups.contains(&self.socket_gid)
    }
}

/// The further groups of a process, as far as they can be seen.
pub(super) fn groups_of(pid: i32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("Groups:"));
    let numbers = line.unwrap_or_default().split_whitespace();
    numbers.filter_map(|n| n.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(axum::http::HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_our_own_names_are_us() {
        let guard = Guard {
            hosts: vec!["pv.example.org".into()],
            token: None,
        };
        let ok = |pairs: &[(axum::http::HeaderName, &'static str)]| {
            guard.names_us(8465, &headers(pairs)).is_ok()
        };
        for host in [
            "localhost:8465",
            "127.0.0.1:8465",
            "[::1]:8465",
            "LOCALHOST:8465",
            "pv.example.org",
            "pv.example.org:443",
        ] {
            assert!(ok(&[(HOST, host)]), "{host}");
        }
        for host in [
            "",
            "localhost",
            "localhost:80",
            "localhost:8465.evil.org",
            "evil.org:8465",
            "pv.example.org.evil.org",
            "pv.example.org:",
            "127.0.0.1:8465@evil.org",
        ] {
            assert!(!ok(&[(HOST, host)]), "{host}");
        }
        assert!(!ok(&[]));
        assert!(!ok(&[(HOST, "localhost:8465"), (HOST, "localhost:8465")]));
        assert!(ok(&[
            (HOST, "localhost:8465"),
            (ORIGIN, "http://localhost:8465")
        ]));
        assert!(ok(&[
            (HOST, "pv.example.org"),
            (ORIGIN, "https://pv.example.org")
        ]));
        for origin in [
            "null",
            "http://evil.org",
            "http://localhost:8466",
            "http://127.0.0.1:8465",
        ] {
            assert!(
                !ok(&[(HOST, "localhost:8465"), (ORIGIN, origin)]),
                "{origin}"
            );
        }
    }

    #[test]
    fn the_token_is_the_whole_first_line_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("http-token");
        let http = HttpConfig::default();
        let off = Guard::new(&http, Some(dir.path())).unwrap();
        assert!(off.may_change(&HeaderMap::new()).is_err());
        std::fs::write(&file, "short\n").unwrap();
        let refused = Guard::new(&http, Some(dir.path())).err().unwrap();
        assert!(refused.to_string().contains("16 characters"), "{refused}");
        std::fs::write(&file, "0123456789abcdef\nsecond line\n").unwrap();
        let guard = Guard::new(&http, Some(dir.path())).unwrap();
        let ok = |value| {
            guard
                .may_change(&headers(&[(AUTHORIZATION, value)]))
                .is_ok()
        };
        assert!(ok("Bearer 0123456789abcdef"));
        assert!(ok("bearer 0123456789abcdef"));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "0123456789abcdef",
            "Basic 0123456789abcdef",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdefg",
            "Bearer second line",
        ] {
            assert!(!ok(wrong), "{wrong}");
        }
    }

    #[test]
    fn strangers_may_not_ask_even_where_the_mode_lets_them() {
        let peer = |uid, groups: &[u32]| Peer {
            uid,
            groups: groups.to_vec(),
            own_uid: 990,
            socket_gid: 991,
        };
        assert!(peer(0, &[]).may_ask());
        assert!(peer(990, &[]).may_ask());
        assert!(peer(1000, &[1000, 991]).may_ask());
        assert!(peer(OVERFLOW_UID, &[]).may_ask());
        assert!(!peer(1000, &[1000]).may_ask());
        let own = groups_of(std::process::id() as i32);
        assert!(own.len() < 1000);
    }
}
