//! The verdict: the most serious thing that is wrong and the next step to take, or that nothing is.

use serde::{Deserialize, Serialize};

use super::screen::{ago, span};
use super::{DAY_MS, DaemonStatus, Level, Status, Verdict};
use crate::clock::Standing;
use crate::mqtt::link::{ANOTHER_CLIENT, REFUSED_BY_BROKER};
use crate::mqtt::payload::RejectReason;
use crate::reading::{DeviceId, TimestampMs};
use crate::store::space::DiskLevel;
use crate::store::{RejectCount, RunOutcome};
use crate::words::count;

/// Too few settled forecasts say nothing about skill.
const SKILL_NEEDS: i64 = 100;
/// A device's own times are that far from their receipt only where its zone or its clock is wrong.
const TIMES_APART_MS: i64 = 30 * 60_000;
/// What was sent while nobody listened has arrived by so long after the connection.
const DRAINED_MS: i64 = 10 * 60_000;
/// The first nights wait for enough days.
const SKIPPED_FIRST_NIGHTS: u32 = 30;

/// From where on something is worth a word: the one place of thresholds, for `status` and the alerts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Minutes without a message of the station, or of one device while others send.
    pub silent_min: u32,
    /// Nights that failed in a row are no accident any more.
    pub failed_nights: u32,
    /// Nights that were skipped in a row though readings came.
    pub unlearned_nights: u32,
    /// Days for which no candidate has beaten the live model: it has a season behind it.
    pub old_model_days: u32,
    /// Percent of an hour's messages that were refused.
    pub refused_percent: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            silent_min: 60,
            failed_nights: 3,
            unlearned_nights: 7,
            old_model_days: 60,
            refused_percent: 10.0,
        }
    }
}

/// What can be wrong with a running station and the stable word for it, the most serious first.
type Check = fn(&Status, &DaemonStatus) -> Option<Verdict>;
const CHECKS: &[(&str, Check)] = &[
    ("disk_full", disk_full),
    ("store_failing", store_failing),
    ("not_connected", not_connected),
    ("subscription_refused", subscription_refused),
    ("clock_impossible", clock_impossible),
    ("reload_refused", reload_refused),
    ("database_damaged", was_damaged),
    ("clock_doubtful", clock_doubtful),
    ("nothing_stored", nothing_stored_yet),
    ("disk_low", disk_nearly_full),
    ("nights_failed", nights_fail),
    ("silent", silence),
    ("devices_refused", devices_refused),
    ("device_times", device_times),
    ("doubtful_times", doubtful_times),
    ("model_damaged", model_damaged),
    ("night_failed", last_night_failed),
    ("housekeeping_failed", last_housekeeping_failed),
    ("nothing_learned", nothing_learned),
    ("model_old", old_model),
    ("no_skill", no_skill),
    ("updates_frozen", updates_frozen),
];

/// The most serious thing that is wrong, or that nothing is: a finding, else an alert that stands and
/// that nobody has acknowledged.
pub fn judge(s: &Status) -> Verdict {
    let found = findings(s).into_iter().chain(unacknowledged(s));
    // Of equals the first: the findings come in their order.
    let worst = found.reduce(|worst, next| {
        let down = |v: &Verdict| v.level == Level::Down;
        if down(&next) && !down(&worst) {
            next
        } else {
            worst
        }
    });
    worst.unwrap_or_else(|| Verdict {
        text: fine(s),
        ..Verdict::default()
    })
}

/// Alerts of what no finding tells: one of those that is about to be over would say what is no longer so.
fn unacknowledged(s: &Status) -> impl Iterator<Item = Verdict> {
    let of_finding = |kind: &str| kind == "not_running" || CHECKS.iter().any(|(k, _)| *k == kind);
    let open = s.alerts.iter().filter(|a| a.acknowledged.is_none());
    open.filter(move |a| !of_finding(&a.kind)).map(|a| Verdict {
        kind: a.kind.clone(),
        level: match a.level.as_str() {
            "down" => Level::Down,
            _ => Level::Attention,
        },
        text: a.text.clone(),
        next_step: a.next_step.clone().or_else(|| {
            Some(format!(
                "nightwatt alerts; nightwatt alerts acknowledge {} once you know",
                a.id
            ))
        }),
    })
}

/// Everything that is wrong, the most serious first. Without a daemon that is all there is to say.
pub fn findings(s: &Status) -> Vec<Verdict> {
    match &s.daemon {
        None => vec![Verdict {
            kind: "not_running".into(),
            ..not_running(s)
        }],
        Some(daemon) => (CHECKS.iter())
            .filter_map(|(kind, check)| {
                let kind = (*kind).to_owned();
                check(s, daemon).map(|found| Verdict { kind, ..found })
            })
            .collect(),
    }
}

fn finding(level: Level, text: impl Into<String>, next_step: &str) -> Verdict {
    Verdict {
        level,
        text: text.into(),
        next_step: Some(next_step.to_owned()),
        ..Verdict::default()
    }
}

fn not_running(s: &Status) -> Verdict {
    let seen = match s.store.newest {
        Some(t) if t > s.now => format!(
            "the time of the last reading is {} in the future: a clock is wrong",
            span(t.0 - s.now.0)
        ),
        Some(t) => format!("the last reading is from {}", ago(s.now, t)),
        None => "it has never stored a reading".into(),
    };
    finding(
        Level::Down,
        format!("the daemon is not running; {seen}"),
        "systemctl start nightwatt (or: nightwatt run)",
    )
}

fn disk_full(_: &Status, daemon: &DaemonStatus) -> Option<Verdict> {
    (daemon.disk == DiskLevel::Full).then(|| {
        finding(
            Level::Down,
            "the disk is full: nothing is stored; the broker keeps the readings meanwhile",
            "free some space; nightwatt goes on by itself",
        )
    })
}

fn store_failing(_: &Status, daemon: &DaemonStatus) -> Option<Verdict> {
    daemon.store_failing.then(|| {
        finding(
            Level::Down,
            "readings cannot be stored; the broker keeps them meanwhile",
            "free some space or mend the disk; nightwatt goes on by itself",
        )
    })
}

fn not_connected(_: &Status, daemon: &DaemonStatus) -> Option<Verdict> {
    // Before the first attempt has come to anything the station is starting.
    let why = daemon.intake.last_error.as_deref()?;
    let advice = if why.starts_with(REFUSED_BY_BROKER) {
        "check [mqtt] username and password_file; nightwatt tries again in minutes"
    } else if why.contains(ANOTHER_CLIENT) {
        "give every station an [mqtt] client_id of its own; else the broker's log says why it ends connections"
    } else {
        "check [mqtt] url and that the broker runs; nightwatt keeps trying"
    };
    (!daemon.intake.connected).then(|| {
        finding(
            Level::Down,
            format!("no connection to the broker at {}: {why}", daemon.broker),
            advice,
        )
    })
}

fn subscription_refused(_: &Status, daemon: &DaemonStatus) -> Option<Verdict> {
    (daemon.intake.refused_filters > 0).then(|| {
        finding(
            Level::Down,
            "the broker refused a subscription",
            "let this user read the topics in [[mqtt.topics]]",
        )
    })
}

fn clock_impossible(s: &Status, _: &DaemonStatus) -> Option<Verdict> {
    (!s.clock_plausible).then(|| {
        finding(
            Level::Attention,
            format!("the clock says {}: {}", s.now, s.clock().words()),
            "set the time or connect a time server",
        )
    })
}

fn reload_refused(_: &Status, daemon: &DaemonStatus) -> Option<Verdict> {
    let why = daemon.reload_refused.as_deref()?;
    Some(finding(
        Level::Attention,
        format!("the new configuration was refused, the old one stays: {why}"),
        "mend it (nightwatt check-config), then systemctl reload nightwatt",
    ))
}

fn clock_doubtful(s: &Status, daemon: &DaemonStatus) -> Option<Verdict> {
    (daemon.clock_doubtful && s.clock_plausible).then(|| {
        finding(
            Level::Attention,
            format!(
                "the clock says {}: {}; nights follow running time",
                s.now,
                s.clock().words()
            ),
            "connect a time server (timedatectl), or a clock chip",
        )
    })
}

fn nothing_stored_yet(s: &Status, _: &DaemonStatus) -> Option<Verdict> {
    (s.store.newest.is_none() && !s.is_starting()).then(|| {
        finding(
            Level::Attention,
            "connected, and waiting for the first reading",
            "check that devices publish on a topic of [[mqtt.topics]]",
        )
    })
}

fn was_damaged(s: &Status, _: &DaemonStatus) -> Option<Verdict> {
    let kept = s.kept_damaged.last()?;
    Some(finding(
        Level::Attention,
        format!(
            "a damaged database was replaced; kept as {}",
            kept.display()
        ),
        "docs/storage.md: mend or remove the kept file; check the disk",
    ))
}

fn disk_nearly_full(_: &Status, daemon: &DaemonStatus) -> Option<Verdict> {
    (daemon.disk == DiskLevel::Low).then(|| {
        finding(
            Level::Attention,
            "the disk is nearly full: old readings are removed early",
            "free some space",
        )
    })
}

fn silence(s: &Status, daemon: &DaemonStatus) -> Option<Verdict> {
    let silent_ms = s.now.0 - daemon.intake.last_message.or(s.store.newest)?.0;
    (silent_ms > i64::from(daemon.limits.silent_min) * 60_000).then(|| {
        finding(
            Level::Attention,
            format!("no message for {}", span(silent_ms)),
            "check that the devices have power and network",
        )
    })
}

/// Refused in the last day for being new: either there are more devices than expected, or somebody
/// makes names up.
fn devices_refused(s: &Status, _: &DaemonStatus) -> Option<Verdict> {
    let refused = |reason: RejectReason| {
        let recent = |r: &&RejectCount| r.reason == reason.as_str() && s.now.0 - r.last.0 < DAY_MS;
        s.store.rejects.iter().find(recent).map(|r| r.count)
    };
    if let Some(n) = refused(RejectReason::TooManyDevices) {
        let devices = s.store.devices;
        return Some(finding(
            Level::Attention,
            format!(
                "{} of new devices refused: {devices} devices are all there may be",
                count(n, "reading")
            ),
            "if they are yours, raise store.max_devices; see nightwatt quarantine",
        ));
    }
    let n = refused(RejectReason::NewDevicesTooFast)?;
    Some(finding(
        Level::Attention,
        format!(
            "{} refused: too many new devices in a minute",
            count(n, "reading")
        ),
        "if they are yours, raise store.new_devices_per_min; see nightwatt quarantine",
    ))
}

/// Readings that are believed although their times are hours off, as those of a wrong zone are.
fn device_times(s: &Status, daemon: &DaemonStatus) -> Option<Verdict> {
    if s.clock() != Standing::Believed {
        return None;
    }
    let since = daemon.intake.since.filter(|_| daemon.intake.connected);
    let apart_ms = |device: &DeviceId, newest: TimestampMs| {
        // What came before this start tells nothing of how things are now.
        let heard = (s.heard.get(device)).filter(|h| h.received >= daemon.started)?;
        let ahead = heard.at.0 - heard.received.0;
        // Old ones between new ones are a recording; those of the first minutes have waited.
        let behind = heard.received.0 - heard.at.0.max(newest.0);
        let drained = since.is_some_and(|since| heard.received.0 - since.0 >= DRAINED_MS);
        if ahead >= TIMES_APART_MS {
            Some((ahead, "ahead of"))
        } else {
            (drained && behind >= TIMES_APART_MS).then_some((behind, "behind"))
        }
    };
    let mut apart = (s.devices.iter())
        .filter_map(|(device, newest, _)| Some((device, apart_ms(device, *newest)?)));
    let (device, (ms, side)) = apart.next()?;
    let more = match apart.count() {
        0 => String::new(),
        n => format!(" and of {}", count(n, "more device")),
    };
    Some(finding(
        Level::Attention,
        format!(
            "times of {device}{more} lie {} min {side} this station's clock",
            ms / 60_000
        ),
        "check timezone of its rule (docs/payloads.md) and the device's clock",
    ))
}

fn doubtful_times(_: &Status, daemon: &DaemonStatus) -> Option<Verdict> {
    let n = daemon.doubtful_times;
    (n > 0).then(|| {
        let readings = count(n, "reading");
        finding(
            Level::Attention,
            format!("{readings} carried a time that cannot be believed"),
            "set the devices' clocks; to take old recordings in, raise mqtt.max_age_days",
        )
    })
}

fn model_damaged(s: &Status, _: &DaemonStatus) -> Option<Verdict> {
    let damaged = s.damaged_model.as_ref()?;
    let serves = match &s.model {
        Some(live) => format!("version {} forecasts", live.version),
        None => "persistence forecasts".into(),
    };
    Some(finding(
        Level::Attention,
        format!("model version {} is damaged; {serves}", damaged.version),
        "check the disk; then nightwatt train",
    ))
}

fn last_night_failed(s: &Status, daemon: &DaemonStatus) -> Option<Verdict> {
    let run = s.last_run.as_ref()?;
    let why = run.reason.as_deref().unwrap_or("no reason was noted");
    let few = s.nights.failed_in_row < daemon.limits.failed_nights;
    let first = run.outcome == Some(RunOutcome::Failed) && few;
    first.then(|| {
        finding(
            Level::Attention,
            format!("the last night failed: {why}"),
            "nightwatt train, and nightwatt runs for the details",
        )
    })
}

fn last_housekeeping_failed(s: &Status, _: &DaemonStatus) -> Option<Verdict> {
    let run = s.housekeeping.as_ref()?;
    let why = run.reason.as_deref().unwrap_or("no reason was noted");
    matches!(run.outcome, Some(RunOutcome::Failed | RunOutcome::Skipped)).then(|| {
        finding(
            Level::Attention,
            format!("the last housekeeping: {why}"),
            "nightwatt snapshot, once there is room",
        )
    })
}

fn nights_fail(s: &Status, daemon: &DaemonStatus) -> Option<Verdict> {
    let (run, failed) = (s.last_run.as_ref()?, s.nights.failed_in_row);
    let why = run.reason.as_deref().unwrap_or("no reason was noted");
    (failed >= daemon.limits.failed_nights).then(|| {
        finding(
            Level::Attention,
            format!("the last {failed} nights failed: {why}"),
            "nightwatt runs, and nightwatt runs show for the details",
        )
    })
}

fn nothing_learned(s: &Status, daemon: &DaemonStatus) -> Option<Verdict> {
    let limit = match s.nights.learned {
        Some(_) => daemon.limits.unlearned_nights,
        None => SKIPPED_FIRST_NIGHTS,
    };
    let run = s.last_run.as_ref()?;
    let skipped = s.nights.skipped_in_row;
    let data_came = s.store.newest.is_some_and(|t| s.now.0 - t.0 < 2 * DAY_MS);
    let why = run.reason.as_deref().unwrap_or("no reason was noted");
    (skipped >= limit && data_came).then(|| {
        finding(
            Level::Attention,
            format!("nothing was learned in {skipped} nights: {why}"),
            "nightwatt train --dry-run says what is missing",
        )
    })
}

fn old_model(s: &Status, daemon: &DaemonStatus) -> Option<Verdict> {
    let model = s.model.as_ref()?;
    let age_ms = s.now.0 - model.promoted.unwrap_or(model.created).0;
    (age_ms > i64::from(daemon.limits.old_model_days) * DAY_MS).then(|| {
        finding(
            Level::Attention,
            format!(
                "version {} has been live for {}; no night has made a better one",
                model.version,
                span(age_ms)
            ),
            "nightwatt runs shows what the candidates lacked",
        )
    })
}

fn no_skill(s: &Status, _: &DaemonStatus) -> Option<Verdict> {
    let skill = known_skill(s).filter(|skill| *skill <= 0.0)?;
    Some(finding(
        Level::Attention,
        format!(
            "forecasts of the last 7 days were no better than smart persistence (skill {skill:+.2})"
        ),
        "nightwatt train",
    ))
}

fn updates_frozen(_: &Status, daemon: &DaemonStatus) -> Option<Verdict> {
    let days = daemon.update.as_ref()?.frozen_days?;
    Some(finding(
        Level::Attention,
        format!("updates may be frozen: nothing newly signed for {days} days"),
        "nightwatt update check; ask the publisher",
    ))
}

fn known_skill(s: &Status) -> Option<f64> {
    s.skill.filter(|_| s.accuracy.settled >= SKILL_NEEDS)
}

fn fine(s: &Status) -> String {
    if let Some(daemon) = s.daemon.as_ref().filter(|_| s.is_starting()) {
        return format!("starting: connecting to the broker at {}", daemon.broker);
    }
    match (&s.model, known_skill(s)) {
        (None, _) => "collecting; no model yet, forecasting by persistence".to_owned(),
        (Some(_), Some(skill)) => {
            format!("collecting, learning and forecasting with skill {skill:+.2}")
        }
        (Some(_), None) => "collecting, learning and forecasting".to_owned(),
    }
}
