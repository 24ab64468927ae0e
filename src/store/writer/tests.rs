//! Order, merging, counting, lingering, holding and failing of the real writer on a file of its own.

use super::*;
use crate::reading::{DeviceId, Field, TimeSource, Values};
use crate::store::ForecastRow;
use std::sync::Mutex;

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<(Vec<AckToken>, usize)>>);

impl Committed for Heard {
    fn acknowledge(&mut self, tokens: &[AckToken]) {
        self.0.lock().unwrap().0.extend_from_slice(tokens);
    }
    fn stored(&mut self, readings: Vec<Reading>) {
        self.0.lock().unwrap().1 += readings.len();
    }
}

fn reading(ts: i64, set: &[(Field, f64)], time_source: TimeSource) -> Reading {
    let mut values = Values::default();
    for (f, v) in set {
        values.set(*f, Some(*v));
    }
    Reading {
        device: DeviceId::new("t01"),
        ts: TimestampMs(ts),
        received: TimestampMs(ts + 5),
        time_source,
        clock_trusted: true,
        values,
    }
}

fn append(readings: Vec<Reading>, packet_id: u16) -> Append {
    Append {
        readings,
        reject: None,
        ack: Some(AckToken {
            epoch: 1,
            packet_id,
        }),
    }
}

fn block_on<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(f)
}

fn start(dir: &Path) -> (Store, Heard) {
    let heard = Heard::default();
    (
        Writer::start(&dir.join("n.db"), Duration::ZERO, 100, heard.clone()).unwrap(),
        heard,
    )
}

fn query<T: rusqlite::types::FromSql>(dir: &Path, q: &str) -> T {
    open::reading(&dir.join("n.db"))
        .unwrap()
        .query_row(q, [], |r| r.get(0))
        .unwrap()
}

#[test]
fn acknowledged_in_order_of_arrival_and_only_once_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (store, heard) = start(dir.path());
    for i in 1..=500u16 {
        let r = reading(i64::from(i), &[(Field::Power, 1.5)], TimeSource::Device);
        store.try_append(append(vec![r], i)).unwrap();
    }
    block_on(store.stop());
    let heard = heard.0.lock().unwrap();
    assert_eq!(
        heard.0.iter().map(|t| t.packet_id).collect::<Vec<_>>(),
        (1..=500).collect::<Vec<_>>()
    );
    assert_eq!(
        (
            heard.1,
            query::<i64>(dir.path(), "SELECT count(*) FROM telemetry")
        ),
        (500, 500)
    );
}

#[test]
fn a_repeat_is_one_row_and_other_fields_of_the_moment_are_filled_in() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = start(dir.path());
    for set in [
        &[(Field::Power, 10.0)][..],
        &[(Field::Power, 99.0)],
        &[(Field::Lux, 7.0), (Field::Power, 98.0)],
    ] {
        store
            .try_append(append(vec![reading(1, set, TimeSource::Device)], 1))
            .unwrap();
    }
    block_on(store.stop());
    let g = store.gauges();
    assert_eq!(
        (
            g.rows.load(Ordering::Relaxed),
            g.duplicates.load(Ordering::Relaxed)
        ),
        (1, 1),
        "what fills a field in is no repeat"
    );
    let row: String = query(
        dir.path(),
        "SELECT count(*) || ' ' || power || ' ' || lux FROM telemetry",
    );
    assert_eq!(row, "1 10.0 7.0");
}

#[test]
fn in_a_bucket_without_device_time_the_latest_value_wins() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = start(dir.path());
    for power in [10.0, 12.0] {
        let r = reading(60_000, &[(Field::Power, power)], TimeSource::Received);
        store.try_append(append(vec![r], 1)).unwrap();
    }
    block_on(store.stop());
    assert_eq!(
        query::<f64>(dir.path(), "SELECT power FROM telemetry"),
        12.0
    );
    let repeats = store.gauges().duplicates.load(Ordering::Relaxed);
    assert_eq!(
        repeats, 0,
        "values of one minute are no repeats of each other"
    );
}

#[test]
fn readings_of_doubtful_time_never_swallow_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = start(dir.path());
    for power in 0..200 {
        let r = reading(
            5,
            &[(Field::Power, f64::from(power))],
            TimeSource::Implausible,
        );
        store.try_append(append(vec![r], 1)).unwrap();
    }
    block_on(store.stop());
    let (again, _) = start(dir.path());
    let r = reading(5, &[(Field::Power, 200.0)], TimeSource::Implausible);
    again.try_append(append(vec![r], 1)).unwrap();
    block_on(again.stop());
    let n: i64 = query(dir.path(), "SELECT count(DISTINCT power) FROM telemetry");
    assert_eq!(n, 201);
}

#[test]
fn a_flood_of_refused_messages_is_sampled_counted_and_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (store, heard) = start(dir.path());
    for i in 0..1200 {
        let reject = Reject {
            at: TimestampMs(i),
            topic: "x/y".into(),
            reason: "not_json",
            sample: b"{".to_vec(),
        };
        let a = Append {
            readings: vec![],
            reject: Some(reject),
            ack: Some(AckToken {
                epoch: 1,
                packet_id: 1,
            }),
        };
        store.try_append(a).unwrap();
    }
    block_on(store.stop());
    assert_eq!(
        query::<i64>(dir.path(), "SELECT count(*) FROM quarantine"),
        20
    );
    assert_eq!(
        query::<i64>(dir.path(), "SELECT count FROM reject_count"),
        1200
    );
    assert_eq!(store.gauges().rejects.load(Ordering::Relaxed), 1200);
    assert_eq!(heard.0.lock().unwrap().0.len(), 1200);
}

#[test]
fn a_linger_ends_with_a_full_window_and_not_with_the_watchdogs_question() {
    let dir = tempfile::tempdir().unwrap();
    let heard = Heard::default();
    let linger = Duration::from_secs(600);
    let db = dir.path().join("n.db");
    let store = Writer::start(&db, linger, 5, heard.clone()).unwrap();
    let acknowledged = |n: usize| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while heard.0.lock().unwrap().0.len() < n {
            assert!(Instant::now() < deadline, "waited for {n} acknowledgements");
            std::thread::yield_now();
        }
    };
    let send = |ts: i64| {
        let r = reading(ts, &[(Field::Power, 1.0)], TimeSource::Device);
        store.try_append(append(vec![r], 1)).unwrap();
    };
    (0..4).for_each(send);
    let before = store.gauges().turns.load(Ordering::Relaxed);
    for _ in 0..3 {
        store.nudge();
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.gauges().turns.load(Ordering::Relaxed) < before + 3 {
        assert!(Instant::now() < deadline, "a nudge must make it turn");
        std::thread::yield_now();
    }
    // A chore is done meanwhile and ends nothing either.
    block_on(store.checkpoint()).unwrap();
    assert_eq!(store.gauges().commits.load(Ordering::Relaxed), 0);
    send(4);
    acknowledged(5);
    assert_eq!(store.gauges().commits.load(Ordering::Relaxed), 1);
    block_on(store.stop());
}

#[test]
fn what_is_only_counted_costs_no_commit_and_is_written_soon_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (store, heard) = start(dir.path());
    let send = |n: u16| {
        for _ in 0..n {
            let reject = Reject {
                at: TimestampMs(1),
                topic: "x/y".into(),
                reason: "not_json",
                sample: vec![],
            };
            let mut a = append(vec![], 1);
            a.reject = Some(reject);
            store.try_append(a).unwrap();
        }
    };
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::yield_now();
        }
    };
    let counted = || query::<Option<i64>>(dir.path(), "SELECT sum(count) FROM reject_topic");
    send(30);
    wait("the first are not counted", &|| counted() == Some(30));
    let before = store.gauges().commits.load(Ordering::Relaxed);
    for round in 1..=20 {
        send(20);
        let acked = || heard.0.lock().unwrap().0.len();
        wait("not acknowledged", &|| acked() == 30 + 20 * round);
    }
    wait("nothing else comes and they stay unwritten", &|| {
        counted() == Some(430)
    });
    let commits = store.gauges().commits.load(Ordering::Relaxed) - before;
    assert!(commits < 15, "{commits} commits for what is only counted");
    block_on(store.stop());
}

#[test]
fn while_held_nothing_is_acknowledged_and_chores_are_done() {
    let dir = tempfile::tempdir().unwrap();
    let (store, heard) = start(dir.path());
    store.gauges().hold.store(true, Ordering::Relaxed);
    let r = reading(1, &[(Field::Power, 1.0)], TimeSource::Device);
    store.try_append(append(vec![r], 7)).unwrap();
    for at in 0..3 {
        let noted = store.note_event(TimestampMs(at), "x", "while held".into());
        block_on(noted).unwrap();
    }
    assert!(heard.0.lock().unwrap().0.is_empty());
    store.gauges().hold.store(false, Ordering::Relaxed);
    block_on(store.stop());
    assert_eq!(heard.0.lock().unwrap().0.len(), 1);
}

#[test]
fn damage_ends_the_writer_without_an_acknowledgement() {
    let dir = tempfile::tempdir().unwrap();
    let (store, heard) = start(dir.path());
    let told: Result<(), _> = block_on(store.run("stumble over damage", |_| {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        Err(rusqlite::Error::SqliteFailure(code, None))
    }));
    assert!(told.unwrap_err().is_damage());
    let r = reading(1, &[(Field::Power, 1.0)], TimeSource::Device);
    let _ = store.try_append(append(vec![r], 7));
    assert!(!block_on(store.stop()), "it counts as closed in order");
    assert!(heard.0.lock().unwrap().0.is_empty());
}

#[test]
fn a_failing_commit_acknowledges_nothing_until_it_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let (store, heard) = start(dir.path());
    // Another writer holds the database longer than the busy timeout would bear in a test.
    let other = Connection::open(dir.path().join("n.db")).unwrap();
    block_on(store.run("shorten the patience", |tx| {
        tx.busy_timeout(Duration::from_millis(1))
    }))
    .unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    store
        .try_append(append(
            vec![reading(1, &[(Field::Power, 1.0)], TimeSource::Device)],
            7,
        ))
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !store.gauges().failing.load(Ordering::Relaxed) {
        assert!(Instant::now() < deadline, "the commit did not fail");
        std::thread::yield_now();
    }
    assert!(heard.0.lock().unwrap().0.is_empty());
    other.execute_batch("COMMIT").unwrap();
    block_on(store.stop());
    assert_eq!(
        heard.0.lock().unwrap().0,
        [AckToken {
            epoch: 1,
            packet_id: 7
        }]
    );
}

#[test]
fn a_reader_with_the_writers_memory_sees_what_one_without_does() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = start(dir.path());
    let put = |device: &str, ts: i64, power: f64, source: TimeSource| {
        let mut r = reading(ts, &[(Field::Power, power)], source);
        r.device = DeviceId::new(device);
        store.try_append(append(vec![r], 1)).unwrap();
    };
    let forecast = |device: &str, issued: i64| {
        ForecastRow::by_smart(
            DeviceId::new(device),
            TimestampMs(issued),
            15,
            issued as f64,
        )
    };
    let same = || {
        let (known, scanned) = (store.reader().unwrap(), Reader::open(&store.path).unwrap());
        assert_eq!(known.latest().unwrap(), scanned.latest().unwrap());
        let forecasts = known.latest_forecasts().unwrap();
        assert_eq!(forecasts, scanned.latest_forecasts().unwrap());
        (known.latest().unwrap().len(), forecasts.len())
    };
    assert_eq!(same(), (0, 0));
    put("a", 1_000, 1.0, TimeSource::Device);
    put("b", 5_000, 2.0, TimeSource::Device);
    put("a", 9_000, 3.0, TimeSource::Device);
    put("a", 4_000, 4.0, TimeSource::Device);
    put("c", 9_000, 5.0, TimeSource::Implausible);
    put("c", 9_000, 6.0, TimeSource::Implausible);
    block_on(store.save_forecasts(vec![forecast("a", 60_000), forecast("b", 60_000)])).unwrap();
    block_on(store.save_forecasts(vec![forecast("a", 120_000), forecast("nobody", 0)])).unwrap();
    assert_eq!(same(), (3, 2));
    // The last to arrive, which is not the newest; a repeat is none.
    put("a", 9_000, 3.0, TimeSource::Device);
    assert_eq!(same(), (3, 2));
    let heard = |store: &Store| store.reader().unwrap().heard().unwrap();
    assert_eq!(heard(&store)[&DeviceId::new("a")].at, TimestampMs(4_000));
    // A day later only one of them is new.
    put("b", 86_400_000 + 9_001, 7.0, TimeSource::Device);
    block_on(store.settle_forecasts(vec![(
        DeviceId::new("a"),
        TimestampMs(1_020_000),
        Some(5.0),
    )]))
    .unwrap();
    assert_eq!(same(), (1, 2));
    block_on(store.stop());
    let (again, _) = start(dir.path());
    assert_eq!(again.reader().unwrap().latest().unwrap().len(), 1);
    let newest = heard(&again)[&DeviceId::new("b")].at;
    assert_eq!(newest, TimestampMs(86_400_000 + 9_001));
    block_on(again.stop());
}

/// A question that is queued behind the end would otherwise wait for ever, and whoever asked with it.
#[test]
fn who_asks_while_the_writer_ends_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = start(dir.path());
    let (told, answer) = flume::bounded(1);
    std::thread::spawn(move || {
        block_on(async {
            let (go, wait) = flume::bounded::<()>(0);
            let busy = store.run("be busy", move |_| {
                let _ = wait.recv();
                Ok(())
            });
            let late = store.run("ask late", |_| Ok(()));
            let release = async { drop(go) };
            let (busy, stopped, late, ()) = tokio::join!(busy, store.stop(), late, release);
            let _ = told.send((busy.is_ok(), stopped, late.is_err()));
        });
    });
    let answer = answer.recv_timeout(Duration::from_secs(20));
    assert_eq!(answer, Ok((true, true, true)));
}
