//! The command line: exit codes, and what is said where something is wrong.

use std::process::Command;

use crate::support::{NIGHTWATT, Station};

fn nightwatt(words: &[&str]) -> (Option<i32>, String, String) {
    let out = Command::new(NIGHTWATT).args(words).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

#[test]
fn wrong_usage_and_wrong_configuration_end_with_2() {
    assert_eq!(nightwatt(&["frobnicate"]).0, Some(2));
    assert_eq!(nightwatt(&["runs", "--kind", "nonsense"]).0, Some(2));
    assert_eq!(nightwatt(&["runs", "--limit", "0"]).0, Some(2));
    let station = Station::new("mqtt://h", "[training]\nhorizon = 3");
    let out = station.run(&["check-config"]);
    assert_eq!(out.status.code(), Some(2));
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(
        said.contains("horizon") && said.contains("horizon_min"),
        "{said}"
    );
    let (code, _, said) = nightwatt(&["run", "-c", "/nowhere.toml"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("/nowhere.toml"), "{said}");
}

#[test]
fn check_config_accepts_the_reference_and_the_embedded_defaults() {
    let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/config/nightwatt.toml");
    let (code, out, _) = nightwatt(&["check-config", "-c", reference]);
    assert_eq!(code, Some(0));
    assert!(
        out.contains("configuration is valid") && out.contains("0 2 * * *"),
        "{out}"
    );
    assert_eq!(nightwatt(&["check-config"]).0, Some(0));
}

#[test]
fn the_version_is_the_packages() {
    let (code, out, _) = nightwatt(&["--version"]);
    assert_eq!(
        (code, out.trim()),
        (Some(0), concat!("nightwatt ", env!("CARGO_PKG_VERSION")))
    );
}
