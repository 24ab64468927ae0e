//! The command line: argument structs, the commands other than the daemon itself, and exit codes.

mod alerts;
mod alone;
mod ask;
mod check;
mod doctor;
mod forecast;
mod home_assistant;
mod lists;
mod models;
mod quarantine;
mod report;
mod run;
mod runs;
mod show;
mod snapshot;
pub(crate) mod tables;
mod tail;
mod topics;
mod train;
mod update;
pub(crate) mod when;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, Parser, Subcommand};

use crate::clock::{Clock, SystemClock};
use crate::config::{Config, ConfigError};
use crate::errors::chain;
use crate::logging;
use crate::mqtt::play::Played;
use crate::night::Mode;
use crate::shutdown::Shutdown;
use crate::trainer::{self};

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
    Run(RunArgs),
    /// Say what start-up would do, then exit
    CheckConfig,
    /// Listen to the broker, say what is sent there, and propose rules for it
    Topics(topics::TopicsArgs),
    /// One screen that begins with a verdict
    Status(JsonArg),
    /// What is wrong with the station or its surroundings, and what to do
    Doctor(JsonArg),
    /// What is wrong, and who has been told
    Alerts(alerts::AlertsArgs),
    /// What went wrong lately: stage, cause and time
    Errors(JsonArg),
    /// Remove everything that was made in Home Assistant
    HomeAssistant(home_assistant::HomeAssistantArgs),
    /// The messages that could not become readings
    Quarantine(quarantine::QuarantineArgs),
    /// Learn now
    Train(TrainArgs),
    /// The nights: outcome, reason, durations
    Runs(RunsArgs),
    /// The models, and which one is live
    Models(ModelsArgs),
    /// The newest forecasts, the curve they make, and what became of earlier ones
    Forecast(forecast::ForecastArgs),
    /// Every device with its newest reading
    Devices(JsonArg),
    /// A device's readings in equal steps
    Readings(lists::ReadingsArgs),
    /// How the forecasts did, day by day
    Accuracy(lists::AccuracyArgs),
    /// What happened
    Events(lists::EventsArgs),
    /// What the station did in the last days: energy, accuracy, nights, models, faults, disk
    Report(report::ReportArgs),
    /// Readings as they are stored, until Ctrl-C
    Tail(tail::TailArgs),
    /// Replace this program by a newer version, or take that back
    Update(update::UpdateArgs),
    /// Copy the store, verified, while it runs
    Snapshot(snapshot::SnapshotArgs),
    /// Put a snapshot in place of the store; the daemon must not run
    Restore(snapshot::RestoreArgs),
    /// Judge the learner on recorded data
    Backtest(crate::backtest::BacktestArgs),
    /// Publish simulated trackers
    Simulate(crate::simulate::command::SimulateArgs),
    /// Publish a recorded CSV
    Replay(crate::replay::ReplayArgs),
    /// The daemon, in the version that is in force; started by the service manager.
    #[command(hide = true)]
    Launch(RunArgs),
    /// Whether this version gets on with the station; asked before it is tried.
    #[command(hide = true)]
    SelfCheck,
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
struct RunArgs {
    /// How the log on standard error is written; NIGHTWATT_LOG sets its levels
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    log: logging::Format,
}

#[derive(Args)]
struct TrainArgs {
    /// Instead of the configured mode; "full" reads everything again
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// However few days are new
    #[arg(long)]
    force: bool,
    /// Only from the newest so many days
    #[arg(long, value_name = "N")]
    days: Option<u32>,
    /// Only from this device: a trial, whose model never goes live
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Only say what would be learned from, and whether it would be
    #[arg(long, conflicts_with_all = ["days", "device", "mode", "background"])]
    dry_run: bool,
    /// Do not wait for the end; takes a daemon
    #[arg(long)]
    background: bool,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Args)]
struct RunsArgs {
    #[command(subcommand)]
    verb: Option<RunsVerb>,
    /// Only runs of one kind
    #[arg(long, value_parser = ["training", "trial", "housekeeping", "update"])]
    kind: Option<String>,
    /// How many, the newest first
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = some)]
    limit: usize,
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
    /// Take a run out of the log
    Delete {
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
    /// The versions and their states; what `models` alone does
    List,
    /// Which version was live when, and why
    History,
    /// Everything that is known of one version
    Show {
        /// The model's version
        version: i64,
    },
    /// Make a version live
    Promote {
        /// The model's version
        version: i64,
    },
    /// Make the version live that was before; again: the one before that
    Rollback,
    /// Write a version to a file
    Export {
        /// The model's version
        version: i64,
        /// Where to [default: nightwatt-model-<VERSION>.bin]
        file: Option<PathBuf>,
    },
}

/// How many lines of a list are asked for.
fn some(text: &str) -> Result<usize, &'static str> {
    let number = text.parse().ok().filter(|n| *n > 0);
    number.ok_or("accepted: a number above 0")
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
    if !matches!(cli.command, Verb::Run(_) | Verb::Launch(_) | Verb::Trainer)
        && !reads_no_configuration
    {
        // Whoever reads only the first lines (`| head`) is no error.
        let always = Arc::new(AtomicBool::new(true));
        signal_hook::flag::register_conditional_default(signal_hook::consts::SIGPIPE, always)?;
    }
    let config = || load(cli.config.as_deref());
    let places = || find(cli.config.as_deref());
    match cli.command {
        #[cfg(feature = "demo")]
        Verb::Demo(args) => {
            // The embedded broker calls every goodbye an error.
            logging::to_stderr(logging::Format::Text, "warn,rumqttd=off");
            block_on(async {
                crate::demo::run(&args, Shutdown::on_signals()?)
                    .await
                    .map_err(Failure::from)
            })?;
            Ok(Exit::Done)
        }
        Verb::Run(args) => run::run(cli.config, args.log),
        Verb::CheckConfig => check::check_config(cli.config.as_deref(), &config()?),
        Verb::Topics(args) => topics::topics(&config()?, args),
        Verb::Status(args) => show::show_status(&places()?, args.json),
        Verb::Train(args) => train::train(config()?, &args),
        Verb::Doctor(args) => doctor::doctor(cli.config.as_deref(), args.json),
        Verb::Alerts(args) => alerts::alerts(args, places, config),
        Verb::Errors(args) => alerts::errors(&places()?, args.json),
        Verb::HomeAssistant(args) => home_assistant::home_assistant(&config()?, args),
        Verb::Quarantine(args) => quarantine::quarantine(&places()?, args),
        Verb::Runs(args) => runs::runs(&places()?, args),
        Verb::Models(args) => models::models(&places()?, args),
        Verb::Forecast(args) => forecast::forecast(&places()?, &args),
        Verb::Devices(json) => lists::devices(&places()?, &json),
        Verb::Readings(args) => lists::readings(&places()?, &args),
        Verb::Accuracy(args) => lists::accuracy(&places()?, &args),
        Verb::Events(args) => lists::events(&places()?, &args),
        Verb::Report(args) => report::report(&places()?, &args),
        Verb::Tail(args) => tail::tail(&places()?, &args),
        Verb::Update(args) => update::update(&config()?, cli.config.as_deref(), args),
        Verb::Launch(args) => update::launch(cli.config, args.log),
        Verb::SelfCheck => update::self_check(cli.config.as_deref()),
        Verb::Snapshot(args) => snapshot::snapshot(&config()?, &args),
        Verb::Restore(args) => snapshot::restore(&config()?, &args),
        Verb::Backtest(args) if args.energy => {
            use crate::backtest::energy;
            let reports = energy::run(&args)?;
            if args.json {
                for report in &reports {
                    println!("{}", serde_json::to_string(report)?);
                }
            } else {
                print!("{}", energy::render(&reports));
            }
            Ok(Exit::Done)
        }
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
            let rows = args.rows(|text| eprintln!("warning: {text}"))?;
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
    let messages = crate::words::count(played.messages, "message");
    eprintln!("{messages} in {:.1} s", played.elapsed_s);
    Exit::Done
}

fn load(path: Option<&Path>) -> Result<Config, Failure> {
    Config::load(path, std::env::vars()).map_err(|e: ConfigError| Failure(Exit::Usage, chain(&e)))
}

/// For commands that only look: a configuration that is wrong must not hide what the daemon says of it.
fn find(path: Option<&Path>) -> Result<Config, Failure> {
    match Config::load(path, std::env::vars()) {
        Ok(config) => Ok(config),
        // A file that is not there says nothing of where the daemon is.
        Err(e @ ConfigError::Read { .. }) => Err(Failure(Exit::Usage, chain(&e))),
        Err(e) => {
            eprintln!("nightwatt: the configuration is not valid: {}", chain(&e));
            Ok(Config::places(path))
        }
    }
}

/// What still reads or writes at the end gets this long.
const BLOCKING_GRACE: std::time::Duration = std::time::Duration::from_millis(500);

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // One thread for everything that waits; what computes has threads or processes of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(work);
    // A snapshot in the making must not hold up the end; half of one is cleared away by the next.
    runtime.shutdown_timeout(BLOCKING_GRACE);
    done
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
