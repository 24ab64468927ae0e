//! Other settings of the learner, each judged on a data set that it was not chosen on.
//!
//! `cargo test --release --lib settings -- --ignored --nocapture` prints the table of `docs/learning.md`.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::BacktestArgs;
use super::protocol::cut_in_two;
use super::recorded::Recorded;
use crate::features::{FeatureSet, Matrix};
use crate::models::score::Score;
use crate::models::trees::{ExtraSettings, Settings};
use crate::models::{Learner, Model, TreesLearner};

const DATA: [(&str, &str, &str); 3] = [
    ("UPM", "upm_madrid_5min.csv.gz", "40.45,-3.73,Europe/Madrid"),
    (
        "ENERPOS",
        "enerpos_reunion_10min.csv.gz",
        "-21.34,55.49,Indian/Reunion",
    ),
    (
        "UGM",
        "ugm_tracker_2min.csv.gz",
        "-7.77,110.38,Asia/Jakarta",
    ),
];

fn candidates() -> Vec<(&'static str, Settings, ExtraSettings)> {
    let (s, x) = (Settings::default, ExtraSettings::default);
    let longer = Settings {
        trees: 100,
        learning_rate: 0.06,
        ..s()
    };
    let leaves = |leaves| Settings { leaves, ..s() };
    let columns = |column_fraction| Settings {
        column_fraction,
        ..s()
    };
    let rows = |row_fraction| Settings {
        row_fraction,
        ..s()
    };
    let forest = |trees| ExtraSettings { trees, ..x() };
    vec![
        ("as it is", s(), x()),
        ("100 trees at 0.06", longer, x()),
        ("31 leaves", leaves(31), x()),
        ("half the features", columns(0.5), x()),
        ("8 of 10 features", columns(0.8), x()),
        ("8 of 10 rows", rows(0.8), x()),
        ("25 extra-trees", s(), forest(25)),
        ("50 extra-trees", s(), forest(50)),
    ]
}

fn mae(days: &[Matrix], model: &Model) -> f64 {
    let mut score = Score::default();
    for (row, truth) in days.iter().flat_map(Matrix::iter) {
        score.add(truth, model.predict(row));
    }
    score.daylight().mae
}

#[test]
#[ignore = "a table for people: minutes of work"]
fn a_setting_chosen_without_a_data_set_still_beats_smart_persistence_on_it() {
    let folder = std::env::var("NIGHTWATT_DATA").unwrap_or("../shared/data".into());
    let no = AtomicBool::new(false);
    let skills: Vec<Vec<f64>> = DATA
        .iter()
        .map(|(_, file, site)| {
            let file = Path::new(&folder).join(file);
            let args = BacktestArgs {
                files: vec![file.clone()],
                protocol: Default::default(),
                horizon: vec![15],
                device: Vec::new(),
                days: None,
                features: FeatureSet::Core,
                site: Some(site.parse().unwrap()),
                energy: false,
                json: false,
            };
            let mut recorded = Recorded::read(&args, &file, 15).unwrap();
            let [train, test] = cut_in_two(&mut recorded).unwrap();
            let smart = mae(&test, &Model::Smart);
            let skill = |(_, boosting, extra): (&str, Settings, ExtraSettings)| {
                let mut learner = TreesLearner::new(boosting.into(), extra.into()).unwrap();
                for (number, day) in (0..).zip(&train) {
                    learner.learn(number, day, &no).unwrap();
                }
                1.0 - mae(&test, &learner.model(&no).unwrap()) / smart
            };
            candidates().into_iter().map(skill).collect()
        })
        .collect();
    println!("skill (MAE) against smart persistence, split\n");
    println!(
        "{:<20} {:>8} {:>8} {:>8}",
        "settings", "UPM", "ENERPOS", "UGM"
    );
    for (i, (name, ..)) in candidates().iter().enumerate() {
        let of = |data: usize| skills[data][i];
        println!("{name:<20} {:>+8.4} {:>+8.4} {:>+8.4}", of(0), of(1), of(2));
    }
    println!();
    for (left_out, (name, ..)) in DATA.iter().enumerate() {
        // A skill is worth as much on every data set.
        let elsewhere = |i: usize| -> f64 {
            let others = (0..DATA.len()).filter(|&data| data != left_out);
            others.map(|data| skills[data][i]).sum()
        };
        let best = (0..candidates().len())
            .max_by(|&a, &b| elsewhere(a).total_cmp(&elsewhere(b)))
            .unwrap();
        let (chosen, own) = (skills[left_out][best], &skills[left_out]);
        let top = own.iter().copied().fold(f64::MIN, f64::max);
        println!(
            "without {name}: {:<20} skill on {name} {chosen:+.4}, as it is {:+.4}, best {top:+.4}",
            candidates()[best].0,
            own[0]
        );
        // Too few rows to mean anything are not judged.
        assert!(*name == "UGM" || chosen > 0.0);
    }
}
