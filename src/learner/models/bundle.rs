//! A version: for each horizon a power model and, where it has skill, a ramp warning, as one row of bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::codec::{Decoder, Encoder, seal, unseal};
use super::ramp::RampWarning;
use super::{Artifact, CodecError, MAX_BYTES};

const MAGIC: [u8; 8] = *b"nwbundle";
const FORMAT: u32 = 1;
/// The most horizons a station may ask for, each with two parts.
pub const MAX_HORIZONS: usize = 8;
const MAX_PARTS: usize = 2 * MAX_HORIZONS;
/// Kind, horizon and length come before the bytes of a part.
const PART_HEADER_BYTES: usize = 1 + 4 + 8;

/// What a part answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// How much power there will be.
    Power,
    /// How likely power is to fall steeply before then.
    Ramp,
}

/// What one version holds, by minutes ahead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bundle {
    /// The power models.
    pub power: BTreeMap<u32, Artifact>,
    /// The ramp warnings.
    pub ramp: BTreeMap<u32, RampWarning>,
}

impl Bundle {
    /// Which parts there are.
    pub fn parts(&self) -> impl Iterator<Item = (u32, Kind)> + '_ {
        let power = self.power.keys().map(|&h| (h, Kind::Power));
        power.chain(self.ramp.keys().map(|&h| (h, Kind::Ramp)))
    }

    /// True without any part.
    pub fn is_empty(&self) -> bool {
        self.power.is_empty() && self.ramp.is_empty()
    }

    /// Minutes between slots of the rows that every part wants; `None` without parts, or where they
    /// disagree and cannot serve together.
    pub fn step_min(&self) -> Option<u32> {
        let power = self.power.values().map(|part| part.header.step_min);
        let mut steps = power.chain(self.ramp.values().map(|part| part.header.step_min));
        let first = steps.next()?;
        steps.all(|step| step == first).then_some(first)
    }

    /// Takes the parts of `older` that are asked for and not here already, as far as their rows are
    /// of the same step; returns which those were.
    pub fn carry(&mut self, older: Bundle, horizons_min: &[u32]) -> Vec<(u32, Kind)> {
        let step_min = self.step_min();
        let wanted = |horizon: &u32, step: u32| {
            horizons_min.contains(horizon) && step_min.is_none_or(|mine| mine == step)
        };
        let mut carried = Vec::new();
        for (horizon, part) in older.power {
            if wanted(&horizon, part.header.step_min) && !self.power.contains_key(&horizon) {
                self.power.insert(horizon, part);
                carried.push((horizon, Kind::Power));
            }
        }
        for (horizon, part) in older.ramp {
            if wanted(&horizon, part.header.step_min) && !self.ramp.contains_key(&horizon) {
                self.ramp.insert(horizon, part);
                carried.push((horizon, Kind::Ramp));
            }
        }
        carried
    }

    /// The bytes: magic, format, length and SHA-256 of the content; how many parts, and each part's
    /// kind, horizon, length and bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut content = Encoder::default();
        content.len(self.power.len() + self.ramp.len());
        let mut part = |kind, horizon, bytes: &[u8]| {
            content.u8(kind);
            content.u32(horizon);
            content.bytes(bytes);
        };
        for (&horizon, power) in &self.power {
            part(0, horizon, &power.to_bytes());
        }
        for (&horizon, ramp) in &self.ramp {
            part(1, horizon, &ramp.to_bytes());
        }
        seal(MAGIC, FORMAT, &content.0)
    }

    /// Reads what [`Bundle::to_bytes`] wrote. Length and checksum come first; nothing larger than the
    /// bytes themselves is allocated.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Decoder(unseal(bytes, MAGIC, FORMAT, MAX_PARTS * MAX_BYTES)?);
        let mut bundle = Self::default();
        for _ in 0..from.len(MAX_PARTS, PART_HEADER_BYTES)? {
            let (kind, horizon) = (from.u8()?, from.u32()?);
            let bytes = from.bytes(MAX_BYTES)?;
            let (of, again) = match kind {
                0 => {
                    let part = Artifact::from_bytes(bytes)?;
                    (
                        part.header.horizon_min,
                        bundle.power.insert(horizon, part).is_some(),
                    )
                }
                1 => {
                    let part = RampWarning::from_bytes(bytes)?;
                    (
                        part.header.horizon_min,
                        bundle.ramp.insert(horizon, part).is_some(),
                    )
                }
                _ => return Err(CodecError::Malformed("a kind of part is not known")),
            };
            if again || of != horizon {
                return Err(CodecError::Malformed("a part is for another horizon"));
            }
        }
        if !from.0.is_empty() {
            return Err(CodecError::Malformed("something follows the last part"));
        }
        Ok(bundle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Header, Model};
    use crate::reading::TimestampMs;

    fn power(horizon_min: u32, step_min: u32, trained_until: i64) -> Artifact {
        Artifact {
            header: Header {
                features: vec!["a".into()],
                horizon_min,
                step_min,
                trained_until: TimestampMs(trained_until),
            },
            model: Model::Smart,
            interval: None,
        }
    }

    fn bundle(parts: &[(u32, i64)]) -> Bundle {
        let mut bundle = Bundle::default();
        for &(horizon, trained_until) in parts {
            bundle
                .power
                .insert(horizon, power(horizon, 5, trained_until));
        }
        bundle
    }

    #[test]
    fn a_bundle_survives_its_bytes_and_no_damage_passes() {
        let mut b = bundle(&[(15, 1), (60, 2)]);
        b.ramp
            .insert(15, crate::models::ramp::testdata::warning(15));
        let bytes = b.to_bytes();
        assert_eq!(Bundle::from_bytes(&bytes), Ok(b.clone()));
        assert_eq!(b.to_bytes(), bytes);
        assert_eq!(
            Bundle::from_bytes(&Bundle::default().to_bytes()),
            Ok(Bundle::default())
        );
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 0x40;
            assert!(Bundle::from_bytes(&bad).is_err(), "byte {i}");
            assert!(Bundle::from_bytes(&bytes[..i]).is_err(), "cut at {i}");
        }
        let parts: Vec<_> = b.parts().collect();
        assert_eq!(
            parts,
            [(15, Kind::Power), (60, Kind::Power), (15, Kind::Ramp)]
        );
    }

    #[test]
    fn a_part_under_another_horizon_or_twice_is_refused() {
        let part = power(15, 5, 0).to_bytes();
        for horizons in [&[60][..], &[15, 15]] {
            let mut content = Encoder::default();
            content.len(horizons.len());
            for &horizon in horizons {
                content.u8(0);
                content.u32(horizon);
                content.bytes(&part);
            }
            let bytes = seal(MAGIC, FORMAT, &content.0);
            assert!(matches!(
                Bundle::from_bytes(&bytes),
                Err(CodecError::Malformed(_))
            ));
        }
    }

    #[test]
    fn parts_that_were_not_beaten_are_carried_and_others_are_not() {
        let live = bundle(&[(15, 1), (60, 1), (180, 1)]);
        let mut next = bundle(&[(60, 2)]);
        assert_eq!(next.carry(live, &[15, 60]), [(15, Kind::Power)]);
        let until = |h| next.power.get(&h).map(|part| part.header.trained_until.0);
        assert_eq!((until(15), until(60), until(180)), (Some(1), Some(2), None));
        let mut other_step = Bundle::default();
        other_step.power.insert(15, power(15, 10, 3));
        assert_eq!(other_step.carry(next, &[15, 60]), []);
    }
}
