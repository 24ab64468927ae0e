//! `quarantine`: the messages that could not become readings.

use chrono_tz::Tz;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::alone::change;
use super::tables::print;
use super::when::{second, times_of};
use super::{Exit, Failure, JsonArg, Outcome};
use crate::config::Config;
use crate::store::{OTHER_TOPICS, QuarantineRow, Reader, TopicRejects};
use crate::words::{clip, count, printable};

#[derive(Args)]
pub(super) struct QuarantineArgs {
    #[command(subcommand)]
    verb: Option<QuarantineVerb>,
    /// Only messages refused for this reason, for example not_json
    #[arg(long)]
    reason: Option<String>,
    /// Only messages of exactly this topic
    #[arg(long)]
    topic: Option<String>,
    /// At most so many, the newest first
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = super::some)]
    limit: usize,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Subcommand)]
enum QuarantineVerb {
    /// One message with its payload
    Show {
        /// The message's number
        id: i64,
    },
    /// Forget them all, and their counts
    Clear,
}

pub(super) fn quarantine(config: &Config, args: QuarantineArgs) -> Outcome {
    let zone = config.site.zone();
    match args.verb {
        Some(QuarantineVerb::Clear) => clear(config, args.json.json),
        Some(QuarantineVerb::Show { id }) => {
            let unknown = || format!("there is no message {id}; `nightwatt quarantine` lists them");
            let row = Reader::open(&config.store.path)?
                .quarantined(id)?
                .ok_or_else(|| Failure(Exit::Failed, unknown()))?;
            match args.json.json {
                true => println!("{}", serde_json::to_string_pretty(&shown(&row))?),
                // Its payload is shown as it is, however wide.
                false => print!("{}", one(&row, zone)),
            }
            Ok(Exit::Done)
        }
        None => {
            let reader = Reader::open(&config.store.path)?;
            let rows =
                reader.quarantine(args.reason.as_deref(), args.topic.as_deref(), args.limit)?;
            let mut counts = reader.reject_topics()?;
            let wanted = |asked: &Option<String>, found: &str| {
                asked.as_deref().is_none_or(|asked| asked == found)
            };
            counts.retain(|c| wanted(&args.reason, &c.reason) && wanted(&args.topic, &c.topic));
            let messages: Vec<_> = rows.iter().map(shown).collect();
            let all = json!({ "counts": counts, "messages": messages });
            let filtered = args.reason.is_some() || args.topic.is_some();
            print(args.json.json, &all, |_| {
                list(&rows, &counts, filtered, zone)
            })
        }
    }
}

fn clear(config: &Config, as_json: bool) -> Outcome {
    let path = "/api/quarantine/clear";
    let answer = change(config, Method::POST, path, async |store| {
        Ok(json!({ "cleared": store.clear_quarantine().await? }))
    })?;
    match as_json {
        true => println!("{}", json!({ "cleared": answer["cleared"] })),
        false => {
            let cleared = answer["cleared"].as_u64().unwrap_or(0);
            println!("{} forgotten", count(cleared, "message"));
        }
    }
    Ok(Exit::Done)
}

fn shown(row: &QuarantineRow) -> Value {
    let mut object = json!({
        "id": row.id,
        "at": row.at,
        "topic": row.topic,
        "reason": row.reason,
        "payload": String::from_utf8_lossy(&row.payload),
    });
    if std::str::from_utf8(&row.payload).is_err() {
        let hex: String = row.payload.iter().map(|b| format!("{b:02x}")).collect();
        object["payload_hex"] = hex.into();
    }
    object
}

fn list(rows: &[QuarantineRow], counts: &[TopicRejects], filtered: bool, zone: Tz) -> String {
    if rows.is_empty() && counts.is_empty() {
        return match filtered {
            true => {
                "nothing was refused that is asked for here; `nightwatt quarantine` lists all\n"
            }
            false => "nothing was refused\n",
        }
        .into();
    }
    let mut out = format!("{:>9}  {:<21} {}\n", "refused", "reason", "topic");
    for c in counts.iter().take(20) {
        let topic = if c.topic == OTHER_TOPICS {
            "(other topics)".into()
        } else {
            printable(&c.topic)
        };
        out += &format!("{:>9}  {:<21} {}\n", c.count, c.reason, clip(&topic, 46));
    }
    out += &format!(
        "\n{}{:>9}  {:<20} {:<21} {}\n",
        times_of(zone),
        "message",
        "at",
        "reason",
        "topic and payload"
    );
    for r in rows {
        let at = second(r.at, zone);
        let what = format!("{} {}", r.topic, String::from_utf8_lossy(&r.payload));
        let what = clip(&printable(&what), 26);
        out += &format!("{:>9}  {at:<20} {:<21} {what}\n", r.id, r.reason);
    }
    out + "\nnightwatt quarantine show MESSAGE prints the payload\n"
}

fn one(row: &QuarantineRow, zone: Tz) -> String {
    let mut out = format!(
        "message  {}\nat       {} ({zone})\ntopic    {}\nreason   {}\nbytes    {} kept\n\n",
        row.id,
        second(row.at, zone),
        printable(&row.topic),
        row.reason,
        row.payload.len()
    );
    match std::str::from_utf8(&row.payload) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => {
            for line in text.lines() {
                out += &format!("{}\n", printable(line));
            }
        }
        _ => out += &hexdump(&row.payload),
    }
    out
}

/// Sixteen bytes a line: offset, hexadecimal, and what is printable of them.
fn hexdump(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (i, line) in bytes.chunks(16).enumerate() {
        let hex: String = line.iter().map(|b| format!("{b:02x} ")).collect();
        let shown = |b: &u8| match b {
            b' '..=b'~' => char::from(*b),
            _ => '.',
        };
        let text: String = line.iter().map(shown).collect();
        out += &format!("{:06x}  {hex:<48} {text}\n", i * 16);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::TimestampMs;

    fn row(payload: &[u8]) -> QuarantineRow {
        QuarantineRow {
            id: 7,
            at: TimestampMs(0),
            topic: "a/\u{1b}[31mred".into(),
            reason: "not_json".into(),
            payload: payload.to_vec(),
        }
    }

    #[test]
    fn text_is_shown_as_text_and_bytes_as_bytes_and_nothing_reaches_the_terminal_raw() {
        let shown = one(&row(b"{\"power\":\n 1"), Tz::UTC);
        assert!(shown.ends_with("{\"power\":\n 1\n"), "{shown}");
        for payload in [&b"\xff\x00abc"[..], b"\x1b[2Jgone"] {
            let shown = one(&row(payload), Tz::UTC);
            assert!(shown.contains("000000  "), "{shown}");
            assert!(!shown.contains('\u{1b}'), "{shown:?}");
        }
        let shown = list(&[row(b"\x1b]0;title\x07")], &[], false, Tz::UTC);
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{7}'));
        assert_eq!(
            hexdump(b"0123456789abcdef\n")
                .lines()
                .nth(1)
                .unwrap()
                .trim_end(),
            format!("000010  {:<48} .", "0a")
        );
    }

    #[test]
    fn the_list_fits_80_columns() {
        let counts = TopicRejects {
            topic: "t".repeat(256),
            reason: "new_devices_too_fast".into(),
            count: 123_456_789,
            last: TimestampMs(0),
        };
        let mut long = row(&[b'x'; 1024]);
        long.reason = "new_devices_too_fast".into();
        let shown = list(&[long], &[counts], false, Tz::UTC);
        assert!(shown.lines().all(|l| l.chars().count() <= 80), "{shown}");
    }
}
