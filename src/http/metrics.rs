//! Figures for Prometheus, in its text form (OpenMetrics 1.0).

use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry, Unit};

use super::problem::Problem;
use super::routes::{App, blocking};
use crate::status::Status;
use crate::store::space::DiskLevel;
use crate::store::{Store, WriterGauges};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Value = Gauge<f64, AtomicU64>;

/// One scrape: filled anew for each, since everything but the histogram is counted elsewhere already.
struct Sheet(Registry);

impl Sheet {
    fn metric(&mut self, name: &str, unit: Option<Unit>, help: &str, metric: impl Metric) {
        match unit {
            Some(unit) => self.0.register_with_unit(name, help, unit, metric),
            None => self.0.register(name, help, metric),
        }
    }

    /// `nightwatt_<name>_total`.
    fn count(&mut self, name: &str, unit: Option<Unit>, help: &str, value: u64) {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        self.metric(name, unit, help, counter);
    }

    /// A value that goes up and down; nothing where there is none.
    fn value(&mut self, name: &str, unit: Option<Unit>, help: &str, value: Option<f64>) {
        if let Some(value) = value {
            let gauge = Value::default();
            gauge.set(value);
            self.metric(name, unit, help, gauge);
        }
    }

    /// One value for each set of labels.
    fn values(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let family = Family::<Labels, Value>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.metric(name, unit, help, family);
    }
}

pub(super) async fn metrics(State(station): State<App>) -> Result<Response, Problem> {
    let text = blocking(move || {
        let status = station.status().map_err(Problem::broken)?;
        text(&status, station.store()).map_err(|e| Problem::broken(e.to_string()))
    })
    .await?;
    Ok(([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response())
}

fn text(status: &Status, store: &Store) -> Result<String, std::fmt::Error> {
    let mut sheet = Sheet(Registry::with_prefix("nightwatt"));
    flow(&mut sheet, status, store);
    disk(&mut sheet, status);
    nights(&mut sheet, status);
    skill(&mut sheet, status);
    let mut text = String::new();
    encode(&mut text, &sheet.0)?;
    Ok(text)
}

fn seconds_since(status: &Status, then: Option<crate::reading::TimestampMs>) -> Option<f64> {
    then.map(|t| (status.now.0 - t.0) as f64 / 1000.0)
}

fn flag(value: bool) -> Option<f64> {
    Some(f64::from(u8::from(value)))
}

/// Intake and store.
fn flow(sheet: &mut Sheet, s: &Status, store: &Store) {
    let g: &WriterGauges = store.gauges();
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let version = vec![("version", s.version.clone())];
    sheet.values("build", None, "The version that runs", [(version, 1.0)]);
    if let Some(d) = &s.daemon {
        let intake = &d.intake;
        sheet.value(
            "start_time",
            Some(Unit::Seconds),
            "When the daemon started, seconds since 1970",
            Some(d.started.0 as f64 / 1000.0),
        );
        sheet.value(
            "connected",
            None,
            "1 while the broker has let us in",
            flag(intake.connected),
        );
        sheet.count(
            "connections",
            None,
            "Connections to the broker since start",
            intake.connections,
        );
        sheet.count(
            "sessions_lost",
            None,
            "How often the broker had forgotten our session",
            intake.sessions_lost,
        );
        sheet.count(
            "messages_received",
            None,
            "Messages received since start",
            d.received,
        );
        sheet.value(
            "store_failing",
            None,
            "1 while commits fail",
            flag(d.store_failing),
        );
        sheet.value(
            "clock_trusted",
            None,
            "1 while the clock is believed",
            flag(!d.clock_doubtful && s.clock_plausible),
        );
        sheet.value(
            "last_message_age",
            Some(Unit::Seconds),
            "Since the newest message arrived",
            seconds_since(s, intake.last_message),
        );
        if let Some(bytes) = d.written_bytes {
            sheet.count(
                "written",
                Some(Unit::Bytes),
                "Bytes the daemon has caused to be written since start",
                bytes,
            );
        }
    }
    sheet.count(
        "messages_committed",
        None,
        "Messages whose commit succeeded since start",
        of(&g.messages),
    );
    sheet.count("rows", None, "New rows since start", of(&g.rows));
    sheet.count(
        "duplicates",
        None,
        "Readings that were there already and brought nothing new, since start",
        of(&g.duplicates),
    );
    sheet.count(
        "doubtful_times",
        None,
        "Rows since start whose own time was not believed",
        of(&g.doubtful),
    );
    sheet.count("commits", None, "Commits since start", of(&g.commits));
    sheet.metric(
        "commit_duration",
        Some(Unit::Seconds),
        "How long a commit took until it was on the disk",
        g.commit_seconds.0.clone(),
    );
    sheet.value(
        "queue_messages",
        None,
        "Messages that wait for the writer",
        Some(store.queued() as f64),
    );
    sheet.value(
        "queue_capacity_messages",
        None,
        "Messages that may wait for it",
        Some(store.queue_capacity() as f64),
    );
    sheet.value(
        "newest_reading_age",
        Some(Unit::Seconds),
        "Since the newest reading's own time",
        seconds_since(s, s.store.newest),
    );
    let ages = s.devices.iter().filter_map(|(device, newest, _)| {
        Some((
            vec![("device", device.to_string())],
            seconds_since(s, Some(*newest))?,
        ))
    });
    sheet.values(
        "device_reading_age",
        Some(Unit::Seconds),
        "Since a device's newest reading",
        ages.collect::<Vec<_>>(),
    );
    let power = s
        .devices
        .iter()
        .filter_map(|(device, _, power)| Some((vec![("device", device.to_string())], (*power)?)));
    sheet.values(
        "device_power_watts",
        None,
        "Power of a device's newest reading",
        power.collect::<Vec<_>>(),
    );
    sheet.value(
        "devices",
        None,
        "Devices ever seen",
        Some(s.store.devices as f64),
    );
    let counts = Family::<Labels, Counter>::default();
    for reject in &s.store.rejects {
        let labels = vec![("reason", reject.reason.clone())];
        counts
            .get_or_create(&labels)
            .inc_by(reject.count.max(0).unsigned_abs());
    }
    sheet.metric(
        "quarantined",
        None,
        "Refused messages since they were last forgotten",
        counts,
    );
}

fn disk(sheet: &mut Sheet, s: &Status) {
    let bytes = Some(Unit::Bytes);
    sheet.value(
        "database",
        bytes.clone(),
        "Size of the database",
        Some(s.store.database_bytes as f64),
    );
    sheet.value(
        "wal",
        bytes.clone(),
        "Size of its write-ahead log",
        Some(s.store.wal_bytes as f64),
    );
    sheet.value(
        "disk_free",
        bytes,
        "Free on its file system",
        s.disk_free_bytes.map(|b| b as f64),
    );
    let level = s.daemon.as_ref().map(|d| match d.disk {
        DiskLevel::Normal => 0.0,
        DiskLevel::Low => 1.0,
        DiskLevel::Full => 2.0,
    });
    sheet.value("disk_level", None, "0: enough room, 1: low, 2: full", level);
}

fn nights(sheet: &mut Sheet, s: &Status) {
    let Some(run) = &s.last_run else { return };
    let training = s.daemon.as_ref().is_some_and(|d| d.training);
    sheet.value(
        "training",
        None,
        "1 while a run is going on",
        flag(training),
    );
    sheet.value(
        "night_failed_in_row",
        None,
        "Nights since the last that did not fail",
        Some(f64::from(s.nights.failed_in_row)),
    );
    sheet.value(
        "night_age",
        Some(Unit::Seconds),
        "Since the last night began",
        seconds_since(s, Some(run.started)),
    );
    if let (Some(outcome), Some(ended)) = (run.outcome, run.ended) {
        let took_s = (ended.0 - run.started.0) as f64 / 1000.0;
        let labels = vec![("outcome", outcome.as_str().to_owned())];
        sheet.values(
            "night_outcome",
            None,
            "1 for how the last night ended",
            [(labels, 1.0)],
        );
        sheet.value(
            "night_duration",
            Some(Unit::Seconds),
            "How long the last night took",
            Some(took_s),
        );
    }
    sheet.value(
        "night_learned_age",
        Some(Unit::Seconds),
        "Since the last night that learned",
        seconds_since(s, s.nights.learned),
    );
}

/// Forecasts of the last seven days, all devices together (no label `device`) and each.
fn skill(sheet: &mut Sheet, s: &Status) {
    sheet.value(
        "model_version",
        None,
        "The live version; 0 for none",
        Some(s.model.as_ref().map_or(0.0, |m| m.version as f64)),
    );
    let issued = s.forecasts.iter().map(|f| f.issued).max();
    sheet.value(
        "forecast_age",
        Some(Unit::Seconds),
        "Since the newest forecast was made",
        seconds_since(s, issued),
    );
    let rows = || {
        s.accuracy_by_device.iter().map(|row| {
            let mut labels = vec![("horizon_min", row.accuracy.horizon_min.to_string())];
            labels.extend(row.device.as_ref().map(|d| ("device", d.to_string())));
            (labels, row.accuracy)
        })
    };
    sheet.values(
        "forecast_mae_watts",
        None,
        "Mean absolute error of what was published in the last seven days",
        rows().map(|(l, a)| (l, a.mae_w)),
    );
    sheet.values(
        "smart_mae_watts",
        None,
        "The same of smart persistence",
        rows().map(|(l, a)| (l, a.smart_mae_w)),
    );
    sheet.values(
        "naive_mae_watts",
        None,
        "The same of naive persistence",
        rows().map(|(l, a)| (l, a.naive_mae_w)),
    );
    sheet.values(
        "forecast_skill",
        None,
        "1 - error / error of smart persistence",
        rows().filter_map(|(l, a)| Some((l, a.skill()?))),
    );
}
