//! The real binary on a database that a later version has written to.

use crate::intake::{now_plus_s, publish};
use crate::support::{Broker, Station, put_history, wait_for};

#[test]
fn a_version_works_on_what_the_next_one_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut station = Station::new(&broker.url(), "[training]\nenabled = false");
    station.start();
    station.wait_connected();
    station.stop();
    put_history(&station, 1, 16, 600);
    let later = nightwatt::store::SCHEMA_VERSION + 1;
    let conn = rusqlite::Connection::open(station.db()).unwrap();
    // What migrations may do: tables, columns with a default, indices.
    for table in [
        "reading",
        "device",
        "run",
        "model",
        "forecast",
        "event",
        "quarantine",
        "meta",
        "reading_hour",
    ] {
        let sql = format!("ALTER TABLE {table} ADD COLUMN of_the_next_version TEXT DEFAULT 'x'");
        conn.execute_batch(&sql).unwrap();
    }
    conn.execute_batch(
        "CREATE TABLE next_version (id INTEGER PRIMARY KEY, device_no INTEGER REFERENCES device);
         CREATE INDEX next_index ON run (kind, of_the_next_version);
         INSERT INTO event (at_ms, kind, detail) VALUES (1, 'a_kind_of_the_next_version', 'x');
         INSERT INTO run (kind, mode, trigger, started_ms, outcome) VALUES ('later', 'm', 't', 1, 'sublime');",
    )
    .unwrap();
    conn.pragma_update(None, "user_version", later).unwrap();
    drop(conn);
    station.start();
    station.wait_connected();
    let power = format!("{{\"ts\":\"{}\",\"power\":5}}", now_plus_s(-60));
    publish(&broker, "solar/t01/telemetry", false, &[&power]);
    wait_for("the reading", 20, || {
        (station.query::<i64>("SELECT count(*) FROM reading WHERE power = 5") == 1).then_some(())
    });
    let out = station.run(&["train", "--force"]);
    assert!(out.status.success(), "{out:?}");
    wait_for("the model", 120, || {
        (station.query::<i64>("SELECT count(*) FROM model WHERE state = 'live'") == 1).then_some(())
    });
    let power = format!("{{\"ts\":\"{}\",\"power\":6}}", now_plus_s(0));
    publish(&broker, "solar/t01/telemetry", false, &[&power]);
    wait_for("a forecast", 30, || {
        (station.query::<i64>("SELECT count(*) FROM forecast") > 0).then_some(())
    });
    assert!(station.run(&["runs"]).status.success());
    assert!(station.run(&["snapshot"]).status.success());
    assert_eq!(station.query::<i64>("PRAGMA user_version"), later);
    assert_eq!(station.query::<String>("PRAGMA integrity_check"), "ok");
}
