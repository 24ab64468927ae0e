//! `topics`: listens to the broker for a while and proposes rules; publishes nothing.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{Exit, Failure, Outcome, block_on};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, PRESETS_TOML};
use crate::errors::chain;
use crate::mqtt::discovery::Names;
use crate::mqtt::link::{LinkError, LinkEvent, LinkLoop, LinkOptions, LinkSender, Message};
use crate::mqtt::payload::guess::{self, Guesses, Pattern, Seen};
use crate::mqtt::payload::valid_filter;
use crate::shutdown::Shutdown;
use crate::words::{count, printable};

/// Topics beyond these are counted and not looked at.
const MAX_TOPICS: usize = 5000;
/// Of a payload, to guess from.
const SAMPLE_BYTES: usize = 16 * 1024;
/// Of a payload, to show.
const SHOWN_CHARS: usize = 100;
/// Topics without a rule that the screen shows.
const UNRECOGNISED_SHOWN: usize = 20;

#[derive(Args)]
pub(super) struct TopicsArgs {
    /// How long to listen
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// What to listen to
    #[arg(long, default_value = "#")]
    filter: String,
    /// Print the presets and exit
    #[arg(long)]
    presets: bool,
    #[command(flatten)]
    json: super::JsonArg,
}

/// Everything heard that is not of our own making: what the daemon publishes is no device.
struct Heard {
    names: Names,
    messages: u64,
    topics: BTreeMap<String, Seen>,
}

impl Heard {
    fn new(names: Names) -> Self {
        Self {
            names,
            messages: 0,
            topics: BTreeMap::new(),
        }
    }

    fn note(&mut self, message: Message) {
        let Ok(topic) = String::from_utf8(message.topic) else {
            self.messages += 1;
            return;
        };
        if self.is_own(&topic, &message.payload) {
            return;
        }
        self.messages += 1;
        let mut sample = message.payload;
        sample.truncate(SAMPLE_BYTES);
        if let Some(seen) = self.topics.get_mut(&topic) {
            seen.messages += 1;
            // An empty payload only says that something ended.
            if !sample.is_empty() {
                seen.sample = sample;
            }
        } else if self.topics.len() < MAX_TOPICS {
            let seen = Seen {
                topic: topic.clone(),
                messages: 1,
                sample,
            };
            self.topics.insert(topic, seen);
        }
    }

    /// What the daemon publishes, and what it tells Home Assistant.
    fn is_own(&self, topic: &str, payload: &[u8]) -> bool {
        let below = |prefix: &str, level| {
            let rest = topic.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.starts_with(level))
        };
        below(&self.names.topic_prefix, "/")
            || below(&self.names.discovery_prefix, "/device/") && self.names.ours(payload).is_some()
    }
}

pub(super) fn topics(config: &Config, args: TopicsArgs) -> Outcome {
    if args.presets {
        print!("{PRESETS_TOML}");
        return Ok(Exit::Done);
    }
    if !valid_filter(&args.filter) {
        let text = format!(
            "--filter {:?}: accepted: an MQTT topic filter such as solar/#",
            args.filter
        );
        return Err(Failure(Exit::Usage, text));
    }
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(std::path::PathBuf::from);
    // A session of our own, so that the daemon keeps its.
    let suffix = format!("-topics-{}", std::process::id());
    let options = LinkOptions::new(&config.mqtt, &suffix, credentials.as_deref())
        .map_err(|e| Failure(Exit::Usage, chain(&e)))?;
    let heard = block_on(async {
        let stop = Shutdown::on_signals()?;
        let (sender, mut link) = options.open();
        let mut heard = Heard::new(Names {
            discovery_prefix: config.home_assistant.discovery_prefix.clone(),
            topic_prefix: config.mqtt.topic_prefix.clone(),
        });
        tokio::select! {
            ended = listen(&sender, &mut link, &args, &mut heard) => ended.map_err(|e| {
                Failure(Exit::Failed, format!("{}: {}", config.mqtt.url, chain(&e)))
            })?,
            () = tokio::time::sleep(Duration::from_secs(args.seconds)) => {}
            () = stop.begun() => {}
        }
        Ok(heard)
    })?;
    let seen: Vec<Seen> = heard.topics.into_values().collect();
    let guesses = guess::guess(&seen, SystemClock.now(), config.site.zone());
    if args.json.json {
        let shown = json(heard.messages, seen.len(), &guesses);
        println!("{}", serde_json::to_string_pretty(&shown)?);
    } else {
        print!("{}", screen(heard.messages, seen.len(), &guesses));
    }
    Ok(Exit::Done)
}

/// Notes messages until the connection breaks.
async fn listen(
    sender: &LinkSender,
    link: &mut LinkLoop,
    args: &TopicsArgs,
    heard: &mut Heard,
) -> Result<(), LinkError> {
    loop {
        match link.poll(true).await? {
            LinkEvent::Connected { .. } => {
                sender.subscribe(std::iter::once(args.filter.as_str()));
            }
            LinkEvent::Subscribed { refused: 0 } => eprintln!(
                "listening to {} for {} s; Ctrl-C ends it early",
                args.filter, args.seconds
            ),
            LinkEvent::Subscribed { .. } => {
                let text = format!("no reading of {} for us", args.filter);
                return Err(LinkError::Refused(text));
            }
            LinkEvent::Message(message) => heard.note(message),
            _ => {}
        }
    }
}

/// A payload on one line.
fn shown(payload: &[u8]) -> String {
    let text = String::from_utf8_lossy(&payload[..payload.len().min(4 * SHOWN_CHARS)]);
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = text.chars().map(clean).take(SHOWN_CHARS).collect();
    if text.chars().count() > SHOWN_CHARS {
        line.push('…');
    }
    line
}

fn screen(messages: u64, topics: usize, guesses: &Guesses) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let (m, t) = (count(messages, "message"), count(topics, "topic"));
    let _ = writeln!(out, "{m} on {t}");
    for p in &guesses.patterns {
        let _ = writeln!(
            out,
            "\n{}  ({}; topics {}, messages {})\n  {} {}",
            printable(&p.rule.filter),
            p.rule.preset_name(),
            p.topics,
            p.messages,
            printable(&p.sample.topic),
            shown(&p.sample.sample)
        );
        for reading in &p.readings {
            let _ = writeln!(out, "  → {}", guess::describe(reading));
        }
    }
    if !guesses.unrecognised.is_empty() {
        let _ = writeln!(out, "\nno rule found for");
        for s in guesses.unrecognised.iter().take(UNRECOGNISED_SHOWN) {
            let _ = writeln!(out, "  {} {}", printable(&s.topic), shown(&s.sample));
        }
        if let Some(more) = guesses
            .unrecognised
            .len()
            .checked_sub(UNRECOGNISED_SHOWN + 1)
        {
            let _ = writeln!(out, "  and {} more", more + 1);
        }
    }
    if guesses.patterns.is_empty() {
        let _ = writeln!(
            out,
            "\nnothing to propose; docs/payloads.md says what is read"
        );
    } else {
        let _ = writeln!(
            out,
            "\n# For the configuration, beside the rules of devices that were silent just now:\n"
        );
        out += &rules(&guesses.patterns);
    }
    out
}

fn rules(patterns: &[Pattern]) -> String {
    let texts: Vec<&str> = patterns.iter().map(|p| p.toml.as_str()).collect();
    texts.join("\n")
}

#[derive(Serialize)]
struct Shown<'a> {
    messages: u64,
    topics: usize,
    patterns: Vec<ShownPattern<'a>>,
    unrecognised: Vec<ShownTopic<'a>>,
    rules: String,
}

#[derive(Serialize)]
struct ShownPattern<'a> {
    filter: &'a str,
    preset: &'a str,
    topics: usize,
    messages: u64,
    sample: ShownTopic<'a>,
    readings: Vec<String>,
    rule: &'a str,
}

#[derive(Serialize)]
struct ShownTopic<'a> {
    topic: &'a str,
    messages: u64,
    payload: String,
}

impl<'a> ShownTopic<'a> {
    fn new(seen: &'a Seen) -> Self {
        Self {
            topic: &seen.topic,
            messages: seen.messages,
            payload: shown(&seen.sample),
        }
    }
}

fn json(messages: u64, topics: usize, guesses: &Guesses) -> Shown<'_> {
    let patterns = guesses.patterns.iter().map(|p| ShownPattern {
        filter: &p.rule.filter,
        preset: p.rule.preset_name(),
        topics: p.topics,
        messages: p.messages,
        sample: ShownTopic::new(&p.sample),
        readings: p.readings.iter().map(guess::describe).collect(),
        rule: &p.toml,
    });
    Shown {
        messages,
        topics,
        patterns: patterns.collect(),
        unrecognised: guesses.unrecognised.iter().map(ShownTopic::new).collect(),
        rules: rules(&guesses.patterns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::DeviceId;

    #[test]
    fn nothing_that_others_wrote_reaches_the_terminal_raw() {
        let seen = ["a/\u{1b}]0;t\u{7}/b", "c/\u{1b}[2J/telemetry"]
            .into_iter()
            .zip(["x\u{1b}[2J", "{\"power\":1}"]);
        let seen: Vec<Seen> = seen
            .map(|(topic, payload)| Seen {
                topic: topic.into(),
                messages: 1,
                sample: payload.into(),
            })
            .collect();
        let guesses = guess::guess(&seen, SystemClock.now(), chrono_tz::Tz::UTC);
        assert!(!guesses.unrecognised.is_empty());
        let screen = screen(2, 2, &guesses);
        let raw = |c: char| c.is_control() && c != '\n';
        assert!(!screen.contains(raw), "{screen:?}");
    }

    #[test]
    fn what_nightwatt_publishes_itself_is_not_listed() {
        let names = Names {
            discovery_prefix: "homeassistant".into(),
            topic_prefix: "nightwatt".into(),
        };
        let mut own = names.configs(&[DeviceId::new("t1")]);
        own.push(("nightwatt/t1/forecast".into(), "{\"power_w\":1}".into()));
        own.push(("nightwatt/status".into(), "online".into()));
        let others = [
            ("solar/t1/telemetry", "{\"power\":1}"),
            (
                "homeassistant/device/lamp/config",
                "{\"state_topic\":\"lamp\"}",
            ),
            ("nightwatt2/t1/telemetry", "{\"power\":1}"),
        ];
        let others = others.map(|(topic, payload)| (topic.to_owned(), payload.to_owned()));
        let mut heard = Heard::new(names);
        for (topic, payload) in own.into_iter().chain(others.clone()) {
            heard.note(Message {
                topic: topic.into_bytes(),
                payload: payload.into_bytes(),
                retain: true,
                packet_id: 0,
                cut: false,
            });
        }
        let mut listed: Vec<_> = heard.topics.into_keys().collect();
        let mut wanted: Vec<_> = others.into_iter().map(|(topic, _)| topic).collect();
        listed.sort();
        wanted.sort();
        assert_eq!((heard.messages, listed), (3, wanted));
    }
}
