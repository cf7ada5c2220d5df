//! Room on the file system: how much the log may take, and the reserve file that is given up when there is none.
//!
//! Looks at the file system and keeps one file of zeros; never touches the log. The writer asks it.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};

use super::schema::PAGE_BYTES;
use super::{StoreError, TELEMETRY_FILE};
use crate::config::settings::StorageSettings;

const RESERVE_FILE: &str = "reserve";
/// Enough for the WAL of a retention turn on the largest quota: 1,000 pages.
const RESERVE_BYTES_MAX: u64 = 4 << 20;
/// A smaller reserve would not hold one retention turn.
const RESERVE_BYTES_MIN: u64 = 64 << 10;
/// The log is never held below this: an empty one has 20 pages.
const QUOTA_BYTES_MIN: u64 = 64 * PAGE_BYTES;

/// The room of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All there is.
    pub total: u64,
    /// What this process may still take.
    pub free: u64,
    /// Whether it cannot be written at all.
    pub read_only: bool,
}

impl Space {
    /// Returns the room of the file system that holds `folder`; unlimited where it does not say.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        match statvfs(folder) {
            Ok(found) => {
                #[allow(clippy::unnecessary_cast, reason = "these are 32 bits wide on some boards")]
                let (block, total, free) =
                    (found.fragment_size() as u64, found.blocks() as u64, found.blocks_available() as u64);
                Self {
                    total: total.saturating_mul(block),
                    free: free.saturating_mul(block),
                    read_only: found.flags().contains(FsFlags::ST_RDONLY),
                }
            }
            Err(_) => Self { total: u64::MAX, free: u64::MAX, read_only: false },
        }
    }
}

/// The reserve file of a state folder.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    folder: PathBuf,
}

impl Reserve {
    /// Returns the reserve of `folder`, without making it.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { path: folder.join(RESERVE_FILE), folder: folder.to_owned() }
    }

    /// Returns its length; 0 when it was given up.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |m| m.len())
    }

    /// Makes the file where it is missing and there is room: an eighth of what is free at most.
    ///
    /// *Errors*: those of the file system; there is no half-made file then.
    pub fn ensure(&self) -> Result<(), StoreError> {
        let bytes = (Space::of(&self.folder).free / 8).min(RESERVE_BYTES_MAX);
        if self.bytes() > 0 || bytes < RESERVE_BYTES_MIN {
            return Ok(());
        }
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(&self.path);
        let made = file.and_then(|file| {
            nix::fcntl::posix_fallocate(&file, 0, bytes as i64).map_err(std::io::Error::from)
        });
        made.map_err(|e| {
            let _ = fs::remove_file(&self.path);
            StoreError::file(&self.path)(e)
        })
    }

    /// Gives the room up; tells whether there was any.
    #[must_use]
    pub fn release(&self) -> bool {
        self.bytes() > 0 && fs::remove_file(&self.path).is_ok()
    }
}

/// Returns the largest size of the log's file, in bytes, as settings and file system allow.
///
/// The free-space floor is an eighth of a small file system at most. A file that is larger already keeps its size:
/// it does not shrink, so holding less in it would free nothing for others.
#[must_use]
pub fn quota_bytes(settings: &StorageSettings, folder: &Path) -> u64 {
    let space = Space::of(folder);
    let length = |name: &str| fs::metadata(folder.join(name)).map_or(0, |m| m.len());
    let file = length(TELEMETRY_FILE);
    let wal = length(&format!("{TELEMETRY_FILE}-wal"));
    let reserve = length(RESERVE_FILE);
    let floor = settings.free_bytes_min.min(space.total / 8);
    let reserve_wanted = reserve.max((space.free / 8).min(RESERVE_BYTES_MAX));
    let own = file + wal + reserve;
    let room = space.free.saturating_add(own).saturating_sub(floor).saturating_sub(reserve_wanted);
    // An eighth for the WAL: twice its sixteenth, since a transaction may pass the mark before it is copied.
    settings.bytes_max.min((room - room / 8).max(file)).max(QUOTA_BYTES_MIN)
}
