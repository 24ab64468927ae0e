//! `status`: one screen that begins with a verdict.

use hyper::Method;

use super::{Exit, Failure, Outcome, block_on};
use crate::clock::{self, Clock, SystemClock};
use crate::config::Config;
use crate::errors::chain;
use crate::http::client::{self, ClientError};
use crate::status;

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
