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
use dunlin_model_package::{Digest, Package};
use dunlin_trust::Code;
use dunlin_trust::limits::ROOT_BYTES_MAX;
use tokio::sync::mpsc;

use super::blobs::BlobStore;
use super::book::ReleaseBook;
use super::clean_up::sweep_unused;
use super::compatibility::this_device;
use super::import::{Found, Import, ImportError, Imported, fetch_files};
use super::import_desk::{Again, Asker, ImportDesk, Job, ModelProgress};
use super::place::Place;
use super::refusal::Refusal;
use super::trust_state::Clocks;
use crate::config::settings::Settings;
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
                let imported = import_place(&mut self.store, &settings, &place, asker);
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
                sweep_unused(&self.book, &mut self.store, &settings.state_dir, settings.free_bytes_min);
                self.desk.change(|report| report.ended = true);
                sent
            }
        }
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
        let fetched = fetch_release(&mut self.store, settings, &release, took);
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

    /// Whoever waits for the files is told in any case: it asks again later.
    fn not_fetched(&self, digest: Digest, error: ImportError) -> Option<()> {
        tracing::warn!(%digest, error = %Chain(&error), "a release cannot be fetched");
        self.events.blocking_send(ImportEvent::NotFetched { digest, error: Box::new(error) }).ok()
    }
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
) -> Result<Imported, ImportFailure> {
    let failed = |error: &dyn std::error::Error| ImportFailure::Failed(Chain(error).to_string());
    let Some(root) = &settings.root else {
        let words = "no root of trust is configured; write `root = \"root.json\"` under `[trust]`";
        return Err(ImportFailure::Failed(words.to_owned()));
    };
    let root = read_root(root).map_err(|error| {
        ImportFailure::Failed(format!("cannot read the root of trust `{}`: {error}", root.display()))
    })?;
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
        root: &root,
        device: &this_device(),
        models: &settings.models,
        floors: &floors,
        clocks: Clocks::read(),
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
