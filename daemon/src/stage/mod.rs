//! The stage: takes messages from the brokers, drives the pipeline and the slots, and hands complete steps to the
//! publisher and the writer.
//!
//! One task, the only owner of the pipeline's state. Never blocks and never holds more than its bounds: it stops
//! taking messages instead, and the brokers keep what is not acknowledged. Stands between ingest and writer.

mod arranging;
pub mod in_flight;
pub mod lanes;
pub mod publishing;
pub mod redelivery;
pub mod restore;
pub mod shadow;
pub mod tally;
pub mod windows;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dunlin_drift::privacy::Privacy;
use dunlin_kit::clock::{self, ArrivalClock};
use dunlin_pipeline::collect::WindowReport;
use dunlin_pipeline::message::{ClockState, Message};
use dunlin_pipeline::prediction::QualityFlags;
use dunlin_pipeline::refusal::{Reason, Refusal};
use dunlin_pipeline::{Core, Turn};
use tokio::sync::{mpsc, oneshot, watch};

use crate::flow::{self, Delivery, Loss, SlotFailure, SlotJob, SlotResult, Step};
use crate::lanes::{Arrangement, LaneCounts};
use crate::metrics::Metrics;
use crate::status::ControlRequest;
use crate::store::WriterCommand;
use crate::store::outbox::OutboxOrder;
use crate::store::queue::{SendFailure, Sender};
use crate::systemd::Heartbeat;
use arranging::Arranging;
use in_flight::InFlight;
use lanes::{LaneSlot, Lanes};
use publishing::Publishing;
use redelivery::Redelivery;
use tally::Tally;

/// Most messages of one step: what one transaction and one frame to a worker hold comfortably.
const MESSAGES_PER_STEP: usize = 256;
/// Messages are taken while fewer windows than this are with the slots.
const WINDOWS_MAX: usize = 4_096;
/// Commands that may wait for the writer here, beside its queue.
const WAITING_MAX: usize = 32;
/// Readings logged since the last saved state that make a new one worth its bytes: a replay of this much takes well
/// under a second.
const LOGGED_BYTES_MIN: usize = 1 << 20;
/// The saved state may cost this part of what is logged between two of them.
const LOGGED_PER_STATE: usize = 4;
/// "Everything that had arrived" is in once nothing more came for this long.
const FLUSH_QUIET_US: i64 = 250_000;
/// Where it never gets quiet, what had arrived at the request is enough after this.
const FLUSH_WAIT_US: i64 = 2_000_000;
/// Messages are taken while the windows with the slots hold fewer values than this: 32 MB.
const VALUES_MAX: usize = 8 * 1024 * 1024;
/// How often gauges are set.
const GAUGE_US: i64 = 1_000_000;
/// How often the clock is compared and waiting requests are looked at.
const TICK: Duration = Duration::from_millis(250);

/// Receiving ends and partners of the stage.
pub struct StageLinks {
    /// From the brokers; the stage ends when all senders are gone.
    pub deliveries: mpsc::Receiver<Delivery>,
    /// From the slots.
    pub results: mpsc::Receiver<Vec<SlotResult>>,
    /// From the update: how lanes are to be.
    pub arrangements: mpsc::Receiver<Arrangement>,
    /// From the status socket.
    pub control: mpsc::Receiver<ControlRequest>,
    /// Losses of the other stages, for the ledger.
    pub losses: mpsc::Receiver<Loss>,
    /// To the writer.
    pub writer: Sender<WriterCommand>,
    /// Last sequence on disk; its sender goes when the writer ends.
    pub committed: watch::Receiver<u64>,
    /// Set by the writer when retention needs a newer saved state.
    pub checkpoint_wanted: Arc<AtomicBool>,
}

/// What the stage works with.
pub struct StageParts {
    /// The restored pipeline.
    pub core: Core,
    /// Names of the brokers, by their number.
    pub brokers: Vec<String>,
    /// The slots, by lane.
    pub slots: Vec<Option<LaneSlot>>,
    /// Where the counts of the lanes are made known, by lane.
    pub lane_counts: watch::Sender<Vec<LaneCounts>>,
    /// Its side of publishing.
    pub publishing: Publishing,
    /// Messages that are known to be safe.
    pub redelivery: Redelivery,
    /// Sequence number of the next prediction.
    pub next_sequence: u64,
    /// What of windows may leave the gateway.
    pub privacy: Privacy,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Beaten while the stage and the writer make progress.
    pub heartbeats: (Heartbeat, Heartbeat),
}

/// How the stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageEnd {
    /// All input was taken and handed to the writer.
    Drained,
    /// The writer ended by itself: nothing can be kept any more.
    WriterGone,
}

/// Somebody waits until all that has arrived is on disk.
struct FlushRequest {
    reply: oneshot::Sender<()>,
    since_us: i64,
    /// Steps opened when all that had arrived was taken.
    steps: Option<u64>,
}

/// The stage.
pub struct Stage {
    parts: StageParts,
    clock: ArrivalClock,
    in_flight: InFlight,
    tally: Tally,
    turn: Turn,
    lanes: Lanes,
    /// What waits until nothing is in flight.
    arranging: Option<Arranging>,
    /// What goes to the writer, in order.
    outgoing: VecDeque<WriterCommand>,
    /// A step of the clock: goes to the writer after all that was timed before it.
    clock_step: Option<WriterCommand>,
    flushes: Vec<FlushRequest>,
    last_delivery_us: i64,
    /// Latest arrival that was taken.
    taken_us: i64,
    /// Steps that were opened, and those of them that are complete.
    steps: (u64, u64),
    /// Values of the windows with the slots.
    values: usize,
    logged_bytes: usize,
    state_bytes: usize,
    saving: bool,
    /// Commits since the writer's heart last beat.
    commits: u64,
    gauged_us: i64,
    /// Kept for its room.
    reports: Vec<WindowReport>,
}

impl Stage {
    /// Returns a stage that is ready to run.
    #[must_use]
    pub fn new(mut parts: StageParts) -> Self {
        let now = clock::monotonic_micros();
        let published = std::mem::replace(&mut parts.lane_counts, watch::channel(Vec::new()).0);
        let lanes = Lanes::new(&parts.core, std::mem::take(&mut parts.slots), published);
        Self {
            clock: ArrivalClock::new(clock::wall_micros(), now),
            in_flight: InFlight::new(parts.next_sequence),
            tally: Tally::new(
                parts.core.sources().iter().map(|source| source.name().to_owned()).collect(),
                &parts.metrics,
            ),
            turn: Turn::default(),
            lanes,
            arranging: None,
            outgoing: VecDeque::new(),
            clock_step: None,
            flushes: Vec::new(),
            last_delivery_us: now,
            taken_us: 0,
            steps: (0, 0),
            values: 0,
            logged_bytes: 0,
            state_bytes: 0,
            // What is left of packages that run no more is reported with a state that has it no more.
            saving: parts.core.has_left_windows(),
            commits: 0,
            gauged_us: 0,
            reports: Vec::new(),
            parts,
        }
    }

    /// Runs until all senders of deliveries are gone and everything is with the writer, the state saved.
    pub async fn run(mut self, mut links: StageLinks) -> StageEnd {
        let mut buffer = Vec::with_capacity(MESSAGES_PER_STEP);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut open = true;
        loop {
            let (taking, room) = (self.takes_messages(), self.outgoing.len() < WAITING_MAX);
            // What is seldom ready comes first: no load keeps it from its turn.
            tokio::select! {
                biased;
                changed = links.committed.changed() => {
                    if changed.is_err() {
                        return StageEnd::WriterGone;
                    }
                    let through = *links.committed.borrow_and_update();
                    self.commits += 1;
                    self.parts.publishing.committed(through);
                }
                _ = ticks.tick() => self.tick(&links),
                Some(arrangement) = links.arrangements.recv(), if self.arranging.is_none() && room => {
                    self.begin(arrangement);
                }
                Some(request) = links.control.recv(), if room => self.take_request(request),
                Some(loss) = links.losses.recv(), if room => self.outgoing.push_back(WriterCommand::Loss(loss)),
                Some(group) = links.results.recv() => self.take_results(group, &mut links.results),
                () = std::future::ready(()), if taking && !buffer.is_empty() => self.take_deliveries(&mut buffer),
                count = links.deliveries.recv_many(&mut buffer, MESSAGES_PER_STEP), if open && taking => {
                    open = count > 0;
                    self.take_deliveries(&mut buffer);
                }
                () = links.writer.has_room(), if !self.outgoing.is_empty() => {}
            }
            self.hand_on(&links);
            let taken = !open && buffer.is_empty();
            if taken && self.in_flight.steps() == 0 && self.outgoing.is_empty() {
                return self.finish(&mut links).await;
            }
        }
    }

    fn takes_messages(&self) -> bool {
        !self.saving
            && self.arranging.is_none()
            && self.clock_step.is_none()
            && Self::has_room(self.in_flight.windows(), self.values)
            && self.in_flight.steps() < flow::STEPS
            && self.outgoing.len() < WAITING_MAX
            && self.lanes.all_submitted()
    }

    const fn has_room(windows: usize, values: usize) -> bool {
        windows < WINDOWS_MAX && values < VALUES_MAX
    }

    fn take_deliveries(&mut self, buffer: &mut Vec<Delivery>) {
        if buffer.is_empty() {
            return;
        }
        self.last_delivery_us = clock::monotonic_micros();
        self.turn.clear();
        let mut step = Step::default();
        let mut arrivals = Vec::new();
        let mut count = 0;
        for delivery in buffer.iter() {
            step.acks.extend(delivery.ack);
            self.take_delivery(delivery);
            let made = self.turn.windows.iter().skip(arrivals.len());
            self.values += made.map(|window| window.values.len()).sum::<usize>();
            arrivals.resize(self.turn.windows.len(), delivery.arrived_us);
            self.taken_us = self.taken_us.max(delivery.arrived_us);
            count += 1;
            if !Self::has_room(self.in_flight.windows() + arrivals.len(), self.values) {
                break;
            }
        }
        buffer.drain(..count);
        self.count_turn(count as u64);
        step.readings.append(&mut self.turn.readings);
        step.observations.append(&mut self.turn.observations);
        step.new_series.append(&mut self.turn.new_series);
        for (id, identity) in &self.turn.new_instances {
            self.parts.publishing.introduce(*id, identity);
        }
        step.new_instances.append(&mut self.turn.new_instances);
        self.logged_bytes += step.readings.iter().map(|reading| 16 + 8 * reading.values.len()).sum::<usize>();
        let heads: Vec<_> = self.turn.windows.iter().map(|window| window.head).zip(arrivals).collect();
        let first = self.in_flight.next_ticket();
        self.in_flight.open(step, &heads);
        self.steps.0 += 1;
        for (ticket, window) in (first..).zip(self.turn.windows.drain(..)) {
            self.lanes.push(window.head.model, SlotJob { ticket, values: window.values });
        }
        self.submit();
    }

    fn take_delivery(&mut self, delivery: &Delivery) {
        let arrival_us = self.clock.at(delivery.arrived_us);
        let (readings, refusals) = (self.turn.readings.len(), self.turn.refusals.len());
        self.turn.matched.clear();
        match std::str::from_utf8(&delivery.topic) {
            _ if self.parts.redelivery.is_repeated(delivery) => {
                let refusal = Refusal::new(Reason::Duplicate, "delivered again, and safe already");
                self.turn.refusals.push((None, refusal));
            }
            Err(_) => {
                self.turn.refusals.push((None, Refusal::new(Reason::BadTopic, "the topic is not UTF-8")))
            }
            Ok(topic) => {
                let named = usize::from(delivery.broker.0);
                let broker = (named > 0).then(|| self.parts.brokers[named].as_str());
                let clock = if clock::is_plausible(arrival_us) { ClockState::Set } else { ClockState::Unset };
                let retained = delivery.retained;
                let message =
                    Message { broker, topic, payload: &delivery.payload, retained, arrival_us, clock };
                self.parts.core.take(&message, &mut self.turn);
            }
        }
        self.tally.message(&self.turn.matched, self.turn.readings.len() - readings);
        for (source, refusal) in self.turn.refusals.drain(refusals..) {
            let topic = String::from_utf8_lossy(&delivery.topic);
            self.tally.refusal(source, refusal, &topic, &delivery.payload, arrival_us);
        }
    }

    fn count_turn(&mut self, messages: u64) {
        for (model, reason) in self.turn.rows_refused.drain(..) {
            self.tally.row(usize::from(model.0), reason);
        }
        let metrics = &self.parts.metrics;
        metrics.messages.add(messages);
        metrics.readings.add(self.turn.readings.len() as u64);
        self.tally.settle(metrics, |lane, reason, count| {
            self.lanes.count(lane, |slot| *slot.rows_refused.entry(reason.as_str()).or_default() += count);
        });
    }

    fn submit(&mut self) {
        let now = clock::monotonic_micros();
        for ticket in self.lanes.submit(&mut self.in_flight, now) {
            self.answer(ticket, Err(SlotFailure::Unavailable), now);
        }
    }

    fn take_results(&mut self, group: Vec<SlotResult>, more: &mut mpsc::Receiver<Vec<SlotResult>>) {
        let now = clock::monotonic_micros();
        let mut next = Some(group);
        while let Some(group) = next {
            for result in group {
                self.answer(result.ticket, result.outputs, now);
            }
            next = more.try_recv().ok();
        }
        self.lanes.publish();
        self.submit();
    }

    /// Finishes a window; an answer that comes late, of a lane that was abandoned, is ignored.
    fn answer(&mut self, ticket: u64, outputs: Result<Vec<f32>, SlotFailure>, now_us: i64) {
        let Some(window) = self.in_flight.window(ticket) else { return };
        let core = &mut self.parts.core;
        let values = core.model(window.head.model).map_or(0, |model| model.shape.values());
        self.values = self.values.saturating_sub(values);
        let prediction = core.finish(window.head, outputs.ok());
        self.lanes.note(core, &window, &prediction, now_us);
        self.parts.publishing.predicted(ticket, &prediction);
        if !prediction.head.flags.contains(QualityFlags::SHADOW) {
            let metrics = &self.parts.metrics;
            metrics.predictions.add(1);
            metrics.predictions_invalid.add(u64::from(!prediction.head.flags.is_valid()));
            metrics.record_latency((now_us - window.arrived_us) as f64 / 1e6);
        }
        self.in_flight.answer(ticket, prediction);
    }

    fn take_request(&mut self, request: ControlRequest) {
        match request {
            ControlRequest::Flush(reply) => {
                let since_us = clock::monotonic_micros();
                self.flushes.push(FlushRequest { reply, since_us, steps: None });
            }
            ControlRequest::Quarantine(sequence) => {
                let sequence = i64::try_from(sequence).unwrap_or(i64::MAX);
                self.outgoing.push_back(WriterCommand::Quarantine(sequence));
            }
        }
    }

    fn tick(&mut self, links: &StageLinks) {
        let now = clock::monotonic_micros();
        if let Some(step) = self.clock.observe(clock::wall_micros(), now) {
            let seconds = (step.to_offset - step.from_offset) as f64 / 1e6;
            tracing::warn!(seconds, "the wall clock was set; arrival times follow it");
            self.clock_step = Some(WriterCommand::ClockStep { mono_us: now, offset_us: step.to_offset });
        }
        let (stage, writer) = &self.parts.heartbeats;
        stage.beat_at(now);
        if links.writer.waiting() == 0 || self.commits > 0 {
            self.commits = 0;
            writer.beat_at(now);
        }
        if now - self.gauged_us >= GAUGE_US {
            self.gauged_us = now;
            self.gauge(links);
        }
        let empty = links.deliveries.is_empty();
        let idle = self.in_flight.steps() == 0 && self.outgoing.is_empty();
        let quiet = empty && idle && now - self.last_delivery_us >= FLUSH_QUIET_US;
        for mut request in std::mem::take(&mut self.flushes) {
            if now - request.since_us >= FLUSH_WAIT_US && (empty || self.taken_us >= request.since_us) {
                request.steps.get_or_insert(self.steps.0);
            }
            if quiet || request.steps.is_some_and(|steps| steps <= self.steps.1) {
                // Whoever wants all that arrived wants losses that do not grow any more.
                self.outgoing.push_back(WriterCommand::Outbox(OutboxOrder::Seal));
                self.outgoing.push_back(WriterCommand::Flush(request.reply));
            } else if !request.reply.is_closed() {
                self.flushes.push(request);
            }
        }
    }

    fn gauge(&self, links: &StageLinks) {
        let metrics = &self.parts.metrics;
        metrics.series.set(self.parts.core.counts().0 as i64);
        metrics.windows_waiting.set(self.in_flight.windows() as i64);
        metrics.deliveries_waiting.set(links.deliveries.len() as i64);
        metrics.steps_waiting.set((self.outgoing.len() + links.writer.waiting()) as i64);
        let counts = self.parts.core.collect_counts();
        metrics.drift(|drift| *drift = counts.into());
        for (lane, instances) in self.parts.core.instances_by_lane().into_iter().enumerate() {
            self.lanes.count(lane, |counts| counts.instances = instances);
        }
    }

    /// Moves complete steps to the writer, and saves the state when it is due and nothing is in flight.
    fn hand_on(&mut self, links: &StageLinks) {
        while let Some(mut step) = self.in_flight.take_complete() {
            self.count_windows(&mut step);
            for (n, prediction) in step.predictions.iter().enumerate() {
                self.parts.publishing.to_be_committed(step.prediction_sequence + n as u64, prediction);
            }
            self.outgoing.push_back(WriterCommand::Step(step));
            self.steps.1 += 1;
        }
        if self.in_flight.steps() == 0 {
            self.outgoing.extend(self.clock_step.take());
            self.arrange();
        }
        self.parts.publishing.advance(self.in_flight.lowest_open());
        let enough =
            self.logged_bytes >= LOGGED_BYTES_MIN.max(self.state_bytes.saturating_mul(LOGGED_PER_STATE));
        self.saving |= enough || links.checkpoint_wanted.load(Ordering::Relaxed);
        if self.saving && self.in_flight.steps() == 0 {
            self.save_state();
            links.checkpoint_wanted.store(false, Ordering::Relaxed);
        }
        while let Some(command) = self.outgoing.pop_front() {
            match links.writer.try_send(command) {
                Ok(()) => {}
                Err(SendFailure::Full(command)) => {
                    self.outgoing.push_front(command);
                    break;
                }
                // The writer has ended: its side of `committed` says so at the next turn.
                Err(SendFailure::Closed(_)) => break,
            }
        }
    }

    fn save_state(&mut self) {
        let windows = self.release_left();
        let state = self.parts.core.snapshot();
        self.state_bytes = state.len();
        self.logged_bytes = 0;
        self.saving = false;
        let new_instances = self.parts.core.announce();
        new_instances.iter().for_each(|(id, identity)| self.parts.publishing.introduce(*id, identity));
        let prediction_sequence = self.in_flight.next_ticket();
        let step =
            Step { checkpoint: Some(state), prediction_sequence, new_instances, windows, ..Step::default() };
        self.outgoing.push_back(WriterCommand::Step(step));
    }

    async fn finish(mut self, links: &mut StageLinks) -> StageEnd {
        while let Ok(loss) = links.losses.try_recv() {
            self.outgoing.push_back(WriterCommand::Loss(loss));
        }
        self.save_state();
        self.hand_on(links);
        while let Some(command) = self.outgoing.pop_front() {
            if links.writer.send(command).await.is_err() {
                return StageEnd::WriterGone;
            }
        }
        let (reply, committed) = oneshot::channel();
        if links.writer.send(WriterCommand::Flush(reply)).await.is_err() || committed.await.is_err() {
            return StageEnd::WriterGone;
        }
        self.parts.publishing.committed(u64::MAX);
        for request in self.flushes.drain(..) {
            let _ = request.reply.send(());
        }
        for slot in self.lanes.into_slots(&self.parts.core) {
            slot.shutdown(Duration::from_secs(1)).await;
        }
        let _ = links.writer.send(WriterCommand::Stop).await;
        StageEnd::Drained
    }
}

#[cfg(test)]
mod tests;
