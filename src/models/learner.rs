//! Learners: what is taught day by day and gives a model at the end of the night.

use std::sync::atomic::{AtomicBool, Ordering};

use linfa::ParamGuard;
use linfa::traits::FitWith;
use thiserror::Error;

use super::Model;
use super::ridge::{Gram, RidgeError, RidgeParams, RidgeValidParams};
use super::trees::{BinError, ExtraSettings, FitError, Settings, TreesLearner};
use crate::features::Matrix;

/// The ridge's penalty. Of 1, 10 and 300 the least was best on every data set tried.
const RIDGE_PENALTY: f64 = 1.0;

/// Why a learner gave no model.
#[derive(Debug, Error)]
pub enum LearnError {
    /// The caller asked to stop.
    #[error("learning was cancelled")]
    Cancelled,
    /// No row taught anything.
    #[error("learning: no usable rows")]
    NoRows,
    /// The ridge could not be fitted.
    #[error("learning the ridge")]
    Ridge(#[source] RidgeError),
    /// The rows could not be binned for the trees.
    #[error("binning the rows for the trees")]
    Bins(#[from] BinError),
    /// The trees could not be fitted.
    #[error("learning the trees")]
    Trees(#[source] FitError),
}

impl From<RidgeError> for LearnError {
    fn from(e: RidgeError) -> Self {
        match e {
            RidgeError::NoRows => LearnError::NoRows,
            e => LearnError::Ridge(e),
        }
    }
}

impl From<FitError> for LearnError {
    fn from(e: FitError) -> Self {
        match e {
            FitError::Cancelled => LearnError::Cancelled,
            FitError::NoRows => LearnError::NoRows,
            e => LearnError::Trees(e),
        }
    }
}

/// One family being taught. Days come in time order, each once.
pub trait Learner {
    /// Adds the rows of a day (linfa's `FitWith` underneath); looks at `cancel` now and then.
    fn learn(&mut self, day: &Matrix, cancel: &AtomicBool) -> Result<(), LearnError>;

    /// The model of everything learned so far; may be asked again after further days.
    fn model(&mut self, cancel: &AtomicBool) -> Result<Model, LearnError>;

    /// Takes up where the learner of `model` stopped, if what it knew is in there: the days it
    /// learned need not come again. False, and nothing taken up, otherwise.
    fn resume(&mut self, model: &Model) -> bool;
}

/// Fails once `cancel` is set.
pub(crate) fn check(cancel: &AtomicBool) -> Result<(), LearnError> {
    if cancel.load(Ordering::Relaxed) {
        return Err(LearnError::Cancelled);
    }
    Ok(())
}

/// Teaches a ridge; exact in every order of days.
#[derive(Clone, Debug)]
pub struct RidgeLearner {
    params: RidgeValidParams,
    gram: Option<Gram>,
}

impl RidgeLearner {
    /// A ridge that knows nothing.
    pub fn new(params: RidgeParams) -> Result<Self, RidgeError> {
        let params = params.check()?;
        Ok(Self { params, gram: None })
    }
}

impl Learner for RidgeLearner {
    fn learn(&mut self, day: &Matrix, cancel: &AtomicBool) -> Result<(), LearnError> {
        check(cancel)?;
        if !day.is_empty() {
            self.gram = Some(self.params.fit_with(self.gram.take(), &day.dataset())?);
        }
        Ok(())
    }

    fn model(&mut self, cancel: &AtomicBool) -> Result<Model, LearnError> {
        check(cancel)?;
        let gram = self.gram.as_ref().ok_or(RidgeError::NoRows)?;
        Ok(Model::Ridge(gram.solve(&self.params)?))
    }

    fn resume(&mut self, model: &Model) -> bool {
        match model {
            Model::Ridge(ridge) => self.gram = Some(ridge.gram().clone()),
            _ => return false,
        }
        true
    }
}

/// The ridge the product uses.
pub fn product_ridge() -> RidgeLearner {
    RidgeLearner::new(RidgeParams::new(RIDGE_PENALTY)).expect("the penalty is a positive constant")
}

/// What the product serves: the median of boosted trees, extra-trees and smart persistence. `seed`
/// is for the lots that both kinds of trees draw.
pub fn product(seed: u64) -> TreesLearner {
    let boosting = Settings {
        seed,
        // The extra-trees, on a thread beside it, end first.
        threads: 2,
        ..Settings::default()
    };
    let extra = ExtraSettings {
        seed,
        ..ExtraSettings::default()
    };
    TreesLearner::new(boosting.into(), extra.into()).expect("the defaults are within their ranges")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{FeatureSet, Pipeline, Plan, Sink};
    use crate::models::score::Score;
    use crate::testing::{Lots, START, readings};

    /// Rows of 25 days of one device: those of the first 20, and the rest.
    fn rows() -> [Matrix; 2] {
        let plan = Plan::new(10, 10, FeatureSet::Core, None, None).unwrap();
        let (mut pipeline, mut rows) = (Pipeline::new(plan), Matrix::new());
        for (device, ts, values) in readings(&["a"], 25, 10, 0.0, 21) {
            pipeline.push(&device, ts, &values, &mut rows);
        }
        pipeline.finish(&mut rows);
        let cut = START.plus_min(20 * 1440);
        [
            rows.select(|row| row.facts.ts < cut),
            rows.select(|row| row.facts.ts >= cut),
        ]
    }

    fn families() -> [Box<dyn Learner>; 2] {
        [Box::new(product_ridge()), Box::new(product(1))]
    }

    fn rmse(mut learner: Box<dyn Learner>, train: &Matrix, test: &Matrix) -> f64 {
        let cancel = AtomicBool::new(false);
        learner.learn(train, &cancel).unwrap();
        score(test, &learner.model(&cancel).unwrap())
    }

    fn score(test: &Matrix, model: &Model) -> f64 {
        let mut score = Score::default();
        test.iter()
            .for_each(|(row, truth)| score.add(truth, model.predict(row)));
        score.daylight().rmse
    }

    #[test]
    fn what_was_learned_beats_smart_persistence_and_shuffled_targets_do_not() {
        let [train, test] = rows();
        let smart = score(&test, &Model::Smart);
        for learner in families() {
            let rmse = rmse(learner, &train, &test);
            assert!(rmse < 0.9 * smart, "lux leads power by a step");
        }
        let (mut lots, mut shuffled) = (Lots(1), Matrix::new());
        for (row, _) in train.iter() {
            let any = (lots.unit() * train.len() as f64) as usize;
            shuffled.take(row, train.truth(any));
        }
        for learner in families() {
            assert!(rmse(learner, &shuffled, &test) > smart);
        }
    }

    #[test]
    fn shifting_the_target_costs() {
        let ([train, test], cancel) = (rows(), AtomicBool::new(false));
        let model = |mut learner: Box<dyn Learner>, rows: &Matrix| {
            learner.learn(rows, &cancel).unwrap();
            learner.model(&cancel).unwrap()
        };
        // Trees of so few rows err by more than the sun moves in one slot.
        let slots = [1, 3];
        for ((right, wrong), slots) in families().into_iter().zip(families()).zip(slots) {
            let mut shifted = Matrix::new();
            for i in 0..train.len() - slots {
                shifted.take(train.row(i), train.truth(i + slots));
            }
            let (right, wrong) = (model(right, &train), model(wrong, &shifted));
            // Of the trees each kind by itself: smart persistence among them has no target.
            let pairs = match right.parts() {
                [] => vec![(&right, &wrong)],
                [learned @ .., _] => learned.iter().zip(wrong.parts()).collect(),
            };
            for (right, wrong) in pairs {
                let (right, wrong) = (score(&test, right), score(&test, wrong));
                assert!(wrong > 1.1 * right, "{slots} slots: {wrong} {right}");
            }
        }
    }

    #[test]
    fn a_ridge_resumes_from_its_own_model_and_trees_from_none() {
        let ([train, test], cancel) = (rows(), AtomicBool::new(false));
        let mut whole = product_ridge();
        whole.learn(&train, &cancel).unwrap();
        let first = whole.model(&cancel).unwrap();
        whole.learn(&test, &cancel).unwrap();
        let mut resumed = product_ridge();
        assert!(resumed.resume(&first));
        resumed.learn(&test, &cancel).unwrap();
        assert_eq!(
            resumed.model(&cancel).unwrap(),
            whole.model(&cancel).unwrap()
        );
        assert!(!product_ridge().resume(&Model::Smart));
        let mut trees = product(1);
        trees.learn(&test, &cancel).unwrap();
        let model = trees.model(&cancel).unwrap();
        assert!(!product(1).resume(&model));
    }

    #[test]
    fn cancelling_ends_learning_and_fitting_and_nothing_learned_has_a_name() {
        let ([_, test], cancelled) = (rows(), AtomicBool::new(true));
        for mut learner in families() {
            let none = learner.model(&AtomicBool::new(false));
            assert!(matches!(none, Err(LearnError::NoRows)));
            let learn = learner.learn(&test, &cancelled);
            assert!(matches!(learn, Err(LearnError::Cancelled)));
            learner.learn(&test, &AtomicBool::new(false)).unwrap();
            let model = learner.model(&cancelled);
            assert!(matches!(model, Err(LearnError::Cancelled)));
        }
    }

    #[test]
    fn a_seed_decides_the_trees() {
        let ([_, test], cancel) = (rows(), AtomicBool::new(false));
        let model = |seed| {
            let mut learner = product(seed);
            learner.learn(&test, &cancel).unwrap();
            learner.model(&cancel).unwrap()
        };
        assert_eq!(model(1), model(1));
        assert_ne!(model(1), model(2));
    }
}
