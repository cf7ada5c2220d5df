//! Judges a whole repository, as a gateway would that has never seen it: before it is published, and after.
//!
//! Uses the verifier's parts alone and believes nothing of what the signer thinks it made. Reads through a
//! [`RepositorySource`]; writes nothing.

use std::collections::BTreeMap;
use std::io::Read;

use dunlin_kit::digest::Digest;
use dunlin_model_package::manifest::BLOBS_MAX;
use dunlin_model_package::package::{BLOB_BYTES_MAX, MANIFEST_BYTES_MAX};
use dunlin_model_package::repository_path::SETTINGS_FOLDER;
use dunlin_model_package::{Manifest, RepositoryPath, RepositorySource, SourceError};
use dunlin_trust::metadata::{TargetDescription, Targets};
use dunlin_trust::sign::repository::Files;
use dunlin_trust::steps::metadata_path;
use dunlin_trust::time::UnixTime;
use dunlin_trust::{
    Answer, Code, Failure, Fetch, Interrupted, Lookup, Refresh, Steps, Stored, TrustedSet, envelope, limits,
    run,
};

/// Longest file of metadata that is read at all; each role has a limit of its own.
pub const METADATA_BYTES_MAX: u64 = limits::TARGETS_BYTES_MAX;

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
    verify_chosen(source, now, &|_| true)
}

/// Checks all metadata, and manifests and blobs of those targets that are chosen by their paths.
///
/// *Errors*: as [`verify`].
pub fn verify_chosen(
    source: &dyn RepositorySource,
    now: UnixTime,
    is_chosen: &dyn Fn(&str) -> bool,
) -> Result<Verdict, Failure> {
    let (metadata, named) = verify_metadata(source, now)?;
    let mut paths: Vec<RepositoryPath> = Vec::new();
    for name in metadata.keys() {
        paths.extend(format!("metadata/{name}").parse::<RepositoryPath>());
    }
    let mut targets = BTreeMap::new();
    for (path, description) in named {
        if !is_chosen(&path) {
            continue;
        }
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
    let mut reading = Reading { source, files: Files::new() };
    let first = "1.root.json";
    let missing = || Failure::new(Code::Mismatch, first, "is missing");
    let root = reading.file(first, limits::ROOT_BYTES_MAX)?.ok_or_else(missing)?;
    let mut set = TrustedSet::load(&Stored::first(root))?;
    loop {
        let before = set.root().version;
        let mut refresh = Refresh::new(set, now);
        reading.drive(&mut refresh)?;
        set = refresh.finish().set;
        // One refresh takes a limited number of roots.
        if set.root().version == before
            || reading
                .file(&metadata_path("root", Some(set.root().version + 1)), limits::ROOT_BYTES_MAX)?
                .is_none()
        {
            break;
        }
    }
    let named = reading.targets(&mut set, now)?;
    Ok((reading.files, named))
}

/// Tells whether a reader that has read `old` accepts `new` in its place.
///
/// *Errors*: what it refuses.
pub fn verify_step(old: &Files, new: &Files, now: UnixTime) -> Result<(), Failure> {
    let old = MetadataInMemory(old.clone());
    let mut reading = Reading { source: &old, files: Files::new() };
    let missing = || Failure::new(Code::Mismatch, "1.root.json", "is missing");
    let root = reading.file("1.root.json", limits::ROOT_BYTES_MAX)?.ok_or_else(missing)?;
    let mut refresh = Refresh::new(TrustedSet::load(&Stored::first(root))?, now);
    reading.drive(&mut refresh)?;
    let new = MetadataInMemory(new.clone());
    let mut refresh = Refresh::new(refresh.finish().set, now);
    Reading { source: &new, files: Files::new() }.drive(&mut refresh)
}

struct Reading<'s> {
    source: &'s dyn RepositorySource,
    /// What was read, by name.
    files: Files,
}

impl Reading<'_> {
    fn drive(&mut self, steps: &mut impl Steps) -> Result<(), Failure> {
        run(steps, |fetch: &Fetch| {
            self.file(&fetch.path, fetch.length_max).map(|raw| raw.map_or(Answer::NotFound, Answer::Found))
        })
        .map_err(|interrupted| match interrupted {
            Interrupted::Refused(failure) | Interrupted::Source(failure) => failure,
        })
    }

    /// Looks for every target that some role names, as a reader would.
    fn targets(
        &mut self,
        set: &mut TrustedSet,
        now: UnixTime,
    ) -> Result<BTreeMap<String, TargetDescription>, Failure> {
        let mut names: Vec<String> =
            set.targets().iter().flat_map(|targets| targets.targets.keys().cloned()).collect();
        let delegated: Vec<(String, u64)> = set
            .snapshot()
            .iter()
            .flat_map(|snapshot| &snapshot.meta)
            .filter(|(name, _)| *name != "targets.json")
            .map(|(name, listed)| (name.trim_end_matches(".json").to_owned(), listed.version))
            .collect();
        for (role, version) in delegated {
            let name = metadata_path(&role, Some(version));
            let missing = || Failure::new(Code::Mismatch, name.as_str(), "is missing");
            let raw = self.file(&name, limits::TARGETS_BYTES_MAX)?.ok_or_else(missing)?;
            // Only the names are taken from here; whether they count is the search's to say.
            names.extend(envelope::Envelope::<Targets>::parse(&raw, &name)?.role().targets.keys().cloned());
        }
        names.sort();
        names.dedup();
        let mut named = BTreeMap::new();
        for path in names {
            let mut lookup = Lookup::new(set, &path, now)?;
            self.drive(&mut lookup)?;
            named.insert(path, lookup.finish()?.into_inner().description);
        }
        Ok(named)
    }

    fn file(&mut self, name: &str, length_max: u64) -> Result<Option<Vec<u8>>, Failure> {
        let path: RepositoryPath = format!("metadata/{name}")
            .parse()
            .map_err(|_| Failure::new(Code::Mismatch, name, "is no name of metadata"))?;
        let raw = read(self.source, &path, length_max)?;
        if let Some(raw) = &raw {
            self.files.insert(name.to_owned(), raw.clone());
        }
        Ok(raw)
    }
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
    if target.starts_with(SETTINGS_FOLDER) {
        let place = RepositoryPath::Blob(sha256);
        let settings = read(source, &place, description.length)?.ok_or_else(|| refuse("is missing"))?;
        let is_signed = settings.len() as u64 == description.length && Digest::of(&settings) == sha256;
        return match is_signed {
            true => Ok((place, Vec::new())),
            false => Err(refuse("is not the file that was signed")),
        };
    }
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
