//! nightwatt: collect solar telemetry over MQTT, learn from it every night, forecast power.
//!
//! Data flows one way: `mqtt → store → features → models → registry → forecast → mqtt::publish`.
//! Decisions are pure functions; time, disk and network are arguments. `docs/architecture.md`
//! holds the reasons.

pub mod clock;
#[cfg(feature = "demo")]
pub mod demo;
pub mod mqtt;
pub mod reading;
pub mod replay;
pub mod simulate;
pub mod sun;
