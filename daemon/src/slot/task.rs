//! A slot's life: batch what waits, run it, try again after a fault, back off when that does not help.
//!
//! Decides what a fault means; never touches a process itself. A fault costs a restart and a try; windows that fail
//! every try together are tried one by one, so that only the poisonous one is given up. A worker that is killed from
//! outside costs its windows no try.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dunlin_kit::backoff::{Backoff, random_unit};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::ledger::START_REFUSED;
use super::runner::{Fault, Runner};
use super::{ShownCounts, SlotFaults, SlotSpec, SlotState, confine, ipc};
use crate::flow::{SlotFailure, SlotJob, SlotResult};

/// Kills from outside, in a row without a run between, that are taken for an operator's. Beyond it they are taken
/// for the kernel's, short of memory, and starting again at once would make that worse.
const OUTSIDE_KILLS_MAX: u32 = 32;
/// Windows given up in a row after which the model, and not the windows, is at fault.
const GIVEN_UP_IN_ROW_MAX: u32 = 3;
/// Why a slot rests whose starts the ledger refuses.
const TRIES_USED_UP: &str = "its tries are used up";
/// First wait of a failing slot.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// How often the worker's resident memory is read.
const MEMORY_INTERVAL: Duration = Duration::from_secs(10);

/// What is known of the model.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nothing yet in this life of the daemon.
    New,
    /// Its last start or run went well, or what went wrong is being tried again.
    Good,
    /// It waits before the next start, and windows do not wait for it.
    Failing(SlotState),
}

enum Event {
    Windows,
    Closed,
    Ended(Fault),
    Interval,
}

/// The task of one slot.
pub(super) struct SlotTask {
    spec: SlotSpec,
    results: mpsc::Sender<Vec<SlotResult>>,
    counts: Arc<ShownCounts>,
    state: watch::Sender<SlotState>,
    faults: watch::Sender<SlotFaults>,
    runner: Option<Runner>,
    threads: Arc<()>,
    batch_max: usize,
    backoff: Backoff,
    standing: Standing,
    /// Failed starts in a row.
    failed_starts: u32,
    /// Ends of the worker outside a run, or from outside, since the last good run.
    kills: u32,
    /// Windows given up since the last good run.
    given_up: u32,
}

impl SlotTask {
    pub(super) fn new(
        spec: SlotSpec,
        results: mpsc::Sender<Vec<SlotResult>>,
        counts: Arc<ShownCounts>,
        (state, faults): (watch::Sender<SlotState>, watch::Sender<SlotFaults>),
    ) -> Self {
        let manifest = spec.package.manifest();
        let window_values = manifest.inputs.iter().map(|input| input.values()).sum();
        let per_frame = ipc::windows_per_frame(window_values, manifest.output_values());
        counts.change(|counts| {
            counts.version.clone_from(&manifest.version);
            counts.digest = spec.package.digest().to_string();
            counts.state = SlotState::Starting.as_str().to_owned();
        });
        Self {
            batch_max: spec.inference.batch_max.clamp(1, per_frame),
            backoff: Backoff::new(BACKOFF_FIRST, spec.inference.restart_max.max(BACKOFF_FIRST)),
            spec,
            results,
            counts,
            state,
            faults,
            runner: None,
            threads: Arc::new(()),
            standing: Standing::New,
            failed_starts: 0,
            kills: 0,
            given_up: 0,
        }
    }

    /// Lives until the sender of the windows is dropped and the last window is answered.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<SlotJob>) {
        let mut batch = Vec::with_capacity(self.batch_max.min(1_024));
        let mut memory = interval_at(Instant::now() + MEMORY_INTERVAL, MEMORY_INTERVAL);
        memory.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let Some(mut runner) = self.runner.take() else {
                if self.recover(&mut jobs).await {
                    continue;
                } else {
                    break;
                };
            };
            let event = tokio::select! {
                count = jobs.recv_many(&mut batch, self.batch_max) => {
                    if count == 0 { Event::Closed } else { Event::Windows }
                }
                fault = runner.ended() => Event::Ended(fault),
                _ = memory.tick() => Event::Interval,
            };
            self.runner = Some(runner);
            match event {
                Event::Windows => self.answer_batch(&mut batch).await,
                Event::Closed => break,
                Event::Ended(fault) => {
                    self.runner = None;
                    self.count_fault(&fault);
                    self.note_kill(&fault);
                }
                Event::Interval => self.observe_memory(),
            }
        }
        if let Some(runner) = self.runner.take() {
            runner.stop().await;
        }
    }

    /// Starts the model, after a wait where it is failing; false where nobody sends windows any more.
    async fn recover(&mut self, jobs: &mut mpsc::Receiver<SlotJob>) -> bool {
        let starts = self.spec.tries.record_start(&self.spec.name, &self.spec.package.digest());
        if starts == START_REFUSED {
            self.fail(SlotState::Waiting, TRIES_USED_UP);
            self.announce(SlotState::Waiting);
            self.refuse_during(jobs, std::future::pending::<()>()).await;
            return false;
        }
        if self.standing == Standing::New && starts > self.spec.inference.tries {
            self.fail(
                SlotState::Waiting,
                &format!("was started {} times without becoming ready", starts - 1),
            );
        }
        let Standing::Failing(state) = self.standing else {
            self.start().await;
            return true;
        };
        self.announce(state);
        let wait = match state {
            // The engine's refusal does not change with time; only the file or the board's memory may.
            SlotState::Failed => self.spec.inference.restart_max.max(BACKOFF_FIRST),
            _ => self.backoff.next_wait(random_unit()),
        };
        tracing::warn!(model = %self.spec.name, wait_ms = wait.as_millis() as u64, "slot waits to be started again");
        if self.refuse_during(jobs, tokio::time::sleep(wait)).await.is_none() {
            return false;
        }
        let (spec, threads) = (self.spec.clone(), Arc::clone(&self.threads));
        let Some(started) = self.refuse_during(jobs, Runner::start(&spec, &threads)).await else {
            return false;
        };
        self.note_start(started);
        true
    }

    /// Answers every window `unavailable` until `work` is done; `None` where nobody sends windows any more.
    async fn refuse_during<T>(
        &mut self,
        jobs: &mut mpsc::Receiver<SlotJob>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::pin!(work);
        let mut refused = Vec::new();
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                count = jobs.recv_many(&mut refused, self.batch_max) => {
                    if count == 0 {
                        return None;
                    }
                    let tickets = refused.drain(..).map(|job| job.ticket).collect();
                    self.send_failure(tickets, SlotFailure::Unavailable).await;
                }
            }
        }
    }

    async fn start(&mut self) {
        let started = Runner::start(&self.spec, &self.threads).await;
        self.note_start(started);
    }

    fn note_start(&mut self, started: Result<Runner, Fault>) {
        self.counts.change(|counts| counts.starts += 1);
        match started {
            Ok(runner) => {
                self.spec.tries.record_ready(&self.spec.name, &self.spec.package.digest());
                self.failed_starts = 0;
                self.standing = Standing::Good;
                let pid = runner.pid();
                self.runner = Some(runner);
                self.counts.change(|counts| counts.pid = pid);
                self.observe_memory();
                self.announce(SlotState::Ready);
                tracing::info!(model = %self.spec.name, pid, "model is loaded");
            }
            Err(fault) => {
                self.count_fault(&fault);
                self.failed_starts += 1;
                match &fault {
                    Fault::Refused(why) => self.fail(SlotState::Failed, why),
                    Fault::Killed if self.kills < OUTSIDE_KILLS_MAX => self.note_kill(&fault),
                    _ if self.failed_starts >= self.spec.inference.tries => {
                        self.fail(SlotState::Waiting, &fault.to_string());
                    }
                    _ => self.note_error(&fault.to_string()),
                }
            }
        }
    }

    fn count_fault(&self, fault: &Fault) {
        self.faults.send_modify(|faults| {
            *match fault {
                Fault::Refused(_) => &mut faults.engine_errors,
                Fault::Deadline(_) => &mut faults.deadline_overruns,
                Fault::Killed => &mut faults.kills,
                Fault::Unstartable(_) => &mut faults.unstartable,
                Fault::Crashed(_) => &mut faults.crashes,
            } += 1;
            faults.last = Some(fault.to_string());
        });
    }

    /// An end of the worker that no window is to blame for.
    fn note_kill(&mut self, fault: &Fault) {
        self.kills += 1;
        if self.kills > OUTSIDE_KILLS_MAX {
            self.fail(SlotState::Waiting, &fault.to_string());
        } else {
            self.standing = Standing::Good;
            self.note_error(&fault.to_string());
        }
    }

    fn note_error(&self, error: &str) {
        tracing::warn!(model = %self.spec.name, error, "model's worker failed");
        self.counts.change(|counts| counts.last_error = Some(error.to_owned()));
    }

    fn fail(&mut self, state: SlotState, error: &str) {
        self.note_error(error);
        self.standing = Standing::Failing(state);
    }

    fn announce(&self, state: SlotState) {
        self.counts.change(|counts| {
            state.as_str().clone_into(&mut counts.state);
            if state != SlotState::Ready {
                (counts.pid, counts.resident_bytes) = (0, 0);
            }
        });
        self.state.send_if_modified(|current| std::mem::replace(current, state) != state);
    }

    fn observe_memory(&self) {
        let pid = self.runner.as_ref().map_or(0, Runner::pid);
        let resident = if pid == 0 { None } else { confine::resident_bytes(pid) };
        self.counts.change(|counts| counts.resident_bytes = resident.unwrap_or(0));
    }

    /// Runs the windows of `batch` and answers each; leaves it empty.
    async fn answer_batch(&mut self, batch: &mut Vec<SlotJob>) {
        match self.try_windows(batch).await {
            Ok(outputs) => {
                let tickets: Vec<u64> = batch.drain(..).map(|job| job.ticket).collect();
                self.send_outputs(tickets, outputs).await;
            }
            Err(SlotFailure::Unavailable) => {
                let tickets = batch.drain(..).map(|job| job.ticket).collect();
                self.send_failure(tickets, SlotFailure::Unavailable).await;
            }
            Err(failure) if batch.len() == 1 => {
                self.note_given_up(failure);
                let tickets = batch.drain(..).map(|job| job.ticket).collect();
                self.send_failure(tickets, failure).await;
            }
            Err(_) => {
                for job in batch.drain(..) {
                    self.answer_alone(job).await;
                }
            }
        }
    }

    async fn answer_alone(&mut self, job: SlotJob) {
        let ticket = job.ticket;
        if matches!(self.standing, Standing::Failing(_)) {
            return self.send_failure(vec![ticket], SlotFailure::Unavailable).await;
        }
        match self.try_windows(std::slice::from_ref(&job)).await {
            Ok(outputs) => self.send_outputs(vec![ticket], outputs).await,
            Err(failure) => {
                self.note_given_up(failure);
                self.send_failure(vec![ticket], failure).await;
            }
        }
    }

    /// Counts a window that was given up; after some in a row the model itself is failing.
    fn note_given_up(&mut self, failure: SlotFailure) {
        if !matches!(failure, SlotFailure::Crashed | SlotFailure::Deadline) {
            return;
        }
        self.given_up += 1;
        if self.given_up >= GIVEN_UP_IN_ROW_MAX {
            self.runner = None;
            self.fail(
                SlotState::Waiting,
                &format!("{} windows in a row failed: {}", self.given_up, failure.as_str()),
            );
        }
    }

    /// Runs windows together, with a new worker after each fault, as often as the tries allow.
    async fn try_windows(&mut self, batch: &[SlotJob]) -> Result<Vec<Vec<f32>>, SlotFailure> {
        let deadline = self.spec.package.manifest().budgets.deadline.as_duration();
        let mut faults = 0;
        loop {
            while self.runner.is_none() {
                if matches!(self.standing, Standing::Failing(_)) {
                    return Err(SlotFailure::Unavailable);
                }
                let starts = self.spec.tries.record_start(&self.spec.name, &self.spec.package.digest());
                if starts == START_REFUSED {
                    self.fail(SlotState::Waiting, TRIES_USED_UP);
                    continue;
                }
                self.start().await;
            }
            let Some(runner) = self.runner.as_mut() else { continue };
            let result = runner.run(batch, deadline).await;
            self.counts.change(|counts| counts.runs += 1);
            if let Err(fault) = &result {
                self.count_fault(fault);
            }
            let fault = match result {
                Ok(outputs) => {
                    (self.kills, self.given_up) = (0, 0);
                    self.backoff.reset();
                    return Ok(outputs);
                }
                Err(Fault::Refused(why)) => {
                    self.counts.change(|counts| counts.last_error = Some(why));
                    return Err(SlotFailure::Engine);
                }
                Err(fault) => fault,
            };
            self.runner = None;
            if fault == Fault::Killed && self.kills < OUTSIDE_KILLS_MAX {
                self.note_kill(&fault);
                continue;
            }
            self.note_error(&fault.to_string());
            faults += 1;
            if faults >= self.spec.inference.tries {
                let overran = matches!(fault, Fault::Deadline(_));
                return Err(if overran { SlotFailure::Deadline } else { SlotFailure::Crashed });
            }
        }
    }

    async fn send_outputs(&self, mut tickets: Vec<u64>, outputs: Vec<Vec<f32>>) {
        // The engine answers every window; one without an answer would hold up the stage for ever.
        let unanswered = tickets.split_off(outputs.len().min(tickets.len()));
        self.counts.change(|counts| counts.windows += tickets.len() as u64);
        let model = self.spec.model;
        let results = tickets.into_iter().zip(outputs);
        let results = results.map(|(ticket, outputs)| SlotResult { model, ticket, outputs: Ok(outputs) });
        // Without a receiver the daemon is ending; the sender of the windows follows.
        let _ = self.results.send(results.collect()).await;
        if !unanswered.is_empty() {
            self.send_failure(unanswered, SlotFailure::Engine).await;
        }
    }

    async fn send_failure(&self, tickets: Vec<u64>, failure: SlotFailure) {
        self.counts.change(|counts| {
            *counts.failed.entry(failure.as_str()).or_default() += tickets.len() as u64;
        });
        let model = self.spec.model;
        let results = tickets.into_iter().map(|ticket| SlotResult { model, ticket, outputs: Err(failure) });
        let _ = self.results.send(results.collect()).await;
    }
}
