//! Which release a call is about: what its source offers, or what is here already.

use std::path::Path;

use super::layout::{MANIFEST, SIGNATURE};
use super::record;
use super::signature::{MANIFEST_BYTES, SIGNATURE_BYTES, SignatureError};
use super::source::Source;
use super::{Ask, UpdateError, Updater, Verb};

/// A release's signed bytes, not yet verified.
pub(super) struct Found {
    pub(super) raw: Vec<u8>,
    pub(super) signature: Vec<u8>,
    /// Where its file is; none where the file is here already.
    pub(super) source: Option<Source>,
    /// Why it is the one that is here.
    pub(super) why_here: Option<UpdateError>,
}

impl Updater<'_> {
    /// Where to look, if anything can come of it.
    pub(super) fn source(&self, ask: &Ask) -> Result<Source, UpdateError> {
        let source = self.place(ask)?;
        match self.keys.is_empty() {
            true => Err(UpdateError::NoKeys(SignatureError::NoKeys)),
            false => Ok(source),
        }
    }

    fn place(&self, ask: &Ask) -> Result<Source, UpdateError> {
        let update = &self.config.update;
        let text = ask.source.as_deref().unwrap_or(&update.source);
        let source = Source::parse(text, &update.channel).map_err(UpdateError::NoSource)?;
        let Source::Folder(folder) = source else {
            return Ok(source);
        };
        let Err(why) = std::fs::metadata(folder.join(MANIFEST)) else {
            return Ok(Source::Folder(folder));
        };
        // The top of what a publisher has carried here.
        let below = Path::new(&update.channel).join(super::target());
        let inner = folder.join(&below);
        if inner.join(MANIFEST).exists() {
            return Ok(Source::Folder(inner));
        }
        Err(UpdateError::NoSource(format!(
            "there is no release in {}: {MANIFEST}: {why}; nor in {} below it",
            folder.display(),
            below.display()
        )))
    }

    /// What the source says.
    pub(super) fn offered(&self, ask: &Ask) -> Result<Found, UpdateError> {
        let source = self.source(ask)?;
        let mut terms = self.terms.clone();
        if ask.allowed.by_hand {
            // Whoever waits for the answer hears at once why there is none.
            terms.limits.pauses.clear();
        }
        Ok(Found {
            raw: source.small(MANIFEST, MANIFEST_BYTES, &terms)?,
            signature: source.small(SIGNATURE, SIGNATURE_BYTES, &terms)?,
            source: Some(source),
            why_here: None,
        })
    }

    /// What a person who wants it tried need not have offered again: the newest whole version that is here and
    /// neither in force nor the one before.
    pub(super) fn waiting(&self, ask: &Ask) -> Option<Found> {
        if ask.verb != Verb::Apply || !ask.allowed.by_hand {
            return None;
        }
        let named = ["current", "previous"].map(|name| self.layout.linked(name));
        let versions = self.layout.versions();
        let mut waiting = versions
            .into_iter()
            .rev()
            .filter(|s| !named.contains(&Some(*s)));
        waiting.find_map(|sequence| {
            let held = self.layout.held(sequence, &self.keys).ok()?;
            let path = self.layout.version(sequence).join(SIGNATURE);
            Some(Found {
                raw: held.raw,
                signature: record::read_small(&path, SIGNATURE_BYTES).ok()?,
                source: None,
                why_here: None,
            })
        })
    }
}
