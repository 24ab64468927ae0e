//! A JSON object by POST, over hyper and rustls; the address may hold a secret and is never said.

use std::path::Path;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rumqttc::tokio_rustls::TlsConnector;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{DeliverError, Secret};
use crate::alerts::Notice;
use crate::errors::chain;
use crate::mqtt::tls;

/// Where and how to post.
pub struct Webhook {
    target: Target,
    authorization: Option<HeaderValue>,
    tls: Option<Arc<rustls::ClientConfig>>,
}

/// An address, taken apart.
pub(super) struct Target {
    host: String,
    port: u16,
    https: bool,
    /// As the `Host` header has it.
    authority: String,
    path: String,
}

/// Takes `url` apart; the reason names no part of it.
pub(super) fn target(url: &str) -> Result<Target, String> {
    const ACCEPTED: &str = "accepted: http://host[:port]/path or https://…";
    let uri: Uri = url.parse().map_err(|_| ACCEPTED.to_owned())?;
    let https = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(ACCEPTED.into()),
    };
    let authority = uri.authority().ok_or(ACCEPTED)?;
    if authority.as_str().contains('@') {
        return Err("a password has no place in the address; token_file holds one".into());
    }
    let host = authority.host();
    Ok(Target {
        // A literal IPv6 address stands in brackets.
        host: host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned(),
        port: uri.port_u16().unwrap_or(if https { 443 } else { 80 }),
        https,
        authority: authority.to_string(),
        path: uri.path_and_query().map_or("/".into(), ToString::to_string),
    })
}

fn failed(why: impl Into<String>) -> DeliverError {
    DeliverError::Failed {
        channel: "webhook",
        why: why.into(),
    }
}

impl Webhook {
    /// Reads the authority in `ca_file`, or the system's, where `url` is https.
    pub(super) fn new(
        url: &str,
        token: Option<Secret>,
        ca_file: Option<&Path>,
    ) -> Result<Self, DeliverError> {
        let setup = |why: String| DeliverError::Setup {
            channel: "webhook",
            why,
        };
        let target = target(url).map_err(setup)?;
        let authorization = match token {
            None => None,
            Some(Secret(token)) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| setup("the token holds what no header can".into()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self {
            tls: match target.https {
                true => Some(tls::without_client_cert(ca_file)?),
                false => None,
            },
            target,
            authorization,
        })
    }

    pub(super) async fn send(&self, notice: &Notice) -> Result<(), DeliverError> {
        let Target { host, port, .. } = &self.target;
        let tcp = TcpStream::connect((host.as_str(), *port))
            .await
            .map_err(|e| failed(format!("cannot reach {host}:{port}: {e}")))?;
        let status = match &self.tls {
            None => self.post(tcp, notice).await?,
            Some(config) => {
                let name = ServerName::try_from(host.clone())
                    .map_err(|_| failed(format!("{host} is no name a certificate can have")))?;
                let stream = TlsConnector::from(config.clone())
                    .connect(name, tcp)
                    .await
                    .map_err(|e| failed(format!("no TLS with {host}:{port}: {e}")))?;
                self.post(stream, notice).await?
            }
        };
        if status.is_success() {
            return Ok(());
        }
        Err(failed(format!("{host}:{port} answered {status}")))
    }

    async fn post(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        notice: &Notice,
    ) -> Result<StatusCode, DeliverError> {
        let broken = |e: hyper::Error| failed(chain(&e));
        let body = serde_json::to_vec(notice).map_err(|e| failed(e.to_string()))?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.target.path.as_str())
            .header(HOST, self.target.authority.as_str())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("nightwatt/", env!("CARGO_PKG_VERSION")));
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| failed(e.to_string()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        tokio::pin!(connection);
        let answer = sender.send_request(request);
        tokio::pin!(answer);
        // The head of the answer is all there is to know; what follows it is left unread.
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            ended = &mut connection => {
                ended.map_err(broken)?;
                answer.await
            }
        };
        Ok(answer.map_err(broken)?.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart() {
        let t = target("https://[::1]:8443/hook?a=b").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((t.host.as_str(), t.port, t.https), ("::1", 8443, true));
        assert_eq!(
            (t.authority.as_str(), t.path.as_str()),
            ("[::1]:8443", "/hook?a=b")
        );
        let t = target("http://h").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((t.port, t.path.as_str()), (80, "/"));
    }

    #[test]
    fn a_refused_address_is_not_said() {
        for url in [
            "ftp://secret/x",
            "secret",
            "https://secret:pw@h/",
            "http:///secret x",
        ] {
            let why = target(url).map(drop).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
    }
}
