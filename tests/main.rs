//! One crate of integration tests, driving the real binary.
mod backtest;
