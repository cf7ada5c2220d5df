//! The lock that lets only one daemon write to a state folder.
//!
//! Holds an advisory lock that the kernel drops with the process; never waits for it. Whoever opens a database for
//! writing shows the lock.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::StoreError;

const LOCK_FILE: &str = "lock";

/// Proof that this process alone writes to the folder, as long as it lives.
#[derive(Debug)]
pub struct FolderLock {
    folder: PathBuf,
    _file: Option<File>,
}

impl FolderLock {
    /// Takes the lock of `folder`, which is created where it is missing.
    ///
    /// On a read-only file system there is nothing to protect: the lock is then empty.
    ///
    /// *Errors*: [`StoreError::Locked`] when another process has it; those of the file system.
    pub fn acquire(folder: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(folder).or_else(unless_read_only).map_err(StoreError::file(folder))?;
        let path = folder.join(LOCK_FILE);
        let opened =
            OpenOptions::new().create(true).read(true).write(true).truncate(false).mode(0o640).open(&path);
        let mut file = match opened {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                return Ok(Self { folder: folder.to_owned(), _file: None });
            }
            Err(e) => return Err(StoreError::file(&path)(e)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let pid = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
                return Err(StoreError::Locked { folder: folder.to_owned(), pid });
            }
            Err(fs::TryLockError::Error(e)) => return Err(StoreError::file(&path)(e)),
        }
        // The id only helps the other's message: a full disk must not keep the daemon from starting.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { folder: folder.to_owned(), _file: Some(file) })
    }

    /// Returns the folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn unless_read_only(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::ReadOnlyFilesystem { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_who_holds_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::acquire(folder.path()).unwrap();
        let error = FolderLock::acquire(folder.path()).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        FolderLock::acquire(folder.path()).unwrap();
    }
}
