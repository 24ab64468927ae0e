//! Artifacts, their bytes and their bounds.

use codec::HEADER_BYTES;
use linfa::DatasetBase;
use linfa::traits::Fit;
use ndarray::{Array1, Array2};
use sha2::{Digest, Sha256};

use super::header::MAX_NAME_BYTES;
use super::*;
use crate::reading::TimestampMs;

fn artifact() -> Artifact {
    let x = Array2::from_shape_fn((50, 2), |(i, j)| ((i * (j + 3)) % 11) as f32);
    let y: Array1<f32> = x.column(0).mapv(|v| v / 20.0);
    let ridge = ridge::RidgeParams::new(1.0)
        .fit(&DatasetBase::new(x, y))
        .unwrap();
    let mut errors = interval::Calibration::default();
    let judged = |i| {
        let (y_w, daylight) = (i as f32, true);
        let row = Row {
            x: &[],
            facts: facts(),
        };
        (row, crate::features::Truth { y_w, daylight }, 150.0)
    };
    errors.observe(1, (0..300).map(judged));
    Artifact {
        header: Header {
            features: vec!["a".into(), "b".into()],
            horizon_min: 15,
            step_min: 5,
            trained_until: TimestampMs(1_600_000_000_000),
        },
        model: Model::Median(vec![Model::Ridge(ridge), Model::Smart, Model::Naive]),
        interval: errors.interval(),
    }
}

fn facts() -> Facts {
    Facts {
        ts: TimestampMs(0),
        device: 0,
        missing: 0,
        naive_w: 10.0,
        smart_w: 20.0,
        capacity_w: 100.0,
        kcs: Some(0.5),
        has_envelope: true,
        dark: false,
    }
}

/// A few trees over two features, as the product puts them together.
fn trees() -> Artifact {
    let mut learner = TreesLearner::new(
        trees::Settings {
            trees: 2,
            leaves: 4,
            min_child: 2,
            ..Default::default()
        }
        .into(),
        trees::ExtraSettings {
            trees: 2,
            ..Default::default()
        }
        .into(),
    )
    .unwrap();
    let mut rows = crate::features::Matrix::new();
    for i in 0..200 {
        let x = [(i % 5) as f32, (i % 7) as f32];
        let mut facts = facts();
        facts.missing = u64::from(i % 11 == 0);
        let truth = crate::features::Truth {
            y_w: 10.0 * x[0] + x[1],
            daylight: true,
        };
        crate::features::Sink::take(&mut rows, Row { x: &x, facts }, truth);
    }
    let no = std::sync::atomic::AtomicBool::new(false);
    learner.learn(0, &rows, &no).unwrap();
    Artifact {
        model: learner.model(&no).unwrap(),
        ..artifact()
    }
}

#[test]
fn an_artifact_survives_its_bytes() {
    let a = artifact();
    assert!(a.interval.is_some());
    assert_eq!(Artifact::from_bytes(&a.to_bytes()), Ok(a.clone()));
    assert_eq!(a.to_bytes(), artifact().to_bytes());
    let a = trees();
    assert_eq!(Artifact::from_bytes(&a.to_bytes()), Ok(a.clone()));
    assert_eq!(a.to_bytes(), trees().to_bytes());
}

#[test]
fn every_damaged_byte_and_every_cut_is_a_typed_error() {
    for bytes in [artifact().to_bytes(), trees().to_bytes()] {
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 0x10;
            assert!(Artifact::from_bytes(&bad).is_err(), "byte {i}");
            assert!(Artifact::from_bytes(&bytes[..i]).is_err(), "cut at {i}");
        }
    }
    let bytes = artifact().to_bytes();
    let mut later = bytes.clone();
    later[8] = 9;
    assert_eq!(
        Artifact::from_bytes(&later),
        Err(CodecError::Format {
            found: 9,
            known: FORMAT
        })
    );
    assert_eq!(Artifact::from_bytes(b"nonsense"), Err(CodecError::Magic));
}

#[test]
fn trees_damaged_under_a_matching_checksum_are_an_error_or_can_be_asked() {
    let bytes = trees().to_bytes();
    let row = Row {
        x: &[3.0, 1.0],
        facts: facts(),
    };
    for i in HEADER_BYTES..bytes.len() {
        for flipped in [0x01, 0x80, 0xFF] {
            let mut forged = bytes.clone();
            forged[i] ^= flipped;
            let sum = Sha256::digest(&forged[HEADER_BYTES..]);
            forged[HEADER_BYTES - 32..HEADER_BYTES].copy_from_slice(&sum);
            if let Ok(forged) = Artifact::from_bytes(&forged) {
                let power_w = forged.model.predict(row);
                assert!((0.0..=150.0).contains(&power_w), "byte {i}: {power_w} W");
            }
        }
    }
}

#[test]
fn a_median_is_of_an_odd_number_and_holds_no_other() {
    let decoded = |model: &Model| {
        let mut out = Encoder::default();
        model.encode(&mut out);
        Model::decode(&mut Decoder(&out.0), false)
    };
    let of = |n| Model::Median(vec![Model::Smart; n]);
    assert_eq!(decoded(&of(3)), Ok(of(3)));
    for wrong in [of(0), of(2), Model::Median(vec![of(1)])] {
        assert!(decoded(&wrong).is_err(), "{wrong:?}");
    }
    let row = Row {
        x: &[1.0, 1.0],
        facts: facts(),
    };
    let middle = Model::Median(vec![Model::Smart, Model::Naive, Model::Naive]);
    assert_eq!(middle.predict(row), 10.0);
}

#[test]
fn trees_stay_within_bounds_and_follow_the_missing_mask() {
    let a = trees();
    let mut row = Row {
        x: &[4.0, 6.0],
        facts: facts(),
    };
    let mut seen = std::collections::BTreeSet::new();
    for missing in 0..4 {
        row.facts.missing = missing;
        let parts = a.model.parts().iter().map(|part| part.predict(row));
        let mut parts: Vec<f32> = parts.collect();
        parts.sort_by(f32::total_cmp);
        assert!(parts.iter().all(|w| (0.0..=150.0).contains(w)), "{parts:?}");
        assert_eq!(a.model.predict(row), parts[1]);
        seen.insert(parts.iter().map(|w| w.to_bits()).collect::<Vec<_>>());
    }
    assert!(seen.len() > 1, "missing is not its neutral value");
    row.facts.capacity_w = 0.0;
    assert_eq!(a.model.predict(row), row.facts.smart_w);
    row.facts.dark = true;
    assert_eq!(a.model.predict(row), 0.0);
}

#[test]
fn a_forged_length_is_refused_before_anything_is_allocated() {
    let mut out = Encoder::default();
    out.u32(u32::MAX);
    assert!(Decoder(&out.0).f64s(usize::MAX).is_err());
    assert!(Decoder(&out.0).str(MAX_NAME_BYTES).is_err());
}

#[test]
fn forecasts_stay_within_bounds() {
    let a = artifact();
    let mut row = Row {
        x: &[1e9, 0.0],
        facts: facts(),
    };
    // The ridge is cut at 1.5 times 100 W; smart's 20 W are between it and naive's 10 W.
    assert_eq!(a.model.parts()[0].predict(row), 150.0);
    assert_eq!(a.model.predict(row), 20.0);
    row.facts.smart_w = -5.0;
    row.x = &[-1e9, 0.0];
    assert_eq!(a.model.predict(row), 0.0);
    row.facts.dark = true;
    assert_eq!(Model::Naive.predict(row), 0.0);
    row.facts.dark = false;
    row.facts.capacity_w = 0.0;
    row.facts.smart_w = 7.0;
    assert_eq!(
        a.model.predict(row),
        7.0,
        "unknown capacity: smart persistence"
    );
}
