//! What `scripts/release` writes and signs is what stations read and trust.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nightwatt::store::SCHEMA_VERSION;
use nightwatt::update::manifest;
use nightwatt::update::signature::Keys;
use sha2::{Digest, Sha256};

fn manifest_of(file: &Path, options: &[&str]) -> std::process::Output {
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
    for words in [&["build", "12"][..], &["no-keys"], &["reproduce", "x86_64"]] {
        let refused = run(words).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{words:?}");
        let said = String::from_utf8(refused.stderr).unwrap();
        let sentence = format!(
            "release: {} works on the sources in their git repository, and ",
            words[0]
        );
        assert!(
            said.starts_with(&sentence) && said.lines().count() == 1,
            "{said}"
        );
    }
    let help = run(&["manifest", "--help"]).unwrap();
    let told = String::from_utf8(help.stdout).unwrap();
    assert!(help.status.success() && told.starts_with("usage: scripts/release build"));
}

/// `scripts/release <words>` in `folder`: whether it did it, and what it said.
fn release(folder: &Path, words: &[&str]) -> (bool, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/release");
    let out = Command::new(script)
        .args(words)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [out.stdout, out.stderr].concat();
    (
        out.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// A folder with a release of one file that is not signed yet, and the publisher's keys.
fn a_release() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("r/stable/x86_64-unknown-linux-musl");
    std::fs::create_dir_all(&place).unwrap();
    let file = place.join("nightwatt-9.1.2");
    std::fs::write(&file, b"a program").unwrap();
    let manifest = manifest_of(&file, &["--rollout", "5"]).stdout;
    std::fs::write(place.join("nightwatt-manifest.json"), manifest).unwrap();
    let keys =
        "minisign -G -W -p daily.pub -s daily.key; minisign -G -W -p backup.pub -s backup.key
        cd r; find * -type f | xargs sha256sum >../sums; mv ../sums SHA256SUMS";
    let made = Command::new("sh")
        .args(["-ec", keys])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    (dir, place)
}

#[test]
fn what_is_signed_is_taken_by_stations_and_any_change_is_seen() {
    let (dir, place) = a_release();
    let run = |words: &[&str]| release(dir.path(), words);
    let verified = || run(&["verify", "r", "daily.pub"]).0;
    assert!(!verified(), "not signed yet");
    let (done, said) = run(&["sign", "r", "daily.key"]);
    assert!(done, "{said}");
    assert!(verified());
    assert!(!run(&["verify", "r", "backup.pub"]).0, "of another key");

    let manifest = place.join("nightwatt-manifest.json");
    let signature = place.join("nightwatt-manifest.json.minisig");
    let read = |path: &Path| std::fs::read(path).unwrap();
    let public = std::fs::read_to_string(dir.path().join("daily.pub")).unwrap();
    let keys = Keys::new(&[public.lines().nth(1).unwrap().into()]).unwrap();
    keys.verify(&read(&manifest), &read(&signature)).unwrap();

    let program = place.join("nightwatt-9.1.2");
    std::fs::write(&program, b"b program").unwrap();
    assert!(!verified(), "another program");
    std::fs::write(&program, b"a program").unwrap();
    assert!(verified());
    std::fs::write(place.join("planted"), b"").unwrap();
    let (done, said) = run(&["verify", "r", "daily.pub"]);
    assert!(!done && said.contains("planted"), "{said}");
    std::fs::remove_file(place.join("planted")).unwrap();

    let before = manifest::parse(&read(&manifest)).unwrap();
    let (done, said) = run(&["renew", "r", "--rollout", "25", "--expires", "30"]);
    assert!(done, "{said}");
    assert!(!verified(), "to be signed again");
    assert!(run(&["sign", "r", "daily.key"]).0 && verified());
    let after = manifest::parse(&read(&manifest)).unwrap();
    assert_eq!(
        (after.sequence, &after.rollout.seed),
        (before.sequence, &before.rollout.seed)
    );
    assert_eq!(after.rollout.percent, 25);
    assert_eq!(after.expires.0 - after.issued.0, 30 * 86_400_000);
    keys.verify(&read(&manifest), &read(&signature)).unwrap();
}

#[test]
fn a_manifest_of_which_a_field_is_not_found_is_neither_signed_nor_renewed() {
    let (dir, place) = a_release();
    let manifest = place.join("nightwatt-manifest.json");
    let good = std::fs::read_to_string(&manifest).unwrap();
    let refused = |words: &[&str]| {
        let sums = "cd r; find * -type f ! -name SHA256SUMS ! -name '*.minisig' | xargs sha256sum >../sums; \
                    mv ../sums SHA256SUMS";
        let made = Command::new("sh")
            .args(["-ec", sums])
            .current_dir(dir.path())
            .status();
        assert!(made.unwrap().success());
        let (done, said) = release(dir.path(), words);
        assert!(
            !done && said.contains(", as scripts/release writes it"),
            "{words:?}: {said}"
        );
    };
    let twice = good.replacen(
        "  \"version\"",
        "  \"version\": \"9.9.9\",\n  \"version\"",
        1,
    );
    for bad in [
        good.replace("\n  ", "\n "),
        good.replace("\"target\": ", "\"target\":"),
        twice,
    ] {
        std::fs::write(&manifest, &bad).unwrap();
        refused(&["sign", "r", "daily.key"]);
        assert!(!place.join("nightwatt-manifest.json.minisig").exists());
    }
    for bad in [
        good.replace("\n  ", "\n "),
        good.replace("\"percent\"", " \"percent\""),
    ] {
        std::fs::write(&manifest, &bad).unwrap();
        refused(&["renew", "r", "--rollout", "25"]);
        assert_eq!(std::fs::read_to_string(&manifest).unwrap(), bad);
    }
    // Signed by other means.
    std::fs::write(&manifest, good.replace("\"size\": ", "\"size\":")).unwrap();
    let by_hand = ["-S", "-s", "daily.key", "-m", manifest.to_str().unwrap()];
    let signed = Command::new("minisign")
        .args(by_hand)
        .current_dir(dir.path())
        .output();
    assert!(signed.unwrap().status.success());
    refused(&["verify", "r", "daily.pub"]);
}

#[test]
fn a_folder_without_a_release_is_neither_signed_nor_renewed() {
    let (dir, place) = a_release();
    std::fs::remove_file(place.join("nightwatt-manifest.json")).unwrap();
    let sums = dir.path().join("r/SHA256SUMS");
    std::fs::write(&sums, "").unwrap();
    for words in [
        &["sign", "r", "daily.key"][..],
        &["renew", "r"],
        &["verify", "r", "daily.pub"],
    ] {
        let (done, said) = release(dir.path(), words);
        assert!(
            !done && said.contains("no release in r"),
            "{words:?}: {said}"
        );
    }
    assert_eq!(std::fs::read(&sums).unwrap(), b"");
    assert!(!dir.path().join("r/SHA256SUMS.minisig").exists());
}

#[test]
fn a_secret_key_among_the_sources_is_found_whatever_its_name() {
    let (dir, _) = a_release();
    let sources = dir.path().join("sources");
    std::fs::create_dir_all(sources.join("scripts")).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/release");
    std::fs::copy(script, sources.join("scripts/release")).unwrap();
    std::fs::copy(dir.path().join("daily.pub"), sources.join("public")).unwrap();
    let git = Command::new("git")
        .arg("init")
        .current_dir(&sources)
        .output();
    assert!(git.unwrap().status.success());
    let look = || {
        let script = sources.join("scripts/release");
        let out = Command::new(script).arg("no-keys").output().unwrap();
        (out.status.success(), String::from_utf8(out.stderr).unwrap())
    };
    assert_eq!(look(), (true, String::new()));
    std::fs::copy(dir.path().join("daily.key"), sources.join("notes.txt")).unwrap();
    let (clean, said) = look();
    assert!(!clean && said.contains("notes.txt"), "{said}");
}
