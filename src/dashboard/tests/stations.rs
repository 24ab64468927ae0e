//! Invented stations.

use serde_json::json;

use crate::dashboard::*;
use crate::mqtt::intake::IntakeStatus;
use crate::reading::TimestampMs;
use crate::status::{DaemonStatus, judge};
use crate::store::{
    EventRow, ForecastRow, LiveAccuracy, RejectCount, RunOutcome, StoreTotals, TopicRejects,
};

const NOW: TimestampMs = TimestampMs(1_795_345_500_000);
const DAY_MS: i64 = 86_400_000;

pub(super) fn empty() -> View {
    let daemon = DaemonStatus {
        started: NOW.plus_min(-3),
        broker: "mqtt://127.0.0.1:1883".into(),
        intake: IntakeStatus {
            connected: true,
            since: Some(NOW.plus_min(-2)),
            ..IntakeStatus::default()
        },
        next_night: Some(NOW.plus_min(900)),
        ..DaemonStatus::default()
    };
    let mut status = Status {
        version: "0.1.0".into(),
        now: NOW,
        clock_plausible: true,
        daemon: Some(daemon),
        disk_free_bytes: Some(24_300_000_000),
        ..Status::default()
    };
    status.verdict = judge(&status);
    View {
        status,
        zone: chrono_tz::Europe::Berlin,
        choice: Choice {
            period: Period::holding(7),
            device: None,
            horizon_min: None,
        },
        series: Series::default(),
        accuracy: Vec::new(),
        nights: Vec::new(),
        summary: RunSummary::default(),
        models: Vec::new(),
        back_to: None,
        first_night: Some(FirstNight {
            days: 0,
            needed: 14,
        }),
        filters: vec!["solar/+/telemetry".into()],
    }
}

fn run(i: i64, outcome: RunOutcome, reason: &str) -> RunRow {
    let started = NOW.plus_ms(-i * DAY_MS - 7 * 3_600_000);
    RunRow {
        run_id: 100 - i,
        kind: "training".into(),
        mode: "incremental".into(),
        trigger: "schedule".into(),
        nominal: Some(started),
        started,
        ended: Some(started.plus_ms(41_000 + i * 900)),
        outcome: Some(outcome),
        reason: Some(reason.into()),
        report: None,
    }
}

fn model(version: i64, state: &str) -> ModelRow {
    ModelRow {
        version,
        state: state.into(),
        created: NOW.plus_ms(-(6 - version) * DAY_MS),
        promoted: (state != "rejected").then_some(NOW.plus_ms(-(6 - version) * DAY_MS)),
        retired: None,
        reason:
            "The candidate's error on the held-back days is 18 % smaller than smart persistence's."
                .into(),
        metrics: json!({}),
        size: 412_000,
    }
}

/// A year-old station of ten trackers.
pub(super) fn full() -> View {
    let mut view = empty();
    let s = &mut view.status;
    let daemon = s.daemon.as_mut().unwrap();
    daemon.intake.last_message = Some(NOW);
    (
        daemon.received,
        daemon.rows,
        daemon.duplicates,
        daemon.rejects,
    ) = (1_204_332, 1_204_101, 219, 12);
    daemon.started = NOW.plus_ms(-9 * DAY_MS);
    for n in 1..=10 {
        let device = DeviceId::new(&format!("t{n:02}"));
        let power_w = 60.0 + 31.0 * (n % 4) as f64;
        s.devices
            .push((device.clone(), NOW.plus_ms(-n * 4000), Some(power_w)));
        s.forecasts.push(ForecastRow {
            p10_w: Some(power_w * 0.8),
            p90_w: Some(power_w * 1.25),
            model_version: Some(5),
            source: "model".into(),
            ramp_probability: (n == 2).then_some(0.34),
            ..ForecastRow::by_smart(device, NOW.plus_min(-1), 15, power_w * 1.07)
        });
    }
    s.store = StoreTotals {
        devices: 10,
        newest: Some(NOW),
        oldest: Some(NOW.plus_ms(-365 * DAY_MS)),
        database_bytes: 498_000_000,
        wal_bytes: 4_100_000,
        rejects: vec![RejectCount {
            reason: "not_json".into(),
            count: 12,
            last: NOW.plus_min(-500),
        }],
        reject_topics: vec![TopicRejects {
            topic: "solar/t03/telemetry".into(),
            reason: "not_json".into(),
            count: 12,
            last: NOW.plus_min(-500),
        }],
    };
    s.written_mb_per_day = Some(212.4);
    s.disk_days_left = Some(366);
    let of_day = |n: i64| LiveAccuracy {
        horizon_min: 15,
        settled: 6480,
        mae_w: 5.2 + (n * 7 % 5) as f64 * 0.6,
        smart_mae_w: 6.6 + (n * 7 % 5) as f64 * 0.7 - if n == 9 { 2.0 } else { 0.0 },
        naive_mae_w: 7.9 + (n * 3 % 4) as f64,
        coverage: Some(0.81),
    };
    s.accuracy = of_day(0);
    s.accuracy_by_horizon = vec![
        of_day(0),
        LiveAccuracy {
            horizon_min: 60,
            ..of_day(3)
        },
    ];
    s.skill = s.accuracy.skill();
    s.events = vec![EventRow {
        at: NOW.plus_min(-4000),
        kind: "session_lost".into(),
        detail: "the broker had forgotten our session; messages may be missing".into(),
    }];
    s.model = Some(model(5, "live"));
    s.last_run = Some(run(0, RunOutcome::Promoted, "better"));
    s.verdict = judge(s);
    let from = TimestampMs(crate::accuracy::local_days(view.zone, NOW, 8)[7].1.0);
    let bins = (0..7 * 48 + 20).map(|i| {
        let at = from.0 + i * 1_800_000;
        let hour = (at % DAY_MS) as f64 / 3_600_000.0 + 1.0;
        let light = ((hour - 7.5) / 9.0 * std::f64::consts::PI).sin().max(0.0);
        let cloud = 0.55 + 0.45 * ((i * i % 97) as f64 / 97.0);
        let expected = 110.0 * light * (0.7 + 0.2 * ((i / 48) as f64).sin());
        Bin {
            actual_w: (!(120..131).contains(&i)).then_some(expected * cloud * 1.3),
            forecast_w: (i > 60).then_some(expected * (0.9 + cloud * 0.15)),
            p10_w: (i > 60).then_some(expected * 0.7),
            p90_w: (i > 60).then_some(expected * 1.25),
        }
    });
    view.series = Series {
        from,
        step_ms: 1_800_000,
        bins: bins.collect(),
    };
    view.choice = Choice {
        period: Period::holding(7),
        device: Some(DeviceId::new("t01")),
        horizon_min: Some(15),
    };
    let today = NOW.to_utc().date_naive();
    view.accuracy = (0..14)
        .rev()
        .map(|n| DayAccuracy {
            day: today - chrono::Days::new(n),
            device: None,
            skill: of_day(n as i64).skill(),
            accuracy: of_day(n as i64),
        })
        .collect();
    view.nights = vec![
        run(
            0,
            RunOutcome::Promoted,
            "The candidate's error on the held-back days is 3.1 % smaller than the live model's and 18 % smaller than smart persistence's.",
        ),
        run(
            1,
            RunOutcome::Kept,
            "The candidate was 0.4 % better than the live model; 1 % was asked.",
        ),
        run(
            2,
            RunOutcome::Failed,
            "The training process used more than 512 MB of memory.",
        ),
        run(
            3,
            RunOutcome::Skipped,
            "No day with new readings since the last night; 1 is needed.",
        ),
    ];
    view.summary = RunSummary {
        promoted: 9,
        kept: 17,
        skipped: 3,
        failed: 1,
        mean_s: Some(43.2),
    };
    view.models = (1..=5)
        .rev()
        .map(|v| {
            model(
                v,
                if v == 5 {
                    "live"
                } else if v == 2 {
                    "rejected"
                } else {
                    "retired"
                },
            )
        })
        .collect();
    view.back_to = Some(4);
    view.first_night = None;
    view
}
