//! The way back by hand: the end of a trial, or the version before, where that would start.

use super::install;
use super::launcher;
use super::layout::Rejection;
use super::{BY_HAND, Outcome, Report, UpdateError, Updater};

impl Updater<'_> {
    pub(super) fn roll_back(&self) -> Result<Report, UpdateError> {
        match self.tried() {
            Some(trial) => {
                self.layout.reject(Rejection {
                    sequence: trial.sequence,
                    version: trial.version,
                    why: BY_HAND.into(),
                    noted: false,
                })?;
                self.layout.end_trial()?;
            }
            None if self.in_force().0.is_none() => return Err(UpdateError::NothingBefore),
            None => {
                self.look_back()?;
                self.layout.roll_back(BY_HAND)?;
            }
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
            text: format!("back to {version} ({named}){}", self.when_launched()),
            version: Some(version),
            reason: None,
        })
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
