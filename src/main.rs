//! Parses the command line, dispatches, and turns the result into an exit code; nothing else.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    nightwatt::cli::main(nightwatt::cli::Cli::parse()).into()
}
