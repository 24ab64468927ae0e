//! `alerts` and `errors`: what stands, who has been told of it, and what went wrong lately.

use chrono_tz::Tz;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::json;

use super::alone::change;
use super::run::credentials;
use super::tables::print;
use super::when::{second, times_of};
use super::{Exit, Failure, JsonArg, Outcome, block_on};
use crate::alerts::Notice;
use crate::alerts::deliver::Channel;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::errors::{ErrorReport, MOST_REPORTS, chain};
use crate::mqtt::link::{LinkError, LinkEvent, LinkOptions};
use crate::status::wrap;
use crate::store::{AlertRow, Reader};
use crate::words::{clip, count, minute, printable};

#[derive(Args)]
pub(super) struct AlertsArgs {
    #[command(subcommand)]
    verb: Option<AlertsVerb>,
    /// Also those that are over, at most so many, the newest first
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "30")]
    all: Option<usize>,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Subcommand)]
enum AlertsVerb {
    /// Say that you know: of one by its number, or of all that stand
    Acknowledge {
        /// The alert's number, or "all"
        which: Which,
    },
    /// Try every way out that is configured
    Test,
}

#[derive(Clone, Copy)]
enum Which {
    All,
    One(i64),
}

impl std::str::FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            number => number
                .parse()
                .map(Self::One)
                .map_err(|_| "it must be a number or \"all\"".into()),
        }
    }
}

pub(super) fn alerts(
    args: AlertsArgs,
    places: impl Fn() -> Result<Config, Failure>,
    config: impl Fn() -> Result<Config, Failure>,
) -> Outcome {
    match args.verb {
        Some(AlertsVerb::Acknowledge { which }) => acknowledge(&places()?, which, args.json.json),
        Some(AlertsVerb::Test) => test(&config()?),
        None => {
            let config = places()?;
            let reader = Reader::open(&config.store.path)?;
            let rows = reader.alerts(args.all.is_none(), args.all.unwrap_or(0))?;
            print(args.json.json, &rows, |rows| list(rows, config.site.zone()))
        }
    }
}

fn acknowledge(config: &Config, which: Which, as_json: bool) -> Outcome {
    let (id, word) = match which {
        Which::All => (None, "all".to_owned()),
        Which::One(id) => (Some(id), id.to_string()),
    };
    let path = format!("/api/alerts/{word}/acknowledge");
    let answer = change(config, Method::POST, &path, async |store| {
        let known = store.acknowledge_alerts(id, SystemClock.now()).await?;
        Ok(json!({ "acknowledged": known }))
    })?;
    match as_json {
        true => println!("{}", json!({ "acknowledged": answer["acknowledged"] })),
        false => {
            let known = answer["acknowledged"].as_u64().unwrap_or(0);
            println!("{} acknowledged", count(known, "alert"));
        }
    }
    Ok(Exit::Done)
}

/// Tells each channel from here, so that a new configuration can be tried before the daemon has it.
fn test(config: &Config) -> Outcome {
    let credentials = credentials();
    let channels = Channel::configured(&config.alerts, credentials.as_deref())?;
    let notice = Notice::test(&config.mqtt.client_id, SystemClock.now());
    let mut failed = false;
    let mut say = |name: &str, outcome: Result<(), String>| match outcome {
        Ok(()) => println!("{name:<8} taken"),
        Err(why) => {
            failed = true;
            println!("{name:<8} {}", indented(&format!("FAILED: {why}"), 9));
        }
    };
    block_on(async {
        if config.alerts.mqtt {
            let options = LinkOptions::new(&config.mqtt, "-test", credentials.as_deref())?;
            let topic = format!("{}/alerts/test", config.mqtt.topic_prefix);
            let text = serde_json::to_string(&notice)?;
            say("mqtt", publish(&options, &topic, text).await);
        }
        for channel in &channels {
            let sent = channel.send(&notice).await;
            say(channel.name(), sent.map_err(|e| chain(&e)));
        }
        Ok(())
    })?;
    if channels.is_empty() {
        println!("neither [alerts.webhook] nor [alerts.email] is configured");
    }
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// Publishes, and takes back what would otherwise stay for ever.
async fn publish(options: &LinkOptions, topic: &str, text: String) -> Result<(), String> {
    let (sender, mut link) = options.open();
    sender.publish_retained(topic, text);
    sender.publish_retained(topic, String::new());
    let exchange = async {
        let mut delivered = 0;
        while delivered < 2 {
            delivered += u32::from(matches!(link.poll(true).await?, LinkEvent::Delivered));
        }
        sender.disconnect();
        while !matches!(link.poll(true).await?, LinkEvent::Disconnected) {}
        Ok::<_, LinkError>(())
    };
    let limit = std::time::Duration::from_secs(10);
    match tokio::time::timeout(limit, exchange).await {
        Ok(done) => done.map_err(|e| chain(&e)),
        Err(_) => Err("no answer within 10 s".into()),
    }
}

pub(super) fn errors(config: &Config, as_json: bool) -> Outcome {
    let reports = Reader::open(&config.store.path)?.errors(MOST_REPORTS)?;
    print(as_json, &reports, |reports| {
        reports_table(reports, config.site.zone())
    })
}

fn list(rows: &[AlertRow], zone: Tz) -> String {
    if rows.is_empty() {
        return "nothing is wrong: no alert stands\n".into();
    }
    let mut out = times_of(zone);
    out += &format!(
        "{:>5} {:<16} {:<16} {:<18} known, and what\n",
        "alert", "raised", "over", "kind"
    );
    for r in rows {
        let over = r.cleared.map_or("-".into(), |t| minute(t, zone));
        let known = if r.acknowledged.is_some() {
            "yes"
        } else {
            "no"
        };
        out += &format!(
            "{:>5} {:<16} {over:<16} {:<18} {known}\n      {}\n",
            r.id,
            minute(r.raised, zone),
            clip(&r.kind, 18),
            indented(&printable(&r.text), 6)
        );
        if let Some(next_step) = r.next_step.as_ref().filter(|_| r.cleared.is_none()) {
            out += &format!("      > {}\n", indented(next_step, 8));
        }
        if !r.waiting.is_empty() {
            out += &format!("      not told yet: {}\n", r.waiting.join(", "));
        }
    }
    out
}

fn reports_table(reports: &[ErrorReport], zone: Tz) -> String {
    if reports.is_empty() {
        return "no errors\n".into();
    }
    let mut out = times_of(zone);
    out += &format!("{:<20} {:>6} {:<13} what\n", "last", "times", "stage");
    for r in reports {
        let last = second(r.last, zone);
        out += &format!(
            "{last:<20} {:>6} {:<13} {}\n",
            r.times,
            r.stage,
            indented(&printable(&r.text), 42)
        );
    }
    out
}

/// Lines of at most 80 columns, all but the first behind `indent` spaces.
fn indented(text: &str, indent: usize) -> String {
    wrap(text, 80 - indent, 8).join(&format!("\n{:indent$}", ""))
}
