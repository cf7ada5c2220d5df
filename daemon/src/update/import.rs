//! One import: what a bundle or repository holds, verified, and the newest approved release of each model kept.
//!
//! First the metadata, then a manifest for each configured model, then one transaction with all of it; the files of a
//! release follow by hash and may be cut anywhere. A refusal is recorded, and changes nothing else. Decides nothing about
//! running: the slots' machine does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use dunlin_kit::clock;
use dunlin_kit::error_chain::Chain;
use dunlin_model_package::{Blobs, Digest, Manifest, Package, PackageError, SourceError};
use dunlin_trust::director::Device;
use dunlin_trust::time::UnixTime;
use dunlin_trust::{Code, TargetFile, Verified};

use super::approval::{self, Approved};
use super::blobs::{BlobError, BlobStore, Collected};
use super::compatibility::require_fit;
use super::cut;
use super::import_desk::Asker;
use super::place::ListedSource;
use super::refusal::Refusal;
use super::trust_state::{Clocks, Interruption, TrustState};
use crate::store::trust::{Cycle, KeptRefusal, KeptRelease, KeptTrust};
use crate::store::{StoreError, TrustStore};

/// The check of a repository's metadata, as its refusals are filed.
pub const METADATA_CHECK: &str = "metadata";

/// Returns the check of a model's releases, as its refusals are filed.
#[must_use]
pub fn model_check(model: &str) -> String {
    format!("model/{model}")
}

/// What an import stands on.
#[derive(Debug)]
pub struct Import<'a> {
    /// What is trusted.
    pub store: &'a mut TrustStore,
    /// The state folder.
    pub state_dir: &'a Path,
    /// The configured root, where there is one.
    pub root: Option<&'a [u8]>,
    /// What this device is.
    pub device: &'a Device,
    /// The configured models.
    pub models: &'a [String],
    /// Release counters of models below which nothing is taken; no entry: 0.
    pub floors: &'a BTreeMap<String, u64>,
    /// What the clocks say.
    pub clocks: Clocks,
    /// Who wants it.
    pub asker: Asker,
}

/// What an import found for one configured model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The newest approved release; it is kept, and its files are to be fetched with [`fetch_files`].
    Release(Box<KeptRelease>),
    /// The repository names no release of the model.
    Absent,
    /// Its newest release is refused.
    Refused(Refusal),
}

/// What an import found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Imported {
    /// By configured model.
    pub found: BTreeMap<String, Found>,
    /// Models of the repository that are not configured.
    pub passed_over: BTreeSet<String>,
}

/// Why an import came to nothing.
#[derive(Debug)]
pub enum ImportError {
    /// It is refused; that is on record.
    Refused(Refusal),
    /// The source failed; to be tried again.
    Source(SourceError),
    /// The blob store failed; to be tried again.
    Blobs(BlobError),
    /// `state.db` failed; to be tried again.
    Store(StoreError),
    /// The package is damaged here: its blobs are to be fetched again.
    Package(PackageError),
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Source(error) => error.fmt(f),
            Self::Blobs(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Package(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ImportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(_) => None,
            Self::Source(error) => error.source(),
            Self::Blobs(error) => error.source(),
            Self::Store(error) => error.source(),
            Self::Package(error) => error.source(),
        }
    }
}

impl From<Interruption> for ImportError {
    fn from(interruption: Interruption) -> Self {
        match interruption {
            Interruption::Refused(refusal) => Self::Refused(refusal),
            Interruption::Source(error) => Self::Source(error),
        }
    }
}

impl From<BlobError> for ImportError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Refused(refusal) => Self::Refused(refusal),
            BlobError::Source(error) => Self::Source(error),
            error @ BlobError::Io { .. } => Self::Blobs(error),
        }
    }
}

impl From<StoreError> for ImportError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Refusal> for ImportError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Nothing says whose models run.
pub const NO_ROOT: &str = "no root of trust is configured; write `root = \"root.json\"` under `[trust]`";

/// Returns what the gateway trusts, and takes the configured root over where there is nothing yet.
///
/// *Errors*: `state_lost`; `signature` for a configured root of somebody else, or where there is none at all; the file
/// cannot be written.
pub fn open_trust(
    store: &mut TrustStore,
    state_dir: &Path,
    root: Option<&[u8]>,
) -> Result<TrustState, ImportError> {
    let loaded = store.load().map_err(|error| match error {
        StoreError::Damaged { .. } => ImportError::Refused(Refusal::state_lost(Chain(&error))),
        error => ImportError::Store(error),
    })?;
    let (state, is_new) = match loaded {
        Some(kept) => {
            let mut state = TrustState::load(kept)?;
            let has_grown = root.map_or(Ok(false), |root| state.accept_configured(root))?;
            (state, has_grown)
        }
        // Where files are, there was trust: it must not begin again at the first version.
        None if BlobStore::exists(state_dir) => {
            let why = "it is empty, and `models/blobs` beside it is not new";
            return Err(Refusal::state_lost(why).into());
        }
        None => {
            let root = root.ok_or_else(|| Refusal::trust(Code::Signature, "trust.root", NO_ROOT))?;
            (TrustState::first(root)?, true)
        }
    };
    if is_new {
        save(store, &Cycle { trust: Some(state.kept()), ..Cycle::default() })?;
    }
    Ok(state)
}

impl Import<'_> {
    /// Imports what `source` holds; `place` is where it lies, to go on from after a restart.
    ///
    /// *Errors*: refused as a whole, and on record as far as `state.db` can take it, but for a configured place that is
    /// older than what was imported since; or the source or the store failed.
    pub fn run(&mut self, source: &dyn ListedSource, place: Option<&Path>) -> Result<Imported, ImportError> {
        let ran = self.verify_and_keep(source, place);
        if let Err(ImportError::Refused(refusal)) = &ran
            && !(self.asker == Asker::Configuration && refusal.is(Code::Rollback))
        {
            tracing::warn!(
                code = refusal.code,
                object = refusal.object,
                reason = refusal.reason,
                "update refused"
            );
            let refused = vec![kept_refusal(METADATA_CHECK.to_owned(), refusal)];
            if let Err(error) = self.store.save(&Cycle { refused, ..Cycle::default() }) {
                tracing::warn!(error = %Chain(&error), "the refusal of an update could not be recorded");
            }
        }
        ran
    }

    fn verify_and_keep(
        &mut self,
        source: &dyn ListedSource,
        place: Option<&Path>,
    ) -> Result<Imported, ImportError> {
        let mut state = open_trust(self.store, self.state_dir, self.root)?;
        let before = state.kept();
        let now = state.time(&self.clocks);
        let refreshed = state.refresh(source, now);
        if let Err(interruption) = refreshed {
            // New roots count at once: else a revoked key would be trusted as long as somebody breaks refreshes.
            self.keep(&before, &state, Cycle::default())?;
            return Err(interruption.into());
        }
        let mut cycle = Cycle { passed: vec![METADATA_CHECK.to_owned()], ..Cycle::default() };
        let mut imported = Imported { passed_over: self.passed_over(&state), ..Imported::default() };
        self.review(&mut state, source, now, &mut cycle)?;
        for model in self.models {
            let found = match self.judge(&mut state, source, model, now) {
                Ok(found) => found,
                Err(ImportError::Refused(refusal)) => Found::Refused(refusal),
                Err(error) => return Err(error),
            };
            self.file(model, found, place, &mut cycle, &mut imported);
        }
        self.keep(&before, &state, cycle)?;
        Ok(imported)
    }

    pub(super) fn keep(
        &mut self,
        before: &KeptTrust,
        state: &TrustState,
        cycle: Cycle,
    ) -> Result<(), ImportError> {
        let after = state.kept();
        let trust = (after != *before).then_some(after);
        save(self.store, &Cycle { trust, ..cycle })
    }

    /// Finds the newest release of a model and verifies its manifest.
    fn judge(
        &self,
        state: &mut TrustState,
        source: &dyn ListedSource,
        model: &str,
        now: UnixTime,
    ) -> Result<Found, ImportError> {
        let Some(approved) = approval::newest(state.set_mut(), source, model, now)? else {
            return Ok(match source.manifests(model).pop() {
                Some((version, _)) => {
                    let object = format!("models/{model}/{version}/manifest.json");
                    let reason = "lies in the bundle and is signed by nobody who may; sign the release";
                    Found::Refused(Refusal::trust(Code::NotApproved, object, reason))
                }
                None => Found::Absent,
            });
        };
        self.require_counter(&approved)?;
        if let Some(kept) = self.store.release(&approved.digest)? {
            return Ok(Found::Release(Box::new(kept)));
        }
        let file = approval::fetch_manifest(&approved, state.set(), source, self.device)?;
        Ok(Found::Release(Box::new(self.release_of(file, model)?)))
    }

    /// A counter says which of two releases is newer, so two releases never share one.
    pub(super) fn require_counter(&self, approved: &Approved) -> Result<(), ImportError> {
        let counter = approved.note.release_counter;
        let model = &approved.note.model;
        let floor = self.floors.get(model).copied().unwrap_or(0);
        let refuse = |reason: String| Refusal::trust(Code::Downgrade, &approved.target.path, reason);
        if counter < floor {
            let reason = format!(
                "has release counter {counter}, and {floor} was found good here; publish the old files as a new \
                 release with a higher counter"
            );
            return Err(refuse(reason).into());
        }
        let shares = |kept: &KeptRelease| {
            kept.model == *model && kept.counter == counter && kept.digest != approved.digest
        };
        if counter == floor && self.store.releases()?.iter().any(shares) {
            let reason =
                format!("has release counter {counter}, which another release has that was found good here");
            return Err(refuse(reason).into());
        }
        Ok(())
    }

    pub(super) fn release_of(&self, file: Verified<TargetFile>, model: &str) -> Result<KeptRelease, Refusal> {
        let incompatible = |error: &PackageError| {
            Refusal::trust(Code::Incompatible, file.path.clone(), Chain(error).to_string())
        };
        let package = Package::without_files(file.clone(), Blobs::ByDigest(self.state_dir.to_owned()))
            .map_err(|error| incompatible(&error))?;
        require_fit(package.manifest(), model, self.device)?;
        Ok(KeptRelease {
            digest: package.digest(),
            model: model.to_owned(),
            version: package.manifest().version.clone(),
            counter: package.manifest().release_counter,
            manifest: package.file().bytes.clone(),
            evidence: package.file().evidence.clone(),
            approved: true,
            place: None,
        })
    }

    /// Puts what was found for a model into the cycle and the answer.
    fn file(
        &self,
        model: &str,
        found: Found,
        place: Option<&Path>,
        cycle: &mut Cycle,
        imported: &mut Imported,
    ) {
        let found = match found {
            Found::Release(release) => {
                cycle.passed.push(model_check(model));
                let reviewed = cycle.releases.iter().position(|other| other.digest == release.digest);
                // What the review made of it: newer evidence.
                let mut release = reviewed.map_or(*release, |index| cycle.releases.swap_remove(index));
                release.approved = true;
                release.place = place.map(|place| place.to_string_lossy().into_owned());
                cycle.releases.push(release.clone());
                Found::Release(Box::new(release))
            }
            Found::Refused(refusal) => {
                tracing::warn!(
                    model,
                    code = refusal.code,
                    object = refusal.object,
                    reason = refusal.reason,
                    "release refused"
                );
                cycle.refused.push(kept_refusal(model_check(model), &refusal));
                Found::Refused(refusal)
            }
            Found::Absent => Found::Absent,
        };
        imported.found.insert(model.to_owned(), found);
    }

    /// Gives kept releases the evidence of the newest metadata; marks those that these do not name any more. They run
    /// on, and `models` says so.
    fn review(
        &self,
        state: &mut TrustState,
        source: &dyn ListedSource,
        now: UnixTime,
        cycle: &mut Cycle,
    ) -> Result<(), ImportError> {
        for kept in self.store.releases()? {
            let mut release = kept.clone();
            let found = approval::find(state.set_mut(), source, &release.evidence.target, now);
            let named = match found {
                Ok(target) => Some(target.into_inner()).filter(|target| {
                    target.description.hashes.get("sha256") == Some(&release.digest.to_string())
                }),
                Err(Interruption::Refused(refusal)) if refusal.is(Code::NotApproved) => None,
                // A delegated role that cannot be read today says nothing about the release.
                Err(Interruption::Refused(_)) => continue,
                Err(interruption) => return Err(interruption.into()),
            };
            release.approved = named.is_some();
            match named {
                // The same keys in the same roots prove the same: nothing is written for newer versions alone.
                Some(target) if target.evidence.root != release.evidence.root => {
                    release.evidence = target.evidence;
                }
                Some(_) => {}
                None if !kept.approved => {}
                None => tracing::warn!(
                    model = release.model,
                    version = release.version,
                    "a release here is not approved any more; it runs on until a newer one replaces it"
                ),
            }
            if release != kept {
                cycle.releases.push(release);
            }
        }
        Ok(())
    }

    /// Returns the models of the top-level targets metadata that are not configured.
    fn passed_over(&self, state: &TrustState) -> BTreeSet<String> {
        let paths = state.set().targets().into_iter().flat_map(|targets| targets.targets.keys());
        paths
            .filter_map(|path| Some(path.strip_prefix("models/")?.split_once('/')?.0.to_owned()))
            .filter(|model| !self.models.contains(model))
            .collect()
    }
}

/// Fetches the files of a kept release, as far as they are not here, and opens its package. `took` hears of every stretch
/// of bytes that was copied.
///
/// *Errors*: refused, and on record; or the source or the store failed: the parts stay, and the next call goes on.
pub fn fetch_files(
    store: &mut TrustStore,
    blobs: &BlobStore,
    source: &dyn ListedSource,
    release: &KeptRelease,
    took: &mut dyn FnMut(u64),
) -> Result<Package, ImportError> {
    let fetched = fetch_all(store, blobs, source, release, took);
    let subject = model_check(&release.model);
    let cycle = match &fetched {
        Err(ImportError::Refused(refusal)) => {
            tracing::warn!(
                model = release.model,
                code = refusal.code,
                object = refusal.object,
                reason = refusal.reason,
                "release refused"
            );
            Cycle { refused: vec![kept_refusal(subject, refusal)], ..Cycle::default() }
        }
        Ok(_) => Cycle { passed: vec![subject], ..Cycle::default() },
        Err(_) => return fetched,
    };
    save(store, &cycle)?;
    fetched
}

fn fetch_all(
    store: &TrustStore,
    blobs: &BlobStore,
    source: &dyn ListedSource,
    release: &KeptRelease,
    took: &mut dyn FnMut(u64),
) -> Result<Package, ImportError> {
    let package = open_kept(store, blobs, release)?;
    let mut missing = 0_u64;
    for spec in package.manifest().blobs.values() {
        missing = missing.saturating_add(blobs.missing_bytes(spec)?);
    }
    if missing > 0 {
        blobs.require_room(missing)?;
    }
    for spec in package.manifest().blobs.values() {
        blobs.fetch(source, spec, took)?;
    }
    Ok(package)
}

/// Opens the package of a kept release; each of its files is checked when it is read.
///
/// *Errors*: `state_lost` for one that no root of the chain ever approved; the manifest is refused.
pub fn open_kept(
    store: &TrustStore,
    blobs: &BlobStore,
    release: &KeptRelease,
) -> Result<Package, ImportError> {
    let anchor = Digest::of(release.evidence.root.as_bytes());
    let kept = store.load()?;
    if !kept.is_some_and(|kept| kept.roots.iter().any(|root| root.sha256 == anchor)) {
        let why = format!("release {} of `{}` has an unknown root", release.counter, release.model);
        return Err(Refusal::state_lost(why).into());
    }
    let file = release.evidence.verify(&anchor, release.manifest.clone()).map_err(Refusal::from)?;
    Package::without_files(file, blobs.blobs()).map_err(ImportError::Package)
}

/// Removes those blobs of a package that are not what their names say; returns their file names. [`fetch_files`] brings
/// them again.
///
/// *Errors*: the blob store failed.
pub fn remove_damaged(blobs: &BlobStore, manifest: &Manifest) -> Result<Vec<String>, ImportError> {
    let mut removed = Vec::new();
    for (name, spec) in &manifest.blobs {
        if blobs.remove_damaged(spec)? {
            tracing::warn!(file = name, sha256 = %spec.sha256, "a damaged file of a model is removed");
            removed.push(name.clone());
        }
    }
    Ok(removed)
}

/// Forgets all releases but these, and removes all blobs and parts that none of these names.
///
/// *Errors*: the store or the blob store failed; what is left goes the next time.
pub fn sweep(
    store: &mut TrustStore,
    blobs: &BlobStore,
    in_use: &BTreeSet<Digest>,
) -> Result<Collected, ImportError> {
    let known: BTreeSet<Digest> = store.releases()?.iter().map(|release| release.digest).collect();
    if !in_use.is_subset(&known) {
        // Which files the others have is not known: none is removed.
        return Ok(Collected::default());
    }
    // Rows first: a file without a row goes the next time, a row without files would be fetched again.
    store.keep_releases(in_use)?;
    let mut kept = BTreeSet::new();
    for release in store.releases()? {
        if let Ok(manifest) = Manifest::parse(&release.manifest) {
            kept.extend(manifest.blobs.values().map(|spec| spec.sha256));
        }
    }
    Ok(blobs.collect(&kept)?)
}

fn save(store: &mut TrustStore, cycle: &Cycle) -> Result<(), ImportError> {
    let cut = |source| ImportError::Store(StoreError::File { path: "state.db".into(), source });
    cut::point("store what is trusted").map_err(cut)?;
    store.save(cycle)?;
    cut::point("go on after storing").map_err(cut)
}

pub(super) fn kept_refusal(subject: String, refusal: &Refusal) -> KeptRefusal {
    let Refusal { code, object, reason } = refusal.clone();
    KeptRefusal { subject, code, object, reason, at_us: clock::wall_micros() }
}

#[cfg(test)]
mod tests;
