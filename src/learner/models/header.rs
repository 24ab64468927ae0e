//! What every stored part begins with: which rows it may be asked about, and until when it learned.

use super::CodecError;
use super::codec::{Decoder, Encoder};
use crate::features::Plan;
use crate::reading::TimestampMs;

const MAX_FEATURES: usize = 64;
pub(super) const MAX_NAME_BYTES: usize = 64;

/// The rows a part was made for, and the time it knows nothing after.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Names of the features, in the order of the row.
    pub features: Vec<String>,
    /// Minutes ahead.
    pub horizon_min: u32,
    /// Minutes between slots.
    pub step_min: u32,
    /// No later row or target was learned from.
    pub trained_until: TimestampMs,
}

impl Header {
    /// Of a part made for the rows of `plan`.
    pub fn new(plan: &Plan, trained_until: TimestampMs) -> Self {
        Self {
            features: plan.names().map(str::to_owned).collect(),
            horizon_min: plan.horizon_min(),
            step_min: plan.step_min(),
            trained_until,
        }
    }

    /// Whether rows made by `plan` are those the part was made for.
    pub fn fits(&self, plan: &Plan) -> bool {
        self.horizon_min == plan.horizon_min()
            && self.step_min == plan.step_min()
            && plan.names().eq(self.features.iter().map(String::as_str))
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        out.u32(self.horizon_min);
        out.u32(self.step_min);
        out.i64(self.trained_until.0);
        out.len(self.features.len());
        self.features.iter().for_each(|name| out.str(name));
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let (horizon_min, step_min) = (from.u32()?, from.u32()?);
        let trained_until = TimestampMs(from.i64()?);
        let n = from.len(MAX_FEATURES, 4)?;
        let features = (0..n)
            .map(|_| from.str(MAX_NAME_BYTES))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            features,
            horizon_min,
            step_min,
            trained_until,
        })
    }
}
