//! nightwatt: collect solar telemetry over MQTT, learn from it every night, forecast power.
//!
//! Data flows one way: `mqtt → store → features → models → registry → forecast → mqtt::publish`.
//! Decisions are pure functions; time, disk and network are arguments. `docs/architecture.md`
//! holds the reasons.

pub mod clock;
pub mod config;
pub mod http;
pub mod mqtt;
pub mod reading;
pub mod registry;
pub mod schedule;
pub mod shutdown;
pub mod status;
pub mod store;
pub mod sun;
