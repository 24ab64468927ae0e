//! `status`: one screen that begins with a verdict.

use std::io::IsTerminal;

use hyper::Method;

use super::{Exit, Failure, Outcome, block_on};
use crate::clock::{self, Clock, SystemClock};
use crate::config::Config;
use crate::errors::chain;
use crate::http::client::{self, ClientError};
use crate::status::{self, Level, Status};

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
    let (status, exit): (Status, Exit) = match answer {
        Ok(value) => (serde_json::from_value(value)?, Exit::Done),
        Err(ClientError::NotRunning { .. }) => {
            let now = SystemClock.now();
            let status = status::gather(config, None, now, clock::plausible(now)).map_err(|e| {
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
        let text = status::render(&status, config.site.zone());
        let coloured = colour(
            std::io::stdout().is_terminal(),
            std::env::var("NO_COLOR").ok().as_deref(),
            std::env::var("TERM").ok().as_deref(),
        );
        print!(
            "{}",
            if coloured {
                paint(&text, status.verdict.level)
            } else {
                text
            }
        );
    }
    Ok(exit)
}

/// Only where a person looks who has not said no (no-color.org).
fn colour(terminal: bool, no_color: Option<&str>, term: Option<&str>) -> bool {
    terminal && no_color.is_none_or(str::is_empty) && term.is_some_and(|t| t != "dumb")
}

/// The verdict's word in its colour.
fn paint(text: &str, level: Level) -> String {
    let code = match level {
        Level::Ok => 32,
        Level::Attention => 33,
        Level::Down => 31,
    };
    match text.split_once(' ') {
        Some((word, rest)) => format!("\u{1b}[1;{code}m{word}\u{1b}[0m {rest}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_whose_owner_wants_it() {
        assert!(colour(true, None, Some("xterm")));
        assert!(colour(true, Some(""), Some("xterm")));
        assert!(!colour(false, None, Some("xterm")));
        assert!(!colour(true, Some("1"), Some("xterm")));
        assert!(!colour(true, None, Some("dumb")));
        let painted = paint("DOWN       x\n", Level::Down);
        assert_eq!(painted, "\u{1b}[1;31mDOWN\u{1b}[0m       x\n");
    }
}
