//! The management interface: one set of routes on the Unix socket and, where asked for, on loopback TCP.

mod alerts;
pub mod client;
mod devices;
mod forecasts;
mod guard;
mod health;
mod history;
mod metrics;
mod ml;
pub mod offline;
mod openapi;
mod page;
mod problem;
mod routes;
pub mod serve;
pub mod station;
mod wire;

pub use station::Station;
