//! Plays timed messages to a broker or a writer, at their own speed, faster, or flat out.

use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::broker_url::BrokerUrl;
use super::feed::{Feed, FeedError, FeedOptions, publish_first};
use crate::reading::TimestampMs;

/// The broker to publish to, as the command line says it.
#[derive(Clone, Debug, clap::Args)]
pub struct BrokerArgs {
    /// Broker address: mqtt://[USER@]HOST[:PORT]
    #[arg(long, value_name = "URL", default_value = "mqtt://127.0.0.1:1883")]
    pub broker: BrokerUrl,
    /// User name at the broker, unless the address holds it
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    /// File whose first line is the password at the broker
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

impl BrokerArgs {
    /// Reads the password file and puts the options of a feed together.
    pub fn feed_options(&self) -> Result<FeedOptions, PlayError> {
        let mut options = FeedOptions::new(self.broker.clone());
        if self.username.is_some() {
            options.broker.username.clone_from(&self.username);
        }
        if let Some(path) = &self.password_file {
            let text = std::fs::read_to_string(path).map_err(|source| PlayError::Password {
                path: path.clone(),
                source,
            })?;
            options.password = Some(text.lines().next().unwrap_or_default().to_owned());
        }
        Ok(options)
    }
}

/// How fast the messages' own time passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// As fast as the broker acknowledges.
    Max,
    /// So many times faster than the clock.
    Times(f64),
}

/// A speed that is neither `max` nor a number from 0 up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("speed `{0}` is neither `max` nor a number (1 = real time, 0 = flat out)")]
pub struct SpeedError(String);

impl FromStr for Speed {
    type Err = SpeedError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "max" {
            return Ok(Speed::Max);
        }
        match text.parse::<f64>() {
            Ok(0.0) => Ok(Speed::Max),
            Ok(times) if times.is_finite() && times > 0.0 => Ok(Speed::Times(times)),
            _ => Err(SpeedError(text.to_owned())),
        }
    }
}

impl Speed {
    /// How long after the first message one that is `later_ms` younger is due; `None`: at once.
    fn due_after(self, later_ms: i64) -> Option<Duration> {
        match self {
            Speed::Max => None,
            // An unordered message is due at once; ten years are beyond anybody's patience.
            Speed::Times(times) => Some(Duration::from_secs_f64(
                (later_ms as f64 / 1e3 / times).clamp(0.0, 3e8),
            )),
        }
    }
}

/// A message and the moment, in its own time, at which it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed {
    /// When the device sends it.
    pub at: TimestampMs,
    /// Where it goes.
    pub topic: String,
    /// What it says.
    pub payload: String,
}

/// Where the messages go.
pub enum Sink<'a> {
    /// To a broker; it counts what is acknowledged.
    Broker(FeedOptions),
    /// To a writer, one payload a line.
    Lines(&'a mut dyn Write),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Played {
    /// Messages acknowledged, or lines written.
    pub messages: u64,
    /// From the first to the last acknowledgement, seconds.
    pub elapsed_s: f64,
}

/// Why not everything was played.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// The broker did not take the messages.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The password file.
    #[error("cannot read password file {path}")]
    Password {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The writer.
    #[error("cannot write message {number}")]
    Write {
        /// The message's number, from 1.
        number: u64,
        /// Why.
        source: io::Error,
    },
}

/// Sends every message when it is due, until there are no more or `shutdown` resolves.
///
/// What was sent by then is waited for. A reader that closes its end of a pipe ends it, too.
pub async fn play<E: From<PlayError>>(
    messages: impl Iterator<Item = Result<Timed, E>>,
    speed: Speed,
    sink: Sink<'_>,
    shutdown: impl Future<Output = ()>,
) -> Result<Played, E> {
    let mut shutdown = pin!(shutdown);
    let mut output = match sink {
        Sink::Broker(options) => {
            let feed = Feed::connect(options.clone()).await.map_err(from_feed)?;
            Output::Feed(Box::new(Feeding {
                feed,
                probe: Some(options),
                first: 0,
            }))
        }
        Sink::Lines(out) => Output::Lines(out, 0),
    };
    let began = Instant::now();
    let mut first = None;
    for message in messages {
        let message = message?;
        let first = *first.get_or_insert(message.at);
        let due = speed.due_after(message.at.0.saturating_sub(first.0));
        let one = async {
            if let Some(after) = due {
                output.flush()?;
                sleep_until(began + after).await;
            }
            output.send(message).await
        };
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            sent = one => if !sent? { break },
        }
    }
    output.flush()?;
    let messages = match output {
        Output::Feed(f) => f.first + f.feed.finish().await.map_err(from_feed)?,
        Output::Lines(_, count) => count,
    };
    Ok(Played {
        messages,
        elapsed_s: began.elapsed().as_secs_f64(),
    })
}

fn from_feed<E: From<PlayError>>(error: FeedError) -> E {
    PlayError::from(error).into()
}

struct Feeding {
    feed: Feed,
    /// The first message goes by itself where this is still there.
    probe: Option<FeedOptions>,
    /// Messages that went so and arrived.
    first: u64,
}

enum Output<'a> {
    Feed(Box<Feeding>),
    Lines(&'a mut dyn Write, u64),
}

impl Output<'_> {
    /// So that a reader has every line before a wait.
    fn flush(&mut self) -> Result<(), PlayError> {
        match self {
            Output::Feed(..) => Ok(()),
            Output::Lines(out, count) => match out.flush() {
                Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(PlayError::Write {
                    number: *count,
                    source: e,
                }),
                _ => Ok(()),
            },
        }
    }

    /// False where nobody reads any more.
    async fn send(&mut self, message: Timed) -> Result<bool, PlayError> {
        match self {
            Output::Feed(f) => {
                if let Some(options) = f.probe.take() {
                    let payload = message.payload.as_bytes();
                    if publish_first(&options, &message.topic, payload).await? {
                        f.first = 1;
                        return Ok(true);
                    }
                }
                f.feed
                    .publish(&message.topic, message.payload.into_bytes())
                    .await?;
                Ok(true)
            }
            Output::Lines(out, count) => {
                // Writing never waits: let the shutdown and others have their turn.
                tokio::task::yield_now().await;
                match writeln!(out, "{}", message.payload) {
                    Ok(()) => {
                        *count += 1;
                        Ok(true)
                    }
                    Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
                    Err(source) => Err(PlayError::Write {
                        number: *count + 1,
                        source,
                    }),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::identity;
    use std::future::pending;

    use super::*;
    use crate::mqtt::mosquitto::Mosquitto;

    fn hourly(count: i64) -> impl Iterator<Item = Result<Timed, PlayError>> {
        (0..count).map(|hour| {
            Ok(Timed {
                at: TimestampMs(hour * 3_600_000),
                topic: "t".to_owned(),
                payload: hour.to_string(),
            })
        })
    }

    #[test]
    fn a_speed_is_max_or_a_number_from_zero_up() {
        assert_eq!("max".parse(), Ok(Speed::Max));
        assert_eq!("0".parse(), Ok(Speed::Max));
        assert_eq!("600".parse(), Ok(Speed::Times(600.0)));
        for wrong in ["", "-1", "nan", "inf", "fast"] {
            assert!(wrong.parse::<Speed>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_message_is_due_by_its_own_time_over_the_speed() {
        let due = |speed: Speed, later_ms| speed.due_after(later_ms);
        assert_eq!(due(Speed::Max, 60_000), None);
        assert_eq!(
            due(Speed::Times(1.0), 60_000),
            Some(Duration::from_secs(60))
        );
        assert_eq!(
            due(Speed::Times(600.0), 60_000),
            Some(Duration::from_millis(100))
        );
        assert_eq!(due(Speed::Times(1.0), -1), Some(Duration::ZERO));
        assert!(due(Speed::Times(1e-300), i64::MAX).is_some());
    }

    /// Resolves once so many messages have been asked for: all but the last of them have gone out.
    async fn asked_for(count: &Cell<usize>, messages: usize) {
        while count.get() < messages {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_clock_decides_when_a_message_goes_and_a_shutdown_ends_the_wait() {
        let (mut out, asked) = (Vec::new(), Cell::new(0));
        // The second message is due in an hour.
        let messages = hourly(100).inspect(|_| asked.set(asked.get() + 1));
        let sink = Sink::Lines(&mut out);
        let played = play(messages, Speed::Times(1.0), sink, asked_for(&asked, 2)).await;
        assert_eq!(played.unwrap().messages, 1);
        assert!(out.starts_with(b"0\n"));
    }

    #[tokio::test]
    async fn what_was_sent_before_the_shutdown_is_acknowledged() {
        let broker = Mosquitto::start();
        let sink = Sink::Broker(FeedOptions::new(broker.url()));
        let asked = Cell::new(0);
        let messages = hourly(2).inspect(|_| asked.set(asked.get() + 1));
        let played = play(messages, Speed::Times(1.0), sink, asked_for(&asked, 2)).await;
        assert_eq!(played.unwrap().messages, 1);
        let sink = Sink::Broker(FeedOptions::new(broker.url()));
        let played = play(hourly(5000), Speed::Max, sink, pending()).await;
        assert_eq!(played.unwrap().messages, 5000);
    }

    struct Closed(io::ErrorKind);

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_closed_pipe_is_an_end_and_a_full_disk_an_error() {
        let mut pipe = Closed(io::ErrorKind::BrokenPipe);
        let played = play(hourly(9), Speed::Max, Sink::Lines(&mut pipe), pending()).await;
        assert_eq!(played.map_err(identity::<PlayError>).unwrap().messages, 0);
        let mut disk = Closed(io::ErrorKind::StorageFull);
        let played = play(hourly(9), Speed::Max, Sink::Lines(&mut disk), pending()).await;
        assert!(matches!(played, Err(PlayError::Write { number: 1, .. })));
    }

    #[test]
    fn the_password_is_the_first_line_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let mut args = BrokerArgs {
            broker: "mqtt://sun@pi".parse().unwrap(),
            username: None,
            password_file: Some(path.clone()),
        };
        let error = args.feed_options().err().unwrap();
        assert!(matches!(error, PlayError::Password { path: p, .. } if p == path));
        std::fs::write(&path, "secret\nsecond").unwrap();
        let options = args.feed_options().unwrap();
        assert_eq!(options.password.as_deref(), Some("secret"));
        assert_eq!(options.broker.username.as_deref(), Some("sun"));
        args.username = Some("moon".to_owned());
        let options = args.feed_options().unwrap();
        assert_eq!(options.broker.username.as_deref(), Some("moon"));
    }
}
