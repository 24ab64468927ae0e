//! `run`: the daemon from the shell and from systemd, and its log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sd_notify::NotifyState;

use super::{Exit, Failure, Outcome, block_on, load, update};
use crate::clock::SystemClock;
use crate::config::{Config, DEFAULT_PATH};
use crate::daemon::Surroundings;
use crate::daemon::reload::{Refusal, Service, Word};
use crate::daemon::updates::Launch;
use crate::logging::{self, Format};
use crate::shutdown::{Hangup, Shutdown};
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
pub(super) fn no_file(path: Option<&Path>) -> bool {
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
