//! The commands that only show: `status`, `models`, `forecast`.

use hyper::Method;

use super::{Exit, Failure, ForecastArgs, ModelsArgs, ModelsVerb, Outcome};
use super::{block_on, tables};
use crate::clock::{self, Clock, SystemClock};
use crate::config::Config;
use crate::errors::chain;
use crate::http::client::{self, ClientError};
use crate::reading::DeviceId;
use crate::status;
use crate::store::Reader;

pub(super) fn show_status(config: &Config, json: bool) -> Outcome {
    let answer = block_on(async {
        Ok(client::request(
            &config.http.socket,
            Method::GET,
            "/api/status",
            String::new(),
        )
        .await)
    })?;
    let (status, exit) = match answer {
        Ok(value) => (serde_json::from_value(value)?, Exit::Done),
        Err(ClientError::NotRunning { .. }) => {
            let now = SystemClock.now();
            let status = status::gather(&config.store.path, None, now, clock::plausible(now))
                .map_err(|e| {
                    let text = format!(
                        "the daemon is not running (nightwatt run), and {}",
                        chain(&e)
                    );
                    Failure(Exit::NoDaemon, text)
                })?;
            (status, Exit::NoDaemon)
        }
        Err(error) => return Err(error.into()),
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", status::render(&status));
    }
    Ok(exit)
}

pub(super) fn models(config: &Config, args: ModelsArgs) -> Outcome {
    let reader = Reader::open(&config.store.path)?;
    let unknown = |version| {
        Failure(
            Exit::Failed,
            format!("there is no model version {version}; `nightwatt models` lists them"),
        )
    };
    match args.verb {
        Some(ModelsVerb::Show { version }) => {
            let model = reader.model(version)?.ok_or_else(|| unknown(version))?;
            if args.json.json {
                println!("{}", serde_json::to_string_pretty(&model)?);
            } else {
                print!("{}", tables::model(&model));
            }
        }
        Some(ModelsVerb::Export { version, file }) => {
            let bytes = reader
                .model_bytes(version)?
                .ok_or_else(|| unknown(version))?;
            std::fs::write(&file, &bytes).map_err(|e| {
                Failure(
                    Exit::Failed,
                    format!("cannot write {}: {e}", file.display()),
                )
            })?;
            println!("{} bytes in {}", bytes.len(), file.display());
        }
        None => {
            let models = reader.models(31)?;
            if args.json.json {
                println!("{}", serde_json::to_string_pretty(&models)?);
            } else {
                print!("{}", tables::models(&models));
            }
        }
    }
    Ok(Exit::Done)
}

pub(super) fn forecast(config: &Config, args: ForecastArgs) -> Outcome {
    let reader = Reader::open(&config.store.path)?;
    let mut rows = reader.latest_forecasts()?;
    if let Some(name) = &args.device {
        let device = DeviceId::new(name);
        rows.retain(|f| f.device == device);
        if rows.is_empty() {
            return Err(Failure(
                Exit::Failed,
                format!("there is no forecast for {name}"),
            ));
        }
    }
    if args.json.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print!("{}", tables::forecasts(&rows, SystemClock.now()));
    }
    Ok(Exit::Done)
}
