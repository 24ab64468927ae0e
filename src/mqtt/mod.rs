//! Telemetry in, forecasts out: the only place that speaks MQTT.
//!
//! [`payload`] is pure. [`intake`] receives and never acknowledges before the commit. [`publish`]
//! sends over a second connection, so that what goes out can never hold up an acknowledgement.
//! [`link`] hides which MQTT version is spoken.

pub mod intake;
pub mod link;
pub mod payload;
pub mod publish;
mod tls;
