//! One GET of a release's file: over HTTPS, each step in its time, and a sentence for each way it fails.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HOST, IF_RANGE, LOCATION, RANGE, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Limits, Terms};
use crate::errors::chain;
use crate::mqtt::tls;

const MOST_REDIRECTS: u32 = 5;

/// Why nothing more came, and whether trying again may help.
pub(super) struct Broken {
    pub(super) why: String,
    pub(super) again: bool,
}

impl Broken {
    pub(super) fn passing(why: impl ToString) -> Self {
        let why = why.to_string();
        Self { why, again: true }
    }

    pub(super) fn final_(why: impl Into<String>) -> Self {
        let why = why.into();
        Self { why, again: false }
    }

    /// An answer that is not the file.
    pub(super) fn refused(status: StatusCode) -> Self {
        let why = format!("the server answers {status}");
        // What is missing or forbidden is so a minute later.
        let again = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        Self { why, again }
    }
}

/// `https://`, or `http://` to this machine itself, where a tunnel or a cache may listen.
pub(super) fn check_address(address: &str) -> Result<(), String> {
    let uri: Uri = address
        .parse()
        .map_err(|_| format!("{address:?} is no address"))?;
    let host = uri.host().unwrap_or_default();
    let here = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    let authority = uri.authority().map_or("", |a| a.as_str());
    match uri.scheme_str() {
        _ if host.is_empty() || authority.contains('@') => {
            Err(format!("{address:?} has no plain host"))
        }
        Some("https") => Ok(()),
        Some("http") if here => Ok(()),
        _ => Err(format!("{address:?} is neither https:// nor a folder")),
    }
}

/// The connection of an answer: it has to live as long as its body is read.
pub(super) struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The answer, redirects followed to `https://` only; with the rest from there on where a part is had.
pub(super) async fn get(
    address: &str,
    range: Option<(u64, &str)>,
    terms: &Terms,
    deadline: Instant,
) -> Result<(Response<Incoming>, Connection), Broken> {
    let mut address = address.to_owned();
    for _ in 0..=MOST_REDIRECTS {
        let asking = get_once(&address, range, terms);
        let (response, connection) = timeout_at(deadline, asking)
            .await
            .map_err(|_| Broken::passing("it takes too long"))??;
        if !response.status().is_redirection() {
            return Ok((response, connection));
        }
        let to = response
            .headers()
            .get(LOCATION)
            .and_then(|v| v.to_str().ok());
        let to = to.ok_or_else(|| Broken::final_("a redirect to nowhere"))?;
        address = match to.starts_with('/') && !to.starts_with("//") {
            true => {
                let uri: Uri = address.parse().map_err(Broken::passing)?;
                let scheme = uri.scheme_str().unwrap_or("https");
                format!(
                    "{scheme}://{}{to}",
                    uri.authority().map_or("", |a| a.as_str())
                )
            }
            // Elsewhere only encrypted, however it began.
            false if to.starts_with("https://") => to.to_owned(),
            false => {
                return Err(Broken::final_(format!(
                    "a redirect to {to:?}, which is not https://"
                )));
            }
        };
        check_address(&address).map_err(Broken::final_)?;
    }
    Err(Broken::final_("too many redirects"))
}

async fn get_once(
    address: &str,
    range: Option<(u64, &str)>,
    terms: &Terms,
) -> Result<(Response<Incoming>, Connection), Broken> {
    let uri: Uri = address.parse().map_err(Broken::passing)?;
    let stream = connect(&uri, terms).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(Broken::passing)?;
    let connection = Connection(tokio::spawn(async move {
        // What goes wrong is seen where the answer is read.
        let _ = connection.await;
    }));
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = Request::get(path)
        .header(HOST, uri.authority().map_or("", |a| a.as_str()))
        .header(USER_AGENT, concat!("nightwatt/", env!("CARGO_PKG_VERSION")));
    if let Some((from, etag)) = range {
        request = request
            .header(RANGE, format!("bytes={from}-"))
            .header(IF_RANGE, etag);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(Broken::passing)?;
    let idle = terms.limits.idle;
    let answer = timeout(idle, sender.send_request(request))
        .await
        .map_err(|_| Broken::passing(format!("no answer within {} s", idle.as_secs())))?
        .map_err(|e| Broken::passing(format!("the connection broke off: {}", chain(&e))))?;
    Ok((answer, connection))
}

/// What a connection is read and written through.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Name, TCP and TLS, one after the other, so that what fails can be named.
async fn connect(uri: &Uri, terms: &Terms) -> Result<Box<dyn Stream>, Broken> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let encrypted = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    let limit = terms.limits.connect;
    let late = || format!("no answer within {} s", limit.as_secs());
    let unknown = |why| Broken::passing(format!("cannot find the address of {host}: {why}"));
    let found: Vec<SocketAddr> = timeout(limit, tokio::net::lookup_host((host, port)))
        .await
        .map_err(|_| unknown(late()))?
        .map_err(|e| unknown(e.to_string()))?
        .collect();
    let mut why = "it has none".to_owned();
    let mut plain = None;
    for address in found {
        match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                plain = Some(stream);
                break;
            }
            Ok(Err(e)) => why = format!("{address}: {e}"),
            Err(_) => why = format!("{address}: {}", late()),
        }
    }
    let plain =
        plain.ok_or_else(|| Broken::passing(format!("cannot connect to {host}:{port}: {why}")))?;
    if !encrypted {
        return Ok(Box::new(plain));
    }
    let unsafe_ = |why: String| format!("no safe connection to {host}: {why}");
    let name = ServerName::try_from(host.to_owned())
        .map_err(|e| Broken::final_(unsafe_(e.to_string())))?;
    let config = trust(terms).map_err(|why| Broken::final_(unsafe_(why)))?;
    let shaken = timeout(
        limit,
        tokio_rustls::TlsConnector::from(config).connect(name, plain),
    );
    match shaken.await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(e)) => Err(Broken {
            again: !of_the_certificate(&e),
            why: unsafe_(e.to_string()),
        }),
        Err(_) => Err(Broken::passing(unsafe_(late()))),
    }
}

/// A certificate is as good a minute later.
fn of_the_certificate(error: &std::io::Error) -> bool {
    let tls = error.get_ref().and_then(|e| e.downcast_ref());
    matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
}

/// Read when first needed, as a folder needs nobody's certificate.
fn trust(terms: &Terms) -> Result<Arc<ClientConfig>, String> {
    tls::without_client_cert(terms.ca_file.as_deref()).map_err(|e| chain(&e))
}

/// The next piece, in time.
pub(super) async fn next(
    body: &mut Incoming,
    limits: &Limits,
    deadline: Instant,
) -> Result<Option<Bytes>, Broken> {
    loop {
        let soon = deadline.min(Instant::now() + limits.idle);
        let frame = timeout_at(soon, body.frame())
            .await
            .map_err(|_| Broken::passing("it takes too long"))?;
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(e)) => {
                return Err(Broken::passing(format!(
                    "the connection broke off: {}",
                    chain(&e)
                )));
            }
        }
    }
}
