//! Teaches boosted trees and extra-trees from one binned copy of the rows.

use std::panic::resume_unwind;
use std::sync::atomic::AtomicBool;
use std::thread;

use linfa::ParamGuard;

use super::params::{ExtraParams, FitError, Params, ValidExtraParams, ValidParams};
use super::store::Store;
use crate::features::Matrix;
use crate::models::learner::check;
use crate::models::{LearnError, Learner, Model};

/// Gives the median of boosted trees, extra-trees and smart persistence, the parts in this order.
///
/// The two families err differently, and smart persistence errs elsewhere than both: where one of
/// the three strays, the median does not follow, which their mean would by a third.
#[derive(Clone, Debug)]
pub struct TreesLearner {
    boosting: ValidParams,
    extra: ValidExtraParams,
    rows: Store,
}

impl TreesLearner {
    /// A learner that knows nothing.
    pub fn new(boosting: Params, extra: ExtraParams) -> Result<Self, FitError> {
        Ok(Self {
            boosting: boosting.check()?,
            extra: extra.check()?,
            rows: Store::default(),
        })
    }
}

impl Learner for TreesLearner {
    fn learn(&mut self, day: &Matrix, cancel: &AtomicBool) -> Result<(), LearnError> {
        check(cancel)?;
        Ok(self.rows.add(day)?)
    }

    fn model(&mut self, cancel: &AtomicBool) -> Result<Model, LearnError> {
        check(cancel)?;
        let targets = self.rows.targets();
        if targets.is_empty() {
            return Err(LearnError::NoRows);
        }
        let (binner, rows) = self.rows.binned()?;
        // Neither depends on the other, and neither result on what runs at the same time.
        let (booster, forest) = thread::scope(|scope| {
            let forest = scope.spawn(|| self.extra.fit(&rows, targets, cancel));
            let booster = self.boosting.fit(&rows, targets, None, cancel);
            (booster, forest.join().unwrap_or_else(|e| resume_unwind(e)))
        });
        Ok(Model::Median(vec![
            Model::Boosted {
                binner: binner.clone(),
                booster: booster?,
            },
            Model::Extra {
                binner,
                forest: forest?,
            },
            Model::Smart,
        ]))
    }

    /// Never: trees do not keep the rows they came from.
    fn resume(&mut self, _model: &Model) -> bool {
        false
    }
}
