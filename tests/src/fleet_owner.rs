//! The owner of a fleet's models: offline keys of one test alone, and what they sign for a server.
//!
//! Signs with the product's signer, as `dunlin server adopt` and `dunlin publish` do; never holds the server's key. What is
//! signed is here as files and blobs, to be brought to a server or to be served by one that lies.

use std::collections::BTreeMap;
use std::path::Path;

use dunlin_model_package::{Digest, Manifest};
use dunlin_trust::PublicKey;
use dunlin_trust::director::DIRECTOR_ROLE;
use dunlin_trust::metadata::{
    ReleaseNote, Role as _, RoleKeys, Root, SPEC_VERSION, TargetDescription, Targets,
};
use dunlin_trust::sign::change::{Change, RolePlan};
use dunlin_trust::sign::repository::{Files, Lifetimes, Repository};
use dunlin_trust::sign::{SigningKey, sign};
use dunlin_trust::time::UnixTime;

use crate::failure::{Failure, Outcome};
use crate::onnx;
use crate::package::{PackagePlan, write_package};

/// Beyond any test.
const LIFETIMES: Lifetimes =
    Lifetimes { root_days: 3_650, targets_days: 3_650, snapshot_days: 3_650, timestamp_days: 3_650 };

/// An owner with one key for the roots, and one for the targets.
#[derive(Debug)]
pub struct FleetOwner {
    root: SigningKey,
    targets: SigningKey,
    image: Files,
    director: Files,
    blobs: BTreeMap<Digest, Vec<u8>>,
}

/// A release that the owner approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovedRelease {
    /// Path of the target.
    pub path: String,
    /// SHA-256 of the manifest.
    pub digest: Digest,
    /// Length of the manifest.
    pub bytes: u64,
    /// What is said of it.
    pub note: ReleaseNote,
}

impl FleetOwner {
    /// Founds both repositories for a server with this online key.
    ///
    /// *Errors*: the signer refuses.
    pub fn of(online: &PublicKey) -> Outcome<Self> {
        Self::with_seeds(online, [101; 32], [102; 32])
    }

    /// Founds them with keys of these seeds: another owner.
    ///
    /// *Errors*: the signer refuses.
    pub fn with_seeds(online: &PublicKey, root: [u8; 32], targets: [u8; 32]) -> Outcome<Self> {
        let (root, targets) = (SigningKey::from_seed(&root), SigningKey::from_seed(&targets));
        let plan = |role, key: &PublicKey| RolePlan { role, keys: vec![key.clone()], threshold: 1 };
        let plans = [
            plan("root", &root.public()),
            plan("timestamp", online),
            plan("snapshot", online),
            plan("targets", &targets.public()),
        ];
        let change = Change::found(&plans, now(), LIFETIMES).map_err(Failure::of("found a repository"))?;
        let image = change.files(&[&root, &targets]).map_err(Failure::of("sign the root"))?;
        let mut owner = Self { root, targets, image, director: Files::new(), blobs: BTreeMap::new() };
        let first = owner.director_root(1, online, now().0 + 3_650 * 86_400);
        owner.director.insert("1.root.json".to_owned(), first);
        Ok(owner)
    }

    /// Returns a root of the director that names a key for all that a server signs, signed by the owner.
    #[must_use]
    pub fn director_root(&self, version: u64, online: &PublicKey, expires: i64) -> Vec<u8> {
        let role = |key: &PublicKey| RoleKeys { keyids: vec![key.id()], threshold: 1 };
        let mut roles: BTreeMap<String, RoleKeys> = [DIRECTOR_ROLE, "targets", "snapshot", "timestamp"]
            .map(|name| (name.to_owned(), role(online)))
            .into();
        roles.insert("root".to_owned(), role(&self.root.public()));
        let keys = [online.clone(), self.root.public()].map(|key| (key.id(), key)).into();
        let root = Root {
            kind: Root::TYPE.to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            version,
            expires: UnixTime(expires),
            // None is signed after it expired.
            signed_at: Some(now()).filter(|now| now.0 <= expires),
            consistent_snapshot: true,
            keys,
            roles,
        };
        sign(&root, &[&self.root])
    }

    /// Returns what is signed of the image repository: roots, targets and delegated roles by file name.
    #[must_use]
    pub const fn image(&self) -> &Files {
        &self.image
    }

    /// Returns the director's roots by file name.
    #[must_use]
    pub const fn director(&self) -> &Files {
        &self.director
    }

    /// Returns the manifests and files of all releases.
    #[must_use]
    pub const fn blobs(&self) -> &BTreeMap<Digest, Vec<u8>> {
        &self.blobs
    }

    /// Returns the first root: what gateways are given.
    #[must_use]
    pub fn first_root(&self) -> &[u8] {
        &self.image["1.root.json"]
    }

    /// Approves a release of a model that doubles its input, for these architectures; any where none is said.
    ///
    /// *Errors*: those of the file system; the signer refuses.
    pub fn approve(
        &mut self,
        folder: &Path,
        model: &str,
        release: u64,
        architectures: &[&str],
    ) -> Outcome<ApprovedRelease> {
        let package = folder.join(format!("{model}-{release}"));
        let plan = PackagePlan { release, ..PackagePlan::of_one_value(model) };
        write_package(&package, &plan, &onnx::doubling())?;
        if !architectures.is_empty() {
            let path = package.join("manifest.json");
            let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
            manifest["requirements"] = serde_json::json!({ "architectures": architectures });
            crate::package::write(&path, manifest.to_string().as_bytes())?;
        }
        self.approve_package(&package)
    }

    /// Approves the package in a folder.
    ///
    /// *Errors*: those of the file system; the signer refuses.
    pub fn approve_package(&mut self, package: &Path) -> Outcome<ApprovedRelease> {
        let raw = std::fs::read(package.join("manifest.json"))?;
        let manifest = Manifest::parse(&raw).map_err(Failure::of("read the manifest"))?;
        for (name, blob) in &manifest.blobs {
            self.blobs.insert(blob.sha256, std::fs::read(package.join(name))?);
        }
        let (path, note) = (manifest.target_path(), manifest.release_note());
        self.change(|change| {
            change.add_release("targets", &path, &raw, &note).map_err(Failure::of("add the release"))
        })?;
        let (digest, bytes) = (Digest::of(&raw), raw.len() as u64);
        self.blobs.insert(digest, raw);
        Ok(ApprovedRelease { path, digest, bytes, note })
    }

    /// Approves a file of settings, as in `plant.toml`; returns its digest.
    ///
    /// *Errors*: the signer refuses.
    pub fn approve_settings(&mut self, name: &str, content: &[u8]) -> Outcome<Digest> {
        let before = Repository::read(&self.image).map_err(Failure::of("read the metadata"))?;
        let Some(mut targets) = before.targets("targets").cloned() else {
            return Err(Failure::new("there are no targets"));
        };
        targets.version += 1;
        targets.targets.insert(format!("settings/{name}"), TargetDescription::of(content, None));
        self.put_targets(&targets);
        let digest = Digest::of(content);
        self.blobs.insert(digest, content.to_vec());
        Ok(digest)
    }

    /// Names a release no more.
    ///
    /// *Errors*: there is none.
    pub fn remove(&mut self, path: &str) -> Outcome<()> {
        self.change(|change| change.remove_release("targets", path).map_err(Failure::of("remove a release")))
    }

    /// Replaces the server's key in both repositories.
    ///
    /// *Errors*: the signer refuses.
    pub fn replace_online(&mut self, old: &PublicKey, new: &PublicKey) -> Outcome<()> {
        self.change(|change| {
            for role in ["timestamp", "snapshot"] {
                let replaced = change.replace_keys(role, &[old.id()], std::slice::from_ref(new));
                replaced.map_err(Failure::of("replace a key"))?;
            }
            Ok(())
        })?;
        self.renew_director(new);
        Ok(())
    }

    /// Signs the next root of the director, which names this key.
    pub fn renew_director(&mut self, online: &PublicKey) {
        let version = self.director.len() as u64 + 1;
        let root = self.director_root(version, online, now().0 + 3_650 * 86_400);
        self.director.insert(format!("{version}.root.json"), root);
    }

    /// Keeps targets metadata as the newest, signed by the owner: for what the signer's commands do not make.
    pub fn put_targets(&mut self, targets: &Targets) {
        self.image.insert(format!("{}.targets.json", targets.version), sign(targets, &[&self.targets]));
    }

    fn change(&mut self, edit: impl FnOnce(&mut Change<'_>) -> Outcome<()>) -> Outcome<()> {
        let before = Repository::read(&self.image).map_err(Failure::of("read the metadata"))?;
        let mut change = Change::of(&before, now(), LIFETIMES);
        edit(&mut change)?;
        let files = change.files(&[&self.root, &self.targets]).map_err(Failure::of("sign the change"))?;
        self.image.extend(files);
        Ok(())
    }
}

/// Returns the time.
#[must_use]
pub fn now() -> UnixTime {
    UnixTime(dunlin_kit::clock::wall_micros() / 1_000_000)
}
