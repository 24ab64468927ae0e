//! Updates over the air that always come back: what is offered, whether it is taken, and the switch.
//!
//! A verb ends in a [`Report`] or an error and leaves either the old state or the new one. What is in force is
//! changed in two places only: [`layout::Layout::commit`] and [`layout::Layout::roll_back`].

mod back;
mod find;
pub mod floor;
pub mod install;
pub mod launcher;
pub mod layout;
pub mod manifest;
pub mod record;
mod report;
pub mod signature;
pub mod source;
pub mod switch;

use std::path::{Path, PathBuf};

use semver::Version;

use crate::config::Config;
use crate::errors::chain;
use crate::reading::TimestampMs;
use crate::store::{Reader, SCHEMA_VERSION, StoreError};
use find::Found;
use install::Offer;
use launcher::Launched;
use layout::Layout;
use manifest::{Allowed, Decision, Facts, Refusal};
pub use report::{Ask, Here, Outcome, Report, Verb};
use signature::{Keys, SignatureError};
use source::{Source, Terms};
use switch::{TRIES, Trial};

/// Why a version was rejected that a person took back.
pub const BY_HAND: &str = "taken back by hand";

/// Rust's name of the machine this binary is for.
pub fn target() -> &'static str {
    match (std::env::consts::ARCH, cfg!(target_env = "musl")) {
        ("x86_64", true) => "x86_64-unknown-linux-musl",
        ("aarch64", true) => "aarch64-unknown-linux-musl",
        ("x86_64", false) => "x86_64-unknown-linux-gnu",
        ("aarch64", false) => "aarch64-unknown-linux-gnu",
        (other, _) => other,
    }
}

/// Why an update could not be done. The station is as it was.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// A file of ours.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Somebody else is at it.
    #[error("another update is going on")]
    Busy,
    /// This daemon is.
    #[error("another update is going on: {what}, since {since}")]
    Going {
        /// What.
        what: String,
        /// Since when.
        since: TimestampMs,
    },
    /// The daemon ends or reads its configuration anew.
    #[error("the update was stopped; done again, it goes on where it was")]
    Stopped,
    /// A part of the program did.
    #[error("the update broke off")]
    Broke,
    /// Nowhere to look.
    #[error("{0}")]
    NoSource(String),
    /// Nobody is trusted.
    #[error(transparent)]
    NoKeys(SignatureError),
    /// One at a time.
    #[error("sequence {0} is on trial; wait for its end, or end it with nightwatt update rollback")]
    OnTrial(u64),
    /// A key of the configuration.
    #[error("{0:?} is no minisign public key")]
    Key(String),
    /// The publisher's side.
    #[error("{0}")]
    Source(String),
    /// The disk.
    #[error("no room for the update: it needs {} MB, and {} MB are free", needed.div_ceil(1_000_000), free / 1_000_000)]
    NoRoom {
        /// Room it would need, spare room included, bytes.
        needed: u64,
        /// What there is, bytes.
        free: u64,
    },
    /// A version here is not what was signed.
    #[error("the version here is damaged: {0}")]
    Damaged(String),
    /// The candidate does not get on with this station.
    #[error("the new version's own check failed: {0}")]
    SelfCheck(String),
    /// There is nothing to commit.
    #[error("nothing is on trial")]
    NoTrial,
    /// A trial needs a launcher, and this daemon's start had none.
    #[error(
        "the station was not started by `nightwatt launch`, which a trial needs: start it with `nightwatt launch` \
         instead of `nightwatt run`, as the unit does"
    )]
    NotLaunched,
    /// It would not start.
    #[error(
        "the version before, {version}, would not start with this station's configuration{why}; mend that first, \
         and go back then"
    )]
    NoWayBack {
        /// Which.
        version: String,
        /// What it says.
        why: String,
    },
    /// It may be what still runs; the version in force is not given up in its place.
    #[error(
        "{version} (sequence {sequence}) was taken back already: if it is still starting, it ends once it is up, and \
         the version in force is started; the way further back is free from then on, or after `nightwatt launch`"
    )]
    TakenBack {
        /// Which.
        version: String,
        /// Its sequence.
        sequence: u64,
    },
    /// There is nothing to go back to.
    #[error("the factory binary runs: there is nothing before it")]
    NothingBefore,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl UpdateError {
    /// Whether nothing could have come of it from the start: whoever asked has asked for the wrong thing.
    pub fn is_misuse(&self) -> bool {
        use UpdateError::{NoKeys, NoSource, NotLaunched, NothingBefore};
        matches!(self, NoSource(_) | NoKeys(_) | NotLaunched | NothingBefore)
    }

    fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| UpdateError::File {
            action,
            path,
            source,
        }
    }
}

/// Everything an update works with.
pub struct Updater<'a> {
    config: &'a Config,
    config_path: Option<&'a Path>,
    launched: Option<&'a Launched>,
    /// Where everything is.
    pub layout: Layout,
    /// Who is trusted.
    pub keys: Keys,
    /// What transfers go by.
    pub terms: Terms,
}

impl<'a> Updater<'a> {
    /// For the station of `config`, which is read from `config_path`; `launched` says what runs here.
    pub fn new(
        config: &'a Config,
        config_path: Option<&'a Path>,
        launched: Option<&'a Launched>,
    ) -> Result<Self, UpdateError> {
        Ok(Self {
            config,
            config_path,
            launched,
            layout: Layout::beside(&config.store.path),
            keys: Keys::new(&config.update.public_keys).map_err(UpdateError::Key)?,
            terms: Terms {
                ca_file: config.update.ca_file.clone(),
                ..Terms::default()
            },
        })
    }

    /// Whether there is anything to begin with, asked by a daemon: somewhere to look, somebody to trust, a
    /// launcher for a trial, or something to go back to.
    pub fn admit(&self, ask: &Ask) -> Result<(), UpdateError> {
        match ask.verb {
            Verb::Rollback if self.tried().is_none() && self.in_force().0.is_none() => {
                Err(UpdateError::NothingBefore)
            }
            Verb::Rollback => Ok(()),
            verb => {
                match self.source(ask) {
                    Err(_) if self.waiting(ask).is_some() => {}
                    other => drop(other?),
                }
                match verb == Verb::Apply && self.launched.is_none() {
                    true => Err(UpdateError::NotLaunched),
                    false => Ok(()),
                }
            }
        }
    }

    /// Does what is asked, alone. Blocks for as long as transfers take; not to be called on a runtime's thread.
    pub fn perform(
        &self,
        ask: &Ask,
        trusted_now: Option<TimestampMs>,
    ) -> Result<Report, UpdateError> {
        let _lock = self.layout.lock()?;
        match ask.verb {
            Verb::Rollback => self.roll_back(),
            _ => self.take(ask, trusted_now),
        }
    }

    fn take(&self, ask: &Ask, trusted_now: Option<TimestampMs>) -> Result<Report, UpdateError> {
        let mut floors = self.layout.floors(&self.keys);
        if floors.watching_since.is_none() && trusted_now.is_some() {
            floors.watching_since = trusted_now;
            self.layout.keep_floors(&floors)?;
        }
        let Found {
            raw,
            signature,
            source,
            why_here,
        } = self.offered(ask).or_else(|error| match self.waiting(ask) {
            Some(found) => Ok(Found {
                why_here: Some(error),
                ..found
            }),
            None => Err(error),
        })?;
        // Nothing of the bytes is looked into before this.
        let key = match self.keys.verify(&raw, &signature) {
            Ok(key) => key,
            Err(e) => return Ok(Report::refused("signature", None, e.to_string())),
        };
        let manifest = match manifest::parse(&raw) {
            Ok(manifest) => manifest,
            Err(e) => return Ok(Report::refused("format", None, e.to_string())),
        };
        let (current, running) = self.in_force();
        let facts = Facts {
            channel: self.config.update.channel.clone(),
            target: target().into(),
            at_least: floors.at_least(key, trusted_now),
            floor: floors.of(key).sequence,
            current,
            rejected: (self.layout.rejected().iter()).any(|r| r.sequence == manifest.sequence),
            running,
            factory: self.factory(),
            schema: self.schema()?,
            station: self.layout.station()?,
            asked: Allowed {
                // A server could offer old ones for ever; somebody stands beside a stick.
                expired: ask.allowed.expired && !matches!(source, Some(Source::Web(_))),
                ..ask.allowed
            },
        };
        let decision = manifest::decide(&manifest, &facts);
        use Refusal::{Channel, Expired, Older, Product, Target};
        let foreign = matches!(
            decision,
            Decision::Refuse(Product | Channel | Target | Expired | Older)
        );
        if !foreign && floors.accepted(key, &manifest) {
            self.layout.keep_floors(&floors)?;
        }
        let report = |outcome, words: &str| Report {
            outcome,
            sequence: Some(manifest.sequence),
            version: Some(manifest.version.to_string()),
            reason: None,
            text: format!(
                "{} (sequence {}) {words}",
                manifest.version, manifest.sequence
            ),
        };
        let wanted = match decision {
            Decision::UpToDate => {
                return Ok(report(
                    Outcome::UpToDate,
                    "is in force; nothing newer is offered",
                ));
            }
            Decision::Wait => {
                return Ok(report(
                    Outcome::Waiting,
                    "is being rolled out and not yet for this station",
                ));
            }
            Decision::Refuse(why) => {
                let named = format!(
                    "{} (sequence {}) is refused: {why}",
                    manifest.version, manifest.sequence
                );
                return Ok(Report::refused(why.as_str(), Some(&manifest), named));
            }
            Decision::Accept if ask.verb == Verb::Check => {
                return Ok(report(Outcome::Available, "is available"));
            }
            Decision::Accept => ask.verb,
        };
        let on_trial = self
            .layout
            .trial()
            .filter(|t| !t.taken_back && (current != Some(t.sequence) || self.is_trial()));
        if let Some(trial) = on_trial {
            return Err(UpdateError::OnTrial(trial.sequence));
        }
        let offer = Offer {
            manifest: manifest.clone(),
            raw,
            signature,
        };
        let spare = self.config.reserve_bytes();
        let source = source.as_ref();
        install::install(&self.layout, &self.keys, &offer, source, &self.terms, spare)?;
        if wanted == Verb::Fetch {
            return Ok(report(Outcome::Fetched, "is here"));
        }
        let program = self.layout.program(manifest.sequence);
        install::self_check(&program, self.config_path, &manifest, &self.terms.stop)?;
        self.layout.try_out(&Trial {
            sequence: manifest.sequence,
            version: manifest.version.to_string(),
            tries_left: TRIES,
            boot: String::new(),
            ready: false,
            taken_back: false,
        })?;
        let mut report = report(Outcome::Trial, "begins its trial");
        report.text += self.when_launched();
        if let Some(why) = why_here {
            report.text += &format!("; it was here already ({})", chain(&why));
        }
        Ok(report)
    }

    /// The trial that is not yet over.
    fn tried(&self) -> Option<Trial> {
        let trial = self.layout.trial().filter(|t| !t.taken_back)?;
        (self.layout.linked("current") != Some(trial.sequence)).then_some(trial)
    }

    /// What is here. A version that was launched is not hashed again for this.
    pub fn here(&self, trusted_now: Option<TimestampMs>) -> Here {
        let (sequence, version) = self.in_force();
        let damaged = match self.launched {
            Some(launched) => launched.passed_over.clone(),
            None => launcher::committed(&self.layout, &self.keys, &self.factory()).1,
        };
        let enabled = self.config.update.enabled;
        let floors = self.layout.floors(&self.keys);
        let frozen_ms = floors.frozen_ms(trusted_now);
        Here {
            enabled,
            factory_version: self.factory().to_string(),
            sequence,
            version: version.to_string(),
            previous: self.layout.linked("previous"),
            trial: self.tried(),
            rejected: self.layout.rejected(),
            floor: floors.highest(),
            held: self.layout.versions(),
            frozen_days: frozen_ms.filter(|_| enabled).map(|ms| ms / 86_400_000),
            damaged,
        }
    }

    /// Where no launcher takes this process's place, what was switched has yet to wait for one.
    fn when_launched(&self) -> &'static str {
        match self.launched {
            Some(_) => "",
            None => ", with the next start by `nightwatt launch`, as the unit does",
        }
    }

    fn is_trial(&self) -> bool {
        self.launched.is_some_and(|l| l.trial)
    }

    fn factory(&self) -> Version {
        (self.launched).map_or_else(launcher::own_version, |l| l.factory_version.clone())
    }

    /// Sequence and version that run, or that a launch would start.
    fn in_force(&self) -> (Option<u64>, Version) {
        if let Some(launched) = self.launched {
            return (launched.sequence, launcher::own_version());
        }
        let (sequence, _) = launcher::committed(&self.layout, &self.keys, &self.factory());
        let held = sequence.and_then(|s| self.layout.held(s, &self.keys).ok());
        let version = held.map_or_else(|| self.factory(), |h| h.manifest.version);
        (sequence, version)
    }

    fn schema(&self) -> Result<i64, UpdateError> {
        let db = &self.config.store.path;
        match db.exists() {
            true => Ok(Reader::open(db)?.schema()?),
            false => Ok(SCHEMA_VERSION),
        }
    }
}
