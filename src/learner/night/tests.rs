//! Nights over made-up days: what is learned, judged and told.

use std::convert::Infallible;

use super::*;
use crate::models::Model;
use crate::reading::Field;
use crate::testing::{Lots, readings};

type Rows = Vec<(DeviceId, TimestampMs, Values)>;

fn params() -> NightParams {
    NightParams {
        horizon_min: 10,
        step_min: None,
        site: None,
        zone: None,
        features: FeatureSet::Core,
        holdback_days: 4,
        min_train_days: 5,
        promote: Promote::default(),
        mode: Mode::Incremental,
        full_every_days: 30,
        forget_before: None,
        seed: 1,
    }
}

fn night(rows: &Rows, live: Option<&Artifact>, params: &NightParams) -> NightReport {
    after(None, rows, live, params).report
}

/// A night after the one that left `cache`, over the rows of `rows` that it needs.
fn after(
    cache: Option<Cache>,
    rows: &Rows,
    live: Option<&Artifact>,
    params: &NightParams,
) -> Night {
    let from = cache.as_ref().map(Cache::needs_from).unwrap_or_default();
    let needed = rows.iter().filter(|(_, ts, _)| *ts >= from);
    let needed = needed.cloned().map(Ok::<_, Infallible>);
    run(needed, live, cache, params, &AtomicBool::new(false)).unwrap()
}

/// The readings before a day.
fn until(rows: &Rows, days: i64) -> Rows {
    let end = rows[0].1.plus_min(days * 1440);
    rows.iter()
        .filter(|(_, ts, _)| *ts < end)
        .cloned()
        .collect()
}

fn artifact(report: &NightReport) -> Artifact {
    Artifact::from_bytes(report.model.as_ref().unwrap()).unwrap()
}

#[test]
fn a_candidate_that_learned_something_is_promoted_and_crosses_the_pipe() {
    let rows = readings(&["a", "b"], 25, 10, 0.02, 1);
    let report = night(&rows, None, &params());
    assert_eq!(report.decision, Decision::Promote, "{}", report.reason);
    assert_eq!(
        (report.devices, report.step_min, report.days_held_back),
        (2, 10, 4)
    );
    assert!(
        report
            .coverage_p10_p90
            .is_some_and(|c| (0.7..0.95).contains(&c)),
        "{report:?}"
    );
    assert!(report.features.iter().any(|f| f == "lux"));
    assert!(
        !report.features.iter().any(|f| f == "humidity"),
        "never sent"
    );
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(
        serde_json::from_str::<NightReport>(&json).unwrap().model,
        report.model
    );
    assert!(artifact(&report).interval.is_some());
    let again = night(&rows, None, &params());
    assert_eq!(report, again, "same rows, same report, same bytes");
}

#[test]
fn an_equal_candidate_is_kept_out_unless_a_loss_is_tolerated() {
    let rows = readings(&["a", "b"], 25, 10, 0.02, 1);
    let live = artifact(&night(&rows, None, &params()));
    let report = night(&rows, Some(&live), &params());
    assert_eq!(report.decision, Decision::Keep, "{}", report.reason);
    assert!(report.reason.contains("live model"), "{}", report.reason);
    let mut tolerant = params();
    tolerant.promote.min_improvement_percent = -1.0;
    assert_eq!(
        night(&rows, Some(&live), &tolerant).decision,
        Decision::Promote
    );
}

#[test]
fn an_incremental_night_reads_a_bounded_tail_and_renews_one_piece_of_the_candidate_before() {
    let rows = readings(&["a", "b"], 46, 10, 0.0, 4);
    let first = after(None, &until(&rows, 44), None, &params());
    assert_eq!(first.report.mode, Mode::Full);
    let known = first.report.rows_train;
    let cache = first.cache.unwrap();
    let second = after(Some(cache.clone()), &until(&rows, 45), None, &params());
    let report = &second.report;
    assert_eq!(report.mode, Mode::Incremental);
    assert!(report.counts.readings < first.report.counts.readings / 2);
    assert_eq!(report.rows_train, 2 * 144, "one day of both devices");
    assert!(report.rows_known > 0 && report.rows_known < known);
    assert_eq!(report.days_train, first.report.days_train + 1);
    let boosters = |report: &NightReport| match &artifact(report).model.parts()[0] {
        Model::Boosted { boosters, .. } => boosters.clone(),
        other => panic!("{other:?}"),
    };
    let (old, new) = (boosters(&first.report), boosters(report));
    assert_eq!(old[1..], new[..new.len() - 1]);
    // What went over the disk goes on the same.
    let bytes = cache.to_bytes(&params());
    let stored = Cache::from_bytes(&bytes, &params()).unwrap();
    let again = after(Some(stored), &until(&rows, 45), None, &params());
    assert_eq!(again.report, second.report);
    // The same readings once more: nothing to learn, and the same candidate.
    let idle = after(second.cache, &until(&rows, 45), None, &params());
    assert_eq!(artifact(&idle.report).model, artifact(report).model);
    // The rows of a day are the same whether all was read or the tail.
    let whole = after(None, &until(&rows, 45), None, &params());
    assert_eq!(report.rows_held_back, whole.report.rows_held_back);
    let baseline = |r: &NightReport| r.score("smart").unwrap().daylight.mae;
    assert!((baseline(report) - baseline(&whole.report)).abs() < 1e-6);
    let of = |r: &NightReport| r.score("candidate").unwrap().daylight.mae;
    assert!(of(report) < 1.05 * of(&whole.report));
}

#[test]
fn full_nights_come_when_due_or_asked_for_and_do_without_the_readings() {
    let rows = readings(&["a"], 50, 10, 0.0, 4);
    let first = after(None, &until(&rows, 47), None, &params()).cache;
    let full = NightParams {
        mode: Mode::Full,
        ..params()
    };
    let asked = after(first.clone(), &until(&rows, 48), None, &full);
    assert_eq!(asked.report.mode, Mode::Full);
    assert!(asked.report.rows_train < asked.report.rows_known);
    let soon = NightParams {
        full_every_days: 3,
        ..params()
    };
    let modes: Vec<Mode> = (48..=50)
        .scan(first, |cache, day| {
            let night = after(cache.take(), &until(&rows, day), None, &soon);
            *cache = night.cache;
            Some(night.report.mode)
        })
        .collect();
    assert_eq!(modes, [Mode::Incremental, Mode::Incremental, Mode::Full]);
}

#[test]
fn readings_that_come_late_are_learned_and_old_days_forgotten() {
    let rows = readings(&["a"], 48, 10, 0.0, 4);
    let late = rows[0].1.plus_min(40 * 1440)..rows[0].1.plus_min(40 * 1440 + 720);
    let mut torn = until(&rows, 47);
    torn.retain(|(_, ts, _)| !late.contains(ts));
    let mut cache = after(None, &torn, None, &params()).cache.unwrap();
    let count = |from: TimestampMs, to: TimestampMs| {
        let counted = rows.iter().filter(|(_, ts, _)| (from..to).contains(ts));
        Ok::<u64, Infallible>(counted.count() as u64)
    };
    let before = cache.learner.last_day().unwrap();
    let same = |from: TimestampMs, to: TimestampMs| {
        let counted = torn.iter().filter(|(_, ts, _)| (from..to).contains(ts));
        Ok::<u64, Infallible>(counted.count() as u64)
    };
    cache.forget_changed(rows[0].1, same).unwrap();
    assert_eq!(cache.learner.last_day(), Some(before), "nothing came");
    cache.forget_changed(rows[0].1, count).unwrap();
    let day = cache.plan.local_day(late.start);
    assert_eq!(cache.learner.last_day(), Some(day - 1));
    let rows_torn = cache.learner.rows();
    let forgetful = NightParams {
        forget_before: Some(rows[0].1.plus_min(30 * 1440)),
        ..params()
    };
    let whole = after(None, &rows, None, &params()).cache.unwrap();
    let mended = after(Some(cache.clone()), &rows, None, &params());
    assert_eq!(mended.cache.unwrap().learner.rows(), whole.learner.rows());
    let short = after(Some(cache), &rows, None, &forgetful).cache.unwrap();
    assert!(short.learner.rows() < rows_torn / 2);
}

#[test]
fn a_cache_that_is_damaged_cut_or_of_other_settings_is_refused() {
    let rows = readings(&["a"], 14, 30, 0.0, 4);
    let cache = after(None, &rows, None, &params()).cache.unwrap();
    let bytes = cache.to_bytes(&params());
    assert!(Cache::from_bytes(&bytes, &params()).is_ok());
    for at in (0..bytes.len()).step_by(101) {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        assert!(Cache::from_bytes(&bad, &params()).is_err(), "byte {at}");
        assert!(Cache::from_bytes(&bytes[..at], &params()).is_err());
    }
    let other = NightParams {
        horizon_min: 20,
        ..params()
    };
    let refused = Cache::from_bytes(&bytes, &other).unwrap_err().to_string();
    assert!(refused.contains("other settings"), "{refused}");
}

#[test]
fn nothing_is_found_in_noise() {
    let mut rows = readings(&["a"], 25, 10, 0.0, 6);
    // Each day's power is dealt out anew: nothing before a slot says anything about it.
    let mut lots = Lots(8);
    for i in (1..rows.len()).rev() {
        let j = (lots.unit() * (i + 1) as f64) as usize;
        let (a, b) = (rows[i].2, rows[j].2);
        rows[i].2.set(Field::Power, b.get(Field::Power));
        rows[j].2.set(Field::Power, a.get(Field::Power));
    }
    let report = night(&rows, None, &params());
    let candidate = report.score("candidate").unwrap().daylight;
    assert!(candidate.r2 < Some(0.1), "{candidate:?}");
}

#[test]
fn a_leaked_target_would_show() {
    let rows = readings(&["a"], 25, 10, 0.0, 6);
    let half_an_hour = NightParams {
        horizon_min: 30,
        ..params()
    };
    let mae = |rows| {
        let report = night(rows, None, &half_an_hour);
        report.score("candidate").unwrap().daylight.mae
    };
    let honest = mae(&rows);
    // The power of the target time smuggled in as a measurement.
    let mut leaked = rows.clone();
    for i in 0..rows.len() - 3 {
        leaked[i]
            .2
            .set(Field::Humidity, rows[i + 3].2.get(Field::Power));
    }
    let leak = mae(&leaked);
    assert!(leak < 0.8 * honest, "{leak} {honest}");
}

#[test]
fn too_little_or_dull_data_never_panics() {
    let none = night(&Vec::new(), None, &params());
    assert_eq!((none.decision, none.model), (Decision::Skip, None));
    let one = night(
        &readings(&["a"], 1, 10, 0.0, 1)[..1].to_vec(),
        None,
        &params(),
    );
    assert_eq!(one.decision, Decision::Skip);
    let few = night(&readings(&["a"], 6, 10, 0.0, 1), None, &params());
    assert_eq!(few.decision, Decision::Skip);
    assert!(few.reason.contains("2 days"), "{}", few.reason);
    for constant_w in [0.0, 5.0] {
        let mut rows = readings(&["a"], 20, 10, 0.0, 1);
        for (_, _, values) in &mut rows {
            *values = Values::default();
            values.set(Field::Power, Some(constant_w));
        }
        let report = night(&rows, None, &params());
        assert_ne!(report.decision, Decision::Promote, "{}", report.reason);
    }
}

#[test]
fn a_week_is_enough_for_a_night() {
    let first_week = NightParams {
        holdback_days: 1,
        min_train_days: 3,
        ..params()
    };
    let rows = readings(&["a"], 7, 10, 0.0, 1);
    let report = night(&rows, None, &first_week);
    assert_ne!(report.decision, Decision::Skip, "{}", report.reason);
    assert!(artifact(&report).model.parts().len() == 3);
}

#[test]
fn cancelling_and_unreadable_rows_are_errors() {
    let rows = readings(&["a"], 20, 10, 0.0, 1);
    let all = || rows.iter().cloned().map(Ok::<_, Infallible>);
    let cancelled = run(all(), None, None, &params(), &AtomicBool::new(true));
    assert!(matches!(
        cancelled,
        Err(NightError::Learn(LearnError::Cancelled))
    ));
    let torn = rows.iter().cloned().map(Ok).chain([Err("disk gone")]);
    let outcome = run(torn, None, None, &params(), &AtomicBool::new(false));
    assert!(matches!(outcome, Err(NightError::Rows(_))), "{outcome:?}");
}

#[test]
fn a_device_that_fell_silent_long_ago_does_not_disorder_the_days_taught() {
    let mut rows = readings(&["a", "b"], 25, 10, 0.0, 1);
    let (first, silent) = (rows[0].1, rows[0].1.plus_min(12 * 1440 + 720));
    rows.retain(|(device, ts, _)| device.as_str() == "a" || *ts <= silent);
    let cache = after(None, &rows, None, &params()).cache.unwrap();
    let last = cache.plan.local_day(first) + 20;
    let back = Cache::from_bytes(&cache.to_bytes(&params()), &params()).unwrap();
    for cache in [cache, back] {
        assert_eq!(cache.learner.last_day(), Some(last));
    }
}
