//! Backups of a server's folder: made while it runs, restored into an empty folder, checked for damage.
//!
//! A backup is complete once it has its list of files, which is written last. Never changes what it backs up, and never
//! writes over anything.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use dunlin_kit::atomic_file;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::store::{StoreError, sqlite_file};

/// The list of a backup's files.
const LIST: &str = "backup.json";
/// The database.
const DATABASE: &str = "fleet.db";
/// The folders whose files are copied: keys, which sign, and blobs, which are named by their hashes.
const FOLDERS: [&str; 2] = ["keys", "blobs"];
/// The form of the list: one that is newer is refused.
const FORMAT: u32 = 1;
/// Read by its owner alone: there are keys.
const FILE_MODE: u32 = 0o600;
/// The same of folders.
const FOLDER_MODE: u32 = 0o700;
/// Deepest folder of blobs.
const DEPTH_MAX: usize = 8;
/// Name of a file that is being uploaded, which no row names yet.
const UNFINISHED: [&str; 2] = [".tmp", "#"];

/// Where the database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// In the folder.
    InFolder,
    /// In PostgreSQL, which has its own backups.
    Elsewhere,
}

/// What was copied or looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Why there is no backup, or it is not used.
#[derive(Debug)]
pub enum BackupError {
    /// A file or folder cannot be used.
    File(PathBuf, io::Error),
    /// The database cannot be used.
    Store(StoreError),
    /// The folder has no database.
    NoDatabase(PathBuf),
    /// The folder to write is not empty.
    NotEmpty(PathBuf),
    /// The folder holds no complete backup.
    Incomplete(PathBuf),
    /// The backup was made by a newer program.
    TooNew {
        /// The backup.
        folder: PathBuf,
        /// The program's version.
        needed: String,
    },
    /// A file is not what it was.
    Damaged(String),
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, _) => write!(f, "cannot use `{}`", path.display()),
            Self::Store(_) => f.write_str("cannot use the database"),
            Self::NoDatabase(folder) => write!(
                f,
                "`{}` has no `{DATABASE}`; a database in PostgreSQL is backed up by `pg_dump`, the rest with \
                 `--without-database`",
                folder.display()
            ),
            Self::NotEmpty(folder) => write!(f, "`{}` is not empty; name another folder", folder.display()),
            Self::Incomplete(folder) => {
                write!(f, "`{}` holds no complete backup: there is no `{LIST}`", folder.display())
            }
            Self::TooNew { folder, needed } => write!(
                f,
                "the backup `{}` was made by dunlin-fleet {needed}; use that version or a newer one",
                folder.display()
            ),
            Self::Damaged(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for BackupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(_, error) => Some(error),
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

/// The list of files, written when all of them are there.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    format: u32,
    version: String,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    sha256: String,
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |error| BackupError::File(path, error)
}

/// Copies a server's folder, also while the server runs: the database as it is at one moment, then what it names.
///
/// *Errors*: see [`BackupError`]; what was copied stays, without its list, and is no backup.
pub fn back_up(data: &Path, to: &Path, database: Database) -> Result<Summary, BackupError> {
    require_empty(to)?;
    make_folder(to)?;
    let mut list =
        List { format: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned(), files: BTreeMap::new() };
    let file = data.join(DATABASE);
    match database {
        Database::InFolder if !file.is_file() => return Err(BackupError::NoDatabase(data.to_owned())),
        Database::InFolder => {
            let copy = to.join(DATABASE);
            sqlite_file::copy(&file, &copy).map_err(BackupError::Store)?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(FILE_MODE)).map_err(file_error(&copy))?;
            File::open(&copy).and_then(|file| file.sync_all()).map_err(file_error(&copy))?;
            list.files.insert(DATABASE.to_owned(), measure(&copy)?);
        }
        Database::Elsewhere => {}
    }
    // After the database: blobs are there before rows name them, and are never changed.
    for name in files(data)? {
        let entry = copy(&data.join(&name), &to.join(&name))?;
        list.files.insert(name, entry);
    }
    let text = serde_json::to_vec_pretty(&list).unwrap_or_default();
    let path = to.join(LIST);
    atomic_file::write_from(&path, &mut text.as_slice(), FILE_MODE).map_err(file_error(&path))?;
    Ok(summary(&list))
}

/// Makes a server's folder of a backup, file by file, the database last.
///
/// *Errors*: see [`BackupError`].
pub fn restore(from: &Path, data: &Path) -> Result<Summary, BackupError> {
    let list = read_list(from)?.ok_or_else(|| BackupError::Incomplete(from.to_owned()))?;
    require_empty(data)?;
    // Before anything is written: what is damaged is not restored in part.
    check_list(from, &list)?;
    make_folder(data)?;
    for folder in FOLDERS {
        make_folder(&data.join(folder))?;
    }
    let is_database = |name: &str| name == DATABASE;
    let (databases, others): (Vec<_>, Vec<_>) = list.files.keys().partition(|name| is_database(name));
    for name in others.into_iter().chain(databases) {
        let entry = copy(&from.join(name), &data.join(name))?;
        if list.files.get(name) != Some(&entry) {
            return Err(BackupError::Damaged(format!("`{name}` changed while it was read")));
        }
    }
    Ok(summary(&list))
}

/// Looks for damage in a backup, or in the folder of a server, which may be running.
///
/// *Errors*: [`BackupError::Damaged`] names the first; others as for a backup.
pub fn check(data: &Path) -> Result<Summary, BackupError> {
    if let Some(list) = read_list(data)? {
        check_list(data, &list)?;
        return Ok(summary(&list));
    }
    let mut found = Summary::default();
    let file = data.join(DATABASE);
    if file.is_file() {
        check_database(&file)?;
        found.files += 1;
        found.bytes += fs::metadata(&file).map_err(file_error(&file))?.len();
    }
    for name in files(data)? {
        let path = data.join(&name);
        let entry = measure(&path)?;
        let last = name.rsplit('/').next().unwrap_or_default();
        if name.starts_with("blobs/") && last != entry.sha256 {
            return Err(BackupError::Damaged(format!("`{name}` holds other bytes than its name says")));
        }
        let mode = fs::metadata(&path).map_err(file_error(&path))?.permissions().mode();
        if name.starts_with("keys/") && mode & 0o077 != 0 {
            let words = format!("`{name}` can be read by others; `chmod 600` it, and think of replacing it");
            return Err(BackupError::Damaged(words));
        }
        found.files += 1;
        found.bytes += entry.bytes;
    }
    if found.files == 0 {
        return Err(BackupError::NoDatabase(data.to_owned()));
    }
    Ok(found)
}

fn check_list(folder: &Path, list: &List) -> Result<(), BackupError> {
    for (name, entry) in &list.files {
        let path = folder.join(name);
        if !path.is_file() {
            return Err(BackupError::Damaged(format!("`{name}` is missing")));
        }
        if measure(&path)? != *entry {
            return Err(BackupError::Damaged(format!("`{name}` is not what was backed up")));
        }
    }
    if list.files.contains_key(DATABASE) {
        check_database(&folder.join(DATABASE))?;
    }
    Ok(())
}

fn check_database(file: &Path) -> Result<(), BackupError> {
    match sqlite_file::check(file) {
        Ok(None) => Ok(()),
        Ok(Some(damage)) => Err(BackupError::Damaged(format!("`{}`: {damage}", file.display()))),
        Err(error) => Err(BackupError::Store(error)),
    }
}

fn read_list(folder: &Path) -> Result<Option<List>, BackupError> {
    let path = folder.join(LIST);
    let raw = match fs::read(&path) {
        Ok(raw) => raw,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(BackupError::File(path, error)),
    };
    let damaged = || BackupError::Damaged(format!("`{LIST}` cannot be read"));
    let value: serde_json::Value = serde_json::from_slice(&raw).map_err(|_| damaged())?;
    if value["format"].as_u64().is_some_and(|format| format > u64::from(FORMAT)) {
        let needed = value["version"].as_str().unwrap_or("of a newer format").to_owned();
        return Err(BackupError::TooNew { folder: folder.to_owned(), needed });
    }
    let list: List = serde_json::from_value(value).map_err(|_| damaged())?;
    let is_inside = |name: &String| {
        !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
    };
    if !list.files.keys().all(is_inside) {
        return Err(damaged());
    }
    Ok(Some(list))
}

fn summary(list: &List) -> Summary {
    Summary { files: list.files.len() as u64, bytes: list.files.values().map(|entry| entry.bytes).sum() }
}

fn require_empty(folder: &Path) -> Result<(), BackupError> {
    match fs::read_dir(folder) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(BackupError::NotEmpty(folder.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(BackupError::File(folder.to_owned(), error)),
    }
}

fn make_folder(folder: &Path) -> Result<(), BackupError> {
    fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).map_err(file_error(folder))
}

/// Returns the paths of the files to copy, below the server's folder.
fn files(data: &Path) -> Result<Vec<String>, BackupError> {
    let mut found = Vec::new();
    let mut folders: Vec<(String, usize)> = FOLDERS.iter().map(|name| ((*name).to_owned(), 0)).collect();
    while let Some((folder, depth)) = folders.pop() {
        let path = data.join(&folder);
        if !path.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&path).map_err(file_error(&path))? {
            let entry = entry.map_err(file_error(&path))?;
            let kind = entry.file_type().map_err(file_error(&entry.path()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let full = format!("{folder}/{name}");
            if kind.is_dir() && depth < DEPTH_MAX {
                folders.push((full, depth + 1));
            } else if kind.is_file() && !UNFINISHED.iter().any(|mark| name.contains(mark)) {
                found.push(full);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Copies a file, durably; returns what it holds.
fn copy(from: &Path, to: &Path) -> Result<Entry, BackupError> {
    if let Some(folder) = to.parent() {
        make_folder(folder)?;
    }
    let source = File::open(from).map_err(file_error(from))?;
    let mut options = File::options();
    let target = options.write(true).create_new(true).mode(FILE_MODE).open(to).map_err(file_error(to))?;
    let entry = pour(source, &target).map_err(file_error(to))?;
    target.sync_all().map_err(file_error(to))?;
    Ok(entry)
}

fn measure(path: &Path) -> Result<Entry, BackupError> {
    File::open(path).and_then(|file| pour(file, io::sink())).map_err(file_error(path))
}

fn pour(mut source: impl Read, mut target: impl Write) -> io::Result<Entry> {
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut piece = vec![0; 64 << 10];
    loop {
        let count = source.read(&mut piece)?;
        if count == 0 {
            return Ok(Entry {
                bytes,
                sha256: dunlin_kit::digest::Digest::from_bytes(hash.finalize().into()).to_string(),
            });
        }
        hash.update(&piece[..count]);
        target.write_all(&piece[..count])?;
        bytes += count as u64;
    }
}
