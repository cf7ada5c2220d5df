//! The operator's folder: keys, signed metadata, and copies of what was signed.
//!
//! `metadata/`, `targets/` and `blobs/` are a whole repository that is ready to be published; `pending/` holds a change
//! that waits for signatures; `ready/` a finished change on its way into `metadata/`, completed by whoever comes next.
//! Never holds two changes at once, and never signs anything.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use dunlin_kit::atomic_file;
use dunlin_model_package::{RepositoryFolder, RepositoryPath, RepositorySource};
use dunlin_trust::sign::repository::{Files, Repository};
use nix::fcntl::{Flock, FlockArg};

use crate::command::CommandError;
use crate::verification::METADATA_BYTES_MAX;

/// Name of the variable that names the folder.
pub const VARIABLE: &str = "DUNLIN_TRUST";
/// The folder where nothing else is named.
pub const DEFAULT: &str = "trust";

/// The operator's folder, opened: no other `dunlin` works in it meanwhile.
#[derive(Debug)]
pub struct Workspace {
    folder: PathBuf,
    /// All metadata by file name, every root included.
    metadata: Files,
    repository: Option<Repository>,
    pending: Option<Files>,
    _lock: Flock<File>,
}

/// Returns the folder that was named, or that the environment names, or `./trust`.
#[must_use]
pub fn folder(named: Option<&Path>) -> PathBuf {
    named.map(Path::to_owned).unwrap_or_else(|| {
        std::env::var_os(VARIABLE).filter(|name| !name.is_empty()).unwrap_or_else(|| DEFAULT.into()).into()
    })
}

impl Workspace {
    /// Opens a folder that holds a repository.
    ///
    /// *Errors*: there is none, another `dunlin` works in it, or a file in it is damaged.
    pub fn open(folder: &Path) -> Result<Self, CommandError> {
        let none = || {
            let folder = folder.display();
            CommandError::NotFound(format!(
                "there are no keys and metadata in `{folder}`; make them with `dunlin keys init {folder}`, or name another folder with `--trust`"
            ))
        };
        if !folder.join("metadata").is_dir() && !folder.join("ready").is_dir() {
            return Err(none());
        }
        let workspace = Self::enter(folder)?;
        if workspace.repository.is_none() { Err(none()) } else { Ok(workspace) }
    }

    /// Opens a folder for a first repository, and makes it where it is missing.
    ///
    /// *Errors*: there is a repository already, or the folder cannot be made.
    pub fn found(folder: &Path) -> Result<Self, CommandError> {
        make_folder(folder)?;
        let workspace = Self::enter(folder)?;
        if workspace.repository.is_some() || workspace.pending.is_some() {
            let folder = folder.display();
            return Err(CommandError::Conflict(format!(
                "`{folder}` holds keys and metadata already; see them with `dunlin keys show --trust {folder}`"
            )));
        }
        Ok(workspace)
    }

    fn enter(folder: &Path) -> Result<Self, CommandError> {
        let failed = |e| CommandError::failed(format!("cannot open folder `{}`", folder.display()), e);
        let lock = OpenOptions::new().create(true).append(true).open(folder.join(".lock")).map_err(failed)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|_| {
            CommandError::Conflict(format!("another `dunlin` works in `{}`; wait for it", folder.display()))
        })?;
        let mut workspace = Self {
            folder: folder.to_owned(),
            metadata: Files::new(),
            repository: None,
            pending: None,
            _lock: lock,
        };
        workspace.promote()?;
        workspace.load()?;
        Ok(workspace)
    }

    /// Returns the folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the folder that new keys go to.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.folder.join("keys")
    }

    /// Returns the newest metadata, where there are some.
    #[must_use]
    pub const fn repository(&self) -> Option<&Repository> {
        self.repository.as_ref()
    }

    /// Returns all metadata by file name.
    #[must_use]
    pub const fn metadata(&self) -> &Files {
        &self.metadata
    }

    /// Returns the change that waits for signatures.
    #[must_use]
    pub const fn pending(&self) -> Option<&Files> {
        self.pending.as_ref()
    }

    /// Returns the repository's folder as the verifier reads it.
    #[must_use]
    pub fn source(&self) -> RepositoryFolder {
        RepositoryFolder::new(&self.folder)
    }

    /// Copies a file of a release beside the metadata; one that is there already stays.
    ///
    /// *Errors*: those of the file system.
    pub fn keep(&self, path: &RepositoryPath, bytes: &[u8]) -> Result<(), CommandError> {
        let place = self.source().place(path);
        if fs::read(&place).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        write(&place, bytes)
    }

    /// Keeps a change that waits for signatures; in its place when there is one already.
    ///
    /// *Errors*: those of the file system.
    pub fn wait(&mut self, change: Files) -> Result<(), CommandError> {
        let folder = self.folder.join("pending");
        if folder.is_dir() {
            // Only signatures were added: each file is good as it was and as it will be.
            for (name, raw) in &change {
                write(&folder.join(name), raw)?;
            }
        } else {
            write_folder(&folder, &change)?;
        }
        self.pending = Some(change);
        Ok(())
    }

    /// Takes a whole change into the repository. Cut anywhere, it is either not begun or completed by the next command.
    ///
    /// *Errors*: those of the file system.
    pub fn take(&mut self, change: &Files) -> Result<(), CommandError> {
        write_folder(&self.folder.join("ready"), change)?;
        self.promote()?;
        self.load()
    }

    /// As [`Workspace::take`], and removes those files of before that `is_replaced` names and the change does not hold.
    ///
    /// *Errors*: those of the file system.
    pub fn take_in_place_of(
        &mut self,
        change: &Files,
        is_replaced: &dyn Fn(&str) -> bool,
    ) -> Result<(), CommandError> {
        let metadata = self.folder.join("metadata");
        for name in self.metadata.keys().filter(|name| is_replaced(name) && !change.contains_key(*name)) {
            let path = metadata.join(name);
            fs::remove_file(&path)
                .map_err(|e| CommandError::failed(format!("cannot remove `{}`", path.display()), e))?;
        }
        self.take(change)
    }

    /// Drops the change that waits for signatures.
    ///
    /// *Errors*: those of the file system.
    pub fn discard(&mut self) -> Result<(), CommandError> {
        self.pending = None;
        remove_folder(&self.folder.join("pending"))
    }

    fn promote(&self) -> Result<(), CommandError> {
        for leftover in [".pending", ".ready"] {
            remove_folder(&self.folder.join(leftover))?;
        }
        let ready = self.folder.join("ready");
        if !ready.is_dir() {
            return Ok(());
        }
        for (name, raw) in read_metadata(&ready)? {
            write(&self.folder.join("metadata").join(name), &raw)?;
        }
        remove_folder(&self.folder.join("pending"))?;
        remove_folder(&ready)
    }

    fn load(&mut self) -> Result<(), CommandError> {
        let damaged = |what: &str, error| {
            let folder = self.folder.display();
            CommandError::failed(
                format!("the {what} in `{folder}` are damaged; restore them from a copy"),
                error,
            )
        };
        self.metadata = read_metadata(&self.folder.join("metadata"))?;
        self.repository = match self.metadata.is_empty() {
            true => None,
            false => Some(Repository::read(&self.metadata).map_err(|e| damaged("metadata", e))?),
        };
        let pending = self.folder.join("pending");
        self.pending = pending.is_dir().then(|| read_metadata(&pending)).transpose()?;
        Ok(())
    }
}

/// Reads the files of metadata in a folder, by name.
///
/// *Errors*: one cannot be read or is too long.
pub fn read_metadata(folder: &Path) -> Result<Files, CommandError> {
    // The source reads from `metadata/`; a change has no folder of that name around it.
    let failed =
        |path: &Path, e: io::Error| CommandError::failed(format!("cannot read `{}`", path.display()), e);
    let mut files = Files::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(failed(folder, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| failed(folder, e))?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if format!("metadata/{name}").parse::<RepositoryPath>().is_err() {
            continue;
        }
        let path = entry.path();
        if entry.metadata().map_err(|e| failed(&path, e))?.len() > METADATA_BYTES_MAX {
            let message = format!("`{}` is longer than {METADATA_BYTES_MAX} bytes", path.display());
            return Err(CommandError::CheckFailed(message));
        }
        files.insert(name, fs::read(&path).map_err(|e| failed(&path, e))?);
    }
    Ok(files)
}

/// Writes a file of a repository, readable by everybody: what is signed is public.
///
/// *Errors*: those of the file system.
pub fn write(path: &Path, mut bytes: &[u8]) -> Result<(), CommandError> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    atomic_file::write_from(path, &mut bytes, 0o644)
        .map_err(|e| CommandError::failed(format!("cannot write `{}`", path.display()), e))
}

/// Copies a file of a repository from a source.
///
/// *Errors*: it is not there, or those of the file system.
pub fn copy(source: &dyn RepositorySource, path: &RepositoryPath, to: &Path) -> Result<(), CommandError> {
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
        CommandError::failed(format!("cannot copy `{path}` to `{}`", to.display()), e)
    };
    let mut reader = source
        .reader_at(path, 0)
        .map_err(|e| failed(e.into()))?
        .ok_or_else(|| CommandError::NotFound(format!("`{path}` is missing")))?;
    if let Some(folder) = to.parent() {
        make_folder(folder)?;
    }
    atomic_file::write_from(to, &mut reader, 0o644).map_err(|e| failed(e.into()))
}

/// Makes a folder and those above it.
///
/// *Errors*: those of the file system.
pub fn make_folder(folder: &Path) -> Result<(), CommandError> {
    fs::create_dir_all(folder)
        .map_err(|e| CommandError::failed(format!("cannot make folder `{}`", folder.display()), e))
}

/// Waits until the names in a folder are on the disk.
///
/// *Errors*: those of the file system.
pub fn make_durable(folder: &Path) -> Result<(), CommandError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| CommandError::failed(format!("cannot write folder `{}`", folder.display()), e))
}

/// Makes a folder with these files appear at once.
fn write_folder(folder: &Path, files: &Files) -> Result<(), CommandError> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.with_file_name(format!(".{name}"));
    remove_folder(&temporary)?;
    make_folder(&temporary)?;
    for (name, raw) in files {
        write(&temporary.join(name), raw)?;
    }
    fs::rename(&temporary, folder)
        .and_then(|()| File::open(folder.parent().unwrap_or(Path::new(".")))?.sync_all())
        .map_err(|e| CommandError::failed(format!("cannot make folder `{}`", folder.display()), e))
}

/// Removes a folder with what is in it, where it is there.
///
/// *Errors*: those of the file system.
pub fn remove_folder(folder: &Path) -> Result<(), CommandError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CommandError::failed(format!("cannot remove folder `{}`", folder.display()), error))
        }
        _ => Ok(()),
    }
}

/// Makes a folder for keys, for its owner alone.
///
/// *Errors*: those of the file system.
pub fn make_key_folder(folder: &Path) -> Result<(), CommandError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|e| CommandError::failed(format!("cannot make folder `{}`", folder.display()), e))
}
