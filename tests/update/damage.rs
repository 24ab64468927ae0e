//! The folder of versions damaged in every way there is a name for.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::{Publisher, Updated, speaking};

/// A station with sequence 7 in force and 6 before it.
fn two_versions(publisher: &Publisher) -> Updated {
    let updated = Updated::new(&[publisher], "");
    updated.commit(publisher, 6, &speaking(6));
    updated.commit(publisher, 7, &speaking(7));
    assert_eq!(updated.started(), "sequence 7");
    updated
}

fn put(path: &Path, file: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, file).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A pipe in the place of a file.
fn pipe(path: &Path) {
    let _ = std::fs::remove_file(path);
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

#[test]
fn what_a_commit_leaves_to_go_back_to_is_whole() {
    let publisher = Publisher::new();
    for damage in ["current is missing", "current has rotted"] {
        let updated = two_versions(&publisher);
        match damage {
            "current is missing" => std::fs::remove_file(updated.layout().path("current")).unwrap(),
            _ => put(&updated.layout().program(7), b"rot"),
        }
        assert_eq!(updated.started(), "sequence 6", "{damage}");
        updated.commit(&publisher, 9, &speaking(9));
        assert_eq!(updated.started(), "sequence 9", "{damage}");
        put(&updated.layout().program(9), b"rot");
        assert_eq!(updated.started(), "sequence 6", "{damage}");
    }
}

#[test]
fn a_folder_of_versions_that_cannot_be_read_is_not_taken_for_none() {
    let publisher = Publisher::new();
    let updated = two_versions(&publisher);
    let folder = updated.layout().folder().to_owned();
    std::fs::rename(&folder, folder.with_extension("aside")).unwrap();
    std::fs::write(&folder, "no folder").unwrap();
    let out = updated.station.run(&["update", "status"]);
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("cannot read /"), "{said}");
}

#[test]
fn o11_with_any_damage_the_previous_or_the_factory_version_starts() {
    let publisher = Publisher::new();
    let updated = two_versions(&publisher);
    let layout = updated.layout();
    let (current, trial) = (layout.path("current"), layout.path("trial"));
    let point = |to: &str| {
        std::fs::remove_file(&current).unwrap();
        symlink(to, &current).unwrap();
        updated.started()
    };
    std::fs::remove_file(&current).unwrap();
    assert_eq!(updated.started(), "sequence 6", "missing");
    symlink("versions/99", &current).unwrap();
    assert_eq!(updated.started(), "sequence 6", "dangling");
    assert_eq!(point("current"), "sequence 6", "a loop");
    assert_eq!(
        point("versions/../versions/7"),
        "sequence 6",
        "no plain name"
    );
    assert_eq!(point("/bin"), "sequence 6", "elsewhere");
    std::fs::remove_file(&current).unwrap();
    std::fs::create_dir(&current).unwrap();
    assert_eq!(updated.started(), "sequence 6", "a folder");
    std::fs::remove_dir(&current).unwrap();
    symlink("versions/7", &current).unwrap();
    for garbage in [
        "",
        "garbage",
        "00000000 {\"sequence\":6,\"version\":\"x\",\"tries_left\":3,\"boot\":\"\"}\n",
    ] {
        std::fs::write(&trial, garbage).unwrap();
        assert_eq!(updated.started(), "sequence 7", "trial {garbage:?}");
    }
    std::fs::write(&trial, [0xff; 4096]).unwrap();
    assert_eq!(updated.started(), "sequence 7");
    // Who opens a pipe waits for somebody at its other end.
    pipe(&trial);
    assert_eq!(updated.started(), "sequence 7", "trial a pipe");
    std::fs::remove_file(&trial).unwrap();
    // Bit rot: in the program, its manifest, its signature.
    for name in [
        "nightwatt",
        "nightwatt-manifest.json",
        "nightwatt-manifest.json.minisig",
    ] {
        let path = layout.version(7).join(name);
        let good = std::fs::read(&path).unwrap();
        let mut rotten = good.clone();
        // Beyond the signature's first line, which nobody signs.
        let at = good.len() - 20;
        rotten[at] ^= 4;
        std::fs::write(&path, &rotten).unwrap();
        assert_eq!(updated.started(), "sequence 6", "{name}");
        let status = updated.station.run(&["update", "status"]);
        assert!(
            String::from_utf8(status.stdout)
                .unwrap()
                .contains("damaged"),
            "{name}"
        );
        std::fs::remove_file(&path).unwrap();
        assert_eq!(updated.started(), "sequence 6", "{name} missing");
        pipe(&path);
        assert_eq!(updated.started(), "sequence 6", "{name} a pipe");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &good).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(updated.started(), "sequence 7", "{name}");
    }
    std::fs::remove_dir_all(layout.version(6)).unwrap();
    std::fs::set_permissions(layout.program(7), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(updated.started(), "factory", "both gone");
    std::fs::remove_dir_all(layout.folder()).unwrap();
    assert_eq!(updated.started(), "factory", "everything gone");
    // A committed version that rotted comes back from its publisher, though its sequence is not new.
    let updated = two_versions(&publisher);
    put(&updated.layout().program(7), b"rot");
    assert_eq!(updated.report("apply", 7, &[])["outcome"], "trial");
    assert_eq!(updated.started(), "sequence 7");
}

#[test]
fn o13_what_nobody_signed_is_not_executed() {
    let publisher = Publisher::new();
    let updated = two_versions(&publisher);
    let layout = updated.layout();
    let evil = |updated: &Updated| updated.releases.path().join("evil").exists();
    let mut file = format!(
        "#!/bin/sh\ntouch {}/evil\n",
        updated.releases.path().display()
    )
    .into_bytes();
    file.resize(speaking(7).len().max(file.len()), b'\n');
    put(&layout.program(7), &file);
    assert_eq!(updated.started(), "sequence 6");
    // A whole version of a stranger's.
    let stranger = Publisher::new();
    let other = Updated::new(&[&stranger], "");
    other.commit(&stranger, 9, &file_with_self_check(&updated));
    std::fs::rename(other.layout().version(9), layout.version(9)).unwrap();
    std::fs::remove_file(layout.path("current")).unwrap();
    symlink("versions/9", layout.path("current")).unwrap();
    assert_eq!(updated.started(), "sequence 6");
    // Ours, under another number: an old version in the place of a new one.
    std::fs::remove_dir_all(layout.version(9)).unwrap();
    std::fs::rename(layout.version(6), layout.version(9)).unwrap();
    assert_eq!(updated.started(), "factory");
    assert!(!evil(&updated));
}

fn file_with_self_check(updated: &Updated) -> Vec<u8> {
    super::script(
        9,
        &format!("touch {}/evil", updated.releases.path().display()),
    )
}
