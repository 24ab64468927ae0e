//! `nightwatt replay`: publishes recorded readings as flat JSON, in the order of the file.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::mqtt::flat::{TopicTemplate, encode_flat};
use crate::mqtt::play::{BrokerArgs, PlayError, Played, Sink, Speed, Timed, play};
use crate::reading::{DeviceId, Field, TimestampMs, Values};
use crate::simulate::command::{parse_days, parse_time};
use crate::tidy::{TidyError, TidyReader};

/// What `nightwatt replay` accepts.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// Tidy CSV, plain or .gz: ts, device_id, servo_angle, lux, voltage, current, power, temperature, humidity, fan_on.
    /// ts is RFC 3339 (UTC where it has no zone) or an epoch in s or ms. A bad line is found before anything is sent
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where to publish
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// Only this device; may be repeated
    #[arg(long = "device", value_name = "NAME")]
    pub devices: Vec<String>,
    /// Only readings at or after this time, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub from: Option<TimestampMs>,
    /// Only readings before this time, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "days")]
    pub to: Option<TimestampMs>,
    /// Only so many days from the first reading chosen
    #[arg(long, value_name = "N", value_parser = parse_days)]
    pub days: Option<f64>,
    /// Move the times so that the first reading is at this time, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub start: Option<TimestampMs>,
    /// 1 is real time, 600 ten minutes a second, 0 or max as fast as the broker takes it
    #[arg(long, default_value = "max")]
    pub speed: Speed,
    /// Where each device publishes
    #[arg(long, value_name = "TOPIC", default_value = "solar/{device}/telemetry")]
    pub topic: TopicTemplate,
    /// Print the messages as JSON lines instead of publishing them
    #[arg(long)]
    pub print: bool,
}

/// Why not everything was replayed; `E` is the error of the readings' source.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError<E: std::error::Error> {
    /// The readings ended in an error.
    #[error(transparent)]
    Source(E),
    /// The way out.
    #[error(transparent)]
    Play(#[from] PlayError),
}

impl ReplayArgs {
    /// Opens the file, having read it once to the end: a bad line must not be found when half of the file is
    /// published. (A pipe can be read but once.) Columns nobody knows are told to `warn`.
    pub fn rows(&self, warn: impl FnOnce(&str)) -> Result<TidyReader, TidyError> {
        let reader = TidyReader::open(&self.file)?;
        if !reader.has_values() {
            return Err(TidyError::NoValues {
                path: self.file.clone(),
            });
        }
        if !reader.unknown_columns().is_empty() {
            let names = reader.unknown_columns().join(", ");
            let known = Field::ALL.map(Field::name).join(", ");
            warn(&format!(
                "not replayed, since not known: {names} (known: {known})"
            ));
        }
        if self.file.is_file() {
            TidyReader::open(&self.file)?.try_for_each(|row| row.map(drop))?;
        }
        Ok(reader)
    }

    /// Publishes what passes the filters until `readings` ends or `shutdown` resolves.
    ///
    /// The caller opens the file, so any source of readings will do.
    pub async fn run<E: std::error::Error>(
        &self,
        readings: impl Iterator<Item = Result<(DeviceId, TimestampMs, Values), E>>,
        out: &mut dyn Write,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Played, ReplayError<E>> {
        let mut topics: HashMap<DeviceId, String> = HashMap::new();
        let mut first: Option<TimestampMs> = None;
        let messages = readings.filter_map(|reading| {
            let (device, ts, values) = match reading {
                Ok(reading) => reading,
                Err(error) => return Some(Err(ReplayError::Source(error))),
            };
            if !self.devices.is_empty() && !self.devices.iter().any(|d| d == device.as_str()) {
                return None;
            }
            if self.from.is_some_and(|from| ts < from) || self.to.is_some_and(|to| ts >= to) {
                return None;
            }
            let first = *first.get_or_insert(ts);
            let span_ms = self.days.map(|days| (days * 86_400_000.0) as i64);
            // Files may hold one device after the other: skip what is too late, do not stop.
            if span_ms.is_some_and(|span| ts >= first.plus_ms(span)) {
                return None;
            }
            let ts = match self.start {
                Some(start) => ts.plus_ms(start.0 - first.0),
                None => ts,
            };
            let payload = encode_flat(&device, ts, &values);
            let topic = topics
                .entry(device)
                .or_insert_with_key(|device| self.topic.topic(device))
                .clone();
            Some(Ok(Timed {
                at: ts,
                topic,
                payload,
            }))
        });
        let sink = match self.print {
            true => Sink::Lines(out),
            false => Sink::Broker(self.broker.feed_options()?),
        };
        play(messages, self.speed, sink, shutdown).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::convert::Infallible;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        replay: ReplayArgs,
    }

    /// One reading an hour of two devices, from 2026-06-01; `a` first, then `b`.
    fn readings() -> Vec<Result<(DeviceId, TimestampMs, Values), Infallible>> {
        let start = parse_time("2026-06-01T00:00:00Z").unwrap();
        let of = |name: &'static str| {
            (0..72).map(move |hour| {
                let mut values = Values::default();
                values.set(Field::Power, Some(f64::from(hour) * 0.1));
                Ok((
                    DeviceId::new(name),
                    start.plus_min(i64::from(hour) * 60),
                    values,
                ))
            })
        };
        of("a").chain(of("b")).collect()
    }

    async fn printed(line: &str) -> Vec<String> {
        let line = format!("replay file.csv --print {line}");
        let args = Cli::try_parse_from(line.split_whitespace()).unwrap().replay;
        let mut out = Vec::new();
        let run = args.run(readings().into_iter(), &mut out, std::future::pending());
        run.await.unwrap();
        let text = String::from_utf8(out).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn everything_is_replayed_in_the_order_of_the_file() {
        let lines = printed("").await;
        assert_eq!(lines.len(), 144);
        assert_eq!(
            lines[3],
            r#"{"device_id":"a","ts":"2026-06-01T03:00:00Z","power":0.30000000000000004}"#
        );
        assert!(lines[72].contains(r#""b""#));
    }

    /// What becomes of a file of this text, and the warning about it.
    fn opened(text: &str) -> (Result<(), String>, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.csv");
        std::fs::write(&path, text).unwrap();
        let args = Cli::try_parse_from(["replay".as_ref(), path.as_os_str()]);
        let mut warning = String::new();
        let rows = args.unwrap().replay.rows(|text| warning = text.to_owned());
        (rows.map(drop).map_err(|e| e.to_string()), warning)
    }

    #[test]
    fn columns_and_times_are_looked_at_before_anything_is_published() {
        let good = "ts,device_id,power,lux\n2026-06-01T00:00:00Z,a,1,2\n";
        assert_eq!(opened(good), (Ok(()), String::new()));
        let (rows, warning) = opened(&good.replace("power", "watts"));
        assert_eq!(rows, Ok(()));
        assert!(
            warning.contains("watts") && warning.contains("power"),
            "{warning}"
        );
        let none = opened(&good.replace("power", "watts").replace("lux", "light"));
        assert!(none.0.unwrap_err().contains("power, temperature"));
        let late = opened(&format!("{good}yesterday,a,1,2\n"));
        assert!(late.0.unwrap_err().contains("line 3"));
    }

    #[tokio::test]
    async fn filters_choose_devices_and_times() {
        assert_eq!(printed("--device b").await.len(), 72);
        assert_eq!(printed("--device a --device b").await.len(), 144);
        assert_eq!(printed("--device c").await.len(), 0);
        let window = "--from 2026-06-01T10:00:00Z --to 2026-06-01T12:00:00Z";
        assert_eq!(printed(window).await.len(), 4);
        let days = printed("--from 2026-06-02T00:00:00Z --days 1").await;
        assert_eq!(days.len(), 48);
        assert!(days[23].contains("2026-06-02T23:00:00Z"));
    }

    #[tokio::test]
    async fn a_bad_row_ends_the_replay_with_its_error() {
        let args = Cli::try_parse_from(["replay", "f", "--print"])
            .unwrap()
            .replay;
        let bad = std::io::Error::other("row 2");
        let values = Values::default();
        let rows = vec![Ok((DeviceId::new("a"), TimestampMs(0), values)), Err(bad)];
        let mut out = Vec::new();
        let run = args.run(rows.into_iter(), &mut out, std::future::pending());
        let error = run.await.unwrap_err();
        assert!(matches!(error, ReplayError::Source(e) if e.to_string() == "row 2"));
        assert_eq!(out.iter().filter(|&&b| b == b'\n').count(), 1);
    }
}
