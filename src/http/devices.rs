//! Devices and their readings.

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::problem::Problem;
use super::routes::{App, ask};
use crate::reading::{Field, TimestampMs, Values};
use crate::store::Reader;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Points an answer may have.
const MOST_POINTS: i64 = 2000;
/// Points it has about where no step was asked for.
const USUAL_POINTS: i64 = 300;
/// Steps to choose from then.
const STEPS_MS: [i64; 9] = [
    60_000,
    5 * 60_000,
    15 * 60_000,
    HOUR_MS,
    3 * HOUR_MS,
    6 * HOUR_MS,
    DAY_MS,
    7 * DAY_MS,
    30 * DAY_MS,
];

/// A time range in equal steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: TimestampMs,
    pub(super) to: TimestampMs,
    pub(super) step_ms: i64,
}

impl Range {
    /// What was asked for, else the last day in steps that make a chart.
    pub(super) fn new(
        now: TimestampMs,
        from: Option<TimestampMs>,
        to: Option<TimestampMs>,
        step: Option<&str>,
    ) -> Result<Self, Problem> {
        let to = to.unwrap_or(now);
        let from = from.unwrap_or(to.plus_ms(-DAY_MS));
        let span = to.0.saturating_sub(from.0);
        if from.0 < 0 || span <= 0 {
            return Err(Problem::wrong(format!(
                "from = {from} and to = {to} are no range: from must be before to, and not before 1970"
            )));
        }
        let step_ms = match step {
            Some(text) => parse_step(text)?,
            None => {
                let fine = |step: &&i64| span / **step <= USUAL_POINTS;
                *STEPS_MS.iter().find(fine).unwrap_or(&STEPS_MS[8])
            }
        };
        if step_ms > HOUR_MS && step_ms % HOUR_MS != 0 {
            return Err(Problem::wrong(
                "a step of more than an hour is one of whole hours",
            ));
        }
        if span / step_ms > MOST_POINTS {
            return Err(Problem::wrong(format!(
                "these are {} points, and there are at most {MOST_POINTS}: ask for a longer step or less time",
                span / step_ms
            )));
        }
        Ok(Self { from, to, step_ms })
    }
}

/// Seconds, or a number with its unit: `30s`, `15m`, `1h`, `1d`.
pub(super) fn parse_step(text: &str) -> Result<i64, Problem> {
    let (number, unit_ms) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1000),
        Some((at, 'm')) => (&text[..at], 60_000),
        Some((at, 'h')) => (&text[..at], HOUR_MS),
        Some((at, 'd')) => (&text[..at], DAY_MS),
        _ => (text, 1000),
    };
    let number = number.parse::<u32>().ok().map(i64::from);
    let step_ms = number.and_then(|n| n.checked_mul(unit_ms));
    let accepted = step_ms.filter(|ms| (1000..=366 * DAY_MS).contains(ms));
    accepted.ok_or_else(|| {
        Problem::wrong(format!(
            "step = {text:?}: accepted are 1s … 366d as seconds (900) or with a unit (30s, 15m, 1h, 1d)"
        ))
    })
}

/// The store's number of a device that is asked for by name.
pub(super) fn number_of(reader: &Reader, device: &str) -> Result<i64, Problem> {
    let found = reader.device_no(device)?;
    found.ok_or_else(|| Problem::unknown(format!("there is no device {device:?}")))
}

pub(super) async fn devices(State(station): State<App>) -> Result<Json<Value>, Problem> {
    ask(&station, |_, reader| list(reader).map(Json)).await
}

/// The answer to [`devices`].
pub(super) fn list(reader: &Reader) -> Result<Value, Problem> {
    Ok(json!({ "devices": reader.device_rows()? }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Readings {
    from: Option<TimestampMs>,
    to: Option<TimestampMs>,
    step: Option<String>,
}

/// One step of a device's readings.
#[derive(Serialize)]
struct Point {
    at: TimestampMs,
    readings: i64,
    #[serde(flatten)]
    means: Values,
    #[serde(skip_serializing_if = "Option::is_none")]
    power_min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    power_max: Option<f64>,
}

pub(super) async fn readings(
    State(station): State<App>,
    Path(device): Path<String>,
    Query(asked): Query<Readings>,
) -> Result<Json<Value>, Problem> {
    ask(&station, move |station, reader| {
        series(station.now(), reader, &device, &asked).map(Json)
    })
    .await
}

/// The answer to [`readings`].
pub(super) fn series(
    now: TimestampMs,
    reader: &Reader,
    device: &str,
    asked: &Readings,
) -> Result<Value, Problem> {
    let range = Range::new(now, asked.from, asked.to, asked.step.as_deref())?;
    let number = number_of(reader, device)?;
    let span = (range.from, range.to);
    let points = reader.series(Some(number), &Field::ALL, span, range.step_ms)?;
    let points = points.into_iter().map(|p| Point {
        at: p.at,
        readings: p.readings,
        means: p.means,
        power_min: p.power_min,
        power_max: p.power_max,
    });
    Ok(json!({
        "device": device,
        "from": range.from,
        "to": range.to,
        "step_s": range.step_ms / 1000,
        "points": points.collect::<Vec<_>>(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_bounded_and_has_a_step_that_makes_a_chart() {
        let now = TimestampMs(1_780_000_000_000);
        let range =
            |days: i64, step| Range::new(now, Some(now.plus_ms(-days * DAY_MS)), None, step);
        assert_eq!(Range::new(now, None, None, None).unwrap().step_ms, 300_000);
        assert_eq!(range(365, None).unwrap().step_ms, 7 * DAY_MS);
        assert_eq!(range(365, Some("1d")).unwrap().step_ms, DAY_MS);
        assert_eq!(range(1, Some("900")).unwrap().step_ms, 900_000);
        assert!(range(365, Some("1h")).is_err());
        assert!(range(0, None).is_err());
        assert!(range(-1, None).is_err());
        assert!(range(30_000, None).is_err(), "before 1970");
        for wrong in [
            "",
            "0",
            "-1",
            "1x",
            "m",
            "1.5h",
            "90m",
            "99999999999d",
            "1é",
            "é",
        ] {
            assert!(range(1, Some(wrong)).is_err(), "{wrong}");
        }
    }
}
