//! One slot a model: its worker, the windows that wait for it, and what becomes of both.
//!
//! Takes windows in order and answers every one of them in that order, with outputs or with the reason why there
//! are none; never drops one. What a model does wrong costs its own slot alone. The stage submits, the results go
//! back to the stage over one channel for all slots.

pub mod admission;
pub mod confine;
pub mod ipc;
pub mod ledger;
mod process;
mod runner;
mod task;
mod thread;
pub mod worker;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dunlin_model_package::Package;
use dunlin_pipeline::prediction::ModelIndex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub use admission::{Admission, SelfTestFailure, admit};
pub use ledger::TryLedger;

use crate::config::settings::InferenceSettings;
use crate::flow::{self, SlotJob, SlotResult};
use crate::lanes::LaneRole;
use crate::metrics::{Metrics, SlotCounts};

/// What a slot runs and how.
#[derive(Clone)]
pub struct SlotSpec {
    /// Its lane.
    pub model: ModelIndex,
    /// Name of the model in metrics and logs.
    pub name: String,
    /// The lane's role; `None` while it is being prepared for one.
    pub role: Option<LaneRole>,
    /// Its package, whose files were checked.
    pub package: Package,
    /// How models are run.
    pub inference: InferenceSettings,
    /// The program whose command `worker` is the worker: the daemon's own.
    pub worker_program: PathBuf,
    /// Where starts are counted.
    pub tries: Arc<dyn TryLedger>,
}

/// What a slot is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// The model is being loaded; windows wait.
    Starting,
    /// The model runs.
    Ready,
    /// The model crashed or overran too often and waits to be started again; windows are answered `unavailable`.
    Waiting,
    /// The engine refuses the model; it is tried again rarely, windows are answered `unavailable`.
    Failed,
}

impl SlotState {
    /// Returns the state's text in metrics, status and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
        }
    }
}

/// A running slot. Dropping it lets the slot finish what was submitted and end by itself.
pub struct SlotHandle {
    jobs: mpsc::Sender<SlotJob>,
    state: watch::Receiver<SlotState>,
    faults: watch::Receiver<SlotFaults>,
    counts: Arc<ShownCounts>,
    task: JoinHandle<()>,
}

/// What went wrong in a slot since it was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotFaults {
    /// Ends of the worker by the model's doing, in a start or in a run.
    pub crashes: u64,
    /// Starts and runs that took longer than their deadline.
    pub deadline_overruns: u64,
    /// Errors that the engine returned.
    pub engine_errors: u64,
    /// Ends of the worker that somebody else caused.
    pub kills: u64,
    /// Starts that came to nothing before the model was in play: the board has no room for a worker.
    pub unstartable: u64,
    /// The last of all these, in words.
    pub last: Option<String>,
}

/// A slot's place among the counters: the model's name, with the role beside it where it does not serve.
struct ShownCounts {
    model: String,
    metrics: Arc<Metrics>,
    name: Mutex<Option<String>>,
}

impl ShownCounts {
    fn new(spec: &SlotSpec, metrics: Arc<Metrics>) -> Self {
        let name = shown_name(&spec.name, spec.role);
        Self { model: spec.name.clone(), metrics, name: Mutex::new(Some(name)) }
    }

    fn change(&self, change: impl FnOnce(&mut SlotCounts)) {
        if let Some(name) = &*self.name.lock().unwrap_or_else(PoisonError::into_inner) {
            self.metrics.slot(name, change);
        }
    }

    fn show_as(&self, role: Option<LaneRole>) {
        let mut name = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        let new = shown_name(&self.model, role);
        if let Some(old) = name.as_deref().filter(|old| *old != new) {
            self.metrics.rename_slot(old, &new);
            *name = Some(new);
        }
    }

    fn hide(&self) {
        if let Some(name) = self.name.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.metrics.forget_slot(&name);
        }
    }
}

/// Returns the name under which the counts of a model's slot are shown.
#[must_use]
pub fn shown_name(model: &str, role: Option<LaneRole>) -> String {
    match role {
        Some(LaneRole::Serving) => model.to_owned(),
        Some(role) => format!("{model} ({})", role.as_str()),
        None => format!("{model} (candidate)"),
    }
}

/// Starts a slot on the current tokio runtime, which must have I/O and time. Workers end with the thread that
/// starts them, so the runtime must be a `current_thread` one on a thread that lives as long as the daemon.
#[must_use]
pub fn spawn_slot(
    spec: SlotSpec,
    results: mpsc::Sender<Vec<SlotResult>>,
    metrics: Arc<Metrics>,
) -> SlotHandle {
    let (jobs, waiting) = mpsc::channel(flow::WINDOWS_PER_SLOT);
    let (announce, state) = watch::channel(SlotState::Starting);
    let (noted, faults) = watch::channel(SlotFaults::default());
    let counts = Arc::new(ShownCounts::new(&spec, metrics));
    let slot = task::SlotTask::new(spec, results, Arc::clone(&counts), (announce, noted));
    let task = tokio::spawn(slot.run(waiting));
    SlotHandle { jobs, state, faults, counts, task }
}

impl SlotHandle {
    /// Hands a window to the slot.
    ///
    /// *Errors*: gives the window back where [`flow::WINDOWS_PER_SLOT`] wait already; the caller tries again after
    /// the next result.
    pub fn try_submit(&self, job: SlotJob) -> Result<(), SlotJob> {
        self.jobs.try_send(job).map_err(mpsc::error::TrySendError::into_inner)
    }

    /// Returns how many more windows the slot takes at the moment.
    #[must_use]
    pub fn room(&self) -> usize {
        self.jobs.capacity()
    }

    /// Returns what the slot is doing.
    #[must_use]
    pub fn state(&self) -> SlotState {
        *self.state.borrow()
    }

    /// Waits until the model was loaded or refused for the first time, and returns what the slot does then.
    pub async fn ready(&self) -> SlotState {
        let mut state = self.state.clone();
        state.wait_for(|state| *state != SlotState::Starting).await.map_or(SlotState::Failed, |state| *state)
    }

    /// Returns what went wrong so far, as it changes.
    #[must_use]
    pub fn faults(&self) -> watch::Receiver<SlotFaults> {
        self.faults.clone()
    }

    /// Shows the slot's counts in this role; `None` is that of a candidate.
    pub fn show_as(&self, role: Option<LaneRole>) {
        self.counts.show_as(role);
    }

    /// Changes the slot's counts.
    pub(crate) fn count(&self, change: impl FnOnce(&mut SlotCounts)) {
        self.counts.change(change);
    }

    /// Shows the slot's counts no longer.
    pub fn hide(&self) {
        self.counts.hide();
    }

    /// Ends the slot at once and kills its worker, whatever it is doing; windows without a result get none. A thread
    /// cannot be killed: it ends with its run.
    pub fn abandon(self) {
        self.counts.hide();
        self.task.abort();
    }

    /// Runs what was submitted and ends the slot; after `deadline` kills the worker, and windows without a result
    /// get none. The receiver of the results must go on taking them meanwhile.
    pub async fn shutdown(self, deadline: Duration) {
        let Self { jobs, mut task, .. } = self;
        drop(jobs);
        if tokio::time::timeout(deadline, &mut task).await.is_err() {
            task.abort();
            let _ = task.await;
        }
    }
}
