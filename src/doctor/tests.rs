//! Each check over invented surroundings: sound, and broken in its own way.

use std::path::Path;

use super::*;
use crate::config::{Config, Protocol};
use crate::reading::TimestampMs;

fn healthy() -> Env {
    let mut config = Config::default();
    config.site.latitude = Some(40.0);
    config.site.longitude = Some(-3.0);
    config.mqtt.username = Some("nightwatt".into());
    Env {
        config,
        broker: Broker::Answered {
            keeps_sessions: true,
            refused_filters: Some(0),
            heard: true,
            told: Told {
                version: Some("mosquitto version 2.0.11".into()),
                dropped: Some(0),
            },
        },
        folder: Access::Writable,
        file: Access::Writable,
        socket_folder: Access::Writable,
        secrets: vec![("p".into(), Some(0o640))],
        disk: Some(Disk {
            room_bytes: 9_000_000_000,
            kind: Some("ext4".into()),
            read_only: false,
        }),
        now: TimestampMs(1_900_000_000_000),
        synchronised: Some(true),
        database: Database::Sound { devices: 3 },
        holder: Some(7),
        daemon_answers: true,
    }
}

fn answered(keeps_sessions: bool, refused_filters: Option<usize>, heard: bool) -> Broker {
    Broker::Answered {
        keeps_sessions,
        refused_filters,
        heard,
        told: Told::default(),
    }
}

fn disk(room_bytes: u64, kind: Option<&str>, read_only: bool) -> Option<Disk> {
    let kind = kind.map(str::to_owned);
    Some(Disk {
        room_bytes,
        kind,
        read_only,
    })
}

#[test]
fn a_healthy_station_has_nothing_to_do() {
    for f in examine(&healthy()) {
        assert_eq!((f.grade, &f.advice), (Grade::Ok, &None), "{f:?}");
    }
}

#[test]
fn each_check_goes_red_for_what_it_looks_at_and_says_what_to_do() {
    use Grade::{Problem, Warning};
    type Break = fn(&mut Env);
    let cases: [(&str, Grade, Break); 36] = [
        ("configuration", Warning, |e| e.config.site.latitude = None),
        ("broker", Problem, |e| {
            e.broker = Broker::Unreachable("refused".into())
        }),
        ("broker", Problem, |e| {
            e.broker = Broker::Refused("password".into())
        }),
        ("broker", Problem, |e| e.broker = Broker::OnlyV311),
        ("broker", Warning, |e| {
            e.config.mqtt.protocol = Protocol::V311
        }),
        ("session", Problem, |e| {
            e.broker = answered(false, Some(0), true)
        }),
        ("session", Warning, |e| e.broker = Broker::OnlyV311),
        ("subscriptions", Problem, |e| {
            e.broker = answered(true, Some(1), true)
        }),
        ("subscriptions", Problem, |e| {
            e.broker = answered(true, None, true)
        }),
        ("subscriptions", Warning, |e| {
            e.broker = answered(true, Some(0), false)
        }),
        ("subscriptions", Warning, |e| e.broker = Broker::OnlyV311),
        ("dropped", Warning, |e| {
            if let Broker::Answered { told, .. } = &mut e.broker {
                told.dropped = Some(500);
            }
        }),
        ("dropped", Warning, |e| e.broker = Broker::OnlyV311),
        ("permissions", Problem, |e| e.folder = Access::Denied),
        ("permissions", Problem, |e| e.file = Access::Denied),
        ("permissions", Warning, |e| e.folder = Access::Missing),
        ("socket", Problem, |e| {
            (e.daemon_answers, e.socket_folder) = (false, Access::Denied);
        }),
        ("socket", Warning, |e| {
            (e.daemon_answers, e.socket_folder) = (false, Access::Missing);
        }),
        ("password", Problem, |e| e.secrets[0].1 = Some(0o644)),
        ("password", Problem, |e| e.secrets[0].1 = None),
        ("password", Warning, |e| {
            (e.secrets, e.config.mqtt.username) = (vec![], None);
        }),
        ("disk", Problem, |e| {
            e.disk = disk(1_000_000, Some("ext4"), false)
        }),
        ("disk", Problem, |e| {
            (e.config.store.reserve_mb, e.disk) = (4096, disk(1_000_000_000, Some("ext4"), false));
        }),
        ("disk", Warning, |e| {
            (e.config.store.low_disk_mb, e.disk) = (4096, disk(3_000_000_000, Some("ext4"), false));
        }),
        ("disk", Problem, |e| {
            e.disk = disk(9_000_000_000, Some("ext4"), true)
        }),
        ("disk", Warning, |e| {
            e.disk = disk(400_000_000, Some("ext4"), false)
        }),
        ("disk", Warning, |e| e.disk = None),
        ("file_system", Problem, |e| {
            e.disk = disk(9_000_000_000, Some("nfs4"), false)
        }),
        ("file_system", Problem, |e| {
            e.disk = disk(9_000_000_000, Some("tmpfs"), false)
        }),
        ("file_system", Warning, |e| {
            e.disk = disk(9_000_000_000, Some("vfat"), false)
        }),
        ("file_system", Warning, |e| {
            e.disk = disk(9_000_000_000, None, false)
        }),
        ("clock", Problem, |e| e.now = TimestampMs(0)),
        ("clock", Warning, |e| e.synchronised = Some(false)),
        ("clock", Warning, |e| e.synchronised = None),
        ("database", Problem, |e| {
            e.database = Database::Unreadable("torn".into())
        }),
        ("daemon", Problem, |e| e.daemon_answers = false),
    ];
    for (check, grade, break_it) in cases {
        let mut env = healthy();
        break_it(&mut env);
        let findings = examine(&env);
        let found = findings.iter().find(|f| f.check == check).unwrap();
        assert_eq!(found.grade, grade, "{found:?}");
        assert!(found.advice.is_some(), "{found:?}");
        let shown = render(&findings);
        assert!(shown.lines().all(|l| l.chars().count() <= 80), "{shown}");
    }
    let mut env = healthy();
    (env.holder, env.daemon_answers, env.database) = (None, false, Database::Absent);
    assert!(examine(&env).iter().all(|f| f.grade != Problem));
    env.broker = answered(true, Some(0), true);
    let silent = examine(&env);
    assert!(
        silent
            .iter()
            .any(|f| f.check == "dropped" && f.grade == Grade::Ok)
    );
}

#[test]
fn the_file_system_is_that_of_the_deepest_mount() {
    let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                  30 22 0:5 / /var/lib rw shared:2 - nfs4 host:/x rw\n\
                  31 22 0:6 / /mnt/a\\040b rw - vfat /dev/sdb rw";
    let at = |path: &str| file_system_of(mounts, Path::new(path));
    assert_eq!(at("/var/lib/nightwatt").as_deref(), Some("nfs4"));
    assert_eq!(at("/var/library").as_deref(), Some("ext4"));
    assert_eq!(at("/mnt/a b/c").as_deref(), Some("vfat"));
    assert_eq!(file_system_of("", Path::new("/")), None);
}
