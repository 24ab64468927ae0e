//! Small files that survive a power cut: one line of CRC and JSON, and links, replaced as a whole and durably.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fault;

/// No record of ours comes near, bytes.
const MOST_BYTES: u64 = 1 << 20;

/// Puts `value` in place of what `path` held: written aside, synchronised, renamed, folder synchronised.
pub fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let json = serde_json::to_string(value)?;
    let aside = path.with_extension("new");
    let mut file = File::create(&aside)?;
    file.write_all(format!("{:08x} {json}\n", crc(&json)).as_bytes())?;
    sync(&file)?;
    fs::rename(&aside, path)?;
    sync_parent(path)
}

/// What `path` holds; none where it is missing or damaged.
pub fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let text = String::from_utf8(read_small(path, MOST_BYTES).ok()?).ok()?;
    let (sum, json) = text.strip_suffix('\n')?.split_once(' ')?;
    (u32::from_str_radix(sum, 16).ok()? == crc(json)).then_some(())?;
    serde_json::from_str(json).ok()
}

/// A file that must not be longer than `most` bytes.
pub fn read_small(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    open_file(path)
        .and_then(|f| f.take(most + 1).read_to_end(&mut bytes))
        .map_err(|e| format!("{}: {e}", path.display()))?;
    if bytes.len() as u64 > most {
        return Err(format!("{} is longer than {most} bytes", path.display()));
    }
    Ok(bytes)
}

/// Opens what is a file: a pipe in its place would be waited for without end.
pub fn open_file(path: &Path) -> io::Result<File> {
    match fs::metadata(path)?.is_file() {
        true => File::open(path),
        false => Err(io::Error::other("it is no file")),
    }
}

/// Points the symbolic link `path` at `target`, in one step.
pub fn link(path: &Path, target: &Path) -> io::Result<()> {
    let aside = path.with_extension("new");
    gone(fs::remove_file(&aside))?;
    std::os::unix::fs::symlink(target, &aside)?;
    fs::rename(&aside, path)?;
    sync_parent(path)
}

/// Removes a file or link, durably; one that is not there is no error.
pub fn remove(path: &Path) -> io::Result<()> {
    gone(fs::remove_file(path))?;
    sync_parent(path)
}

/// Makes what was renamed into or removed from the folder of `path` last.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    sync(&File::open(path.parent().unwrap_or(Path::new(".")))?)
}

/// Makes what was written to a file last.
pub fn sync(file: &File) -> io::Result<()> {
    match fault::without("update_sync") {
        true => Ok(()),
        false => file.sync_all(),
    }
}

/// That something is not there is what a removal is for.
pub fn gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn crc(text: &str) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(text.as_bytes());
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_any_flipped_bit_makes_it_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trial");
        assert_eq!(read::<Vec<u64>>(&path), None);
        write(&path, &vec![1_u64, 2]).unwrap();
        write(&path, &vec![3_u64, 4]).unwrap();
        assert_eq!(read(&path), Some(vec![3_u64, 4]));
        let good = fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            // Letters of the checksum may change their case and say the same.
            let found = read::<Vec<u64>>(&path);
            assert!(found.is_none() || found == Some(vec![3, 4]), "bit {bit}");
        }
        for cut in 0..good.len() {
            fs::write(&path, &good[..cut]).unwrap();
            assert_eq!(read::<Vec<u64>>(&path), None, "cut at {cut}");
        }
        remove(&path).unwrap();
        remove(&path).unwrap();
    }

    #[test]
    fn a_link_is_moved_in_one_step_whatever_was_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("current");
        fs::write(dir.path().join("current.new"), "left by a power cut").unwrap();
        link(&path, Path::new("versions/1")).unwrap();
        link(&path, Path::new("versions/2")).unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("versions/2"));
    }
}
