//! What Home Assistant is told: one discovery message a device and one for the station, and the states they name; pure.
//!
//! Device-based discovery (Home Assistant 2024.12 or later): `<prefix>/device/<id>/config` holds a device
//! with its entities, so that one empty message removes them all.

use serde_json::{Value, json};

use super::publish::Publisher;
use crate::reading::DeviceId;
use crate::status::{Level, Status};
use crate::store::{ForecastRow, RunOutcome};

/// A state that has not been renewed for so long is unknown, s; it is renewed every minute.
const EXPIRE_AFTER_S: u32 = 600;
/// How the origin of everything of ours is called.
const ORIGIN: &str = "nightwatt";

/// Under which names.
#[derive(Clone, Debug, PartialEq)]
pub struct Names {
    /// Where Home Assistant listens.
    pub discovery_prefix: String,
    /// Below which everything else is published.
    pub topic_prefix: String,
}

/// What is known of one device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceFacts {
    /// Its power now, W; none where it is silent.
    pub power_w: Option<f64>,
    /// Its newest forecasts, the first horizon first; none that are old.
    pub forecasts: Vec<ForecastRow>,
    /// Energy until the local midnight, Wh.
    pub left_today_wh: Option<f64>,
    /// Energy of the local day after, Wh.
    pub tomorrow_wh: Option<f64>,
    /// Skill of its forecasts of the last seven days against smart persistence.
    pub skill: Option<f64>,
    /// What is wrong with it.
    pub problem: Option<String>,
}

impl Names {
    /// Home Assistant says `online` here when it has started.
    pub fn birth_topic(&self) -> String {
        format!("{}/status", self.discovery_prefix)
    }

    /// Every device-based discovery message, ours among them.
    pub fn discovery_filter(&self) -> String {
        format!("{}/device/+/config", self.discovery_prefix)
    }

    /// Where a device's state is published; the station's for `None`.
    pub fn state_topic(&self, device: Option<&DeviceId>) -> String {
        match device {
            Some(device) => format!("{}/{device}/state", self.topic_prefix),
            None => format!("{}/state", self.topic_prefix),
        }
    }

    /// The station's identifier.
    fn station(&self) -> String {
        identifier(&self.topic_prefix)
    }

    /// A device's identifier. Two names never have the same.
    fn device(&self, device: &DeviceId) -> String {
        format!("{}_{}", self.station(), identifier(device.as_str()))
    }

    fn config_topic(&self, identifier: &str) -> String {
        format!("{}/device/{identifier}/config", self.discovery_prefix)
    }

    /// The state topic that a discovery message of ours names; nothing where it is somebody else's.
    pub fn ours(&self, payload: &[u8]) -> Option<String> {
        let config: Value = serde_json::from_slice(payload).ok()?;
        let ours = config["origin"]["name"] == ORIGIN
            && config["availability_topic"]
                == Publisher::availability_topic(&self.topic_prefix).as_str();
        ours.then(|| config["state_topic"].as_str().map(str::to_owned))?
    }

    /// Every discovery message: topic and payload.
    pub fn configs(&self, devices: &[DeviceId]) -> Vec<(String, String)> {
        let each = devices.iter().map(|device| self.device_config(device));
        let mut all: Vec<_> = std::iter::once(self.station_config()).chain(each).collect();
        // Names that differ give identifiers that differ; this is for a broker's sake.
        all.dedup_by(|a, b| a.0 == b.0);
        all
    }

    fn device_config(&self, device: &DeviceId) -> (String, String) {
        let id = self.device(device);
        let about = json!({
            "identifiers": [id],
            "name": device,
            "manufacturer": ORIGIN,
            "model": "solar device",
            "via_device": self.station(),
        });
        let components = vec![
            power(&id, "power", "Power now", "power_w"),
            with(
                power(&id, "forecast", "Power forecast", "forecast_w"),
                json!({
                    "json_attributes_topic": self.state_topic(Some(device)),
                    "json_attributes_template": "{{ value_json.forecast | tojson }}",
                }),
            ),
            energy(&id, "left_today", "Energy left today", "left_today_wh"),
            energy(&id, "tomorrow", "Energy tomorrow", "tomorrow_wh"),
            with(
                entity(&id, "sensor", "skill", "Forecast skill", "skill"),
                json!({
                    "state_class": "measurement",
                    "suggested_display_precision": 2,
                    "entity_category": "diagnostic",
                    "icon": "mdi:chart-bell-curve",
                }),
            ),
            with(
                entity(&id, "binary_sensor", "problem", "Problem", "problem"),
                json!({
                    "device_class": "problem",
                    "payload_on": "ON",
                    "payload_off": "OFF",
                    "entity_category": "diagnostic",
                    "json_attributes_topic": self.state_topic(Some(device)),
                    "json_attributes_template": "{{ {'reason': value_json.reason} | tojson }}",
                }),
            ),
        ];
        self.message(&id, about, self.state_topic(Some(device)), components)
    }

    fn station_config(&self) -> (String, String) {
        let id = self.station();
        let about = json!({
            "identifiers": [id],
            "name": match self.topic_prefix.as_str() {
                ORIGIN => ORIGIN.to_owned(),
                prefix => format!("{ORIGIN} {prefix}"),
            },
            "manufacturer": ORIGIN,
            "model": "station",
            "sw_version": env!("CARGO_PKG_VERSION"),
        });
        let topic = self.state_topic(None);
        let choice = |key, name, options: &[&str], attributes: &str| {
            with(
                entity(&id, "sensor", key, name, key),
                json!({
                    "device_class": "enum",
                    "options": options,
                    "json_attributes_topic": topic,
                    "json_attributes_template": attributes,
                }),
            )
        };
        let nights = ["promoted", "kept", "failed", "skipped"];
        let update = json!({
            "platform": "update",
            "unique_id": format!("{id}_update"),
            "default_entity_id": format!("update.{id}_update"),
            "name": "Update",
            "title": ORIGIN,
            "device_class": "firmware",
            "value_template": "{{ value_json.update | tojson }}",
        });
        let components = vec![
            choice(
                "health",
                "Health",
                &["ok", "attention", "down"],
                "{{ value_json.verdict | tojson }}",
            ),
            choice(
                "last_night",
                "Last night",
                &nights,
                "{{ value_json.night | tojson }}",
            ),
            ("update".to_owned(), update),
        ];
        self.message(&id, about, topic.clone(), components)
    }

    fn message(
        &self,
        id: &str,
        device: Value,
        state_topic: String,
        components: Vec<(String, Value)>,
    ) -> (String, String) {
        let components: serde_json::Map<_, _> = components.into_iter().collect();
        let config = json!({
            "device": device,
            "origin": {
                "name": ORIGIN,
                "sw_version": env!("CARGO_PKG_VERSION"),
            },
            "components": components,
            "state_topic": state_topic,
            "availability_topic": Publisher::availability_topic(&self.topic_prefix),
            "payload_available": "online",
            "payload_not_available": "offline",
            "qos": 1,
        });
        (self.config_topic(id), config.to_string())
    }
}

/// Only what Home Assistant takes in a discovery topic; where that changed a name a number of it follows.
fn identifier(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => c,
            _ => '_',
        })
        .collect();
    if plain == name {
        return plain;
    }
    // FNV-1a: the same in every version of the program.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    format!("{plain}_{hash:08x}")
}

fn entity(id: &str, platform: &str, key: &str, name: &str, value: &str) -> (String, Value) {
    let config = json!({
        "platform": platform,
        "unique_id": format!("{id}_{key}"),
        "default_entity_id": format!("{platform}.{id}_{key}").to_lowercase(),
        "name": name,
        "value_template": format!("{{{{ value_json.{value} }}}}"),
        "expire_after": EXPIRE_AFTER_S,
    });
    (key.to_owned(), config)
}

fn with((key, mut config): (String, Value), more: Value) -> (String, Value) {
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
    (key, config)
}

fn power(id: &str, key: &str, name: &str, value: &str) -> (String, Value) {
    with(
        entity(id, "sensor", key, name, value),
        json!({
            "device_class": "power",
            "state_class": "measurement",
            "unit_of_measurement": "W",
            "suggested_display_precision": 0,
        }),
    )
}

/// An expectation goes up and down, so it has no state class: Home Assistant knows none for such energy.
fn energy(id: &str, key: &str, name: &str, value: &str) -> (String, Value) {
    with(
        entity(id, "sensor", key, name, value),
        json!({
            "device_class": "energy",
            "unit_of_measurement": "Wh",
            "suggested_display_precision": 0,
        }),
    )
}

/// What a device's state topic says. What is unknown is null.
pub fn device_state(facts: &DeviceFacts) -> String {
    let one = |f: &ForecastRow| {
        json!({
            "horizon_min": f.horizon_min,
            "target": f.target.to_string(),
            "power_w": f.power_w,
            "p10_w": f.p10_w,
            "p90_w": f.p90_w,
            "source": f.source,
        })
    };
    let first = facts.forecasts.first();
    let mut forecast = first.map_or(json!({}), one);
    if facts.forecasts.len() > 1 {
        forecast["further"] = facts.forecasts[1..].iter().map(one).collect();
    }
    let rounded = |v: Option<f64>, to: f64| v.map(|v| (v * to).round() / to);
    json!({
        "power_w": facts.power_w,
        "forecast_w": first.map(|f| f.power_w),
        "forecast": forecast,
        "left_today_wh": rounded(facts.left_today_wh, 1.0),
        "tomorrow_wh": rounded(facts.tomorrow_wh, 1.0),
        "skill": rounded(facts.skill, 1000.0),
        "problem": if facts.problem.is_some() { "ON" } else { "OFF" },
        "reason": facts.problem,
    })
    .to_string()
}

/// What the station's state topic says; `latest` is the newest version that is known of.
pub fn station_state(status: &Status, latest: Option<&str>) -> String {
    let health = match status.verdict.level {
        Level::Ok => "ok",
        Level::Attention => "attention",
        Level::Down => "down",
    };
    let night = status.last_run.as_ref().filter(|run| run.outcome.is_some());
    json!({
        "health": health,
        "verdict": { "text": status.verdict.text, "next_step": status.verdict.next_step },
        "last_night": night.and_then(|run| run.outcome).map(RunOutcome::as_str),
        "night": night.map_or(json!({}), |run| json!({
            "reason": run.reason,
            "started": run.started.to_string(),
        })),
        "update": {
            "installed_version": env!("CARGO_PKG_VERSION"),
            "latest_version": latest.unwrap_or(env!("CARGO_PKG_VERSION")),
        },
    })
    .to_string()
}

#[cfg(test)]
mod tests;
