//! Parses the command line, dispatches, and turns the result into an exit code; nothing else.

use clap::Parser;
use nightwatt::backtest::{self, BacktestArgs};

#[derive(Parser)]
enum Cli {
    /// Judge the learners on recorded data
    Backtest(BacktestArgs),
}

fn main() -> std::process::ExitCode {
    let Cli::Backtest(args) = Cli::parse();
    match backtest::run(&args) {
        Ok(reports) if args.json => match serde_json::to_string(&reports) {
            Ok(json) => println!("{json}"),
            Err(e) => eprintln!("{e}"),
        },
        Ok(reports) => print!("{}", backtest::render(&reports)),
        Err(e) => {
            eprintln!("{e:?}");
            return std::process::ExitCode::FAILURE;
        }
    }
    std::process::ExitCode::SUCCESS
}
