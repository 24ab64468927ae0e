//! The dashboard: what the store says for it, and its answer.

use axum::extract::{Query, State};
use axum::response::{Html, IntoResponse, Response};
use serde::Deserialize;

use super::problem::Problem;
use super::routes::{App, ask};
use crate::accuracy;
use crate::config::Config;
use crate::dashboard::{self, Bin, Choice, Period, Series, View};
use crate::features::MAX_HORIZON_MIN;
use crate::reading::{DeviceId, Field, TimestampMs};
use crate::status::Status;
use crate::store::{Reader, StoreError};
use crate::trainer;

const DAY_MS: i64 = 86_400_000;
/// Days of the chart where none are asked for.
const DAYS: u32 = 3;
/// Days of the table of accuracy.
const ACCURACY_DAYS: u32 = 7;
const NIGHTS: usize = 14;
const MODELS: usize = 8;
/// Steps this long are drawn from samples of the forecasts; counting a year's would take seconds.
const SAMPLED_MS: i64 = 7_200_000;
/// Samples of a step.
const SAMPLES: i64 = 24;

/// What the address asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    days: Option<u32>,
    device: Option<String>,
    horizon: Option<u32>,
}

pub(super) async fn page(
    State(station): State<App>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    // The chart reaches as far ahead as the horizon.
    if let Some(minutes) = asked.horizon.filter(|h| !(1..=MAX_HORIZON_MIN).contains(h)) {
        let detail = format!("horizon = {minutes}: accepted are 1 … {MAX_HORIZON_MIN}");
        return Err(Problem::wrong(detail));
    }
    ask(&station, move |station, reader| {
        let status = station.status().map_err(Problem::broken)?;
        let view = view(reader, station.config(), status, &asked)?;
        Ok((dashboard::headers(), Html(dashboard::page(&view))).into_response())
    })
    .await
}

fn view(
    reader: &Reader,
    config: &Config,
    status: Status,
    asked: &Asked,
) -> Result<View, StoreError> {
    let (zone, now) = (config.site.zone(), status.now);
    let horizons = status.forecasts.iter().map(|f| f.horizon_min);
    let given = asked.device.as_deref().filter(|name| !name.is_empty());
    let choice = Choice {
        period: Period::holding(asked.days.unwrap_or(DAYS)),
        device: given
            .map(DeviceId::new)
            .or_else(|| status.devices.first().map(|d| d.0.clone())),
        horizon_min: asked.horizon.or(horizons.min()),
    };
    let mut by_day = accuracy::by_day(reader, zone, now, ACCURACY_DAYS)?;
    by_day.retain(|d| d.device.is_none() && Some(d.accuracy.horizon_min) == choice.horizon_min);
    by_day.reverse();
    let first_night = match status.model {
        Some(_) => None,
        None => Some(trainer::first_night(reader, config, now)?),
    };
    Ok(View {
        series: series(reader, config, now, &choice)?,
        accuracy: by_day,
        nights: reader.runs(Some("training"), NIGHTS)?,
        summary: reader.run_summary("training", now.plus_ms(-30 * DAY_MS))?,
        models: reader.models(MODELS)?,
        back_to: reader
            .earlier_models()?
            .first()
            .map(|(version, _)| *version),
        first_night,
        filters: config
            .mqtt
            .topics
            .iter()
            .map(|t| t.filter.clone())
            .collect(),
        status,
        zone,
        choice,
    })
}

fn series(
    reader: &Reader,
    config: &Config,
    now: TimestampMs,
    choice: &Choice,
) -> Result<Series, StoreError> {
    let Some(device) = &choice.device else {
        return Ok(Series::default());
    };
    let Some(device_no) = reader.device_no(device.as_str())? else {
        return Ok(Series::default());
    };
    let step_ms = i64::from(choice.period.bin_min) * 60_000;
    let days = accuracy::local_days(config.site.zone(), now, choice.period.days + 1);
    let from = days.last().map_or(now, |day| day.1);
    let from = TimestampMs(from.0 - from.0.rem_euclid(step_ms));
    let furthest = now.plus_min(choice.horizon_min.unwrap_or(0).into());
    let bins = (furthest.0 - from.0) / step_ms + 1;
    let to = from.plus_ms(bins * step_ms);
    let mut series = Series {
        from,
        step_ms,
        bins: vec![Bin::default(); bins as usize],
    };
    let place = |at: TimestampMs| usize::try_from((at.0 - from.0).div_euclid(step_ms)).ok();
    for point in reader.series(Some(device_no), &[Field::Power], (from, to), step_ms)? {
        if let Some(bin) = place(point.at).and_then(|i| series.bins.get_mut(i)) {
            bin.actual_w = point.means.get(Field::Power);
        }
    }
    let Some(horizon_min) = choice.horizon_min else {
        return Ok(series);
    };
    let points = match step_ms {
        SAMPLED_MS.. => reader.forecast_samples(
            device_no,
            horizon_min,
            (from, to),
            step_ms,
            step_ms / SAMPLES,
        )?,
        _ => reader.forecast_series(Some(device_no), Some(horizon_min), (from, to), step_ms)?,
    };
    for point in points {
        if let Some(bin) = place(point.at).and_then(|i| series.bins.get_mut(i)) {
            bin.forecast_w = Some(point.power_w);
            (bin.p10_w, bin.p90_w) = (point.p10_w, point.p90_w);
        }
    }
    Ok(series)
}
