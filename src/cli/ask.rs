//! Asks the daemon; where none runs, the database gives the same answers.

use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Exit, Failure, block_on};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::http::client::{self, ClientError};
use crate::http::offline;

/// The answer to `GET path`.
pub(super) fn get(config: &Config, path: &str) -> Result<Value, Failure> {
    let socket = &config.http.socket;
    let asked =
        block_on(async { Ok(client::request(socket, Method::GET, path, String::new()).await) })?;
    match asked {
        Ok(answer) => Ok(answer),
        Err(ClientError::NotRunning { .. }) => offline::answer(config, SystemClock.now(), path)
            .map_err(|detail| Failure(Exit::Failed, detail)),
        Err(error) => Err(error.into()),
    }
}

/// A path with what was asked for: `/api/events?limit=3`.
pub(super) fn path(parts: &[&str], asked: &[(&str, Option<String>)]) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut path = String::new();
    for part in parts {
        path += "/";
        path += &encode(part);
    }
    let given = asked.iter().filter_map(|(key, value)| {
        let value = value.as_ref()?;
        Some(format!("{key}={}", encode(value)))
    });
    let query: Vec<String> = given.collect();
    if !query.is_empty() {
        path += "?";
        path += &query.join("&");
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_devices_and_people_write_stays_inside_its_place() {
        let asked = [
            ("from", Some("2026-01-01T00:00:00+01:00".to_owned())),
            ("to", None),
        ];
        assert_eq!(
            path(&["api", "devices", "a/b?c", "readings"], &asked),
            "/api/devices/a%2Fb%3Fc/readings?from=2026%2D01%2D01T00%3A00%3A00%2B01%3A00"
        );
        assert_eq!(path(&["api", "events"], &[]), "/api/events");
    }
}
