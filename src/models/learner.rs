//! Learners: what is taught day by day and gives a model at the end of the night.

use std::sync::atomic::{AtomicBool, Ordering};

use linfa::ParamGuard;
use linfa::traits::FitWith;
use thiserror::Error;

use super::Model;
use super::ridge::{Gram, RidgeError, RidgeParams, RidgeValidParams};
use crate::features::Matrix;

/// The ridge's penalty. Of 1, 10 and 300 the least was best on every data set tried.
const RIDGE_PENALTY: f64 = 1.0;

/// Why a learner gave no model.
#[derive(Debug, Error)]
pub enum LearnError {
    /// The caller asked to stop.
    #[error("learning was cancelled")]
    Cancelled,
    /// The ridge could not be fitted.
    #[error("learning the ridge")]
    Ridge(#[from] RidgeError),
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

/// Several learners whose models are averaged, with smart persistence among them: it errs
/// elsewhere than what is learned, and the mean of the three kinds is what measured best.
pub struct Team(Vec<Box<dyn Learner>>);

impl Team {
    /// The plain mean of `members` and smart persistence.
    pub fn with_smart(members: Vec<Box<dyn Learner>>) -> Self {
        Self(members)
    }
}

impl Learner for Team {
    fn learn(&mut self, day: &Matrix, cancel: &AtomicBool) -> Result<(), LearnError> {
        self.0
            .iter_mut()
            .try_for_each(|member| member.learn(day, cancel))
    }

    fn model(&mut self, cancel: &AtomicBool) -> Result<Model, LearnError> {
        let mut parts = Vec::with_capacity(self.0.len() + 1);
        for member in &mut self.0 {
            parts.push(member.model(cancel)?);
        }
        parts.push(Model::Smart);
        Ok(Model::Blend(parts))
    }

    fn resume(&mut self, model: &Model) -> bool {
        let Model::Blend(parts) = model else {
            return false;
        };
        parts.len() == self.0.len() + 1
            && self
                .0
                .iter_mut()
                .zip(parts)
                .all(|(member, part)| member.resume(part))
    }
}

/// The ridge the product uses.
pub fn product_ridge() -> RidgeLearner {
    RidgeLearner::new(RidgeParams::new(RIDGE_PENALTY)).expect("the penalty is a positive constant")
}

/// What the product serves: the mean of its learners and smart persistence. `seed` is for those
/// that draw lots; the ridge does not.
pub fn product(_seed: u64) -> Team {
    Team::with_smart(vec![Box::new(product_ridge())])
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

    fn rmse(train: &Matrix, test: &Matrix) -> f64 {
        let cancel = AtomicBool::new(false);
        let mut learner = product_ridge();
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
        assert!(
            rmse(&train, &test) < 0.9 * smart,
            "lux leads power by a step"
        );
        let (mut lots, mut shuffled) = (Lots(1), Matrix::new());
        for (row, _) in train.iter() {
            let any = (lots.unit() * train.len() as f64) as usize;
            shuffled.take(row, train.truth(any));
        }
        assert!(rmse(&shuffled, &test) > smart);
    }

    #[test]
    fn shifting_the_target_by_a_slot_costs() {
        let [train, test] = rows();
        let mut shifted = Matrix::new();
        for i in 0..train.len() - 1 {
            shifted.take(train.row(i), train.truth(i + 1));
        }
        assert!(rmse(&shifted, &test) > 1.1 * rmse(&train, &test));
    }

    #[test]
    fn a_team_resumes_from_its_own_model_and_from_no_other() {
        let ([train, test], cancel) = (rows(), AtomicBool::new(false));
        let mut whole = product(1);
        whole.learn(&train, &cancel).unwrap();
        let first = whole.model(&cancel).unwrap();
        whole.learn(&test, &cancel).unwrap();
        let mut resumed = product(1);
        assert!(resumed.resume(&first));
        resumed.learn(&test, &cancel).unwrap();
        assert_eq!(
            resumed.model(&cancel).unwrap(),
            whole.model(&cancel).unwrap()
        );
        assert!(!product(1).resume(&Model::Smart));
        assert!(!product(1).resume(&Model::Blend(vec![Model::Smart, Model::Smart])));
        assert!(matches!(
            product(1).learn(&train, &AtomicBool::new(true)),
            Err(LearnError::Cancelled)
        ));
    }
}
