//! The cache between nights as a file beside the database.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::night::{Cache, MAX_CACHE_BYTES, NightParams};

/// Where the rows of one horizon are kept.
pub(super) fn path(db: &Path, horizon_min: u32) -> PathBuf {
    db.with_file_name("cache")
        .join(format!("rows-{horizon_min}.bin"))
}

/// The cache, if there is one and it is sound and of these settings; why not is told on standard error.
pub(super) fn load(path: &Path, params: &NightParams) -> Option<Cache> {
    let found = read(path).and_then(|bytes| {
        Cache::from_bytes(&bytes, params).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    });
    match found {
        Ok(cache) => Some(cache),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            eprintln!("{} is left aside and made anew: {error}", path.display());
            None
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let size = fs::metadata(path)?.len();
    if size > MAX_CACHE_BYTES as u64 {
        return Err(io::Error::other(format!("{size} bytes are too many")));
    }
    fs::read(path)
}

/// Writes the file beside its place and then moves it there: a power cut leaves the old or the new.
pub(super) fn save(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let unfinished = path.with_extension("tmp");
    let mut file = File::create(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(folder)?.sync_all()
}
