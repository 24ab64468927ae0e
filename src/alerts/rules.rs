//! What is wrong now, from facts: the findings of `status`, silent devices, refused messages, events of the last day.

use crate::reading::{DeviceId, TimestampMs};
use crate::status::{Level, Status, Verdict, findings};
use crate::store::{AlertRow, EventRow, NewAlert};

/// Findings that are no alerts: those of a set-up, a single night, which another follows, and a warning
/// that only a restart takes back.
const NO_ALERTS: &[&str] = &[
    "nothing_stored",
    "night_failed",
    "device_times",
    "doubtful_times",
];
/// Findings that explain why devices are silent.
const NOTHING_ARRIVES: &[&str] = &[
    "disk_full",
    "not_connected",
    "silent",
    "store_failing",
    "subscription_refused",
];
/// With more silent devices than this it is one alert and not one each.
const SILENT_ALONE: usize = 5;
/// An event stands this long.
pub const EVENT_MS: i64 = 86_400_000;
/// Events that are alerts for a day, and what to do about them.
const EVENTS: &[(&str, Option<&str>)] = &[
    ("session_lost", None),
    (
        "update_refused",
        Some("nightwatt runs --kind update says why"),
    ),
    (
        "update_rolled_back",
        Some("nightwatt runs --kind update says why"),
    ),
];
const SILENT: &str = "device_silent";
const REFUSED: &str = "messages_refused";

/// What the decision needs.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// How things stand.
    pub status: &'a Status,
    /// Percent of the last hour's messages that were refused, where there were enough to say.
    pub refused_percent: Option<f64>,
    /// Events of the last day, newest first.
    pub events: &'a [EventRow],
}

/// The kinds of events that [`Facts::events`] needs.
pub fn event_kinds() -> Vec<&'static str> {
    EVENTS.iter().map(|(kind, _)| *kind).collect()
}

/// Everything that is wrong now, the most serious first.
pub fn standing(facts: &Facts<'_>) -> Vec<NewAlert> {
    let mut found: Vec<NewAlert> = findings(facts.status)
        .into_iter()
        .filter(|f| !NO_ALERTS.contains(&f.kind.as_str()))
        .map(|f| NewAlert {
            kind: f.kind,
            subject: String::new(),
            level: level(f.level).into(),
            text: f.text,
            next_step: f.next_step,
        })
        .collect();
    found.extend(refused(facts));
    found.extend(silent(facts));
    found.extend(EVENTS.iter().filter_map(|(kind, next_step)| {
        let newest = facts.events.iter().find(|e| e.kind == *kind)?;
        Some(attention(kind, "", newest.detail.clone(), *next_step))
    }));
    found
}

/// Whether it cannot be told now if this alert still stands; then it stays.
pub fn undecided(facts: &Facts<'_>, alert: &AlertRow) -> bool {
    match alert.kind.as_str() {
        REFUSED => facts.refused_percent.is_none(),
        SILENT => {
            // Whoever has not been heard of yet since a start or reload may be silent still.
            let (s, quiet) = (facts.status, quiet_devices(facts.status));
            let gone = (s.store.devices.max(0) as usize).saturating_sub(s.devices.len());
            let unheard = |name: &str| {
                let known = s.devices.iter().any(|(d, ..)| d.as_str() == name);
                !known || quiet.iter().any(|(d, _)| d.as_str() == name)
            };
            nothing_arrives(s)
                || match alert.subject.as_str() {
                    "" => quiet.len() + gone > SILENT_ALONE,
                    name => quiet.len() > SILENT_ALONE || unheard(name),
                }
        }
        "not_connected" => facts.status.is_starting(),
        "subscription_refused" => {
            let daemon = facts.status.daemon.as_ref();
            daemon.is_some_and(|d| !d.intake.connected)
        }
        _ => false,
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Down => "down",
        Level::Ok | Level::Attention => "attention",
    }
}

fn attention(kind: &str, subject: &str, text: String, next_step: Option<&str>) -> NewAlert {
    NewAlert {
        kind: kind.into(),
        subject: subject.into(),
        level: "attention".into(),
        text,
        next_step: next_step.map(str::to_owned),
    }
}

fn refused(facts: &Facts<'_>) -> Option<NewAlert> {
    let limits = facts.status.daemon.as_ref()?.limits;
    let percent = facts
        .refused_percent
        .filter(|p| *p > limits.refused_percent)?;
    Some(attention(
        REFUSED,
        "",
        format!("{percent:.0} % of the last hour's messages were refused"),
        Some("nightwatt quarantine shows them and why"),
    ))
}

fn nothing_arrives(s: &Status) -> bool {
    let explains = |f: &Verdict| NOTHING_ARRIVES.contains(&f.kind.as_str());
    s.is_starting() || findings(s).iter().any(explains)
}

/// Devices of the last day that have not been heard of for too long, whether or not anybody listened.
fn quiet_devices(s: &Status) -> Vec<(&DeviceId, TimestampMs)> {
    let limit_ms = silent_ms(s);
    // By the receipt: a device whose own times are off does send.
    let heard = |d: &DeviceId| s.heard.get(d).map(|heard| heard.received);
    let devices = (s.devices.iter()).map(|(d, at, _)| (d, heard(d).unwrap_or(*at)));
    let quiet = |at: &TimestampMs| limit_ms.is_some_and(|limit| s.now.0 - at.0 > limit);
    devices.filter(|(_, at)| quiet(at)).collect()
}

/// Those of them that would have been heard of.
fn silent_devices(s: &Status) -> Vec<(&DeviceId, TimestampMs)> {
    // What the broker kept for us is still coming in.
    let since = s.daemon.as_ref().and_then(|d| d.intake.since);
    let listens = silent_ms(s).zip(since);
    match listens.is_some_and(|(limit, since)| s.now.0 - since.0 > limit) {
        true => quiet_devices(s),
        false => Vec::new(),
    }
}

fn silent_ms(s: &Status) -> Option<i64> {
    let daemon = s.daemon.as_ref()?;
    Some(i64::from(daemon.limits.silent_min) * 60_000)
}

fn silent(facts: &Facts<'_>) -> Vec<NewAlert> {
    const ADVICE: &str = "check that the device has power and network";
    let s = facts.status;
    if nothing_arrives(s) {
        return Vec::new();
    }
    let silent = silent_devices(s);
    if silent.len() > SILENT_ALONE {
        let text = format!("{} of {} devices are silent", silent.len(), s.devices.len());
        return vec![attention(SILENT, "", text, Some(ADVICE))];
    }
    let one = |(device, at): &(&DeviceId, TimestampMs)| {
        let text = format!("{device} has been silent since {at}");
        attention(SILENT, device.as_str(), text, Some(ADVICE))
    };
    silent.iter().map(one).collect()
}

/// Messages and refused ones over the last hour, from counters that only rise while the process lives.
#[derive(Debug, Default)]
pub struct RefusedShare {
    /// Running time in ms, messages, refused ones; the oldest first.
    looks: std::collections::VecDeque<(i64, u64, u64)>,
}

impl RefusedShare {
    const WINDOW_MS: i64 = 3_600_000;
    /// Fewer messages say nothing.
    const LEAST: u64 = 20;

    /// Takes the counters in; percent of the window's messages that were refused.
    pub fn look(&mut self, now_ms: i64, received: u64, refused: u64) -> Option<f64> {
        while self
            .looks
            .get(1)
            .is_some_and(|(at, ..)| now_ms - at >= Self::WINDOW_MS)
        {
            self.looks.pop_front();
        }
        self.looks.push_back((now_ms, received, refused));
        let (_, r0, x0) = self.looks.front()?;
        let messages = received.saturating_sub(*r0);
        let bad = refused.saturating_sub(*x0);
        (messages >= Self::LEAST).then(|| bad as f64 / messages as f64 * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::intake::IntakeStatus;
    use crate::status::DaemonStatus;
    use crate::store::{Heard, StoreTotals};

    const NOW: TimestampMs = TimestampMs(1_800_000_000_000);

    fn healthy(silent: usize, of: usize) -> Status {
        let device = |i: usize| {
            let minutes = if i < silent { -90 } else { -1 };
            let id = DeviceId::new(&format!("t{i:02}"));
            (id, NOW.plus_min(minutes), Some(1.0))
        };
        Status {
            now: NOW,
            clock_plausible: true,
            daemon: Some(DaemonStatus {
                intake: IntakeStatus {
                    connected: true,
                    since: Some(NOW.plus_min(-600)),
                    last_message: Some(NOW),
                    ..IntakeStatus::default()
                },
                ..DaemonStatus::default()
            }),
            store: StoreTotals {
                newest: Some(NOW),
                ..StoreTotals::default()
            },
            devices: (0..of).map(device).collect(),
            ..Status::default()
        }
    }

    fn alert() -> AlertRow {
        AlertRow {
            id: 1,
            kind: SILENT.into(),
            subject: String::new(),
            level: "attention".into(),
            text: String::new(),
            next_step: None,
            raised: NOW,
            cleared: None,
            acknowledged: None,
            waiting: Vec::new(),
        }
    }

    fn kinds(status: &Status, refused_percent: Option<f64>, events: &[EventRow]) -> Vec<String> {
        let facts = Facts {
            status,
            refused_percent,
            events,
        };
        let found = standing(&facts).into_iter();
        found.map(|a| format!("{} {}", a.kind, a.subject)).collect()
    }

    #[test]
    fn nothing_is_wrong_with_a_healthy_station() {
        assert_eq!(kinds(&healthy(0, 3), Some(10.0), &[]), Vec::<String>::new());
    }

    #[test]
    fn findings_refused_messages_and_events_are_alerts() {
        let mut s = healthy(0, 1);
        s.daemon.as_mut().unwrap().store_failing = true;
        let event = EventRow {
            at: NOW,
            kind: "update_rolled_back".into(),
            detail: "0.2.0 did not start".into(),
        };
        assert_eq!(
            kinds(&s, Some(10.1), &[event]),
            ["store_failing ", "messages_refused ", "update_rolled_back "]
        );
        // What somebody did by hand is an event and no alert.
        assert!(!event_kinds().contains(&"update_taken_back"));
        s.store.newest = None;
        s.daemon.as_mut().unwrap().store_failing = false;
        assert_eq!(kinds(&s, None, &[]), Vec::<String>::new(), "a first set-up");
    }

    #[test]
    fn silent_devices_are_alerts_unless_nothing_arrives_at_all() {
        assert_eq!(
            kinds(&healthy(2, 9), None, &[]),
            ["device_silent t00", "device_silent t01"]
        );
        assert_eq!(kinds(&healthy(6, 9), None, &[]), ["device_silent "]);
        let mut s = healthy(2, 9);
        let intake = &mut s.daemon.as_mut().unwrap().intake;
        intake.connected = false;
        assert_eq!(kinds(&s, None, &[]), Vec::<String>::new(), "just started");
        s.daemon.as_mut().unwrap().intake.last_error = Some("refused".into());
        assert_eq!(kinds(&s, None, &[]), ["not_connected "]);
        let mut s = healthy(2, 9);
        s.daemon.as_mut().unwrap().intake.since = Some(NOW.plus_min(-10));
        assert_eq!(kinds(&s, None, &[]), Vec::<String>::new(), "just connected");
    }

    #[test]
    fn silence_goes_by_the_receipt_and_not_by_the_devices_own_time() {
        let mut s = healthy(1, 2);
        let heard = |minutes| Heard {
            received: NOW.plus_min(minutes),
            at: NOW,
        };
        s.heard.insert(DeviceId::new("t00"), heard(0));
        s.heard.insert(DeviceId::new("t01"), heard(-61));
        assert_eq!(kinds(&s, None, &[]), ["device_silent t01"]);
    }

    #[test]
    fn a_device_that_left_the_list_keeps_its_alert() {
        let alert = |subject: &str| AlertRow {
            subject: subject.into(),
            ..alert()
        };
        let status = healthy(0, 2);
        let facts = Facts {
            status: &status,
            refused_percent: None,
            events: &[],
        };
        assert!(undecided(&facts, &alert("gone")));
        assert!(!undecided(&facts, &alert("t00")));
        // During a start nothing is known of the connection, nor of who is silent.
        let mut lost = alert("");
        lost.kind = "not_connected".into();
        assert!(!undecided(&facts, &lost));
        let mut starting = healthy(0, 2);
        starting.daemon.as_mut().unwrap().intake.connected = false;
        let facts = Facts {
            status: &starting,
            ..facts
        };
        assert!(undecided(&facts, &lost) && undecided(&facts, &alert("t00")));
        lost.kind = "subscription_refused".into();
        assert!(undecided(&facts, &lost));
    }

    #[test]
    fn after_a_reload_one_that_is_silent_still_is_neither_over_nor_raised() {
        let open = |status: &Status, subject: &str| {
            let facts = Facts {
                status,
                refused_percent: None,
                events: &[],
            };
            let alert = AlertRow {
                subject: subject.into(),
                ..alert()
            };
            (standing(&facts).is_empty(), undecided(&facts, &alert))
        };
        let reloaded = |silent| {
            let mut s = healthy(silent, 9);
            s.daemon.as_mut().unwrap().intake.since = Some(NOW.plus_min(-2));
            s
        };
        let s = reloaded(2);
        assert_eq!(open(&s, "t00"), (true, true));
        assert_eq!(open(&s, "t02"), (true, false), "it has been heard of");
        assert_eq!(open(&reloaded(6), ""), (true, true));
        // The one of many ends as well, unless it is that they have left the list.
        let mut s = reloaded(0);
        assert_eq!(open(&s, ""), (true, false));
        s.store.devices = 9 + 6;
        assert_eq!(open(&s, ""), (true, true));
    }

    #[test]
    fn the_share_is_that_of_an_hour_and_of_enough_messages() {
        let mut share = RefusedShare::default();
        let minute = 60_000;
        assert_eq!(share.look(0, 0, 0), None);
        assert_eq!(share.look(minute, 19, 19), None);
        assert_eq!(share.look(2 * minute, 100, 20), Some(20.0));
        assert_eq!(share.look(70 * minute, 200, 20), Some(0.0));
    }
}
