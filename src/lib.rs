//! nightwatt: collect solar telemetry over MQTT, learn from it every night, forecast power.
//!
//! Data flows one way: `mqtt → store → features → models → registry → forecast → mqtt::publish`.
//! Decisions are pure functions; time, disk and network are arguments. `docs/architecture.md`
//! holds the reasons.

pub mod backtest;
pub mod clock;
pub mod features;
pub mod forecast;
pub mod grid;
pub mod models;
pub mod night;
pub mod reading;
pub mod sun;
pub mod tidy;

#[cfg(test)]
mod testing;
