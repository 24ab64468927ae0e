//! Teaches a rolling ensemble: several boosters and a forest over one window of binned rows, of which
//! an incremental night renews the oldest share.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use linfa::ParamGuard;

use super::bins::Binner;
use super::boost::Booster;
use super::extra::Forest;
use super::params::{ExtraParams, FitError, Params, ValidExtraParams, ValidParams};
use super::rng::SplitMix64;
use super::window::Window;
use crate::features::Matrix;
use crate::models::codec::{Decoder, Encoder};
use crate::models::learner::check;
use crate::models::{CodecError, LearnError, Learner, Model};

/// Boosters of an ensemble, and the part of the forest that is renewed with one of them.
const BOOSTERS: usize = 7;
/// Boosters fitted side by side.
const WORKERS: usize = 2;
/// The bins no longer suit the rows once this much more of the newest values of a feature lies in its
/// outermost bins than of all values.
const MAX_DRIFT: f64 = 0.25;

/// Gives the median of boosted trees, extra-trees and smart persistence, the parts in this order.
///
/// The boosted part is the mean of boosters that differ in their draws and in the rows that were
/// there when they were fitted. Their mean strays less than each of them; and because they are many,
/// a night may renew only the oldest. The two families err differently, and smart persistence errs
/// elsewhere than both: where one of the three strays, the median does not follow, which their mean
/// would by a third.
#[derive(Clone, Debug)]
pub struct TreesLearner {
    boosting: ValidParams,
    extra: ValidExtraParams,
    rows: Window,
    /// The oldest first; none before the first model.
    boosters: Vec<Booster>,
    forest: Forest,
    /// Boosters and trees drawn so far: what the lots of the next ones follow from.
    drawn: u64,
    /// Whether rows were added since the newest piece was fitted.
    has_new_rows: bool,
}

impl TreesLearner {
    /// A learner that knows nothing.
    pub fn new(boosting: Params, extra: ExtraParams) -> Result<Self, FitError> {
        Ok(Self {
            boosting: boosting.check()?,
            extra: extra.check()?,
            rows: Window::default(),
            boosters: Vec::new(),
            forest: Forest::default(),
            drawn: 0,
            has_new_rows: false,
        })
    }

    /// Rows it learns from.
    pub fn rows(&self) -> usize {
        self.rows.targets().len()
    }

    /// Days with daylight among them.
    pub fn days(&self) -> usize {
        self.rows.lit_days()
    }

    /// The newest day it was taught.
    pub fn last_day(&self) -> Option<i32> {
        self.rows.last_day()
    }

    /// Whether the next model is the last one with some of it renewed.
    pub fn continues(&self) -> bool {
        !self.boosters.is_empty()
    }

    /// Drops every piece: the next model is fitted in full, to the rows that are there.
    pub fn renew(&mut self) {
        (self.boosters, self.forest) = (Vec::new(), Forest::default());
        self.drawn = 0;
    }

    /// Whether it has to be taught afresh, from numbers: its bins are those of fewer than half of
    /// the rows, or the newest week has run into their tails.
    pub fn is_stale(&self) -> bool {
        self.rows.has_outgrown_its_bins() || self.rows.drift() > MAX_DRIFT
    }

    /// Forgets the rows of the days before `day`, where a model has been asked for.
    pub fn forget_before(&mut self, day: i32) {
        self.rows.forget_before(day);
    }

    /// Forgets the rows of `day` and later, where a model has been asked for.
    pub fn forget_from(&mut self, day: i32) {
        self.rows.forget_from(day);
    }

    pub(crate) fn encode(&self, out: &mut Encoder) {
        self.rows.encode_into(out);
        out.len(self.boosters.len());
        self.boosters.iter().for_each(|booster| booster.encode(out));
        self.forest.encode(out);
        out.u64(self.drawn);
    }

    /// Takes up what [`TreesLearner::encode`] of a learner with the same settings wrote.
    pub(crate) fn resume(mut self, from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        self.rows = Window::decode(from)?;
        let boosters = from.len(BOOSTERS, 1)?;
        self.boosters = (0..boosters)
            .map(|_| Booster::decode(from))
            .collect::<Result<_, _>>()?;
        self.forest = Forest::decode(from)?;
        self.drawn = from.u64()?;
        let width = self.rows.binned().map(|(binner, _)| binner.features());
        let fits = |features: usize| width == Some(features);
        let sound = self.boosters.is_empty()
            || (self.boosters.iter().all(|b| fits(b.features())) && fits(self.forest.features()));
        sound.then_some(self).ok_or(CodecError::Malformed(
            "trees over other features than the rows have",
        ))
    }

    /// Fits `boosters` and `trees` more and lets go of the oldest beyond their number.
    fn fit(&mut self, boosters: usize, trees: usize, cancel: &AtomicBool) -> Result<(), FitError> {
        let Some((_, rows)) = self.rows.binned() else {
            return Err(FitError::NoRows);
        };
        let targets = self.rows.targets();
        let (first, settings) = (self.drawn, self.boosting.settings());
        // A booster alone has both threads for itself.
        let threads = if boosters == 1 { settings.threads } else { 1 };
        let one = |number: usize| {
            let mut lots = SplitMix64::new(settings.seed, first + number as u64);
            let boosting = self.boosting.with(lots.next_u64(), threads);
            boosting.fit(rows, targets, None, cancel)
        };
        // What a thread takes next depends on the machine; what comes of it does not.
        let next = AtomicUsize::new(0);
        let work = || -> Vec<(usize, Result<Booster, FitError>)> {
            std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)))
                .take_while(|&number| number < boosters)
                .map(|number| (number, one(number)))
                .collect()
        };
        let (mut fitted, forest) = thread::scope(|scope| {
            let beside = scope.spawn(|| {
                let forest = self.extra.fit(rows, targets, first, trees, cancel);
                (forest, if WORKERS > 1 { work() } else { Vec::new() })
            });
            let mut fitted = work();
            let (forest, more) = beside.join().unwrap_or_else(|e| resume_unwind(e));
            fitted.extend(more);
            (fitted, forest)
        });
        fitted.sort_by_key(|(number, _)| *number);
        let fitted: Result<Vec<_>, _> = fitted.into_iter().map(|(_, booster)| booster).collect();
        self.boosters.extend(fitted?);
        let old = self.boosters.len().saturating_sub(BOOSTERS);
        self.boosters.drain(..old);
        self.forest.renew(forest?, self.extra.settings().trees);
        self.drawn += boosters.max(trees) as u64;
        Ok(())
    }
}

impl Learner for TreesLearner {
    fn learn(&mut self, day: i32, rows: &Matrix, cancel: &AtomicBool) -> Result<(), LearnError> {
        check(cancel)?;
        self.rows.add(day, rows)?;
        self.has_new_rows = true;
        Ok(())
    }

    /// In full where there is no model yet; else the oldest booster and its share of the forest make
    /// place for new ones, if there are new rows.
    fn model(&mut self, cancel: &AtomicBool) -> Result<Model, LearnError> {
        check(cancel)?;
        if self.rows.targets().is_empty() {
            return Err(LearnError::NoRows);
        }
        self.rows.encode()?;
        let trees = self.extra.settings().trees;
        if !self.continues() {
            self.fit(BOOSTERS, trees, cancel)?;
        } else if self.has_new_rows {
            self.fit(1, trees.div_ceil(BOOSTERS), cancel)?;
        }
        self.has_new_rows = false;
        let binner: &std::sync::Arc<Binner> = match self.rows.binned() {
            Some((binner, _)) => binner,
            None => return Err(LearnError::NoRows),
        };
        Ok(Model::Median(vec![
            Model::Boosted {
                binner: binner.clone(),
                boosters: self.boosters.clone(),
            },
            Model::Extra {
                binner: binner.clone(),
                forest: self.forest.clone(),
            },
            Model::Smart,
        ]))
    }
}
