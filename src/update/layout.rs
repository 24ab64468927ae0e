//! The folder of versions beside the database, and the moves in it: each a step that leaves old or new whole.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::UpdateError;
use super::floor::Floors;
use super::manifest::{self, Manifest, PRODUCT};
use super::record::{self, read_small};
use super::signature::{Keys, MANIFEST_BYTES, SIGNATURE_BYTES};
use super::switch::Trial;

/// The manifest's name, at the publisher's and here.
pub const MANIFEST: &str = "nightwatt-manifest.json";
/// Its signature's.
pub const SIGNATURE: &str = "nightwatt-manifest.json.minisig";
/// The program's name in the folder of its version.
pub const PROGRAM: &str = "nightwatt";

/// Whoever holds the lock for longer than this is at a transfer.
const SHORT_WORK: Duration = Duration::from_secs(2);
const LOCK_LOOK: Duration = Duration::from_millis(20);

/// A sequence that is not taken again by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Which.
    pub sequence: u64,
    /// Its version, for people.
    pub version: String,
    /// What happened.
    pub why: String,
    /// Whether the event table has it.
    #[serde(default)]
    pub noted: bool,
}

/// A version that is here and whole.
#[derive(Clone, Debug)]
pub struct Held {
    /// What its publisher says of it.
    pub manifest: Manifest,
    /// The public key that signed it.
    pub key: String,
    /// The signed bytes.
    pub raw: Vec<u8>,
}

/// Where everything of updates is.
#[derive(Clone, Debug)]
pub struct Layout {
    folder: PathBuf,
}

/// Held by whoever changes anything; goes with the process.
#[derive(Debug)]
pub struct UpdateLock(#[allow(dead_code, reason = "it is closed when dropped")] File);

impl Layout {
    /// That of the station whose database is `db`.
    pub fn beside(db: &Path) -> Self {
        Self {
            folder: db.with_file_name("updates"),
        }
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder of one version.
    pub fn version(&self, sequence: u64) -> PathBuf {
        self.path("versions").join(sequence.to_string())
    }

    /// The program of one version.
    pub fn program(&self, sequence: u64) -> PathBuf {
        self.version(sequence).join(PROGRAM)
    }

    /// Makes the folders and keeps everybody else out.
    pub fn lock(&self) -> Result<UpdateLock, UpdateError> {
        let versions = self.path("versions");
        if !versions.exists() {
            fs::create_dir_all(&versions)
                .and_then(|()| record::sync_parent(&versions))
                .and_then(|()| record::sync_parent(&self.folder))
                .map_err(UpdateError::file("create", &versions))?;
        }
        let path = self.path("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(UpdateError::file("open", &path))?;
        let since = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(UpdateLock(file)),
                // A commit and a note are over in a moment; a transfer is not waited for.
                Err(TryLockError::WouldBlock) if since.elapsed() < SHORT_WORK => {
                    std::thread::park_timeout(LOCK_LOOK);
                }
                Err(TryLockError::WouldBlock) => return Err(UpdateError::Busy),
                Err(TryLockError::Error(e)) => return Err(UpdateError::file("lock", &path)(e)),
            }
        }
    }

    /// The sequence that a link names, whether or not it is there.
    pub fn linked(&self, name: &str) -> Option<u64> {
        let target = fs::read_link(self.path(name)).ok()?;
        target.to_str()?.strip_prefix("versions/")?.parse().ok()
    }

    /// The sequences that have a folder.
    pub fn versions(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.path("versions")).into_iter().flatten();
        let mut found: Vec<u64> = entries
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        found.sort_unstable();
        found
    }

    /// The trial, if a sound record says that there is one.
    pub fn trial(&self) -> Option<Trial> {
        record::read(&self.path("trial"))
    }

    /// Whether this version is on trial and nobody has ended that.
    pub fn is_tried(&self, sequence: u64) -> bool {
        let trial = self.trial();
        trial.is_some_and(|t| t.sequence == sequence && !t.taken_back)
    }

    /// Sequences given up.
    pub fn rejected(&self) -> Vec<Rejection> {
        record::read(&self.path("rejected")).unwrap_or_default()
    }

    /// What must not go back. Where the record is damaged, what the committed version says is left.
    pub fn floors(&self, keys: &Keys) -> Floors {
        let mut floors: Floors = record::read(&self.path("floor")).unwrap_or_default();
        if let Some(sequence) = self.linked("current")
            && let Ok(held) = self.signed(sequence, keys)
        {
            floors.committed(&held.key, sequence);
            floors.accepted(&held.key, &held.manifest);
        }
        floors
    }

    /// Keeps the floors.
    pub fn keep_floors(&self, floors: &Floors) -> Result<(), UpdateError> {
        self.keep("floor", floors)
    }

    /// The station's random number, made at the first look.
    pub fn station(&self) -> Result<String, UpdateError> {
        let path = self.path("station");
        if let Some(number) = record::read(&path) {
            return Ok(number);
        }
        let mut bytes = [0_u8; 16];
        File::open("/dev/urandom")
            .and_then(|mut f| f.read_exact(&mut bytes))
            .map_err(UpdateError::file("read", Path::new("/dev/urandom")))?;
        let number: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        self.keep("station", &number)?;
        Ok(number)
    }

    /// A version that is what its publisher signed, to the last byte; else what is wrong with it.
    pub fn held(&self, sequence: u64, keys: &Keys) -> Result<Held, String> {
        let held = self.signed(sequence, keys)?;
        let program = self.program(sequence);
        check_file(&program, &held.manifest)
            .map_err(|why| format!("{}: {why}", program.display()))?;
        Ok(held)
    }

    /// What a trusted key has signed for this sequence; the program is not looked at.
    fn signed(&self, sequence: u64, keys: &Keys) -> Result<Held, String> {
        let folder = self.version(sequence);
        let raw = read_small(&folder.join(MANIFEST), MANIFEST_BYTES)?;
        let signature = read_small(&folder.join(SIGNATURE), SIGNATURE_BYTES)?;
        let key = keys.verify(&raw, &signature).map_err(|e| e.to_string())?;
        let manifest = manifest::parse(&raw).map_err(|e| e.to_string())?;
        let ours = manifest.product == PRODUCT && manifest.target == super::target();
        if manifest.sequence != sequence || !ours {
            return Err("its manifest is that of another".into());
        }
        Ok(Held {
            manifest,
            key: key.to_owned(),
            raw,
        })
    }

    /// Begins or renews a trial: from the next launch on the candidate is started.
    pub fn try_out(&self, trial: &Trial) -> Result<(), UpdateError> {
        self.keep("trial", trial)
    }

    /// Notes whether the version on trial does what it has to; once it is no longer on trial, nothing.
    pub fn note_ready(&self, sequence: u64, ready: bool) -> Result<(), UpdateError> {
        match self.trial() {
            Some(t) if t.sequence == sequence && t.ready != ready => {
                self.try_out(&Trial { ready, ..t })
            }
            _ => Ok(()),
        }
    }

    /// Ends the trial without a commit, or takes a version out of service: it is not taken again by itself.
    pub fn reject(&self, rejection: Rejection) -> Result<(), UpdateError> {
        let mut all = self.rejected();
        all.retain(|r| r.sequence != rejection.sequence);
        all.push(rejection);
        self.keep("rejected", &all)
    }

    /// Forgets that a sequence was given up.
    pub fn pardon(&self, sequence: u64) -> Result<(), UpdateError> {
        let mut all = self.rejected();
        let before = all.len();
        all.retain(|r| r.sequence != sequence);
        if all.len() == before {
            return Ok(());
        }
        self.keep("rejected", &all)
    }

    /// From here on the events have these.
    pub fn noted(&self, told: &[Rejection]) -> Result<(), UpdateError> {
        let mut all = self.rejected();
        for rejection in all.iter_mut().filter(|r| told.contains(r)) {
            rejection.noted = true;
        }
        self.keep("rejected", &all)
    }

    /// Forgets the trial.
    pub fn end_trial(&self) -> Result<(), UpdateError> {
        let path = self.path("trial");
        record::remove(&path).map_err(UpdateError::file("remove", &path))
    }

    /// Makes the version on trial the one in force. Each prefix of the steps leaves a station that starts
    /// old or new; done again, it completes. The record stays until [`Layout::settle`], so that whoever is to
    /// be told is told, be it by the next start.
    pub fn commit(&self, keys: &Keys) -> Result<Manifest, UpdateError> {
        let trial = self.trial().filter(|t| !t.taken_back);
        let sequence = trial.ok_or(UpdateError::NoTrial)?.sequence;
        let held = self.held(sequence, keys).map_err(UpdateError::Damaged)?;
        let mut floors = self.floors(keys);
        let current = self.linked("current");
        if current != Some(sequence) {
            // What a start would come to without it: a damaged one is nothing to go back to.
            let mut before = ["current", "previous"].into_iter();
            let before = before.find_map(|name| {
                let linked = self.linked(name).filter(|s| *s != sequence)?;
                self.held(linked, keys).is_ok().then_some(linked)
            });
            self.point("previous", before)?;
            self.point("current", Some(sequence))?;
        }
        floors.committed(&held.key, sequence);
        floors.accepted(&held.key, &held.manifest);
        self.keep_floors(&floors)?;
        self.pardon(sequence)?;
        Ok(held.manifest)
    }

    /// What is left to do once a commit has been told.
    pub fn settle(&self) -> Result<(), UpdateError> {
        self.end_trial()?;
        self.prune(None);
        Ok(())
    }

    /// Takes the committed version out of service and puts the one before it in its place; returns the
    /// sequence that is in force then, none for the factory binary.
    pub fn roll_back(&self, why: &str) -> Result<Option<u64>, UpdateError> {
        let current = self.linked("current").ok_or(UpdateError::NothingBefore)?;
        let previous = self.linked("previous").filter(|p| *p != current);
        self.reject(Rejection {
            sequence: current,
            version: self.version_text(current),
            why: why.to_owned(),
            noted: false,
        })?;
        self.point("current", previous)?;
        self.point("previous", None)?;
        Ok(previous)
    }

    /// The version that a manifest here claims, for people; not verified.
    pub fn version_text(&self, sequence: u64) -> String {
        let raw = read_small(&self.version(sequence).join(MANIFEST), MANIFEST_BYTES);
        let manifest = raw.ok().and_then(|raw| manifest::parse(&raw).ok());
        manifest.map_or_else(|| "?".into(), |m| m.version.to_string())
    }

    /// Where a version is made before it gets its name.
    pub fn aside(&self) -> PathBuf {
        self.path("versions").join(".new")
    }

    /// Takes away what a cut left half made.
    pub fn tidy(&self) -> Result<(), UpdateError> {
        let aside = self.aside();
        if !aside.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        record::gone(fs::remove_dir_all(&aside)).map_err(UpdateError::file("remove", &aside))
    }

    /// Removes what nothing names: other versions, and what a cut left half done. What cannot be removed
    /// stays for the next time.
    pub fn prune(&self, keep: Option<u64>) {
        let named = [
            self.linked("current"),
            self.linked("previous"),
            self.trial().map(|t| t.sequence),
            keep,
        ];
        for entry in fs::read_dir(self.path("versions"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let sequence = entry
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<u64>().ok());
            if sequence.is_none() || !named.contains(&sequence) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    fn point(&self, name: &str, sequence: Option<u64>) -> Result<(), UpdateError> {
        let path = self.path(name);
        let done = match sequence {
            Some(sequence) => {
                record::link(&path, &Path::new("versions").join(sequence.to_string()))
            }
            None => record::remove(&path),
        };
        done.map_err(UpdateError::file("move the link", &path))
    }

    fn keep<T: Serialize>(&self, name: &str, value: &T) -> Result<(), UpdateError> {
        let path = self.path(name);
        record::write(&path, value).map_err(UpdateError::file("write", &path))
    }
}

/// Whether a regular, executable file has the size and the hash that its manifest says.
pub fn check_file(path: &Path, m: &Manifest) -> Result<(), String> {
    let meta = fs::symlink_metadata(path).map_err(|e| e.to_string())?;
    if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
        return Err("it is no program".into());
    }
    if meta.len() != m.size {
        return Err(format!("it has {} bytes instead of {}", meta.len(), m.size));
    }
    match hash(path) {
        Ok(found) if found == m.sha256 => Ok(()),
        Ok(_) => Err("it is not what was signed".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// SHA-256 of a file, lower-case hex.
pub fn hash(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut sha = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => sha.update(&buffer[..n]),
        }
    }
    Ok(sha.finalize().iter().map(|b| format!("{b:02x}")).collect())
}
