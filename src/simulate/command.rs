//! `nightwatt simulate`: publishes a simulated tracker, or prints what it would publish.

use std::io::Write;

use clap::Args;

use super::{Axes, Fault, Params, SimulateError, Simulator};
use crate::mqtt::flat::TopicTemplate;
use crate::mqtt::play::{BrokerArgs, PlayError, Played, Sink, Speed, Timed, play};
use crate::reading::TimestampMs;
use crate::sun::Site;

/// What `nightwatt simulate` accepts.
#[derive(Clone, Debug, Args)]
pub struct SimulateArgs {
    /// Where to publish
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// Number of trackers, named t01, t02, …
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub devices: usize,
    /// Days to simulate
    #[arg(long, value_name = "N", default_value = "1", conflicts_with = "forever", value_parser = parse_days)]
    pub days: f64,
    /// Go on until stopped
    #[arg(long)]
    pub forever: bool,
    /// Time of the first sample, RFC 3339 [default: --days ago, or now with --forever]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub start: Option<TimestampMs>,
    /// Seconds from one sample of a tracker to its next
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub step: u32,
    /// 1 is real time, 600 ten minutes a second, 0 or max as fast as the broker takes it [default: max, or 1 with --forever]
    #[arg(long)]
    pub speed: Option<Speed>,
    /// single (horizontal, north-south) or dual
    #[arg(long, value_name = "AXES", default_value = "dual")]
    pub axes: Axes,
    /// Where the trackers stand: latitude,longitude in degrees (negative: --site=-7.77,110.38)
    #[arg(long, value_name = "LAT,LON", default_value = "40.45,-3.73", value_parser = parse_site)]
    pub site: Site,
    /// Panel power under standard conditions, W
    #[arg(long, value_name = "WATTS", default_value_t = 100.0)]
    pub capacity: f64,
    /// The same seed gives the same samples
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where each tracker publishes
    #[arg(long, value_name = "TOPIC", default_value = "solar/{device}/telemetry")]
    pub topic: TopicTemplate,
    /// Break something: KIND:DEVICE:START_MIN:DURATION_MIN[:VALUE], DEVICE or `all`.
    /// Kinds: stuck, slow[:DEG_PER_H], reversed, nan[:FIELD], cap:WATTS, outage, skew:SECONDS.
    /// May be repeated
    #[arg(long = "fault", value_name = "FAULT")]
    pub faults: Vec<Fault>,
    /// Print the messages as JSON lines instead of publishing them
    #[arg(long)]
    pub print: bool,
}

/// Why `nightwatt simulate` stopped early.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The parameters.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
    /// The way out.
    #[error(transparent)]
    Play(#[from] PlayError),
}

impl SimulateArgs {
    /// Simulates until the days are over or `shutdown` resolves; `out` is used with `--print`.
    pub async fn run(
        &self,
        now: TimestampMs,
        out: &mut dyn Write,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Played, CommandError> {
        let span_ms = (self.days * 86_400_000.0) as i64;
        let start = self.start.unwrap_or(match self.forever {
            true => now,
            false => now.plus_ms(-span_ms),
        });
        let end = start.plus_ms(if self.forever { i64::MAX } else { span_ms });
        let simulator = Simulator::new(Params {
            devices: self.devices,
            start,
            step_s: self.step,
            axes: self.axes,
            site: self.site,
            capacity_w: self.capacity,
            seed: self.seed,
            faults: self.faults.clone(),
        })?;
        let messages = simulator.take_while(|s| s.at < end).map(|sample| {
            Ok(Timed {
                at: sample.at,
                topic: self.topic.topic(&sample.device),
                payload: sample.payload(),
            })
        });
        let speed = self.speed.unwrap_or(match self.forever {
            true => Speed::Times(1.0),
            false => Speed::Max,
        });
        let sink = match self.print {
            true => Sink::Lines(out),
            false => Sink::Broker(self.broker.feed_options()?),
        };
        play(messages, speed, sink, shutdown).await
    }
}

/// A time as RFC 3339, for clap.
pub fn parse_time(text: &str) -> Result<TimestampMs, &'static str> {
    let accepted = "accepted: RFC 3339 such as 2026-06-03T12:00:00Z";
    text.parse().map_err(|_| accepted)
}

/// A number of days above 0, for clap.
pub fn parse_days(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(days) if days > 0.0 && days <= 36_525.0 => Ok(days),
        _ => Err("not a number of days above 0".to_owned()),
    }
}

fn parse_site(text: &str) -> Result<Site, String> {
    let numbers = text.split_once(',').and_then(|(lat, lon)| {
        let latitude_deg = lat.trim().parse().ok()?;
        let longitude_deg = lon.trim().parse().ok()?;
        Some(Site {
            latitude_deg,
            longitude_deg,
        })
    });
    numbers.ok_or_else(|| format!("`{text}` is not latitude,longitude in degrees"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        simulate: SimulateArgs,
    }

    fn args(line: &str) -> SimulateArgs {
        Cli::try_parse_from(line.split(' ')).unwrap().simulate
    }

    async fn printed(line: &str) -> Vec<serde_json::Value> {
        let mut out = Vec::new();
        let now = parse_time("2026-06-10T00:00:00Z").unwrap();
        let args = args(line);
        let run = args.run(now, &mut out, std::future::pending());
        let played = run.await.unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(played.messages, lines.len() as u64);
        lines
    }

    #[tokio::test]
    async fn a_day_ends_now_and_has_a_line_per_device_and_step() {
        let lines = printed("simulate --print --days 1 --devices 2 --step 600").await;
        assert_eq!(lines.len(), 2 * 144);
        assert_eq!(lines[0]["ts"], "2026-06-09T00:00:00Z");
        assert_eq!(lines[287]["ts"], "2026-06-09T23:50:00Z");
        assert_eq!(lines[287]["device_id"], "t02");
    }

    #[tokio::test]
    async fn forever_starts_now_and_stops_at_the_shutdown() {
        let mut out = Vec::new();
        let now = parse_time("2026-06-10T00:00:00Z").unwrap();
        let forever = args("simulate --print --forever --speed max --step 3600");
        let shutdown = async {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
        };
        let played = forever.run(now, &mut out, shutdown).await.unwrap();
        assert!(played.messages > 0);
        assert!(
            String::from_utf8(out)
                .unwrap()
                .contains("2026-06-10T00:00:00Z")
        );
    }

    #[test]
    fn a_wrong_argument_is_refused_with_its_reason() {
        let error = |line: &str| match Cli::try_parse_from(line.split(' ')) {
            Ok(_) => panic!("accepted: {line}"),
            Err(error) => error.to_string(),
        };
        assert!(error("simulate --axes both").contains("neither `single` nor `dual`"));
        assert!(error("simulate --site here").contains("latitude,longitude"));
        assert!(error("simulate --speed fast").contains("real time"));
        assert!(error("simulate --fault melted:t01:0:1").contains("fault kind"));
        assert!(error("simulate --days 1 --forever").contains("cannot be used with"));
        assert!(error("simulate --days 0").contains("days above 0"));
        assert!(error("simulate --broker pi").contains("mqtt://"));
    }
}
