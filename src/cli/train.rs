//! `train`: asks the daemon to learn; where none runs, learns here.

use std::sync::Arc;

use hyper::Method;

use super::{Exit, Failure, Outcome, TrainArgs, block_on, tables};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::http::client::{self, ClientError};
use crate::reading::Reading;
use crate::shutdown::Shutdown;
use crate::store::{AckToken, Committed, RunOutcome, Store, StoreError, StoreLock, Writer};
use crate::trainer::{self, Asked, RunEnd, Trigger};

/// Asks the daemon to learn; where none runs, learns here.
pub(super) fn train(config: Config, args: TrainArgs) -> Outcome {
    let json = args.json.json;
    if args.dry_run {
        return show_preview(&config, args.force, json);
    }
    let asked = Asked {
        mode: args.mode,
        force: args.force,
        ..Asked::default()
    };
    let end = block_on(async {
        let socket = &config.http.socket;
        let mode = asked
            .mode
            .map_or(String::new(), |mode| format!("&mode={mode}"));
        let path = format!(
            "/api/ml/retrain?background=true&force={}{mode}",
            asked.force
        );
        match client::request(socket, Method::POST, &path, String::new()).await {
            Ok(_) => Ok(None),
            Err(ClientError::NotRunning { .. }) => Ok(Some(train_here(config, asked).await?)),
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

/// Says what a run now would do.
fn show_preview(config: &Config, force: bool, json: bool) -> Outcome {
    let preview = trainer::preview(config, SystemClock.now(), force)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&preview)?);
    } else {
        print!("{}", tables::preview(&preview));
    }
    Ok(Exit::Done)
}

async fn train_here(config: Config, asked: Asked) -> Result<RunEnd, Failure> {
    let (_lock, store) = open_alone(&config)?;
    let station = trainer::Station {
        config: Arc::new(config),
        store: store.clone(),
        clock: Arc::new(SystemClock),
        program: std::env::current_exe()?,
    };
    let shutdown = Shutdown::on_signals()?;
    // The lock is ours, so nothing is going on any more.
    store.close_interrupted_runs(SystemClock.now()).await?;
    let end = trainer::train(&station, Trigger::Manual(asked), |_| (), shutdown.begun()).await;
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
