//! The manifests that `scripts/release` writes are those that stations read.

use std::process::Command;

use nightwatt::store::SCHEMA_VERSION;
use nightwatt::update::manifest;
use sha2::{Digest, Sha256};

fn manifest_of(file: &std::path::Path, options: &[&str]) -> std::process::Output {
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/release"))
        .arg("manifest")
        .arg(file)
        .args(["x86_64-unknown-linux-musl", "9.1.2-rc.1", "12"])
        .args(options)
        .output()
        .unwrap()
}

#[test]
fn what_a_publisher_writes_a_station_reads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nightwatt-9.1.2");
    std::fs::write(&file, b"a program").unwrap();
    let options = "--channel early --rollout 5 --expires 30 --from 0.1.0".split(' ');
    let written = manifest_of(&file, &options.collect::<Vec<_>>());
    let m = manifest::parse(&written.stdout).unwrap();

    assert_eq!(m.product, "nightwatt");
    assert_eq!(m.channel, "early");
    assert_eq!(m.target, "x86_64-unknown-linux-musl");
    assert_eq!(
        (m.version.to_string().as_str(), m.sequence),
        ("9.1.2-rc.1", 12)
    );
    assert_eq!((m.file.as_str(), m.size), ("nightwatt-9.1.2", 9));
    assert_eq!(m.sha256, format!("{:x}", Sha256::digest(b"a program")));
    assert_eq!(m.expires.0 - m.issued.0, 30 * 86_400_000);
    assert_eq!((m.schema.from, m.schema.to), (1, SCHEMA_VERSION));
    assert_eq!(m.from_version.to_string(), "0.1.0");
    assert_eq!(
        (m.rollout.percent, m.rollout.seed.as_str()),
        (5, "9.1.2-rc.1-12")
    );
}

#[test]
fn nothing_that_would_break_out_of_the_manifest_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nightwatt");
    std::fs::write(&file, b"a program").unwrap();
    for wrong in [
        ["--channel", "a\", \"sequence\": 99, \"x\": \""],
        ["--channel", "Stable"],
        ["--rollout", "101"],
        ["--rollout", "-1"],
        ["--expires", "0"],
        ["--from", "1"],
        ["--key", "/nowhere/key"],
        ["--unknown", "1"],
    ] {
        let refused = manifest_of(&file, &wrong);
        assert!(
            !refused.status.success() && refused.stdout.is_empty(),
            "{wrong:?}"
        );
    }
    let strange = folder.path().join("a \" b");
    std::fs::write(&strange, b"a program").unwrap();
    for file in [strange, folder.path().join("none")] {
        assert!(!manifest_of(&file, &[]).status.success(), "{file:?}");
    }
}

#[test]
fn outside_the_sources_no_manifest_is_written_and_help_is_help() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nightwatt");
    std::fs::write(&file, b"a program").unwrap();
    // As it is carried to the machine with the key.
    std::fs::create_dir(folder.path().join("stick")).unwrap();
    let carried = folder.path().join("stick/release");
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/release");
    std::fs::copy(here, &carried).unwrap();
    let run = |words: &[&str]| Command::new("bash").arg(&carried).args(words).output();
    let target = "x86_64-unknown-linux-musl";
    let refused = run(&["manifest", file.to_str().unwrap(), target, "9.1.2", "12"]).unwrap();
    assert!(!refused.status.success() && refused.stdout.is_empty());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("read from the sources"), "{said}");
    let help = run(&["manifest", "--help"]).unwrap();
    let told = String::from_utf8(help.stdout).unwrap();
    assert!(help.status.success() && told.starts_with("usage: scripts/release build"));
}
