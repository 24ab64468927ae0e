//! Ramp warnings: how likely power is to fall by more than a fifth of capacity within the horizon.
//!
//! Bagging (Breiman, Machine Learning 24, 1996) of linfa's two-class decision trees, each on a
//! bootstrap of its own from a bounded sample with both classes in equal parts; the number of votes
//! becomes a probability by isotonic regression (pool adjacent violators: Ayer et al. 1955; Zadrozny
//! and Elkan 2002) on days that no tree has seen, in their natural proportion. Judged by the Brier
//! score (Brier 1950). Only rows from which such a fall is possible are asked about: with power below
//! a fifth of capacity the answer is no.

use std::collections::{BTreeMap, VecDeque};

use linfa::traits::Fit;
use linfa::{DatasetBase, ParamGuard};
use linfa_trees::{DecisionTree, DecisionTreeParams, TreeNode};
use ndarray::{Array1, Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use super::codec::{Decoder, Encoder, seal, unseal};
use super::trees::rng::SplitMix64;
use super::trees::{Binner, MAX_FEATURES as MAX_CODES, MISSING};
use super::{CodecError, MAX_BYTES, MAX_FEATURES, MAX_NAME_BYTES};
use crate::features::{Facts, Matrix, Plan, Row};
use crate::reading::TimestampMs;

/// A fall by more than this share of capacity is a ramp.
pub const FALL_SHARE: f32 = 0.2;
/// Further ahead a fall is the evening and no news, minutes.
pub const MAX_HORIZON_MIN: u32 = 360;

const MAGIC: [u8; 8] = *b"nwramp\0\0";
const FORMAT: u32 = 1;
const TREES: usize = 40;
const MAX_DEPTH: usize = 7;
const MIN_LEAF_ROWS: f32 = 20.0;
/// Rows of a class that are kept to fit on, and rows that are kept to calibrate on.
const CLASS_ROWS: usize = 5_000;
const CALIBRATION_ROWS: usize = 10_000;
/// Every fourth day calibrates and is not fitted on.
const CALIBRATION_DAYS: i32 = 4;
/// With fewer rows of either class there is nothing to learn or to judge.
const MIN_CLASS_ROWS: usize = 50;
/// Rows of one bootstrap. With at most 4095 of them and [`NO_WEIGHT`] every sum of weights is exact
/// in an f32 and no two classes ever weigh the same: linfa would break a tie by the order of a hash
/// map, which differs from process to process.
const BAG_ROWS: usize = 4_000;
const NO_WEIGHT: f32 = 1.0 + 1.0 / 4096.0;
/// Features a tree looks at, of all; the trees differ and take less time.
const FEATURE_SHARE: f32 = 0.5;
const BINS: usize = 64;

/// Whether a fall as steep as a ramp is possible from a row, which is to say daylight and enough power.
/// Up to twelve hours ahead naive persistence is the power now.
pub fn possible(facts: &Facts) -> bool {
    facts.capacity_w > 0.0 && facts.naive_w > FALL_SHARE * facts.capacity_w
}

/// Whether power fell that far: `lowest_w` is the least of the slots up to the target.
pub fn fell(facts: &Facts, lowest_w: f32) -> bool {
    facts.naive_w - lowest_w > FALL_SHARE * facts.capacity_w
}

/// A step of a tree, in preorder: a split's lower side follows it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    /// Codes up to `code` go to the lower side, others to the node at `higher`.
    Split { feature: u8, code: u8, higher: u16 },
    /// The vote.
    Leaf(bool),
}

/// The served warning of one horizon.
#[derive(Clone, Debug, PartialEq)]
pub struct RampWarning {
    /// Names of the features, in the order of the row.
    pub features: Vec<String>,
    /// Minutes ahead.
    pub horizon_min: u32,
    /// Minutes between slots.
    pub step_min: u32,
    /// No later row was learned from.
    pub trained_until: TimestampMs,
    binner: Binner,
    trees: Vec<Vec<Node>>,
    /// The probability by number of votes.
    by_votes: Vec<f32>,
}

impl RampWarning {
    /// Whether rows made by `plan` are those it was made for.
    pub fn fits(&self, plan: &Plan) -> bool {
        self.horizon_min == plan.horizon_min()
            && self.step_min == plan.step_min()
            && plan.names().eq(self.features.iter().map(String::as_str))
    }

    /// The probability of a ramp, 0 … 1.
    pub fn probability(&self, row: Row<'_>) -> f32 {
        if !possible(&row.facts) {
            return 0.0;
        }
        let mut codes = [MISSING; MAX_CODES];
        self.binner.encode_row(row.x, row.facts.missing, &mut codes);
        self.by_votes[votes(&self.trees, &codes)]
    }

    /// The bytes: magic, format, length and SHA-256 of the content, content.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u32(self.horizon_min);
        out.u32(self.step_min);
        out.i64(self.trained_until.0);
        out.len(self.features.len());
        self.features.iter().for_each(|name| out.str(name));
        self.binner.encode(&mut out);
        out.len(self.trees.len());
        for tree in &self.trees {
            out.len(tree.len());
            for node in tree {
                match *node {
                    Node::Leaf(vote) => out.u8(u8::from(vote)),
                    Node::Split {
                        feature,
                        code,
                        higher,
                    } => {
                        out.u8(2 + feature);
                        out.u8(code);
                        out.u16(higher);
                    }
                }
            }
        }
        self.by_votes.iter().for_each(|&p| out.f32(p));
        seal(MAGIC, FORMAT, &out.0)
    }

    /// Reads what [`RampWarning::to_bytes`] wrote; every tree that passes ends in a leaf for any row.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Decoder(unseal(bytes, MAGIC, FORMAT, MAX_BYTES)?);
        let (horizon_min, step_min) = (from.u32()?, from.u32()?);
        let trained_until = TimestampMs(from.i64()?);
        let n = from.len(MAX_FEATURES, 4)?;
        let features = (0..n)
            .map(|_| from.str(MAX_NAME_BYTES))
            .collect::<Result<Vec<_>, _>>()?;
        let binner = Binner::decode(&mut from)?;
        if binner.features() != features.len() {
            return Err(CodecError::Malformed("the bins are of other features"));
        }
        let n = from.len(TREES, 4)?;
        let trees = (0..n)
            .map(|_| decode_tree(&mut from, features.len()))
            .collect::<Result<Vec<_>, _>>()?;
        let by_votes = (0..=trees.len())
            .map(|_| from.f32())
            .collect::<Result<Vec<_>, _>>()?;
        if !by_votes.iter().all(|p| (0.0..=1.0).contains(p)) {
            return Err(CodecError::Malformed("a probability is not one"));
        }
        if !from.0.is_empty() {
            return Err(CodecError::Malformed("something follows the warning"));
        }
        Ok(Self {
            features,
            horizon_min,
            step_min,
            trained_until,
            binner,
            trees,
            by_votes,
        })
    }
}

fn decode_tree(from: &mut Decoder<'_>, features: usize) -> Result<Vec<Node>, CodecError> {
    let n = from.len(2 << MAX_DEPTH, 1)?;
    let mut tree = Vec::with_capacity(n);
    for i in 0..n {
        tree.push(match from.u8()? {
            vote @ (0 | 1) => Node::Leaf(vote == 1),
            feature => {
                let (code, higher) = (from.u8()?, from.u16()?);
                let feature = feature - 2;
                // Both sides lie further on, so every walk ends.
                let sides = i + 1 < n && usize::from(higher) > i && usize::from(higher) < n;
                if !sides || usize::from(feature) >= features {
                    return Err(CodecError::Malformed("a ramp tree leads nowhere"));
                }
                Node::Split {
                    feature,
                    code,
                    higher,
                }
            }
        });
    }
    match tree.last() {
        Some(Node::Leaf(_)) => Ok(tree),
        _ => Err(CodecError::Malformed("a ramp tree has no end")),
    }
}

fn votes(trees: &[Vec<Node>], codes: &[u8]) -> usize {
    trees.iter().filter(|tree| vote(tree, codes)).count()
}

fn vote(tree: &[Node], codes: &[u8]) -> bool {
    let mut at = 0;
    loop {
        match tree[at] {
            Node::Leaf(vote) => return vote,
            Node::Split {
                feature,
                code,
                higher,
            } => {
                at = if codes[usize::from(feature)] <= code {
                    at + 1
                } else {
                    usize::from(higher)
                }
            }
        }
    }
}

/// Rows to be asked about with the least power that followed; none further ahead than a warning reaches.
fn asked(rows: &Matrix, horizon_min: u32) -> impl Iterator<Item = (Row<'_>, f32)> {
    let lowest_w = match horizon_min <= MAX_HORIZON_MIN {
        true => lowest_w(rows, horizon_min),
        false => Vec::new(),
    };
    rows.iter().map(|(row, _)| row).zip(lowest_w)
}

/// The least power of the rows of the same device in the horizon after each row, W: what came of it.
/// `rows` are in time order; up to six hours ahead naive persistence is a row's own power. After the
/// last rows only the target itself is known.
fn lowest_w(rows: &Matrix, horizon_min: u32) -> Vec<f32> {
    let mut lowest: Vec<f32> = rows.iter().map(|(_, truth)| truth.y_w).collect();
    // Ahead of each device: rows that are the least until they pass out of reach, the nearest last.
    let mut ahead: BTreeMap<u32, VecDeque<(TimestampMs, f32)>> = BTreeMap::new();
    for i in (0..rows.len()).rev() {
        let facts = rows.row(i).facts;
        let ahead = ahead.entry(facts.device).or_default();
        let reach = facts.ts.plus_min(i64::from(horizon_min));
        while ahead.pop_front_if(|(ts, _)| *ts > reach).is_some() {}
        if let Some((_, least_w)) = ahead.front() {
            lowest[i] = lowest[i].min(*least_w);
        }
        while ahead.pop_back_if(|(_, w)| *w >= facts.naive_w).is_some() {}
        ahead.push_back((facts.ts, facts.naive_w));
    }
    lowest
}

/// Rows drawn evenly from a stream of unknown length (algorithm R: Vitter 1985).
#[derive(Clone, Debug, PartialEq)]
struct Reservoir {
    rows: usize,
    seed: u64,
    seen: u64,
    x: Vec<f32>,
    masks: Vec<u64>,
    days: Vec<i32>,
    fell: Vec<bool>,
}

impl Reservoir {
    fn new(rows: usize, seed: u64) -> Self {
        Self {
            rows,
            seed,
            seen: 0,
            x: Vec::new(),
            masks: Vec::new(),
            days: Vec::new(),
            fell: Vec::new(),
        }
    }

    fn take(&mut self, day: i32, row: Row<'_>, fell: bool) {
        self.seen += 1;
        if self.masks.len() < self.rows {
            self.x.extend_from_slice(row.x);
            self.masks.push(row.facts.missing);
            self.days.push(day);
            self.fell.push(fell);
            return;
        }
        // A lot by the row's number, so that there is no state to hand on between nights.
        let lot = SplitMix64::new(self.seed, self.seen).next_u64();
        let place = (lot % self.seen) as usize;
        if place < self.rows {
            let width = row.x.len();
            self.x[place * width..][..width].copy_from_slice(row.x);
            self.masks[place] = row.facts.missing;
            self.days[place] = day;
            self.fell[place] = fell;
        }
    }

    fn rows(&self) -> Option<ArrayView2<'_, f32>> {
        let n = self.masks.len();
        ArrayView2::from_shape((n, self.x.len().checked_div(n)?), &self.x).ok()
    }

    /// Keeps the rows of these days only, as if no other had been seen.
    fn keep(&mut self, wanted: impl Fn(i32) -> bool) {
        let had = self.masks.len();
        let width = self.x.len().checked_div(had).unwrap_or(0);
        let mut kept = Self::new(self.rows, self.seed);
        for i in (0..had).filter(|&i| wanted(self.days[i])) {
            kept.x.extend_from_slice(&self.x[i * width..][..width]);
            kept.masks.push(self.masks[i]);
            kept.days.push(self.days[i]);
            kept.fell.push(self.fell[i]);
        }
        let n = kept.masks.len() as u64;
        kept.seen = (self.seen * n).checked_div(had as u64).unwrap_or(0).max(n);
        *self = kept;
    }

    fn encode(&self, out: &mut Encoder) {
        out.u64(self.seen);
        out.len(self.masks.len());
        for i in 0..self.masks.len() {
            out.u64(self.masks[i]);
            out.u32(self.days[i].cast_unsigned());
            out.u8(u8::from(self.fell[i]));
        }
        self.x.iter().for_each(|&x| out.f32(x));
    }

    fn decode(&mut self, from: &mut Decoder<'_>, width: usize) -> Result<(), CodecError> {
        self.seen = from.u64()?;
        let n = from.len(self.rows, 13 + 4 * width)?;
        if self.seen < n as u64 {
            return Err(CodecError::Malformed("more rows are kept than were seen"));
        }
        for _ in 0..n {
            self.masks.push(from.u64()?);
            self.days.push(from.u32()?.cast_signed());
            self.fell.push(from.u8()? == 1);
        }
        self.x = (0..n * width)
            .map(|_| from.f32())
            .collect::<Result<_, _>>()?;
        Ok(())
    }
}

/// Gathers rows night for night and fits a warning from them.
#[derive(Clone, Debug, PartialEq)]
pub struct RampLearner {
    seed: u64,
    steady: Reservoir,
    falling: Reservoir,
    calibration: Reservoir,
}

impl RampLearner {
    /// A learner that has seen nothing; `seed` is for the lots it draws.
    pub fn new(seed: u64) -> Self {
        let stream = |stream| SplitMix64::new(seed, stream).next_u64();
        Self {
            seed,
            steady: Reservoir::new(CLASS_ROWS, stream(1)),
            falling: Reservoir::new(CLASS_ROWS, stream(2)),
            calibration: Reservoir::new(CALIBRATION_ROWS, stream(3)),
        }
    }

    /// Adds the rows of a day, made by a plan of this horizon. Further ahead than a warning reaches
    /// there is nothing to learn.
    pub fn learn(&mut self, day: i32, rows: &Matrix, horizon_min: u32) {
        for (row, lowest_w) in asked(rows, horizon_min) {
            self.take(day, row, lowest_w);
        }
    }

    /// Adds a row of local day `day` after which power was at least `lowest_w`. Rows from which no ramp
    /// is possible, or with a number that is none, are left out.
    fn take(&mut self, day: i32, row: Row<'_>, lowest_w: f32) {
        let sound = row.x.iter().all(|v| v.is_finite()) && lowest_w.is_finite();
        if !sound || !possible(&row.facts) {
            return;
        }
        let fell = fell(&row.facts, lowest_w);
        let kept = if day.rem_euclid(CALIBRATION_DAYS) == 0 {
            &mut self.calibration
        } else if fell {
            &mut self.falling
        } else {
            &mut self.steady
        };
        kept.take(day, row, fell);
    }

    fn reservoirs(&mut self) -> [&mut Reservoir; 3] {
        [&mut self.steady, &mut self.falling, &mut self.calibration]
    }

    /// Lets go of days before `day`.
    pub fn forget_before(&mut self, day: i32) {
        self.reservoirs()
            .into_iter()
            .for_each(|r| r.keep(|d| d >= day));
    }

    /// Lets go of `day` and of those after it.
    pub fn forget_from(&mut self, day: i32) {
        self.reservoirs()
            .into_iter()
            .for_each(|r| r.keep(|d| d < day));
    }

    /// What was gathered, for the next night.
    pub(crate) fn encode(&self, out: &mut Encoder) {
        [&self.steady, &self.falling, &self.calibration]
            .into_iter()
            .for_each(|r| r.encode(out));
    }

    /// Reads what [`RampLearner::encode`] wrote, of rows `width` wide.
    pub(crate) fn decode(
        from: &mut Decoder<'_>,
        seed: u64,
        width: usize,
    ) -> Result<Self, CodecError> {
        let mut learner = Self::new(seed);
        for reservoir in learner.reservoirs() {
            reservoir.decode(from, width)?;
        }
        Ok(learner)
    }

    /// The warning of what was gathered up to then; `None` with too few rows of either class to learn
    /// anything.
    pub fn warning(&self, plan: &Plan, trained_until: TimestampMs) -> Option<RampWarning> {
        let (steady, falling) = (self.steady.rows()?, self.falling.rows()?);
        let calibration = self.calibration.rows()?;
        let least = steady.nrows().min(falling.nrows());
        let both = self.calibration.fell.iter().filter(|f| **f).count();
        if least < MIN_CLASS_ROWS || both == 0 || both == calibration.nrows() {
            return None;
        }
        let x = ndarray::concatenate(ndarray::Axis(0), &[steady, falling]).ok()?;
        let masks = [&self.steady.masks[..], &self.falling.masks].concat();
        let fell = [&self.steady.fell[..], &self.falling.fell].concat();
        let binner = Binner::fit(x.view(), &masks, BINS).ok()?;
        let encode = |x: ArrayView2<'_, f32>, masks: &[u64]| {
            let mut codes = Array2::<u8>::from_elem((x.nrows(), MAX_CODES), MISSING);
            for ((row, &mask), mut codes) in x.outer_iter().zip(masks).zip(codes.outer_iter_mut()) {
                if let (Some(row), Some(codes)) = (row.as_slice(), codes.as_slice_mut()) {
                    binner.encode_row(row, mask, codes);
                }
            }
            codes
        };
        let codes = encode(x.view(), &masks);
        let mut lots = SplitMix64::new(self.seed, 4);
        let trees = (0..TREES)
            .map(|_| {
                tree(
                    &codes,
                    &fell,
                    x.ncols(),
                    [steady.nrows(), falling.nrows()],
                    &mut lots,
                )
            })
            .collect::<Option<Vec<_>>>()?;
        let codes = encode(calibration, &self.calibration.masks);
        let mut counted = vec![[0u32; 2]; TREES + 1];
        for (codes, &fell) in codes.outer_iter().zip(&self.calibration.fell) {
            counted[votes(&trees, codes.as_slice()?)][usize::from(fell)] += 1;
        }
        Some(RampWarning {
            features: plan.names().map(str::to_owned).collect(),
            horizon_min: plan.horizon_min(),
            step_min: plan.step_min(),
            trained_until,
            binner,
            trees,
            by_votes: isotonic(&counted),
        })
    }
}

/// One tree on a bootstrap with both classes in equal parts, over some of the features. The rows are
/// codes, so nothing is NaN, and both classes have rows, which is what linfa needs.
fn tree(
    codes: &Array2<u8>,
    fell: &[bool],
    width: usize,
    [steady, falling]: [usize; 2],
    lots: &mut SplitMix64,
) -> Option<Vec<Node>> {
    let half = (BAG_ROWS / 2).min(steady.max(falling));
    let mut bag = Vec::with_capacity(2 * half);
    for _ in 0..half {
        bag.push(lots.below(steady as u32) as usize);
        bag.push(steady + lots.below(falling as u32) as usize);
    }
    let some = ((width as f32 * FEATURE_SHARE).ceil() as usize).max(1);
    let features = lots.choose(width, some);
    let shape = (bag.len(), features.len());
    let x = Array2::from_shape_fn(shape, |(i, j)| f32::from(codes[[bag[i], features[j]]]));
    let y: Array1<bool> = bag.iter().map(|&row| fell[row]).collect();
    let weights = y.mapv(|fell| if fell { 1.0 } else { NO_WEIGHT });
    let params: DecisionTreeParams<f32, bool> = DecisionTree::params()
        .max_depth(Some(MAX_DEPTH))
        .min_weight_leaf(MIN_LEAF_ROWS)
        .min_weight_split(2.0 * MIN_LEAF_ROWS);
    let dataset = DatasetBase::new(x, y).with_weights(weights);
    let fitted = params.check().ok()?.fit(&dataset).ok()?;
    let mut nodes = Vec::new();
    flatten(fitted.root_node(), &features, &mut nodes);
    Some(nodes)
}

/// Appends a subtree in preorder. linfa sends a value up to the split to the left when it fits (and one
/// below it when it predicts); splits lie between two codes or on one that the fit sent left.
fn flatten(node: &TreeNode<f32, bool>, features: &[usize], out: &mut Vec<Node>) {
    let children = node.children();
    let (Some(left), Some(right)) = (children[0], children[1]) else {
        // linfa tells the prediction of leaves, and only leaves are without children.
        out.push(Node::Leaf(node.prediction().unwrap_or(false)));
        return;
    };
    let (feature, split, _) = node.split();
    let at = out.len();
    out.push(Node::Leaf(false));
    flatten(left, features, out);
    out[at] = Node::Split {
        feature: features[feature] as u8,
        code: split.floor() as u8,
        higher: out.len() as u16,
    };
    flatten(right, features, out);
}

/// Probabilities that never fall with the number of votes, by pooling adjacent violators; `counted` is
/// how many rows with that many votes did not and did fall. Numbers of votes that no row had take the
/// probability of the next lower that one had (or the lowest).
fn isotonic(counted: &[[u32; 2]]) -> Vec<f32> {
    struct Pool {
        from: usize,
        fell: f64,
        rows: f64,
    }
    let mut pools: Vec<Pool> = Vec::new();
    for (from, &[no, yes]) in counted.iter().enumerate().filter(|(_, c)| c[0] + c[1] > 0) {
        let mut pool = Pool {
            from,
            fell: f64::from(yes),
            rows: f64::from(no + yes),
        };
        while let Some(last) = pools.pop_if(|p| p.fell * pool.rows >= pool.fell * p.rows) {
            pool = Pool {
                from: last.from,
                fell: last.fell + pool.fell,
                rows: last.rows + pool.rows,
            };
        }
        pools.push(pool);
    }
    (0..counted.len())
        .map(|votes| {
            let at = pools.partition_point(|p| p.from <= votes).saturating_sub(1);
            // One of each kind more (Laplace's rule): what was never seen is not impossible.
            pools
                .get(at)
                .map_or(0.0, |p| ((p.fell + 1.0) / (p.rows + 2.0)) as f32)
        })
        .collect()
}

/// The mean squared error of probabilities over rows from which a ramp is possible.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Brier {
    rows: u64,
    fell: u64,
    squares: f64,
}

/// What [`Brier`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BrierScore {
    /// Rows from which a ramp was possible.
    pub rows: u64,
    /// The share of them that one followed; the forecast to beat.
    pub base_rate: f64,
    /// The mean squared error of the probability.
    pub brier: f64,
    /// 1 - error / error of always saying the base rate of these same rows; none where all rows or no
    /// row fell, or where there are too few of either to judge by.
    pub skill: Option<f64>,
}

impl Brier {
    /// Adds the rows of a day; the warning is asked about those from which a ramp is possible.
    pub fn judge(&mut self, rows: &Matrix, warning: &RampWarning) {
        for (row, lowest_w) in asked(rows, warning.horizon_min) {
            self.add(&row.facts, lowest_w, warning.probability(row));
        }
    }

    /// Adds a row; the probability counts only where a ramp is possible.
    fn add(&mut self, facts: &Facts, lowest_w: f32, probability: f32) {
        if possible(facts) {
            let fell = fell(facts, lowest_w);
            self.rows += 1;
            self.fell += u64::from(fell);
            self.squares += (f64::from(probability) - f64::from(u8::from(fell))).powi(2);
        }
    }

    /// The score.
    pub fn score(&self) -> BrierScore {
        let rows = self.rows.max(1) as f64;
        let (base_rate, brier) = (self.fell as f64 / rows, self.squares / rows);
        let least = self.fell.min(self.rows - self.fell);
        let skill = 1.0 - brier / (base_rate * (1.0 - base_rate));
        BrierScore {
            rows: self.rows,
            base_rate,
            brier,
            skill: (least >= MIN_CLASS_ROWS as u64).then_some(skill),
        }
    }
}

/// A night's warning and the live one on the same held-back days.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RampReport {
    /// The night's; none where it had too little to learn from.
    pub candidate: Option<BrierScore>,
    /// The live one's, where there is one.
    pub live: Option<BrierScore>,
}

impl RampReport {
    /// The gate: a warning is published while it has skill, and replaced by a better one only.
    pub fn wins(&self) -> bool {
        let has_skill = |score: &BrierScore| score.skill.is_some_and(|skill| skill > 0.0);
        let Some(candidate) = self.candidate.filter(has_skill) else {
            return false;
        };
        let live = self.live.filter(has_skill);
        live.is_none_or(|live| candidate.brier < live.brier)
    }

    /// Whether the live warning is to be published no longer. Held-back days too calm to judge by are
    /// no reason.
    pub fn live_has_lost_its_skill(&self) -> bool {
        let skill = self.live.and_then(|live| live.skill);
        skill.is_some_and(|skill| skill <= 0.0)
    }
}

#[cfg(test)]
pub(crate) mod testdata {
    use super::*;

    /// A warning that always says the same.
    pub fn saying(horizon_min: u32, probability: f32) -> RampWarning {
        RampWarning {
            by_votes: vec![probability; 2],
            ..warning(horizon_min)
        }
    }

    /// A small warning over one feature.
    pub fn warning(horizon_min: u32) -> RampWarning {
        let split = Node::Split {
            feature: 0,
            code: 1,
            higher: 2,
        };
        RampWarning {
            features: vec!["a".into()],
            horizon_min,
            step_min: 5,
            trained_until: TimestampMs(9),
            binner: Binner::try_from(vec![vec![0.5]]).unwrap(),
            trees: vec![vec![split, Node::Leaf(false), Node::Leaf(true)]],
            by_votes: vec![0.1, 0.9],
        }
    }
}

#[cfg(test)]
mod tests;
