//! A version on trial proves itself, says that it runs, and commits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::Method;
use tokio::time::{Instant, MissedTickBehavior};

use super::Updates;
use crate::errors::chain;
use crate::http::client;
use crate::update::UpdateError;
use crate::update::layout::Layout;
use crate::update::manifest::Manifest;

/// A version on trial is asked this often whether it does what it has to.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// And has so long to do it.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// One that has not proved itself in so many times its time ends, as if it had crashed.
const GIVE_UP_AFTER: u32 = 5;

/// What a commit is told as.
pub(super) fn committed(m: &Manifest) -> String {
    let Manifest {
        version, sequence, ..
    } = m;
    format!("{version} (sequence {sequence}) has proved itself and stays")
}

impl Updates {
    /// The sequence of this version where it has yet to prove itself.
    pub(super) fn on_trial(&self) -> Option<u64> {
        let launched = self.launch.launched.as_ref().filter(|l| l.trial)?;
        // Committed since, a reload does not put it on trial again.
        let layout = Layout::beside(&self.config.store.path);
        let committed = layout.linked("current");
        launched.sequence.filter(|s| committed != Some(*s))
    }

    pub(super) async fn note_ready(
        &self,
        sequence: u64,
        ready: bool,
    ) -> Result<(), Arc<UpdateError>> {
        self.with_updater(move |updater| {
            let _lock = updater.layout.lock()?;
            updater.layout.note_ready(sequence, ready)
        })
        .await
    }

    /// Commits the version on trial once it has done everything it has to for long enough without a break:
    /// the store takes a write (which only a turning writer answers) and the socket answers a request. The
    /// watchdog is the service manager's to watch. Whether there is a broker does not count.
    pub(super) async fn prove(&self) {
        let Some(sequence) = self.on_trial() else {
            return std::future::pending().await;
        };
        let needed = Duration::from_secs(u64::from(self.config.update.trial_s));
        let (began, mut good_since) = (Instant::now(), Instant::now());
        tracing::info!(
            sequence,
            seconds = needed.as_secs(),
            "this version is on trial"
        );
        let mut beat = tokio::time::interval(PROBE_EVERY.min(needed));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut noted = false;
        let layout = Layout::beside(&self.config.store.path);
        loop {
            beat.tick().await;
            // A person may have ended the trial before this version was up; its rejection stands then.
            if !layout.is_tried(sequence) {
                tracing::warn!(
                    sequence,
                    "this version was taken back; what is due is started"
                );
                return self.relaunch();
            }
            let good = self.probe(sequence).await;
            if good.is_ok() && !noted {
                // From here on a crash is its own doing; the next look notes it where this one could not.
                noted = self.note_ready(sequence, true).await.is_ok();
            }
            if let Err(why) = good {
                tracing::warn!("not proved yet: {why}");
                good_since = Instant::now();
            } else if good_since.elapsed() >= needed {
                match self.commit(sequence).await {
                    Ok(text) => {
                        tracing::info!("{text}");
                        if self.note("update_committed", text).await {
                            self.settle().await;
                        }
                        return std::future::pending().await;
                    }
                    Err(error) => tracing::error!("not committed: {}", chain(&error)),
                }
            }
            if began.elapsed() >= needed * GIVE_UP_AFTER {
                tracing::error!("this version has not proved itself in time");
                self.broken.store(true, Ordering::SeqCst);
                self.shutdown.begin();
                return;
            }
        }
    }

    async fn probe(&self, sequence: u64) -> Result<(), String> {
        let written = self.store.keep("update_trial", sequence.to_string());
        (tokio::time::timeout(PROBE_LIMIT, written).await)
            .map_err(|_| "the store does not answer".to_owned())?
            .map_err(|e| chain(&e))?;
        let socket = &self.config.http.socket;
        client::request_within(
            PROBE_LIMIT,
            socket,
            Method::GET,
            "/api/status",
            String::new(),
        )
        .await
        .map(drop)
        .map_err(|e| chain(&e))
    }

    async fn commit(&self, sequence: u64) -> Result<String, Arc<UpdateError>> {
        self.with_updater(move |updater| {
            let _lock = updater.layout.lock()?;
            if !updater.layout.is_tried(sequence) {
                return Err(UpdateError::NoTrial);
            }
            Ok(committed(&updater.layout.commit(&updater.keys)?))
        })
        .await
    }

    /// Only once the event is kept: cut off before, the next start tells it.
    pub(super) async fn settle(&self) {
        let settled = self.with_updater(|updater| {
            let _lock = updater.layout.lock()?;
            updater.layout.settle()
        });
        if let Err(error) = settled.await {
            tracing::warn!(
                "the commit is concluded at the next start: {}",
                chain(&error)
            );
        }
    }
}
