//! Updates through the real binary, attacked and cut off (O1 … O15 of docs/reliability.md); what the tests share is here.
//!
//! A candidate is any signed file: most are shell scripts that say who they are, some become the real daemon.

mod attacks;
mod back;
mod damage;
mod life;
mod older;
mod sources;

use std::path::{Path, PathBuf};
use std::process::Output;

use nightwatt::update::layout::Layout;
use nightwatt::update::signature::Keys;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{NIGHTWATT, Station};

/// Somebody with a key.
pub struct Publisher {
    pair: minisign::KeyPair,
}

impl Publisher {
    pub fn new() -> Self {
        let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
        Self { pair }
    }

    pub fn public_key(&self) -> String {
        self.pair.pk.to_base64()
    }

    pub fn keys(&self) -> Keys {
        Keys::new(&[self.public_key()]).unwrap()
    }

    pub fn sign(&self, bytes: &[u8]) -> String {
        let (pk, sk) = (&self.pair.pk, &self.pair.sk);
        let signed = minisign::sign(Some(pk), sk, bytes, Some("tests"), Some("tests"));
        signed.unwrap().to_string()
    }

    /// Puts `file` under this sequence into `folder`; `edit` changes the manifest before it is signed.
    pub fn publish(
        &self,
        folder: &Path,
        sequence: u64,
        file: &[u8],
        edit: impl FnOnce(&mut Value),
    ) {
        std::fs::create_dir_all(folder).unwrap();
        let mut manifest = manifest(sequence, file);
        edit(&mut manifest);
        std::fs::write(folder.join("program"), file).unwrap();
        self.put(folder, manifest.to_string().as_bytes());
    }

    /// Signs `manifest` as it is.
    pub fn put(&self, folder: &Path, manifest: &[u8]) {
        let path = folder.join("nightwatt-manifest.json");
        std::fs::write(&path, manifest).unwrap();
        std::fs::write(path.with_extension("json.minisig"), self.sign(manifest)).unwrap();
    }
}

/// What a publisher says of `file`.
pub fn manifest(sequence: u64, file: &[u8]) -> Value {
    let sha256: String = Sha256::digest(file)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    json!({
        "format": 1, "product": "nightwatt", "channel": "stable",
        "target": nightwatt::update::target(), "version": version(sequence), "sequence": sequence,
        "issued": "2026-11-22T00:00:00Z", "expires": "2099-01-01T00:00:00Z",
        "size": file.len(), "sha256": sha256, "file": "program",
        "schema": { "from": 1, "to": 99 }, "from_version": "0.1.0"
    })
}

pub fn version(sequence: u64) -> String {
    format!("9.0.{sequence}")
}

/// A candidate that gets on with every station and, run, does this.
pub fn script(sequence: u64, run: &str) -> Vec<u8> {
    let version = version(sequence);
    format!(
        "#!/bin/sh\n[ \"$1\" = self-check ] && {{ echo 'nightwatt {version}'; exit; }}\n{run}\n"
    )
    .into_bytes()
}

/// One that says who it is.
pub fn speaking(sequence: u64) -> Vec<u8> {
    script(sequence, &format!("echo sequence {sequence}"))
}

/// One that is the real daemon.
pub fn living(sequence: u64) -> Vec<u8> {
    script(sequence, &format!("exec {NIGHTWATT} \"$@\""))
}

/// A station that trusts `publishers`, with a folder for releases.
pub struct Updated {
    pub station: Station,
    pub releases: tempfile::TempDir,
}

impl Updated {
    pub fn new(publishers: &[&Publisher], extra: &str) -> Self {
        Self::at(None, "mqtt://127.0.0.1:1", publishers, extra)
    }

    pub fn at(folder: Option<&Path>, url: &str, publishers: &[&Publisher], extra: &str) -> Self {
        let keys: Vec<String> = publishers.iter().map(|p| p.public_key()).collect();
        let section = format!("[update]\npublic_keys = {keys:?}\n{extra}");
        let station = Station::storing_in(folder, url, &section);
        let releases = tempfile::tempdir().unwrap();
        Self { station, releases }
    }

    /// The folder of one release.
    pub fn release(&self, sequence: u64) -> PathBuf {
        self.releases.path().join(sequence.to_string())
    }

    pub fn layout(&self) -> Layout {
        Layout::beside(&self.station.db())
    }

    /// `nightwatt update <verb> <the release's folder> --json`.
    pub fn update(&self, verb: &str, sequence: u64, words: &[&str]) -> Output {
        let folder = self.release(sequence);
        let mut all = vec!["update", verb, folder.to_str().unwrap(), "--json"];
        all.extend(words);
        self.station.run(&all)
    }

    /// The report of that.
    pub fn report(&self, verb: &str, sequence: u64, words: &[&str]) -> Value {
        let out = self.update(verb, sequence, words);
        serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{out:?}"))
    }

    /// Publishes, tries and commits this file.
    pub fn commit(&self, publisher: &Publisher, sequence: u64, file: &[u8]) {
        publisher.publish(&self.release(sequence), sequence, file, |_| ());
        assert_eq!(self.report("apply", sequence, &[])["outcome"], "trial");
        self.layout().commit(&publisher.keys()).unwrap();
        self.layout().settle().unwrap();
    }

    /// What a start starts: what a script says, or "factory", which ends at once as its broker's address is
    /// none.
    pub fn started(&self) -> String {
        let out = self
            .station
            .command(&["launch"])
            .env("NIGHTWATT_MQTT__URL", "nowhere")
            .output()
            .unwrap();
        let said = String::from_utf8(out.stdout).unwrap();
        let error = String::from_utf8_lossy(&out.stderr);
        match out.status.code() {
            Some(2) if error.contains("mqtt.url") => "factory".into(),
            _ => said.trim().to_owned(),
        }
    }

    /// Nothing of a release is here.
    pub fn nothing_left(&self) -> bool {
        let layout = self.layout();
        layout.versions().is_empty()
            && !layout.path("download").exists()
            && layout.trial().is_none()
    }
}
