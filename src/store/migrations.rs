//! The schema as an append-only list of steps, each applied once in one transaction.
//!
//! **Never change, remove or reorder an entry, never drop or rename a column**: after a rolled-back
//! update the previous binary opens the file this one has written.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::{StoreError, sql};

const STEPS: &[&str] = &[
    // 1: readings, what was refused, what happened, runs, models, forecasts.
    // `reading` is keyed by time first: readings arrive in time order, so a commit touches the tail of
    // one B-tree instead of one page per device.
    "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE device (
        device_no INTEGER PRIMARY KEY,
        device_id TEXT NOT NULL UNIQUE,
        first_seen_ms INTEGER NOT NULL
    );
    CREATE TABLE reading (
        ts_ms INTEGER NOT NULL,
        device_no INTEGER NOT NULL REFERENCES device,
        received_ms INTEGER NOT NULL,
        time_source INTEGER NOT NULL,
        clock_trusted INTEGER NOT NULL,
        servo_angle REAL, lux REAL, voltage REAL, current REAL,
        power REAL, temperature REAL, humidity REAL, fan_on REAL,
        PRIMARY KEY (ts_ms, device_no)
    ) WITHOUT ROWID;
    CREATE VIEW telemetry AS
        SELECT device_id, ts_ms, received_ms, servo_angle, lux, voltage, current, power,
               temperature, humidity, CAST(fan_on AS INTEGER) AS fan_on
        FROM reading JOIN device USING (device_no);
    CREATE TABLE quarantine (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms INTEGER NOT NULL, topic TEXT NOT NULL, reason TEXT NOT NULL, payload BLOB NOT NULL
    );
    CREATE TABLE reject_count (
        reason TEXT PRIMARY KEY, count INTEGER NOT NULL, last_ms INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE event (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms INTEGER NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL
    );
    CREATE TABLE run (
        run_id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL, mode TEXT NOT NULL, trigger TEXT NOT NULL,
        nominal_ms INTEGER,
        started_ms INTEGER NOT NULL, ended_ms INTEGER,
        outcome TEXT, reason TEXT, report TEXT
    );
    CREATE TABLE model (
        version INTEGER PRIMARY KEY AUTOINCREMENT,
        state TEXT NOT NULL, run_id INTEGER REFERENCES run,
        created_ms INTEGER NOT NULL, promoted_ms INTEGER, retired_ms INTEGER,
        reason TEXT NOT NULL, metrics TEXT NOT NULL, bytes BLOB NOT NULL
    );
    CREATE UNIQUE INDEX one_live_model ON model (state) WHERE state = 'live';
    CREATE TABLE forecast (
        target_ms INTEGER NOT NULL, device_no INTEGER NOT NULL REFERENCES device,
        horizon_min INTEGER NOT NULL,
        issued_ms INTEGER NOT NULL, model_version INTEGER, source TEXT NOT NULL,
        power_w REAL NOT NULL, p10_w REAL, p90_w REAL, smart_w REAL NOT NULL, naive_w REAL NOT NULL,
        actual_w REAL, settled INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (target_ms, device_no, horizon_min)
    ) WITHOUT ROWID;
    CREATE INDEX forecast_unsettled ON forecast (target_ms) WHERE settled = 0;
    ",
    // 2: what stays of readings for good: per hour and device the number of readings, the mean of each
    // field, least and greatest power. `sealed`: its readings are gone, so it is only ever added to.
    "
    CREATE TABLE reading_hour (
        hour_ms INTEGER NOT NULL,
        device_no INTEGER NOT NULL REFERENCES device,
        n INTEGER NOT NULL,
        sealed INTEGER NOT NULL,
        servo_angle REAL, lux REAL, voltage REAL, current REAL,
        power REAL, temperature REAL, humidity REAL, fan_on REAL,
        power_min REAL, power_max REAL,
        PRIMARY KEY (hour_ms, device_no)
    ) WITHOUT ROWID;
    CREATE VIEW telemetry_hourly AS
        SELECT device_id, hour_ms, n AS readings, servo_angle, lux, voltage, current, power,
               temperature, humidity, fan_on, power_min, power_max
        FROM reading_hour JOIN device USING (device_no);
    ",
    // 3: refused messages by topic as well; of topics beyond a hundred the topic is ''.
    "
    CREATE TABLE reject_topic (
        topic TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL, last_ms INTEGER NOT NULL,
        PRIMARY KEY (topic, reason)
    ) WITHOUT ROWID;
    ",
    // 4: which version was live when (a version may be deleted; that it was live stays), and warnings
    // beside forecasts.
    "
    CREATE TABLE model_life (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        version INTEGER NOT NULL, from_ms INTEGER NOT NULL, to_ms INTEGER, why TEXT NOT NULL,
        back_to INTEGER
    );
    ALTER TABLE forecast ADD COLUMN ramp_probability REAL;
    ",
    // 5: alerts (one that stands is never raised again), who was told of them, and the newest errors.
    "
    CREATE TABLE alert (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL, subject TEXT NOT NULL, level TEXT NOT NULL,
        text TEXT NOT NULL, next_step TEXT,
        raised_ms INTEGER NOT NULL, cleared_ms INTEGER, acknowledged_ms INTEGER
    );
    CREATE UNIQUE INDEX one_standing_alert ON alert (kind, subject) WHERE cleared_ms IS NULL;
    CREATE TABLE alert_delivery (
        alert_id INTEGER NOT NULL REFERENCES alert, state TEXT NOT NULL, channel TEXT NOT NULL,
        queued_ms INTEGER NOT NULL, delivered_ms INTEGER,
        PRIMARY KEY (alert_id, state, channel)
    ) WITHOUT ROWID;
    CREATE INDEX alert_undelivered ON alert_delivery (channel, queued_ms) WHERE delivered_ms IS NULL;
    CREATE TABLE error_report (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        stage TEXT NOT NULL, level TEXT NOT NULL, text TEXT NOT NULL,
        times INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
        UNIQUE (stage, text)
    );
    ",
];

/// The newest schema this binary knows.
pub const SCHEMA_VERSION: i64 = STEPS.len() as i64;

const MIN_READER_KEY: &str = "min_reader_version";

/// Brings the file up to [`SCHEMA_VERSION`]; a newer file is left as it is where it allows that.
pub(super) fn apply(conn: &mut Connection, path: &std::path::Path) -> Result<(), StoreError> {
    apply_steps(conn, path, STEPS)
}

fn apply_steps(
    conn: &mut Connection,
    path: &std::path::Path,
    steps: &[&str],
) -> Result<(), StoreError> {
    let act = "bring the schema up to date";
    let found = version(conn)?;
    let known = steps.len() as i64;
    if found > known {
        let needed = min_reader(conn)?;
        if needed > known {
            return Err(StoreError::TooNew {
                path: path.to_owned(),
                found,
                needed,
                known,
            });
        }
        return Ok(());
    }
    let tx = conn
        .transaction_with_behavior(TransactionBehavior::Exclusive)
        .map_err(sql(act))?;
    for step in &steps[found as usize..] {
        tx.execute_batch(step).map_err(sql(act))?;
    }
    tx.pragma_update(None, "user_version", known)
        .map_err(sql(act))?;
    tx.commit().map_err(sql(act))
}

/// Refuses a file that a reader of this version must not interpret.
pub(super) fn check_readable(conn: &Connection, path: &std::path::Path) -> Result<(), StoreError> {
    let found = version(conn)?;
    let needed = if found > SCHEMA_VERSION {
        min_reader(conn)?
    } else {
        0
    };
    if needed > SCHEMA_VERSION {
        return Err(StoreError::TooNew {
            path: path.to_owned(),
            found,
            needed,
            known: SCHEMA_VERSION,
        });
    }
    Ok(())
}

pub(super) fn version(conn: &Connection) -> Result<i64, StoreError> {
    conn.pragma_query_value(None, "user_version", |r| r.get(0))
        .map_err(sql("read the schema version"))
}

fn min_reader(conn: &Connection) -> Result<i64, StoreError> {
    let stored: Option<String> = conn
        .query_row(
            "SELECT value FROM meta WHERE key = ?1",
            [MIN_READER_KEY],
            |r| r.get(0),
        )
        .optional()
        .map_err(sql("read the oldest allowed version"))?;
    match stored {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| StoreError::Damaged {
            what: "a min_reader_version",
            why: format!("{text:?} is not a number"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn tables(conn: &Connection) -> i64 {
        conn.query_row(
            "SELECT count(*) FROM sqlite_master WHERE type = 'table'",
            [],
            |r| r.get(0),
        )
        .unwrap()
    }

    #[test]
    fn a_new_file_gets_every_step_once() {
        let mut conn = Connection::open_in_memory().unwrap();
        apply(&mut conn, Path::new("x")).unwrap();
        let n = tables(&conn);
        assert!(n > 5);
        apply(&mut conn, Path::new("x")).unwrap();
        assert_eq!(
            (tables(&conn), version(&conn).unwrap()),
            (n, SCHEMA_VERSION)
        );
    }

    #[test]
    fn a_failing_step_leaves_the_file_as_it_was() {
        let mut conn = Connection::open_in_memory().unwrap();
        let steps = [
            "CREATE TABLE a (x)",
            "CREATE TABLE b (x); CREATE TABLE b (x)",
        ];
        apply_steps(&mut conn, Path::new("x"), &steps).unwrap_err();
        assert_eq!((tables(&conn), version(&conn).unwrap()), (0, 0));
    }

    #[test]
    fn a_newer_file_opens_unless_it_forbids_it() {
        let mut conn = Connection::open_in_memory().unwrap();
        apply(&mut conn, Path::new("x")).unwrap();
        conn.pragma_update(None, "user_version", SCHEMA_VERSION + 3)
            .unwrap();
        apply(&mut conn, Path::new("x")).unwrap();
        check_readable(&conn, Path::new("x")).unwrap();
        conn.execute(
            "INSERT INTO meta VALUES (?1, ?2)",
            (MIN_READER_KEY, (SCHEMA_VERSION + 1).to_string()),
        )
        .unwrap();
        let refused = apply(&mut conn, Path::new("x")).unwrap_err();
        assert!(
            matches!(refused, StoreError::TooNew { needed, .. } if needed == SCHEMA_VERSION + 1)
        );
        check_readable(&conn, Path::new("x")).unwrap_err();
    }
}
