//! `report`: what the station did in the last days, as text, as a page of its own, or as JSON.

mod gather;
mod page;
mod text;

use std::path::PathBuf;

use clap::Args;

use super::tables::print;
use super::{Exit, Failure, JsonArg, Outcome};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::store::Reader;

#[derive(Args)]
pub(super) struct ReportArgs {
    /// Local days, the newest of them today
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=366))]
    days: u32,
    /// Write one self-contained HTML page to this file
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    html: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
}

pub(super) fn report(config: &Config, args: &ReportArgs) -> Outcome {
    let reader = Reader::open(&config.store.path)?;
    let report = gather::gather(config, &reader, SystemClock.now(), args.days)?;
    let Some(file) = &args.html else {
        return print(args.json.json, &report, text::render);
    };
    std::fs::write(file, page::render(&report)).map_err(|e| {
        let text = format!("cannot write {}: {e}", file.display());
        Failure(Exit::Failed, text)
    })?;
    println!("{}", file.display());
    Ok(Exit::Done)
}
