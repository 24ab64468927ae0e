//! Everything that speaks MQTT.

pub mod broker_url;
pub mod feed;
pub mod flat;
#[cfg(test)]
mod mosquitto;
pub mod play;
