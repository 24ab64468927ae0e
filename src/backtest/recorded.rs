//! The rows of a recorded file, by day.

use std::collections::BTreeMap;
use std::path::Path;

use super::{BacktestArgs, BacktestError};
use crate::features::{Matrix, Pipeline, Plan, Row, Sink, Truth};
use crate::grid::infer_step_min;
use crate::models::interval::Interval;
use crate::models::{Artifact, Header, Model};
use crate::reading::TimestampMs;
use crate::tidy::TidyReader;

/// Rows read before the step is inferred.
const STEP_SAMPLE: usize = 4096;
const DAY_MS: i64 = 86_400_000;

/// The rows of a file by the local day of their own time.
pub(super) struct Recorded {
    pub plan: Plan,
    pub days: BTreeMap<i32, Matrix>,
}

impl Sink for Recorded {
    fn take(&mut self, row: Row<'_>, truth: Truth) {
        let day = self.plan.local_day(row.facts.ts);
        self.days.entry(day).or_default().take(row, truth);
    }
}

impl Recorded {
    pub fn read(args: &BacktestArgs, file: &Path, horizon_min: u32) -> Result<Self, BacktestError> {
        let mut end = None;
        let wanted =
            |device: &str| args.device.is_empty() || args.device.iter().any(|d| d == device);
        let mut rows = TidyReader::open(file)?
            .filter(|row| {
                row.as_ref()
                    .map_or(true, |(device, ..)| wanted(device.as_str()))
            })
            .filter(|row| {
                let Ok((_, ts, _)) = row else { return true };
                let days = i64::from(args.days.unwrap_or(u32::MAX));
                ts.0 < *end.get_or_insert(ts.0.saturating_add(days * DAY_MS))
            });
        let head = rows
            .by_ref()
            .take(STEP_SAMPLE)
            .collect::<Result<Vec<_>, _>>()?;
        let step_min = infer_step_min(head.iter().map(|(device, ts, _)| (device, *ts)));
        let (site, zone) = args.site.map(|s| (s.site, s.zone)).unzip();
        let plan = Plan::new(
            horizon_min,
            step_min.unwrap_or(1),
            args.features,
            site,
            zone,
        )
        .map_err(|source| BacktestError::Plan {
            file: file.to_owned(),
            source,
        })?;
        let mut recorded = Self {
            plan: plan.clone(),
            days: BTreeMap::new(),
        };
        let mut pipeline = Pipeline::new(plan);
        for row in head.into_iter().map(Ok).chain(rows) {
            let (device, ts, values) = row?;
            pipeline.push(&device, ts, &values, &mut recorded);
        }
        pipeline.finish(&mut recorded);
        Ok(recorded)
    }

    pub fn rows(&self) -> usize {
        self.days.values().map(Matrix::len).sum()
    }

    /// Gives up the rows: those whose targets are not past `cut`, and those that are past it
    /// themselves, day by day. Only the days around the cut are copied.
    pub fn split_at(&mut self, cut: TimestampMs) -> [Vec<Matrix>; 2] {
        let [mut train, mut test] = [Vec::new(), Vec::new()];
        let trains = |row: Row<'_>| self.plan.target_ts(row.facts.ts) <= cut;
        let tests = |row: Row<'_>| row.facts.ts > cut;
        for day in std::mem::take(&mut self.days).into_values() {
            if day.iter().all(|(row, _)| trains(row)) {
                train.push(day);
            } else if day.iter().all(|(row, _)| tests(row)) {
                test.push(day);
            } else {
                train.push(day.select(trains));
                test.push(day.select(tests));
            }
        }
        train.retain(|day| !day.is_empty());
        test.retain(|day| !day.is_empty());
        [train, test]
    }

    /// The rows whose target lies on `day`.
    pub fn with_target_on(&self, day: i32) -> Matrix {
        let reach = (self.plan.horizon_min() / 1440 + 1) as i32;
        let mut rows = Matrix::new();
        for (_, matrix) in self.days.range(day - reach..=day) {
            for (row, truth) in matrix.iter() {
                if self.plan.local_day(self.plan.target_ts(row.facts.ts)) == day {
                    rows.take(row, truth);
                }
            }
        }
        rows
    }

    pub fn artifact(&self, model: &Model, interval: Option<Interval>) -> Artifact {
        Artifact {
            header: Header::new(&self.plan, TimestampMs::default()),
            model: model.clone(),
            interval,
        }
    }
}
