//! The store open for writing in a command, where no daemon runs.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use super::{Exit, Failure, block_on};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::http::client::{self, ClientError};
use crate::store::{Nobody, Store, StoreError, StoreLock, Writer};

/// Has the daemon change something; where none runs, `here` does it and answers as the daemon would.
pub(super) fn change(
    config: &Config,
    method: Method,
    path: &str,
    here: impl AsyncFnOnce(&Store) -> Result<Value, Failure>,
) -> Result<Value, Failure> {
    block_on(async {
        match client::request(&config.http.socket, method, path, String::new()).await {
            Err(ClientError::NotRunning { .. }) => {
                let alone = Alone::open(config).await?;
                let done = here(&alone.store).await;
                alone.close().await?;
                done
            }
            answer => Ok(answer?),
        }
    })
}

/// The store, ours alone.
pub(super) struct Alone {
    pub(super) store: Store,
    lock: StoreLock,
    in_order: bool,
    db: PathBuf,
}

impl Alone {
    /// Opens the store; where there is none, none is made.
    pub(super) async fn open(config: &Config) -> Result<Self, Failure> {
        let db = config.store.path.clone();
        if !db.exists() {
            let text = format!("there is nothing yet: no store at {}", db.display());
            return Err(Failure(Exit::Failed, text));
        }
        let lock = StoreLock::acquire(&db)?;
        let in_order = lock.was_closed_in_order(&db)?;
        let store = Writer::start(&db, Duration::ZERO, 1, Nobody)?;
        // An earlier mark of a crash or of damage stays.
        if in_order {
            lock.mark_running()?;
        }
        // The lock is ours, so nothing is going on any more.
        store.close_interrupted_runs(SystemClock.now()).await?;
        Ok(Self {
            store,
            lock,
            in_order,
            db,
        })
    }

    /// Closes it. The next start has nothing to check where it had nothing to check before.
    pub(super) async fn close(self) -> Result<(), StoreError> {
        if self.store.stop().await && self.in_order {
            self.lock.mark_clean(&self.db)?;
        }
        Ok(())
    }
}
