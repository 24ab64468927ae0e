//! One crate of integration tests, driving the real binary against real components.

mod backtest;
mod commands;
mod faults;
mod intake;
mod service;
mod support;
