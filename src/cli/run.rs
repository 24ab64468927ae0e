//! `run` and `check-config`: the daemon from the shell and from systemd, and its log.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Exit, Failure, Outcome, block_on};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::daemon::{Daemon, Surroundings};
use crate::errors::chain;
use crate::mqtt::link::LinkOptions;
use crate::shutdown::Shutdown;

const EXTEND_EVERY: Duration = Duration::from_secs(20);

pub(super) fn run(config: Config) -> Outcome {
    log_to_stderr("info");
    let around = Surroundings {
        clock: Arc::new(SystemClock),
        shutdown: Shutdown::on_signals()?,
        credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        program: std::env::current_exe()?,
    };
    block_on(async {
        // The check after a power cut may take longer than systemd would wait.
        let starting = async {
            loop {
                notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(60_000_000)]);
                tokio::time::sleep(EXTEND_EVERY).await;
            }
        };
        let daemon = tokio::select! {
            started = Daemon::start(config, around) => started?,
            () = starting => unreachable!("it never ends"),
        };
        notify(&[sd_notify::NotifyState::Ready]);
        if let Some(limit) = sd_notify::watchdog_enabled() {
            tokio::select! {
                () = daemon.until_shutdown() => {}
                () = daemon.watch(limit, || notify(&[sd_notify::NotifyState::Watchdog])) => {}
            }
        }
        let counts = daemon
            .finish(|| notify(&[sd_notify::NotifyState::Stopping]))
            .await;
        // A failure, so that every service manager starts it again.
        Ok(if counts.damaged {
            Exit::Failed
        } else {
            Exit::Done
        })
    })
}

/// Tells systemd, where it listens.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}

pub(super) fn check_config(config: &Config) -> Outcome {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    LinkOptions::new(&config.mqtt, "", credentials.as_deref())
        .map_err(|e| Failure(Exit::Usage, chain(&e)))?;
    println!("configuration is valid");
    println!(
        "  broker    {} as {:?}",
        config.mqtt.url, config.mqtt.client_id
    );
    for rule in &config.mqtt.topics {
        println!("  topic     {}", rule.filter);
    }
    println!("  store     {}", config.store.path.display());
    println!("  socket    {}", config.http.socket.display());
    match config.site.site() {
        Some(s) => println!("  site      {} N, {} E", s.latitude_deg, s.longitude_deg),
        None => println!("  site      not given: no features of the sun's position"),
    }
    let training = &config.training;
    let schedule = if training.enabled {
        training.schedule.to_string()
    } else {
        "never".into()
    };
    println!(
        "  training  {schedule} ({}), {} min ahead",
        config.site.zone(),
        training.horizon_min
    );
    Ok(Exit::Done)
}

/// Logs to standard error as `key=value`; `NIGHTWATT_LOG` sets the levels (`debug`, `warn,nightwatt=info`).
pub(super) fn log_to_stderr(default: &str) {
    use tracing_subscriber::layer::{Layer, SubscriberExt};
    use tracing_subscriber::util::SubscriberInitExt;

    let asked = std::env::var("NIGHTWATT_LOG")
        .ok()
        .and_then(|text| text.parse().ok());
    let levels: tracing_subscriber::filter::Targets =
        asked.or_else(|| default.parse().ok()).unwrap_or_default();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false);
    // The journal has times of its own.
    let lines = if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().boxed()
    } else {
        lines.boxed()
    };
    tracing_subscriber::registry()
        .with(lines)
        .with(levels)
        .init();
}
