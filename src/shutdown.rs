//! Signals to wake-ups: SIGTERM and SIGINT ask for an orderly end, a second one ends at once; SIGHUP asks for a new look at the configuration.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use tokio::sync::Notify;

/// The status of a process that was told twice: 128 + SIGINT, as a shell reports it.
const SECOND_SIGNAL_STATUS: i32 = 130;

/// Tells everyone who waits that it is time to stop. Cheap to clone.
#[derive(Clone, Default)]
pub struct Shutdown(Arc<(AtomicBool, Notify)>);

impl Shutdown {
    /// One that only [`Shutdown::begin`] sets off.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that SIGTERM and SIGINT set off.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let told = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // Order matters: the exit looks at the flag before the same signal sets it.
            flag::register_conditional_shutdown(signal, SECOND_SIGNAL_STATUS, told.clone())?;
            flag::register(signal, told.clone())?;
        }
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let begin = shutdown.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                if signals.forever().next().is_some() {
                    begin.begin();
                }
            })?;
        Ok(shutdown)
    }

    /// Sets it off.
    pub fn begin(&self) {
        self.0.0.store(true, Ordering::SeqCst);
        self.0.1.notify_waiters();
    }

    /// Whether it has been set off.
    pub fn has_begun(&self) -> bool {
        self.0.0.load(Ordering::SeqCst)
    }

    /// Waits until it is set off.
    pub async fn begun(&self) {
        // Registered before the look, so that a signal in between is not missed.
        let notified = self.0.1.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.has_begun() {
            notified.await;
        }
    }
}

/// Hears SIGHUP. Those that come while nobody waits are one.
pub struct Hangup(Arc<Notify>);

impl Hangup {
    /// From now on SIGHUP no longer ends the process.
    pub fn on_signal() -> io::Result<Self> {
        let mut signals = Signals::new([SIGHUP])?;
        let heard = Arc::new(Notify::new());
        let tell = heard.clone();
        std::thread::Builder::new()
            .name("hangup".into())
            .spawn(move || signals.forever().for_each(|_| tell.notify_one()))?;
        Ok(Self(heard))
    }

    /// Waits for the next one.
    pub async fn heard(&self) {
        self.0.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everyone_who_waits_hears_of_it_and_so_do_those_who_come_late() {
        let shutdown = Shutdown::new();
        let (a, b) = (shutdown.clone(), shutdown.clone());
        let waiting = tokio::spawn(async move { a.begun().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        shutdown.begin();
        waiting.await.unwrap();
        b.begun().await;
    }
}
