//! A model on a thread of the daemon, for boards with very little memory.
//!
//! Keeps the deadline and turns panics into errors; cannot take a thread's memory or time away: one that overruns
//! its deadline is abandoned, and no more than a few are.

use std::sync::{Arc, mpsc as blocking};
use std::time::Duration;

use dunlin_model_package::Package;
use dunlin_pipeline::engine::{Engine, TractEngine};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::SlotSpec;
use super::runner::{Fault, LOAD_DEADLINE, warm_up_deadline};
use crate::flow::SlotJob;

/// Threads of one slot that may live at once: the running one and three that overran their deadline. Each may hold
/// a processor and a model for good.
const THREADS_MAX: usize = 4;

type Answer = Result<Vec<f32>, String>;

/// A thread that has loaded the model.
pub(super) struct WorkerThread {
    requests: blocking::Sender<(usize, Vec<f32>)>,
    answers: mpsc::Receiver<Answer>,
    output_values: usize,
}

impl WorkerThread {
    /// Starts a thread and has it load the model. `threads` is cloned into every thread of the slot.
    pub(super) async fn start(spec: &SlotSpec, threads: &Arc<()>) -> Result<Self, Fault> {
        if Arc::strong_count(threads) > THREADS_MAX {
            return Err(Fault::Refused(format!(
                "{THREADS_MAX} threads still run past their deadline; restart dunlind, or use isolation = \"process\""
            )));
        }
        let (requests, received) = blocking::channel();
        let (answer, answers) = mpsc::channel(1);
        let (package, batch_max) = (spec.package.clone(), spec.inference.batch_max);
        let alive = Arc::clone(threads);
        let output_values = spec.package.manifest().output_values();
        std::thread::Builder::new()
            .name(format!("slot-{}", spec.name).chars().take(15).collect())
            .spawn(move || {
                serve(&package, batch_max, &received, &answer);
                drop(alive);
            })
            .map_err(|error| Fault::Unstartable(format!("thread cannot start: {error}")))?;
        let mut worker = Self { requests, answers, output_values };
        worker.answer(LOAD_DEADLINE).await?;
        worker.answer(warm_up_deadline(spec)).await?;
        Ok(worker)
    }

    /// Runs a batch within a deadline.
    pub(super) async fn run(
        &mut self,
        batch: &[SlotJob],
        deadline: Duration,
    ) -> Result<Vec<Vec<f32>>, Fault> {
        let values = batch.iter().flat_map(|job| job.values.iter().copied()).collect();
        if self.requests.send((batch.len(), values)).is_err() {
            return Err(Fault::Crashed("thread has ended".to_owned()));
        }
        let outputs = self.answer(deadline).await?;
        Ok(outputs.chunks_exact(self.output_values.max(1)).map(<[f32]>::to_vec).collect())
    }

    async fn answer(&mut self, deadline: Duration) -> Result<Vec<f32>, Fault> {
        match timeout(deadline, self.answers.recv()).await {
            Ok(Some(answer)) => answer.map_err(Fault::Refused),
            Ok(None) => Err(Fault::Crashed("thread has ended".to_owned())),
            Err(_) => Err(Fault::Deadline(deadline)),
        }
    }
}

fn serve(
    package: &Package,
    batch_max: usize,
    requests: &blocking::Receiver<(usize, Vec<f32>)>,
    answer: &mpsc::Sender<Answer>,
) {
    let mut engine = match load(package, batch_max) {
        Ok(engine) => engine,
        Err(text) => {
            let _ = answer.blocking_send(Err(text));
            return;
        }
    };
    // Said twice, as a worker process does: loaded, and run for the first time.
    if answer.blocking_send(Ok(Vec::new())).is_err() {
        return;
    }
    engine.warm_up();
    if answer.blocking_send(Ok(Vec::new())).is_err() {
        return;
    }
    while let Ok((count, values)) = requests.recv() {
        let outputs = engine.run(count, &values).map_err(|error| error.to_string());
        if answer.blocking_send(outputs).is_err() {
            return;
        }
    }
}

fn load(package: &Package, batch_max: usize) -> Result<TractEngine, String> {
    TractEngine::load(package, batch_max).map_err(|error| error.to_string())
}
