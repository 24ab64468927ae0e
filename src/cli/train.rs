//! `train`: asks the daemon to learn; where none runs, learns here.

use std::sync::Arc;

use hyper::Method;

use super::{Exit, Failure, Outcome, block_on, tables};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::http::client::{self, ClientError};
use crate::night::Mode;
use crate::reading::Reading;
use crate::shutdown::Shutdown;
use crate::store::{AckToken, Committed, RunOutcome, Store, StoreError, StoreLock, Writer};
use crate::trainer::{self, RunEnd, Trigger};

/// Asks the daemon to learn; where none runs, learns here.
pub(super) fn train(config: Config, mode: Option<Mode>, json: bool) -> Outcome {
    let end = block_on(async {
        let socket = &config.http.socket;
        let query = mode.map_or(String::new(), |mode| format!("?mode={mode}"));
        let path = format!("/api/ml/retrain{query}");
        match client::request(socket, Method::POST, &path, String::new()).await {
            Ok(_) => Ok(None),
            Err(ClientError::NotRunning { .. }) => Ok(Some(train_here(config, mode).await?)),
            Err(error) => Err(error.into()),
        }
    })?;
    let Some(end) = end else {
        if json {
            println!("{}", serde_json::json!({ "queued": true }));
        } else {
            println!("the daemon learns now; `nightwatt runs` shows the outcome");
        }
        return Ok(Exit::Done);
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&end.report)?);
    } else {
        println!(
            "run {} {}: {}",
            end.run_id,
            end.outcome.as_str(),
            end.reason
        );
        if let Some(report) = &end.report {
            print!("{}", tables::report(&report.horizons));
        }
    }
    Ok(if end.outcome == RunOutcome::Failed {
        Exit::Failed
    } else {
        Exit::Done
    })
}

async fn train_here(config: Config, mode: Option<Mode>) -> Result<RunEnd, Failure> {
    let (_lock, store) = open_alone(&config)?;
    let station = trainer::Station {
        config: Arc::new(config),
        store: store.clone(),
        clock: Arc::new(SystemClock),
        program: std::env::current_exe()?,
    };
    let shutdown = Shutdown::on_signals()?;
    let end = trainer::train(&station, Trigger::Manual(mode), shutdown.begun()).await;
    store.stop().await;
    Ok(end?)
}

/// Opens the store for writing where no daemon does.
pub(super) fn open_alone(config: &Config) -> Result<(StoreLock, Store), StoreError> {
    let lock = StoreLock::acquire(&config.store.path)?;
    let store = Writer::start(&config.store.path, std::time::Duration::ZERO, 1, Nobody)?;
    Ok((lock, store))
}

/// Hears of commits where there is no broker to tell.
pub(super) struct Nobody;

impl Committed for Nobody {
    fn acknowledge(&mut self, _: &[AckToken]) {}
    fn stored(&mut self, _: Vec<Reading>) {}
}
