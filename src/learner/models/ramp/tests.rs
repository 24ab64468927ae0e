//! Warnings on data whose chances are known, and on data that nothing can be learned from.

use super::learner::{asked, isotonic, lowest_w};
use super::*;
use crate::features::{FeatureSet, Matrix, Plan};
use crate::reading::TimestampMs;
use crate::testing::Lots;

fn plan() -> Plan {
    Plan::new(15, 5, FeatureSet::Reference, None, None).unwrap()
}

/// A row of power 600 of 1000 W whose first feature says how likely a fall is, and what followed.
fn row<'a>(x: &'a mut Vec<f32>, lots: &mut Lots, width: usize) -> (Row<'a>, f32, f32) {
    x.clear();
    x.extend((0..width).map(|_| lots.unit() as f32));
    let likely = x[0] * x[0];
    let lowest_w = if lots.unit() < f64::from(likely) {
        100.0
    } else {
        590.0
    };
    let facts = some_facts();
    (Row { x, facts }, lowest_w, likely)
}

fn some_facts() -> Facts {
    Facts {
        ts: TimestampMs(5),
        device: 0,
        missing: 0,
        naive_w: 600.0,
        smart_w: 600.0,
        capacity_w: 1000.0,
        kcs: None,
        has_envelope: true,
        dark: false,
    }
}

fn learned(rows: usize, seed: u64) -> RampLearner {
    let (mut x, mut lots) = (Vec::new(), Lots(seed));
    let mut learner = RampLearner::new(1);
    let width = plan().features().len();
    for i in 0..rows {
        let (row, lowest_w, _) = row(&mut x, &mut lots, width);
        learner.take(i as i32 / 50, row, lowest_w);
    }
    learner
}

#[test]
fn what_is_likely_is_found_calibrated_and_the_same_every_time() {
    let warning = learned(20_000, 3).warning(&plan(), TimestampMs(7)).unwrap();
    let bytes = warning.to_bytes();
    assert_eq!(
        learned(20_000, 3)
            .warning(&plan(), TimestampMs(7))
            .unwrap()
            .to_bytes(),
        bytes
    );
    assert_eq!(RampWarning::from_bytes(&bytes), Ok(warning.clone()));
    assert!(bytes.len() < 60_000, "{}", bytes.len());
    let (mut x, mut lots) = (Vec::new(), Lots(77));
    let (mut mine, mut best) = (Brier::default(), Brier::default());
    let (mut said, mut truly) = (0.0, 0.0);
    for _ in 0..20_000 {
        let (row, lowest_w, likely) = row(&mut x, &mut lots, 15);
        let probability = warning.probability(row);
        mine.add(&row.facts, lowest_w, probability);
        best.add(&row.facts, lowest_w, likely);
        said += f64::from(probability);
        truly += f64::from(likely);
    }
    let (mine, best) = (mine.score(), best.score());
    let (skill, possible) = (mine.skill.unwrap(), best.skill.unwrap());
    assert!(
        skill > 0.7 * possible && skill <= possible,
        "{skill} of {possible}"
    );
    assert!((said / truly - 1.0).abs() < 0.05, "{said} {truly}");
    let report = |candidate, live| RampReport { candidate, live };
    assert!(report(Some(mine), None).wins() && report(Some(best), Some(mine)).wins());
    assert!(!report(Some(mine), Some(best)).wins() && !report(Some(mine), Some(mine)).wins());
    let useless = BrierScore {
        skill: Some(-0.1),
        brier: 0.0,
        ..mine
    };
    assert!(!report(Some(useless), None).wins() && report(Some(mine), Some(useless)).wins());
    assert!(report(None, Some(useless)).live_has_lost_its_skill());
    assert!(!report(None, Some(mine)).live_has_lost_its_skill());
}

#[test]
fn noise_has_no_skill_and_what_linfa_cannot_take_never_reaches_it() {
    let width = plan().features().len();
    assert_eq!(
        RampLearner::new(1).warning(&plan(), TimestampMs(7)),
        None,
        "no rows"
    );
    let (mut x, mut lots) = (Vec::new(), Lots(5));
    let (mut noise, mut one_class, mut not_numbers) = (
        RampLearner::new(1),
        RampLearner::new(1),
        RampLearner::new(1),
    );
    for i in 0..10_000 {
        let (mut row, lowest_w, _) = row(&mut x, &mut lots, width);
        let day = i / 50;
        noise.take(day, row, if lots.unit() < 0.3 { 0.0 } else { 600.0 });
        one_class.take(day, row, 600.0);
        let bad: Vec<f32> = row.x.iter().map(|_| f32::NAN).collect();
        row.x = &bad;
        not_numbers.take(day, row, lowest_w);
    }
    assert_eq!(one_class.warning(&plan(), TimestampMs(7)), None);
    assert_eq!(not_numbers.warning(&plan(), TimestampMs(7)), None);
    let noise = noise.warning(&plan(), TimestampMs(7)).unwrap();
    let mut score = Brier::default();
    for _ in 0..10_000 {
        let (row, _, _) = row(&mut x, &mut lots, width);
        let lowest_w = if lots.unit() < 0.3 { 0.0 } else { 600.0 };
        score.add(&row.facts, lowest_w, noise.probability(row));
    }
    let score = score.score();
    assert!(score.skill < Some(0.01), "{score:?}");
}

#[test]
fn without_power_to_lose_the_answer_is_no_and_does_not_count() {
    let (mut x, mut lots) = (Vec::new(), Lots(5));
    let (mut row, _, _) = row(&mut x, &mut lots, 1);
    let mut warning = testdata::warning(15);
    warning.by_votes = vec![0.9, 0.9];
    assert_eq!(warning.probability(row), 0.9);
    let mut score = Brier::default();
    row.facts.naive_w = 200.0;
    assert_eq!(warning.probability(row), 0.0);
    score.add(&row.facts, 0.0, 1.0);
    assert_eq!(score.score().rows, 0);
    assert_eq!(score.score().skill, None);
}

#[test]
fn pooling_makes_probabilities_rise_with_the_votes() {
    // 1 of 10, 5 of 10 and 3 of 10 (pooled to 8 of 20), none, 9 of 10.
    let p = isotonic(&[[9, 1], [5, 5], [7, 3], [0, 0], [1, 9]]);
    let want = [2.0 / 12.0, 9.0 / 22.0, 9.0 / 22.0, 9.0 / 22.0, 10.0 / 12.0];
    for (p, want) in p.iter().zip(want) {
        assert!((p - want as f32).abs() < 1e-6, "{p} {want}");
    }
    // Nor does the one more of each kind that few rows have make them fall.
    for few in [[[1, 0], [99, 1]], [[1, 99], [0, 1]]] {
        let p = isotonic(&few);
        assert!(p[0] <= p[1], "{p:?}");
    }
}

#[test]
fn damage_is_an_error_and_forged_trees_end() {
    let bytes = testdata::warning(15).to_bytes();
    let (mut x, mut lots) = (Vec::new(), Lots(5));
    let (row, _, _) = row(&mut x, &mut lots, 1);
    let content = super::super::codec::HEADER_BYTES;
    for i in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[i] ^= 0x10;
        assert!(RampWarning::from_bytes(&bad).is_err(), "byte {i}");
        assert!(RampWarning::from_bytes(&bytes[..i]).is_err(), "cut at {i}");
        for flipped in [0x01, 0x02, 0x80, 0xFF] {
            let mut forged = bytes.clone();
            forged[i] ^= flipped;
            let forged = seal(MAGIC, FORMAT, &forged[content.min(bytes.len())..]);
            if let Ok(forged) = RampWarning::from_bytes(&forged) {
                assert!((0.0..=1.0).contains(&forged.probability(row)));
            }
        }
    }
}

#[test]
fn the_least_power_within_the_horizon_is_the_devices_own() {
    let mut rows = Matrix::new();
    let facts = |minute, device, naive_w| Facts {
        ts: TimestampMs(0).plus_min(minute),
        device,
        naive_w,
        ..some_facts()
    };
    // Every ten minutes; the target of each row is a quarter of an hour on and of no low power.
    for (minute, device, w) in [
        (0, 0, 900.0),
        (0, 1, 500.0),
        (10, 0, 700.0),
        (10, 1, 300.0),
        (20, 0, 100.0),
        (30, 0, 800.0),
        (40, 0, 850.0),
    ] {
        let truth = crate::features::Truth {
            y_w: 750.0,
            daylight: true,
        };
        let facts = facts(minute, device, w);
        crate::features::Sink::take(&mut rows, Row { x: &[], facts }, truth);
    }
    let within = |horizon| lowest_w(&rows, horizon);
    assert_eq!(
        within(15),
        [700.0, 300.0, 100.0, 750.0, 750.0, 750.0, 750.0]
    );
    assert_eq!(within(20)[..2], [100.0, 300.0]);
    assert!(asked(&rows, 720).next().is_none(), "too far ahead");
}

#[test]
fn what_was_gathered_survives_the_night_and_old_days_are_forgotten() {
    let whole = learned(9_000, 3);
    let mut out = Encoder::default();
    whole.encode(&mut out);
    let width = plan().features().len();
    let mut stored = RampLearner::decode(&mut Decoder(&out.0), 1, width).unwrap();
    assert_eq!(stored, whole);
    assert!(RampLearner::decode(&mut Decoder(&out.0[..999]), 1, width).is_err());
    stored.forget_before(100);
    stored.forget_from(150);
    for reservoir in stored.reservoirs() {
        assert!(reservoir.days.iter().all(|day| (100..150).contains(day)));
        assert!(!reservoir.days.is_empty() && reservoir.seen >= reservoir.days.len() as u64);
        assert_eq!(reservoir.x.len(), width * reservoir.days.len());
    }
    stored.forget_from(0);
    assert_eq!(stored.warning(&plan(), TimestampMs(7)), None);
}
