//! The importer's thread: carries out imports and fetches, one after the other, away from the pipeline.
//!
//! Tells the updater what it found and fetched, and the desk how far it is. Owns the trust rows; never decides what runs.
//! A job that was cut is asked for again by the state of the slots, or by whoever asked for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::manifest::BlobSpec;
use dunlin_model_package::{Digest, Package, SourceError};
use dunlin_trust::Code;
use dunlin_trust::limits::ROOT_BYTES_MAX;
use tokio::sync::mpsc;

use super::blobs::BlobStore;
use super::book::ReleaseBook;
use super::clean_up::sweep_unused;
use super::compatibility::this_device;
use super::import::{Found, Import, ImportError, Imported, NO_ROOT, fetch_files, open_kept};
use super::import_desk::{Again, Asker, ImportDesk, Job, ModelProgress};
use super::place::Place;
use super::refusal::Refusal;
use super::trust_state::Clocks;
use crate::config::settings::Settings;
use crate::link::FLEET_PLACE;
use crate::link::facts::memory_bytes;
use crate::link::meter::{Meter, OVERHEAD_BYTES};
use crate::link::remote::{Remote, words_of};
use crate::link::server_clock::ServerClock;
use crate::link::server_repository::ServerRepository;
use crate::store::trust::KeptRelease;
use crate::store::{StoreError, TrustStore};

/// What the configuration says about imports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportSettings {
    /// The state folder.
    pub state_dir: PathBuf,
    /// The configured root.
    pub root: Option<PathBuf>,
    /// The configured models.
    pub models: Vec<String>,
    /// Bytes of the file system that stay free.
    pub free_bytes_min: u64,
}

impl ImportSettings {
    /// Returns what the settings say.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self {
            state_dir: settings.state_dir.clone(),
            root: settings.trust_root.clone(),
            models: settings.models.iter().map(|model| model.spec.name.clone()).collect(),
            free_bytes_min: settings.storage.free_bytes_min,
        }
    }
}

/// What the importer tells the updater.
#[derive(Debug)]
pub enum ImportEvent {
    /// This is the newest approved release of its model; its files may still be missing.
    Offered {
        /// The release.
        release: Box<KeptRelease>,
        /// Whether it is tried again where it was found bad.
        again: Again,
    },
    /// All files of a release are here.
    Fetched {
        /// The release.
        release: Box<KeptRelease>,
        /// Its package.
        package: Box<Package>,
    },
    /// The files of a release did not come.
    NotFetched {
        /// The release's digest.
        digest: Digest,
        /// Why; a [`ImportError::Refused`] is on record.
        error: Box<ImportError>,
    },
}

/// Reads a root of trust.
///
/// *Errors*: it cannot be read, or is too long to be one.
pub fn read_root(path: &Path) -> io::Result<Vec<u8>> {
    let mut root = Vec::new();
    File::open(path)?.take(ROOT_BYTES_MAX + 1).read_to_end(&mut root)?;
    if root.len() as u64 > ROOT_BYTES_MAX {
        return Err(io::Error::other(format!("it is longer than {ROOT_BYTES_MAX} bytes")));
    }
    Ok(root)
}

/// The importer, without its thread.
pub struct Importer {
    /// What the configuration says; replaced by a reload.
    pub settings: Arc<Mutex<ImportSettings>>,
    /// The trust rows.
    pub store: TrustStore,
    /// Which releases are needed.
    pub book: Arc<ReleaseBook>,
    /// Where the jobs come from and the progress goes.
    pub desk: Arc<ImportDesk>,
    /// What is found and fetched.
    pub events: mpsc::Sender<ImportEvent>,
    /// The server's time.
    pub clock: Arc<ServerClock>,
    /// Counts what is fetched from the server.
    pub meter: Arc<Meter>,
}

impl Importer {
    /// Starts the thread; it ends with the desk or with whoever takes the events.
    ///
    /// *Errors*: the system gives no thread.
    pub fn spawn(mut self, jobs: Receiver<Job>) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("importer".to_owned()).spawn(move || {
            while let Ok(job) = jobs.recv() {
                if self.carry_out(job).is_none() {
                    return;
                }
            }
        })
    }

    /// Carries out one job; nothing when nobody takes the events any more.
    fn carry_out(&mut self, job: Job) -> Option<()> {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match job {
            Job::Fetch(digest) => match self.store.release(&digest) {
                Ok(Some(release)) => self.fetch(&settings, release),
                Ok(None) => {
                    let object = format!("release {digest}, which is to be fetched and not kept,");
                    self.not_fetched(digest, StoreError::Damaged { object }.into())
                }
                Err(error) => self.not_fetched(digest, error.into()),
            },
            Job::Import { place, again, asker, .. } => {
                let clocks = Clocks::beside(self.clock.time());
                let imported = {
                    let _alone = self.desk.trust_gate();
                    import_place(&mut self.store, &settings, &place, asker, clocks)
                };
                let sent = match imported {
                    Ok(imported) => self.follow(&settings, imported, again),
                    Err(failure) => {
                        self.tell_failure(&settings, &place, asker, &failure);
                        self.desk.change(|report| match failure {
                            ImportFailure::Refused(refusal) => report.refused = Some(refusal),
                            ImportFailure::Failed(words) => report.failed = Some(words),
                        });
                        Some(())
                    }
                };
                // Before the end is told: an importer that is seen to rest does rest.
                self.sweep(&settings);
                self.desk.change(|report| report.ended = true);
                sent
            }
            Job::Sweep => {
                self.sweep(&settings);
                Some(())
            }
        }
    }

    fn sweep(&mut self, settings: &ImportSettings) {
        let _alone = self.desk.trust_gate();
        sweep_unused(&self.book, &mut self.store, &settings.state_dir, settings.free_bytes_min);
    }

    /// A configured place that stayed as it was while newer releases came by other ways is no trouble.
    fn tell_failure(&self, settings: &ImportSettings, place: &Path, asker: Asker, failure: &ImportFailure) {
        let place = place.display();
        let is_older = matches!(failure, ImportFailure::Refused(refusal) if refusal.is(Code::Rollback));
        let serves = |model: &String| self.book.state(model).serving().is_some();
        if asker == Asker::Configuration && is_older && settings.models.iter().all(serves) {
            tracing::info!(
                %place,
                "the configured package is older than what was imported since: the newer releases go on running, and \
                 `package` may name a newer bundle"
            );
        } else {
            tracing::warn!(%place, %failure, "import failed");
        }
    }

    /// Offers what an import found, and fetches the files.
    fn follow(&mut self, settings: &ImportSettings, imported: Imported, again: Again) -> Option<()> {
        let models = progress_of(&imported);
        self.desk.change(|report| {
            report.models = models;
            report.passed_over.clone_from(&imported.passed_over);
        });
        for found in imported.found.into_values() {
            if let Found::Release(release) = found {
                let offered = ImportEvent::Offered { release: release.clone(), again };
                self.events.blocking_send(offered).ok()?;
                self.fetch(settings, *release)?;
            }
        }
        Some(())
    }

    fn fetch(&mut self, settings: &ImportSettings, release: KeptRelease) -> Option<()> {
        let desk = Arc::clone(&self.desk);
        let took = &mut |bytes| {
            desk.change(|report| {
                if let Some(progress) = report.models.get_mut(&release.model) {
                    progress.copied_bytes += bytes;
                }
            });
        };
        let fetched = if release.place.as_deref() == Some(FLEET_PLACE) {
            self.download(settings, &release, took)
        } else {
            fetch_release(&mut self.store, settings, &release, took)
        };
        let event = match fetched {
            Ok(package) => {
                self.desk.enter_phase(&release, "verified", None);
                ImportEvent::Fetched { release: Box::new(release), package: Box::new(package) }
            }
            Err(error) => {
                let phase = if matches!(error, ImportError::Refused(_)) { "refused" } else { "fetching" };
                self.desk.enter_phase(&release, phase, Some(Chain(&error).to_string()));
                ImportEvent::NotFetched { digest: release.digest, error: Box::new(error) }
            }
        };
        self.events.blocking_send(event).ok()
    }

    /// Fetches the files of a release from the server and its mirrors: where one gives something wrong, or too slowly, the
    /// next one goes on.
    fn download(
        &mut self,
        settings: &ImportSettings,
        release: &KeptRelease,
        took: &mut dyn FnMut(u64),
    ) -> Result<Package, ImportError> {
        let repository = self.repository()?;
        let blobs = BlobStore::open(&settings.state_dir, settings.free_bytes_min)?;
        let package = open_kept(&self.store, &blobs, release)?;
        let specs = || package.manifest().blobs.values();
        let total: u64 = specs().map(|spec| spec.bytes).fold(0, u64::saturating_add);
        let mut missing = 0_u64;
        for spec in specs() {
            missing = missing.saturating_add(blobs.missing_bytes(spec)?);
        }
        let mut fetched = total.saturating_sub(missing);
        self.desk.note_transfer(release.digest, Some((fetched, total)));
        let desk = Arc::clone(&self.desk);
        let took = &mut |bytes| {
            fetched = fetched.saturating_add(bytes).min(total);
            desk.note_transfer(release.digest, Some((fetched, total)));
            took(bytes);
        };
        self.patch_files(&blobs, &repository, (release, &package), took);
        let mut result = fetch_files(&mut self.store, &blobs, &repository, release, took);
        for _ in 1..repository.places() {
            if !matches!(&result, Err(ImportError::Refused(refusal)) if is_the_places(refusal)) {
                break;
            }
            repository.turn_to_next();
            result = fetch_files(&mut self.store, &blobs, &repository, release, took);
        }
        self.desk.note_transfer(release.digest, None);
        result
    }

    /// Makes of the releases before what can be made of them. What cannot is fetched whole, whatever the reason.
    fn patch_files(
        &self,
        blobs: &BlobStore,
        repository: &ServerRepository,
        (release, package): (&KeptRelease, &Package),
        took: &mut dyn FnMut(u64),
    ) {
        let state = self.book.state(&release.model);
        let before: Vec<Package> = [state.active, state.previous]
            .into_iter()
            .flatten()
            .filter(|known| known.digest != release.digest)
            .filter_map(|known| self.store.release(&known.digest).ok()?)
            .filter_map(|known| open_kept(&self.store, blobs, &known).ok())
            .collect();
        for (name, wanted) in &package.manifest().blobs {
            let is_absent = blobs.missing_bytes(wanted).is_ok_and(|bytes| bytes == wanted.bytes);
            if !is_absent || wanted.bytes < PATCHED_BYTES_MIN {
                continue;
            }
            let bases = before.iter().filter_map(|package| package.manifest().blobs.get(name));
            let base = bases.into_iter().find(|base| {
                has_memory_for(base, wanted) && blobs.missing_bytes(base).is_ok_and(|bytes| bytes == 0)
            });
            let Some(base) = base else { continue };
            let mut frame = match repository.patch(wanted.sha256, base.sha256) {
                Ok(Some(frame)) => frame,
                Ok(None) | Err(_) => continue,
            };
            match blobs.patch(&mut frame, base, wanted, took) {
                Ok(()) => tracing::info!(model = release.model, file = name, "made of the release before"),
                Err(error) => {
                    tracing::warn!(model = release.model, file = name, error = %Chain(&error),
                        "a patch is of no use; the whole file is fetched");
                }
            }
        }
    }

    fn repository(&self) -> Result<ServerRepository, ImportError> {
        let unreachable = |words: String| {
            let source = io::Error::other(words);
            ImportError::Source(SourceError::Io { path: FLEET_PLACE.into(), source })
        };
        let remote = self.desk.server();
        let remote = remote.ok_or_else(|| unreachable("the link to the fleet server begins".to_owned()))?;
        let remote =
            Remote::open(&remote, Arc::clone(&self.meter)).map_err(|error| unreachable(words_of(&error)))?;
        Ok(ServerRepository::new(remote))
    }

    /// Whoever waits for the files is told in any case: it asks again later.
    fn not_fetched(&self, digest: Digest, error: ImportError) -> Option<()> {
        tracing::warn!(%digest, error = %Chain(&error), "a release cannot be fetched");
        self.events.blocking_send(ImportEvent::NotFetched { digest, error: Box::new(error) }).ok()
    }
}

/// A patch spares nothing of a smaller file: it costs a request of its own.
const PATCHED_BYTES_MIN: u64 = 4 * OVERHEAD_BYTES;
/// Longest file and base that are patched, as servers have it.
const PATCHED_BYTES_MAX: u64 = 32 << 20;

/// Tells whether a patch can be taken without pressing what runs out of memory: the base and a window over base and file
/// are held, and a quarter of what is free may go into that.
fn has_memory_for(base: &BlobSpec, wanted: &BlobSpec) -> bool {
    let held = base.bytes.saturating_mul(2).saturating_add(wanted.bytes);
    base.bytes.max(wanted.bytes) <= PATCHED_BYTES_MAX && held <= memory_bytes("MemAvailable:") / 4
}

/// Tells whether another place may have what this one has not.
fn is_the_places(refusal: &Refusal) -> bool {
    [Code::Mismatch, Code::EndlessData, Code::SlowRetrieval].into_iter().any(|code| refusal.is(code))
}

/// Why an import came to nothing, in words for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportFailure {
    /// It is refused.
    Refused(Refusal),
    /// Something failed.
    Failed(String),
}

impl std::fmt::Display for ImportFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Failed(words) => f.write_str(words),
        }
    }
}

impl From<ImportError> for ImportFailure {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Refused(refusal) => Self::Refused(refusal),
            error => Self::Failed(Chain(&error).to_string()),
        }
    }
}

/// Verifies a bundle or repository and keeps what it offers; files are fetched after it.
///
/// *Errors*: it is refused, or something failed.
pub fn import_place(
    store: &mut TrustStore,
    settings: &ImportSettings,
    path: &Path,
    asker: Asker,
    clocks: Clocks,
) -> Result<Imported, ImportFailure> {
    let failed = |error: &dyn std::error::Error| ImportFailure::Failed(Chain(error).to_string());
    let root = match &settings.root {
        Some(root) => Some(read_root(root).map_err(|error| {
            ImportFailure::Failed(format!("cannot read the root of trust `{}`: {error}", root.display()))
        })?),
        // A gateway that enrolled by a token has its root from there.
        None if matches!(store.load(), Ok(None)) => return Err(ImportFailure::Failed(NO_ROOT.to_owned())),
        None => None,
    };
    let place = Place::open(path).map_err(|error| match error {
        super::place::PlaceError::Bundle { .. } => {
            let reason = Chain(&error).to_string();
            ImportFailure::Refused(Refusal::trust(Code::Mismatch, path.display().to_string(), reason))
        }
        error => failed(&error),
    })?;
    let floors = store.counter_floors().map_err(|error| failed(&error))?;
    let mut import = Import {
        store,
        state_dir: &settings.state_dir,
        root: root.as_deref(),
        device: &this_device(),
        models: &settings.models,
        floors: &floors,
        clocks,
        asker,
    };
    Ok(import.run(&place, Some(path))?)
}

/// Fetches the files of a kept release from where it came.
///
/// *Errors*: as [`fetch_files`]; the source's where its place is gone and files are missing.
pub fn fetch_release(
    store: &mut TrustStore,
    settings: &ImportSettings,
    release: &KeptRelease,
    took: &mut dyn FnMut(u64),
) -> Result<Package, ImportError> {
    let blobs = BlobStore::open(&settings.state_dir, settings.free_bytes_min)?;
    let place = PathBuf::from(release.place.as_deref().unwrap_or_default());
    // What is here already may be enough.
    let place = Place::open(&place).unwrap_or(Place::Gone(place));
    fetch_files(store, &blobs, &place, release, took)
}

/// Returns what an import found as its report shows it.
#[must_use]
pub fn progress_of(imported: &Imported) -> BTreeMap<String, ModelProgress> {
    let mut models = BTreeMap::new();
    for (model, found) in &imported.found {
        let progress = match found {
            Found::Absent => continue,
            Found::Release(release) => ModelProgress {
                version: release.version.clone(),
                counter: release.counter,
                phase: "fetching".to_owned(),
                copied_bytes: 0,
                cause: None,
            },
            Found::Refused(refusal) => ModelProgress {
                version: String::new(),
                counter: 0,
                phase: "refused".to_owned(),
                copied_bytes: 0,
                cause: Some(refusal.to_string()),
            },
        };
        models.insert(model.clone(), progress);
    }
    models
}

#[cfg(test)]
mod tests;
