//! What `nightwatt demo` needs beyond the daemon.

pub mod broker;
