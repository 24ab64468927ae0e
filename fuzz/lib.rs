//! The decoder and what it stands on, from nightwatt's own sources.

#[path = "../src/learner/reading.rs"]
pub mod reading;

/// As in nightwatt, without the rest of the configuration.
#[path = "."]
pub mod config {
    #[path = "../src/config/topics.rs"]
    mod topics;
    pub use topics::{FieldSource, OneOrMany, TopicRule, presets};
}

/// As in nightwatt, without connections.
#[path = "."]
pub mod mqtt {
    #[path = "../src/mqtt/payload/mod.rs"]
    pub mod payload;
}
