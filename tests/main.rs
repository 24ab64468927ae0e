//! One crate of integration tests, driving the real binary against real components.

// A test that panics has failed, which is what it is for.
#![allow(clippy::unwrap_used)]

mod alerts;
mod api;
mod backtest;
mod broker;
mod cli;
mod commands;
mod dashboard;
mod disk;
mod disk_full;
mod doctor;
mod faults;
mod home_assistant;
mod intake;
mod learning;
mod models;
mod nights;
mod payloads;
mod quarantine;
mod release;
mod reload;
mod secure;
mod service;
mod support;
mod time;
mod update;
