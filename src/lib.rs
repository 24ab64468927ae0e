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
pub mod features;
pub mod forecast;
pub mod grid;
pub mod http;
pub mod logging;
pub mod models;
pub mod mqtt;
pub mod night;
pub mod quality;
pub mod rate;
pub mod reading;
pub mod registry;
pub mod replay;
pub mod schedule;
pub mod serving;
pub mod shutdown;
pub mod simulate;
pub mod status;
pub mod store;
pub mod sun;
pub mod tidy;
pub mod trainer;
pub mod update;
pub mod words;

#[cfg(test)]
mod testing;
