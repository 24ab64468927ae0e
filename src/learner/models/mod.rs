//! Models: a feature row in, watts out, and the same bytes for the same data.
//!
//! A family is a variant of [`Model`] and a [`Learner`] that makes it; a new one adds a file, a
//! variant and a place in [`product`]. Knows no SQL, no tokio and no files.

pub mod baseline;
pub mod bundle;
pub(crate) mod codec;
mod header;
pub mod interval;
mod learner;
pub mod ramp;
pub mod ridge;
pub mod score;
pub mod trees;

use std::sync::Arc;

use thiserror::Error;

pub use header::Header;
pub use learner::{LearnError, Learner, RidgeLearner, product, product_ridge};
pub use trees::TreesLearner;

use crate::features::{Facts, MAX_PER_CAPACITY, Row};
use codec::{Decoder, Encoder, seal, unseal};
use interval::Interval;
use ridge::Ridge;
use trees::{Binner, Booster, Forest};

const MAGIC: [u8; 8] = *b"nwmodel\0";
const FORMAT: u32 = 2;
/// The largest artefact that is read, bytes.
const MAX_BYTES: usize = 64 << 20;
const MAX_PARTS: usize = 64;

/// Why bytes are not a model.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CodecError {
    /// They do not start as a model does.
    #[error("reading it: not what nightwatt writes")]
    Magic,
    /// Another version of nightwatt wrote them.
    #[error("reading it: it is of format {found}, and this version reads format {known} only")]
    Format {
        /// Theirs.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// There are fewer or more bytes than were written, or beyond the limit.
    #[error("reading it: {got} bytes after the header instead of {want}")]
    Length {
        /// What the header says.
        want: u64,
        /// What is there.
        got: u64,
    },
    /// The content is not what was written.
    #[error("reading it: its checksum does not match")]
    Checksum,
    /// The content passes its checksum but makes no sense.
    #[error("reading it: {0}")]
    Malformed(&'static str),
}

/// A forecaster of one family.
#[derive(Clone, Debug, PartialEq)]
pub enum Model {
    /// Persistence of power.
    Naive,
    /// Persistence of the clear-sky index.
    Smart,
    /// Ridge on capacity-scaled power.
    Ridge(Ridge),
    /// The mean of boosters on capacity-scaled power.
    Boosted {
        /// Turns a row into the codes that the trees compare; shared with [`Model::Extra`].
        binner: Arc<Binner>,
        /// Several, of which the mean counts.
        boosters: Vec<Booster>,
    },
    /// Extra-trees on capacity-scaled power.
    Extra {
        /// Turns a row into the codes that the trees compare; shared with [`Model::Boosted`].
        binner: Arc<Binner>,
        /// The trees.
        forest: Forest,
    },
    /// The median of an odd number of others.
    Median(Vec<Model>),
}

impl Model {
    /// The forecast for a row, W: 0 in the dark, never negative, and where a family was learned
    /// never above [`MAX_PER_CAPACITY`]. A device of unknown capacity gets smart persistence.
    pub fn predict(&self, row: Row<'_>) -> f32 {
        if row.facts.dark { 0.0 } else { self.lit(row) }
    }

    fn lit(&self, row: Row<'_>) -> f32 {
        let facts = &row.facts;
        match self {
            Model::Naive => facts.naive_w.max(0.0),
            Model::Smart => facts.smart_w.max(0.0),
            Model::Ridge(ridge) => learned(facts, || ridge.value(row.x) as f32),
            Model::Boosted { binner, boosters } => learned(facts, || {
                let codes = binner.row_codes(row.x, facts.missing);
                let sum: f32 = boosters.iter().map(|b| b.predict_codes(&codes)).sum();
                sum / boosters.len().max(1) as f32
            }),
            Model::Extra { binner, forest } => learned(facts, || {
                forest.predict_codes(&binner.row_codes(row.x, facts.missing))
            }),
            Model::Median(parts) => median(parts.iter().map(|part| part.lit(row))),
        }
    }

    /// Whether rows of `width` features can be asked of it.
    fn takes(&self, width: usize) -> bool {
        match self {
            Model::Naive | Model::Smart => true,
            Model::Ridge(ridge) => ridge.width() == width,
            Model::Boosted { binner, boosters } => {
                binner.features() == width && boosters.iter().all(|b| b.features() == width)
            }
            Model::Extra { binner, forest } => {
                binner.features() == width && forest.features() == width
            }
            Model::Median(parts) => parts.iter().all(|part| part.takes(width)),
        }
    }

    /// The parts of a median, in their order; none of any other family.
    pub fn parts(&self) -> &[Model] {
        match self {
            Model::Median(parts) => parts,
            _ => &[],
        }
    }

    fn encode(&self, out: &mut Encoder) {
        match self {
            Model::Naive => out.u8(0),
            Model::Smart => out.u8(1),
            Model::Ridge(ridge) => {
                out.u8(2);
                ridge.encode(out);
            }
            Model::Boosted { binner, boosters } => {
                out.u8(3);
                binner.encode(out);
                out.len(boosters.len());
                boosters.iter().for_each(|booster| booster.encode(out));
            }
            Model::Extra { binner, forest } => {
                out.u8(4);
                binner.encode(out);
                forest.encode(out);
            }
            Model::Median(parts) => {
                out.u8(5);
                out.len(parts.len());
                parts.iter().for_each(|part| part.encode(out));
            }
        }
    }

    /// `nested`: inside a median. Parts hold no parts themselves, so that depth is bounded.
    fn decode(from: &mut Decoder<'_>, nested: bool) -> Result<Self, CodecError> {
        Ok(match from.u8()? {
            0 => Model::Naive,
            1 => Model::Smart,
            2 => Model::Ridge(Ridge::decode(from)?),
            3 => {
                let binner = Arc::new(Binner::decode(from)?);
                let boosters = from.len(MAX_PARTS, 1)?;
                let boosters = (0..boosters)
                    .map(|_| Booster::decode(from))
                    .collect::<Result<_, _>>()?;
                Model::Boosted { binner, boosters }
            }
            4 => Model::Extra {
                binner: Arc::new(Binner::decode(from)?),
                forest: Forest::decode(from)?,
            },
            5 if !nested => {
                let parts = from.len(MAX_PARTS, 1)?;
                let parts = (0..parts)
                    .map(|_| Self::decode(from, true))
                    .collect::<Result<Vec<_>, _>>()?;
                if parts.len().is_multiple_of(2) {
                    return Err(CodecError::Malformed("a median of an even number"));
                }
                Model::Median(parts)
            }
            _ => return Err(CodecError::Malformed("a family is not known")),
        })
    }
}

/// The middle one of an odd number of forecasts.
fn median(forecasts_w: impl Iterator<Item = f32>) -> f32 {
    let mut sorted = [0.0; MAX_PARTS];
    let mut n = 0;
    for (place, forecast_w) in sorted.iter_mut().zip(forecasts_w) {
        *place = forecast_w;
        n += 1;
    }
    sorted[..n].sort_unstable_by(f32::total_cmp);
    sorted[n / 2]
}

/// A learned value per capacity as watts within sane bounds.
fn learned(facts: &Facts, value: impl FnOnce() -> f32) -> f32 {
    if facts.capacity_w > 0.0 {
        value().clamp(0.0, MAX_PER_CAPACITY) * facts.capacity_w
    } else {
        facts.smart_w.max(0.0)
    }
}

/// What is stored and served: a model and its interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// The rows it may be asked about.
    pub header: Header,
    /// The forecaster.
    pub model: Model,
    /// p10 and p90, where enough rows were held back to know them.
    pub interval: Option<Interval>,
}

impl Artifact {
    /// The bytes: magic, format, length and SHA-256 of the content, content.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut content = Encoder::default();
        self.header.encode(&mut content);
        self.model.encode(&mut content);
        content.u8(u8::from(self.interval.is_some()));
        if let Some(interval) = &self.interval {
            interval.encode(&mut content);
        }
        seal(MAGIC, FORMAT, &content.0)
    }

    /// Reads what [`Artifact::to_bytes`] wrote. Length and checksum come first; nothing larger
    /// than the bytes themselves is allocated.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Decoder(unseal(bytes, MAGIC, FORMAT, MAX_BYTES)?);
        let header = Header::decode(&mut from)?;
        let model = Model::decode(&mut from, false)?;
        let interval = match from.u8()? {
            0 => None,
            _ => Some(Interval::decode(&mut from)?),
        };
        if !from.0.is_empty() {
            return Err(CodecError::Malformed("something follows the model"));
        }
        if !model.takes(header.features.len()) {
            return Err(CodecError::Malformed(
                "the model does not take these features",
            ));
        }
        Ok(Self {
            header,
            model,
            interval,
        })
    }
}

#[cfg(test)]
mod tests;
