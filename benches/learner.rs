//! Fits the boosted trees to a file of rows and prints what that took; started by `learner.py`.
//!
//! The file: u32 rows, u32 columns, f32 values row by row (NaN is missing), f32 targets; little-endian.

// A bench that cannot read its own file has nothing to report.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::sync::atomic::AtomicBool;

use linfa::ParamGuard;
use ndarray::ArrayView2;
use nightwatt_learner::models::trees::{Binner, MAX_BINS, Params, Settings};

fn main() {
    // cargo bench adds a flag of its own.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|w| w != "--bench")
        .collect();
    let [file, trees, leaves, threads] = &words[..] else {
        println!("started by benches/learner.py");
        return;
    };
    let (columns, values, targets) = read(file);
    let rows = ArrayView2::from_shape((targets.len(), columns), &values).unwrap();
    let masks = vec![0; targets.len()];
    let settings = Settings {
        trees: trees.parse().unwrap(),
        leaves: leaves.parse().unwrap(),
        threads: threads.parse().unwrap(),
        learning_rate: 0.06,
        row_fraction: 0.8,
        column_fraction: 0.8,
        ..Settings::default()
    };
    let params = Params::from(settings).check().unwrap();
    let (data_kib, start_s) = (memory_kib("VmRSS:"), cpu_s());
    let binner = Binner::fit(rows, &masks, MAX_BINS).unwrap();
    let codes = binner.codes_of(rows, &masks).unwrap();
    let no = AtomicBool::new(false);
    let booster = params.fit(&codes, &targets, None, &no).unwrap();
    let cpu_s = cpu_s() - start_s;
    let forecasts = booster.predict(&codes);
    let errors = forecasts.iter().zip(&targets).map(|(f, y)| (f - y).abs());
    let mae = errors.sum::<f32>() / targets.len() as f32;
    let above_mb = (memory_kib("VmHWM:") - data_kib) / 1024.0 * 1.048_576;
    println!("{{\"cpu_s\":{cpu_s:.3},\"above_data_mb\":{above_mb:.1},\"mae\":{mae:.4}}}");
}

fn read(file: &str) -> (usize, Vec<f32>, Vec<f32>) {
    let bytes = fs::read(file).unwrap();
    let word = |i: usize| <[u8; 4]>::try_from(&bytes[4 * i..4 * i + 4]).unwrap();
    let (rows, columns) = (u32::from_le_bytes(word(0)), u32::from_le_bytes(word(1)));
    let (rows, columns) = (rows as usize, columns as usize);
    let number = |i| f32::from_le_bytes(word(2 + i));
    let values = (0..rows * columns).map(number).collect();
    let targets = (rows * columns..rows * (columns + 1)).map(number).collect();
    (columns, values, targets)
}

fn cpu_s() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

fn memory_kib(field: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}
