//! The task that forecasts: on each new reading, at most once a minute and device; publishes, keeps, and later settles.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::errors::chain;
use crate::clock::Clock;
use crate::config::Config;
use crate::forecast::{Forecast, Forecaster};
use crate::models::Model;
use crate::mqtt::publish::Publisher;
use crate::reading::{DeviceId, Reading, TimestampMs};
use crate::shutdown::Shutdown;
use crate::store::{ForecastRow, Reader, Store, StoreError};
use crate::trainer::night_params;

/// The envelope looks 14 days back; one more covers the day that has begun.
const WARM_UP_MS: i64 = 15 * 86_400_000;
/// Least time between two forecasts of a device.
const SPACING: Duration = Duration::from_secs(60);
/// A reading older than this is history and nothing to forecast from.
const FRESH_MS: i64 = 10 * 60_000;
const SETTLE_EVERY: Duration = Duration::from_secs(60);
/// A forecast whose actual value has not come by then never gets one.
const GIVE_UP_MS: i64 = 6 * 3_600_000;
const SETTLE_AT_ONCE: usize = 500;

/// What the task works with.
pub(super) struct Forecasts {
    pub(super) config: Arc<Config>,
    pub(super) store: Store,
    pub(super) publisher: Publisher,
    pub(super) clock: Arc<dyn Clock>,
    /// Committed readings, a commit at a time.
    pub(super) stored: flume::Receiver<Vec<Reading>>,
    /// Set where commits did not fit into `stored`.
    pub(super) missed: Arc<AtomicBool>,
    /// Versions that have just gone live.
    pub(super) swaps: flume::Receiver<i64>,
}

impl Forecasts {
    /// Forecasts until the shutdown.
    pub(super) async fn run(self, shutdown: Shutdown) {
        let Some(mut forecaster) = self.warm_up().await else { return };
        let mut last: HashMap<DeviceId, Instant> = HashMap::new();
        let mut settle = tokio::time::interval(SETTLE_EVERY);
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                Ok(version) = self.swaps.recv_async() => self.swap(&mut forecaster, version).await,
                _ = settle.tick() => self.settle(&forecaster).await,
                Ok(readings) = self.stored.recv_async() => {
                    if self.missed.swap(false, Ordering::Relaxed) {
                        // Something was left out, so the state is rebuilt from what is stored.
                        while self.stored.try_recv().is_ok() {}
                        match self.warm_up().await {
                            Some(rebuilt) => forecaster = rebuilt,
                            None => return,
                        }
                        continue;
                    }
                    let made = self.advance(&mut forecaster, &readings, &mut last);
                    self.keep_and_publish(made).await;
                }
            }
        }
    }

    /// A forecaster that has seen the last days, with the live model.
    async fn warm_up(&self) -> Option<Forecaster> {
        let (config, now) = (self.config.clone(), self.clock.now());
        let load = move || -> Result<Forecaster, StoreError> {
            let reader = Reader::open(&config.store.path)?;
            let mut forecaster = Forecaster::new(&night_params(&config));
            if let Some((version, bytes)) = reader.live_model()? {
                match Model::from_bytes(&bytes) {
                    Ok(model) => forecaster.set_model(version, model),
                    Err(error) => tracing::error!(version, %error, "the live model cannot be used; persistence forecasts"),
                }
            }
            let devices: HashMap<i64, DeviceId> = reader.devices()?.into_iter().collect();
            for sample in reader.samples(now.plus_ms(-WARM_UP_MS), TimestampMs(i64::MAX)) {
                let sample = sample?;
                if let Some(device) = devices.get(&sample.device_no) {
                    forecaster.push(device, sample.ts, &sample.values);
                }
            }
            Ok(forecaster)
        };
        match tokio::task::spawn_blocking(load).await {
            Ok(Ok(forecaster)) => Some(forecaster),
            Ok(Err(error)) => {
                tracing::error!("no forecasts: {}", chain(&error));
                None
            }
            Err(_) => None,
        }
    }

    async fn swap(&self, forecaster: &mut Forecaster, version: i64) {
        let path = self.config.store.path.clone();
        let load = move || Reader::open(&path)?.model_bytes(version);
        let bytes = match tokio::task::spawn_blocking(load).await {
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::error!(version, "the new model stays unused: {}", chain(&error));
                return;
            }
        };
        match Model::from_bytes(&bytes) {
            Ok(model) => {
                forecaster.set_model(version, model);
                tracing::info!(version, "the new model forecasts");
            }
            Err(error) => tracing::error!(version, %error, "the new model cannot be used"),
        }
    }

    /// Takes readings in and returns the forecasts that are due.
    fn advance(
        &self,
        forecaster: &mut Forecaster,
        readings: &[Reading],
        last: &mut HashMap<DeviceId, Instant>,
    ) -> Vec<Forecast> {
        for reading in readings.iter().filter(|r| r.can_be_learnt_from()) {
            forecaster.push(&reading.device, reading.ts, &reading.values);
        }
        let (now, instant) = (self.clock.now(), Instant::now());
        let mut made = Vec::new();
        for reading in readings.iter().filter(|r| now.0 - r.ts.0 <= FRESH_MS) {
            let due = last.get(&reading.device).is_none_or(|l| instant - *l >= SPACING);
            if !due {
                continue;
            }
            if let Some(forecast) = forecaster.forecast(&reading.device) {
                last.insert(reading.device.clone(), instant);
                made.push(forecast);
            }
        }
        made
    }

    async fn keep_and_publish(&self, made: Vec<Forecast>) {
        if made.is_empty() {
            return;
        }
        for f in &made {
            self.publisher.retained(&format!("{}/forecast", f.device), payload(f));
        }
        let rows = made.into_iter().map(row).collect();
        if let Err(error) = self.store.save_forecasts(rows).await {
            tracing::warn!("forecasts were published and not kept: {}", chain(&error));
        }
    }

    /// Compares forecasts whose time has come with what was measured.
    async fn settle(&self, forecaster: &Forecaster) {
        let (path, now) = (self.config.store.path.clone(), self.clock.now());
        let step_min = i64::from(forecaster.step_min());
        let look = move || -> Result<Vec<(DeviceId, TimestampMs, Option<f64>)>, StoreError> {
            let reader = Reader::open(&path)?;
            let names: HashMap<DeviceId, i64> =
                reader.devices()?.into_iter().map(|(no, id)| (id, no)).collect();
            let mut settled = Vec::new();
            // Two steps later every sample of the target's slots has had the time to arrive.
            for (device, target) in reader.unsettled(now.plus_min(-2 * step_min), SETTLE_AT_ONCE)? {
                let Some(no) = names.get(&device) else { continue };
                let around = reader
                    .samples(target.plus_min(-step_min), target.plus_min(2 * step_min))
                    .filter(|s| s.as_ref().map_or(true, |s| s.device_no == *no))
                    .map(|s| s.map(|s| (s.ts, s.values)))
                    .collect::<Result<Vec<_>, _>>()?;
                let actual_w = crate::forecast::actual_at(target, step_min as u32, &around);
                if actual_w.is_some() || now.0 - target.0 > GIVE_UP_MS {
                    settled.push((device, target, actual_w));
                }
            }
            Ok(settled)
        };
        let settled = match tokio::task::spawn_blocking(look).await {
            Ok(Ok(settled)) => settled,
            Ok(Err(error)) => {
                tracing::warn!("forecasts were not settled: {}", chain(&error));
                return;
            }
            Err(_) => return,
        };
        if !settled.is_empty() {
            if let Err(error) = self.store.settle_forecasts(settled).await {
                tracing::warn!("forecasts were not settled: {}", chain(&error));
            }
        }
    }
}

/// The published JSON; its fields are a contract and only ever added to.
fn payload(f: &Forecast) -> String {
    json!({
        "device": f.device,
        "issued": f.issued.to_string(),
        "target": f.target.to_string(),
        "horizon_min": f.horizon_min,
        "power_w": rounded(f.power_w),
        "p10_w": f.p10_w.map(rounded),
        "p90_w": f.p90_w.map(rounded),
        "source": f.source,
        "model_version": f.model_version,
        "smart_persistence_w": f.smart_w.map(rounded),
        "naive_persistence_w": rounded(f.naive_w),
    })
    .to_string()
}

/// Milliwatts are beyond any meter.
fn rounded(power_w: f64) -> f64 {
    (power_w * 1000.0).round() / 1000.0
}

fn row(f: Forecast) -> ForecastRow {
    ForecastRow {
        device: f.device,
        issued: f.issued,
        target: f.target,
        horizon_min: f.horizon_min,
        power_w: f.power_w,
        p10_w: f.p10_w,
        p90_w: f.p90_w,
        smart_w: f.smart_w,
        naive_w: f.naive_w,
        model_version: f.model_version,
        source: f.source.to_string(),
        actual_w: None,
    }
}
