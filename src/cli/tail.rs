//! `tail`: readings as they are stored, until Ctrl-C.

use std::collections::HashSet;
use std::io::Write;
use std::time::Duration;

use chrono_tz::Tz;
use clap::Args;
use hyper::Method;

use super::tables::number;
use super::when::{second, times_of};
use super::{Exit, Failure, JsonArg, Outcome, block_on};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::errors::chain;
use crate::http::client::{self, ClientError};
use crate::reading::{DeviceId, TimestampMs};
use crate::shutdown::Shutdown;
use crate::store::{Reader, StoreError, StoredReading};
use crate::words::{clip, printable};

const POLL: Duration = Duration::from_millis(500);
/// How much older than the newest a reading may be and still be shown: what came late by more belongs to
/// a backlog.
const BACK_MS: i64 = 3_600_000;
/// A reading may wait so long for its commit.
const OVERLAP_MS: i64 = 15_000;

#[derive(Args)]
pub(super) struct TailArgs {
    /// Only this device
    device: Option<String>,
    /// End after so many readings
    #[arg(short = 'n', long, value_name = "N", value_parser = super::some)]
    count: Option<usize>,
    #[command(flatten)]
    json: JsonArg,
}

pub(super) fn tail(config: &Config, args: &TailArgs) -> Outcome {
    let reader = Reader::open(&config.store.path)?;
    let device_no = match &args.device {
        None => None,
        Some(name) => Some(reader.device_no(name)?.ok_or_else(|| {
            let text = format!("there is no device {name:?}; `nightwatt devices` lists them");
            Failure(Exit::Failed, text)
        })?),
    };
    let zone = config.site.zone();
    block_on(async {
        let stop = Shutdown::on_signals()?;
        // Without it nothing will ever come, and waiting for that looks like a silent device.
        let live = client::request(
            &config.http.socket,
            Method::GET,
            "/health/live",
            String::new(),
        );
        if let Err(error) = live.await {
            let said = chain(&error);
            return Err(match error {
                ClientError::NotRunning { .. } => {
                    let next = "start it: systemctl start nightwatt (or: nightwatt run)";
                    Failure(Exit::NoDaemon, format!("{said}; {next}"))
                }
                _ => Failure(Exit::Failed, said),
            });
        }
        let mut tail = Tail {
            reader,
            device_no,
            since: SystemClock.now(),
            seen: HashSet::new(),
            version: None,
        };
        let mut left = args.count.unwrap_or(usize::MAX);
        let mut out = std::io::stdout().lock();
        if !args.json.json {
            write!(out, "{}", head(zone))?;
        }
        loop {
            for reading in tail.poll(SystemClock.now())? {
                if args.json.json {
                    writeln!(out, "{}", serde_json::to_string(&reading)?)?;
                } else {
                    write!(out, "{}", line(&reading, zone))?;
                }
                left -= 1;
                if left == 0 {
                    return Ok(Exit::Done);
                }
            }
            out.flush()?;
            tokio::select! {
                () = stop.begun() => return Ok(Exit::Done),
                () = tokio::time::sleep(POLL) => {}
            }
        }
    })
}

struct Tail {
    reader: Reader,
    device_no: Option<i64>,
    /// Everything received before was shown, or stood there when we began.
    since: TimestampMs,
    /// What was received after and is shown already.
    seen: HashSet<(DeviceId, TimestampMs)>,
    version: Option<i64>,
}

impl Tail {
    fn poll(&mut self, now: TimestampMs) -> Result<Vec<StoredReading>, StoreError> {
        let version = self.reader.data_version()?;
        if self.version.replace(version) == Some(version) {
            return Ok(Vec::new());
        }
        let newest = self.reader.newest_ts()?.unwrap_or(now).min(now);
        let measured = newest.plus_ms(-BACK_MS);
        let mut rows = self.reader.arrived(self.device_no, measured, self.since)?;
        let shown = std::mem::take(&mut self.seen);
        // What arrives from now on is younger than this, whatever waits for its commit.
        self.since = self.since.max(now.plus_ms(-OVERLAP_MS));
        let key = |r: &StoredReading| (r.device.clone(), r.at);
        let young = rows.iter().filter(|r| r.received >= self.since);
        self.seen = young.map(key).collect();
        rows.retain(|r| !shown.contains(&key(r)));
        Ok(rows)
    }
}

fn head(zone: Tz) -> String {
    format!(
        "{}{:<20} {:<16} {:>8} {:>7} {:>6} {:>6} {:>6} {:>4}\n",
        times_of(zone),
        "at",
        "device",
        "W",
        "lux",
        "V",
        "A",
        "°C",
        "fan"
    )
}

fn line(r: &StoredReading, zone: Tz) -> String {
    use crate::reading::Field::{Current, FanOn, Lux, Power, Temperature, Voltage};
    let value = |field, digits| number(r.values.get(field), digits);
    format!(
        "{:<20} {:<16} {:>8} {:>7} {:>6} {:>6} {:>6} {:>4}\n",
        second(r.at, zone),
        clip(&printable(r.device.as_str()), 16),
        value(Power, 1),
        value(Lux, 0),
        value(Voltage, 1),
        value(Current, 2),
        value(Temperature, 1),
        value(FanOn, 0),
    )
}
