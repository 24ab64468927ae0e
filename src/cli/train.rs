//! `train`: has the daemon learn; where none runs, learns here.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono_tz::Tz;
use hyper::Method;
use serde_json::Value;

use super::alone::Alone;
use super::ask::path;
use super::{Exit, Failure, Outcome, TrainArgs, block_on, tables};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::http::client::{self, ClientError};
use crate::reading::{DeviceId, TimestampMs};
use crate::shutdown::Shutdown;
use crate::status::span;
use crate::store::{Reader, RunOutcome, RunRow};
use crate::trainer::{self, Asked, Report, Trigger};
use crate::words::minute;

/// A run that takes longer than this is waited for in vain.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
const REDRAW: Duration = Duration::from_millis(500);
const BAR: usize = 30;

/// Has the daemon learn; where none runs, learns here.
pub(super) fn train(config: Config, args: &TrainArgs) -> Outcome {
    let (json, zone) = (args.json.json, config.site.zone());
    if args.dry_run {
        return show_preview(&config, args.force, json);
    }
    let said = |flag: bool| flag.then(|| "true".to_owned());
    let asked = [
        ("mode", args.mode.map(|mode| mode.to_string())),
        ("force", said(args.force)),
        ("days", args.days.map(|days| days.to_string())),
        ("device", args.device.clone()),
        ("background", said(args.background)),
    ];
    let path = path(&["api", "ml", "retrain"], &asked);
    let answer = block_on(async {
        let stop = Shutdown::on_signals()?;
        let ask = client::request_within(
            LIMIT,
            &config.http.socket,
            Method::POST,
            &path,
            String::new(),
        );
        let answer = tokio::select! {
            answer = ask => answer,
            () = draw(&config), if !args.background => return Ok(None),
            () = stop.begun() => {
                let text = "no longer waited for; the daemon goes on, and `nightwatt runs` shows the outcome";
                return Err(Failure(Exit::Failed, text.into()));
            }
        };
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(ClientError::NotRunning { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    });
    clear();
    match answer? {
        Some(answer) if args.background => print_begun(&answer, zone, json),
        Some(answer) => print_end(&serde_json::from_value(answer)?, json),
        None if args.background => {
            let text = "no daemon runs; without --background the run takes place here";
            Err(Failure(Exit::NoDaemon, text.into()))
        }
        None => {
            let run = block_on(train_here(config, args));
            clear();
            print_end(&run?, json)
        }
    }
}

/// The run that the daemon has begun, or will.
fn print_begun(answer: &Value, zone: Tz, json: bool) -> Outcome {
    if json {
        println!("{}", serde_json::to_string_pretty(answer)?);
        return Ok(Exit::Done);
    }
    let end = answer["estimated_completion"].as_str();
    let end = end.and_then(|t| t.parse().ok());
    match (answer["run_id"].as_i64(), end) {
        (Some(id), Some(end)) => {
            let end = minute(end, zone);
            println!("run {id} has begun and usually ends by {end} ({zone})");
        }
        (Some(id), None) => println!("run {id} has begun; `nightwatt runs show {id}` follows it"),
        (None, _) => println!("queued: it begins when the present run ends"),
    }
    Ok(Exit::Done)
}

/// The run as it ended.
fn print_end(run: &RunRow, json: bool) -> Outcome {
    if json {
        println!("{}", serde_json::to_string_pretty(run)?);
    } else {
        let outcome = run.outcome.map_or("still running", RunOutcome::as_str);
        let reason = run.reason.as_deref().unwrap_or("");
        println!(
            "{}",
            tables::told(&format!("run {} {outcome}: {reason}", run.run_id))
        );
        let report = run.report.clone().map(serde_json::from_value::<Report>);
        if let Some(Ok(report)) = report {
            print!("{}", tables::report(&report.horizons));
        }
    }
    Ok(match run.outcome {
        Some(RunOutcome::Failed) | None => Exit::Failed,
        Some(_) => Exit::Done,
    })
}

/// Says what a run now would do.
fn show_preview(config: &Config, force: bool, json: bool) -> Outcome {
    let preview = trainer::preview(config, SystemClock.now(), force)?;
    tables::print(json, &preview, tables::preview)
}

async fn train_here(config: Config, args: &TrainArgs) -> Result<RunRow, Failure> {
    let alone = Alone::open(&config).await?;
    let ended = run_here(&config, args, &alone).await;
    alone.close().await?;
    let run_id = ended?;
    let gone = || Failure(Exit::Failed, format!("run {run_id} is not in the log"));
    Reader::open(&config.store.path)?
        .run(run_id)?
        .ok_or_else(gone)
}

async fn run_here(config: &Config, args: &TrainArgs, alone: &Alone) -> Result<i64, Failure> {
    let asked = asked(config, args)?;
    let station = trainer::Station {
        config: Arc::new(config.clone()),
        store: alone.store.clone(),
        clock: Arc::new(SystemClock),
        program: std::env::current_exe()?,
    };
    let shutdown = Shutdown::on_signals()?;
    let run = trainer::train(&station, Trigger::Manual(asked), |_| (), shutdown.begun());
    let mut run = std::pin::pin!(run);
    let end = tokio::select! {
        end = &mut run => end?,
        () = draw(config) => run.await?,
    };
    Ok(end.run_id)
}

/// What is asked for, checked as the daemon checks it.
fn asked(config: &Config, args: &TrainArgs) -> Result<Asked, Failure> {
    let (least, most) = trainer::narrow_days(config);
    if let Some(days) = args.days.filter(|days| !(least..=most).contains(days)) {
        let text = format!("days = {days}: accepted are {least} … {most}");
        return Err(Failure(Exit::Failed, text));
    }
    if let Some(name) = &args.device {
        let known = Reader::open(&config.store.path)?.device_no(name)?;
        let unknown = || format!("there is no device {name:?}; `nightwatt devices` lists them");
        known.ok_or_else(|| Failure(Exit::Failed, unknown()))?;
    }
    Ok(Asked {
        mode: args.mode,
        force: args.force,
        days: args.days,
        device: args.device.as_deref().map(DeviceId::new),
    })
}

/// Shows how far the run is on a terminal's standard error; never ends.
async fn draw(config: &Config) {
    if !std::io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    let began = Instant::now();
    loop {
        tokio::time::sleep(REDRAW).await;
        let (elapsed_ms, usual_ms) = running(config, SystemClock.now())
            .unwrap_or((began.elapsed().as_millis() as i64, None));
        let _ = write!(std::io::stderr(), "\r\u{1b}[K{}", bar(elapsed_ms, usual_ms));
    }
}

/// How long the present run has taken, and how long such runs take.
fn running(config: &Config, now: TimestampMs) -> Option<(i64, Option<i64>)> {
    let reader = Reader::open(&config.store.path).ok()?;
    let runs = reader.runs(None, 5).ok()?;
    let run = (runs.into_iter()).find(|r| r.outcome.is_none() && r.learns())?;
    let usual_ms = reader.usual_run_ms(&run.kind, &run.mode).ok()?;
    Some(((now.0 - run.started.0).max(0), usual_ms))
}

fn bar(elapsed_ms: i64, usual_ms: Option<i64>) -> String {
    let elapsed = span(elapsed_ms);
    let Some(usual_ms) = usual_ms.filter(|ms| *ms > 0) else {
        return format!("learning, {elapsed}");
    };
    // Full only at the end.
    let filled = (BAR as i64 * elapsed_ms / usual_ms).clamp(0, BAR as i64 - 1) as usize;
    format!(
        "learning [{}{}] {elapsed} of about {}",
        "#".repeat(filled),
        ".".repeat(BAR - filled),
        span(usual_ms)
    )
}

/// Takes the bar away.
fn clear() {
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r\u{1b}[K");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{NewRun, Nobody, Writer};

    #[test]
    fn the_bar_is_that_of_the_run_that_learns_whatever_else_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.store.path = dir.path().join("n.db");
        let store = Writer::start(&config.store.path, Duration::ZERO, 1, Nobody).unwrap();
        let now = TimestampMs(1_780_000_000_000);
        let begun = |kind, seconds: i64| NewRun {
            kind,
            mode: "full".into(),
            trigger: "manual",
            nominal: None,
            started: now.plus_ms(-1000 * seconds),
        };
        let elapsed_ms = block_on(async {
            store.start_run(begun("training", 60)).await?;
            store.start_run(begun("update", 5)).await?;
            let running = running(&config, now);
            store.stop().await;
            Ok(running.map(|(elapsed_ms, _)| elapsed_ms))
        });
        assert_eq!(elapsed_ms.ok().flatten(), Some(60_000));
    }

    #[test]
    fn the_bar_is_as_long_as_such_runs_take_and_never_full_before_the_end() {
        assert_eq!(bar(3000, None), "learning, 3 s");
        assert_eq!(
            bar(5000, Some(10_000)),
            format!("learning [{:.<30}] 5 s of about 10 s", "#".repeat(15))
        );
        let late = bar(900_000, Some(10_000));
        assert!(late.contains("#.] 15 min of about 10 s"), "{late}");
        assert!(late.chars().count() < 80);
    }
}
