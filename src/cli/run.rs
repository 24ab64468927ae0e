//! `run` and `check-config`: the daemon from the shell and from systemd, and its log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sd_notify::NotifyState;

use super::{Exit, Failure, Outcome, block_on, load, update};
use crate::clock::SystemClock;
use crate::config::{Config, DEFAULT_PATH};
use crate::daemon::Surroundings;
use crate::daemon::reload::{self, Refusal, Service, Word};
use crate::daemon::updates::Launch;
use crate::errors::chain;
use crate::logging::{self, Format};
use crate::shutdown::{Hangup, Shutdown};
use crate::sun::Site;
use crate::update::launcher;

pub(super) fn run(path: Option<PathBuf>, log: Format) -> Outcome {
    let config = load(path.as_deref())?;
    logging::to_stderr(log, "info");
    if no_file(path.as_deref()) {
        tracing::info!("there is no configuration file: everything has its default");
    }
    let launch = Launch {
        launched: launcher::launched(),
        config_path: path.clone(),
        ..Launch::default()
    };
    let service = Service {
        load: || Config::load(path.as_deref(), std::env::vars()),
        tell,
        hangup: Hangup::on_signal()?,
        watchdog: sd_notify::watchdog_enabled(),
        around: Surroundings {
            clock: Arc::new(SystemClock),
            shutdown: Shutdown::on_signals()?,
            credentials: credentials(),
            program: std::env::current_exe()?,
            refusal: Refusal::default(),
            launch: launch.clone(),
        },
    };
    let counts = block_on(async { service.run(config).await.map_err(Failure::from) })?;
    if launch.again.load(Ordering::SeqCst)
        && let Some(launched) = &launch.launched
    {
        // In this process's place: no service manager has to notice and wait.
        let error = launcher::relaunch(launched, &update::arguments(path.as_deref(), log));
        let text = format!("cannot start {}: {error}", launched.factory.display());
        return Err(Failure(Exit::Failed, text));
    }
    // A failure, so that every service manager starts it again.
    Ok(if counts.damaged || counts.broken {
        Exit::Failed
    } else {
        Exit::Done
    })
}

/// Whether the configuration consists of defaults, and perhaps of the environment.
fn no_file(path: Option<&Path>) -> bool {
    path.is_none() && !Path::new(DEFAULT_PATH).exists()
}

/// systemd's folder of credentials, if there is one.
pub(super) fn credentials() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// Tells systemd, where it listens.
fn tell(word: Word<'_>) {
    let told = match word {
        // The second for a start after an update, in a service that counts as running.
        Word::Starting => sd_notify::notify(&[
            NotifyState::ExtendTimeoutUsec(60_000_000),
            NotifyState::Watchdog,
        ]),
        Word::Ready => sd_notify::notify(&[NotifyState::Ready]),
        Word::Reloading => NotifyState::monotonic_usec_now()
            .and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now])),
        Word::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        Word::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
        Word::Line(line) => sd_notify::notify(&[NotifyState::Status(line)]),
    };
    if let Err(error) = told {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// `40.45 N, 3.73 W`.
fn place(site: Site) -> String {
    let half = |degrees: f64, [positive, negative]: [char; 2]| {
        let letter = if degrees < 0.0 { negative } else { positive };
        format!("{} {letter}", degrees.abs())
    };
    let latitude = half(site.latitude_deg, ['N', 'S']);
    format!("{latitude}, {}", half(site.longitude_deg, ['E', 'W']))
}

pub(super) fn check_config(path: Option<&Path>, config: &Config) -> Outcome {
    reload::check(config, credentials().as_deref()).map_err(|e| Failure(Exit::Usage, chain(&e)))?;
    println!("configuration is valid");
    if no_file(path) {
        println!("  file      none: everything has its default");
    }
    println!(
        "  broker    {} as {:?}",
        config.mqtt.url, config.mqtt.client_id
    );
    for rule in &config.mqtt.topics {
        println!("  topic     {} ({})", rule.filter, rule.preset_name());
    }
    println!("  store     {}", config.store.path.display());
    println!("  socket    {}", config.http.socket.display());
    match config.site.site() {
        Some(s) => println!("  site      {}", place(s)),
        None => println!("  site      not given: no features of the sun's position"),
    }
    let training = &config.training;
    let horizons: Vec<String> = training.horizon_min.iter().map(|m| m.to_string()).collect();
    let schedule = if training.enabled {
        training.schedule.to_string()
    } else {
        "never".into()
    };
    println!(
        "  training  {schedule} ({}), {} min ahead",
        config.site.zone(),
        horizons.join(", ")
    );
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn west_and_south_have_their_letters() {
        let at = |latitude_deg, longitude_deg| {
            place(Site {
                latitude_deg,
                longitude_deg,
            })
        };
        assert_eq!(at(40.45, -3.73), "40.45 N, 3.73 W");
        assert_eq!(at(-7.77, 110.38), "7.77 S, 110.38 E");
    }
}
