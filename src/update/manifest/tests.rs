//! Every field, every reason, and the order of reasons.

use super::*;

const DAY_MS: i64 = 86_400_000;

fn json() -> serde_json::Value {
    serde_json::json!({
        "format": 1, "product": "nightwatt", "channel": "stable",
        "target": "x86_64-unknown-linux-musl", "version": "0.3.0", "sequence": 12,
        "issued": "2026-11-22T08:00:00Z", "expires": "2027-02-20T08:00:00Z",
        "size": 1000, "sha256": "ab".repeat(32), "file": "nightwatt-0.3.0",
        "schema": { "from": 1, "to": 4 }, "from_version": "0.1.0",
        "rollout": { "percent": 100, "seed": "s" }, "later": ["fields", 1]
    })
}

fn with(key: &str, value: impl Into<serde_json::Value>) -> Result<Manifest, ManifestError> {
    let mut json = json();
    json[key] = value.into();
    parse(json.to_string().as_bytes())
}

fn facts() -> Facts {
    Facts {
        channel: "stable".into(),
        target: "x86_64-unknown-linux-musl".into(),
        at_least: TimestampMs(1_796_083_200_000),
        floor: 11,
        current: Some(11),
        rejected: false,
        running: Version::new(0, 2, 0),
        factory: Version::new(0, 1, 0),
        schema: 4,
        station: "a station".into(),
        asked: Allowed::default(),
    }
}

#[test]
fn a_manifest_is_read_and_unknown_fields_are_passed_over() {
    let m = parse(json().to_string().as_bytes()).unwrap();
    assert_eq!((m.sequence, m.version), (12, Version::new(0, 3, 0)));
    let mut short = json();
    short.as_object_mut().unwrap().remove("rollout");
    let m = parse(short.to_string().as_bytes()).unwrap();
    assert_eq!(m.rollout.percent, 100);
}

#[test]
fn another_format_is_refused_whatever_else_it_holds() {
    assert!(matches!(
        parse(br#"{"format":2,"sequence":"twelve"}"#),
        Err(ManifestError::Format(2))
    ));
}

#[test]
fn fields_that_could_do_harm_are_refused() {
    for file in [
        "",
        ".",
        "..",
        "../nightwatt",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "a b",
        "a\0b",
        ".part",
        "ä",
    ] {
        with("file", file).unwrap_err();
    }
    with("file", "a".repeat(201)).unwrap_err();
    with("sequence", 0).unwrap_err();
    with("sequence", -1).unwrap_err();
    with("sequence", 1.5).unwrap_err();
    with("size", 0).unwrap_err();
    with("size", MOST_BYTES + 1).unwrap_err();
    with("sha256", "AB".repeat(32)).unwrap_err();
    with("sha256", "ab".repeat(31)).unwrap_err();
    with("version", "new").unwrap_err();
    with("expires", "2026-11-22T07:59:59Z").unwrap_err();
    with("issued", "yesterday").unwrap_err();
    with("rollout", serde_json::json!({ "percent": 101 })).unwrap_err();
    with("rollout", serde_json::json!({ "percent": 256 })).unwrap_err();
    assert_eq!(with("sequence", u64::MAX).unwrap().sequence, u64::MAX);
}

#[test]
fn each_reason_to_refuse_has_its_case() {
    use Decision::*;
    let decided = |key: &str, value: serde_json::Value, change: fn(&mut Facts)| {
        let mut facts = facts();
        change(&mut facts);
        decide(&with(key, value).unwrap(), &facts)
    };
    let same = |change| decided("later", 0.into(), change);
    let refused = |key: &str, value: &str| decided(key, value.into(), |_| ());
    assert_eq!(same(|_| ()), Accept);
    assert_eq!(refused("product", "other"), Refuse(Refusal::Product));
    assert_eq!(refused("channel", "beta"), Refuse(Refusal::Channel));
    assert_eq!(
        refused("target", "aarch64-unknown-linux-musl"),
        Refuse(Refusal::Target)
    );
    assert_eq!(refused("version", "0.1.0"), Refuse(Refusal::NotNewer));
    assert_eq!(refused("version", "0.1.0-rc.1"), Refuse(Refusal::NotNewer));
    assert_eq!(
        refused("from_version", "0.2.1"),
        Refuse(Refusal::FromVersion)
    );
    assert_eq!(same(|f| f.schema = 5), Refuse(Refusal::Schema));
    assert_eq!(same(|f| f.schema = 0), Refuse(Refusal::Schema));
    assert_eq!(same(|f| f.floor = 13), Refuse(Refusal::Older));
    assert_eq!(same(|f| f.current = Some(12)), UpToDate);
    assert_eq!(same(|f| f.rejected = true), Refuse(Refusal::Rejected));
    assert_eq!(same(|f| (f.rejected, f.asked.again) = (true, true)), Accept);
    // The version in force may be higher: a publisher takes a release back with the next sequence.
    assert_eq!(same(|f| f.running = Version::new(9, 0, 0)), Accept);
    assert_eq!(
        same(|f| (f.floor, f.current) = (12, None)),
        Accept,
        "the committed version comes back"
    );
    // A person may allow a rejected one, never an older one.
    let everything = Allowed {
        by_hand: true,
        again: true,
        expired: true,
    };
    let mut allowed = facts();
    (allowed.floor, allowed.asked) = (13, everything);
    assert_eq!(
        decide(&with("later", 0).unwrap(), &allowed),
        Refuse(Refusal::Older)
    );
}

#[test]
fn expiry_is_judged_by_the_time_it_is_at_least() {
    let m = with("later", 0).unwrap();
    let mut facts = facts();
    facts.at_least = m.expires;
    assert_eq!(decide(&m, &facts), Decision::Accept);
    facts.at_least = m.expires.plus_ms(1);
    assert_eq!(decide(&m, &facts), Decision::Refuse(Refusal::Expired));
    facts.asked.expired = true;
    assert_eq!(decide(&m, &facts), Decision::Accept);
    // A clock at 1970 knows only that it is later.
    facts.asked.expired = false;
    facts.at_least = TimestampMs(0);
    assert_eq!(decide(&m, &facts), Decision::Accept);
    facts.at_least = m.expires.plus_ms(10 * 365 * DAY_MS);
    assert_eq!(decide(&m, &facts), Decision::Refuse(Refusal::Expired));
}

#[test]
fn a_share_of_the_stations_takes_a_rollout_and_growing_it_loses_none() {
    let rollout = |percent| Rollout {
        percent,
        seed: "r".into(),
    };
    let stations: Vec<String> = (0..2000).map(|i| format!("station {i}")).collect();
    let taking = |percent| {
        let r = rollout(percent);
        let taken: Vec<&String> = stations.iter().filter(|s| r.includes(s)).collect();
        taken
    };
    assert_eq!((taking(0).len(), taking(100).len()), (0, 2000));
    assert!(
        (150..250).contains(&taking(10).len()),
        "{}",
        taking(10).len()
    );
    let more = taking(50);
    assert!(taking(10).iter().all(|s| more.contains(s)));
    let m = with("rollout", serde_json::json!({ "percent": 0 })).unwrap();
    assert_eq!(decide(&m, &facts()), Decision::Wait);
    let mut by_hand = facts();
    by_hand.asked.by_hand = true;
    assert_eq!(decide(&m, &by_hand), Decision::Accept);
}
