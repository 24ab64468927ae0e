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
    /// Adds the rows of a local day (linfa's `FitWith` underneath); looks at `cancel` now and then.
    fn learn(&mut self, day: i32, rows: &Matrix, cancel: &AtomicBool) -> Result<(), LearnError>;

    /// The model of everything learned so far; may be asked again after further days.
    fn model(&mut self, cancel: &AtomicBool) -> Result<Model, LearnError>;
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
    fn learn(&mut self, _day: i32, rows: &Matrix, cancel: &AtomicBool) -> Result<(), LearnError> {
        check(cancel)?;
        if !rows.is_empty() {
            self.gram = Some(self.params.fit_with(self.gram.take(), &rows.dataset())?);
        }
        Ok(())
    }

    fn model(&mut self, cancel: &AtomicBool) -> Result<Model, LearnError> {
        check(cancel)?;
        let gram = self.gram.as_ref().ok_or(RidgeError::NoRows)?;
        Ok(Model::Ridge(gram.solve(&self.params)?))
    }
}

/// The ridge that others are measured by.
pub fn product_ridge() -> RidgeLearner {
    RidgeLearner::new(RidgeParams::new(RIDGE_PENALTY)).expect("the penalty is a positive constant")
}

/// What the product serves: the rolling median of boosters, extra-trees and smart persistence. `seed`
/// is for the lots that both kinds of trees draw.
pub fn product(seed: u64) -> TreesLearner {
    let boosting = Settings {
        seed,
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
    use crate::models::codec::{Decoder, Encoder};
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
        learner.learn(0, train, &cancel).unwrap();
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
            learner.learn(0, rows, &cancel).unwrap();
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
    fn a_later_model_renews_the_oldest_pieces_and_a_stored_learner_goes_on_the_same() {
        let ([train, test], cancel) = (rows(), AtomicBool::new(false));
        let mut learner = product(1);
        learner.learn(1, &train, &cancel).unwrap();
        let first = learner.model(&cancel).unwrap();
        assert_eq!(first, learner.model(&cancel).unwrap(), "nothing new");
        let mut out = Encoder::default();
        learner.encode(&mut out);
        let mut stored = product(1).resume(&mut Decoder(&out.0)).unwrap();
        for learner in [&mut learner, &mut stored] {
            learner.learn(2, &test, &cancel).unwrap();
        }
        let second = learner.model(&cancel).unwrap();
        assert_eq!(second, stored.model(&cancel).unwrap());
        let boosters = |model: &Model| match &model.parts()[0] {
            Model::Boosted { boosters, .. } => boosters.clone(),
            other => panic!("{other:?}"),
        };
        let (old, new) = (boosters(&first), boosters(&second));
        assert_eq!(old[1..], new[..new.len() - 1]);
        assert!(!old.contains(&new[new.len() - 1]));
        learner.renew();
        let full = boosters(&learner.model(&cancel).unwrap());
        assert!(full.iter().all(|piece| !new.contains(piece)));
    }

    #[test]
    fn cancelling_ends_learning_and_fitting_and_nothing_learned_has_a_name() {
        let ([_, test], cancelled) = (rows(), AtomicBool::new(true));
        for mut learner in families() {
            let none = learner.model(&AtomicBool::new(false));
            assert!(matches!(none, Err(LearnError::NoRows)));
            let learn = learner.learn(0, &test, &cancelled);
            assert!(matches!(learn, Err(LearnError::Cancelled)));
            learner.learn(0, &test, &AtomicBool::new(false)).unwrap();
            let model = learner.model(&cancelled);
            assert!(matches!(model, Err(LearnError::Cancelled)));
        }
    }

    #[test]
    fn a_seed_decides_the_trees() {
        let ([_, test], cancel) = (rows(), AtomicBool::new(false));
        let model = |seed| {
            let mut learner = product(seed);
            learner.learn(0, &test, &cancel).unwrap();
            learner.model(&cancel).unwrap()
        };
        assert_eq!(model(1), model(1));
        assert_ne!(model(1), model(2));
    }
}
