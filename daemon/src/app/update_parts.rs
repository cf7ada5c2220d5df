//! What the updater needs of the rest of the daemon: files from the importer, self-tests in workers, lanes of the stage.
//!
//! Joins the parts by the updater's traits; decides nothing. A step may be asked for twice and dropped at any moment.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::package::MANIFEST_BYTES_MAX;
use dunlin_model_package::{Blobs, Digest, ModelSpec, Package};
use tokio::sync::{mpsc, oneshot, watch};

use super::lane_control::{LaneControl, binding};
use crate::board::BoardClass;
use crate::config::settings::InferenceSettings;
use crate::lanes::{Arrangement, LANES_PER_MODEL, LaneCounts, LaneFill, LanePlan, lane_index};
use crate::slot::admission::{Admission, SelfTestFailure, admit};
use crate::slot::ledger::START_REFUSED;
use crate::slot::{SlotHandle, SlotSpec, SlotState, TryLedger};
use crate::store::StoredRelease;
use crate::update::import::ImportError;
use crate::update::import_desk::ImportDesk;
use crate::update::release::{Reason, SelfTest};
use crate::update::stage::{Admit, Fetch, LaneOrder, Stage, Step, StepFailure};

/// How long a slot may take to load a model that passed its self-test.
const LOAD_MAX: Duration = Duration::from_secs(60);

/// Those who wait for the files of a release.
type Waiting = HashMap<Digest, Vec<oneshot::Sender<Result<Package, StepFailure>>>>;

/// Files by the importer's thread, and packages from the store's folder.
pub(crate) struct ReleaseFiles {
    desk: Arc<ImportDesk>,
    blobs: PathBuf,
    anchors: watch::Receiver<Anchors>,
    waiting: Mutex<Waiting>,
}

/// The roots that evidence may stand on.
#[derive(Debug, Clone)]
pub(crate) enum Anchors {
    /// These.
    Trusted(Vec<Digest>),
    /// Nobody knows: `state.db` is lost. What runs is the copy that was kept beside it, and stands on itself.
    Lost,
}

impl ReleaseFiles {
    pub(crate) fn new(desk: Arc<ImportDesk>, blobs: PathBuf, anchors: watch::Receiver<Anchors>) -> Self {
        Self { desk, blobs, anchors, waiting: Mutex::default() }
    }

    /// Tells those who wait what became of a release's files.
    pub(crate) fn arrived(&self, digest: Digest, arrived: &Result<Package, StepFailure>) {
        for waiting in self.lock().remove(&digest).into_iter().flatten() {
            let _ = waiting.send(arrived.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns what an import's failure means for the release.
pub(crate) fn failure_of(error: &ImportError) -> StepFailure {
    match error {
        ImportError::Refused(refusal) if refusal.code == "incompatible" => {
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
        let trusted = match &*self.anchors.borrow() {
            Anchors::Trusted(anchors) => anchors.contains(&root),
            Anchors::Lost => true,
        };
        let opened = if trusted {
            open(release, &root, Blobs::ByDigest(self.blobs.clone()))
        } else {
            Err(StepFailure::Damaged("its proof stands on a root that was never trusted here".to_owned()))
        };
        Box::pin(std::future::ready(opened))
    }
}

fn open(release: &StoredRelease, root: &Digest, blobs: Blobs) -> Result<Package, StepFailure> {
    debug_assert!(release.manifest.len() as u64 <= MANIFEST_BYTES_MAX);
    let damaged = |error: &dyn std::error::Error| StepFailure::Damaged(Chain(error).to_string());
    let file = release.evidence.verify(root, release.manifest.clone()).map_err(|error| damaged(&error))?;
    Package::open(file, blobs).map_err(|error| damaged(&error))
}

/// Self-tests in workers of their own; the worker of one that passed is kept for the slot.
pub(crate) struct SelfTests {
    worker_program: PathBuf,
    inference: InferenceSettings,
    board: BoardClass,
    tries: Arc<dyn TryLedger>,
    passed: Arc<Mutex<Option<(Digest, Admission)>>>,
}

impl SelfTests {
    pub(crate) fn new(worker_program: PathBuf, inference: InferenceSettings, tries: Arc<dyn TryLedger>) -> Self {
        let board = BoardClass::of_this_board();
        Self { worker_program, inference, board, tries, passed: Arc::default() }
    }

    /// Gives the worker of a release that passed away, if it is the last one that did. The worker of another goes.
    fn take(&self, digest: &Digest) -> Option<Admission> {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner).take();
        passed.filter(|(of, _)| of == digest).map(|(_, admission)| admission)
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
        let (board, passed) = (self.board, Arc::clone(&self.passed));
        Box::pin(async move {
            let admission = admit(&spec, &board).await.map_err(|failure| step_failure(&failure))?;
            tracing::info!(model = spec.name, ?admission, "release passed its self-test");
            let kept = (spec.package.digest(), admission);
            let before = passed.lock().unwrap_or_else(PoisonError::into_inner).replace(kept);
            drop(before);
            Ok(())
        })
    }
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

/// The lanes of one generation.
pub(crate) struct GenerationLanes {
    control: LaneControl,
    models: Vec<ModelSpec>,
    tests: Arc<SelfTests>,
}

impl GenerationLanes {
    pub(crate) const fn new(control: LaneControl, models: Vec<ModelSpec>, tests: Arc<SelfTests>) -> Self {
        Self { control, models, tests }
    }
}

/// A loaded model on its way into a lane. One that never gets there is ended.
pub(crate) struct LoadedModel(Option<Box<LaneFill>>);

impl Drop for LoadedModel {
    fn drop(&mut self) {
        if let Some(fill) = self.0.take() {
            fill.slot.abandon();
        }
    }
}

impl Stage for GenerationLanes {
    type Package = Package;
    type Fill = LoadedModel;

    fn counts(&self) -> watch::Receiver<Vec<LaneCounts>> {
        self.control.counts.clone()
    }

    fn load(&self, model: usize, lane: usize, package: &Package) -> Step<LoadedModel> {
        let spec = &self.models[model];
        let (name, digest) = (spec.name.clone(), package.digest());
        let slots = &self.control.slots;
        let index = lane_index(model, lane);
        let slot = match self.tests.take(&digest) {
            // The worker runs already: its start is counted before it sees a live reading.
            Some(_) if slots.tries.record_start(&name, &digest) == START_REFUSED => None,
            Some(admission) => Some(slots.start_admitted(index, &name, package.clone(), admission)),
            None => Some(slots.start(index, &name, package.clone(), None)),
        };
        let p99_budget = self.tests.board.budget(&package.manifest().budgets.p99).map(|(_, span)| span.as_duration());
        let fill = slot.map(|slot| LaneFill { binding: binding(spec, package), slot, p99_budget });
        let mut loaded = LoadedModel(fill.map(Box::new));
        Box::pin(async move {
            let Some(fill) = &mut loaded.0 else {
                return Err(StepFailure::Later("its start is refused".to_owned()));
            };
            match ready_state(&fill.slot).await {
                Some(SlotState::Ready) => Ok(loaded),
                _ => {
                    let last = fill.slot.faults().borrow().last.clone();
                    let detail = last.unwrap_or_else(|| "it does not become ready".to_owned());
                    Err(StepFailure::Bad(Reason::SelfTest(SelfTest::Load), detail))
                }
            }
        })
    }

    fn arrange(&self, model: usize, lanes: [LaneOrder<LoadedModel>; LANES_PER_MODEL]) -> Step<()> {
        let lanes = lanes.map(|order| match order {
            LaneOrder::Empty(leaving) => LanePlan::Empty(leaving),
            LaneOrder::Keep(role) => LanePlan::Keep(role),
            LaneOrder::Fill(role, mut loaded) => match loaded.0.take() {
                Some(fill) => LanePlan::Fill(role, fill),
                None => LanePlan::Empty(crate::lanes::Leaving::Abandon),
            },
        });
        let (done, arranged) = oneshot::channel();
        let sender: mpsc::Sender<Arrangement> = self.control.arrangements.clone();
        Box::pin(async move {
            let refused = || StepFailure::Later("the stage does not take it".to_owned());
            sender.send(Arrangement { model, lanes, done }).await.map_err(|_| refused())?;
            arranged.await.map_err(|_| refused())
        })
    }
}

async fn ready_state(slot: &SlotHandle) -> Option<SlotState> {
    tokio::time::timeout(LOAD_MAX, slot.ready()).await.ok()
}
