//! The one way to write a file: whole, or not at all.
//!
//! Writes a temporary file beside the target, makes it durable, renames it and makes the folder durable. Never
//! leaves a half-written target, whenever the power goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces the contents of `path` by `bytes`, durably; a new file gets mode 0640.
///
/// *Errors*: those of the file system; the target is then what it was before.
pub fn write(path: &Path, mut bytes: &[u8]) -> io::Result<()> {
    write_from(path, &mut bytes, 0o640)
}

/// Replaces the contents of `path` by what `source` gives to its end, durably; the file gets `mode`, less the umask.
///
/// *Errors*: those of the source and the file system; the target is then what it was before.
pub fn write_from(path: &Path, source: &mut dyn Read, mode: u32) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{}.tmp", std::process::id()));
    let temporary = folder.join(temporary_name);
    let result = write_and_rename(&temporary, path, source, mode);
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result?;
    File::open(folder)?.sync_all()
}

fn write_and_rename(temporary: &Path, path: &Path, source: &mut dyn Read, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(temporary)?;
    io::copy(source, &mut file)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_no_other_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("folder");
        fs::create_dir(&path).unwrap();
        assert!(write(&path, b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
