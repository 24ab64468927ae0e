//! Versions in and out of service: loaded, proved by a forecast, promoted, gone back from, and replaced where they are damaged.
//!
//! The database says which version is live; these are the only places that change it. Whatever goes
//! live has been loaded and has made a forecast from real rows before the one it replaces lets go.

use crate::clock::Clock;
use crate::config::Config;
use crate::errors::chain;
use crate::features::{Plan, PlanError};
use crate::forecast::Forecaster;
use crate::grid::infer_step_min;
use crate::models::bundle::Bundle;
use crate::reading::TimestampMs;
use crate::registry::{Move, Refusal};
use crate::store::{ModelMove, Reader, Store, StoreError};
use crate::trainer::night_params;

/// The envelope looks 14 days back; one more covers the day that has begun.
const WARM_UP_MS: i64 = 15 * 86_400_000;
/// Readings looked at to find the grid step.
const STEP_SAMPLE: usize = 4096;

/// Why a version does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The configured horizons or the step.
    #[error("cannot plan the forecast's features")]
    Plan(#[from] PlanError),
    /// The move is not legal.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is nothing to go back to.
    #[error("no version was live before the one that is; nothing was changed")]
    NothingBefore,
    /// Its bytes are not what was written, or what it says cannot be.
    #[error("model version {version} cannot be used: {why}")]
    Unusable {
        /// The version.
        version: i64,
        /// What is wrong.
        why: String,
    },
    /// Work on another thread was cut short.
    #[error("loading a model was cut short")]
    CutShort,
}

/// A forecaster that has seen the last days, with `version` (none: persistence) proved on the newest row
/// of every device.
fn load(config: &Config, version: Option<i64>, now: TimestampMs) -> Result<Forecaster, ServeError> {
    let reader = Reader::open(&config.store.path)?;
    let from = now.plus_ms(-WARM_UP_MS);
    let live = match version {
        None => None,
        Some(version) => {
            let bytes = reader
                .model_bytes(version)?
                .ok_or(Refusal::Unknown { version })?;
            let bundle = Bundle::from_bytes(&bytes).map_err(|e| ServeError::Unusable {
                version,
                why: chain(&e),
            })?;
            Some((bundle, version))
        }
    };
    let step_min = match live.as_ref().and_then(|(bundle, _)| bundle.step_min()) {
        Some(step_min) => step_min,
        None => step_of(&reader, from)?.unwrap_or(1),
    };
    let mut forecaster = Forecaster::new(plans(config, step_min)?);
    for sample in reader.named_samples(from, TimestampMs(i64::MAX))? {
        let (device, ts, values) = sample?;
        forecaster.push(&device, ts, &values);
    }
    let unfit = forecaster.serve(live);
    if !unfit.is_empty() {
        tracing::warn!(
            version,
            ?unfit,
            "made for another horizon, step or site: persistence forecasts there until the next night"
        );
    }
    if let (Err(absurd), Some(version)) = (forecaster.prove(), version) {
        return Err(ServeError::Unusable {
            version,
            why: chain(&absurd),
        });
    }
    Ok(forecaster)
}

/// How rows are made for each configured horizon.
fn plans(config: &Config, step_min: u32) -> Result<Vec<Plan>, PlanError> {
    let night = night_params(config);
    let horizons = config.training.horizon_min.iter();
    horizons
        .map(|minutes| Plan::new(minutes, step_min, night.features, night.site, night.zone))
        .collect()
}

/// The grid step that the stored readings suggest.
fn step_of(reader: &Reader, from: TimestampMs) -> Result<Option<u32>, StoreError> {
    let head = reader
        .named_samples(from, TimestampMs(i64::MAX))?
        .take(STEP_SAMPLE)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(infer_step_min(
        head.iter().map(|(device, ts, _)| (device, *ts)),
    ))
}

/// What moves versions: the configuration, the writer and the time.
#[derive(Clone, Copy)]
pub struct Service<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The writer.
    pub store: &'a Store,
    /// Wall-clock time.
    pub clock: &'a dyn Clock,
}

impl Service<'_> {
    /// [`load`], away from the thread that everything else waits on.
    async fn load(&self, version: Option<i64>) -> Result<Forecaster, ServeError> {
        let (config, now) = (self.config.clone(), self.clock.now());
        tokio::task::spawn_blocking(move || load(&config, version, now))
            .await
            .map_err(|_| ServeError::CutShort)?
    }

    /// The live version, ready to forecast. Where it is damaged the one that was live before takes its
    /// place, in the store too, with an event; where there is none, persistence.
    pub async fn live(&self) -> Result<Forecaster, ServeError> {
        let reader = Reader::open(&self.config.store.path)?;
        let live = reader.live_version()?;
        let (version, why) = match self.load(live).await {
            Err(ServeError::Unusable { version, why }) => (version, why),
            other => return other,
        };
        let mut moves = vec![condemn(version, &why)];
        let mut events = vec![format!("model version {version} cannot be used: {why}")];
        let mut instead = None;
        for (earlier, life) in reader.earlier_models()? {
            if moves.iter().any(|m| m.version == earlier) {
                continue;
            }
            match self.load(Some(earlier)).await {
                Ok(forecaster) => {
                    moves.push(ModelMove {
                        version: earlier,
                        step: Move::Promote,
                        why: format!("version {version} turned out to be damaged"),
                        back_to: Some(life),
                    });
                    instead = Some((forecaster, earlier));
                    break;
                }
                Err(ServeError::Unusable { version, why }) => {
                    events.push(format!("model version {version} cannot be used: {why}"));
                    moves.push(condemn(version, &why));
                }
                Err(error) => return Err(error),
            }
        }
        let now = self.clock.now();
        self.store.move_models(now, moves).await??;
        let (forecaster, serves) = match instead {
            Some((forecaster, earlier)) => (forecaster, format!("version {earlier} serves again")),
            None => (self.load(None).await?, "persistence serves".to_owned()),
        };
        for event in events {
            self.note(format!("{event}; {serves}")).await?;
        }
        Ok(forecaster)
    }

    /// Makes `version` live, once it has proved itself; otherwise what is live stays, and a version that
    /// cannot be used is marked as such.
    pub async fn promote(&self, version: i64, why: String) -> Result<(), ServeError> {
        self.serve(version, why, None).await
    }

    /// Makes the version live that was before; returns which.
    async fn roll_back(&self) -> Result<i64, ServeError> {
        let reader = Reader::open(&self.config.store.path)?;
        let earlier = reader.earlier_models()?;
        let &(version, life) = earlier.first().ok_or(ServeError::NothingBefore)?;
        let why = match reader.live_version()? {
            Some(live) => format!("rolled back from version {live}"),
            None => "rolled back".to_owned(),
        };
        self.serve(version, why, Some(life)).await?;
        Ok(version)
    }

    /// What an owner asks for: that `version` be live, or the one that was before; which it was.
    pub async fn bring(&self, version: Option<i64>) -> Result<i64, ServeError> {
        let Some(version) = version else {
            return self.roll_back().await;
        };
        self.promote(version, "promoted by hand".to_owned()).await?;
        Ok(version)
    }

    async fn serve(
        &self,
        version: i64,
        why: String,
        back_to: Option<i64>,
    ) -> Result<(), ServeError> {
        let row = Reader::open(&self.config.store.path)?
            .model(version)?
            .ok_or(Refusal::Unknown { version })?;
        let promote = ModelMove {
            version,
            step: Move::Promote,
            why,
            back_to,
        };
        // What is not legal is refused for that and not for what else may be wrong with it.
        row.check(Move::Promote)?;
        if let Err(error) = self.load(Some(version)).await {
            if let ServeError::Unusable { version, why } = &error {
                let moves = vec![condemn(*version, why)];
                self.store.move_models(self.clock.now(), moves).await??;
                self.note(format!("{}; what was live stays", chain(&error)))
                    .await?;
            }
            return Err(error);
        }
        let moves = vec![promote];
        Ok(self.store.move_models(self.clock.now(), moves).await??)
    }

    async fn note(&self, detail: String) -> Result<(), StoreError> {
        tracing::error!("{detail}");
        let at = self.clock.now();
        self.store.note_event(at, "model_damaged", detail).await
    }
}

fn condemn(version: i64, why: &str) -> ModelMove {
    ModelMove {
        version,
        step: Move::Condemn,
        why: why.to_owned(),
        back_to: None,
    }
}
