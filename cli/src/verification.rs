//! Judges a whole repository, as a gateway would that has never seen it: before it is published, and after.
//!
//! Uses the verifier's parts alone and believes nothing of what the signer thinks it made. Reads through a
//! [`RepositorySource`]; writes nothing.

use std::collections::BTreeMap;
use std::io::Read;

use dunlin_kit::digest::Digest;
use dunlin_model_package::package::{BLOB_BYTES_MAX, BLOBS_MAX, MANIFEST_BYTES_MAX};
use dunlin_model_package::{Manifest, RepositoryPath, RepositorySource, SourceError};
use dunlin_trust::envelope::Envelope;
use dunlin_trust::key::Ed25519Only;
use dunlin_trust::metadata::{FileVersion, Role, Root, Snapshot, TargetDescription, Targets, Timestamp};
use dunlin_trust::sign::repository::Files;
use dunlin_trust::time::UnixTime;
use dunlin_trust::{Code, Failure};

/// Longest file of metadata that is read: thousands of releases.
pub const METADATA_BYTES_MAX: u64 = 8 << 20;
/// Most roots in a row: one a week for twenty years.
const ROOTS_MAX: u64 = 1_024;

/// What a repository holds, after every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// All files that a reader may ask for, in a bundle's order within each kind.
    pub paths: Vec<RepositoryPath>,
    /// All metadata by file name.
    pub metadata: Files,
    /// Targets by path: place of the manifest and places of its blobs.
    pub targets: BTreeMap<String, (RepositoryPath, Vec<RepositoryPath>)>,
}

/// Metadata that are held in memory: a state of a repository that is only thought of.
#[derive(Debug, Clone)]
pub struct MetadataInMemory(pub Files);

impl RepositorySource for MetadataInMemory {
    fn length(&self, path: &RepositoryPath) -> Result<Option<u64>, SourceError> {
        let name = path.to_string();
        Ok(name.strip_prefix("metadata/").and_then(|name| self.0.get(name)).map(|raw| raw.len() as u64))
    }

    fn reader_at(
        &self,
        path: &RepositoryPath,
        offset: u64,
    ) -> Result<Option<Box<dyn Read + Send>>, SourceError> {
        let name = path.to_string();
        let raw = name.strip_prefix("metadata/").and_then(|name| self.0.get(name));
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        Ok(raw.map(|raw| {
            let rest = raw.get(offset..).unwrap_or_default().to_vec();
            Box::new(std::io::Cursor::new(rest)) as Box<dyn Read + Send>
        }))
    }
}

/// Checks all metadata, all manifests and all blobs of a repository.
///
/// *Errors*: the first thing that a gateway would refuse.
pub fn verify(source: &dyn RepositorySource, now: UnixTime) -> Result<Verdict, Failure> {
    let (metadata, named) = verify_metadata(source, now)?;
    let mut paths: Vec<RepositoryPath> = Vec::new();
    for name in metadata.keys() {
        paths.extend(format!("metadata/{name}").parse::<RepositoryPath>());
    }
    let mut targets = BTreeMap::new();
    for (path, description) in named {
        let (place, blobs) = verify_target(source, &path, &description)?;
        paths.push(place.clone());
        paths.extend(blobs.iter().cloned());
        targets.insert(path, (place, blobs));
    }
    paths.sort();
    paths.dedup();
    Ok(Verdict { paths, metadata, targets })
}

/// Checks all metadata; returns them by name, and the targets that they name.
///
/// *Errors*: the first file that a gateway would refuse.
pub fn verify_metadata(
    source: &dyn RepositorySource,
    now: UnixTime,
) -> Result<(Files, BTreeMap<String, TargetDescription>), Failure> {
    let mut reading = Reading { source, now, files: Files::new() };
    let root = reading.roots()?;
    let timestamp: Envelope<Timestamp> = reading.top_level("timestamp.json", None, &root)?;
    let listed = listed(&timestamp.role().meta, "snapshot.json", "timestamp.json")?;
    let name = format!("{}.snapshot.json", listed.version);
    let snapshot: Envelope<Snapshot> = reading.top_level(&name, Some(listed), &root)?;
    let targets = reading.targets(&root, snapshot.role())?;
    Ok((reading.files, targets))
}

struct Reading<'s> {
    source: &'s dyn RepositorySource,
    now: UnixTime,
    files: Files,
}

impl Reading<'_> {
    fn roots(&mut self) -> Result<Root, Failure> {
        let first = self.required("1.root.json")?;
        let mut root: Envelope<Root> = Envelope::parse(&first, "1.root.json")?;
        require_root(&root, root.role(), "1.root.json")?;
        while root.role().version < ROOTS_MAX {
            let name = format!("{}.root.json", root.role().version + 1);
            let Some(raw) = self.file(&name)? else { break };
            let next: Envelope<Root> = Envelope::parse(&raw, &name)?;
            require_root(&next, root.role(), &name)?;
            require_root(&next, next.role(), &name)?;
            if next.role().version != root.role().version + 1 {
                return Err(Failure::new(Code::Mismatch, name, "holds another version than its name says"));
            }
            root = next;
        }
        require_fresh(root.role(), self.now, &format!("{}.root.json", root.role().version))?;
        Ok(root.role().clone())
    }

    fn top_level<R: Role>(
        &mut self,
        name: &str,
        listed: Option<&FileVersion>,
        root: &Root,
    ) -> Result<Envelope<R>, Failure> {
        let raw = self.required(name)?;
        require_listed(&raw, listed, name)?;
        let file: Envelope<R> = Envelope::parse(&raw, name)?;
        let keys = root
            .roles
            .get(R::TYPE)
            .ok_or_else(|| Failure::new(Code::Signature, name, "has no keys in the root"))?;
        file.require_signatures(keys, &root.keys, &Ed25519Only, name)?;
        require_version(&file, listed, name)?;
        require_fresh(file.role(), self.now, name)?;
        Ok(file)
    }

    /// Reads the top-level targets and what they delegate to; the first role to name a path counts.
    fn targets(
        &mut self,
        root: &Root,
        snapshot: &Snapshot,
    ) -> Result<BTreeMap<String, TargetDescription>, Failure> {
        let first = listed(&snapshot.meta, "targets.json", "snapshot.json")?;
        let top: Envelope<Targets> =
            self.top_level(&format!("{}.targets.json", first.version), Some(first), root)?;
        let mut named = top.role().targets.clone();
        let Some(delegations) = &top.role().delegations else { return Ok(named) };
        for role in delegations.roles.iter().flatten() {
            // A team that has signed nothing yet has no file.
            let Some(listed) = snapshot.meta.get(&format!("{}.json", role.name)) else { continue };
            let name = format!("{}.{}.json", listed.version, role.name);
            let raw = self.required(&name)?;
            require_listed(&raw, Some(listed), &name)?;
            let file: Envelope<Targets> = Envelope::parse(&raw, &name)?;
            file.require_signatures(&role.role_keys(), &delegations.keys, &Ed25519Only, &name)?;
            require_version(&file, Some(listed), &name)?;
            require_fresh(file.role(), self.now, &name)?;
            for (path, description) in file.role().targets.iter().filter(|(path, _)| role.may_name(path)) {
                named.entry(path.clone()).or_insert_with(|| description.clone());
            }
        }
        Ok(named)
    }

    fn required(&mut self, name: &str) -> Result<Vec<u8>, Failure> {
        self.file(name)?.ok_or_else(|| Failure::new(Code::Mismatch, name, "is missing"))
    }

    fn file(&mut self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        let path: RepositoryPath = format!("metadata/{name}")
            .parse()
            .map_err(|_| Failure::new(Code::Mismatch, name, "is no name of metadata"))?;
        let raw = read(self.source, &path, METADATA_BYTES_MAX)?;
        if let Some(raw) = &raw {
            self.files.insert(name.to_owned(), raw.clone());
        }
        Ok(raw)
    }
}

fn require_root(file: &Envelope<Root>, by: &Root, name: &str) -> Result<(), Failure> {
    let keys =
        by.roles.get("root").ok_or_else(|| Failure::new(Code::Signature, name, "has no keys for roots"))?;
    file.require_signatures(keys, &by.keys, &Ed25519Only, name)
}

fn require_fresh(role: &impl Role, now: UnixTime, name: &str) -> Result<(), Failure> {
    if role.expires() > now {
        return Ok(());
    }
    let reason = format!("has expired on {}; sign it anew", role.expires());
    Err(Failure::new(Code::FreezeSuspected, name, reason))
}

fn require_version<R: Role>(
    file: &Envelope<R>,
    listed: Option<&FileVersion>,
    name: &str,
) -> Result<(), Failure> {
    match listed {
        Some(listed) if listed.version != file.role().version() => {
            Err(Failure::new(Code::Mismatch, name, "holds another version than its name says"))
        }
        _ => Ok(()),
    }
}

fn require_listed(raw: &[u8], listed: Option<&FileVersion>, name: &str) -> Result<(), Failure> {
    let Some(listed) = listed else { return Ok(()) };
    let length_differs = listed.length.is_some_and(|length| length != raw.len() as u64);
    let hash = listed.hashes.as_ref().and_then(|hashes| hashes.get("sha256"));
    if length_differs || hash.is_some_and(|hash| *hash != Digest::of(raw).to_string()) {
        return Err(Failure::new(Code::Mismatch, name, "has another length or hash than the metadata say"));
    }
    Ok(())
}

fn listed<'m>(
    meta: &'m BTreeMap<String, FileVersion>,
    name: &str,
    by: &str,
) -> Result<&'m FileVersion, Failure> {
    meta.get(name).ok_or_else(|| Failure::new(Code::Mismatch, by, format!("does not list `{name}`")))
}

fn verify_target(
    source: &dyn RepositorySource,
    target: &str,
    description: &TargetDescription,
) -> Result<(RepositoryPath, Vec<RepositoryPath>), Failure> {
    let refuse = |reason: &str| Failure::new(Code::Mismatch, target, reason);
    let sha256: Digest = description
        .hashes
        .get("sha256")
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| refuse("has no SHA-256 in the metadata"))?;
    let place =
        RepositoryPath::of_target(target, sha256).ok_or_else(|| refuse("is no path of a manifest"))?;
    let manifest = read(source, &place, MANIFEST_BYTES_MAX)?.ok_or_else(|| refuse("is missing"))?;
    if manifest.len() as u64 != description.length || Digest::of(&manifest) != sha256 {
        return Err(refuse("is not the file that was signed"));
    }
    let manifest = Manifest::parse(&manifest).map_err(|e| refuse(&e.to_string()))?;
    if RepositoryPath::target_path(&manifest.name, &manifest.version).as_deref() != Some(target) {
        return Err(refuse("is the manifest of another release"));
    }
    if manifest.blobs.len() > BLOBS_MAX {
        return Err(refuse("names too many files"));
    }
    let mut blobs = Vec::new();
    for (name, spec) in &manifest.blobs {
        let blob = RepositoryPath::Blob(spec.sha256);
        let refuse = |reason: &str| Failure::new(Code::Mismatch, format!("{name} of {target}"), reason);
        if spec.bytes > BLOB_BYTES_MAX {
            return Err(refuse("is too long"));
        }
        let bytes = read(source, &blob, spec.bytes)?.ok_or_else(|| refuse("is missing"))?;
        if bytes.len() as u64 != spec.bytes || Digest::of(&bytes) != spec.sha256 {
            return Err(refuse("is not the file that the manifest names"));
        }
        blobs.push(blob);
    }
    Ok((place, blobs))
}

fn read(
    source: &dyn RepositorySource,
    path: &RepositoryPath,
    length_max: u64,
) -> Result<Option<Vec<u8>>, Failure> {
    source.read(path, length_max).map_err(|error| {
        let code = match error {
            SourceError::TooLong { .. } => Code::EndlessData,
            _ => Code::Mismatch,
        };
        let reason = format!("cannot be used: {}", dunlin_kit::error_chain::Chain(&error));
        Failure::new(code, path.to_string(), reason)
    })
}
