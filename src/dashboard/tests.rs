//! The page over invented stations: empty, full, hostile.

mod stations;

use super::*;
use crate::reading::TimestampMs;
use crate::status::judge;
use crate::store::{AlertRow, ForecastRow};
use stations::{empty, full};

fn alert(text: &str) -> AlertRow {
    AlertRow {
        id: 1,
        kind: "device_silent".into(),
        subject: text.into(),
        level: "attention".into(),
        text: text.into(),
        next_step: Some(text.into()),
        raised: TimestampMs(1_800_000_000_000),
        cleared: None,
        acknowledged: None,
        waiting: Vec::new(),
    }
}

/// Every sort of text that comes from outside.
fn hostile(text: &str) -> View {
    let mut view = full();
    let device = DeviceId::new(text);
    let s = &mut view.status;
    s.devices[0].0 = device.clone();
    s.forecasts[0].device = device.clone();
    s.forecasts[0].source = text.into();
    s.forecasts[0].model_version = None;
    s.store.reject_topics[0].topic = text.into();
    s.store.reject_topics[0].reason = text.into();
    s.events[0].kind = text.into();
    s.events[0].detail = text.into();
    s.alerts = vec![alert(text); 2];
    s.verdict.text = text.into();
    s.verdict.next_step = Some(text.into());
    let daemon = s.daemon.as_mut().unwrap();
    daemon.broker = text.into();
    daemon.intake.connected = false;
    daemon.intake.last_error = Some(text.into());
    view.nights[0].reason = Some(text.into());
    view.nights[0].trigger = text.into();
    view.models[0].reason = text.into();
    view.models[0].state = text.into();
    view.filters = vec![text.into()];
    view.choice.device = Some(device);
    view
}

#[test]
fn alerts_that_stand_are_shown() {
    let mut view = full();
    assert!(page(&view).contains("aria-label=Alerts hidden></section>"));
    view.status.alerts = vec![alert("t07 is silent"); 13];
    let page = page(&view);
    assert_eq!(page.matches("t07 is silent").count(), 10);
    assert!(page.contains("and 3 more alerts"));
}

#[test]
fn what_comes_from_outside_is_inert() {
    let harmless = page(&hostile("xx"));
    for text in [
        "<script>alert(1)</script>",
        "\" autofocus onfocus=alert(1) x=\"",
        "' onclick='alert(1)",
        "</title><svg onload=alert(1)>",
        "--><img src=x onerror=alert(1)>",
    ] {
        let page = page(&hostile(text));
        // As many tags and quotes as with a harmless name, so it has opened and closed none.
        for sign in ["<", ">", "\"", "'"] {
            assert_eq!(
                page.matches(sign).count(),
                harmless.matches(sign).count(),
                "{sign} of {text}"
            );
        }
    }
    let empty = View {
        filters: vec!["<b>".into()],
        ..empty()
    };
    assert!(!page(&empty).contains("<b>,") && page(&empty).contains("&lt;b&gt;"));
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    text.split_once(from).unwrap().1.split_once(to).unwrap().0
}

#[test]
fn the_policy_admits_the_style_and_the_script_of_the_page_and_nothing_else() {
    let page = page(&full());
    for (from, to, directive) in [
        ("<style>", "</style>", "style-src"),
        ("<script>", "</script>", "script-src"),
    ] {
        let digest = html::base64(&Sha256::digest(between(&page, from, to)));
        assert!(
            policy().contains(&format!("{directive} 'sha256-{digest}';")),
            "{directive}"
        );
        assert_eq!(page.matches(from).count(), 1);
    }
    assert!(policy().starts_with("default-src 'none';"));
    // An attribute would be refused by the browser, and an address of elsewhere too.
    let markup = page.replace(STYLE, "").replace(SCRIPT, "");
    assert!(!markup.contains(" style=") && !markup.contains(" onclick="));
    assert!(
        !markup
            .replace("http://www.w3.org/2000/svg", "")
            .contains("http")
    );
}

#[test]
fn a_page_of_many_devices_is_short_and_has_the_first_of_them() {
    let mut view = full();
    let (device, forecast) = (
        view.status.devices[0].clone(),
        view.status.forecasts[0].clone(),
    );
    for n in 11..=200 {
        let name = DeviceId::new(&format!("tracker-{n:04}"));
        view.status.devices.push((name.clone(), device.1, device.2));
        for horizon_min in [15, 60] {
            view.status.forecasts.push(ForecastRow {
                device: name.clone(),
                horizon_min,
                ..forecast.clone()
            });
        }
    }
    let page = page(&view);
    assert!(
        page.contains("and 175 more devices")
            && page.contains("tracker-0025")
            && page.len() < 100_000,
        "{} bytes",
        page.len()
    );
}

#[test]
fn the_page_has_what_a_screen_reader_goes_by() {
    for page in [page(&full()), page(&empty())] {
        assert_eq!(
            page.matches("<th ").count(),
            page.matches("<th scope=").count()
        );
        assert_eq!(
            page.matches("<table").count(),
            page.matches("<caption").count()
        );
        let images = page.matches("role=img").count();
        assert_eq!(images, page.matches("<desc").count());
        assert_eq!(page.matches("<h1").count(), 1);
        for landmark in [
            "<header>",
            "<nav ",
            "<main ",
            "<footer>",
            "<html lang=en>",
            "class=skip",
        ] {
            assert!(page.contains(landmark), "{landmark}");
        }
        let ids: Vec<&str> = page
            .split(" id=")
            .skip(1)
            .map(|rest| {
                rest.trim_start_matches('"')
                    .split(['"', ' ', '>'])
                    .next()
                    .unwrap()
            })
            .collect();
        let different: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len(), "{ids:?}");
    }
}

#[test]
fn an_empty_station_says_what_it_waits_for() {
    let mut view = empty();
    view.first_night = Some(FirstNight {
        days: 3,
        needed: 14,
    });
    let page = page(&view);
    for text in [
        "No reading yet. nightwatt listens on <code>solar/+/telemetry</code>",
        "the chart begins with the first reading",
        "No forecast has met its actual value yet",
        "No night has run yet",
        "Learning begins after 14 days of readings; 3 there are. Until then persistence forecasts.",
        "<progress max=\"14\" value=\"3\"",
        "Nothing is in quarantine",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf"));
}

#[test]
fn a_station_whose_daemon_is_down_and_whose_disk_is_full_says_so_in_words() {
    let mut view = full();
    view.status.daemon = None;
    view.status.verdict = judge(&view.status);
    assert!(page(&view).contains("the daemon is not running"));
    let mut view = full();
    let daemon = view.status.daemon.as_mut().unwrap();
    daemon.disk = crate::store::space::DiskLevel::Full;
    daemon.clock_doubtful = true;
    let page = page(&view);
    assert!(page.contains("full</span>") && page.contains("nothing confirms it"));
}

/// The variables of one scheme.
fn colours(block: &str) -> std::collections::BTreeMap<&str, [f64; 3]> {
    let of = |hex: &str| {
        [0, 2, 4].map(|i| f64::from(u8::from_str_radix(&hex[i..i + 2], 16).unwrap()) / 255.0)
    };
    block
        .split("--")
        .filter_map(|part| part.split_once(": #"))
        .map(|(name, hex)| (name, of(&hex[..6])))
        .collect()
}

/// WCAG 2: relative luminance, and the ratio of two.
fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
    let luminance = |c: [f64; 3]| {
        let [r, g, b] = c.map(|v| {
            if v <= 0.04045 {
                v / 12.92
            } else {
                ((v + 0.055) / 1.055).powf(2.4)
            }
        });
        0.2126 * r + 0.7152 * g + 0.0722 * b
    };
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[test]
fn text_and_lines_stand_out_in_both_schemes() {
    assert!((contrast([1.0; 3], [0.0; 3]) - 21.0).abs() < 1e-9);
    let light = colours(between(STYLE, ":root {", "}"));
    let dark = colours(between(
        STYLE.split_once("prefers-color-scheme: dark").unwrap().1,
        ":root {",
        "}",
    ));
    assert_eq!(light.len(), dark.len());
    let text = [
        ("ink", "ground"),
        ("ink", "card"),
        ("ink", "plain-ground"),
        ("soft", "ground"),
        ("soft", "card"),
        ("link", "card"),
        ("link", "ground"),
        ("good", "good-ground"),
        ("warn", "warn-ground"),
        ("bad", "bad-ground"),
        ("warn", "card"),
        ("ground", "ink"),
        ("card", "good"),
        ("card", "warn"),
        ("card", "bad"),
        ("soft", "plain-ground"),
    ];
    // Lines and edges that carry meaning need 3.
    let lines = [
        ("actual", "card"),
        ("forecast", "card"),
        ("live", "card"),
        ("naive", "card"),
        ("field", "card"),
        ("actual", "band"),
        ("forecast", "band"),
    ];
    for (scheme, colours) in [("light", light), ("dark", dark)] {
        for (pairs, least) in [(&text[..], 4.5), (&lines[..], 3.0)] {
            for (a, b) in pairs {
                let ratio = contrast(colours[a], colours[b]);
                assert!(ratio >= least, "{scheme}: {a} on {b} is {ratio:.2}");
            }
        }
    }
}
