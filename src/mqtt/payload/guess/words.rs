//! Which field, in which unit, a key or name probably means.

use crate::reading::Field;

/// Words that mean a field; single letters only where they are the whole key.
const WORDS: &[(Field, &[&str])] = &[
    (Field::FanOn, &["fan"]),
    (Field::ServoAngle, &["angle", "tilt", "servo"]),
    (Field::Lux, &["lux", "illuminance", "light", "ldr", "klux"]),
    (Field::Temperature, &["temperature", "temp", "t"]),
    (Field::Humidity, &["humidity", "hum", "rh", "h"]),
    (Field::Voltage, &["voltage", "volt", "volts", "v", "u"]),
    (Field::Current, &["current", "amps", "amp", "i", "a"]),
    (Field::Power, &["power", "watts", "watt", "p", "w"]),
];

/// Words that make it something else.
const OTHERS: &[&str] = &[
    "battery",
    "bat",
    "total",
    "today",
    "yesterday",
    "yield",
    "energy",
    "factor",
    "limit",
    "max",
    "min",
    "apparent",
    "reactive",
    "set",
    "target",
    "forecast",
    "cpu",
    "esp32",
    "chip",
    "signal",
    "status",
    "reset",
    "uptime",
];

/// Words for units that are not the field's own.
const UNITS: &[(Field, &str, &str)] = &[
    (Field::Power, "kw", "kW"),
    (Field::Power, "mw", "mW"),
    (Field::Voltage, "mv", "mV"),
    (Field::Current, "ma", "mA"),
    (Field::Lux, "klux", "klux"),
    (Field::Temperature, "f", "degF"),
];

/// The field a key means, and its unit where the key says so.
pub(super) fn field_of(key: &str) -> Option<(Field, Option<&'static str>)> {
    let key = key.to_ascii_lowercase();
    let words: Vec<&str> = key.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    if words.iter().any(|w| OTHERS.contains(w)) {
        return None;
    }
    let means = |names: &[&str]| {
        words
            .iter()
            .any(|w| names.contains(w) && (w.len() > 1 || words.len() == 1))
    };
    let (field, _) = WORDS.iter().find(|(_, names)| means(names))?;
    let unit = UNITS
        .iter()
        .find(|(of, word, _)| of == field && words.contains(word));
    Some((*field, unit.map(|u| u.2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_understood_and_lookalikes_are_not() {
        for (key, field, unit) in [
            ("p", Field::Power, None),
            ("panel_power", Field::Power, None),
            ("power_kw", Field::Power, Some("kW")),
            ("v", Field::Voltage, None),
            ("u_mv_voltage", Field::Voltage, Some("mV")),
            ("temp_c", Field::Temperature, None),
            ("temp_f", Field::Temperature, Some("degF")),
            ("angle_deg", Field::ServoAngle, None),
            ("rh", Field::Humidity, None),
            ("Illuminance", Field::Lux, None),
            ("fan", Field::FanOn, None),
        ] {
            assert_eq!(field_of(key), Some((field, unit)), "{key}");
        }
        for key in [
            "battery_voltage",
            "energy_today",
            "power_factor",
            "rssi",
            "v_x",
            "",
        ] {
            assert_eq!(field_of(key), None, "{key}");
        }
    }
}
