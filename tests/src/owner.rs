//! The owner of the tests' models: keys of one test alone, and the repository that he publishes to.
//!
//! Signs with the product's signer and writes what `dunlin publish` writes. Never looks into a gateway.

use std::path::{Path, PathBuf};

use dunlin_model_package::{Digest, Manifest};
use dunlin_trust::sign::SigningKey;
use dunlin_trust::sign::change::{Change, RolePlan};
use dunlin_trust::sign::repository::{Files, Lifetimes, Refresh, Repository, TOP_LEVEL};
use dunlin_trust::time::UnixTime;

use crate::failure::{Failure, Outcome};
use crate::package::write;

/// Beyond any test, and any clock that a test sets but the wrong ones.
const LIFETIMES: Lifetimes =
    Lifetimes { root_days: 3_650, targets_days: 3_650, snapshot_days: 3_650, timestamp_days: 3_650 };

/// The file that clients read first.
const TIMESTAMP: &str = "timestamp.json";

/// Releases of a model that stay named: each change of a long series costs as much as the first.
const RELEASES_MAX: usize = 3;

/// A key that every test may use: what it protects is thrown away with the test.
const SEED: [u8; 32] = *b"a key of the end-to-end tests!!!";

/// An owner with one key for every role.
pub struct Owner {
    key: SigningKey,
    folder: PathBuf,
    files: Files,
}

impl Owner {
    /// Returns the owner who publishes to `folder/repository` and gives out `folder/root.json`; a second call for the
    /// same folder goes on where the first one ended.
    ///
    /// *Errors*: those of the file system.
    pub fn of(folder: &Path) -> Outcome<Self> {
        let key = SigningKey::from_seed(&SEED);
        let metadata = folder.join("repository/metadata");
        if metadata.is_dir() {
            let mut files = Files::new();
            for entry in std::fs::read_dir(&metadata)? {
                let entry = entry?;
                files.insert(entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?);
            }
            return Ok(Self { key, folder: folder.to_owned(), files });
        }
        let plans = TOP_LEVEL.map(|role| RolePlan { role, keys: vec![key.public()], threshold: 1 });
        let change = Change::found(&plans, now(), LIFETIMES).map_err(Failure::of("found a repository"))?;
        let files = change.files(&[&key]).map_err(Failure::of("sign the root"))?;
        let mut owner = Self { key, folder: folder.to_owned(), files };
        owner.complete()?;
        write(&folder.join("root.json"), &owner.files["1.root.json"])?;
        Ok(owner)
    }

    /// Returns the folder that he publishes to.
    #[must_use]
    pub fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    /// Approves and publishes the package in a folder; nothing where it is published already.
    ///
    /// *Errors*: those of the file system, or what the signer refuses.
    pub fn publish(&mut self, package: &Path) -> Outcome<()> {
        let text = std::fs::read(package.join("manifest.json"))?;
        let manifest = Manifest::parse(&text).map_err(Failure::of("read the manifest"))?;
        let repository = self.repository();
        for (name, blob) in &manifest.blobs {
            std::fs::create_dir_all(repository.join("blobs"))?;
            std::fs::copy(package.join(name), repository.join("blobs").join(blob.sha256.to_string()))?;
        }
        let path = manifest.target_path();
        let target = repository.join("targets").join(&path);
        let folder = target.parent().unwrap_or(&repository);
        std::fs::create_dir_all(folder)?;
        write(&folder.join(format!("{}.manifest.json", Digest::of(&text))), &text)?;
        let before = Repository::read(&self.files).map_err(Failure::of("read the metadata"))?;
        if before.releases().iter().any(|release| release.path == path) {
            return Ok(());
        }
        let mut change = Change::of(&before, now(), LIFETIMES);
        let mut older: Vec<_> =
            before.releases().into_iter().filter(|r| r.note.model == manifest.name).collect();
        older.sort_by_key(|release| std::cmp::Reverse(release.note.release_counter));
        for release in older.iter().skip(RELEASES_MAX) {
            change.remove_release("targets", &release.path).map_err(Failure::of("remove an old release"))?;
        }
        change
            .add_release("targets", &path, &text, &manifest.release_note())
            .map_err(Failure::of("add the release"))?;
        let files = change.files(&[&self.key]).map_err(Failure::of("sign the targets"))?;
        self.files.extend(files);
        self.complete()
    }

    /// Names a release no more.
    ///
    /// *Errors*: those of the file system, or there is no such release.
    pub fn withdraw(&mut self, model: &str, counter: u64) -> Outcome<()> {
        let before = Repository::read(&self.files).map_err(Failure::of("read the metadata"))?;
        let mut change = Change::of(&before, now(), LIFETIMES);
        let is_meant = |note: &dunlin_trust::metadata::ReleaseNote| {
            note.model == model && note.release_counter == counter
        };
        for release in before.releases().into_iter().filter(|release| is_meant(&release.note)) {
            change.remove_release("targets", &release.path).map_err(Failure::of("remove a release"))?;
        }
        let files = change.files(&[&self.key]).map_err(Failure::of("sign the targets"))?;
        self.files.extend(files);
        self.complete()
    }

    /// Makes the online metadata fit and writes everything.
    fn complete(&mut self) -> Outcome<()> {
        let repository = Repository::read(&self.files).map_err(Failure::of("read the metadata"))?;
        let online = repository
            .complete(&[&self.key], now(), LIFETIMES, Refresh::Needed)
            .map_err(Failure::of("sign the online metadata"))?;
        self.files.extend(online);
        let folder = self.repository().join("metadata");
        std::fs::create_dir_all(&folder)?;
        for (name, raw) in &self.files {
            let path = folder.join(name);
            // Clients read the timestamp first: it comes last.
            if name != TIMESTAMP && std::fs::read(&path).ok().as_ref() != Some(raw) {
                write(&path, raw)?;
            }
        }
        write(&folder.join(TIMESTAMP), &self.files[TIMESTAMP])?;
        for name in outdated(&self.files) {
            self.files.remove(&name);
            std::fs::remove_file(folder.join(name))?;
        }
        Ok(())
    }
}

/// Returns the files of `3.targets.json` and `3.snapshot.json` that have a successor.
fn outdated(files: &Files) -> Vec<String> {
    let version = |name: &str, role: &str| -> Option<u64> {
        name.strip_suffix(".json")?.strip_suffix(role)?.strip_suffix('.')?.parse().ok()
    };
    let of_role = |role: &'static str| {
        let newest = files.keys().filter_map(|name| version(name, role)).max();
        files.keys().filter(move |name| version(name, role).is_some_and(|v| Some(v) < newest)).cloned()
    };
    ["targets", "snapshot"].into_iter().flat_map(of_role).collect()
}

fn now() -> UnixTime {
    UnixTime(dunlin_kit::clock::wall_micros() / 1_000_000)
}
