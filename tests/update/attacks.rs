//! What somebody on the way, or with one stolen key, may send.

use nightwatt::config::Config;
use nightwatt::reading::TimestampMs;
use nightwatt::update::{Ask, Outcome, UpdateError, Updater, Verb};
use serde_json::json;

use super::{Publisher, Updated, speaking};
use crate::intake::publish;
use crate::support::{Broker, wait_for};

/// 2026-12-01, which a manifest of these tests has been signed before.
const NOW: Option<TimestampMs> = Some(TimestampMs(1_796_083_200_000));

fn config(updated: &Updated) -> Config {
    let path = updated.station.dir.path().join("n.toml");
    Config::load(Some(&path), []).unwrap()
}

#[test]
fn o2_no_changed_bit_and_no_other_signature_is_accepted_and_nothing_is_left_behind() {
    let (publisher, stranger) = (Publisher::new(), Publisher::new());
    let updated = Updated::new(&[&publisher], "");
    let folder = updated.release(8);
    publisher.publish(&folder, 8, &speaking(8), |_| ());
    let (path, config) = (folder.join("nightwatt-manifest.json"), config(&updated));
    let signature_path = path.with_extension("json.minisig");
    let good = std::fs::read(&path).unwrap();
    let signature = std::fs::read(&signature_path).unwrap();
    let updater = Updater::new(&config, None, None).unwrap();
    let ask = Ask {
        verb: Verb::Apply,
        source: Some(folder.to_str().unwrap().into()),
        ..Ask::default()
    };
    let mut tried = 0;
    let mut refused = |manifest: &[u8], signature: &[u8], what: &str| {
        std::fs::write(&path, manifest).unwrap();
        std::fs::write(&signature_path, signature).unwrap();
        // A child that another test has just forked holds our lock for a moment.
        let report = wait_for("the lock", 10, || match updater.perform(&ask, NOW) {
            Err(UpdateError::Busy) => None,
            done => Some(done.unwrap()),
        });
        assert_eq!(report.outcome, Outcome::Refused, "{what}");
        assert_eq!(report.reason.as_deref(), Some("signature"), "{what}");
        assert!(updated.nothing_left(), "{what}");
        tried += 1;
    };
    let flipped = |bytes: &[u8], bit: usize| {
        let mut bytes = bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    };
    for bit in (0..good.len() * 8).step_by(3) {
        refused(
            &flipped(&good, bit),
            &signature,
            &format!("manifest bit {bit}"),
        );
    }
    // The first line is the publisher's remark, which nobody signs.
    let first = signature.iter().position(|b| *b == b'\n').unwrap() + 1;
    for bit in first * 8..signature.len() * 8 {
        refused(
            &good,
            &flipped(&signature, bit),
            &format!("signature bit {bit}"),
        );
    }
    for cut in 0..good.len() {
        refused(&good[..cut], &signature, &format!("manifest cut at {cut}"));
    }
    for cut in 0..signature.len() - 1 {
        refused(&good, &signature[..cut], &format!("signature cut at {cut}"));
    }
    refused(&good, stranger.sign(&good).as_bytes(), "another key");
    refused(
        &good,
        publisher.sign(b"another manifest").as_bytes(),
        "of other bytes",
    );
    // "ED" says that the hash is signed, "Ed" the old way; both are base64 of the same length.
    let text = String::from_utf8(signature.clone()).unwrap();
    let legacy = text.replacen("\nRU", "\nRW", 1);
    assert_ne!(legacy, text);
    refused(&good, legacy.as_bytes(), "legacy");
    refused(&vec![b' '; 1 << 16], &signature, "long");
    assert!(tried >= 1000, "{tried}");
    // And it was not refused for another reason.
    std::fs::write(&path, &good).unwrap();
    std::fs::write(&signature_path, &signature).unwrap();
    assert_eq!(updater.perform(&ask, NOW).unwrap().outcome, Outcome::Trial);
}

#[test]
fn o3_what_was_had_is_not_taken_again() {
    let publisher = Publisher::new();
    let updated = Updated::new(&[&publisher], "");
    updated.commit(&publisher, 6, &speaking(6));
    updated.commit(&publisher, 7, &speaking(7));
    publisher.publish(&updated.release(5), 5, &speaking(5), |_| ());
    for damage in ["", "floor"] {
        if !damage.is_empty() {
            std::fs::write(updated.layout().path(damage), "00000000 {}\n").unwrap();
        }
        for older in [5, 6] {
            let told =
                String::from_utf8(updated.station.run(&["update", "status"]).stdout).unwrap();
            assert!(told.contains("floor      sequence 7;"), "{told}");
            let out = updated.update("apply", older, &["--again"]);
            assert_eq!(out.status.code(), Some(1));
            let said = String::from_utf8(out.stdout).unwrap();
            assert!(said.contains("\"older\""), "{said}");
        }
        assert_eq!(
            updated.report("apply", 7, &["--again"])["outcome"],
            "up_to_date"
        );
    }
    assert_eq!(updated.started(), "sequence 7");
}

#[test]
fn o4_what_has_expired_is_taken_only_from_a_folder_and_with_a_word() {
    let publisher = Publisher::new();
    let updated = Updated::new(&[&publisher], "");
    publisher.publish(&updated.release(8), 8, &speaking(8), |m| {
        m["issued"] = json!("2026-11-02T00:00:00Z");
        m["expires"] = json!("2026-11-03T00:00:00Z");
    });
    let config = config(&updated);
    let updater = Updater::new(&config, None, None).unwrap();
    let ask = Ask {
        source: Some(updated.release(8).to_str().unwrap().into()),
        ..Ask::default()
    };
    let outcome = |now| updater.perform(&ask, now).unwrap().outcome;
    assert_eq!(outcome(NOW), Outcome::Refused);
    // A clock of 1970, or one that nobody trusts: it is not known to be past.
    assert_eq!(outcome(Some(TimestampMs(0))), Outcome::Available);
    assert_eq!(outcome(None), Outcome::Available);
    // A clock ten years ahead keeps a valid one out for as long as it is, and no longer.
    publisher.publish(&updated.release(8), 8, &speaking(8), |m| {
        m["expires"] = json!("2027-02-01T00:00:00Z")
    });
    assert_eq!(
        outcome(NOW.map(|t| t.plus_ms(3650 * 86_400_000))),
        Outcome::Refused
    );
    assert_eq!(outcome(NOW), Outcome::Available);
    publisher.publish(&updated.release(9), 9, &speaking(9), |m| {
        m["issued"] = json!("2026-11-02T00:00:00Z");
        m["expires"] = json!("2026-11-03T00:00:00Z");
    });
    // A newer manifest has been accepted meanwhile: time is at least that.
    assert_eq!(updated.report("apply", 9, &[])["reason"], "expired");
    assert_eq!(
        updated.report("apply", 9, &["--allow-expired"])["outcome"],
        "trial"
    );
}

#[test]
fn o5_a_stolen_key_cannot_lock_the_backup_key_out() {
    let (daily, backup) = (Publisher::new(), Publisher::new());
    let updated = Updated::new(&[&daily, &backup], "");
    let far = 1 << 60;
    daily.publish(&updated.release(far), far, &speaking(far), |m| {
        m["issued"] = json!("2090-01-01T00:00:00Z");
    });
    assert_eq!(updated.report("apply", far, &[])["outcome"], "trial");
    updated.layout().commit(&daily.keys()).unwrap();
    assert_eq!(updated.started(), format!("sequence {far}"));
    backup.publish(&updated.release(13), 13, &speaking(13), |_| ());
    assert_eq!(updated.report("apply", 13, &[])["outcome"], "trial");
    assert_eq!(updated.started(), "sequence 13");
}

#[test]
fn o7_what_is_for_others_is_refused_with_its_reason() {
    let publisher = Publisher::new();
    let updated = Updated::new(&[&publisher], "");
    let cases = [
        ("target", json!("riscv64gc-unknown-linux-musl"), "target"),
        ("product", json!("daywatt"), "product"),
        ("channel", json!("nightly"), "channel"),
        ("schema", json!({ "from": 90, "to": 99 }), "schema"),
        ("schema", json!({ "from": 0, "to": 0 }), "schema"),
        ("from_version", json!("5.0.0"), "from_version"),
        ("version", json!(env!("CARGO_PKG_VERSION")), "not_newer"),
        ("format", json!(2), "format"),
        ("file", json!("../../evil"), "format"),
        ("size", json!(1_u64 << 40), "format"),
    ];
    for (key, value, reason) in cases {
        publisher.publish(&updated.release(8), 8, &speaking(8), |m| {
            m[key] = value.clone()
        });
        let out = updated.update("apply", 8, &[]);
        assert_eq!(out.status.code(), Some(1), "{key} {value}");
        assert_eq!(
            updated.report("apply", 8, &[])["reason"],
            reason,
            "{key} {value}"
        );
        assert!(updated.nothing_left(), "{key} {value}");
    }
    // The signature is good and the file is another.
    publisher.publish(&updated.release(8), 8, &speaking(8), |_| ());
    let mut other = speaking(8);
    let last = other.len() - 2;
    other[last] ^= 1;
    std::fs::write(updated.release(8).join("program"), other).unwrap();
    assert_eq!(updated.update("apply", 8, &[]).status.code(), Some(1));
    assert!(updated.nothing_left());
    // And one that does not call itself what it is said to be.
    publisher.publish(&updated.release(8), 8, &speaking(9), |_| ());
    let out = updated.update("apply", 8, &[]);
    assert!(
        String::from_utf8(out.stderr)
            .unwrap()
            .contains("own check failed")
    );
    assert_eq!(updated.started(), "factory");
}

#[test]
fn o14_a_flood_of_announcements_is_one_look() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let publisher = Publisher::new();
    let mut updated = Updated::at(
        None,
        &broker.url(),
        &[&publisher],
        "enabled = true\nsource = \"releases\"",
    );
    publisher.publish(&updated.release(8), 8, &speaking(8), |_| ());
    let source = format!("source = {:?}", updated.release(8));
    let toml = updated.station.dir.path().join("n.toml");
    let text = std::fs::read_to_string(&toml).unwrap();
    std::fs::write(&toml, text.replace("source = \"releases\"", &source)).unwrap();
    updated.station.start();
    updated.station.wait_connected();
    let looks = |trigger: &str| -> i64 {
        updated.station.query(&format!(
            "SELECT count(*) FROM run WHERE kind = 'update' AND trigger = '{trigger}' AND outcome = 'done'"
        ))
    };
    wait_for("the look on schedule", 20, || {
        (looks("schedule") == 1).then_some(())
    });
    let forged = vec!["{\"sequence\":99,\"url\":\"http://evil\"}"; 1000];
    publish(&broker, "nightwatt/update/announce", false, &forged);
    wait_for("the look after an announcement", 20, || {
        (looks("announcement") > 0).then_some(())
    });
    publish(&broker, "nightwatt/update/announce", false, &forged);
    publish(&broker, "solar/t/telemetry", false, &["{\"power\":1}"]);
    wait_for("a reading behind the flood", 20, || {
        (updated.station.rows() == 1).then_some(())
    });
    assert_eq!((looks("announcement"), looks("schedule")), (1, 1));
    assert_eq!(
        updated
            .station
            .query::<i64>("SELECT count(*) FROM quarantine"),
        0
    );
}
