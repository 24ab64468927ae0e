//! Whether the station lives, and whether all of it does its work.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use super::problem::Problem;
use super::routes::{App, blocking};
use crate::clock::Standing;
use crate::status::Status;
use crate::store::RunOutcome;
use crate::store::space::DiskLevel;

const MINUTE_MS: i64 = 60_000;
/// Nights that failed in a row are no accident any more.
const FAILED_NIGHTS: u32 = 3;
/// While readings come, a device's newest forecast is not older.
const STALE_FORECAST_MIN: i64 = 30;
/// Readings come while the newest is not older.
const FRESH_READING_MIN: i64 = 10;

/// How one part does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    /// It does its work.
    Pass,
    /// It does, and somebody should look.
    Warn,
    /// It does not.
    Fail,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    status: Grade,
    detail: String,
}

pub(super) async fn live() -> Json<Value> {
    Json(json!({ "status": "pass" }))
}

pub(super) async fn ready(State(station): State<App>) -> Result<Response, Problem> {
    let checks = blocking(move || {
        let status = station.status().map_err(Problem::broken)?;
        Ok(checks(&status))
    })
    .await?;
    let has = |grade| checks.iter().any(|c| c.status == grade);
    let (code, overall) = match (has(Grade::Fail), has(Grade::Warn)) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, Grade::Fail),
        (false, true) => (StatusCode::OK, Grade::Warn),
        (false, false) => (StatusCode::OK, Grade::Pass),
    };
    let body = Json(json!({ "status": overall, "checks": checks }));
    Ok((code, body).into_response())
}

/// How one part is, and in words.
type Look = fn(&Status) -> (Grade, String);

fn checks(s: &Status) -> Vec<Check> {
    let parts: [(&'static str, Look); 6] = [
        ("intake", intake),
        ("store", store),
        ("last_night", last_night),
        ("model", model),
        ("forecast_age", forecast_age),
        ("clock", clock),
    ];
    let check = |(name, look): (_, Look)| {
        let (status, detail) = look(s);
        Check {
            name,
            status,
            detail,
        }
    };
    parts.into_iter().map(check).collect()
}

fn intake(s: &Status) -> (Grade, String) {
    let Some(daemon) = &s.daemon else {
        return (Grade::Fail, "the daemon is not running".into());
    };
    let intake = &daemon.intake;
    if !intake.connected {
        let why = intake.last_error.as_deref().unwrap_or("not connected yet");
        return (Grade::Fail, format!("no connection to the broker: {why}"));
    }
    if intake.refused_filters > 0 {
        return (Grade::Fail, "the broker refused a subscription".into());
    }
    (Grade::Pass, "connected".into())
}

fn store(s: &Status) -> (Grade, String) {
    let Some(daemon) = &s.daemon else {
        return (Grade::Fail, "the daemon is not running".into());
    };
    match daemon.disk {
        DiskLevel::Full => (Grade::Fail, "the disk is full".into()),
        _ if daemon.store_failing => (Grade::Fail, "commits fail".into()),
        DiskLevel::Low => (Grade::Warn, "the disk is nearly full".into()),
        DiskLevel::Normal => (Grade::Pass, "readings are committed".into()),
    }
}

fn last_night(s: &Status) -> (Grade, String) {
    let Some(run) = &s.last_run else {
        return (Grade::Pass, "there was none yet".into());
    };
    let reason = run.reason.clone().unwrap_or_default();
    let failed = s.nights.failed_in_row;
    match run.outcome {
        None => (Grade::Pass, "one is going on".into()),
        Some(RunOutcome::Failed) if failed >= FAILED_NIGHTS => {
            (Grade::Fail, format!("{failed} failed in a row: {reason}"))
        }
        Some(RunOutcome::Failed) => (Grade::Warn, format!("it failed: {reason}")),
        Some(outcome) => (Grade::Pass, format!("{}: {reason}", outcome.as_str())),
    }
}

fn model(s: &Status) -> (Grade, String) {
    match (&s.model, &s.damaged_model) {
        (Some(m), None) => (Grade::Pass, format!("version {} is live", m.version)),
        (Some(m), Some(d)) => {
            let text = format!("version {} is live, {} is damaged", m.version, d.version);
            (Grade::Warn, text)
        }
        (None, Some(d)) => (Grade::Fail, format!("version {} is damaged", d.version)),
        (None, None) => (Grade::Pass, "none has beaten persistence yet".into()),
    }
}

/// A station without readings has nothing to forecast from; that is for `intake` and the devices.
fn forecast_age(s: &Status) -> (Grade, String) {
    let newest = s.devices.iter().map(|d| d.1).max();
    let fresh = newest.is_some_and(|t| s.now.0 - t.0 <= FRESH_READING_MIN * MINUTE_MS);
    let issued = s.forecasts.iter().map(|f| f.issued).max();
    let age_min = issued.map(|t| (s.now.0 - t.0).max(0) / MINUTE_MS);
    match (age_min, fresh) {
        (None, _) => (Grade::Pass, "there was none yet".into()),
        (Some(min), true) if min > STALE_FORECAST_MIN => {
            let text = format!("the newest is {min} minutes old though readings come");
            (Grade::Fail, text)
        }
        (Some(min), _) => (Grade::Pass, format!("the newest is {min} minutes old")),
    }
}

fn clock(s: &Status) -> (Grade, String) {
    let grade = match s.clock() {
        Standing::Impossible => Grade::Fail,
        Standing::Doubtful => Grade::Warn,
        Standing::Believed => Grade::Pass,
    };
    (grade, format!("{}: {}", s.now, s.clock().words()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::intake::IntakeStatus;
    use crate::reading::{DeviceId, TimestampMs};
    use crate::status::DaemonStatus;
    use crate::store::{ForecastRow, NightRecord, RunRow};

    fn good() -> Status {
        Status {
            now: TimestampMs(100 * MINUTE_MS),
            clock_plausible: true,
            daemon: Some(DaemonStatus {
                intake: IntakeStatus {
                    connected: true,
                    ..IntakeStatus::default()
                },
                ..DaemonStatus::default()
            }),
            ..Status::default()
        }
    }

    fn grade(s: &Status, name: &str) -> Grade {
        let found = checks(s);
        found.iter().find(|c| c.name == name).unwrap().status
    }

    #[test]
    fn a_fresh_station_is_ready_and_each_check_can_fail() {
        assert!(checks(&good()).iter().all(|c| c.status == Grade::Pass));
        let with = |change: fn(&mut DaemonStatus)| {
            let mut s = good();
            change(s.daemon.as_mut().unwrap());
            s
        };
        let s = with(|d| d.intake.connected = false);
        assert_eq!(grade(&s, "intake"), Grade::Fail);
        let s = with(|d| d.intake.refused_filters = 1);
        assert_eq!(grade(&s, "intake"), Grade::Fail);
        let s = with(|d| d.store_failing = true);
        assert_eq!(grade(&s, "store"), Grade::Fail);
        let s = with(|d| d.disk = DiskLevel::Full);
        assert_eq!(grade(&s, "store"), Grade::Fail);
        let s = with(|d| d.clock_doubtful = true);
        assert_eq!(grade(&s, "clock"), Grade::Warn);
        let mut s = good();
        s.clock_plausible = false;
        assert_eq!(grade(&s, "clock"), Grade::Fail);
    }

    #[test]
    fn one_failed_night_warns_and_three_fail() {
        let mut s = good();
        s.last_run = Some(RunRow {
            run_id: 1,
            kind: "training".into(),
            mode: "full".into(),
            trigger: "schedule".into(),
            nominal: None,
            started: TimestampMs(0),
            ended: Some(TimestampMs(1)),
            outcome: Some(RunOutcome::Failed),
            reason: None,
            report: None,
        });
        let failed = |n| NightRecord {
            failed_in_row: n,
            ..NightRecord::default()
        };
        s.nights = failed(1);
        assert_eq!(grade(&s, "last_night"), Grade::Warn);
        s.nights = failed(3);
        assert_eq!(grade(&s, "last_night"), Grade::Fail);
    }

    #[test]
    fn forecasts_are_stale_only_while_readings_come() {
        let mut s = good();
        let (device, issued) = (DeviceId::new("t"), TimestampMs(60 * MINUTE_MS));
        s.forecasts = vec![ForecastRow::by_smart(device, issued, 15, 1.0)];
        assert_eq!(grade(&s, "forecast_age"), Grade::Pass);
        s.devices = vec![(DeviceId::new("t"), TimestampMs(99 * MINUTE_MS), None)];
        assert_eq!(grade(&s, "forecast_age"), Grade::Fail);
    }
}
