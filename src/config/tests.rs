//! What is accepted, what is refused, and how the refusal reads.

use super::*;

fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(
        Some(&path),
        env.iter().map(|(k, v)| (k.to_string(), v.to_string())),
    )
}

fn refused(text: &str, env: &[(&str, &str)]) -> String {
    load(text, env).unwrap_err().to_string()
}

#[test]
fn the_reference_file_is_complete_and_says_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/nightwatt.toml");
    let config = Config::load(Some(&path), []).unwrap();
    assert_eq!(
        config,
        Config {
            site: config.site.clone(),
            ..Config::default()
        }
    );
    // Complete: every key of every section stands in it, set or commented out.
    let text = std::fs::read_to_string(&path).unwrap();
    let shown = format!("{:?}", Config::default());
    let keys: Vec<&str> = shown
        .split([' ', '{', ','])
        .filter_map(|w| w.strip_suffix(':'))
        .filter(|k| !k.is_empty())
        .collect();
    assert!(keys.len() > 20, "{keys:?}");
    for key in keys {
        assert!(
            text.contains(key),
            "config/nightwatt.toml does not mention {key}"
        );
    }
}

#[test]
fn a_misspelt_key_is_named_with_what_would_be_accepted() {
    let said = refused("[mqtt]\nurrl = \"x\"", &[]);
    assert!(
        said.contains("urrl") && said.contains("keep_alive_s"),
        "{said}"
    );
    let said = refused("[mqt]\n", &[]);
    assert!(said.contains("mqt") && said.contains("training"), "{said}");
}

#[test]
fn errors_name_key_value_and_range() {
    for (text, parts) in [
        (
            "[mqtt]\nkeep_alive_s = 4",
            ["mqtt.keep_alive_s", "4", "5 … 3600 seconds"],
        ),
        (
            "[mqtt]\nkeep_alive_s = \"x\"",
            ["mqtt.keep_alive_s", "x", "5 … 3600 seconds"],
        ),
        (
            "[alerts.webhook]\nurl = \"ftp://x\"",
            ["alerts.webhook.url", "http://", "https://"],
        ),
        (
            "[alerts.email]\nserver = \"h\"",
            ["alerts.email", "server, from and to", "together"],
        ),
        (
            "[alerts.email]\nserver = \"h\"\nfrom = \"x\"\nto = [\"a@b\"]",
            ["alerts.email.from", "\"x\"", "mail address"],
        ),
        (
            "[alerts.email]\nserver = \"h\"\nfrom = \"a@b\"\nto = [\"a@b\"]\nusername = \"u\"\nsecurity = \"none\"",
            ["alerts.email.username", "starttls or tls", "password"],
        ),
        (
            "[alerts.limits]\nfailed_nights = 0",
            ["alerts.limits.failed_nights", "0", "1 … 100 nights"],
        ),
        (
            "[home_assistant]\ndiscovery_prefix = \"a/#\"",
            [
                "home_assistant.discovery_prefix",
                "a/#",
                "without wildcards",
            ],
        ),
        (
            "[mqtt]\nprotocol = \"4\"",
            ["mqtt.protocol", "\"4\"", "3.1.1"],
        ),
        (
            "[mqtt]\nurl = \"http://x\"",
            ["mqtt.url", "http://x", "mqtts://"],
        ),
        (
            "[[mqtt.topics]]\nfilter = \"a/#/b\"",
            ["filter", "a/#/b", "solar/+/telemetry"],
        ),
        (
            "[[mqtt.topics]]\nfilter = \"tele/+/SENSOR\"\npreset = \"tasmoto\"",
            ["mqtt.topics[0].preset", "tasmoto", "tasmota"],
        ),
        (
            "[[mqtt.topics]]\nfilter = \"a/+\"\n[[mqtt.topics]]\nfilter = \"b/+\"\ndevice = \"{2}\"",
            ["mqtt.topics[1].device", "{2}", "\"b/+\" has 1"],
        ),
        (
            "[[mqtt.topics]]\nfilter = \"a/+\"\nfields.power = { key = \"p\", unit = \"hp\" }",
            ["mqtt.topics[0].fields.power.unit", "hp", "kW"],
        ),
        (
            "[[mqtt.topics]]\nfilter = \"nightwatt/+/forecast\"",
            [
                "mqtt.topics[0].filter",
                "nightwatt/+/forecast",
                "its own forecasts",
            ],
        ),
        (
            "[[mqtt.topics]]\nfilter = \"a/+\"\nfields.power = 7",
            ["mqtt.topics[0].fields", "fields.power", "list"],
        ),
        (
            "[[mqtt.topics]]\nfilter = \"a/+\"\nfields.watts = \"p\"",
            ["mqtt.topics[0].fields", "watts", "power"],
        ),
        (
            "[[mqtt.topics]]\nfilter = \"a/+\"\nfields.power = { kee = \"p\" }",
            ["mqtt.topics[0].fields", "kee", "key"],
        ),
        (
            "[site]\nlatitude = 91.0\nlongitude = 0.0",
            ["site.latitude", "91", "90"],
        ),
        (
            "[site]\ntimezone = \"Mars/Base\"",
            ["site.timezone", "Mars/Base", "imezone"],
        ),
        (
            "[training]\nschedule = \"0 25 * * *\"",
            ["training.schedule", "0 25 * * *", "hour"],
        ),
        (
            "[training]\nlookback_days = 5",
            ["training.lookback_days", "5", "min_days"],
        ),
        (
            "[store]\nkeep_days = 179",
            ["store.keep_days", "179", "lookback_days"],
        ),
        (
            "[store]\nreserve_mb = 1000",
            ["store.low_disk_mb", "half", "reserve_mb"],
        ),
    ] {
        let said = refused(text, &[]);
        for part in parts {
            assert!(said.contains(part), "{text}: {said} lacks {part}");
        }
    }
}

#[test]
fn the_environment_overrides_and_is_held_to_the_same_rules() {
    let config = load(
        "[mqtt]\nkeep_alive_s = 60",
        &[
            ("NIGHTWATT_MQTT__URL", "mqtt://broker:1884"),
            ("NIGHTWATT_MQTT__KEEP_ALIVE_S", "20"),
            ("NIGHTWATT_TRAINING__PROMOTE__METRIC", "rmse"),
            ("NIGHTWATT_DATA", "/somewhere"),
        ],
    )
    .unwrap();
    assert_eq!(config.mqtt.url, "mqtt://broker:1884");
    assert_eq!(config.mqtt.keep_alive_s, 20);
    assert_eq!(config.training.promote.metric, crate::night::Metric::Rmse);
    let said = refused("", &[("NIGHTWATT_MQTT__URRL", "x")]);
    assert!(said.contains("urrl"), "{said}");
}

#[test]
fn a_horizon_is_a_number_or_a_list() {
    let minutes = |text: &str| {
        let config = load(&format!("[training]\nhorizon_min = {text}"), &[]);
        config.map(|c| c.training.horizon_min.iter().collect::<Vec<_>>())
    };
    assert_eq!(minutes("60").unwrap(), [60]);
    assert_eq!(minutes("[60, 15, 2880]").unwrap(), [60, 15, 2880]);
    for (wrong, part) in [
        ("0", "1 … 2880 minutes"),
        ("[15, 2881]", "1 … 2880 minutes"),
        ("[]", "1 … 8 numbers"),
        ("[15, 60, 15]", "none of them twice"),
        ("[1, 2, 3, 4, 5, 6, 7, 8, 9]", "1 … 8 numbers"),
        ("\"15\"", "1 … 2880 minutes"),
    ] {
        let said = minutes(wrong).unwrap_err().to_string();
        assert!(
            said.contains(part) && said.contains("horizon_min"),
            "{said}"
        );
    }
    let said = refused("[training]\nmin_days = [3]", &[]);
    assert!(said.contains("min_days"), "{said}");
    let config = load("", &[("NIGHTWATT_TRAINING__HORIZON_MIN", "[15, 60]")]).unwrap();
    assert_eq!(config.training.horizon_min.iter().count(), 2);
}

#[test]
fn relative_paths_are_beside_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(
        &path,
        "[store]\npath = \"n.db\"\n[mqtt]\npassword_file = \"secret\"",
    )
    .unwrap();
    let config = Config::load(Some(&path), []).unwrap();
    assert_eq!(config.store.path, dir.path().join("n.db"));
    assert_eq!(config.mqtt.password_file, Some(dir.path().join("secret")));
}

#[test]
fn a_missing_or_broken_file_is_named() {
    let said = Config::load(Some(Path::new("/nowhere/c.toml")), [])
        .unwrap_err()
        .to_string();
    assert!(said.contains("/nowhere/c.toml"), "{said}");
    let said = refused("[mqtt\n", &[]);
    assert!(said.contains("c.toml") && said.contains("line 1"), "{said}");
}

#[test]
fn a_refusal_never_repeats_a_password() {
    for text in [
        "[mqtt]\nurl = \"mqtt://sun:s3cret@pi\"",
        "[mqtt]\nurl = \"tcp://sun:s3cret@pi\"",
        "[mqtt]\npassword = \"s3cret\"",
        "[mqtt]\npassword = \"s3cret",
        "[mqtt]\npassword = s3cret",
        "[mqtt]\nurl = \"mqtt://sun:s3cret@pi\"\nurl = \"mqtt://sun:s3cret@pi\"",
    ] {
        let said = refused(text, &[]);
        assert!(!said.contains("s3cret"), "{said}");
    }
    let said = refused("", &[("NIGHTWATT_MQTT__PASSWORD", "s3cret")]);
    assert!(
        said.contains("password") && !said.contains("s3cret"),
        "{said}"
    );
    let said = refused("[mqtt]\n\n  keep_alive_s = = 5", &[]);
    assert!(said.contains("line 3, column 18"), "{said}");
}

#[test]
fn what_only_looks_finds_its_way_in_a_file_that_is_not_valid() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("n.toml");
    let text = "[store]\npath = \"n.db\"\n[site]\ntimezone = \"Europe/Madrid\"\n[mqttt]\n";
    std::fs::write(&file, text).unwrap();
    assert!(Config::load(Some(&file), []).is_err());
    let places = Config::places(Some(&file));
    assert_eq!(places.store.path, dir.path().join("n.db"));
    assert_eq!(places.site.timezone, Some(chrono_tz::Europe::Madrid));
    assert_eq!(places.http.socket, HttpConfig::default().socket);
}

#[test]
fn a_line_that_is_no_toml_does_not_hide_where_the_daemon_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("n.toml");
    let text = "[mqtt\nurl = \"\u{e4}\n[store]\npath = \"n.db\"\nkeep = = 3\n[http]\nsocket = \"n.sock\"\n";
    std::fs::write(&file, text).unwrap();
    let places = Config::places(Some(&file));
    assert_eq!(places.store.path, dir.path().join("n.db"));
    assert_eq!(places.http.socket, dir.path().join("n.sock"));
}
