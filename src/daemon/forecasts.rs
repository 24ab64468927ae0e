//! The task that forecasts: on each new reading, at most once a minute and device; publishes, keeps, and later settles.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::clock::Clock;
use crate::config::Config;
use crate::errors::chain;
use crate::forecast::{Forecast, Forecaster, actual_at};
use crate::grid::Grid;
use crate::mqtt::publish::Publisher;
use crate::reading::{DeviceId, Field, Reading, TimestampMs};
use crate::serving::Service;
use crate::shutdown::Shutdown;
use crate::store::{ForecastRow, NamedSample, Reader, Store, StoreError};

/// A reading older than this is history and nothing to forecast from.
const FRESH_MS: i64 = 10 * 60_000;
/// How often it is looked whether a minute has passed on the wall clock.
const SETTLE_LOOK: Duration = Duration::from_secs(1);
/// A forecast whose actual value has not come by then never gets one.
const GIVE_UP_MS: i64 = 6 * 3_600_000;
const SETTLE_AT_ONCE: usize = 5000;
/// How long after a start that failed the next try comes.
const START_AGAIN: Duration = Duration::from_secs(60);
/// Readings taken in between two looks at everything else.
const AT_ONCE: usize = 1024;
/// How often, and how many times, it is looked whether a flood has passed.
const FLOOD_LOOK: Duration = Duration::from_secs(1);
const FLOOD_LOOKS: u32 = 30;

/// What the task works with.
pub(super) struct Forecasts {
    pub(super) config: Arc<Config>,
    pub(super) store: Store,
    pub(super) publisher: Publisher,
    pub(super) clock: Arc<dyn Clock>,
    /// Committed readings.
    pub(super) stored: flume::Receiver<Reading>,
    /// Set where readings did not fit into `stored`.
    pub(super) missed: Arc<AtomicBool>,
    /// Versions that have just gone live.
    pub(super) swaps: flume::Receiver<i64>,
}

impl Forecasts {
    /// Forecasts until the shutdown.
    pub(super) async fn run(self, shutdown: Shutdown) {
        let mut forecaster = tokio::select! {
            () = shutdown.begun() => return,
            forecaster = self.first() => forecaster,
        };
        let mut last: HashMap<DeviceId, i64> = HashMap::new();
        let mut look = tokio::time::interval(SETTLE_LOOK);
        let mut settled_minute = 0;
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                Ok(version) = self.swaps.recv_async() => {
                    // A model may come with another grid step, so the state is built anew with it; until
                    // it stands, and where it does not, the one before goes on.
                    if let Some(rebuilt) = self.warm_up().await {
                        forecaster = rebuilt;
                        // The new model shows itself at the next reading.
                        last.clear();
                    }
                    tracing::info!(version, serving = forecaster.version(), "new model");
                }
                _ = look.tick() => {
                    let minute = self.clock.now().0 / 60_000;
                    if minute != settled_minute {
                        settled_minute = minute;
                        self.settle(&forecaster).await;
                    }
                }
                Ok(first) = self.stored.recv_async() => {
                    if self.missed.load(Ordering::Relaxed) {
                        // Something was left out, so the state is rebuilt from what is stored.
                        tokio::select! {
                            () = shutdown.begun() => return,
                            () = self.flood_passed() => {}
                        }
                        if let Some(rebuilt) = self.warm_up().await {
                            forecaster = rebuilt;
                        }
                        continue;
                    }
                    let mut readings = vec![first];
                    readings.extend(self.stored.try_iter().take(AT_ONCE - 1));
                    let made = self.advance(&mut forecaster, &readings, &mut last);
                    self.keep_and_publish(made).await;
                }
            }
        }
    }

    /// Waits until readings come no faster than they can be taken, or long enough: a backlog of days
    /// is read back once, and not over and over while it comes in.
    async fn flood_passed(&self) {
        for _ in 0..FLOOD_LOOKS {
            self.missed.store(false, Ordering::Relaxed);
            while self.stored.try_recv().is_ok() {}
            tokio::time::sleep(FLOOD_LOOK).await;
            if !self.missed.load(Ordering::Relaxed) {
                break;
            }
        }
        self.missed.store(false, Ordering::Relaxed);
        while self.stored.try_recv().is_ok() {}
    }

    /// [`Forecasts::warm_up`], again and again until it works: a full disk or a foreign lock ends some day.
    async fn first(&self) -> Forecaster {
        loop {
            if let Some(forecaster) = self.warm_up().await {
                return forecaster;
            }
            tokio::time::sleep(START_AGAIN).await;
        }
    }

    /// A forecaster that has seen the last days, with the live model.
    async fn warm_up(&self) -> Option<Forecaster> {
        let service = Service {
            config: &self.config,
            store: &self.store,
            clock: self.clock.as_ref(),
        };
        let built = service.live().await;
        let forecaster = built
            .inspect_err(|error| {
                tracing::error!("the forecaster cannot be built: {}", chain(error))
            })
            .ok()?;
        if let Err(error) = self.note_grid(forecaster.step_min()).await {
            tracing::warn!("the length of the slots was not noted: {}", chain(&error));
        }
        Some(forecaster)
    }

    /// Readers tell by it which of the stored forecasts still belong together.
    async fn note_grid(&self, grid_min: u32) -> Result<(), StoreError> {
        let noted = Reader::open(&self.config.store.path)?.forecast_grid_min()?;
        match noted == Some(grid_min) {
            true => Ok(()),
            false => self.store.keep_forecast_grid(grid_min).await,
        }
    }

    /// Takes readings in and returns the forecasts that are due.
    fn advance(
        &self,
        forecaster: &mut Forecaster,
        readings: &[Reading],
        last: &mut HashMap<DeviceId, i64>,
    ) -> Vec<(DeviceId, Forecast)> {
        for reading in readings.iter().filter(|r| r.can_be_learnt_from()) {
            forecaster.push(&reading.device, reading.ts, &reading.values);
        }
        let now = self.clock.now();
        let mut made = Vec::new();
        for reading in readings
            .iter()
            .filter(|r| r.can_be_learnt_from() && now.0 - r.ts.0 <= FRESH_MS)
        {
            // By the device's own minutes: a device that reports once a minute, give or take, gets a
            // forecast each time.
            let minute = reading.ts.0 / 60_000;
            if last.get(&reading.device).is_some_and(|l| *l >= minute) {
                continue;
            }
            let forecasts = forecaster.forecast(&reading.device, now);
            if !forecasts.is_empty() {
                last.insert(reading.device.clone(), minute);
            }
            made.extend(forecasts.into_iter().map(|f| (reading.device.clone(), f)));
        }
        made
    }

    async fn keep_and_publish(&self, made: Vec<(DeviceId, Forecast)>) {
        if made.is_empty() {
            return;
        }
        for (device, f) in &made {
            let first = self.config.training.horizon_min.iter().next();
            let topic = match f.horizon_min {
                minutes if Some(minutes) == first => format!("{device}/forecast"),
                minutes => format!("{device}/forecast/{minutes}"),
            };
            self.publisher.retained(&topic, payload(device, f));
        }
        let rows = made.into_iter().map(row).collect();
        if let Err(error) = self.store.save_forecasts(rows).await {
            tracing::warn!("forecasts were published and not kept: {}", chain(&error));
        }
    }

    /// Compares forecasts whose time has come with what was measured.
    async fn settle(&self, forecaster: &Forecaster) {
        let (path, now) = (self.config.store.path.clone(), self.clock.now());
        let step_min = forecaster.step_min();
        let look = move || settled(&Reader::open(&path)?, step_min, now);
        let settled = match tokio::task::spawn_blocking(look).await {
            Ok(Ok(settled)) if settled.is_empty() => return,
            Ok(Ok(settled)) => self.store.settle_forecasts(settled).await,
            Ok(Err(error)) => Err(error),
            Err(_) => return,
        };
        if let Err(error) = settled {
            tracing::warn!("forecasts were not settled: {}", chain(&error));
        }
    }
}

/// What was measured at the targets of unsettled forecasts; `None` where it never will be known.
fn settled(
    reader: &Reader,
    step_min: u32,
    now: TimestampMs,
) -> Result<Vec<(DeviceId, TimestampMs, Option<f64>)>, StoreError> {
    let step = i64::from(step_min);
    let mut settled = Vec::new();
    // Two steps later every sample of the target's slots has had the time to arrive.
    let unsettled = reader.unsettled(now.plus_min(-2 * step), SETTLE_AT_ONCE)?;
    // They come by target, and devices that report together share it.
    for together in unsettled.chunk_by(|a, b| a.1 == b.1) {
        let target = together[0].1;
        let mut around: HashMap<DeviceId, Vec<NamedSample>> = HashMap::new();
        for sample in reader.named_samples(target.plus_min(-step), target.plus_min(2 * step))? {
            let sample = sample?;
            around.entry(sample.0.clone()).or_default().push(sample);
        }
        for (device, _) in together {
            let samples = around.get(device).map_or(&[][..], Vec::as_slice);
            let actual_w = actual(step_min, target, samples);
            if actual_w.is_some() || now.0 - target.0 > GIVE_UP_MS {
                settled.push((device.clone(), target, actual_w));
            }
        }
    }
    Ok(settled)
}

/// The power at `target` on the grid that training uses: slot means, interpolated in between.
fn actual(step_min: u32, target: TimestampMs, around: &[NamedSample]) -> Option<f64> {
    let mut grid = Grid::new(step_min);
    let mut slots = Vec::new();
    for (_, ts, values) in around {
        slots.extend(grid.push(*ts, values));
    }
    slots.extend(grid.finish());
    let points: Vec<(TimestampMs, f64)> = slots
        .iter()
        .filter_map(|slot| Some((grid.start_of(slot.index), slot.values.get(Field::Power)?)))
        .collect();
    let before = points.iter().rev().find(|(at, _)| *at <= target)?;
    let after = points.iter().find(|(at, _)| *at >= target)?;
    let near = after.0.0 - before.0.0 <= i64::from(step_min) * 60_000;
    if near {
        actual_at(target, *before, *after)
    } else {
        None
    }
}

/// The published JSON; its fields are a contract and only ever added to.
fn payload(device: &DeviceId, f: &Forecast) -> String {
    let mut payload = json!({
        "device": device,
        "issued": f.issued.to_string(),
        "target": f.target.to_string(),
        "horizon_min": f.horizon_min,
        "power_w": rounded(f.power_w),
        "p10_w": f.p10_w.map(rounded),
        "p90_w": f.p90_w.map(rounded),
        "source": f.source,
        "model_version": f.model_version,
        "smart_persistence_w": rounded(f.smart_w),
        "naive_persistence_w": rounded(f.naive_w),
    });
    // Only while there is a warning with skill: a number that means nothing is worse than none.
    if let Some(probability) = f.ramp_probability {
        payload["ramp_probability"] = rounded(probability).into();
    }
    payload.to_string()
}

/// Milliwatts are beyond any meter, thousandths of a probability beyond any warning.
fn rounded(value: f32) -> f64 {
    (f64::from(value) * 1000.0).round() / 1000.0
}

fn row((device, f): (DeviceId, Forecast)) -> ForecastRow {
    ForecastRow {
        device,
        issued: f.issued,
        target: f.target,
        horizon_min: f.horizon_min,
        power_w: rounded(f.power_w),
        p10_w: f.p10_w.map(rounded),
        p90_w: f.p90_w.map(rounded),
        smart_w: rounded(f.smart_w),
        naive_w: rounded(f.naive_w),
        model_version: f.model_version,
        source: f.source.as_str().to_owned(),
        actual_w: None,
        ramp_probability: f.ramp_probability.map(rounded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Values;

    fn sample(minute: i64, power_w: f64) -> NamedSample {
        let mut values = Values::default();
        values.set(Field::Power, Some(power_w));
        (DeviceId::new("t"), TimestampMs(0).plus_min(minute), values)
    }

    #[test]
    fn the_actual_value_is_the_slots_mean_or_between_two() {
        let around = [sample(10, 100.0), sample(13, 200.0), sample(20, 50.0)];
        let at = |minute| actual(10, TimestampMs(0).plus_min(minute), &around);
        assert_eq!(at(10), Some(150.0));
        assert_eq!(at(15), Some(100.0));
        assert_eq!(at(20), Some(50.0));
        assert_eq!(at(25), None, "nothing was measured after it");
        let gap = [sample(10, 100.0), sample(40, 50.0)];
        assert_eq!(
            actual(10, TimestampMs(0).plus_min(25), &gap),
            None,
            "across a gap"
        );
    }
}
