//! Where releases come from: a folder, or HTTPS; bounded in size and time, and resumed where it broke off.

mod web;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::UpdateError;
use super::manifest::Manifest;
use super::record;
use crate::shutdown::Shutdown;
use web::Broken;

/// A copy looks so often, in bytes, whether it is to end.
const COPY_BYTES: usize = 1 << 16;

/// How long things may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// For a name, for a connection to each of its addresses, and for agreeing on keys.
    pub connect: Duration,
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
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            small: Duration::from_secs(60),
            whole: Duration::from_secs(30 * 60),
            pauses: [2, 10, 60].map(Duration::from_secs).into(),
        }
    }
}

/// Whom transfers believe, how long they may take, and what ends them.
#[derive(Clone, Default)]
pub struct Terms {
    /// Instead of the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// How long they may take.
    pub limits: Limits,
    /// Ends them where they are.
    pub stop: Shutdown,
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
        web::check_address(&full)?;
        Ok(Source::Web(full.trim_end_matches('/').to_owned()))
    }

    /// A small file, at most `most` bytes.
    pub fn small(&self, name: &str, most: u64, terms: &Terms) -> Result<Vec<u8>, UpdateError> {
        match self {
            Source::Folder(folder) => {
                record::read_small(&folder.join(name), most).map_err(UpdateError::Source)
            }
            Source::Web(base) => {
                let address = format!("{base}/{name}");
                tries(terms, &address, || read_small(&address, most, terms))
            }
        }
    }

    /// The file of `m` into `folder/part`, of exactly the declared size; what was there of it is kept
    /// where it is certain that it belongs to it.
    pub fn download(&self, m: &Manifest, folder: &Path, terms: &Terms) -> Result<(), UpdateError> {
        match self {
            Source::Folder(from) => copy(&from.join(&m.file), &folder.join("part"), m.size, terms),
            Source::Web(base) => {
                let address = format!("{base}/{}", m.file);
                tries(terms, &address, || fetch(&address, m, folder, terms))
            }
        }
    }
}

fn copy(from: &Path, to: &Path, size: u64, terms: &Terms) -> Result<(), UpdateError> {
    let copied = || {
        // One byte more than there may be, to see that it is too long.
        let mut source = record::open_file(from)?.take(size + 1);
        let mut file = File::create(to)?;
        let (mut buffer, mut had) = (vec![0; COPY_BYTES], 0);
        while !terms.stop.has_begun() {
            match source.read(&mut buffer)? {
                0 => return record::sync(&file).map(|()| Some(had)),
                n => {
                    file.write_all(&buffer[..n])?;
                    had += n as u64;
                }
            }
        }
        Ok(None)
    };
    let shown = from.display();
    let done = match copied() {
        Ok(Some(had)) if had == size => Ok(()),
        Ok(Some(_)) => Err(UpdateError::Source(format!(
            "{shown} does not have the size of {size} bytes"
        ))),
        Ok(None) => Err(UpdateError::Stopped),
        Err(e) => Err(UpdateError::Source(format!("cannot copy {shown}: {e}"))),
    };
    if done.is_err() {
        // A copy is not gone on with; on a full disk it would only take room.
        let _ = fs::remove_file(to);
    }
    done
}

/// A transfer, tried again where that may help. It runs on a thread that may wait, with a runtime of its own.
fn tries<T, Attempt: Future<Output = Result<T, Broken>>>(
    terms: &Terms,
    address: &str,
    attempt: impl Fn() -> Attempt,
) -> Result<T, UpdateError> {
    let failed = |why| UpdateError::Source(format!("cannot fetch {address}: {why}"));
    let trying = async {
        let mut pauses = terms.limits.pauses.iter();
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(Broken { why, again }) => match pauses.next().filter(|_| again) {
                    Some(pause) => {
                        tracing::info!(address, why, "the transfer broke off and is tried again");
                        tokio::time::sleep(*pause).await;
                    }
                    None => return Err(failed(why)),
                },
            }
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| failed(e.to_string()))?;
    let done = runtime.block_on(async {
        tokio::select! {
            biased;
            () = terms.stop.begun() => Err(UpdateError::Stopped),
            done = trying => done,
        }
    });
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    done
}

async fn read_small(address: &str, most: u64, terms: &Terms) -> Result<Vec<u8>, Broken> {
    let limits = &terms.limits;
    let deadline = Instant::now() + limits.small;
    let (response, _connection) = web::get(address, None, terms, deadline).await?;
    if response.status() != StatusCode::OK {
        return Err(Broken::refused(response.status()));
    }
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(data) = web::next(&mut body, limits, deadline).await? {
        if (bytes.len() + data.len()) as u64 > most {
            return Err(Broken::final_(format!("it is longer than {most} bytes")));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

async fn fetch(address: &str, m: &Manifest, folder: &Path, terms: &Terms) -> Result<(), Broken> {
    let limits = &terms.limits;
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
    let (response, _connection) = web::get(address, range, terms, deadline).await?;
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
        other => return Err(Broken::refused(other)),
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
    while let Some(data) = web::next(&mut body, limits, deadline).await? {
        at += data.len() as u64;
        if at > m.size {
            start_anew(&mut file, &about)?;
            return Err(Broken::final_(format!(
                "it does not end at its {} bytes",
                m.size
            )));
        }
        file.write_all(&data).map_err(|e| {
            // On a full disk it would only take room.
            let _ = fs::remove_file(&part);
            Broken::final_(format!("cannot write {}: {e}", part.display()))
        })?;
    }
    if at < m.size {
        return Err(Broken::passing(format!(
            "it ended at {at} of {} bytes",
            m.size
        )));
    }
    record::sync(&file).map_err(Broken::passing)
}

fn start_anew(file: &mut File, about: &Path) -> Result<(), Broken> {
    record::remove(about).map_err(Broken::passing)?;
    file.set_len(0).map_err(Broken::passing)
}

#[cfg(test)]
mod tests;
