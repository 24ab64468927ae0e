//! Histogram gradient boosting and extra-trees over one binned window of rows.

mod binned;
mod bins;
mod boost;
mod draw;
mod extra;
mod grow;
mod histogram;
mod learner;
mod loss;
mod params;
pub(super) mod rng;
mod rounds;
mod scan;
#[cfg(test)]
mod testdata;
mod tree;
mod window;

pub use binned::BinnedMatrix;
pub use bins::{BinError, Binner, MAX_BINS, MAX_FEATURES, MISSING};
pub use boost::Booster;
pub use extra::Forest;
pub use learner::TreesLearner;
pub use loss::Loss;
pub use params::{
    ExtraParams, ExtraSettings, FitError, MAX_ROWS, Params, Settings, ValidExtraParams, ValidParams,
};
pub use tree::{MAX_LEAVES, Split, Tree};
