//! What the station is doing, as one screen that begins with a verdict; gathered by the caller, judged here.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::mqtt::intake::IntakeStatus;
use crate::reading::{DeviceId, TimestampMs};
use crate::store::{
    EventRow, ForecastRow, LiveAccuracy, ModelRow, Reader, RunOutcome, RunRow, StoreError,
    StoreTotals,
};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Devices that have been silent this long are worth a word.
const STALE_MS: i64 = HOUR_MS;
/// Live accuracy is counted over this long.
const ACCURACY_MS: i64 = 7 * DAY_MS;
/// Too few settled forecasts say nothing about skill.
const SKILL_NEEDS: i64 = 100;
const LOW_DISK_BYTES: u64 = 200_000_000;
const RECENT_EVENTS: usize = 5;

/// What only a running daemon knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// When it started.
    pub started: TimestampMs,
    /// The broker's side.
    pub intake: IntakeStatus,
    /// Where the broker is.
    pub broker: String,
    /// Messages received since start.
    pub received: u64,
    /// Messages committed since start.
    pub committed: u64,
    /// New rows since start.
    pub rows: u64,
    /// Repeats since start.
    pub duplicates: u64,
    /// Messages kept aside since start.
    pub rejects: u64,
    /// Readings since start whose own time was too old or too far ahead to be believed.
    pub doubtful_times: u64,
    /// True while commits fail.
    pub store_failing: bool,
    /// A training run is going on.
    pub training: bool,
    /// When the next one is due.
    pub next_night: Option<TimestampMs>,
}

/// Everything `nightwatt status --json` prints. Fields are only ever added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the binary that answered.
    pub version: String,
    /// When this was put together.
    pub now: TimestampMs,
    /// Whether this machine's clock can be right.
    pub clock_plausible: bool,
    /// One line: how things stand.
    pub verdict: Verdict,
    /// Absent where no daemon answered and the database was read instead.
    pub daemon: Option<DaemonStatus>,
    /// The database file.
    pub store_path: PathBuf,
    /// What it holds.
    pub store: StoreTotals,
    /// Free space on its file system, bytes.
    pub disk_free_bytes: Option<u64>,
    /// Each device's newest reading: name, time, power in W.
    pub devices: Vec<(DeviceId, TimestampMs, Option<f64>)>,
    /// Each device's newest forecast.
    pub forecasts: Vec<ForecastRow>,
    /// The live model.
    pub model: Option<ModelRow>,
    /// How the forecasts of the last seven days did.
    pub accuracy: LiveAccuracy,
    /// Skill of those against smart persistence.
    pub skill: Option<f64>,
    /// The last night.
    pub last_run: Option<RunRow>,
    /// The newest events.
    pub events: Vec<EventRow>,
}

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// `ok`, `attention` or `down`.
    pub level: Level,
    /// The sentence.
    pub text: String,
    /// What to do about it.
    pub next_step: Option<String>,
}

/// Grades of a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Collecting, learning, forecasting.
    #[default]
    Ok,
    /// Working, but somebody should look.
    Attention,
    /// Not collecting.
    Down,
}

/// Reads what the database knows and judges it together with what the daemon says.
pub fn gather(
    store_path: &Path,
    daemon: Option<DaemonStatus>,
    now: TimestampMs,
    clock_plausible: bool,
) -> Result<Status, StoreError> {
    let reader = Reader::open(store_path)?;
    let accuracy = reader.live_accuracy(now.plus_ms(-ACCURACY_MS), now)?;
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now,
        clock_plausible,
        verdict: Verdict::default(),
        daemon,
        store_path: store_path.to_owned(),
        store: reader.totals()?,
        disk_free_bytes: disk_free_bytes(store_path),
        devices: reader.latest()?,
        forecasts: reader.latest_forecasts()?,
        model: reader.live_model_row()?,
        skill: accuracy.skill(),
        accuracy,
        last_run: reader.runs(1)?.pop(),
        events: reader.events(RECENT_EVENTS)?,
    };
    status.verdict = judge(&status);
    Ok(status)
}

fn disk_free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail * stat.f_frsize)
}

/// The most serious thing that is wrong, or that nothing is.
pub fn judge(s: &Status) -> Verdict {
    let say = |level, text: String, next_step: &str| Verdict {
        level,
        text,
        next_step: (!next_step.is_empty()).then(|| next_step.to_owned()),
    };
    let Some(daemon) = &s.daemon else {
        let seen = match s.store.newest {
            Some(t) => format!("the last reading is from {}", ago(s.now, t)),
            None => "it has never stored a reading".into(),
        };
        return say(
            Level::Down,
            format!("the daemon is not running; {seen}"),
            "systemctl start nightwatt (or: nightwatt run)",
        );
    };
    if daemon.store_failing {
        return say(
            Level::Down,
            "readings cannot be stored; the broker keeps them meanwhile".into(),
            "free some space or mend the disk; nightwatt goes on by itself",
        );
    }
    if !daemon.intake.connected {
        let why = daemon
            .intake
            .last_error
            .as_deref()
            .unwrap_or("not connected yet");
        return say(
            Level::Down,
            format!("no connection to the broker at {}: {why}", daemon.broker),
            "check [mqtt] url and that the broker runs; nightwatt keeps trying",
        );
    }
    if daemon.intake.refused_filters > 0 {
        return say(
            Level::Down,
            "the broker refused a subscription".into(),
            "let this user read the topics in [[mqtt.topics]]",
        );
    }
    if !s.clock_plausible {
        return say(
            Level::Attention,
            format!("the clock says {}, which cannot be", s.now),
            "set the time or connect a time server",
        );
    }
    let Some(newest) = s.store.newest else {
        return say(
            Level::Attention,
            "connected, and waiting for the first reading".into(),
            "check that devices publish on a topic of [[mqtt.topics]]",
        );
    };
    if s.disk_free_bytes.is_some_and(|free| free < LOW_DISK_BYTES) {
        return say(
            Level::Attention,
            "the disk is nearly full".into(),
            "free some space",
        );
    }
    let last_heard = daemon.intake.last_message.unwrap_or(newest);
    if s.now.0 - last_heard.0 > STALE_MS {
        return say(
            Level::Attention,
            format!("no message for {}", span(s.now.0 - last_heard.0)),
            "check that the devices have power and network",
        );
    }
    if daemon.doubtful_times > 0 {
        return say(
            Level::Attention,
            format!(
                "{} readings carried a time that cannot be believed",
                daemon.doubtful_times
            ),
            "set the devices' clocks; to take old recordings in, raise mqtt.max_age_days",
        );
    }
    if let Some(run) = s
        .last_run
        .as_ref()
        .filter(|r| r.outcome == Some(RunOutcome::Failed))
    {
        let why = run.reason.as_deref().unwrap_or("no reason was noted");
        return say(
            Level::Attention,
            format!("the last night failed: {why}"),
            "nightwatt train, and nightwatt runs for the details",
        );
    }
    if let Some(skill) = s
        .skill
        .filter(|k| *k <= 0.0 && s.accuracy.settled >= SKILL_NEEDS)
    {
        return say(
            Level::Attention,
            format!(
                "forecasts of the last 7 days were no better than smart persistence (skill {skill:+.2})"
            ),
            "nightwatt train",
        );
    }
    let learning = match (&s.model, s.skill) {
        (None, _) => "collecting; no model yet, forecasting by persistence".to_owned(),
        (Some(_), Some(skill)) if s.accuracy.settled >= SKILL_NEEDS => {
            format!("collecting, learning and forecasting with skill {skill:+.2}")
        }
        (Some(_), _) => "collecting, learning and forecasting".to_owned(),
    };
    say(Level::Ok, learning, "")
}

/// One screen, at most 80 columns wide.
pub fn render(s: &Status) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: String| {
        let _ = writeln!(out, "{label:<10} {}", clip(&text, 69));
    };
    let mark = match s.verdict.level {
        Level::Ok => "OK",
        Level::Attention => "ATTENTION",
        Level::Down => "DOWN",
    };
    line(mark, s.verdict.text.clone());
    if let Some(step) = &s.verdict.next_step {
        line("", format!("-> {step}"));
    }
    match &s.daemon {
        Some(d) => {
            let state = if d.intake.connected {
                "connected"
            } else {
                "not connected"
            };
            line(
                "broker",
                format!(
                    "{} {state}, sessions lost {}",
                    d.broker, d.intake.sessions_lost
                ),
            );
            line(
                "intake",
                format!(
                    "{} received, {} new rows, {} repeats, {} refused since start",
                    d.received, d.rows, d.duplicates, d.rejects
                ),
            );
        }
        None => line(
            "daemon",
            format!("not running; read from {}", s.store_path.display()),
        ),
    }
    line("store", store_line(s));
    if !s.store.rejects.is_empty() {
        let reasons: Vec<String> = s
            .store
            .rejects
            .iter()
            .map(|r| format!("{} {}", r.count, r.reason))
            .collect();
        line(
            "refused",
            format!("{} (samples in table quarantine)", reasons.join(", ")),
        );
    }
    for (device, at, power) in s.devices.iter().take(8) {
        let power = power.map_or("no power".into(), |p| format!("{p:.1} W"));
        let forecast = s.forecasts.iter().find(|f| f.device == *device);
        let forecast = forecast.map_or("no forecast yet".into(), forecast_words);
        line(
            "device",
            format!("{device}: {power} {}; {forecast}", ago(s.now, *at)),
        );
    }
    if s.devices.len() > 8 {
        line("", format!("and {} more devices", s.devices.len() - 8));
    }
    line(
        "model",
        match &s.model {
            Some(m) => format!(
                "version {}, live since {}",
                m.version,
                ago(s.now, m.promoted.unwrap_or(m.created))
            ),
            None => "none yet: smart persistence forecasts".into(),
        },
    );
    line("accuracy", accuracy_line(s));
    line("night", night_line(s));
    for event in &s.events {
        line(
            "event",
            format!("{} {}: {}", ago(s.now, event.at), event.kind, event.detail),
        );
    }
    out
}

fn store_line(s: &Status) -> String {
    let size = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let mut text = format!(
        "{} devices, {} database, {} log",
        s.store.devices,
        size(s.store.database_bytes),
        size(s.store.wal_bytes)
    );
    if let Some(free) = s.disk_free_bytes {
        let _ = write!(text, ", {} free", size(free));
    }
    text
}

fn forecast_words(f: &ForecastRow) -> String {
    let band = match (f.p10_w, f.p90_w) {
        (Some(low), Some(high)) => format!(" ({low:.1} … {high:.1})"),
        _ => String::new(),
    };
    format!(
        "+{} min {:.1} W{band} {}",
        f.horizon_min, f.power_w, f.source
    )
}

fn accuracy_line(s: &Status) -> String {
    if s.accuracy.settled == 0 {
        return "no forecast of the last 7 days has met its actual value yet".into();
    }
    let mut text = format!(
        "7 days: MAE {:.2} W, smart {:.2}, naive {:.2}",
        s.accuracy.mae_w, s.accuracy.smart_mae_w, s.accuracy.naive_mae_w
    );
    if let Some(skill) = s.skill {
        let _ = write!(text, ", skill {skill:+.2}");
    }
    if let Some(coverage) = s.accuracy.coverage {
        let _ = write!(text, ", P10-P90 {:.0} %", coverage * 100.0);
    }
    text
}

fn night_line(s: &Status) -> String {
    let last = match &s.last_run {
        None => "none yet".into(),
        Some(run) => {
            let outcome = run.outcome.map_or("going on", RunOutcome::as_str);
            let reason = run.reason.as_deref().unwrap_or("");
            format!("{} {outcome}: {reason}", ago(s.now, run.started))
        }
    };
    match s.daemon.as_ref().and_then(|d| d.next_night) {
        Some(next) => format!("next in {}; last {last}", span(next.0 - s.now.0)),
        None => last,
    }
}

/// At most so many characters.
pub(crate) fn clip(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns - 1).chain(['…']).collect()
}

fn ago(now: TimestampMs, then: TimestampMs) -> String {
    match now.0 - then.0 {
        past if past >= 0 => format!("{} ago", span(past)),
        ahead => format!("{} ahead", span(-ahead)),
    }
}

fn span(ms: i64) -> String {
    match ms / 1000 {
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", s / 60),
        s if s < 172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Status {
        let now = TimestampMs(1_800_000_000_000);
        Status {
            now,
            clock_plausible: true,
            daemon: Some(DaemonStatus {
                intake: IntakeStatus {
                    connected: true,
                    last_message: Some(now),
                    ..IntakeStatus::default()
                },
                broker: "mqtt://b".into(),
                ..DaemonStatus::default()
            }),
            store: StoreTotals {
                newest: Some(now),
                ..StoreTotals::default()
            },
            ..Status::default()
        }
    }

    type Break = fn(&mut Status);

    #[test]
    fn the_verdict_names_the_most_serious_trouble() {
        assert_eq!(judge(&healthy()).level, Level::Ok);
        let cases: [(Break, Level, &str); 7] = [
            (|s| s.daemon = None, Level::Down, "not running"),
            (
                |s| s.daemon.as_mut().unwrap().store_failing = true,
                Level::Down,
                "cannot be stored",
            ),
            (
                |s| s.daemon.as_mut().unwrap().intake.connected = false,
                Level::Down,
                "mqtt://b",
            ),
            (|s| s.clock_plausible = false, Level::Attention, "clock"),
            (|s| s.store.newest = None, Level::Attention, "first reading"),
            (
                |s| s.now = s.now.plus_min(90),
                Level::Attention,
                "no message for 90 min",
            ),
            (
                |s| {
                    s.skill = Some(-0.1);
                    s.accuracy.settled = 500;
                },
                Level::Attention,
                "no better than smart",
            ),
        ];
        for (break_it, level, part) in cases {
            let mut s = healthy();
            break_it(&mut s);
            let verdict = judge(&s);
            assert_eq!(verdict.level, level, "{verdict:?}");
            assert!(verdict.text.contains(part), "{verdict:?}");
            assert!(verdict.next_step.is_some(), "{verdict:?}");
        }
    }

    #[test]
    fn the_screen_is_one_and_80_columns_wide() {
        let mut s = healthy();
        s.events = vec![
            EventRow {
                at: s.now,
                kind: "session_lost".into(),
                detail: "x".repeat(200)
            };
            5
        ];
        s.devices = (0..20)
            .map(|i| (DeviceId::new(&format!("t{i}")), s.now, Some(1.0)))
            .collect();
        let text = render(&s);
        assert!(text.lines().count() <= 24, "{text}");
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
        assert!(text.starts_with("OK"), "{text}");
    }
}
