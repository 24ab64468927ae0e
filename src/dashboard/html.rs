//! Text into HTML: markup is literal, and every value is escaped.

use std::fmt::{self, Display, Write};

use chrono_tz::Tz;

use crate::reading::TimestampMs;

/// Appends markup with values in its places. The markup has to be a literal, and `concat!` keeps names
/// out of its braces, so there is no way to put a value in unescaped.
macro_rules! put {
    ($out:expr, $markup:literal $(, $value:expr)* $(,)?) => {
        $crate::dashboard::html::append(
            $out,
            format_args!(concat!($markup) $(, $crate::dashboard::html::Escaped(&$value))*),
        )
    };
}
pub(super) use put;

/// A value as HTML text, also fit for a quoted attribute.
pub(super) struct Escaped<'a, T: ?Sized>(pub &'a T);

impl<T: Display + ?Sized> Display for Escaped<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.write_str("&amp;")?,
                '<' => self.0.write_str("&lt;")?,
                '>' => self.0.write_str("&gt;")?,
                '"' => self.0.write_str("&quot;")?,
                '\'' => self.0.write_str("&#39;")?,
                // Names come from topics: what turns the direction of text or moves a cursor is shown as what it is.
                c if c.is_control()
                    || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
                {
                    self.0.write_char('\u{fffd}')?;
                }
                c => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

pub(super) fn append(out: &mut String, markup: fmt::Arguments<'_>) {
    // Writing into a string cannot fail.
    let _ = out.write_fmt(markup);
}

/// A power in W, or in kW from 1000 W.
pub(super) fn watts(power_w: f64) -> String {
    let (value, unit) = match power_w.abs() {
        1000.0.. => (power_w / 1000.0, "kW"),
        _ => (power_w, "W"),
    };
    let text = match unit {
        "kW" => format!("{value:.2}"),
        _ => format!("{value:.1}"),
    };
    let zero = text.strip_prefix('-').is_some_and(|t| t.parse() == Ok(0.0));
    let text = text.strip_prefix('-').filter(|_| zero).unwrap_or(&text);
    format!("{}\u{a0}{unit}", text.replace('-', "\u{2212}"))
}

/// The same where there may be none.
pub(super) fn maybe_watts(power_w: Option<f64>) -> String {
    power_w.map_or("\u{2013}".into(), watts)
}

/// Skill with its sign.
pub(super) fn signed(skill: f64) -> String {
    format!("{skill:+.2}").replace('-', "\u{2212}")
}

/// Bytes in the unit that leaves one to three figures.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.1}\u{a0}GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1}\u{a0}MB", b / 1e6),
        b => format!("{:.0}\u{a0}kB", b / 1e3),
    }
}

/// A duration of a run.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1}\u{a0}s"),
        s if s < 120.0 => format!("{s:.0}\u{a0}s"),
        s if s < 7200.0 => format!("{:.0}\u{a0}min", s / 60.0),
        s => format!("{:.1}\u{a0}h", s / 3600.0),
    }
}

/// A moment in the station's zone.
pub(super) fn local(at: TimestampMs, zone: Tz, format: &str) -> String {
    at.to_utc().with_timezone(&zone).format(format).to_string()
}

/// A moment as a `time` element: day and minute of the station's zone.
pub(super) fn moment(out: &mut String, at: TimestampMs, zone: Tz) {
    let machine = at.to_utc().format("%Y-%m-%dT%H:%M:%SZ").to_string();
    put!(
        out,
        "<time datetime=\"{}\">{}</time>",
        machine,
        local(at, zone, "%a %-d %b, %H:%M")
    );
}

/// A power as a `data` element: the exact W for programs, few figures for people.
pub(super) fn power(out: &mut String, power_w: Option<f64>) {
    match power_w {
        Some(w) => put!(out, "<data value=\"{}\">{}</data>", w, watts(w)),
        None => put!(out, "<span class=none>none</span>"),
    }
}

/// Text as a part of a query.
pub(super) fn in_query(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte))
            }
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

/// Bytes in base 64, as a content security policy wants a digest.
pub(super) fn base64(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let word =
            three.iter().fold(0u32, |w, &b| w << 8 | u32::from(b)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let sign = SIGNS[(word >> (18 - 6 * place) & 63) as usize];
            out.push(if place > three.len() {
                '='
            } else {
                char::from(sign)
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_and_markup_is_not() {
        let mut out = String::new();
        put!(
            &mut out,
            "<b title=\"{}\">{}</b>",
            "\"><script>'",
            "a & b\u{202e}\u{1b}"
        );
        let wanted = "<b title=\"&quot;&gt;&lt;script&gt;&#39;\">a &amp; b\u{fffd}\u{fffd}</b>";
        assert_eq!(out, wanted);
    }

    #[test]
    fn powers_change_their_unit_and_lose_a_negative_zero() {
        let shown: Vec<_> = [0.0, -0.04, 41.26, -3.0, 999.94, 1000.0, 12_345.0]
            .map(watts)
            .map(|t| t.replace('\u{a0}', " "))
            .into();
        let wanted = [
            "0.0 W",
            "0.0 W",
            "41.3 W",
            "\u{2212}3.0 W",
            "999.9 W",
            "1.00 kW",
            "12.35 kW",
        ];
        // 12.345 is not exact in binary, and rounds down.
        assert!(
            shown[..6] == wanted[..6] && shown[6].starts_with("12.3"),
            "{shown:?}"
        );
    }

    #[test]
    fn base64_and_query_are_those_of_their_standards() {
        let encoded = ["", "f", "fo", "foo", "foobar"].map(|t| base64(t.as_bytes()));
        assert_eq!(encoded, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYmFy"]);
        assert_eq!(in_query("dach/süd&1"), "dach%2Fs%C3%BCd%261");
    }

    #[test]
    fn sizes_and_durations_have_few_figures() {
        let sizes = [900, 12_300_000, 4_560_000_000].map(bytes);
        assert_eq!(sizes, ["1\u{a0}kB", "12.3\u{a0}MB", "4.6\u{a0}GB"]);
        let spans = [1.23, 45.0, 600.0, 9000.0].map(duration);
        assert_eq!(
            spans,
            ["1.2\u{a0}s", "45\u{a0}s", "10\u{a0}min", "2.5\u{a0}h"]
        );
    }
}
