//! The live path beside the batch path, and versions in and out of it.

use super::*;
use crate::features::{FeatureSet, Matrix, Pipeline};
use crate::models::{Header, Learner, product};
use crate::reading::Field;
use crate::sun::Site;
use crate::testing::{START, readings};
use std::sync::atomic::AtomicBool;

const SITE: Site = Site {
    latitude_deg: 0.0,
    longitude_deg: 0.0,
};

fn plan() -> Plan {
    Plan::new(15, 10, FeatureSet::Core, Some(SITE), None).unwrap()
}

fn serving(part: &Artifact, version: i64) -> Option<(Bundle, i64)> {
    let mut bundle = Bundle::default();
    bundle.power.insert(part.header.horizon_min, part.clone());
    Some((bundle, version))
}

fn only(mut made: Vec<Forecast>) -> Option<Forecast> {
    assert!(made.len() <= 1, "{made:?}");
    made.pop()
}

fn artifact(rows: &Matrix) -> Artifact {
    let mut learner = product(1);
    learner.learn(0, rows, &AtomicBool::new(false)).unwrap();
    let model = learner.model(&AtomicBool::new(false));
    Artifact {
        header: Header::new(&plan(), START),
        // What nothing was learned by stands for any model.
        model: model.unwrap_or(Model::Smart),
        interval: None,
    }
}

#[test]
fn the_live_path_forecasts_what_the_batch_path_scored_bit_for_bit() {
    let readings = readings(&["a", "b"], 20, 10, 0.1, 9);
    let (mut batch, mut rows) = (Pipeline::new(plan()), Matrix::new());
    let mut live = Forecaster::new(vec![plan()]);
    for (device, ts, values) in &readings {
        batch.push(device, *ts, values, &mut rows);
    }
    batch.finish(&mut rows);
    let artifact = artifact(&rows);
    assert_eq!(live.serve(serving(&artifact, 7)), []);
    live.prove().unwrap();
    let mut forecasts = BTreeMap::new();
    for (device, ts, values) in &readings {
        live.push(device, *ts, values);
        if let Some(f) = only(live.forecast(device, *ts)) {
            forecasts.insert((device.clone(), *ts), f);
        }
    }
    let devices: Vec<_> = live.devices().cloned().collect();
    let mut by_model = 0;
    for (row, _) in rows.iter() {
        let key = (devices[row.facts.device as usize].clone(), row.facts.ts);
        let f = &forecasts[&key];
        assert_eq!(
            (f.smart_w, f.naive_w),
            (row.facts.smart_w, row.facts.naive_w)
        );
        if f.source == Source::Model {
            by_model += 1;
            assert_eq!(f.power_w.to_bits(), artifact.model.predict(row).to_bits());
            assert_eq!(f.model_version, Some(7));
        }
    }
    assert!(by_model > 4000, "{by_model}");
}

#[test]
fn without_a_model_persistence_serves_and_a_swap_keeps_the_past() {
    let readings = readings(&["a"], 5, 10, 0.0, 2);
    let noon = |day: i64| START.plus_min(day * 1440 + 720);
    let mut live = Forecaster::new(vec![plan()]);
    let device = &readings[0].0;
    assert_eq!(live.forecast(device, START), [], "never heard of");
    let mut sources = Vec::new();
    for (device, ts, values) in &readings {
        live.push(device, *ts, values);
        if (0..5).any(|d| *ts == noon(d)) {
            let f = only(live.forecast(device, *ts)).unwrap();
            assert_eq!(
                (f.p10_w, f.model_version, f.target),
                (None, None, ts.plus_min(15))
            );
            sources.push(f.source);
        }
        if *ts == noon(4) {
            break;
        }
    }
    use Source::*;
    assert_eq!(sources, [Naive, Naive, Smart, Smart, Smart]);
    let before = only(live.forecast(device, noon(4))).unwrap();
    let mut other = artifact(&{
        let (mut batch, mut rows) = (Pipeline::new(plan()), Matrix::new());
        readings
            .iter()
            .for_each(|(d, ts, v)| batch.push(d, *ts, v, &mut rows));
        rows
    });
    assert_eq!(live.serve(serving(&other, 1)), []);
    let with_model = only(live.forecast(device, noon(4))).unwrap();
    assert_eq!(
        (with_model.source, with_model.smart_w),
        (Model, before.smart_w)
    );
    assert!(live.serve(None).is_empty());
    assert_eq!(
        live.forecast(device, noon(4)),
        std::slice::from_ref(&before)
    );
    other.header.horizon_min = 30;
    let unfit = live.serve(serving(&other, 2));
    assert_eq!(unfit, [(30, Kind::Power)], "made for another horizon");
    assert_eq!(live.forecast(device, noon(4)), [before]);
    assert_eq!(live.forecast(device, noon(4).plus_min(21)), [], "too old");
}

#[test]
fn horizons_share_the_past_and_each_is_served_by_its_own_part() {
    let readings = readings(&["a"], 5, 10, 0.0, 2);
    let plans = [15, 60, 1440].map(|h| Plan::new(h, 10, FeatureSet::Core, None, None).unwrap());
    let mut alone = plans.clone().map(|plan| Forecaster::new(vec![plan]));
    let mut all = Forecaster::new(plans.to_vec());
    let mut part = artifact(&Matrix::new());
    part.header = Header::new(&plans[1], START);
    let mut bundle = serving(&part, 3);
    let mut ramp = crate::models::ramp::testdata::warning(60);
    ramp.header = part.header.clone();
    if let Some((bundle, _)) = &mut bundle {
        bundle.ramp.insert(60, ramp);
    }
    assert_eq!(all.serve(bundle), []);
    for (device, ts, values) in &readings {
        all.push(device, *ts, values);
        alone.iter_mut().for_each(|f| f.push(device, *ts, values));
    }
    all.prove().unwrap();
    let (device, now) = (&readings[0].0, readings[readings.len() - 1].1);
    let made = all.forecast(device, now);
    let horizons: Vec<_> = made.iter().map(|f| (f.horizon_min, f.source)).collect();
    let wanted = [
        (15, Source::Smart),
        (60, Source::Model),
        (1440, Source::Smart),
    ];
    assert_eq!(horizons, wanted);
    let warned: Vec<_> = made.iter().map(|f| f.ramp_probability.is_some()).collect();
    assert_eq!(warned, [false, true, false]);
    for (f, alone) in made.iter().zip(&mut alone) {
        let by_itself = only(alone.forecast(device, now)).unwrap();
        assert_eq!(
            (f.smart_w, f.naive_w),
            (by_itself.smart_w, by_itself.naive_w)
        );
    }
}

#[test]
fn a_version_that_says_what_cannot_be_is_found_out() {
    let readings = readings(&["a"], 5, 10, 0.0, 2);
    let mut live = Forecaster::new(vec![plan()]);
    let end = START.plus_min(4 * 1440 + 720);
    for (device, ts, values) in readings.iter().filter(|(_, ts, _)| *ts <= end) {
        live.push(device, *ts, values);
    }
    let mut bundle = Bundle::default();
    for (probability, sound) in [(0.9, true), (1.5, false), (f32::NAN, false)] {
        let mut ramp = crate::models::ramp::testdata::saying(15, probability);
        ramp.header = Header::new(&plan(), START);
        bundle.ramp.insert(15, ramp);
        assert_eq!(live.serve(Some((bundle.clone(), 1))), []);
        assert_eq!(live.prove().is_ok(), sound, "{probability}");
    }
    let absurd = live.prove().unwrap_err().to_string();
    assert!(
        absurd.contains("15 minutes") && absurd.contains("NaN"),
        "{absurd}"
    );
}

#[test]
fn a_slot_still_filling_counts_with_what_it_has() {
    let mut live = Forecaster::new(vec![plan()]);
    let device = DeviceId::new("a");
    let mut values = Values::default();
    for (minute, w) in [(0, 100.0), (3, 300.0)] {
        values.set(Field::Power, Some(w));
        live.push(&device, START.plus_min(minute), &values);
    }
    let f = only(live.forecast(&device, START.plus_min(4))).unwrap();
    assert_eq!((f.naive_w, f.from), (200.0, START));
}

#[test]
fn the_actual_is_interpolated_as_the_training_target_is() {
    let (a, b) = ((TimestampMs(0), 100.0), (TimestampMs(600_000), 200.0));
    assert_eq!(actual_at(TimestampMs(300_000), a, b), Some(150.0));
    assert_eq!(actual_at(TimestampMs(0), a, a), Some(100.0));
    assert_eq!(actual_at(TimestampMs(600_000), a, b), Some(200.0));
    assert_eq!(actual_at(TimestampMs(600_001), a, b), None);
}
