//! The blob store: files by their SHA-256 in `models/blobs`, and parts of those that are on their way.
//!
//! A blob appears whole and right, or not at all; a part goes on where it was cut. Names are digests alone, and no link
//! is followed. Never decides what is wanted: manifests name that. Reading checks every blob again, in the package.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dunlin_kit::clock;
use dunlin_model_package::manifest::BlobSpec;
use dunlin_model_package::package::BLOB_BYTES_MAX;
use dunlin_model_package::{Blobs, Digest, RepositoryPath, RepositorySource, SourceError};
use dunlin_trust::metadata::TargetDescription;
use dunlin_trust::transfer::{SPEED_WINDOW, require_speed};
use dunlin_trust::{Code, TargetReader};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::cut;
use super::refusal::{Refusal, RefusalCode};
use crate::store::reserve::Space;

/// Where blobs lie in the state folder.
const FOLDERS: [&str; 2] = ["models", "blobs"];
const PART_SUFFIX: &str = ".part";
/// Bytes read at once: a few blocks of an SD card, and nothing beside a gateway's memory.
const CHUNK_BYTES: usize = 64 << 10;
/// Largest window of a patch, as the protocol has it: 64 MiB.
const PATCH_WINDOW_LOG_MAX: u32 = 26;
const NO_LINK: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_CLOEXEC).union(OFlag::O_NONBLOCK);

/// Why a blob did not come.
#[derive(Debug)]
pub enum BlobError {
    /// It is refused.
    Refused(Refusal),
    /// The source cannot be read; to be tried again.
    Source(SourceError),
    /// The store cannot be used; to be tried again.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl fmt::Display for BlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Source(error) => error.fmt(f),
            Self::Io { path, .. } => write!(f, "cannot use `{}`", path.display()),
        }
    }
}

impl std::error::Error for BlobError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(_) => None,
            Self::Source(error) => error.source(),
            Self::Io { source, .. } => Some(source),
        }
    }
}

impl From<Refusal> for BlobError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// How a blob came to be in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// It was there, whole and right.
    Present,
    /// It was copied; of a resumed one the rest alone.
    Copied,
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Blobs and parts.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The opened store.
#[derive(Debug)]
pub struct BlobStore {
    folder: OwnedFd,
    path: PathBuf,
    free_bytes_min: u64,
    /// A clock that never jumps; the tests bring their own.
    uptime: fn() -> Duration,
}

impl BlobStore {
    /// Opens the store of a state folder, and makes it where it is missing. `free_bytes_min` stay free of the file system,
    /// of a small one an eighth.
    ///
    /// *Errors*: those of the file system; a link in the store's place is one.
    pub fn open(state_dir: &Path, free_bytes_min: u64) -> Result<Self, BlobError> {
        let mut path = state_dir.to_owned();
        let failed =
            |path: &Path, error: Errno| BlobError::Io { path: path.to_owned(), source: error.into() };
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let mut folder = open(&path, flags, Mode::empty()).map_err(|error| failed(&path, error))?;
        for name in FOLDERS {
            path.push(name);
            cut::point("make a folder").map_err(|source| BlobError::Io { path: path.clone(), source })?;
            match mkdirat(&folder, name, Mode::from_bits_truncate(0o750)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(failed(&path, error)),
            }
            folder = openat(&folder, name, flags | OFlag::O_NOFOLLOW, Mode::empty())
                .map_err(|error| failed(&path, error))?;
        }
        let uptime = || Duration::from_micros(clock::monotonic_micros().unsigned_abs());
        Ok(Self { folder, path, free_bytes_min, uptime })
    }

    /// Tells whether a state folder has a store: then it once had trust, too.
    #[must_use]
    pub fn exists(state_dir: &Path) -> bool {
        Self::path_in(state_dir).symlink_metadata().is_ok()
    }

    /// Returns where the store of a state folder is.
    #[must_use]
    pub fn path_in(state_dir: &Path) -> PathBuf {
        FOLDERS.iter().fold(state_dir.to_owned(), |path, name| path.join(name))
    }

    /// Returns the store's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the store as the place of a package's files.
    #[must_use]
    pub fn blobs(&self) -> Blobs {
        Blobs::ByDigest(self.path.clone())
    }

    /// Returns how many bytes of a blob are missing, judged by lengths alone.
    ///
    /// *Errors*: something else than a plain file has the blob's name.
    pub fn missing_bytes(&self, wanted: &BlobSpec) -> Result<u64, BlobError> {
        let name = wanted.sha256.to_string();
        for (name, is_whole) in [(name.clone(), true), (part_name(&name), false)] {
            if let Some(file) = self.open_plain(&name, OFlag::O_RDONLY)? {
                let length = self.length(&file, &name)?;
                if length == wanted.bytes || (!is_whole && length < wanted.bytes) {
                    return Ok(wanted.bytes - length);
                }
            }
        }
        Ok(wanted.bytes)
    }

    /// Checks that so many more bytes leave enough of the file system free.
    ///
    /// *Errors*: `disk_full`.
    pub fn require_room(&self, bytes: u64) -> Result<(), Refusal> {
        let space = Space::of(&self.path);
        let floor = self.free_bytes_min.min(space.total / 8);
        if space.free.saturating_sub(bytes) >= floor && space.free >= bytes {
            return Ok(());
        }
        let reason = format!(
            "need {bytes} bytes; {} are free, of which {floor} stay free: remove something else",
            space.free
        );
        Err(Refusal::new(RefusalCode::DiskFull, "models/blobs", reason))
    }

    /// Sees to it that a blob is in the store: checks one that is there, goes on with a part, copies the rest. `took` hears
    /// of every stretch of bytes that was copied.
    ///
    /// *Errors*: refused, and no part is left where its bytes are wrong or take room that is missing; or the source or the
    /// store failed, and what was copied stays for the next time.
    pub fn fetch(
        &self,
        source: &dyn RepositorySource,
        wanted: &BlobSpec,
        took: &mut dyn FnMut(u64),
    ) -> Result<Fetched, BlobError> {
        let name = wanted.sha256.to_string();
        if let Some(file) = self.open_plain(&name, OFlag::O_RDONLY)?
            && self.is_right(&file, wanted, &name)?
        {
            return Ok(Fetched::Present);
        }
        let part = self.open_plain(&part_name(&name), OFlag::O_RDONLY)?;
        let first = self.take(source, wanted, took);
        match first {
            // A part that lost its bytes with the power is no reason to refuse what the source has.
            Err(BlobError::Refused(refusal)) if part.is_some() && refusal.is(Code::Mismatch) => {
                self.take(source, wanted, took)?;
            }
            first => first?,
        }
        Ok(Fetched::Copied)
    }

    /// Makes a blob of a patch and a blob that is here. To be called where nothing of the wanted one is here.
    ///
    /// *Errors*: the patch is of no use, or did not come; nothing is left of it, and the whole blob is to be fetched.
    pub fn patch(
        &self,
        frame: &mut (dyn Read + Send),
        base: &BlobSpec,
        wanted: &BlobSpec,
        took: &mut dyn FnMut(u64),
    ) -> Result<(), BlobError> {
        let name = wanted.sha256.to_string();
        let (part_name, object) = (part_name(&name), format!("blobs/{name}"));
        let before = self.read_whole(base)?;
        self.require_room(wanted.bytes)?;
        let unreadable = |source| BlobError::Source(SourceError::Io { path: PathBuf::from(&object), source });
        let decoder = zstd::stream::read::Decoder::with_ref_prefix(io::BufReader::new(frame), &before);
        let mut decoder = decoder.map_err(unreadable)?.single_frame();
        decoder.window_log_max(PATCH_WINDOW_LOG_MAX).map_err(unreadable)?;
        let mut reader = TargetReader::new(&description_of(wanted), None, &object).map_err(Refusal::from)?;
        self.remove(&part_name)?;
        let file = self.create(&part_name)?;
        let mut copy = Copy { store: self, part: &file, reader: &mut reader, object: &object };
        let copied = copy.take_all(&mut decoder, took);
        let made = copied.and_then(|()| reader.finish().map_err(|failure| Refusal::from(failure).into()));
        match made {
            Ok(()) => self.settle(&file, &part_name, &name),
            Err(error) => self.remove(&part_name).and(Err(error)),
        }
    }

    /// Reads a blob that is here into memory.
    fn read_whole(&self, wanted: &BlobSpec) -> Result<Vec<u8>, BlobError> {
        let name = wanted.sha256.to_string();
        let file = self.open_plain(&name, OFlag::O_RDONLY)?.ok_or_else(|| absent(&name))?;
        let mut reader = TargetReader::new(&description_of(wanted), None, &name).map_err(Refusal::from)?;
        let mut whole = Vec::with_capacity(usize::try_from(wanted.bytes).unwrap_or(0));
        let mut outgrown = Ok(());
        self.each_chunk(&file, &name, |chunk| {
            if outgrown.is_ok() {
                outgrown = reader.update(chunk);
                whole.extend_from_slice(chunk);
            }
        })?;
        outgrown.and_then(|()| reader.finish()).map_err(Refusal::from)?;
        Ok(whole)
    }

    fn take(
        &self,
        source: &dyn RepositorySource,
        wanted: &BlobSpec,
        took: &mut dyn FnMut(u64),
    ) -> Result<(), BlobError> {
        let name = wanted.sha256.to_string();
        let part_name = part_name(&name);
        let object = format!("blobs/{name}");
        let description = description_of(wanted);
        if wanted.bytes > BLOB_BYTES_MAX {
            let reason = format!("is {} bytes long; {BLOB_BYTES_MAX} are the most", wanted.bytes);
            return Err(Refusal::trust(Code::EndlessData, object, reason).into());
        }
        let mut reader = TargetReader::new(&description, None, &object).map_err(Refusal::from)?;
        let mut part = self.open_plain(&part_name, OFlag::O_RDWR)?;
        if let Some(file) = &part
            && self.length(file, &part_name)? > wanted.bytes
        {
            self.remove(&part_name)?;
            part = None;
        }
        if let Some(file) = &part {
            // At its end, the file's position is where the rest belongs.
            self.each_chunk(file, &part_name, |chunk| drop(reader.update(chunk)))?;
        }
        if reader.missing() > 0 {
            let announced = source.length(&RepositoryPath::Blob(wanted.sha256)).map_err(BlobError::Source)?;
            let announced = announced.ok_or_else(|| absent(&object))?;
            TargetReader::new(&description, Some(announced), &object).map_err(Refusal::from)?;
            if let Err(refusal) = self.require_room(reader.missing()) {
                self.remove(&part_name)?;
                return Err(refusal.into());
            }
        }
        let file = match part {
            Some(file) => file,
            None => self.create(&part_name)?,
        };
        if reader.missing() > 0 {
            let mut copy = Copy { store: self, part: &file, reader: &mut reader, object: &object };
            copy.run(source, wanted, took).inspect_err(|error| self.drop_spoiled(&part_name, error))?;
        }
        if let Err(failure) = reader.finish() {
            self.remove(&part_name)?;
            return Err(Refusal::from(failure).into());
        }
        self.settle(&file, &part_name, &name)
    }

    /// Makes a whole part durable and gives it the blob's name.
    fn settle(&self, file: &File, part_name: &str, name: &str) -> Result<(), BlobError> {
        let durable = cut::point("make a blob durable").and_then(|()| file.sync_all());
        if let Err(error) = durable {
            let error = self.write_error(part_name, error);
            self.drop_spoiled(part_name, &error);
            return Err(error);
        }
        let named = cut::point("name a blob")
            .and_then(|()| Ok(renameat(&self.folder, part_name, &self.folder, name)?))
            .and_then(|()| cut::point("make the name durable"))
            .and_then(|()| Ok(nix::unistd::fsync(&self.folder)?));
        named.map_err(|source| self.io(name, source))
    }

    /// Removes a part that is of no use: its bytes are wrong, or the room they take is missing.
    fn drop_spoiled(&self, part_name: &str, error: &BlobError) {
        let BlobError::Refused(refusal) = error else { return };
        let is_full = refusal.code == RefusalCode::DiskFull.as_str();
        if (is_full || refusal.is(Code::EndlessData))
            && let Err(error) = self.remove(part_name)
        {
            tracing::warn!(%error, part = part_name, "a part that is of no use stays until the next clean-up");
        }
    }

    /// Removes every blob that is not in `kept`, and every part of one that is not.
    ///
    /// *Errors*: those of the file system; what is left goes the next time.
    pub fn collect(&self, kept: &BTreeSet<Digest>) -> Result<Collected, BlobError> {
        let mut collected = Collected::default();
        let entries = std::fs::read_dir(&self.path).map_err(|source| self.io("", source))?;
        for entry in entries {
            let entry = entry.map_err(|source| self.io("", source))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let digest = name.strip_suffix(PART_SUFFIX).unwrap_or(name).parse::<Digest>();
            // Only names that this store makes; others are somebody's.
            if let Ok(digest) = digest
                && !kept.contains(&digest)
            {
                let bytes = entry.metadata().map_or(0, |meta| meta.len());
                self.remove(name)?;
                collected = Collected { files: collected.files + 1, bytes: collected.bytes + bytes };
            }
        }
        Ok(collected)
    }

    /// Removes a blob that is not what its name says, as a flipped bit makes it; tells whether it did. The next fetch
    /// brings it again.
    ///
    /// *Errors*: those of the file system.
    pub fn remove_damaged(&self, wanted: &BlobSpec) -> Result<bool, BlobError> {
        let name = wanted.sha256.to_string();
        let is_right = match self.open_plain(&name, OFlag::O_RDONLY) {
            Ok(None) => return Ok(false),
            Ok(Some(file)) => self.is_right(&file, wanted, &name)?,
            Err(BlobError::Refused(_)) => false,
            Err(error) => return Err(error),
        };
        if !is_right {
            self.remove(&name)?;
        }
        Ok(!is_right)
    }

    fn is_right(&self, file: &File, wanted: &BlobSpec, name: &str) -> Result<bool, BlobError> {
        if self.length(file, name)? != wanted.bytes {
            return Ok(false);
        }
        let Ok(mut reader) = TargetReader::new(&description_of(wanted), None, name) else { return Ok(false) };
        let mut has_grown = false;
        self.each_chunk(file, name, |chunk| has_grown |= reader.update(chunk).is_err())?;
        Ok(!has_grown && reader.finish().is_ok())
    }

    fn each_chunk(&self, mut file: &File, name: &str, mut take: impl FnMut(&[u8])) -> Result<(), BlobError> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => take(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.io(name, error)),
            }
        }
    }

    /// Opens a plain file of the store, where there is one.
    fn open_plain(&self, name: &str, flags: OFlag) -> Result<Option<File>, BlobError> {
        let not_plain =
            || Refusal::trust(Code::Mismatch, name, "is no plain file in the blob store; remove it");
        let file = match openat(&self.folder, name, flags | NO_LINK, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            // What Linux answers for links, and for folders and devices that are opened for writing.
            Err(Errno::ELOOP | Errno::EMLINK | Errno::EISDIR | Errno::ENXIO) => {
                return Err(not_plain().into());
            }
            Err(error) => return Err(self.io(name, error.into())),
        };
        let meta = file.metadata().map_err(|source| self.io(name, source))?;
        if meta.is_file() { Ok(Some(file)) } else { Err(not_plain().into()) }
    }

    fn create(&self, name: &str) -> Result<File, BlobError> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | NO_LINK;
        let created = cut::point("make a part")
            .and_then(|()| Ok(openat(&self.folder, name, flags, Mode::from_bits_truncate(0o640))?));
        created.map(File::from).map_err(|error| self.write_error(name, error))
    }

    fn remove(&self, name: &str) -> Result<(), BlobError> {
        let removed = cut::point("remove a file").and_then(|()| {
            match unlinkat(&self.folder, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => Ok(()),
                Err(error) => Err(error.into()),
            }
        });
        removed.map_err(|source| self.io(name, source))
    }

    fn length(&self, file: &File, name: &str) -> Result<u64, BlobError> {
        file.metadata().map(|meta| meta.len()).map_err(|source| self.io(name, source))
    }

    fn write_error(&self, name: &str, error: io::Error) -> BlobError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let reason = "found no room on the disk: remove something else";
                Refusal::new(RefusalCode::DiskFull, "models/blobs", reason).into()
            }
            _ => self.io(name, error),
        }
    }

    fn io(&self, name: &str, source: io::Error) -> BlobError {
        BlobError::Io { path: self.path.join(name), source }
    }
}

/// The copying of one blob's rest.
struct Copy<'a> {
    store: &'a BlobStore,
    part: &'a File,
    reader: &'a mut TargetReader,
    object: &'a str,
}

impl Copy<'_> {
    fn run(
        &mut self,
        source: &dyn RepositorySource,
        wanted: &BlobSpec,
        took: &mut dyn FnMut(u64),
    ) -> Result<(), BlobError> {
        let offset = wanted.bytes - self.reader.missing();
        let path = RepositoryPath::Blob(wanted.sha256);
        let input = source.reader_at(&path, offset).map_err(BlobError::Source)?;
        // One more than is wanted, to notice a source that does not end.
        let mut input = input.ok_or_else(|| absent(self.object))?.take(self.reader.missing() + 1);
        self.take_all(&mut input, took)
    }

    /// Takes what an input gives, as long as it is no more than is missing.
    fn take_all(&mut self, input: &mut dyn Read, took: &mut dyn FnMut(u64)) -> Result<(), BlobError> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut window = ((self.store.uptime)(), 0);
        loop {
            let count = match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The part stays: the next place goes on with it.
                Err(source) if source.kind() == io::ErrorKind::TimedOut => {
                    return Err(Refusal::trust(Code::SlowRetrieval, self.object, source.to_string()).into());
                }
                Err(source) => {
                    let path = PathBuf::from(self.object);
                    return Err(BlobError::Source(SourceError::Io { path, source }));
                }
            };
            self.reader.update(&buffer[..count]).map_err(Refusal::from)?;
            self.write(&buffer[..count])?;
            took(count as u64);
            window.1 += count as u64;
            let elapsed = (self.store.uptime)().saturating_sub(window.0);
            require_speed(window.1, elapsed, self.object).map_err(Refusal::from)?;
            if elapsed >= SPEED_WINDOW {
                window = ((self.store.uptime)(), 0);
            }
        }
        if self.reader.missing() > 0 {
            let reason = format!("ends {} bytes early in the repository", self.reader.missing());
            return Err(Refusal::trust(Code::Mismatch, self.object, reason).into());
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> Result<(), BlobError> {
        let mut part = self.part;
        let written = cut::point("write a part").and_then(|()| part.write_all(bytes));
        written.map_err(|error| self.store.write_error(&part_name(self.object), error))
    }
}

fn part_name(name: &str) -> String {
    format!("{name}{PART_SUFFIX}")
}

fn description_of(wanted: &BlobSpec) -> TargetDescription {
    let hashes = BTreeMap::from([("sha256".to_owned(), wanted.sha256.to_string())]);
    TargetDescription { length: wanted.bytes, hashes, custom: None }
}

fn absent(object: &str) -> Refusal {
    Refusal::trust(Code::Mismatch, object, "is not in the repository; copy the repository or bundle again")
}

#[cfg(test)]
mod tests;
