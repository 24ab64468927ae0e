//! Forecasts: the newest of each horizon, the curve they make together, and what became of earlier ones.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::devices::{Range, number_of, parse_step};
use super::problem::Problem;
use super::routes::{App, ask};
use crate::config::Config;
use crate::reading::{DeviceId, TimestampMs};
use crate::store::{ForecastPoint, Reader};

/// The furthest ahead that a forecast may be.
const FURTHEST_MS: i64 = 2 * 86_400_000;
const QUARTER_MS: i64 = 15 * 60_000;
/// What EMHASS optimises in where it is not told otherwise.
const EMHASS_MS: i64 = 30 * 60_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    #[serde(default)]
    format: Format,
    /// Length of a slot.
    step: Option<String>,
    /// Forecasts whose time has come, beside what was measured.
    from: Option<TimestampMs>,
    to: Option<TimestampMs>,
    /// Only those of so many minutes ahead.
    horizon: Option<u32>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Json,
    Evcc,
    Emhass,
}

/// A stretch of the future of one device: of the forecasts for it those made last.
#[derive(Serialize)]
struct Slot {
    start: TimestampMs,
    end: TimestampMs,
    device: DeviceId,
    power_w: f64,
    p10_w: Option<f64>,
    p90_w: Option<f64>,
    horizon_min: u32,
    issued: TimestampMs,
}

/// The same of all devices that are forecast; there is none where one of them has none.
#[derive(Serialize)]
struct Sum {
    start: TimestampMs,
    end: TimestampMs,
    power_w: f64,
}

pub(super) async fn of_all(
    State(station): State<App>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    ask(&station, |station, reader| {
        answer(station.config(), station.now(), reader, None, asked).map(Json)
    })
    .await
}

pub(super) async fn of_device(
    State(station): State<App>,
    Path(device): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    ask(&station, |station, reader| {
        answer(station.config(), station.now(), reader, Some(device), asked).map(Json)
    })
    .await
}

/// The answer to both.
pub(super) fn answer(
    config: &Config,
    now: TimestampMs,
    reader: &Reader,
    device: Option<String>,
    asked: Asked,
) -> Result<Value, Problem> {
    let number = device
        .as_deref()
        .map(|d| number_of(reader, d))
        .transpose()?;
    let step_ms = match (asked.step.as_deref(), asked.format) {
        (Some(text), _) => parse_step(text)?,
        (None, Format::Emhass) => EMHASS_MS,
        (None, _) => QUARTER_MS,
    };
    if !(60_000..=FURTHEST_MS).contains(&step_ms) {
        return Err(Problem::wrong("a slot has 1m … 2d"));
    }
    let begun = TimestampMs(now.0 - now.0.rem_euclid(step_ms));
    let ahead = (begun, now.plus_ms(FURTHEST_MS));
    // What was forecast for a horizon that is configured no longer lies there until its time has come.
    let horizons: BTreeSet<u32> = config.training.horizon_min.iter().collect();
    let mut points = reader.forecasts_ahead(number, asked.horizon, now, ahead, step_ms)?;
    points.retain(|p| horizons.contains(&p.horizon_min));
    let slots = slots(points, step_ms);
    let sums = sums(&slots);
    Ok(match asked.format {
        Format::Evcc => json!(
            sums.iter()
                .map(|s| json!({
                    "start": s.start, "end": s.end, "value": s.power_w.round()
                }))
                .collect::<Vec<_>>()
        ),
        Format::Emhass => {
            let watts = unbroken(&sums, begun, step_ms);
            json!({ "prediction_horizon": watts.len(), "pv_power_forecast": watts })
        }
        Format::Json => {
            let mut newest = reader.latest_forecasts()?;
            newest.retain(|f| {
                horizons.contains(&f.horizon_min)
                    && device.as_deref().is_none_or(|d| d == f.device.as_str())
                    && asked.horizon.is_none_or(|h| h == f.horizon_min)
            });
            let mut answer = json!({
                "now": now,
                "forecasts": newest,
                "step_s": step_ms / 1000,
                "slots": slots,
                "sum": sums,
            });
            if asked.from.is_some() || asked.to.is_some() {
                let range = Range::new(now, asked.from, asked.to, asked.step.as_deref())?;
                let span = (range.from, range.to);
                let past = reader.forecast_series(number, asked.horizon, span, range.step_ms)?;
                answer["past"] = json!({ "step_s": range.step_ms / 1000, "points": past });
            }
            answer
        }
    })
}

/// Of each stretch and device the forecasts with the shortest horizon.
fn slots(points: Vec<ForecastPoint>, step_ms: i64) -> Vec<Slot> {
    let mut slots: Vec<Slot> = Vec::new();
    for p in points {
        // They come in order of time, device, horizon.
        if slots
            .last()
            .is_some_and(|s| (s.start, &s.device) == (p.at, &p.device))
        {
            continue;
        }
        slots.push(Slot {
            start: p.at,
            end: p.at.plus_ms(step_ms),
            device: p.device,
            power_w: p.power_w,
            p10_w: p.p10_w,
            p90_w: p.p90_w,
            horizon_min: p.horizon_min,
            issued: p.issued,
        });
    }
    slots
}

fn sums(slots: &[Slot]) -> Vec<Sum> {
    let devices: BTreeSet<&DeviceId> = slots.iter().map(|s| &s.device).collect();
    let mut sums: BTreeMap<(TimestampMs, TimestampMs), (usize, f64)> = BTreeMap::new();
    for slot in slots {
        let sum = sums.entry((slot.start, slot.end)).or_default();
        *sum = (sum.0 + 1, sum.1 + slot.power_w);
    }
    sums.into_iter()
        .filter(|(_, (n, _))| *n == devices.len())
        .map(|((start, end), (_, power_w))| Sum {
            start,
            end,
            power_w,
        })
        .collect()
}

/// Watts of the slots from `begun` on, up to the first that is missing: a list has no place for a gap.
fn unbroken(sums: &[Sum], begun: TimestampMs, step_ms: i64) -> Vec<f64> {
    (0..)
        .zip(sums)
        .take_while(|(i, s)| s.start == begun.plus_ms(i * step_ms))
        .map(|(_, s)| s.power_w.round())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(device: &str, at: i64, horizon_min: u32, power_w: f64) -> ForecastPoint {
        ForecastPoint {
            device: DeviceId::new(device),
            horizon_min,
            at: TimestampMs(at),
            issued: TimestampMs(0),
            power_w,
            p10_w: None,
            p90_w: None,
            smart_w: 0.0,
            naive_w: 0.0,
            actual_w: None,
        }
    }

    #[test]
    fn the_shortest_horizon_counts_and_a_sum_is_of_all_devices_or_not_there() {
        let points = vec![
            point("a", 0, 15, 1.0),
            point("a", 0, 60, 9.0),
            point("b", 0, 60, 2.0),
            point("a", 10, 60, 4.0),
            point("b", 10, 60, 5.0),
            point("a", 20, 60, 7.0),
            point("a", 30, 60, 8.0),
            point("b", 30, 60, 8.0),
        ];
        let slots = slots(points, 10);
        assert_eq!(slots.len(), 7);
        assert_eq!((slots[0].horizon_min, slots[0].end.0), (15, 10));
        let sums = sums(&slots);
        let seen: Vec<_> = sums.iter().map(|s| (s.start.0, s.power_w)).collect();
        assert_eq!(seen, [(0, 3.0), (10, 9.0), (30, 16.0)]);
        assert_eq!(unbroken(&sums, TimestampMs(0), 10), [3.0, 9.0]);
        assert!(unbroken(&sums, TimestampMs(-10), 10).is_empty());
    }
}
