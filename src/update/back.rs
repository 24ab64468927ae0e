//! The way back by hand: the end of a trial, or the version before, where that would start.

use super::install;
use super::launcher;
use super::layout::Rejection;
use super::switch::{TRIES, Trial};
use super::{BY_HAND, Outcome, Report, UpdateError, Updater};

impl Updater<'_> {
    pub(super) fn roll_back(&self) -> Result<Report, UpdateError> {
        let mut then = String::new();
        match self.tried() {
            Some(trial) => {
                self.reject(trial.sequence, &trial.version)?;
                if self.launched.is_some() || trial.tries_left == TRIES {
                    self.layout.end_trial()?;
                } else {
                    // It was started, and nobody answers who could say whether it still is.
                    then = format!(
                        "; {}, if it is still starting, ends once it is up",
                        trial.version
                    );
                    let taken_back = true;
                    self.layout.try_out(&Trial {
                        taken_back,
                        ..trial
                    })?;
                }
            }
            None => match self.after_its_trial() {
                Some(sequence)
                    if (self.layout.rejected().iter()).any(|r| r.sequence == sequence) => {}
                Some(sequence) => self.reject(sequence, &launcher::own_version().to_string())?,
                None => {
                    self.nothing_starting()?;
                    if self.in_force().0.is_none() {
                        return Err(UpdateError::NothingBefore);
                    }
                    self.look_back()?;
                    self.layout.roll_back(BY_HAND)?;
                }
            },
        }
        let (sequence, _) = launcher::committed(&self.layout, &self.keys, &self.factory());
        let version = match sequence {
            Some(sequence) => self.layout.version_text(sequence),
            None => self.factory().to_string(),
        };
        let named = sequence.map_or("the factory binary".into(), |s| format!("sequence {s}"));
        Ok(Report {
            outcome: Outcome::RolledBack,
            sequence,
            text: format!("back to {version} ({named}){}{then}", self.when_launched()),
            version: Some(version),
            reason: None,
        })
    }

    fn reject(&self, sequence: u64, version: &str) -> Result<(), UpdateError> {
        self.layout.reject(Rejection {
            sequence,
            version: version.to_owned(),
            why: BY_HAND.into(),
            noted: false,
        })
    }

    /// What runs here, where its trial was ended and it was not committed: that is to go, and nothing else.
    fn after_its_trial(&self) -> Option<u64> {
        let launched = self.launched.filter(|l| l.trial)?;
        (launched.sequence).filter(|s| self.layout.linked("current") != Some(*s))
    }

    /// Refused while a candidate that was taken back may be what a person sees running.
    fn nothing_starting(&self) -> Result<(), UpdateError> {
        match self.layout.trial().filter(|t| t.taken_back) {
            Some(t) if self.launched.is_none() => Err(UpdateError::TakenBack {
                version: t.version,
                sequence: t.sequence,
            }),
            _ => Ok(()),
        }
    }

    /// Whether the version before starts with what is configured by now: newer keys are errors to it.
    fn look_back(&self) -> Result<(), UpdateError> {
        let before = self.layout.linked("previous");
        let held = before.and_then(|s| self.layout.held(s, &self.keys).ok());
        let (program, version) = match held.filter(|h| h.manifest.version > self.factory()) {
            Some(held) => (
                self.layout.program(held.manifest.sequence),
                held.manifest.version,
            ),
            None => (
                self.launched
                    .map_or_else(launcher::own_path, |l| l.factory.clone()),
                self.factory(),
            ),
        };
        match install::objection(&program, self.config_path, &self.terms.stop)? {
            Some(why) => Err(UpdateError::NoWayBack {
                version: version.to_string(),
                why,
            }),
            None => Ok(()),
        }
    }
}
