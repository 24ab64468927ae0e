//! The learner: readings become slots, slots rows, rows models, and a night decides which of them is better.
//!
//! No effect is in here: no disk, network or clock. It is a crate of its own because it is where the
//! computing time goes: it is optimised for speed in every profile, and the station around it for size.

pub mod features;
pub mod grid;
pub mod models;
pub mod night;
pub mod reading;
pub mod sun;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
