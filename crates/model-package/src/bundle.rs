//! A bundle: one file that carries a repository, or a part of it, on a stick.
//!
//! An uncompressed tar of plain files with the paths of a repository: metadata, manifests, blobs, each in order. Read
//! in place and never unpacked; nothing in it is believed before the verifier has seen it. The reader takes exactly the
//! bytes that the writer makes for the same files, so a bundle has one form and no room for tricks.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use tar::{EntryType, Header};

use crate::package::BLOB_BYTES_MAX;
use crate::repository_path::RepositoryPath;
use crate::repository_source::{RepositorySource, SourceError};

/// Most entries of a bundle: a thousand releases with all the blobs one may have.
pub const ENTRIES_MAX: usize = 65_536;

const BLOCK: u64 = 512;
/// Two blocks of zeros end an archive.
const END: u64 = 2 * BLOCK;

/// Why a file is no bundle, or cannot become one.
#[derive(Debug)]
pub enum BundleError {
    /// The file system failed.
    Io(io::Error),
    /// Something in the archive has another form than a bundle's.
    Form {
        /// Where, in bytes from the start.
        offset: u64,
        /// The entry's name where it has one, and what is wrong.
        reason: String,
    },
    /// More than [`ENTRIES_MAX`] entries.
    Entries,
    /// The writer was given a file out of order or twice.
    Order(RepositoryPath),
    /// The writer was given a file that is longer than a bundle may hold, or has another length than was said.
    Length(RepositoryPath),
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(_) => f.write_str("the bundle cannot be read or written"),
            Self::Form { offset, reason } => {
                write!(
                    f,
                    "is no bundle: at byte {offset} {reason}; make it again with `dunlin bundle export`"
                )
            }
            Self::Entries => write!(f, "is no bundle: it has more than {ENTRIES_MAX} entries"),
            Self::Order(path) => write!(f, "`{path}` is out of order in the bundle"),
            Self::Length(path) => write!(f, "`{path}` has another length than was said, or is too long"),
        }
    }
}

impl std::error::Error for BundleError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(source) => Some(source),
            _ => None,
        }
    }
}

impl From<io::Error> for BundleError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Writes a bundle. The same files give the same bytes.
#[derive(Debug)]
pub struct BundleWriter<W> {
    sink: W,
    last: Option<RepositoryPath>,
    entries: usize,
}

impl<W: Write> BundleWriter<W> {
    /// Begins a bundle.
    pub const fn new(sink: W) -> Self {
        Self { sink, last: None, entries: 0 }
    }

    /// Adds a file of `length` bytes. Files come in order: metadata, manifests, blobs, each by path.
    ///
    /// *Errors*: out of order, too long, of another length than said, or the sink fails.
    pub fn add(
        &mut self,
        path: RepositoryPath,
        length: u64,
        content: &mut dyn Read,
    ) -> Result<(), BundleError> {
        if self.last.as_ref().is_some_and(|last| order(last) >= order(&path)) {
            return Err(BundleError::Order(path));
        }
        if self.entries == ENTRIES_MAX {
            return Err(BundleError::Entries);
        }
        if length > BLOB_BYTES_MAX {
            return Err(BundleError::Length(path));
        }
        self.sink.write_all(header(&path, length)?.as_bytes())?;
        let copied = io::copy(&mut content.take(length + 1), &mut self.sink)?;
        if copied != length {
            return Err(BundleError::Length(path));
        }
        let padding = length.next_multiple_of(BLOCK) - length;
        self.sink.write_all(&[0; BLOCK as usize][..padding as usize])?;
        self.last = Some(path);
        self.entries += 1;
        Ok(())
    }

    /// Ends the bundle and gives the sink back.
    ///
    /// *Errors*: the sink fails.
    pub fn finish(mut self) -> Result<W, BundleError> {
        self.sink.write_all(&[0; END as usize])?;
        self.sink.flush()?;
        Ok(self.sink)
    }
}

/// Returns paths in the order that a bundle holds them in.
#[must_use]
pub fn in_order(paths: impl IntoIterator<Item = RepositoryPath>) -> Vec<RepositoryPath> {
    let mut paths: Vec<_> = paths.into_iter().collect();
    paths.sort_by_cached_key(order);
    paths
}

/// The order of a bundle's entries.
pub(crate) fn order(path: &RepositoryPath) -> (u8, String) {
    (path.rank(), path.to_string())
}

/// The one header that a file of this path and length has.
fn header(path: &RepositoryPath, length: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(path.to_string())?;
    header.set_size(length);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    Ok(header)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    offset: u64,
    length: u64,
}

/// An opened bundle: where each of its files lies.
#[derive(Debug, Clone)]
pub struct BundleReader {
    file: Arc<File>,
    entries: BTreeMap<RepositoryPath, Place>,
}

impl BundleReader {
    /// Opens a bundle and finds its files, without reading their contents.
    ///
    /// *Errors*: anything that is not exactly what [`BundleWriter`] makes: other paths, links, devices, extended
    /// headers, sparse files, duplicates, another order, bytes after the end.
    pub fn open(file: File) -> Result<Self, BundleError> {
        let length = file.metadata()?.len();
        let mut entries = BTreeMap::new();
        let mut last: Option<RepositoryPath> = None;
        let mut offset = 0;
        let form = |offset, reason: String| BundleError::Form { offset, reason };
        loop {
            if length.saturating_sub(offset) < END {
                return Err(form(offset, "the file ends before the archive does".to_owned()));
            }
            let mut block = [0; BLOCK as usize];
            file.read_exact_at(&mut block, offset)?;
            if block == [0; BLOCK as usize] {
                break;
            }
            let (path, size) = entry(&block).map_err(|reason| form(offset, reason))?;
            if last.as_ref().is_some_and(|last| order(last) >= order(&path)) {
                let what = if last.as_ref() == Some(&path) { "twice" } else { "out of order or twice" };
                return Err(form(offset, format!("`{path}` stands {what}")));
            }
            if entries.len() == ENTRIES_MAX {
                return Err(BundleError::Entries);
            }
            let start = offset + BLOCK;
            let next = start + size.next_multiple_of(BLOCK);
            if next > length {
                return Err(form(offset, format!("`{path}` goes beyond the end of the file")));
            }
            require_zeros(&file, start + size, next)
                .map_err(|reason| form(offset, format!("`{path}` {reason}")))?;
            entries.insert(path.clone(), Place { offset: start, length: size });
            last = Some(path);
            offset = next;
        }
        if length != offset + END || require_zeros(&file, offset, length).is_err() {
            return Err(form(offset, "something stands after the end of the archive".to_owned()));
        }
        Ok(Self { file: Arc::new(file), entries })
    }

    /// Opens the bundle of this name.
    ///
    /// *Errors*: as [`BundleReader::open`].
    pub fn open_path(path: &Path) -> Result<Self, BundleError> {
        Self::open(File::open(path)?)
    }

    /// Returns the paths of all files with their lengths in bytes.
    pub fn entries(&self) -> impl Iterator<Item = (&RepositoryPath, u64)> {
        self.entries.iter().map(|(path, place)| (path, place.length))
    }
}

/// Reads an entry's header: it must be the one that a file of its path and length has.
fn entry(block: &[u8; BLOCK as usize]) -> Result<(RepositoryPath, u64), String> {
    let read = Header::from_byte_slice(block);
    let name = read.path_bytes();
    let shown = String::from_utf8_lossy(&name).into_owned();
    if !read.entry_type().is_file() {
        let kind = read.entry_type().as_byte();
        return Err(format!("`{}` is of type {kind}, not a plain file", shown.escape_debug()));
    }
    let path: RepositoryPath = shown.parse().map_err(|error| format!("{error}"))?;
    let length = read.entry_size().map_err(|_| format!("`{path}` has no readable length"))?;
    if length > BLOB_BYTES_MAX {
        return Err(format!("`{path}` is longer than {BLOB_BYTES_MAX} bytes"));
    }
    match header(&path, length) {
        Ok(expected) if expected.as_bytes() == block => Ok((path, length)),
        _ => Err(format!("`{path}` has a header of another form")),
    }
}

/// Checks that less than a few blocks of the file are zeros.
fn require_zeros(file: &File, from: u64, to: u64) -> Result<(), &'static str> {
    let mut bytes = vec![0; (to - from) as usize];
    file.read_exact_at(&mut bytes, from).map_err(|_| "cannot be read to its end")?;
    if bytes.iter().all(|byte| *byte == 0) { Ok(()) } else { Err("is followed by something else than zeros") }
}

impl RepositorySource for BundleReader {
    fn length(&self, path: &RepositoryPath) -> Result<Option<u64>, SourceError> {
        Ok(self.entries.get(path).map(|place| place.length))
    }

    fn reader_at(
        &self,
        path: &RepositoryPath,
        offset: u64,
    ) -> Result<Option<Box<dyn Read + Send>>, SourceError> {
        let section = |place: &Place| Section {
            file: self.file.clone(),
            position: place.offset + offset.min(place.length),
            end: place.offset + place.length,
        };
        Ok(self.entries.get(path).map(|place| Box::new(section(place)) as Box<dyn Read + Send>))
    }
}

/// A stretch of a file, read without moving anybody else's position.
struct Section {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(rest);
        let count = self.file.read_at(&mut buffer[..wanted], self.position)?;
        if count == 0 && wanted > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the bundle became shorter"));
        }
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
