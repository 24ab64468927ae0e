//! `snapshot` and `restore`: a verified copy of the store, and a copy put in its place.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hyper::Method;

use super::{Exit, Failure, Outcome, block_on};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::http::client::{self, ClientError};
use crate::store::snapshot::{self, Snapshot};
use crate::store::{StoreLock, recover};

/// A large store on a slow card takes its time.
const LIMIT: Duration = Duration::from_secs(3600);

#[derive(Args)]
pub(super) struct SnapshotArgs {
    /// Write it to this file, which must not exist, instead of the folder `snapshots` beside the store
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct RestoreArgs {
    /// The snapshot
    file: Option<PathBuf>,
    /// The newest of the folder `snapshots` beside the store
    #[arg(long)]
    latest: bool,
}

pub(super) fn snapshot(config: &Config, args: &SnapshotArgs) -> Outcome {
    let taken = match &args.to {
        // With the caller's own rights: the daemon's may not reach there.
        Some(to) => snapshot::write_to(&config.store.path, to, 0)?,
        None => match ask_daemon(config) {
            Some(answer) => answer?,
            None => {
                let _lock = StoreLock::acquire(&config.store.path)?;
                snapshot::write(&config.store.path, SystemClock.now(), 0)?
            }
        },
    };
    println!(
        "{}: {:.1} MB, verified, in {:.1} s",
        taken.path.display(),
        taken.bytes as f64 / 1e6,
        taken.ms as f64 / 1e3
    );
    Ok(Exit::Done)
}

/// The daemon's answer; none where none runs.
fn ask_daemon(config: &Config) -> Option<Result<Snapshot, Failure>> {
    let socket = &config.http.socket;
    let path = "/api/store/snapshot";
    let answer = block_on(async {
        Ok(client::request_within(LIMIT, socket, Method::POST, path, String::new()).await)
    });
    match answer {
        Ok(Ok(value)) => Some(serde_json::from_value(value).map_err(Failure::from)),
        Ok(Err(ClientError::NotRunning { .. })) => None,
        Ok(Err(error)) => Some(Err(error.into())),
        Err(failure) => Some(Err(failure)),
    }
}

pub(super) fn restore(config: &Config, args: &RestoreArgs) -> Outcome {
    let db = &config.store.path;
    let lock = StoreLock::acquire(db)?;
    let from = match &args.file {
        Some(file) => file.clone(),
        None => snapshot::list(db).into_iter().next().ok_or_else(|| {
            let text = format!("there is no snapshot of {}", db.display());
            Failure(Exit::Failed, text)
        })?,
    };
    let said = recover::restore(db, &from, &lock, SystemClock.now())?;
    println!("{said}");
    println!("start the daemon to go on: systemctl start nightwatt (or: nightwatt run)");
    Ok(Exit::Done)
}
