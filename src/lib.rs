//! nightwatt: collect solar telemetry over MQTT, learn from it every night, forecast power.
//!
//! Data flows one way: `mqtt → store → features → models → registry → forecast → mqtt::publish`.
//! Decisions are pure functions; time, disk and network are arguments. `docs/architecture.md`
//! holds the reasons.

pub mod accuracy;
pub mod alerts;
pub mod backtest;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod dashboard;
#[cfg(feature = "demo")]
pub mod demo;
pub mod doctor;
pub mod energy;
pub mod errors;
mod fault;
pub mod forecast;
pub mod http;
pub mod logging;
pub mod mqtt;
pub mod quality;
pub mod rate;
pub mod registry;
pub mod replay;
pub mod schedule;
pub mod serving;
pub mod shutdown;
pub mod simulate;
pub mod status;
pub mod store;
pub mod tidy;
pub mod trainer;
pub mod update;
pub mod words;

#[cfg(test)]
use nightwatt_learner::testing;
pub use nightwatt_learner::{features, grid, models, night, reading, sun};
