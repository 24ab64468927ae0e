//! The local interface: HTTP over a Unix socket, whose file permissions say who may do what.

pub mod client;
pub mod server;
