//! The daemon under a configuration that may change: on SIGHUP the parts stop in order and start again with the new one.
//!
//! One rule for every key, so that nobody has to know which ones take effect: a configuration that does
//! not hold together changes nothing; one that does replaces the old one as a restart would, without the
//! process ending. The broker keeps what arrives meanwhile. A training run is waited for, not cut short.
//! Where the parts do not start with the new configuration, they start again with the old one.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{Counts, Daemon, DaemonError, Surroundings, Tally};
use crate::alerts::deliver::{Channel, DeliverError};
use crate::config::{Config, ConfigError};
use crate::errors::chain;
use crate::http::serve::{self, TokenError};
use crate::mqtt::link::{LinkError, LinkOptions};
use crate::shutdown::{Hangup, Shutdown};
use crate::status::Status;

/// How often the one line about the station is renewed.
const DESCRIBE_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked whether the training run that a reload waits for is over.
const TRAINING_LOOK: Duration = Duration::from_millis(500);

/// How often a start that takes long asks for more time.
const EXTEND_EVERY: Duration = Duration::from_secs(20);

/// What a service manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word<'a> {
    /// The start is going on, and may go on for another minute.
    Starting,
    /// Everything stands.
    Ready,
    /// A new configuration is being looked at; [`Word::Ready`] follows.
    Reloading,
    /// The end has begun.
    Stopping,
    /// The parts that must move do.
    Alive,
    /// How things are, in one line.
    Line(&'a str),
}

/// Why the configuration that is on the disk is not the one in force; nothing where it is. Cheap to clone.
#[derive(Clone, Default)]
pub struct Refusal(Arc<Mutex<Option<String>>>);

impl Refusal {
    /// The reason, if the last reload was refused.
    pub fn reason(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It does not hold together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A password or certificate that it names cannot be used.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Nor can the token of `[http]`.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// So can one that a channel for alerts needs.
    #[error(transparent)]
    Alerts(#[from] DeliverError),
}

/// Everything that can be found wrong with a configuration without stopping what runs: beyond its own
/// rules, the passwords and certificates it names. `credentials` is systemd's folder, if there is one.
pub fn check(config: &Config, credentials: Option<&Path>) -> Result<(), Unusable> {
    LinkOptions::new(&config.mqtt, "", credentials)?;
    serve::check(&config.http, credentials)?;
    Channel::configured(&config.alerts, credentials)?;
    Ok(())
}

/// What the service takes from its surroundings beside what the daemon does.
pub struct Service<Load, Tell> {
    /// Reads the configuration anew.
    pub load: Load,
    /// Tells the service manager.
    pub tell: Tell,
    /// SIGHUP.
    pub hangup: Hangup,
    /// How soon the service manager gives up on a daemon that shows no life, if it does.
    pub watchdog: Option<Duration>,
    /// The daemon's; its shutdown ends the service.
    pub around: Surroundings,
}

impl<Load, Tell> Service<Load, Tell>
where
    Load: Fn() -> Result<Config, ConfigError>,
    Tell: Fn(Word<'_>),
{
    /// Runs the daemon with `config`, and with what later replaces it, until the shutdown.
    pub async fn run(self, mut config: Config) -> Result<Counts, DaemonError> {
        let (mut daemon, mut stop) = self.start(&config, &Tally::default()).await?;
        (self.tell)(Word::Ready);
        while let Some(next) = self.until_changed(&daemon, &stop).await {
            (self.tell)(Word::Reloading);
            stop.begin();
            let tally = daemon.tally();
            let counts = daemon.finish(|| ()).await;
            if counts.damaged {
                return Ok(counts);
            }
            // The end may have taken its time, and so may the start.
            (self.tell)(Word::Alive);
            let refused = match self.start(&next, &tally).await {
                Ok(started) => {
                    (daemon, stop) = started;
                    config = next;
                    None
                }
                Err(error) => {
                    (daemon, stop) = self.start(&config, &tally).await?;
                    Some(chain(&error))
                }
            };
            self.conclude(&daemon, refused);
        }
        stop.begin();
        // Becoming the launcher is no end to the service manager: it would kill what comes after.
        let word = match self.around.launch.again.load(Ordering::SeqCst) {
            true => Word::Alive,
            false => Word::Stopping,
        };
        Ok(daemon.finish(|| (self.tell)(word)).await)
    }

    async fn start(
        &self,
        config: &Config,
        tally: &Tally,
    ) -> Result<(Daemon, Shutdown), DaemonError> {
        let shutdown = Shutdown::new();
        let around = Surroundings {
            shutdown: shutdown.clone(),
            ..self.around.clone()
        };
        // The check after a power cut may take longer than a service manager would wait.
        let starting = async {
            loop {
                tokio::time::sleep(EXTEND_EVERY).await;
                (self.tell)(Word::Starting);
            }
        };
        let daemon = tokio::select! {
            started = Daemon::go_on(config.clone(), around, tally) => started?,
            () = starting => unreachable!("it never ends"),
        };
        Ok((daemon, shutdown))
    }

    /// Waits for a configuration to replace the one in force with; `None` at the shutdown, the
    /// service's or the daemon's own.
    async fn until_changed(&self, daemon: &Daemon, stop: &Shutdown) -> Option<Config> {
        let renew = Notify::new();
        let describing = self.describe(daemon, &renew);
        let watching = async {
            match self.watchdog {
                Some(limit) => daemon.watch(limit, || (self.tell)(Word::Alive)).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(describing, watching);
        let mut look = tokio::time::interval(TRAINING_LOOK);
        let mut waiting = None;
        loop {
            tokio::select! {
                () = self.around.shutdown.begun() => return None,
                () = stop.begun() => return None,
                () = self.hangup.heard() => {
                    (self.tell)(Word::Reloading);
                    waiting = match self.load_usable() {
                        Ok(next) => Some(next),
                        Err(why) => {
                            self.conclude(daemon, Some(chain(&why)));
                            renew.notify_one();
                            None
                        }
                    };
                    if waiting.is_some() && daemon.is_training() {
                        tracing::info!("the new configuration waits for the end of the training run");
                        (self.tell)(Word::Ready);
                    }
                }
                _ = look.tick(), if waiting.is_some() => {}
                () = &mut watching => {}
                () = &mut describing => {}
            }
            if waiting.is_some() && !daemon.is_training() {
                return waiting;
            }
        }
    }

    fn load_usable(&self) -> Result<Config, Unusable> {
        let config = (self.load)()?;
        check(&config, self.around.credentials.as_deref())?;
        Ok(config)
    }

    /// Says everywhere how a reload ended: log, event, status, service manager.
    fn conclude(&self, daemon: &Daemon, refused: Option<String>) {
        match &refused {
            None => {
                tracing::info!("the configuration was read anew and is in force");
                daemon.note("reloaded", "the configuration was read anew".into());
            }
            Some(why) => {
                tracing::error!(why, "the new configuration was refused, the old one stays");
                daemon.note("reload_refused", why.clone());
            }
        }
        *self.around.refusal.lock() = refused;
        (self.tell)(Word::Ready);
    }

    /// Tells how things are, every minute and when asked to. Never returns.
    async fn describe(&self, daemon: &Daemon, renew: &Notify) {
        let mut every = tokio::time::interval(DESCRIBE_EVERY);
        let mut before: Option<(Instant, u64)> = None;
        loop {
            tokio::select! {
                _ = every.tick() => {}
                () = renew.notified() => {}
            }
            let station = daemon.station();
            let Ok(Ok(status)) = tokio::task::spawn_blocking(move || station.status()).await else {
                continue;
            };
            let (now, rows) = (Instant::now(), status.daemon.as_ref().map_or(0, |d| d.rows));
            let rows_per_s = before.map(|(then, had)| {
                rows.saturating_sub(had) as f64 / now.duration_since(then).as_secs_f64().max(1e-3)
            });
            before = Some((now, rows));
            (self.tell)(Word::Line(&line(&status, rows_per_s)));
        }
    }
}

/// The verdict, what flows, and how the last night ended.
fn line(status: &Status, rows_per_s: Option<f64>) -> String {
    let mut parts = vec![status.verdict.text.clone()];
    if let Some(daemon) = &status.daemon {
        // Something more serious may be the verdict.
        if let Some(why) = &daemon.reload_refused
            && !parts[0].contains(why)
        {
            parts.push(format!("the new configuration was refused: {why}"));
        }
        parts.push(match rows_per_s {
            Some(rate) => format!("{rate:.1} rows/s, {} since start", daemon.rows),
            None => format!("{} rows since start", daemon.rows),
        });
        if daemon.training {
            parts.push("training".into());
        }
    }
    if let Some(run) = &status.last_run
        && let Some(outcome) = run.outcome
    {
        let hours = (status.now.0 - run.started.0) / 3_600_000;
        parts.push(format!("last night {} {hours} h ago", outcome.as_str()));
    }
    parts.join("; ").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::TimestampMs;
    use crate::status::{DaemonStatus, Verdict};

    #[test]
    fn the_line_is_one_line_with_verdict_and_rate() {
        let status = Status {
            now: TimestampMs(1),
            verdict: Verdict {
                text: "no connection:\nrefused".into(),
                ..Verdict::default()
            },
            daemon: Some(DaemonStatus {
                rows: 120,
                training: true,
                reload_refused: Some("mqtt.urrl".into()),
                ..DaemonStatus::default()
            }),
            ..Status::default()
        };
        assert_eq!(
            line(&status, Some(2.0)),
            "no connection: refused; the new configuration was refused: mqtt.urrl; \
             2.0 rows/s, 120 since start; training"
        );
        assert!(line(&status, None).contains("; 120 rows since start; "));
    }
}
