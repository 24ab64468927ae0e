//! Telemetry in, forecasts out: the only place that speaks MQTT.
//!
//! [`payload`] is pure. [`intake`] receives and never acknowledges before the commit;
//! [`admission`] says whose readings it takes. [`publish`]
//! sends over a second connection, so that what goes out can never hold up an acknowledgement.
//! [`link`] hides which MQTT version is spoken. [`feed`] and [`play`] are the other side: they
//! publish readings for `simulate`, `replay` and `demo`, encoded by [`flat`].

pub mod admission;
mod backoff;
pub mod broker_url;
#[cfg(test)]
mod delivery_tests;
pub mod feed;
pub mod flat;
pub mod intake;
pub mod link;
#[cfg(test)]
mod mosquitto;
mod packets;
pub mod payload;
pub mod play;
pub mod publish;
pub(crate) mod tls;
