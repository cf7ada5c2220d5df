//! What the tests of updates share: an owner with real keys who publishes real releases, and a gateway's folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dunlin_kit::atomic_file;
use dunlin_model_package::{BundleWriter, Digest, RepositoryFolder, RepositoryPath};
use dunlin_trust::director::Device;
use dunlin_trust::metadata::{ReleaseNote, Root};
use dunlin_trust::sign::SigningKey;
use dunlin_trust::sign::change::{Change, RolePlan};
use dunlin_trust::sign::repository::{Files, Lifetimes, Refresh, Repository};
use dunlin_trust::time::UnixTime;
use serde_json::json;

use super::blobs::BlobStore;
use super::import::{Found, Import, ImportError, Imported};
use super::place::{ListedSource, Place};
use super::trust_state::Clocks;
use crate::store::trust::KeptRelease;
use crate::store::{FolderLock, TrustStore, spoiled};

/// 2026-06-01, when everything here happens unless it says otherwise.
pub(crate) const NOW: UnixTime = UnixTime(1_780_272_000);
pub(crate) const DAY: i64 = 86_400;
const ROLES: [&str; 4] = ["root", "targets", "snapshot", "timestamp"];

/// Clocks of which the wall clock shows this time.
pub(crate) fn clocks_at(now: UnixTime) -> Clocks {
    Clocks { system: Some(now), server: None, uptime: Duration::from_secs(60) }
}

/// An owner of models: a key for each role, and the folder that is published.
pub(crate) struct Owner {
    pub(crate) keys: BTreeMap<&'static str, SigningKey>,
    pub(crate) metadata: Files,
    pub(crate) now: UnixTime,
    folder: tempfile::TempDir,
}

/// A release as its owner writes it.
pub(crate) struct Draft {
    pub(crate) model: &'static str,
    pub(crate) counter: u64,
    pub(crate) requirements: serde_json::Value,
    pub(crate) blobs: BTreeMap<&'static str, Vec<u8>>,
}

impl Draft {
    pub(crate) fn new(model: &'static str, counter: u64) -> Self {
        let content = format!("the {counter}th model called {model}").into_bytes();
        Self { model, counter, requirements: json!({}), blobs: BTreeMap::from([("model.onnx", content)]) }
    }

    pub(crate) fn with_blob(mut self, name: &'static str, content: Vec<u8>) -> Self {
        self.blobs.insert(name, content);
        self
    }

    pub(crate) fn requiring(mut self, requirements: serde_json::Value) -> Self {
        self.requirements = requirements;
        self
    }

    pub(crate) fn path(&self) -> String {
        format!("models/{}/{}/manifest.json", self.model, self.counter)
    }

    pub(crate) fn manifest(&self) -> Vec<u8> {
        let blobs: serde_json::Map<_, _> = self
            .blobs
            .iter()
            .map(|(name, bytes)| {
                ((*name).to_owned(), json!({ "sha256": Digest::of(bytes), "bytes": bytes.len() }))
            })
            .collect();
        json!({
            "schema": 1, "name": self.model, "version": self.counter.to_string(),
            "release_counter": self.counter, "window": { "length": 1 },
            "inputs": [{ "name": "x", "shape": ["batch", 1], "features": [{ "name": "a" }] }],
            "outputs": [{ "name": "y", "kind": "vector", "shape": ["batch", 1] }],
            "requirements": self.requirements, "blobs": blobs,
        })
        .to_string()
        .into_bytes()
    }

    pub(crate) fn note(&self) -> ReleaseNote {
        let architectures = &self.requirements["architectures"];
        ReleaseNote {
            model: self.model.to_owned(),
            version: self.counter.to_string(),
            release_counter: self.counter,
            architectures: serde_json::from_value(architectures.clone()).unwrap_or_default(),
        }
    }
}

impl Owner {
    pub(crate) fn new() -> Self {
        Self::at(NOW)
    }

    /// An owner who signs by this clock.
    pub(crate) fn at(now: UnixTime) -> Self {
        let keys: BTreeMap<_, _> = ROLES.map(|role| (role, SigningKey::generate().unwrap())).into();
        let plan = |role| RolePlan { role, keys: vec![keys[role].public()], threshold: 1 };
        let change = Change::found(&ROLES.map(plan), now, Lifetimes::default()).unwrap();
        let metadata = change.files(&keys.values().collect::<Vec<_>>()).unwrap();
        let mut owner = Self { keys, metadata, now, folder: tempfile::tempdir().unwrap() };
        owner.write();
        owner
    }

    pub(crate) fn repository(&self) -> Repository {
        Repository::read(&self.metadata).unwrap()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn place(&self) -> Place {
        Place::Folder(RepositoryFolder::new(self.folder.path()))
    }

    pub(crate) fn root(&self, version: u64) -> Vec<u8> {
        self.metadata[&format!("{version}.root.json")].clone()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a change of the offline metadata, signs all that follows from it and publishes it.
    pub(crate) fn change(&mut self, edit: impl FnOnce(&mut Change<'_>)) {
        let before = self.repository();
        let mut change = Change::of(&before, self.now, Lifetimes::default());
        edit(&mut change);
        let files = change.files(&self.keys.values().collect::<Vec<_>>()).unwrap();
        self.metadata.extend(files);
        self.write();
    }

    pub(crate) fn publish(&mut self, draft: &Draft) {
        self.put_files(draft);
        let (path, manifest, note) = (draft.path(), draft.manifest(), draft.note());
        self.change(|change| change.add_release("targets", &path, &manifest, &note).unwrap());
    }

    pub(crate) fn put_files(&self, draft: &Draft) {
        let manifest = draft.manifest();
        let digest = Digest::of(&manifest);
        let folder = format!("targets/models/{}/{}", draft.model, draft.counter);
        self.put(&format!("{folder}/{digest}.manifest.json"), &manifest);
        for bytes in draft.blobs.values() {
            self.put(&format!("blobs/{}", Digest::of(bytes)), bytes);
        }
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        atomic_file::write(&path, bytes).unwrap();
    }

    /// Gives a role another key; the old one is forgotten and returned.
    pub(crate) fn rotate(&mut self, role: &'static str) -> SigningKey {
        let new = SigningKey::generate().unwrap();
        let old = self.keys[role].public().id();
        let before = self.repository();
        let mut change = Change::of(&before, self.now, Lifetimes::default());
        change.replace_keys(role, &[old], &[new.public()]).unwrap();
        if role == "targets" {
            change.renew("targets").unwrap();
        }
        let mut keys: Vec<&SigningKey> = self
            .keys
            .values()
            .filter(|key| role != "targets" || key.public().id() != self.keys[role].public().id())
            .collect();
        keys.push(&new);
        let files = change.files(&keys).unwrap();
        self.metadata.extend(files);
        let old = self.keys.insert(role, new).unwrap();
        self.write();
        old
    }

    /// Signs snapshot and timestamp where they are due, and writes all files out.
    pub(crate) fn write(&mut self) {
        let keys: Vec<_> = self.keys.values().collect();
        let online =
            self.repository().complete(&keys, self.now, Lifetimes::default(), Refresh::Needed).unwrap();
        self.metadata.extend(online);
        self.write_files();
    }

    pub(crate) fn write_files(&self) {
        for (name, raw) in &self.metadata {
            self.put(&format!("metadata/{name}"), raw);
        }
    }

    pub(crate) fn newest_root(&self) -> Root {
        self.repository().root().clone()
    }
}

/// A gateway's state folder.
pub(crate) struct Gateway {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) root: Vec<u8>,
    pub(crate) models: Vec<String>,
    pub(crate) floors: BTreeMap<String, u64>,
    pub(crate) now: UnixTime,
}

impl Gateway {
    pub(crate) fn of(owner: &Owner, models: &[&str]) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            root: owner.root(1),
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            floors: BTreeMap::new(),
            now: NOW,
        }
    }

    /// Returns another gateway that has come just as far.
    pub(crate) fn twin(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(self.folder.path(), folder.path());
        let (root, models, floors) = (self.root.clone(), self.models.clone(), self.floors.clone());
        Self { folder, root, models, floors, now: self.now }
    }

    pub(crate) fn store(&self) -> TrustStore {
        let lock = FolderLock::acquire(self.folder.path()).unwrap();
        TrustStore::open(&lock).unwrap()
    }

    pub(crate) fn blobs(&self) -> BlobStore {
        BlobStore::open(self.folder.path(), 0).unwrap()
    }

    pub(crate) fn device() -> Device {
        Device { architecture: "aarch64".to_owned(), ..super::compatibility::this_device() }
    }

    /// Verifies and keeps, as one start of the daemon does.
    pub(crate) fn import(&self, source: &dyn ListedSource) -> Result<Imported, ImportError> {
        let mut store = self.store();
        Import {
            store: &mut store,
            state_dir: self.folder.path(),
            root: Some(&self.root),
            device: &Self::device(),
            models: &self.models,
            floors: &self.floors,
            clocks: clocks_at(self.now),
            asker: super::import_desk::Asker::Operator,
        }
        .run(source, Some(Path::new("/media/stick")))
    }

    /// Imports and fetches all that is offered; returns the releases by model.
    pub(crate) fn take(
        &self,
        source: &dyn ListedSource,
    ) -> Result<BTreeMap<String, KeptRelease>, ImportError> {
        let imported = self.import(source)?;
        let (mut store, blobs) = (self.store(), BlobStore::open(self.folder.path(), 0)?);
        let mut taken = BTreeMap::new();
        for (model, found) in imported.found {
            match found {
                Found::Absent => {}
                Found::Refused(refusal) => return Err(ImportError::Refused(refusal)),
                Found::Release(release) => {
                    super::import::fetch_files(&mut store, &blobs, source, &release, &mut |_| {})?;
                    taken.insert(model, *release);
                }
            }
        }
        Ok(taken)
    }

    /// Everything in the folder that a refusal must not change: rows of all tables but that of refusals, and files.
    pub(crate) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let mut contents = BTreeMap::new();
        collect_files(&self.folder.path().join("models"), &mut contents);
        contents.extend(spoiled::rows(self.folder.path()));
        contents
    }

    /// The last refusal of a check: its code.
    pub(crate) fn refusal(&self, subject: &str) -> Option<String> {
        self.store()
            .refusals()
            .unwrap()
            .into_iter()
            .find(|kept| kept.subject == subject)
            .map(|kept| kept.code)
    }
}

fn collect_files(folder: &Path, contents: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_files(&path, contents);
        } else {
            contents.insert(path.display().to_string(), fs::read(&path).unwrap());
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copy = to.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir(&copy).unwrap();
            copy_folder(&path, &copy);
        } else {
            fs::copy(&path, &copy).unwrap();
        }
    }
}

/// A bundle of what is published, listed as a bundle is.
pub(crate) fn bundle(owner: &Owner) -> (tempfile::NamedTempFile, Place) {
    let mut paths: Vec<RepositoryPath> = Vec::new();
    let mut folders = vec![owner.folder().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(owner.folder()).unwrap();
                paths.push(name.to_str().unwrap().parse().unwrap());
            }
        }
    }
    let rank = |path: &RepositoryPath| match path {
        RepositoryPath::Metadata { .. } | RepositoryPath::Timestamp => 0,
        RepositoryPath::Manifest { .. } => 1,
        RepositoryPath::Blob(_) => 2,
    };
    paths.sort_by_key(|path| (rank(path), path.to_string()));
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = BundleWriter::new(file.reopen().unwrap());
    for path in paths {
        let bytes = fs::read(owner.file(&path.to_string())).unwrap();
        writer.add(path, bytes.len() as u64, &mut bytes.as_slice()).unwrap();
    }
    writer.finish().unwrap();
    let place = Place::open(file.path()).unwrap();
    (file, place)
}
