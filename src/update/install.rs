//! A release from its source to a version here that has checked itself; nothing of it is in force yet.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::UpdateError;
use super::layout::{self, Layout, MANIFEST, PROGRAM, SIGNATURE};
use super::manifest::Manifest;
use super::record;
use super::signature::Keys;
use super::source::{Source, Terms};
use crate::shutdown::Shutdown;
use crate::store::space;
use crate::words::printable;

/// A candidate's own check may take this long.
const SELF_CHECK_LIMIT: Duration = Duration::from_secs(60);
/// More of what it says is not read, bytes.
const SELF_CHECK_BYTES: u64 = 4096;
/// With this status it ends where it could not start with the configuration.
const WRONG_CONFIGURATION: i32 = 2;

/// A release that was decided for.
pub struct Offer {
    /// What it is.
    pub manifest: Manifest,
    /// The signed bytes.
    pub raw: Vec<u8>,
    /// Their signature.
    pub signature: Vec<u8>,
}

/// Brings the release here: downloaded, compared with its hash, put in place under its sequence, durably.
/// Cut off anywhere, what is missing is done by the next time. `spare_bytes` stay free. Without a source it has to be
/// here already.
pub fn install(
    layout: &Layout,
    keys: &Keys,
    offer: &Offer,
    source: Option<&Source>,
    terms: &Terms,
    spare_bytes: u64,
) -> Result<(), UpdateError> {
    let m = &offer.manifest;
    layout.prune(Some(m.sequence));
    if (layout.held(m.sequence, keys)).is_ok_and(|held| held.raw == offer.raw) {
        return Ok(());
    }
    let source = source.ok_or_else(|| UpdateError::Damaged("it has to be fetched again".into()))?;
    let download = layout.path("download");
    fs::create_dir_all(&download).map_err(UpdateError::file("create", &download))?;
    let part = download.join("part");
    // Of a manifest that was signed anew the file is the same.
    let program = layout.program(m.sequence);
    if layout::check_file(&program, m).is_ok() {
        fs::copy(&program, &part).map_err(UpdateError::file("copy", &program))?;
    }
    let whole = || layout::hash(&part).is_ok_and(|found| found == m.sha256);
    if !whole() {
        let needed = 2 * m.size + spare_bytes;
        let free = space::free_bytes(&download).unwrap_or(u64::MAX);
        if free < needed {
            return Err(UpdateError::NoRoom { needed, free });
        }
        source.download(m, &download, terms)?;
        if !whole() {
            let _ = fs::remove_dir_all(&download);
            return Err(UpdateError::Source(
                "the file is not what was signed".into(),
            ));
        }
    }
    place(layout, offer, &part).map_err(|(path, e)| {
        // On a full disk it would only take room.
        let _ = fs::remove_dir_all(layout.aside());
        UpdateError::file("install", &path)(e)
    })?;
    // What is left of it only takes room.
    let _ = fs::remove_dir_all(&download);
    Ok(())
}

/// The whole folder of a version is made aside and then renamed.
fn place(layout: &Layout, offer: &Offer, part: &Path) -> Result<(), (PathBuf, std::io::Error)> {
    let folder = layout.version(offer.manifest.sequence);
    let aside = layout.aside();
    let at = |path: &Path| {
        let path = path.to_owned();
        move |e| (path, e)
    };
    record::gone(fs::remove_dir_all(&aside)).map_err(at(&aside))?;
    fs::create_dir(&aside).map_err(at(&aside))?;
    for (name, bytes) in [(MANIFEST, &offer.raw), (SIGNATURE, &offer.signature)] {
        let path = aside.join(name);
        let mut new = File::options();
        let written = (new.create_new(true).write(true).mode(0o644))
            .open(&path)
            .and_then(|mut f| f.write_all(bytes).and_then(|()| record::sync(&f)));
        written.map_err(at(&path))?;
    }
    let program = aside.join(PROGRAM);
    let moved = fs::rename(part, &program).and_then(|()| {
        let file = File::open(&program)?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        record::sync(&file)?;
        record::sync_parent(&program)
    });
    moved.map_err(at(&program))?;
    // One that is damaged makes room for this one.
    record::gone(fs::remove_dir_all(&folder)).map_err(at(&folder))?;
    fs::rename(&aside, &folder)
        .and_then(|()| record::sync_parent(&folder))
        .map_err(at(&folder))
}

/// Has the candidate look at this station's configuration and database, in time, and say its version.
pub fn self_check(
    program: &Path,
    config: Option<&Path>,
    m: &Manifest,
    stop: &Shutdown,
) -> Result<(), UpdateError> {
    let failed = |why: String| UpdateError::SelfCheck(why);
    let answer = ask(program, config, stop)?.map_err(failed)?;
    if !answer.status.success() {
        let (status, why) = (answer.status, answer.complaint);
        return Err(failed(format!("it ended with {status}{why}")));
    }
    match answer.line == format!("nightwatt {}", m.version) {
        true => Ok(()),
        false => Err(failed(format!(
            "it calls itself {:?} and not {}",
            answer.line, m.version
        ))),
    }
}

/// What the version of `program` objects to in this station's configuration, by its own check. How that check
/// fails otherwise is no reason against a version that has run here.
pub fn objection(
    program: &Path,
    config: Option<&Path>,
    stop: &Shutdown,
) -> Result<Option<String>, UpdateError> {
    let answer = ask(program, config, stop)?.ok();
    let answer = answer.filter(|a| a.status.code() == Some(WRONG_CONFIGURATION));
    Ok(answer.map(|a| a.complaint))
}

/// How a version's own check ended.
struct Answer {
    status: ExitStatus,
    /// Its first line.
    line: String,
    /// What it said on standard error, after a colon; empty where it said nothing.
    complaint: String,
}

/// The inner error is why there is no answer.
fn ask(
    program: &Path,
    config: Option<&Path>,
    stop: &Shutdown,
) -> Result<Result<Answer, String>, UpdateError> {
    let mut command = tokio::process::Command::new(program);
    command.arg("self-check");
    if let Some(config) = config {
        command.arg("-c").arg(config);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let check = async {
        let mut child = command.spawn()?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (out, err) = tokio::try_join!(beginning(out), beginning(err))?;
        std::io::Result::Ok((child.wait().await?, out, err))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => return Ok(Err(e.to_string())),
    };
    let asked = runtime.block_on(async {
        tokio::select! {
            () = stop.begun() => Err(UpdateError::Stopped),
            asked = tokio::time::timeout(SELF_CHECK_LIMIT, check) => Ok(asked),
        }
    })?;
    Ok(match asked {
        Err(_) => Err(format!("no answer in {} s", SELF_CHECK_LIMIT.as_secs())),
        Ok(Err(e)) => Err(e.to_string()),
        Ok(Ok((status, out, err))) => Ok(Answer {
            status,
            line: out.lines().next().unwrap_or_default().to_owned(),
            // What goes wrong is said last.
            complaint: match err.trim().lines().last() {
                Some(said) => format!(": {}", printable(said)),
                None => String::new(),
            },
        }),
    })
}

/// The first bytes of what a check says.
async fn beginning(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut said = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(SELF_CHECK_BYTES).read_to_end(&mut said).await?;
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}
