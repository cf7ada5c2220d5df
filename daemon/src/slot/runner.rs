//! One loaded model, in a worker process or on a thread, behind one face.
//!
//! Starts, asks and ends it; never retries and never answers windows. The slot decides what a fault means.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::SlotSpec;
use super::process::WorkerProcess;
use super::thread::WorkerThread;
use crate::config::settings::Isolation;
use crate::flow::SlotJob;

/// Longest load of a model: 512 MiB, the largest one, from an SD card at 20 MB/s.
pub(super) const LOAD_DEADLINE: Duration = Duration::from_secs(30);

/// How many deadlines of one batch the first runs may take together: one run of each of three batch sizes, with cold
/// caches.
const WARM_UP_DEADLINES: u32 = 10;

/// Returns the longest time that a model's first runs may take.
pub(super) fn warm_up_deadline(spec: &SlotSpec) -> Duration {
    spec.package
        .manifest()
        .budgets
        .deadline
        .as_duration()
        .saturating_mul(WARM_UP_DEADLINES)
        .min(LOAD_DEADLINE)
}

/// Why a start or a run gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The engine returned an error; the worker can be used again after a run, not after a load.
    Refused(String),
    /// The deadline passed; the worker is gone.
    Deadline(Duration),
    /// Somebody else killed the worker.
    Killed,
    /// No worker could be started, whatever the model.
    Unstartable(String),
    /// The worker is gone by the model's doing.
    Crashed(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::Deadline(deadline) => {
                write!(f, "the model took longer than its deadline of {} ms", deadline.as_millis())
            }
            Self::Killed => f.write_str("the worker was killed from outside"),
            Self::Crashed(how) | Self::Unstartable(how) => write!(f, "the worker {how}"),
        }
    }
}

/// A model that is loaded and can be run.
pub(super) enum Runner {
    Process(Box<WorkerProcess>),
    Thread(WorkerThread),
}

impl Runner {
    /// Loads the model. `threads` counts the threads of this slot that live.
    pub(super) async fn start(spec: &SlotSpec, threads: &Arc<()>) -> Result<Self, Fault> {
        match spec.inference.isolation {
            Isolation::Process => {
                WorkerProcess::start(spec).await.map(|worker| Self::Process(Box::new(worker)))
            }
            Isolation::Thread => WorkerThread::start(spec, threads).await.map(Self::Thread),
        }
    }

    /// Runs a batch; the outputs of each window in order. After any fault but [`Fault::Refused`] the runner is
    /// useless and is to be dropped.
    pub(super) async fn run(
        &mut self,
        batch: &[SlotJob],
        deadline: Duration,
    ) -> Result<Vec<Vec<f32>>, Fault> {
        match self {
            Self::Process(worker) => worker.run(batch, deadline).await,
            Self::Thread(worker) => worker.run(batch, deadline).await,
        }
    }

    /// Waits until the runner ends by itself, without being asked anything. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Fault {
        match self {
            Self::Process(worker) => worker.ended().await,
            Self::Thread(_) => std::future::pending().await,
        }
    }

    /// Returns the process id; 0 for a thread.
    pub(super) fn pid(&self) -> u32 {
        match self {
            Self::Process(worker) => worker.pid(),
            Self::Thread(_) => 0,
        }
    }

    /// Ends the runner and waits for a process to be gone.
    pub(super) async fn stop(self) {
        if let Self::Process(worker) = self {
            worker.stop().await;
        }
    }
}
