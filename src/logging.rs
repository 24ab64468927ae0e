//! The log on standard error: one line an event, `key=value` or JSON, with the journal's priorities where the journal listens.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::os::fd::AsFd;

use chrono::{SecondsFormat, Utc};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::errors;

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The message, then `key=value`.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Logs to standard error. The variable `NIGHTWATT_LOG` sets the levels (`debug`,
/// `warn,nightwatt=info`), else `default` does.
pub fn to_stderr(format: Format, default: &str) {
    let asked = std::env::var("NIGHTWATT_LOG")
        .ok()
        .and_then(|text| text.parse().ok());
    let levels: Targets = asked.or_else(|| default.parse().ok()).unwrap_or_default();
    let journal = is_journal();
    tracing_subscriber::registry()
        .with(Lines { format, journal })
        .with(Reports)
        .with(levels)
        .init();
}

/// Whether standard error ends in the journal: `JOURNAL_STREAM` names the device and inode of the
/// stream that systemd made, and a redirected standard error is another one.
fn is_journal() -> bool {
    std::env::var("JOURNAL_STREAM").is_ok_and(|named| {
        rustix::fs::fstat(std::io::stderr().as_fd())
            .is_ok_and(|s| named == format!("{}:{}", s.st_dev, s.st_ino))
    })
}

struct Lines {
    format: Format,
    journal: bool,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        let time = (!self.journal).then(|| Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true));
        let level = *event.metadata().level();
        let mut line = match self.journal {
            true => priority(level).to_owned(),
            false => String::new(),
        };
        match self.format {
            Format::Text => said.text(&mut line, time.as_deref(), level),
            Format::Json => said.json(&mut line, time, level),
        }
        line.push('\n');
        // In one piece, so that no other process's line gets in between. Where nobody can be told
        // there is nobody to tell that either.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

/// Keeps what went wrong for the error reports: every warning and error of ours that is logged.
struct Reports;

impl<S: Subscriber> Layer<S> for Reports {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        let Some(stage) = errors::stage(meta.target()).filter(|_| *meta.level() <= Level::WARN)
        else {
            return;
        };
        let mut said = Said::default();
        event.record(&mut said);
        let mut text = said.message;
        // Where the cause is a field of its own it ends the chain.
        for (key, value) in &said.fields {
            match value {
                Value::String(value) if matches!(*key, "error" | "why") => {
                    let _ = write!(text, ": {value}");
                }
                Value::String(value) => {
                    let _ = write!(text, " ({key} {value})");
                }
                _ => {}
            }
        }
        let level = meta.level().as_str().to_lowercase();
        errors::note(stage, &level, text, Utc::now().into());
    }
}

/// What sd-daemon(3) puts before a line; the journal takes it off again.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

/// An event's message and fields, in their order.
#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Said {
    fn text(&self, line: &mut String, time: Option<&str>, level: Level) {
        if let Some(time) = time {
            let _ = write!(line, "{time} {level:>5} ");
        }
        escape(line, &self.message);
        for (key, value) in &self.fields {
            let _ = write!(line, " {key}=");
            match value {
                // Bare where that cannot be misread.
                Value::String(s) if !s.is_empty() && !s.contains([' ', '"', '=']) => {
                    escape(line, s);
                }
                other => {
                    let _ = write!(line, "{other}");
                }
            }
        }
    }

    fn json(self, line: &mut String, time: Option<String>, level: Level) {
        let first = time.map(|time| ("time", Value::from(time)));
        let level = ("level", level.as_str().to_lowercase().into());
        let said = [level, ("message", self.message.into())];
        line.push('{');
        for (i, (key, value)) in first.into_iter().chain(said).chain(self.fields).enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let _ = write!(line, "{comma}{}:{value}", Value::from(key));
        }
        line.push('}');
    }

    fn take(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", other) => self.message = other.to_string(),
            // Where a library that uses `log` stands in its sources.
            (name, _) if name.starts_with("log.") => {}
            (name, value) => self.fields.push((name, value)),
        }
    }
}

/// Control characters would let what a device or broker sends break a line or a terminal.
fn escape(line: &mut String, text: &str) {
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.take(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.take(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.take(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.take(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Said {
        Said {
            message: "no connection\nto \u{1b}[31mthe broker".into(),
            fields: vec![
                ("error", "refused: Not authorized".into()),
                ("broker", "mqtt://pi".into()),
                ("after_s", 5.into()),
            ],
        }
    }

    #[test]
    fn a_line_of_text_is_one_line_that_can_be_taken_apart_again() {
        let mut line = String::new();
        said().text(&mut line, Some("2026-06-03T12:00:00.000Z"), Level::WARN);
        assert_eq!(
            line,
            "2026-06-03T12:00:00.000Z  WARN no connection\\nto \\u{1b}[31mthe broker \
             error=\"refused: Not authorized\" broker=mqtt://pi after_s=5"
        );
    }

    #[test]
    fn a_line_of_json_is_one_object_with_numbers_as_numbers() {
        let mut line = priority(Level::ERROR).to_owned();
        said().json(&mut line, None, Level::ERROR);
        let object: Value = serde_json::from_str(line.strip_prefix("<3>").unwrap()).unwrap();
        assert_eq!(object["level"], "error");
        assert_eq!(object["after_s"], 5);
        assert!(object["message"].as_str().unwrap().contains('\n'));
        assert!(!line.contains('\n'), "{line}");
    }
}
