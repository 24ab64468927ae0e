//! Where releases come from: a folder, or HTTPS; bounded in size and time, and resumed where it broke off.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CONTENT_LENGTH, CONTENT_RANGE, ETAG, HOST, IF_RANGE, LOCATION, RANGE, USER_AGENT,
};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::UpdateError;
use super::manifest::Manifest;
use super::record;

const MOST_REDIRECTS: u32 = 5;

/// How long things may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Between two signs of life.
    pub idle: Duration,
    /// For a manifest or a signature.
    pub small: Duration,
    /// For the file itself, each try.
    pub whole: Duration,
    /// Pauses before further tries, each of which goes on where the last broke off.
    pub pauses: Vec<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(30),
            small: Duration::from_secs(60),
            whole: Duration::from_secs(30 * 60),
            pauses: [2, 10, 60].map(Duration::from_secs).into(),
        }
    }
}

/// A place with a manifest, its signature and a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A folder of this machine, perhaps on a stick.
    Folder(PathBuf),
    /// A folder behind `https://`, without the slash at its end.
    Web(String),
}

/// What a download is a part of.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct About {
    sha256: String,
    etag: String,
}

/// Why nothing more came, and whether trying again may help.
struct Broken {
    why: String,
    again: bool,
}

impl Broken {
    fn passing(why: impl ToString) -> Self {
        let why = why.to_string();
        Self { why, again: true }
    }

    fn final_(why: impl Into<String>) -> Self {
        let why = why.into();
        Self { why, again: false }
    }
}

impl Source {
    /// Reads a path or an address; `{channel}` and `{target}` are filled in.
    pub fn parse(text: &str, channel: &str) -> Result<Self, String> {
        let full = text
            .replace("{channel}", channel)
            .replace("{target}", super::target());
        if full.is_empty() {
            return Err("no source is known: set [update] source, or name a folder".into());
        }
        if let Some(path) = full.strip_prefix("file://") {
            return Ok(Source::Folder(path.into()));
        }
        if !full.contains("://") {
            return Ok(Source::Folder(full.into()));
        }
        check_address(&full)?;
        Ok(Source::Web(full.trim_end_matches('/').to_owned()))
    }

    /// A small file, at most `most` bytes.
    pub fn small(
        &self,
        name: &str,
        most: u64,
        tls: &Tls,
        limits: &Limits,
    ) -> Result<Vec<u8>, UpdateError> {
        match self {
            Source::Folder(folder) => {
                super::layout::read_small(&folder.join(name), most).map_err(UpdateError::Source)
            }
            Source::Web(base) => {
                let address = format!("{base}/{name}");
                let read = || block_on(read_small(&address, most, tls, limits));
                tries(limits, &address, read)
            }
        }
    }

    /// The file of `m` into `folder/part`, of exactly the declared size; what was there of it is kept
    /// where it is certain that it belongs to it.
    pub fn download(
        &self,
        m: &Manifest,
        folder: &Path,
        tls: &Tls,
        limits: &Limits,
    ) -> Result<(), UpdateError> {
        let part = folder.join("part");
        match self {
            Source::Folder(from) => {
                copy(&from.join(&m.file), &part, m.size).map_err(UpdateError::Source)
            }
            Source::Web(base) => {
                let address = format!("{base}/{}", m.file);
                let fetch = || block_on(fetch(&address, m, folder, tls, limits));
                tries(limits, &address, fetch)
            }
        }
    }
}

/// `https://`, or `http://` to this machine itself, where a tunnel or a cache may listen.
fn check_address(address: &str) -> Result<(), String> {
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

fn copy(from: &Path, to: &Path, size: u64) -> Result<(), String> {
    let copied = File::open(from).and_then(|source| {
        let mut file = File::create(to)?;
        // One byte more than there may be, to see that it is too long.
        let n = std::io::copy(&mut source.take(size + 1), &mut file)?;
        file.sync_all().map(|()| n)
    });
    match copied {
        Ok(n) if n == size => Ok(()),
        Ok(_) => Err(format!(
            "{} does not have the size of {size} bytes",
            from.display()
        )),
        Err(e) => Err(format!("cannot copy {}: {e}", from.display())),
    }
}

fn tries<T>(
    limits: &Limits,
    address: &str,
    mut attempt: impl FnMut() -> Result<T, Broken>,
) -> Result<T, UpdateError> {
    let mut pauses = limits.pauses.iter();
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(Broken { why, again }) => match pauses.next().filter(|_| again) {
                Some(pause) => {
                    tracing::info!(address, why, "the transfer broke off and is tried again");
                    std::thread::park_timeout(*pause);
                }
                None => {
                    return Err(UpdateError::Source(format!(
                        "cannot fetch {address}: {why}"
                    )));
                }
            },
        }
    }
}

/// Transfers run on a thread that may wait, with a runtime of their own.
fn block_on<T>(work: impl Future<Output = Result<T, Broken>>) -> Result<T, Broken> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Broken::passing)?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

async fn read_small(
    address: &str,
    most: u64,
    tls: &Tls,
    limits: &Limits,
) -> Result<Vec<u8>, Broken> {
    let deadline = Instant::now() + limits.small;
    let (response, _connection) = get(address, None, tls, limits, deadline).await?;
    if response.status() != StatusCode::OK {
        return Err(refused(response.status()));
    }
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(data) = next(&mut body, limits, deadline).await? {
        if (bytes.len() + data.len()) as u64 > most {
            return Err(Broken::final_(format!("it is longer than {most} bytes")));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

async fn fetch(
    address: &str,
    m: &Manifest,
    folder: &Path,
    tls: &Tls,
    limits: &Limits,
) -> Result<(), Broken> {
    let (part, about) = (folder.join("part"), folder.join("about"));
    let deadline = Instant::now() + limits.whole;
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&part)
        .map_err(Broken::passing)?;
    let known: Option<About> = record::read(&about);
    let known = known.filter(|a| a.sha256 == m.sha256 && !a.etag.is_empty());
    let had = file.metadata().map_or(0, |m| m.len());
    let resumable = known.filter(|_| 0 < had && had < m.size);
    let range = resumable.as_ref().map(|a| (had, a.etag.as_str()));
    let (response, _connection) = get(address, range, tls, limits, deadline).await?;
    let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
    let etag = header(ETAG)
        .filter(|e| e.starts_with('"'))
        .unwrap_or_default()
        .to_owned();
    let mut at = match response.status() {
        StatusCode::OK => 0,
        // Only the rest of exactly the file that the part is of.
        StatusCode::PARTIAL_CONTENT => {
            let wanted = format!("bytes {had}-{}/{}", m.size - 1, m.size);
            let same = resumable.is_some_and(|a| a.etag == etag);
            if !same || header(CONTENT_RANGE) != Some(wanted.as_str()) {
                start_anew(&mut file, &about)?;
                return Err(Broken::passing("the rest that came is of another file"));
            }
            had
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            start_anew(&mut file, &about)?;
            return Err(Broken::passing(
                "the file is no longer the one a part was had of",
            ));
        }
        other => return Err(refused(other)),
    };
    let length = header(CONTENT_LENGTH).and_then(|l| l.parse::<u64>().ok());
    if length.is_some_and(|l| l != m.size - at) {
        return Err(Broken::final_(format!(
            "it does not have the size of {} bytes",
            m.size
        )));
    }
    if at == 0 {
        start_anew(&mut file, &about)?;
        let sha256 = m.sha256.clone();
        record::write(&about, &About { sha256, etag }).map_err(Broken::passing)?;
    }
    file.seek(SeekFrom::Start(at)).map_err(Broken::passing)?;
    let mut body = response.into_body();
    while let Some(data) = next(&mut body, limits, deadline).await? {
        at += data.len() as u64;
        if at > m.size {
            start_anew(&mut file, &about)?;
            return Err(Broken::final_(format!(
                "it does not end at its {} bytes",
                m.size
            )));
        }
        file.write_all(&data)
            .map_err(|e| Broken::final_(format!("cannot write {}: {e}", part.display())))?;
    }
    if at < m.size {
        return Err(Broken::passing(format!(
            "it ended at {at} of {} bytes",
            m.size
        )));
    }
    file.sync_all().map_err(Broken::passing)
}

fn start_anew(file: &mut File, about: &Path) -> Result<(), Broken> {
    record::remove(about).map_err(Broken::passing)?;
    file.set_len(0).map_err(Broken::passing)
}

fn refused(status: StatusCode) -> Broken {
    let why = format!("the server answers {status}");
    // What is missing or forbidden is so a minute later.
    let again = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    Broken { why, again }
}

/// The next piece, in time.
async fn next(
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
            Some(Err(e)) => return Err(Broken::passing(e)),
        }
    }
}

/// The connection of an answer: it has to live as long as its body is read.
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One GET, redirects followed to `https://` only; with the rest from there on where a part is had.
async fn get(
    address: &str,
    range: Option<(u64, &str)>,
    tls: &Tls,
    limits: &Limits,
    deadline: Instant,
) -> Result<(Response<Incoming>, Connection), Broken> {
    let mut address = address.to_owned();
    for _ in 0..=MOST_REDIRECTS {
        let asking = get_once(&address, range, tls, limits);
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

/// What a connection is read and written through.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn get_once(
    address: &str,
    range: Option<(u64, &str)>,
    tls: &Tls,
    limits: &Limits,
) -> Result<(Response<Incoming>, Connection), Broken> {
    let uri: Uri = address.parse().map_err(Broken::passing)?;
    let host = uri
        .host()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_owned();
    let encrypted = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    let connecting = async {
        let plain = TcpStream::connect((host.as_str(), port)).await?;
        let stream: Box<dyn Stream> = if encrypted {
            let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
            let config = tls.config().map_err(std::io::Error::other)?;
            Box::new(
                tokio_rustls::TlsConnector::from(config)
                    .connect(name, plain)
                    .await?,
            )
        } else {
            Box::new(plain)
        };
        std::io::Result::Ok(stream)
    };
    let stream = timeout(limits.idle, connecting)
        .await
        .map_err(|_| Broken::passing("no connection in time"))?
        .map_err(Broken::passing)?;
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
    let answer = timeout(limits.idle, sender.send_request(request))
        .await
        .map_err(|_| Broken::passing("no answer in time"))?
        .map_err(Broken::passing)?;
    Ok((answer, connection))
}

/// Whom to believe that a server is who it says; read when first needed, as a folder needs none.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Instead of the system's authorities.
    pub ca_file: Option<PathBuf>,
}

impl Tls {
    fn config(&self) -> Result<Arc<ClientConfig>, crate::mqtt::link::LinkError> {
        crate::mqtt::tls::without_client_cert(self.ca_file.as_deref())
    }
}

#[cfg(test)]
mod tests;
