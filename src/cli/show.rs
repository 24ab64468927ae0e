//! The commands that only show: `status`, `forecast`.

use hyper::Method;

use super::{Exit, Failure, ForecastArgs, Outcome};
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
