//! Where local programs hand in imports, and read how far they have come.
//!
//! Holds the last import's progress and wakes those who wait for it; does nothing itself. The importer's thread takes
//! the jobs, the updater tells of the phases after the files are here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use dunlin_model_package::Digest;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::refusal::Refusal;
use crate::store::trust::KeptRelease;

/// Jobs that wait for the importer: a few sticks, and one fetch a model.
const JOBS: usize = 64;

/// Whether a release that was found bad before may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Again {
    /// It stays bad.
    #[default]
    Never,
    /// It is tried anew.
    Retry,
}

/// Who wants an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Somebody who handed it in: an older repository than one seen before is refused, and that is on record.
    Operator,
    /// The configuration, at every start: its place may be older than what was imported since.
    Configuration,
}

/// What the importer is to do.
#[derive(Debug)]
pub enum Job {
    /// Verify a bundle or repository, keep its releases and fetch their files.
    Import {
        /// The import's number.
        import: u64,
        /// The bundle or folder.
        place: PathBuf,
        /// Whether bad releases are tried again.
        again: Again,
        /// Who wants it.
        asker: Asker,
    },
    /// Fetch the files of a release that is kept, from where it came.
    Fetch(Digest),
    /// Remove the files of releases that nobody needs any more.
    Sweep,
}

/// Where a release stands, as an import reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelProgress {
    /// Version for people; empty for a refused one.
    pub version: String,
    /// Release counter; 0 for a refused one.
    pub counter: u64,
    /// The phase: `fetching`, `verified`, `admitted`, `shadow`, `trial`, `good`, `bad`, `refused`, `known`.
    pub phase: String,
    /// Bytes of its files that were copied.
    pub copied_bytes: u64,
    /// Why it was refused or found bad: code and words.
    pub cause: Option<String>,
}

impl ModelProgress {
    /// Tells whether nothing more will happen to it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self.phase.as_str(), "good" | "bad" | "refused" | "known")
    }
}

/// How far an import has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImportReport {
    /// Its number.
    pub import: u64,
    /// Rises with every change.
    pub revision: u64,
    /// Whether all files are here, or it ended early.
    pub ended: bool,
    /// By configured model, what the repository has for it.
    pub models: BTreeMap<String, ModelProgress>,
    /// Models of the repository that are not configured.
    pub passed_over: BTreeSet<String>,
    /// The refusal of the whole import.
    pub refused: Option<Refusal>,
    /// What failed, where the import is to be tried again.
    pub failed: Option<String>,
}

/// The desk.
#[derive(Debug)]
pub struct ImportDesk {
    jobs: SyncSender<Job>,
    report: Mutex<ImportReport>,
    revision: watch::Sender<u64>,
    closed: OnceLock<Refusal>,
    /// Held by whoever checks and stores what is trusted: the importer, or the link.
    trust: Mutex<()>,
    /// Files that are on their way: bytes that are here, and all.
    transfers: Mutex<BTreeMap<Digest, (u64, u64)>>,
}

impl ImportDesk {
    /// Returns a desk, and where the importer takes its jobs.
    #[must_use]
    pub fn new() -> (Self, Receiver<Job>) {
        let (jobs, taken) = sync_channel(JOBS);
        let (revision, _) = watch::channel(0);
        let desk = Self {
            jobs,
            report: Mutex::default(),
            revision,
            closed: OnceLock::new(),
            trust: Mutex::default(),
            transfers: Mutex::default(),
        };
        (desk, taken)
    }

    /// Has every import refused from now on.
    pub fn close(&self, why: Refusal) {
        let _ = self.closed.set(why);
    }

    /// Returns the last import's report once nothing is under way any more. Cancel-safe.
    pub async fn idle(&self) -> ImportReport {
        let mut report = self.report();
        while report.import > 0 && !report.ended {
            report = self.newer_than(report.revision).await;
        }
        report
    }

    /// Takes an import; returns its number.
    ///
    /// *Errors*: why it cannot be taken.
    pub fn import(&self, place: PathBuf, again: Again) -> Result<u64, String> {
        self.take_in(place, again, Asker::Operator)
    }

    /// Takes an import of a place that the configuration names; returns its number.
    ///
    /// *Errors*: as [`ImportDesk::import`].
    pub fn import_configured(&self, place: PathBuf) -> Result<u64, String> {
        self.take_in(place, Again::Never, Asker::Configuration)
    }

    fn take_in(&self, place: PathBuf, again: Again, asker: Asker) -> Result<u64, String> {
        if !place.is_absolute() {
            return Err(format!("`{}` is no absolute path", place.display()));
        }
        let import = {
            let mut report = self.lock();
            if report.import > 0 && !report.ended {
                return Err("another import is under way; wait for its end".to_owned());
            }
            let (import, revision) = (report.import + 1, report.revision);
            *report = ImportReport { import, revision, ..ImportReport::default() };
            import
        };
        if let Some(why) = self.closed.get() {
            self.change(|report| {
                report.refused = Some(why.clone());
                report.ended = true;
            });
            return Ok(import);
        }
        self.send(Job::Import { import, place, again, asker })
            .inspect_err(|_| self.change(|report| report.ended = true))?;
        Ok(import)
    }

    /// Asks for the files of a release that is kept.
    ///
    /// *Errors*: too much is being asked; to be asked again later.
    pub fn fetch(&self, release: Digest) -> Result<(), String> {
        self.send(Job::Fetch(release))
    }

    /// Has the files removed of releases that nobody needs any more, when nothing is being fetched.
    ///
    /// *Errors*: too much is being asked; the next import does it too.
    pub fn sweep(&self) -> Result<(), String> {
        self.send(Job::Sweep)
    }

    /// Waits until nobody else checks or stores what is trusted, and keeps others from it meanwhile.
    pub fn trust_gate(&self) -> MutexGuard<'_, ()> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how much of a release's files is here; `None` once nothing is on its way any more.
    pub fn note_transfer(&self, release: Digest, bytes: Option<(u64, u64)>) {
        let mut transfers = self.transfers.lock().unwrap_or_else(PoisonError::into_inner);
        match bytes {
            Some(bytes) => transfers.insert(release, bytes),
            None => transfers.remove(&release),
        };
    }

    /// Returns the releases whose files are on their way: bytes that are here, and all.
    #[must_use]
    pub fn transfers(&self) -> BTreeMap<Digest, (u64, u64)> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn send(&self, job: Job) -> Result<(), String> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => "too many imports wait already; try again later".to_owned(),
            TrySendError::Disconnected(_) => "the daemon takes no imports: see its log".to_owned(),
        })
    }

    /// Changes the report and wakes those who wait.
    pub fn change(&self, change: impl FnOnce(&mut ImportReport)) {
        let revision = {
            let mut report = self.lock();
            change(&mut report);
            report.revision += 1;
            report.revision
        };
        self.revision.send_replace(revision);
    }

    /// Notes that a release came to a phase; `cause` where it is the end of it. Releases of earlier imports are passed
    /// over, and a release that is refused stays so until it is imported again.
    pub fn enter_phase(&self, release: &KeptRelease, phase: &str, cause: Option<String>) {
        self.change(|report| {
            let known = report.models.get_mut(&release.model);
            if let Some(progress) =
                known.filter(|progress| progress.counter == release.counter && progress.phase != "refused")
            {
                phase.clone_into(&mut progress.phase);
                progress.cause = cause;
            }
        });
    }

    /// Returns how far the last import has come.
    #[must_use]
    pub fn report(&self) -> ImportReport {
        self.lock().clone()
    }

    /// Returns the report once it is newer than `revision`. Cancel-safe.
    pub async fn newer_than(&self, revision: u64) -> ImportReport {
        let mut changes = self.revision.subscribe();
        // The desk holds the sender: it cannot be gone.
        let _ = changes.wait_for(|present| *present > revision).await;
        self.report()
    }

    fn lock(&self) -> MutexGuard<'_, ImportReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
