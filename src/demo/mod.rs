//! `nightwatt demo`: the whole station with nothing installed: embedded broker, simulated trackers, history, a night, forecasts.
//!
//! The daemon is the one that `nightwatt run` starts; only its surroundings are made up.

pub mod broker;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Timelike;
use clap::Args;

use crate::cli::tables;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, TrainingConfig};
use crate::daemon::reload::Refusal;
use crate::daemon::updates::Launch;
use crate::daemon::{Daemon, DaemonError, Surroundings};
use crate::http::Station;
use crate::mqtt::feed::{Feed, FeedError, FeedOptions};
use crate::mqtt::flat::TopicTemplate;
use crate::reading::TimestampMs;
use crate::shutdown::Shutdown;
use crate::simulate::{Axes, Params, SimulateError, Simulator};
use crate::status::wrap;
use crate::store::{Reader, StoreError};
use crate::sun::Site;
use crate::trainer::{Asked, Report};
use broker::{DemoBroker, DemoBrokerError};

const STEP_S: u32 = 60;
const POLL: Duration = Duration::from_millis(100);
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
const STORE_LIMIT: Duration = Duration::from_secs(300);
const NIGHT_LIMIT: Duration = Duration::from_secs(300);

/// What `nightwatt demo` accepts.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Stop after the table
    #[arg(long)]
    pub once: bool,
    /// Days of history to simulate, 16 to 30
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(16..=30))]
    pub days: u16,
    /// Trackers to simulate
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=20))]
    pub devices: u16,
    /// The same seed gives the same clouds
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Why the demo ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Its folder.
    #[error("cannot use the demo's folder {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its broker.
    #[error(transparent)]
    Broker(#[from] DemoBrokerError),
    /// The daemon.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The publishing side.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The simulator.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something did not happen in time.
    #[error("waited {limit_s} s for {what}")]
    Late {
        /// For what.
        what: &'static str,
        /// How long.
        limit_s: u64,
    },
    /// The night gave no report.
    #[error("the night ended as {outcome}: {reason}")]
    Night {
        /// Its outcome.
        outcome: String,
        /// Its reason.
        reason: String,
    },
}

/// Runs the demo until it is over (`--once`) or the shutdown.
pub async fn run(args: &DemoArgs, shutdown: Shutdown) -> Result<(), DemoError> {
    let folder = Folder::make()?;
    let broker = DemoBroker::start()?;
    let now = SystemClock.now();
    let config = config(&folder.0, &broker, now);
    let around = Surroundings {
        clock: Arc::new(SystemClock),
        shutdown: Shutdown::new(),
        credentials: None,
        program: std::env::current_exe().map_err(|source| DemoError::Folder {
            path: folder.0.clone(),
            source,
        })?,
        refusal: Refusal::default(),
        launch: Launch::default(),
    };
    let stop_daemon = around.shutdown.clone();
    let daemon = Daemon::start(config.clone(), around).await?;
    let told = tokio::select! {
        told = tell(args, &config, &broker, now, daemon.station()) => told,
        () = shutdown.begun() => Ok(()),
    };
    stop_daemon.begin();
    daemon.finish(|| ()).await;
    told
}

async fn tell(
    args: &DemoArgs,
    config: &Config,
    broker: &DemoBroker,
    now: TimestampMs,
    station: Arc<dyn Station>,
) -> Result<(), DemoError> {
    let began = Instant::now();
    println!(
        "station   an embedded MQTT broker on port {}, a store in {}",
        broker.port,
        config.store.path.display()
    );
    let connected = || {
        station
            .status()
            .ok()
            .filter(|s| s.daemon.as_ref().is_some_and(|d| d.intake.connected))
    };
    wait_for("the broker connection", CONNECT_LIMIT, connected).await?;

    let params = Params {
        devices: usize::from(args.devices),
        start: now.plus_min(-i64::from(args.days) * 1440),
        step_s: STEP_S,
        axes: Axes::Dual,
        site: config.site.site().unwrap_or(Site {
            latitude_deg: 0.0,
            longitude_deg: 0.0,
        }),
        capacity_w: 100.0,
        seed: args.seed,
        faults: Vec::new(),
    };
    println!(
        "history   {} days of {} dual-axis trackers, a reading a minute, through the broker",
        args.days, args.devices
    );
    let mut trackers = Trackers::connect(params, broker).await?;
    let sent = trackers.send_until(now).await?;
    wait_for("the history to be stored", STORE_LIMIT, || {
        let rows = station.status().ok()?.daemon?.rows;
        show_progress(rows, sent);
        (rows >= sent).then_some(())
    })
    .await?;
    println!(
        "\rstored    {sent} readings, each acknowledged after its commit, {:.1} s after the start",
        began.elapsed().as_secs_f64()
    );

    station.retrain(Asked::default());
    println!("night     learning in a child process …");
    let run = wait_for("the night", NIGHT_LIMIT, || {
        Reader::open(&config.store.path)
            .ok()?
            .last_run("training")
            .ok()?
            .filter(|r| r.outcome.is_some())
    })
    .await?;
    let (outcome, reason) = (
        run.outcome.map_or("nothing", |o| o.as_str()).to_owned(),
        run.reason.unwrap_or_default(),
    );
    let report: Option<Report> = run.report.and_then(|r| serde_json::from_value(r).ok());
    let Some(report) = report else {
        return Err(DemoError::Night { outcome, reason });
    };
    for (i, line) in wrap(&reason, 90, usize::MAX).iter().enumerate() {
        println!("{:<9} {line}", if i == 0 { &outcome } else { "" });
    }
    println!();
    print!("{}", tables::report(&report.horizons));

    let asked = SystemClock.now();
    trackers.send_next().await?;
    let wanted = usize::from(args.devices);
    let forecasts = wait_for("the first forecasts by the new model", NIGHT_LIMIT, || {
        let rows = Reader::open(&config.store.path)
            .ok()?
            .latest_forecasts()
            .ok()?;
        let made = rows.iter().filter(|f| f.issued >= asked).count();
        (made == wanted).then_some(rows)
    })
    .await?;
    println!(
        "\nforecasts, published retained and {:.1} s after the start:",
        began.elapsed().as_secs_f64()
    );
    print!(
        "{}",
        tables::forecasts(&forecasts, SystemClock.now(), config.site.zone())
    );
    if args.once {
        return Ok(());
    }
    println!("\nlive until Ctrl-C: a reading and a forecast a minute");
    let mut minute = tokio::time::interval(Duration::from_secs(u64::from(STEP_S)));
    minute.tick().await;
    loop {
        minute.tick().await;
        let newest = issued(&config.store.path)?;
        trackers.send_next().await?;
        wait_for("the next forecasts", NIGHT_LIMIT, || {
            issued(&config.store.path).ok().filter(|at| *at > newest)
        })
        .await?;
        let rows = Reader::open(&config.store.path)?.latest_forecasts()?;
        print!(
            "{}",
            tables::forecasts(&rows, SystemClock.now(), config.site.zone())
        );
    }
}

/// When the newest forecast was made.
fn issued(store: &Path) -> Result<Option<TimestampMs>, StoreError> {
    Ok(Reader::open(store)?
        .latest_forecasts()?
        .iter()
        .map(|f| f.issued)
        .max())
}

/// The simulated trackers and their connection.
struct Trackers {
    feed: Feed,
    samples: std::iter::Peekable<Simulator>,
    topic: TopicTemplate,
}

impl Trackers {
    async fn connect(params: Params, broker: &DemoBroker) -> Result<Self, DemoError> {
        let samples = Simulator::new(params)?.peekable();
        let feed = Feed::connect(FeedOptions::new(broker.url())).await?;
        Ok(Self {
            feed,
            samples,
            topic: TopicTemplate::default(),
        })
    }

    /// Publishes everything before `end` as fast as the broker takes it; how many readings.
    async fn send_until(&mut self, end: TimestampMs) -> Result<u64, DemoError> {
        let mut sent = 0;
        while let Some(sample) = self.samples.next_if(|s| s.at < end) {
            let payload = sample.payload().into_bytes();
            self.feed
                .publish(&self.topic.topic(&sample.device), payload)
                .await?;
            sent += 1;
        }
        Ok(sent)
    }

    /// Publishes the next sample of each tracker.
    async fn send_next(&mut self) -> Result<(), DemoError> {
        if let Some(at) = self.samples.peek().map(|s| s.at) {
            self.send_until(at.plus_ms(1)).await?;
        }
        Ok(())
    }
}

fn config(folder: &Path, broker: &DemoBroker, now: TimestampMs) -> Config {
    let mut config = Config::default();
    config.mqtt.max_age_days = 40;
    config.mqtt.url = broker.url_v5().to_string();
    config.store.path = folder.join("nightwatt.db");
    config.store.reserve_mb = 0;
    config.http.socket = folder.join("nightwatt.sock");
    // It is eleven in the morning at the demo's trackers, whenever it is run: the night has no power.
    let hour = f64::from(now.to_utc().hour()) + f64::from(now.to_utc().minute()) / 60.0;
    config.site.latitude = Some(35.0);
    config.site.longitude = Some(((11.0 - hour) * 15.0 + 540.0).rem_euclid(360.0) - 180.0);
    config.site.timezone = Some(chrono_tz::Tz::UTC);
    // The demo asks for its night itself.
    config.training = TrainingConfig {
        enabled: false,
        ..TrainingConfig::default()
    };
    config
}

async fn wait_for<T>(
    what: &'static str,
    limit: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T, DemoError> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if Instant::now() > deadline {
            return Err(DemoError::Late {
                what,
                limit_s: limit.as_secs(),
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// One line that counts up, where somebody is watching.
fn show_progress(done: u64, all: u64) {
    let mut out = std::io::stdout();
    if out.is_terminal() {
        // A terminal that is gone shows nothing, which is no reason to stop.
        let _ = write!(out, "\rstored    {done} of {all}").and_then(|()| out.flush());
    }
}

/// A folder that goes with the demo.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self, DemoError> {
        let path = std::env::temp_dir().join(format!("nightwatt-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|source| DemoError::Folder {
            path: path.clone(),
            source,
        })?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind is in the system's temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
