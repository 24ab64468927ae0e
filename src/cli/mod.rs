//! The command line: argument structs, the commands other than the daemon itself, and exit codes.

pub(crate) mod tables;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, Parser, Subcommand};
use hyper::Method;

use crate::clock::{self, Clock, SystemClock};
use crate::config::{Config, ConfigError};
use crate::daemon::{Daemon, Surroundings};
use crate::errors::chain;
use crate::http::client::{self, ClientError};
use crate::mqtt::link::LinkOptions;
use crate::mqtt::play::Played;
use crate::night::Mode;
use crate::reading::{DeviceId, Reading};
use crate::shutdown::Shutdown;
use crate::status;
use crate::store::{AckToken, Committed, Reader, RunOutcome, StoreLock, Writer};
use crate::trainer::{self, RunEnd, Trigger};

/// How a command ended, as the shell sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// It did not work.
    Failed,
    /// Wrong usage or configuration.
    Usage,
    /// The daemon is needed and not there.
    NoDaemon,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NoDaemon => 3,
        })
    }
}

/// Collects solar telemetry over MQTT, learns from it every night, and forecasts power.
#[derive(Parser)]
#[command(name = "nightwatt", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Verb,
    /// Configuration file [default: /etc/nightwatt/nightwatt.toml where it exists]
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything at once with no broker and no configuration
    #[cfg(feature = "demo")]
    Demo(crate::demo::DemoArgs),
    /// The daemon: collect, learn, forecast
    Run,
    /// Say what start-up would do, then exit
    CheckConfig,
    /// One screen that begins with a verdict
    Status(JsonArg),
    /// Learn now
    Train(TrainArgs),
    /// The nights: outcome, reason, durations
    Runs(RunsArgs),
    /// The models, and which one is live
    Models(ModelsArgs),
    /// The newest forecast of each device
    Forecast(ForecastArgs),
    /// Judge the learner on recorded data
    Backtest(crate::backtest::BacktestArgs),
    /// Publish simulated trackers
    Simulate(crate::simulate::command::SimulateArgs),
    /// Publish a recorded CSV
    Replay(crate::replay::ReplayArgs),
    /// Reads a job from standard input; started by the daemon.
    #[command(hide = true)]
    Trainer,
}

#[derive(Args)]
struct JsonArg {
    /// Print JSON; its fields are a contract and only ever added to
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Args)]
struct TrainArgs {
    /// Instead of the configured mode; "full" reads everything again
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Args)]
struct RunsArgs {
    #[command(subcommand)]
    verb: Option<RunsVerb>,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Subcommand)]
enum RunsVerb {
    /// Everything that was measured in one run
    Show {
        /// The run's number
        run_id: i64,
    },
}

#[derive(Args)]
struct ModelsArgs {
    #[command(subcommand)]
    verb: Option<ModelsVerb>,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Subcommand)]
enum ModelsVerb {
    /// Everything that is known of one version
    Show {
        /// The model's version
        version: i64,
    },
    /// Write a version to a file
    Export {
        /// The model's version
        version: i64,
        /// Where to
        file: PathBuf,
    },
}

#[derive(Args)]
struct ForecastArgs {
    /// Only this device
    device: Option<String>,
    #[command(flatten)]
    json: JsonArg,
}

/// Why a command failed, and with which status.
struct Failure(Exit, String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(Exit::Failed, chain(&error))
    }
}

type Outcome = Result<Exit, Failure>;

/// Runs the command line and says how it ended; what failed is on standard error.
pub fn main(cli: Cli) -> Exit {
    match dispatch(cli) {
        Ok(exit) => exit,
        Err(Failure(exit, text)) => {
            eprintln!("nightwatt: {text}");
            exit
        }
    }
}

fn dispatch(cli: Cli) -> Outcome {
    let reads_no_configuration = match &cli.command {
        Verb::Backtest(_) | Verb::Simulate(_) | Verb::Replay(_) => true,
        #[cfg(feature = "demo")]
        Verb::Demo(_) => true,
        _ => false,
    };
    if reads_no_configuration && cli.config.is_some() {
        let text = "this command reads no configuration; give what it needs as arguments";
        return Err(Failure(Exit::Usage, text.into()));
    }
    if !matches!(cli.command, Verb::Run | Verb::Trainer) && !reads_no_configuration {
        // Whoever reads only the first lines (`| head`) is no error.
        let always = Arc::new(AtomicBool::new(true));
        signal_hook::flag::register_conditional_default(signal_hook::consts::SIGPIPE, always)?;
    }
    let config = || load(cli.config.as_deref());
    match cli.command {
        #[cfg(feature = "demo")]
        Verb::Demo(args) => {
            // The embedded broker calls every goodbye an error.
            log_to_stderr("warn,rumqttd=off");
            block_on(async {
                crate::demo::run(&args, Shutdown::on_signals()?)
                    .await
                    .map_err(Failure::from)
            })?;
            Ok(Exit::Done)
        }
        Verb::Run => run(config()?),
        Verb::CheckConfig => check_config(&config()?),
        Verb::Status(args) => show_status(&config()?, args.json),
        Verb::Train(args) => train(config()?, args.mode, args.json.json),
        Verb::Runs(args) => runs(&config()?, args),
        Verb::Models(args) => models(&config()?, args),
        Verb::Forecast(args) => forecast(&config()?, args),
        Verb::Backtest(args) => {
            let reports = crate::backtest::run(&args)?;
            if args.json {
                // One object a file, one a line.
                for report in &reports {
                    println!("{}", serde_json::to_string(report)?);
                }
            } else {
                print!("{}", crate::backtest::render(&reports));
            }
            Ok(Exit::Done)
        }
        Verb::Simulate(args) => block_on(async {
            let stop = Shutdown::on_signals()?;
            let now = SystemClock.now();
            args.run(now, &mut std::io::stdout().lock(), stop.begun())
                .await
                .map(played)
                .map_err(Failure::from)
        }),
        Verb::Replay(args) => block_on(async {
            let stop = Shutdown::on_signals()?;
            let rows = crate::tidy::TidyReader::open(&args.file)?;
            args.run(rows, &mut std::io::stdout().lock(), stop.begun())
                .await
                .map(played)
                .map_err(Failure::from)
        }),
        Verb::Trainer => {
            trainer::child(std::io::stdin().lock(), std::io::stdout().lock())?;
            Ok(Exit::Done)
        }
    }
}

fn played(played: Played) -> Exit {
    eprintln!("{} messages in {:.1} s", played.messages, played.elapsed_s);
    Exit::Done
}

fn load(path: Option<&Path>) -> Result<Config, Failure> {
    Config::load(path, std::env::vars()).map_err(|e: ConfigError| Failure(Exit::Usage, chain(&e)))
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // One thread for everything that waits; what computes has threads or processes of its own.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

fn run(config: Config) -> Outcome {
    log_to_stderr("info");
    let around = Surroundings {
        clock: Arc::new(SystemClock),
        shutdown: Shutdown::on_signals()?,
        credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        program: std::env::current_exe()?,
    };
    block_on(async {
        let daemon = Daemon::start(config, around).await?;
        notify(&[sd_notify::NotifyState::Ready]);
        if let Some(limit) = sd_notify::watchdog_enabled() {
            tokio::select! {
                () = daemon.until_shutdown() => {}
                () = daemon.watch(limit, || notify(&[sd_notify::NotifyState::Watchdog])) => {}
            }
        }
        daemon
            .finish(|| notify(&[sd_notify::NotifyState::Stopping]))
            .await;
        Ok(Exit::Done)
    })
}

/// Tells systemd, where it listens.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}

fn check_config(config: &Config) -> Outcome {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    LinkOptions::new(&config.mqtt, "", credentials.as_deref())
        .map_err(|e| Failure(Exit::Usage, chain(&e)))?;
    println!("configuration is valid");
    println!(
        "  broker    {} as {:?}",
        config.mqtt.url, config.mqtt.client_id
    );
    for rule in &config.mqtt.topics {
        println!("  topic     {}", rule.filter);
    }
    println!("  store     {}", config.store.path.display());
    println!("  socket    {}", config.http.socket.display());
    match config.site.site() {
        Some(s) => println!("  site      {} N, {} E", s.latitude_deg, s.longitude_deg),
        None => println!("  site      not given: no features of the sun's position"),
    }
    let training = &config.training;
    let schedule = if training.enabled {
        training.schedule.to_string()
    } else {
        "never".into()
    };
    println!(
        "  training  {schedule} ({}), {} min ahead",
        config.site.zone(),
        training.horizon_min
    );
    Ok(Exit::Done)
}

fn show_status(config: &Config, json: bool) -> Outcome {
    let answer = block_on(async {
        Ok(client::request(
            &config.http.socket,
            Method::GET,
            "/api/status",
            String::new(),
        )
        .await)
    })?;
    let (status, exit) = match answer {
        Ok(value) => (serde_json::from_value(value)?, Exit::Done),
        Err(ClientError::NotRunning { .. }) => {
            let now = SystemClock.now();
            let status = status::gather(&config.store.path, None, now, clock::plausible(now))
                .map_err(|e| {
                    let text = format!(
                        "the daemon is not running (nightwatt run), and {}",
                        chain(&e)
                    );
                    Failure(Exit::NoDaemon, text)
                })?;
            (status, Exit::NoDaemon)
        }
        Err(error) => return Err(error.into()),
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", status::render(&status));
    }
    Ok(exit)
}

/// Asks the daemon to learn; where none runs, learns here.
fn train(config: Config, mode: Option<Mode>, json: bool) -> Outcome {
    let end = block_on(async {
        let socket = &config.http.socket;
        let query = mode.map_or(String::new(), |mode| format!("?mode={mode}"));
        let path = format!("/api/ml/retrain{query}");
        match client::request(socket, Method::POST, &path, String::new()).await {
            Ok(_) => Ok(None),
            Err(ClientError::NotRunning { .. }) => Ok(Some(train_here(config, mode).await?)),
            Err(error) => Err(error.into()),
        }
    })?;
    let Some(end) = end else {
        if json {
            println!("{}", serde_json::json!({ "queued": true }));
        } else {
            println!("the daemon learns now; `nightwatt runs` shows the outcome");
        }
        return Ok(Exit::Done);
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&end.report)?);
    } else {
        println!(
            "run {} {}: {}",
            end.run_id,
            end.outcome.as_str(),
            end.reason
        );
        if let Some(report) = &end.report {
            print!("{}", tables::night(report));
        }
    }
    Ok(if end.outcome == RunOutcome::Failed {
        Exit::Failed
    } else {
        Exit::Done
    })
}

async fn train_here(config: Config, mode: Option<Mode>) -> Result<RunEnd, Failure> {
    let _lock = StoreLock::acquire(&config.store.path)?;
    let store = Writer::start(&config.store.path, std::time::Duration::ZERO, 1, Nobody)?;
    let station = trainer::Station {
        config: Arc::new(config),
        store: store.clone(),
        clock: Arc::new(SystemClock),
        program: std::env::current_exe()?,
    };
    let shutdown = Shutdown::on_signals()?;
    let end = trainer::train(&station, Trigger::Manual(mode), shutdown.begun()).await;
    store.stop().await;
    Ok(end?)
}

/// Hears of commits where there is no broker to tell.
struct Nobody;

impl Committed for Nobody {
    fn acknowledge(&mut self, _: &[AckToken]) {}
    fn stored(&mut self, _: Vec<Reading>) {}
}

fn runs(config: &Config, args: RunsArgs) -> Outcome {
    let reader = Reader::open(&config.store.path)?;
    match args.verb {
        Some(RunsVerb::Show { run_id }) => {
            let run = reader.run(run_id)?.ok_or_else(|| {
                Failure(
                    Exit::Failed,
                    format!("there is no run {run_id}; `nightwatt runs` lists them"),
                )
            })?;
            if args.json.json {
                println!("{}", serde_json::to_string_pretty(&run)?);
            } else {
                print!("{}", tables::run(&run));
            }
        }
        None => {
            let runs = reader.runs(30)?;
            if args.json.json {
                println!("{}", serde_json::to_string_pretty(&runs)?);
            } else {
                print!("{}", tables::runs(&runs));
            }
        }
    }
    Ok(Exit::Done)
}

fn models(config: &Config, args: ModelsArgs) -> Outcome {
    let reader = Reader::open(&config.store.path)?;
    let unknown = |version| {
        Failure(
            Exit::Failed,
            format!("there is no model version {version}; `nightwatt models` lists them"),
        )
    };
    match args.verb {
        Some(ModelsVerb::Show { version }) => {
            let model = reader.model(version)?.ok_or_else(|| unknown(version))?;
            if args.json.json {
                println!("{}", serde_json::to_string_pretty(&model)?);
            } else {
                print!("{}", tables::model(&model));
            }
        }
        Some(ModelsVerb::Export { version, file }) => {
            let bytes = reader
                .model_bytes(version)?
                .ok_or_else(|| unknown(version))?;
            std::fs::write(&file, &bytes).map_err(|e| {
                Failure(
                    Exit::Failed,
                    format!("cannot write {}: {e}", file.display()),
                )
            })?;
            println!("{} bytes in {}", bytes.len(), file.display());
        }
        None => {
            let models = reader.models(31)?;
            if args.json.json {
                println!("{}", serde_json::to_string_pretty(&models)?);
            } else {
                print!("{}", tables::models(&models));
            }
        }
    }
    Ok(Exit::Done)
}

fn forecast(config: &Config, args: ForecastArgs) -> Outcome {
    let reader = Reader::open(&config.store.path)?;
    let mut rows = reader.latest_forecasts()?;
    if let Some(name) = &args.device {
        let device = DeviceId::new(name);
        rows.retain(|f| f.device == device);
        if rows.is_empty() {
            return Err(Failure(
                Exit::Failed,
                format!("there is no forecast for {name}"),
            ));
        }
    }
    if args.json.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print!("{}", tables::forecasts(&rows, SystemClock.now()));
    }
    Ok(Exit::Done)
}

/// Logs to standard error as `key=value`; `NIGHTWATT_LOG` sets the levels (`debug`, `warn,nightwatt=info`).
fn log_to_stderr(default: &str) {
    use tracing_subscriber::layer::{Layer, SubscriberExt};
    use tracing_subscriber::util::SubscriberInitExt;

    let asked = std::env::var("NIGHTWATT_LOG")
        .ok()
        .and_then(|text| text.parse().ok());
    let levels: tracing_subscriber::filter::Targets =
        asked.or_else(|| default.parse().ok()).unwrap_or_default();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false);
    // The journal has times of its own.
    let lines = if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().boxed()
    } else {
        lines.boxed()
    };
    tracing_subscriber::registry()
        .with(lines)
        .with(levels)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
