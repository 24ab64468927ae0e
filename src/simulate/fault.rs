//! Faults to order: what breaks, on which device, and when.

use std::str::FromStr;

use crate::reading::Field;

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FaultKind {
    /// `stuck`: the servo does not move.
    Stuck,
    /// `slow`: the servo moves no faster than so many degrees an hour (default 5; the sun
    /// makes 15).
    Slow {
        /// Degrees an hour.
        deg_per_h: f64,
    },
    /// `reversed`: the servo's wires are swapped and it runs away from the sun.
    Reversed,
    /// `nan`: a sensor (default `lux`) reports `"nan"`.
    Nan {
        /// The sensor.
        field: Field,
    },
    /// `cap`: the inverter is held to so many watts.
    Cap {
        /// Watts at most.
        power_w: f64,
    },
    /// `outage`: nothing is sent.
    Outage,
    /// `skew`: the device's clock is off by so many seconds; negative is behind.
    Skew {
        /// Seconds to add to the device's time.
        by_s: i64,
    },
}

/// One fault: `KIND:DEVICE:START_MIN:DURATION_MIN[:VALUE]`.
///
/// `DEVICE` may be `all`; minutes count from the start of the simulation.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What breaks.
    pub kind: FaultKind,
    /// The device's name, or `None` for all.
    pub device: Option<String>,
    /// First minute.
    pub start_min: i64,
    /// Minutes that it lasts.
    pub duration_min: i64,
}

/// Why a text is no fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// Too few or too many parts.
    #[error("fault `{0}` is not KIND:DEVICE:START_MIN:DURATION_MIN[:VALUE]")]
    Shape(String),
    /// Not a kind of fault.
    #[error("fault kind `{0}` is none of stuck, slow, reversed, nan, cap, outage, skew")]
    Kind(String),
    /// A start or duration that is no whole number of minutes from 0 up.
    #[error("`{0}` is not a number of minutes")]
    Minutes(String),
    /// A value that does not fit the kind, or none where one is needed.
    #[error("value `{value}` does not fit fault `{kind}`: {expected}")]
    Value {
        /// The kind.
        kind: String,
        /// The value, empty if missing.
        value: String,
        /// What would fit.
        expected: &'static str,
    },
}

impl Fault {
    /// Whether it is on for `device`, `since_start_s` after the start of the simulation.
    pub fn is_on(&self, device: &str, since_start_s: i64) -> bool {
        let end_min = self.start_min.saturating_add(self.duration_min);
        self.device.as_deref().is_none_or(|name| name == device)
            && (self.start_min.saturating_mul(60)..end_min.saturating_mul(60))
                .contains(&since_start_s)
    }
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(':').collect();
        let (&[kind, device, start, duration], value) = (match parts.as_slice() {
            [head @ .., value] if head.len() == 4 => (head, Some(*value)),
            head => (head, None),
        }) else {
            return Err(FaultError::Shape(text.to_owned()));
        };
        let minutes = |text: &str| match text.parse() {
            Ok(minutes) if minutes >= 0 => Ok(minutes),
            _ => Err(FaultError::Minutes(text.to_owned())),
        };
        Ok(Fault {
            kind: parse_kind(kind, value)?,
            device: (device != "all").then(|| device.to_owned()),
            start_min: minutes(start)?,
            duration_min: minutes(duration)?,
        })
    }
}

fn parse_kind(kind: &str, value: Option<&str>) -> Result<FaultKind, FaultError> {
    let unfit = |expected| FaultError::Value {
        kind: kind.to_owned(),
        value: value.unwrap_or_default().to_owned(),
        expected,
    };
    let positive = |expected| match value.map(str::parse::<f64>) {
        Some(Ok(number)) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err(unfit(expected)),
    };
    match kind {
        "slow" if value.is_none() => Ok(FaultKind::Slow { deg_per_h: 5.0 }),
        "slow" => positive("degrees an hour").map(|deg_per_h| FaultKind::Slow { deg_per_h }),
        "nan" => match value {
            None => Some(Field::Lux),
            Some(name) => Field::from_name(name),
        }
        .map(|field| FaultKind::Nan { field })
        .ok_or_else(|| unfit("the name of a field")),
        "cap" => positive("watts").map(|power_w| FaultKind::Cap { power_w }),
        "skew" => value
            .and_then(|v| v.parse().ok())
            .map(|by_s| FaultKind::Skew { by_s })
            .ok_or_else(|| unfit("whole seconds")),
        "stuck" | "reversed" | "outage" if value.is_some() => Err(unfit("none is taken")),
        "stuck" => Ok(FaultKind::Stuck),
        "reversed" => Ok(FaultKind::Reversed),
        "outage" => Ok(FaultKind::Outage),
        _ => Err(FaultError::Kind(kind.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_parses() {
        let kind = |text: &str| text.parse::<Fault>().unwrap().kind;
        assert_eq!(kind("stuck:t01:0:60"), FaultKind::Stuck);
        assert_eq!(kind("slow:t01:0:60"), FaultKind::Slow { deg_per_h: 5.0 });
        assert_eq!(
            kind("slow:t01:0:60:2.5"),
            FaultKind::Slow { deg_per_h: 2.5 }
        );
        assert_eq!(kind("reversed:t01:0:60"), FaultKind::Reversed);
        assert_eq!(kind("nan:t01:0:60"), FaultKind::Nan { field: Field::Lux });
        assert_eq!(
            kind("nan:t01:0:60:power"),
            FaultKind::Nan {
                field: Field::Power
            }
        );
        assert_eq!(kind("cap:all:0:60:30"), FaultKind::Cap { power_w: 30.0 });
        assert_eq!(kind("outage:t01:0:60"), FaultKind::Outage);
        assert_eq!(kind("skew:t01:0:60:-90"), FaultKind::Skew { by_s: -90 });
    }

    #[test]
    fn what_is_wrong_with_a_fault_is_named() {
        let error = |text: &str| text.parse::<Fault>().unwrap_err();
        assert!(matches!(error("stuck:t01:5"), FaultError::Shape(_)));
        assert!(matches!(error("stuck:t01:5:6:7:8"), FaultError::Shape(_)));
        assert!(matches!(error("melted:t01:0:5"), FaultError::Kind(_)));
        assert!(matches!(error("stuck:t01:-1:5"), FaultError::Minutes(_)));
        for value in [
            "cap:t01:0:5",
            "skew:t01:0:5:x",
            "nan:t01:0:5:watts",
            "stuck:t01:0:5:1",
        ] {
            assert!(matches!(error(value), FaultError::Value { .. }), "{value}");
        }
    }

    #[test]
    fn a_fault_is_on_for_its_device_and_its_minutes() {
        let fault: Fault = "stuck:t02:10:5".parse().unwrap();
        assert!(fault.is_on("t02", 600) && fault.is_on("t02", 899));
        assert!(!fault.is_on("t02", 599) && !fault.is_on("t02", 900));
        assert!(!fault.is_on("t01", 600));
        assert!("outage:all:0:1".parse::<Fault>().unwrap().is_on("t01", 0));
    }
}
