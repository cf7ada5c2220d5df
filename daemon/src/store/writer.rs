//! The writer's thread: takes steps, commits them when the policy says so, then releases their acknowledgements.
//!
//! Never acknowledges before the commit, never blocks on a broker. Between commits it runs retention. A full or
//! read-only disk costs history, not inference: steps are then counted as lost and let go.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use dunlin_kit::backoff::{Backoff, random_unit};
use dunlin_kit::clock::monotonic_micros;
use dunlin_kit::error_chain::Chain;
use tokio::sync::{mpsc, oneshot, watch};

use super::ledger;
use super::open::{PendingBatch, Store};
use super::outbox::OutboxOrder;
use super::policy::{CommitPolicy, Decision, ROWS_MAX};
use super::queue::{Received, Receiver};
use super::reserve::Space;
use super::retention::{Pressure, Retention, Turn};
use super::{FailureClass, StoreError, TELEMETRY_FILE, schema};
use crate::flow::{AckToken, Loss, Step};
use crate::metrics::Metrics;

/// A commit that fails for input or output is tried so often, over some 8 s, before the thread gives up.
const ATTEMPTS_MAX: u32 = 8;
/// While the disk is full or read-only, it is tried again at this interval.
const STALL_US: i64 = 5_000_000;
/// Retention, metrics and the file system's room are looked at no more often than this.
const LOOK_US: i64 = 1_000_000;
/// Acknowledgements that found a connection's queue full are offered again after this.
const ACK_RETRY_US: i64 = 5_000;
/// Retention turns for one failed commit.
const ROOM_TURNS_MAX: u32 = 64;
/// Below this much room the file system, not the quota, made a commit fail.
const FULL_BYTES: u64 = 512 << 10;
/// Longest check of a large log beside the running daemon.
const CHECK_US_MAX: i64 = 60_000_000;

/// What the writer is told.
#[derive(Debug)]
pub enum WriterCommand {
    /// Store a step, then acknowledge its messages.
    Step(Step),
    /// Commit what has arrived, then answer.
    Flush(oneshot::Sender<()>),
    /// Enter a loss.
    Loss(Loss),
    /// The arrival clock moved: from this monotonic time on, wall minus monotonic time is `offset_us`.
    ClockStep {
        /// Microseconds since boot.
        mono_us: i64,
        /// The new offset.
        offset_us: i64,
    },
    /// A reader found this batch damaged.
    Quarantine(i64),
    /// Something for what travels to a fleet server.
    Outbox(OutboxOrder),
    /// Commit what has arrived and end.
    Stop,
}

/// What the writer works with.
#[derive(Debug)]
pub struct WriterSettings {
    /// Where acknowledgements go, by broker.
    pub acks: Vec<mpsc::Sender<Vec<AckToken>>>,
    /// Unacknowledged messages that all brokers together may send.
    pub in_flight_max: usize,
    /// Last prediction whose publication the broker acknowledged; stored with each commit.
    pub published_through: Arc<AtomicU64>,
    /// Told the last prediction that is on disk, or was given up.
    pub committed: watch::Sender<u64>,
    /// Set while retention needs a newer checkpoint; the stage answers by saving one.
    pub checkpoint_wanted: Arc<AtomicBool>,
}

/// Starts the writer's thread.
///
/// The thread ends after [`WriterCommand::Stop`], or when all senders are gone; with an error when the log cannot be
/// used any more: the daemon then stops and is started anew.
///
/// *Errors*: no thread could be started.
pub fn spawn_writer(
    store: Store,
    commands: Receiver<WriterCommand>,
    settings: WriterSettings,
    metrics: Arc<Metrics>,
) -> io::Result<JoinHandle<Result<(), StoreError>>> {
    std::thread::Builder::new()
        .name("store-writer".to_owned())
        .spawn(move || Writer::new(store, commands, settings, metrics).run())
}

/// A check of a large log that runs beside the writer.
struct BackgroundCheck {
    interrupt: rusqlite::InterruptHandle,
    thread: JoinHandle<Result<(), StoreError>>,
    until_us: i64,
}

struct Writer {
    store: Store,
    commands: Receiver<WriterCommand>,
    settings: WriterSettings,
    metrics: Arc<Metrics>,
    policy: CommitPolicy,
    retention: Retention,
    pending: PendingBatch,
    /// Acknowledgements that wait for room in a connection's queue, by broker.
    unsent: Vec<Vec<AckToken>>,
    /// Until when the disk is not tried again, and why.
    stalled: Option<(i64, &'static str)>,
    look_us: i64,
    retention_due: bool,
    check: Option<BackgroundCheck>,
}

/// Whether the loop goes on.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    End,
}

impl Writer {
    fn new(
        store: Store,
        commands: Receiver<WriterCommand>,
        settings: WriterSettings,
        metrics: Arc<Metrics>,
    ) -> Self {
        let policy = CommitPolicy::new(store.settings.commit, settings.in_flight_max.max(1));
        let unsent = settings.acks.iter().map(|_| Vec::new()).collect();
        let check = if store.check_beside { start_check(&store) } else { None };
        Self {
            store,
            commands,
            settings,
            metrics,
            policy,
            retention: Retention::default(),
            pending: PendingBatch::default(),
            unsent,
            stalled: None,
            look_us: 0,
            retention_due: true,
            check,
        }
    }

    fn run(mut self) -> Result<(), StoreError> {
        let result = self.work();
        if let Err(e) = &result {
            if e.class() == FailureClass::Damaged {
                Store::mark_suspect(&self.store.folder);
            }
            let text = Chain(e).to_string();
            tracing::error!(error = %text, "the telemetry log cannot be used any more");
            self.metrics.store(|s| (s.state, s.last_error) = ("failing".to_owned(), Some(text)));
        }
        if let Some(check) = self.check.take() {
            check.interrupt.interrupt();
        }
        result
    }

    fn work(&mut self) -> Result<(), StoreError> {
        if self.store.memory_only {
            self.note_state("read_only", "the state folder cannot be written");
        } else {
            self.metrics.store(|s| s.state = "ok".to_owned());
        }
        self.look()?;
        loop {
            let now = monotonic_micros();
            let until = match self.policy.decide(now) {
                Decision::Commit => {
                    self.commit()?;
                    continue;
                }
                Decision::WaitUntil(at) => at.min(self.look_us),
                Decision::Idle => self.look_us,
            };
            self.send_acks();
            let until =
                if self.unsent.iter().all(Vec::is_empty) { until } else { until.min(now + ACK_RETRY_US) };
            let until = if self.retention_due { now } else { until };
            let patience = Duration::from_micros((until - now).max(0).unsigned_abs());
            match self.commands.receive(Some(patience)) {
                Received::Command(command) => {
                    if self.take(command)? == Flow::End || self.drain()? == Flow::End {
                        return self.end();
                    }
                }
                Received::TimedOut => self.idle_turn()?,
                Received::Closed => return self.end(),
            }
        }
    }

    /// Takes whatever has arrived, so that it shares a transaction.
    fn drain(&mut self) -> Result<Flow, StoreError> {
        while self.pending.rows < ROWS_MAX {
            match self.commands.receive(Some(Duration::ZERO)) {
                Received::Command(command) => {
                    if self.take(command)? == Flow::End {
                        return Ok(Flow::End);
                    }
                }
                Received::TimedOut | Received::Closed => break,
            }
        }
        Ok(Flow::On)
    }

    fn take(&mut self, command: WriterCommand) -> Result<Flow, StoreError> {
        match command {
            WriterCommand::Step(step) => {
                let rows = step.readings.len() + step.predictions.len();
                self.policy.arrived(monotonic_micros(), rows, step.acks.len());
                for loss in self.pending.push(step) {
                    self.store.losses.add(loss);
                }
            }
            WriterCommand::Flush(answer) => {
                self.commit()?;
                let _ = answer.send(());
            }
            WriterCommand::Loss(loss) => self.store.losses.add(loss),
            WriterCommand::ClockStep { mono_us, offset_us } => {
                // A batch has one clock: what arrived by the old one goes first.
                self.commit()?;
                self.store.step_clock(mono_us, offset_us);
                self.commit_always()?;
            }
            WriterCommand::Quarantine(seq) => {
                if let Err(e) = self.store.quarantine(seq) {
                    tracing::warn!(error = %Chain(&e), seq, "cannot quarantine a batch");
                } else {
                    self.metrics.store(|s| s.quarantined += 1);
                }
            }
            WriterCommand::Outbox(order) => {
                // Nothing is lost with it: what is not explained or sealed is asked for again.
                if let Err(e) = self.store.follow_order(&order) {
                    tracing::warn!(error = %Chain(&e), "cannot keep what is to travel");
                }
            }
            WriterCommand::Stop => return Ok(Flow::End),
        }
        Ok(Flow::On)
    }

    fn end(&mut self) -> Result<(), StoreError> {
        // The last chance for what waits, the ledger above all.
        self.stalled = None;
        self.commit()?;
        self.send_acks();
        if let Err(e) = self.store.truncate_wal() {
            tracing::debug!(error = %Chain(&e), "the WAL stays for the next start");
        }
        self.publish_metrics();
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if self.pending.is_empty() && self.store.losses.is_empty() {
            return Ok(());
        }
        self.commit_always()
    }

    fn commit_always(&mut self) -> Result<(), StoreError> {
        let mut pending = std::mem::take(&mut self.pending);
        let now = monotonic_micros();
        if let Some((_, reason)) = self.stalled.filter(|(until, _)| now < *until) {
            self.store.give_up(&mut pending, reason);
        } else if let Some(reason) = self.store_durably(&pending)? {
            self.store.give_up(&mut pending, reason);
        } else {
            let rows = pending
                .steps
                .iter()
                .fold((0, 0), |(r, p), s| (r + s.readings.len(), p + s.predictions.len()));
            let last = self.store.prediction_next - 1;
            self.metrics.store(|s| {
                s.commits += 1;
                s.readings += rows.0 as u64;
                s.predictions += rows.1 as u64;
                s.last_sequence = last;
            });
        }
        let of_step = |c: &WriterCommand| if let WriterCommand::Step(step) = c { step.acks.len() } else { 0 };
        self.policy.committed(monotonic_micros(), self.commands.sum_waiting(of_step));
        for ack in std::mem::take(&mut pending.acks) {
            if let Some(unsent) = self.unsent.get_mut(usize::from(ack.broker.0)) {
                unsent.push(ack);
            }
        }
        self.send_acks();
        // Told without predictions too: it is the sign that the writer makes progress.
        self.settings.committed.send_modify(|last| *last = pending.prediction_last().unwrap_or(*last));
        self.settings.checkpoint_wanted.store(self.store.wants_checkpoint(), Ordering::Relaxed);
        if monotonic_micros() >= self.look_us {
            self.look()?;
        } else if self.retention_due {
            self.retain()?;
        }
        Ok(())
    }

    /// Commits, making room and trying again as far as that can help; returns why it was given up, if it was.
    fn store_durably(&mut self, pending: &PendingBatch) -> Result<Option<&'static str>, StoreError> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut room_was_made = false;
        loop {
            let published_through = self.settings.published_through.load(Ordering::Relaxed);
            let Err(e) = self.store.commit(pending, published_through) else {
                self.note_recovery();
                return Ok(None);
            };
            match e.class() {
                FailureClass::Full if !room_was_made => {
                    room_was_made = true;
                    self.make_room()?;
                }
                FailureClass::Full => return Ok(Some(self.note_stall("full", "disk_full", &e))),
                FailureClass::ReadOnly => return Ok(Some(self.note_stall("read_only", "read_only", &e))),
                FailureClass::Retry if Space::of(&self.store.folder).read_only => {
                    return Ok(Some(self.note_stall("read_only", "read_only", &e)));
                }
                FailureClass::Retry if backoff.attempts() < ATTEMPTS_MAX => {
                    let text = Chain(&e).to_string();
                    tracing::warn!(error = %text, "a commit failed and is tried again; nothing was acknowledged");
                    self.metrics.store(|s| (s.state, s.last_error) = ("failing".to_owned(), Some(text)));
                    std::thread::park_timeout(backoff.next_wait(random_unit()));
                }
                FailureClass::Retry => {
                    return Err(StoreError::GaveUp { attempts: backoff.attempts(), source: Box::new(e) });
                }
                FailureClass::Damaged | FailureClass::Fatal => return Err(e),
            }
        }
    }

    /// Drops old batches until a commit has room, giving up the reserve where the file system itself is full.
    fn make_room(&mut self) -> Result<(), StoreError> {
        if Space::of(&self.store.folder).free < FULL_BYTES && self.store.reserve.release() {
            tracing::warn!("the file system is full: the reserve is released and old rows are dropped");
        }
        // The room may have shrunk since the last look: the file must not grow into the little that is left.
        self.store.apply_quota();
        let _ = self.store.truncate_wal();
        let need = self.store.quota / 16;
        for _ in 0..ROOM_TURNS_MAX {
            match self.retention.turn(&mut self.store, Pressure::Emergency) {
                Ok(Turn::More) if self.store.used_bytes()? + need > self.store.quota => {}
                Ok(Turn::More | Turn::Done) => break,
                Err(e) if e.class() == FailureClass::Damaged => return Err(e),
                Err(e) => {
                    let had_reserve = self.store.reserve.release();
                    let had_wal = self.store.truncate_wal().is_ok();
                    if !had_reserve && !had_wal {
                        tracing::debug!(error = %Chain(&e), "no room can be made");
                        break;
                    }
                }
            }
        }
        let _ = self.store.truncate_wal();
        Ok(())
    }

    fn note_stall(&mut self, state: &'static str, reason: &'static str, error: &StoreError) -> &'static str {
        self.stalled = Some((monotonic_micros() + STALL_US, reason));
        self.note_state(state, &Chain(error).to_string());
        reason
    }

    fn note_state(&self, state: &str, error: &str) {
        let mut news = false;
        self.metrics.store(|s| {
            news = s.state != state;
            state.clone_into(&mut s.state);
            s.last_error = Some(error.to_owned());
        });
        if news {
            tracing::warn!(state, error, "readings and predictions are not kept; inference goes on");
        }
    }

    fn note_recovery(&mut self) {
        if self.store.memory_only {
            return;
        }
        self.stalled = None;
        let mut news = false;
        self.metrics.store(|s| {
            news = s.state != "ok";
            if news {
                "ok".clone_into(&mut s.state);
            }
        });
        if news {
            tracing::info!("readings and predictions are kept again");
        }
    }

    /// Offers acknowledgements to the connections; what a full queue refuses waits here.
    fn send_acks(&mut self) {
        for (unsent, sender) in self.unsent.iter_mut().zip(&self.settings.acks) {
            if unsent.is_empty() {
                continue;
            }
            match sender.try_send(std::mem::take(unsent)) {
                // A connection that is gone: its broker delivers again over the next one.
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(acks)) => *unsent = acks,
            }
        }
    }

    fn idle_turn(&mut self) -> Result<(), StoreError> {
        if monotonic_micros() >= self.look_us {
            self.look()?;
        }
        if self.retention_due {
            self.retain()?;
        }
        Ok(())
    }

    /// Looks at what changes by itself: room, age, the check's result.
    fn look(&mut self) -> Result<(), StoreError> {
        self.look_us = monotonic_micros() + LOOK_US;
        self.store.apply_quota();
        let stalled = self.stalled.is_some() || self.store.memory_only;
        if !stalled && let Err(e) = self.store.reserve.ensure() {
            tracing::debug!(error = %Chain(&e), "no room for the reserve");
        }
        self.retention_due = !stalled;
        self.publish_metrics();
        self.look_at_check()
    }

    fn retain(&mut self) -> Result<(), StoreError> {
        match self.retention.turn(&mut self.store, Pressure::Routine) {
            Ok(turn) => self.retention_due = turn == Turn::More,
            Err(e) if e.class() == FailureClass::Damaged => return Err(e),
            Err(e) => {
                self.retention_due = false;
                tracing::debug!(error = %Chain(&e), "retention waits");
            }
        }
        Ok(())
    }

    fn look_at_check(&mut self) -> Result<(), StoreError> {
        let Some(check) = self.check.take() else { return Ok(()) };
        if !check.thread.is_finished() {
            if monotonic_micros() > check.until_us {
                check.interrupt.interrupt();
            }
            self.check = Some(check);
            return Ok(());
        }
        match check.thread.join() {
            Ok(Err(e)) if e.class() == FailureClass::Damaged => Err(e),
            Ok(Err(e)) => {
                tracing::info!(error = %Chain(&e), "the check of the telemetry log was not finished");
                Ok(())
            }
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    fn publish_metrics(&self) {
        let used = self.store.used_bytes().unwrap_or(0);
        let free = Space::of(&self.store.folder).free;
        let written = thread_written_bytes();
        let mut lost = ledger::totals(&self.store.connection).unwrap_or_default();
        for loss in self.store.losses.iter() {
            *lost.entry(format!("{}:{}", loss.kind.as_str(), loss.reason)).or_insert(0) += loss.count;
        }
        self.metrics.store(|s| {
            (s.used_bytes, s.quota_bytes, s.free_bytes, s.lost) = (used, self.store.quota, free, lost);
            s.written_bytes = written.unwrap_or(s.written_bytes);
        });
    }
}

fn start_check(store: &Store) -> Option<BackgroundCheck> {
    let connection = schema::open_reader(&store.folder.join(TELEMETRY_FILE)).ok()?;
    let interrupt = connection.get_interrupt_handle();
    let thread = std::thread::Builder::new()
        .name("store-check".to_owned())
        .spawn(move || schema::quick_check(&connection, "`telemetry.db`"))
        .ok()?;
    Some(BackgroundCheck { interrupt, thread, until_us: monotonic_micros() + CHECK_US_MAX })
}

/// Returns the bytes that this thread caused to be written to block devices, where the kernel counts them.
fn thread_written_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}
