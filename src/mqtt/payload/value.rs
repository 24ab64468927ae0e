//! One value and one time, in the spellings devices use.

use chrono::{DateTime, NaiveDateTime, TimeZone};
use chrono_tz::Tz;

use super::RejectReason;
use super::json::Json;
use crate::reading::TimestampMs;

/// Beyond any unit a device could mean.
const GREATEST: f64 = 1e9;
/// Words for "there is no value".
const ABSENT: [&str; 6] = ["", "nan", "none", "null", "unavailable", "unknown"];

fn is_absent(text: &str) -> bool {
    ABSENT.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// A number, a number in quotes, a switch, or a word for "no value"; then scaled.
pub(super) fn number(
    value: &Json<'_>,
    linear: Option<(f64, f64)>,
) -> Result<Option<f64>, RejectReason> {
    let number = match value {
        Json::Null => None,
        Json::Bool(on) => Some(f64::from(u8::from(*on))),
        Json::Number(n) => n.as_f64(),
        Json::Text(text) => text_number(text.trim())?,
        Json::Array(_) | Json::Object(_) => return Err(RejectReason::BadValue),
    };
    let number = match (number, linear) {
        (Some(n), Some((scale, offset))) => Some(n * scale + offset),
        (number, _) => number,
    };
    match number {
        Some(n) if n.abs() > GREATEST => Err(RejectReason::BadValue),
        Some(n) if n.is_nan() => Ok(None),
        sound => Ok(sound),
    }
}

fn text_number(text: &str) -> Result<Option<f64>, RejectReason> {
    if let Ok(number) = text.parse() {
        return Ok(Some(number));
    }
    if is_absent(text) {
        return Ok(None);
    }
    if text.eq_ignore_ascii_case("on") || text.eq_ignore_ascii_case("true") {
        return Ok(Some(1.0));
    }
    if text.eq_ignore_ascii_case("off") || text.eq_ignore_ascii_case("false") {
        return Ok(Some(0.0));
    }
    // A decimal comma; with a point as well it could be either's thousands.
    match text.split_once(',') {
        Some((whole, fraction)) if !text.contains('.') => format!("{whole}.{fraction}")
            .parse()
            .map(Some)
            .map_err(|_| RejectReason::BadValue),
        _ => Err(RejectReason::BadValue),
    }
}

/// RFC 3339 with or without zone, or epoch seconds or milliseconds; `None` where there is no time.
pub(super) fn time(value: &Json<'_>, zone: Tz) -> Result<Option<TimestampMs>, RejectReason> {
    let time = match value {
        Json::Null => return Ok(None),
        Json::Number(n) => n.as_f64().and_then(epoch),
        Json::Text(text) if is_absent(text.trim()) => return Ok(None),
        Json::Text(text) => text_time(text.trim(), zone),
        _ => None,
    };
    time.map(Some).ok_or(RejectReason::BadTime)
}

/// Epoch seconds or milliseconds, told apart by size: 10^11 s is the year 5138, 10^11 ms is 1973.
fn epoch(number: f64) -> Option<TimestampMs> {
    let ms = if number.abs() < 1e11 {
        number * 1000.0
    } else {
        number
    };
    ms.is_finite().then_some(TimestampMs(ms.round() as i64))
}

/// RFC 3339, the same without a zone (then `zone`'s wall clock), or an epoch in quotes.
pub fn text_time(text: &str, zone: Tz) -> Option<TimestampMs> {
    if let Ok(t) = DateTime::parse_from_rfc3339(text) {
        return Some(t.to_utc().into());
    }
    if let Ok(number) = text.parse::<f64>() {
        return epoch(number);
    }
    let naive = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"]
        .into_iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())?;
    // A time that comes twice is taken as the first; one that does not exist is refused.
    zone.from_local_datetime(&naive)
        .earliest()
        .map(|t| t.to_utc().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_every_spelling() {
        let read = |text: &str| number(&Json::Text(text.into()), None);
        for (text, value) in [
            ("21.5", 21.5),
            ("21,5", 21.5),
            (" -0,25 ", -0.25),
            ("1e3", 1000.0),
            ("ON", 1.0),
            ("Off", 0.0),
            ("true", 1.0),
            ("FALSE", 0.0),
        ] {
            assert_eq!(read(text), Ok(Some(value)), "{text}");
        }
        for text in [
            "",
            " ",
            "nan",
            "NaN",
            "-nan",
            "None",
            "NULL",
            "unavailable",
            "Unknown",
        ] {
            assert_eq!(read(text), Ok(None), "{text}");
        }
        for text in [
            "lots",
            "1.234,5",
            "1,2,3",
            ",",
            "inf",
            "-infinity",
            "1e10",
            "0x10",
            "12 W",
        ] {
            assert_eq!(read(text), Err(RejectReason::BadValue), "{text}");
        }
    }

    #[test]
    fn scaling_comes_before_the_limit_and_can_break_it() {
        let scaled = |n: i64, scale| number(&Json::Number(n.into()), Some((scale, 0.5)));
        assert_eq!(scaled(4, 0.25), Ok(Some(1.5)));
        assert_eq!(scaled(10_000_000_000, 1e-3), Ok(Some(10_000_000.5)));
        assert_eq!(scaled(10_000_000, 1e3), Err(RejectReason::BadValue));
    }

    #[test]
    fn an_hour_that_comes_twice_is_the_first_and_one_that_never_comes_is_refused() {
        let read = |text: &str| time(&Json::Text(text.into()), Tz::Europe__Paris);
        let ms = |text: &str| {
            let t = DateTime::parse_from_rfc3339(text).unwrap();
            Ok(Some(TimestampMs(t.timestamp_millis())))
        };
        assert_eq!(read("2026-10-25T02:30:00"), ms("2026-10-25T00:30:00Z"));
        assert_eq!(read("2026-03-29T02:30:00"), Err(RejectReason::BadTime));
        assert_eq!(read("2026-07-01 12:00:00.5"), ms("2026-07-01T10:00:00.5Z"));
    }
}
