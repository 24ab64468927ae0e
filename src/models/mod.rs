//! Models: a feature row in, watts out, and the same bytes for the same data.
//!
//! A family is a variant of [`Model`] and a [`Learner`] that makes it; a new one adds a file, a
//! variant and a place in [`product`]. Knows no SQL, no tokio and no files.

pub mod baseline;
pub mod bundle;
pub(crate) mod codec;
pub mod interval;
mod learner;
pub mod ramp;
pub mod ridge;
pub mod score;
pub mod trees;

use std::sync::Arc;

use thiserror::Error;

pub use learner::{LearnError, Learner, RidgeLearner, product, product_ridge};
pub use trees::TreesLearner;

use crate::features::{Facts, MAX_PER_CAPACITY, Plan, Row};
use crate::reading::TimestampMs;
use codec::{Decoder, Encoder, seal, unseal};
use interval::Interval;
use ridge::Ridge;
use trees::{Binner, Booster, Forest, MAX_FEATURES as MAX_CODES, MISSING};

const MAGIC: [u8; 8] = *b"nwmodel\0";
const FORMAT: u32 = 2;
/// The largest artefact that is read, bytes.
const MAX_BYTES: usize = 64 << 20;
const MAX_FEATURES: usize = 64;
const MAX_NAME_BYTES: usize = 64;
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
                let mut codes = [MISSING; MAX_CODES];
                binner.encode_row(row.x, facts.missing, &mut codes);
                let sum: f32 = boosters.iter().map(|b| b.predict_codes(&codes)).sum();
                sum / boosters.len().max(1) as f32
            }),
            Model::Extra { binner, forest } => {
                learned(facts, || forest.predict_row(binner, row.x, facts.missing))
            }
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

/// What is stored and served: a model, its interval, and the rows they may be asked about.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// Names of the features, in the order of the row.
    pub features: Vec<String>,
    /// Minutes ahead.
    pub horizon_min: u32,
    /// Minutes between slots.
    pub step_min: u32,
    /// No target later than this was learned from.
    pub trained_until: TimestampMs,
    /// The forecaster.
    pub model: Model,
    /// p10 and p90, where enough rows were held back to know them.
    pub interval: Option<Interval>,
}

impl Artifact {
    /// Whether rows made by `plan` are those the model was made for.
    pub fn fits(&self, plan: &Plan) -> bool {
        self.horizon_min == plan.horizon_min()
            && self.step_min == plan.step_min()
            && plan.names().eq(self.features.iter().map(String::as_str))
    }

    /// The bytes: magic, format, length and SHA-256 of the content, content.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut content = Encoder::default();
        content.u32(self.horizon_min);
        content.u32(self.step_min);
        content.i64(self.trained_until.0);
        content.len(self.features.len());
        self.features.iter().for_each(|name| content.str(name));
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
        let (horizon_min, step_min) = (from.u32()?, from.u32()?);
        let trained_until = TimestampMs(from.i64()?);
        let n = from.len(MAX_FEATURES, 4)?;
        let features = (0..n)
            .map(|_| from.str(MAX_NAME_BYTES))
            .collect::<Result<Vec<_>, _>>()?;
        let model = Model::decode(&mut from, false)?;
        let interval = match from.u8()? {
            0 => None,
            _ => Some(Interval::decode(&mut from)?),
        };
        if !from.0.is_empty() {
            return Err(CodecError::Malformed("something follows the model"));
        }
        if !model.takes(features.len()) {
            return Err(CodecError::Malformed(
                "the model does not take these features",
            ));
        }
        Ok(Self {
            features,
            horizon_min,
            step_min,
            trained_until,
            model,
            interval,
        })
    }
}

#[cfg(test)]
mod tests {
    use codec::HEADER_BYTES;
    use linfa::DatasetBase;
    use linfa::traits::Fit;
    use ndarray::{Array1, Array2};
    use sha2::{Digest, Sha256};

    use super::*;

    fn artifact() -> Artifact {
        let x = Array2::from_shape_fn((50, 2), |(i, j)| ((i * (j + 3)) % 11) as f32);
        let y: Array1<f32> = x.column(0).mapv(|v| v / 20.0);
        let ridge = ridge::RidgeParams::new(1.0)
            .fit(&DatasetBase::new(x, y))
            .unwrap();
        let mut errors = interval::Calibration::default();
        let judged = |i| {
            let (y_w, daylight) = (i as f32, true);
            let row = Row {
                x: &[],
                facts: facts(),
            };
            (row, crate::features::Truth { y_w, daylight }, 150.0)
        };
        errors.observe(1, (0..300).map(judged));
        Artifact {
            features: vec!["a".into(), "b".into()],
            horizon_min: 15,
            step_min: 5,
            trained_until: TimestampMs(1_600_000_000_000),
            model: Model::Median(vec![Model::Ridge(ridge), Model::Smart, Model::Naive]),
            interval: errors.interval(),
        }
    }

    fn facts() -> Facts {
        Facts {
            ts: TimestampMs(0),
            device: 0,
            missing: 0,
            naive_w: 10.0,
            smart_w: 20.0,
            capacity_w: 100.0,
            kcs: Some(0.5),
            has_envelope: true,
            dark: false,
        }
    }

    /// A few trees over two features, as the product puts them together.
    fn trees() -> Artifact {
        let mut learner = TreesLearner::new(
            trees::Settings {
                trees: 2,
                leaves: 4,
                min_child: 2,
                ..Default::default()
            }
            .into(),
            trees::ExtraSettings {
                trees: 2,
                ..Default::default()
            }
            .into(),
        )
        .unwrap();
        let mut rows = crate::features::Matrix::new();
        for i in 0..200 {
            let x = [(i % 5) as f32, (i % 7) as f32];
            let mut facts = facts();
            facts.missing = u64::from(i % 11 == 0);
            let truth = crate::features::Truth {
                y_w: 10.0 * x[0] + x[1],
                daylight: true,
            };
            crate::features::Sink::take(&mut rows, Row { x: &x, facts }, truth);
        }
        let no = std::sync::atomic::AtomicBool::new(false);
        learner.learn(0, &rows, &no).unwrap();
        Artifact {
            model: learner.model(&no).unwrap(),
            ..artifact()
        }
    }

    #[test]
    fn an_artifact_survives_its_bytes() {
        let a = artifact();
        assert!(a.interval.is_some());
        assert_eq!(Artifact::from_bytes(&a.to_bytes()), Ok(a.clone()));
        assert_eq!(a.to_bytes(), artifact().to_bytes());
        let a = trees();
        assert_eq!(Artifact::from_bytes(&a.to_bytes()), Ok(a.clone()));
        assert_eq!(a.to_bytes(), trees().to_bytes());
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_a_typed_error() {
        for bytes in [artifact().to_bytes(), trees().to_bytes()] {
            for i in 0..bytes.len() {
                let mut bad = bytes.clone();
                bad[i] ^= 0x10;
                assert!(Artifact::from_bytes(&bad).is_err(), "byte {i}");
                assert!(Artifact::from_bytes(&bytes[..i]).is_err(), "cut at {i}");
            }
        }
        let bytes = artifact().to_bytes();
        let mut later = bytes.clone();
        later[8] = 9;
        assert_eq!(
            Artifact::from_bytes(&later),
            Err(CodecError::Format {
                found: 9,
                known: FORMAT
            })
        );
        assert_eq!(Artifact::from_bytes(b"nonsense"), Err(CodecError::Magic));
    }

    #[test]
    fn trees_damaged_under_a_matching_checksum_are_an_error_or_can_be_asked() {
        let bytes = trees().to_bytes();
        let row = Row {
            x: &[3.0, 1.0],
            facts: facts(),
        };
        for i in HEADER_BYTES..bytes.len() {
            for flipped in [0x01, 0x80, 0xFF] {
                let mut forged = bytes.clone();
                forged[i] ^= flipped;
                let sum = Sha256::digest(&forged[HEADER_BYTES..]);
                forged[HEADER_BYTES - 32..HEADER_BYTES].copy_from_slice(&sum);
                if let Ok(forged) = Artifact::from_bytes(&forged) {
                    let power_w = forged.model.predict(row);
                    assert!((0.0..=150.0).contains(&power_w), "byte {i}: {power_w} W");
                }
            }
        }
    }

    #[test]
    fn a_median_is_of_an_odd_number_and_holds_no_other() {
        let decoded = |model: &Model| {
            let mut out = Encoder::default();
            model.encode(&mut out);
            Model::decode(&mut Decoder(&out.0), false)
        };
        let of = |n| Model::Median(vec![Model::Smart; n]);
        assert_eq!(decoded(&of(3)), Ok(of(3)));
        for wrong in [of(0), of(2), Model::Median(vec![of(1)])] {
            assert!(decoded(&wrong).is_err(), "{wrong:?}");
        }
        let row = Row {
            x: &[1.0, 1.0],
            facts: facts(),
        };
        let middle = Model::Median(vec![Model::Smart, Model::Naive, Model::Naive]);
        assert_eq!(middle.predict(row), 10.0);
    }

    #[test]
    fn trees_stay_within_bounds_and_follow_the_missing_mask() {
        let a = trees();
        let mut row = Row {
            x: &[4.0, 6.0],
            facts: facts(),
        };
        let mut seen = std::collections::BTreeSet::new();
        for missing in 0..4 {
            row.facts.missing = missing;
            let parts = a.model.parts().iter().map(|part| part.predict(row));
            let mut parts: Vec<f32> = parts.collect();
            parts.sort_by(f32::total_cmp);
            assert!(parts.iter().all(|w| (0.0..=150.0).contains(w)), "{parts:?}");
            assert_eq!(a.model.predict(row), parts[1]);
            seen.insert(parts.iter().map(|w| w.to_bits()).collect::<Vec<_>>());
        }
        assert!(seen.len() > 1, "missing is not its neutral value");
        row.facts.capacity_w = 0.0;
        assert_eq!(a.model.predict(row), row.facts.smart_w);
        row.facts.dark = true;
        assert_eq!(a.model.predict(row), 0.0);
    }

    #[test]
    fn a_forged_length_is_refused_before_anything_is_allocated() {
        let mut out = Encoder::default();
        out.u32(u32::MAX);
        assert!(Decoder(&out.0).f64s(usize::MAX).is_err());
        assert!(Decoder(&out.0).str(MAX_NAME_BYTES).is_err());
    }

    #[test]
    fn forecasts_stay_within_bounds() {
        let a = artifact();
        let mut row = Row {
            x: &[1e9, 0.0],
            facts: facts(),
        };
        // The ridge is cut at 1.5 times 100 W; smart's 20 W are between it and naive's 10 W.
        assert_eq!(a.model.parts()[0].predict(row), 150.0);
        assert_eq!(a.model.predict(row), 20.0);
        row.facts.smart_w = -5.0;
        row.x = &[-1e9, 0.0];
        assert_eq!(a.model.predict(row), 0.0);
        row.facts.dark = true;
        assert_eq!(Model::Naive.predict(row), 0.0);
        row.facts.dark = false;
        row.facts.capacity_w = 0.0;
        row.facts.smart_w = 7.0;
        assert_eq!(
            a.model.predict(row),
            7.0,
            "unknown capacity: smart persistence"
        );
    }
}
