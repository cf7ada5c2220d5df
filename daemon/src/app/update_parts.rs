//! What the updater needs of the rest of the daemon: files from the importer, self-tests in workers.
//!
//! Joins the parts by the updater's traits; decides nothing. A step may be asked for twice and dropped at any moment.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::{Blobs, Digest, Package};
use dunlin_trust::Code;
use tokio::sync::oneshot;

use crate::board::BoardClass;
use crate::config::settings::InferenceSettings;
use crate::lanes::lane_index;
use crate::slot::{SelfTestFailure, SlotSpec, TryLedger, admit};
use crate::store::StoredRelease;
use crate::update::book::ReleaseBook;
use crate::update::import::ImportError;
use crate::update::import_desk::ImportDesk;
use crate::update::release::{Reason, SelfTest};
use crate::update::stage::{Admit, Fetch, Step, StepFailure};

/// Those who wait for the files of a release.
type Waiting = HashMap<Digest, Vec<oneshot::Sender<Result<Package, StepFailure>>>>;

/// Files by the importer's thread, and packages from the store's folder.
pub(crate) struct ReleaseFiles {
    desk: Arc<ImportDesk>,
    blobs: PathBuf,
    /// Which roots proofs may stand on.
    book: Arc<ReleaseBook>,
    waiting: Mutex<Waiting>,
}

impl ReleaseFiles {
    pub(crate) fn new(desk: Arc<ImportDesk>, blobs: PathBuf, book: Arc<ReleaseBook>) -> Self {
        Self { desk, blobs, book, waiting: Mutex::default() }
    }

    /// Tells those who wait what became of a release's files; returns how many did.
    pub(crate) fn arrived(&self, digest: Digest, arrived: &Result<Package, StepFailure>) -> usize {
        let waiting = self.lock().remove(&digest).into_iter().flatten();
        waiting.filter_map(|waiting| waiting.send(arrived.clone()).ok()).count()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns what an import's failure means for the release.
pub(crate) fn failure_of(error: &ImportError) -> StepFailure {
    match error {
        ImportError::Refused(refusal) if refusal.is(Code::Incompatible) => {
            StepFailure::Bad(Reason::Incompatible, refusal.to_string())
        }
        error => StepFailure::Later(Chain(error).to_string()),
    }
}

impl Fetch<Package> for ReleaseFiles {
    fn fetch(&self, _: &str, release: &StoredRelease) -> Step<Package> {
        let digest = release.release.digest;
        let (arrived, arrives) = oneshot::channel();
        self.lock().entry(digest).or_default().push(arrived);
        if let Err(why) = self.desk.fetch(digest) {
            self.arrived(digest, &Err(StepFailure::Later(why)));
        }
        Box::pin(async move {
            let gone = || StepFailure::Later("the importer has ended".to_owned());
            arrives.await.unwrap_or_else(|_| Err(gone()))
        })
    }

    fn open(&self, _: &str, release: &StoredRelease) -> Step<Package> {
        let root = Digest::of(release.evidence.root.as_bytes());
        let unfit = match self.book.accepts_root(&root) {
            Ok(true) => None,
            Ok(false) => {
                let why = "its proof stands on a root that was never trusted here".to_owned();
                Some(StepFailure::Damaged(why))
            }
            Err(error) => Some(StepFailure::Later(Chain(&error).to_string())),
        };
        if let Some(unfit) = unfit {
            return Box::pin(std::future::ready(Err(unfit)));
        }
        let (release, blobs) = (release.clone(), Blobs::ByDigest(self.blobs.clone()));
        let (opened, opens) = oneshot::channel();
        // Large files take seconds to hash, while the stages run on the thread of the caller.
        let thread = std::thread::Builder::new()
            .name("open-release".to_owned())
            .spawn(move || drop(opened.send(open(&release, &root, blobs))));
        Box::pin(async move {
            thread.map_err(|error| StepFailure::Later(format!("the system gives no thread: {error}")))?;
            opens.await.unwrap_or_else(|_| Err(StepFailure::Later("it could not be checked".to_owned())))
        })
    }
}

fn open(release: &StoredRelease, root: &Digest, blobs: Blobs) -> Result<Package, StepFailure> {
    let damaged = |error: &dyn std::error::Error| StepFailure::Damaged(Chain(error).to_string());
    let file = release.evidence.verify(root, release.manifest.clone()).map_err(|error| damaged(&error))?;
    Package::open(file, blobs).map_err(|error| damaged(&error))
}

/// Self-tests in workers of their own.
pub(crate) struct SelfTests {
    worker_program: PathBuf,
    inference: InferenceSettings,
    board: BoardClass,
    tries: Arc<dyn TryLedger>,
}

impl SelfTests {
    pub(crate) fn new(
        worker_program: PathBuf,
        inference: InferenceSettings,
        tries: Arc<dyn TryLedger>,
    ) -> Self {
        Self { worker_program, inference, board: BoardClass::of_this_board(), tries }
    }
}

impl Admit<Package> for SelfTests {
    fn admit(&self, model: &str, package: &Package) -> Step<()> {
        let spec = SlotSpec {
            model: lane_index(0, 0),
            name: model.to_owned(),
            role: None,
            package: package.clone(),
            inference: self.inference.clone(),
            worker_program: self.worker_program.clone(),
            tries: Arc::clone(&self.tries),
        };
        let board = self.board.clone();
        Box::pin(async move {
            let admission = admit(&spec, &board).await.map_err(|failure| step_failure(&failure))?;
            let (predictions, p99) = (admission.golden.predictions, admission.p99);
            let memory = admission.resident_bytes_max;
            tracing::info!(model = spec.name, predictions, ?p99, memory, "release passed its self-test");
            Ok(())
        })
    }
}

/// Returns beyond what a package's windows count as slow on this board.
pub(crate) fn p99_budget(package: &Package) -> Option<Duration> {
    let budgets = &package.manifest().budgets.p99;
    BoardClass::of_this_board().budget(budgets).map(|(_, budget)| budget.as_duration())
}

fn step_failure(failure: &SelfTestFailure) -> StepFailure {
    let test = match failure {
        SelfTestFailure::Load(_) => SelfTest::Load,
        SelfTestFailure::Golden(_) => SelfTest::Golden,
        SelfTestFailure::Latency { .. } => SelfTest::Latency,
        SelfTestFailure::Memory(_) => SelfTest::Memory,
        SelfTestFailure::Crash(_) => SelfTest::Crash,
        SelfTestFailure::Deadline(_) => SelfTest::Deadline,
        SelfTestFailure::Unavailable(_) => return StepFailure::Later(failure.to_string()),
    };
    StepFailure::Bad(Reason::SelfTest(test), failure.to_string())
}
