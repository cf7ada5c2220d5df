//! One configuration at work: its stages from start to drained.
//!
//! A reload ends a generation in order and starts the next; broker sessions and the store carry everything over.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle as ThreadHandle;
use std::time::Duration;

use dunlin_kit::clock;
use dunlin_pipeline::Core;
use dunlin_pipeline::prediction::ModelIndex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::lane_control::{LaneControl, LaneStart, LaneStarts, SlotStarter};
use super::signals::Signals;
use super::{Surroundings, react};
use crate::backlog::StoredBacklog;
use crate::command::CommandError;
use crate::config::settings::Settings;
use crate::config::{LoadRequest, Loaded};
use crate::flow::{self, AckToken, BrokerIndex, Delivery, Loss, SlotResult};
use crate::lanes::{Arrangement, LaneCounts, lane_index};
use crate::mqtt::feed::{PublishQueue, publish_channel, start_backlog};
use crate::mqtt::ingest::{Ingest, WillSpec, run_ingest};
use crate::mqtt::publisher::{Publisher, Resume, run_publisher};
use crate::stage::lanes::LaneSlot;
use crate::stage::publishing::{PublishProgress, Publishing, Topics};
use crate::stage::redelivery::Redelivery;
use crate::stage::restore::restore;
use crate::stage::{Stage, StageEnd, StageLinks, StageParts};
use crate::store::{
    self, LastStop, Moment, Recovery, Store, StoreError, WriterCommand, WriterSettings, spawn_writer,
};

/// Losses of other stages that wait for the writer.
const LOSSES: usize = 256;
/// Requests that wait for the stage.
const REQUESTS: usize = 32;
/// Arrangements of lanes that wait for the stage: each model may have one on its way.
const ARRANGEMENTS: usize = 16;
/// How long the start waits for models to load: a start is late then, but messages wait with their broker.
const MODELS_READY_MAX: Duration = Duration::from_secs(10);

/// How a generation ended.
pub(crate) enum Ended {
    /// The daemon is to stop.
    Stopped,
    /// The daemon is to go on with this configuration.
    Reload(Box<Loaded>),
}

/// A generation's stages.
pub(crate) struct Generation {
    stage: Stage,
    links: StageLinks,
    shutdown: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    writer: ThreadHandle<Result<(), StoreError>>,
    writer_ended: watch::Receiver<u64>,
    drain: Duration,
}

/// The way of acknowledgements back to one broker.
type AckChannel = (mpsc::Sender<Vec<AckToken>>, mpsc::Receiver<Vec<AckToken>>);

/// The channels between the stages.
struct Channels {
    deliveries: (mpsc::Sender<Delivery>, mpsc::Receiver<Delivery>),
    results: (mpsc::Sender<Vec<SlotResult>>, mpsc::Receiver<Vec<SlotResult>>),
    losses: (mpsc::Sender<Loss>, mpsc::Receiver<Loss>),
    steps: (store::queue::Sender<WriterCommand>, store::queue::Receiver<WriterCommand>),
    committed: (watch::Sender<u64>, watch::Receiver<u64>),
    acks: Vec<AckChannel>,
}

impl Channels {
    fn new(brokers: usize, committed_through: u64) -> Self {
        Self {
            deliveries: mpsc::channel(flow::DELIVERIES),
            results: mpsc::channel(flow::SLOT_RESULTS),
            losses: mpsc::channel(LOSSES),
            steps: store::queue::bounded(flow::STEPS),
            committed: watch::channel(committed_through),
            acks: (0..brokers).map(|_| mpsc::channel(flow::ACKNOWLEDGEMENTS)).collect(),
        }
    }
}

impl Generation {
    /// Opens the store, restores the pipeline and starts all stages but the one that `run` drives. The core was
    /// compiled with these lanes.
    pub(crate) async fn start(
        surroundings: &Surroundings,
        loaded: &Loaded,
        (mut core, lanes): (Core, LaneStarts),
        last_stop: LastStop,
    ) -> Result<Self, CommandError> {
        let settings = &loaded.settings;
        let (store, recovery) = open_store(surroundings, settings, &mut core, last_stop)?;
        let committed_through = recovery.next_prediction_sequence.saturating_sub(1);
        let channels = Channels::new(settings.brokers.len(), committed_through);
        let writer_ended = channels.committed.0.subscribe();
        let progress = PublishProgress::default();
        progress.stored.store(recovery.published_through, std::sync::atomic::Ordering::Release);
        let checkpoint_wanted = Arc::new(AtomicBool::new(false));
        let writer_settings = WriterSettings {
            acks: channels.acks.iter().map(|(sender, _)| sender.clone()).collect(),
            in_flight_max: settings.brokers.iter().map(|broker| usize::from(broker.receive_max)).sum(),
            published_through: Arc::clone(&progress.stored),
            committed: channels.committed.0,
            checkpoint_wanted: Arc::clone(&checkpoint_wanted),
        };
        surroundings.writer.send_replace(Some(channels.steps.0.clone()));
        let metrics = Arc::clone(&surroundings.metrics);
        let writer = spawn_writer(store, channels.steps.1, writer_settings, metrics)
            .map_err(|error| CommandError::failed("cannot start the writer's thread", error))?;

        let (shutdown, stopping) = watch::channel(false);
        let receivers = channels.acks.into_iter().map(|(_, receiver)| receiver).collect();
        let inputs = (channels.deliveries.0, channels.losses.0.clone());
        let mut tasks = start_ingest(surroundings, settings, &core, inputs, receivers, &stopping);
        let starter = SlotStarter {
            results: channels.results.0,
            metrics: Arc::clone(&surroundings.metrics),
            inference: settings.inference.clone(),
            worker_program: surroundings.worker_program.clone(),
            tries: Arc::clone(&surroundings.updates.book) as Arc<_>,
        };
        let slots = start_slots(&starter, settings, lanes).await;
        let specs: Vec<_> = settings.models.iter().map(|model| model.spec.clone()).collect();
        let topics = Topics::new(&settings.gateway, &specs);
        let (feed, queue) = publish_channel(flow::PUBLICATIONS);
        let resume = Resume { published_through: recovery.published_through, committed_through };
        let publisher = make_publisher(
            surroundings,
            settings,
            queue,
            &topics,
            resume,
            &progress,
            channels.losses.0,
            stopping,
        )?;
        tasks.push(tokio::spawn(run_publisher(publisher)));
        let mut publishing =
            Publishing::new(feed, settings.publish.mode, topics, progress, committed_through);
        introduce_instances(&mut publishing, &core);

        let (requests, control) = mpsc::channel(REQUESTS);
        surroundings.control.send_replace(Some(requests));
        let (lane_counts, counts) = watch::channel(Vec::new());
        let (arrangements, arranged): (mpsc::Sender<Arrangement>, _) = mpsc::channel(ARRANGEMENTS);
        surroundings.lanes.send_replace(Some(LaneControl { arrangements, counts, slots: starter }));
        let slots = (slots, lane_counts);
        let stage = Stage::new(stage_parts(surroundings, settings, core, slots, publishing, &recovery));
        let links = StageLinks {
            deliveries: channels.deliveries.1,
            results: channels.results.1,
            arrangements: arranged,
            control,
            losses: channels.losses.1,
            writer: channels.steps.0,
            committed: channels.committed.1,
            checkpoint_wanted,
        };
        Ok(Self { stage, links, shutdown, tasks, writer, writer_ended, drain: settings.drain })
    }

    /// Runs until a signal ends the generation and it is drained.
    ///
    /// *Errors*: the writer gave up, or the drain took too long.
    pub(crate) async fn run(
        self,
        signals: &mut Signals,
        request: &LoadRequest,
        (loaded, surroundings): (&Loaded, &Surroundings),
    ) -> Result<Ended, CommandError> {
        // A task of its own, not this future: waking a task costs no system call.
        let mut stage = tokio::spawn(self.stage.run(self.links));
        let mut ended = None;
        let mut deadline = pin!(tokio::time::sleep(Duration::MAX));
        let end = loop {
            tokio::select! {
                end = &mut stage => break end.map_err(|error| CommandError::failed("the stage panicked", error))?,
                signal = signals.next() => {
                    let found = react(signal, request, loaded, surroundings).await;
                    if let Some(found) = found.filter(|_| ended.is_none()) {
                        ended = Some(found);
                        let _ = self.shutdown.send(true);
                        deadline.as_mut().reset(tokio::time::Instant::now() + self.drain);
                    }
                }
                () = &mut deadline => {
                    let text = "the drain took longer than `run.drain`; nothing is lost: brokers deliver again";
                    return Err(CommandError::Failed { message: text.to_owned(), source: None });
                }
            }
        };
        let _ = self.shutdown.send(true);
        if !has_ended(self.writer_ended, self.drain).await {
            let text = "the telemetry log did not end within `run.drain`; what it lacks was not acknowledged";
            return Err(CommandError::Failed { message: text.to_owned(), source: None });
        }
        let written = self.writer.join().map_err(|_| CommandError::Failed {
            message: "the writer's thread panicked".to_owned(),
            source: None,
        })?;
        written
            .map_err(|error| CommandError::failed("the telemetry log cannot be written any more", error))?;
        for mut task in self.tasks {
            // The next generation takes over its session: this one must not be there any more.
            if tokio::time::timeout(self.drain, &mut task).await.is_err() {
                task.abort();
            }
        }
        match (end, ended) {
            (StageEnd::Drained, Some(ended)) => Ok(ended),
            _ => Err(CommandError::Failed { message: "the writer ended by itself".to_owned(), source: None }),
        }
    }
}

/// Opens the store and restores the pipeline from it.
fn open_store(
    surroundings: &Surroundings,
    settings: &Settings,
    core: &mut Core,
    last_stop: LastStop,
) -> Result<(Store, Recovery), CommandError> {
    let store_failed = |error: StoreError| CommandError::failed("cannot use the telemetry log", error);
    let (mut store, mut recovery) =
        Store::open(&surroundings.lock, &settings.storage, &Moment::now(), last_stop)
            .map_err(store_failed)?;
    store.guard_numbers(&surroundings.lock, &mut recovery, &surroundings.settled).map_err(store_failed)?;
    core.collect_with(settings.drift.collect);
    let restored = restore(core, &mut store, &mut recovery).map_err(store_failed)?;
    let (series, instances) = core.counts();
    tracing::info!(
        series,
        instances,
        replayed = restored.readings,
        unclean = recovery.unclean,
        "windows restored"
    );
    Ok((store, recovery))
}

fn introduce_instances(publishing: &mut Publishing, core: &Core) {
    for lane in 0..core.lane_count() {
        let instances = core.lane_instances(ModelIndex(lane as u16));
        instances.iter().for_each(|(id, identity)| publishing.introduce(*id, identity));
    }
}

/// Waits until the writer has dropped its end of the channel, and tells whether it has: its thread is at its last
/// lines then.
async fn has_ended(mut writer: watch::Receiver<u64>, limit: Duration) -> bool {
    tokio::time::timeout(limit, async { while writer.changed().await.is_ok() {} }).await.is_ok()
}

fn start_ingest(
    surroundings: &Surroundings,
    settings: &Settings,
    core: &Core,
    (deliveries, losses): (mpsc::Sender<Delivery>, mpsc::Sender<Loss>),
    acks: Vec<mpsc::Receiver<Vec<AckToken>>>,
    stopping: &watch::Receiver<bool>,
) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    for (position, (broker, acks)) in settings.brokers.iter().zip(acks).enumerate() {
        let name = (position > 0).then_some(broker.name.as_str());
        let mut subscriptions: Vec<String> = Vec::new();
        for filter in
            core.sources().iter().filter(|source| source.broker() == name).flat_map(|s| s.subscriptions())
        {
            if !subscriptions.contains(&filter) {
                subscriptions.push(filter);
            }
        }
        let ingest = Ingest {
            settings: broker.clone(),
            index: BrokerIndex(position as u16),
            subscriptions,
            identity: WillSpec::of_gateway(&settings.gateway),
            deliveries: deliveries.clone(),
            acks,
            losses: losses.clone(),
            metrics: Arc::clone(&surroundings.metrics),
            shutdown: stopping.clone(),
            drain: settings.drain,
        };
        tasks.push(tokio::spawn(run_ingest(ingest)));
    }
    tasks
}

async fn start_slots(starter: &SlotStarter, settings: &Settings, lanes: LaneStarts) -> Vec<Option<LaneSlot>> {
    let mut slots = Vec::new();
    for (number, (model, lanes)) in settings.models.iter().zip(lanes).enumerate() {
        for (lane, start) in lanes.into_iter().enumerate() {
            let index = lane_index(number, lane);
            slots.push(start.map(|LaneStart { role, package, p99_budget }| {
                let slot = starter.start(index, &model.spec.name, package, Some(role));
                LaneSlot { slot, p99_budget }
            }));
        }
    }
    let all_ready = async {
        for LaneSlot { slot, .. } in slots.iter().flatten() {
            slot.ready().await;
        }
    };
    if tokio::time::timeout(MODELS_READY_MAX, all_ready).await.is_err() {
        tracing::warn!("models are still loading; their windows wait");
    }
    slots
}

#[expect(clippy::too_many_arguments, reason = "joins the ends of eight channels and settings, once")]
fn make_publisher(
    surroundings: &Surroundings,
    settings: &Settings,
    queue: PublishQueue,
    topics: &Topics,
    resume: Resume,
    progress: &PublishProgress,
    losses: mpsc::Sender<Loss>,
    shutdown: watch::Receiver<bool>,
) -> Result<Publisher, CommandError> {
    let backlog = StoredBacklog::new(settings.state_dir.clone(), topics.clone());
    let backlog = start_backlog(backlog)
        .map_err(|error| CommandError::failed("cannot start the backlog's thread", error))?;
    Ok(Publisher {
        settings: settings.brokers[usize::from(settings.publish.broker.0)].clone(),
        qos: settings.publish.qos,
        queue,
        backlog,
        resume,
        published_through: Arc::clone(&progress.publisher),
        losses,
        metrics: Arc::clone(&surroundings.metrics),
        shutdown,
        drain: settings.drain,
    })
}

fn stage_parts(
    surroundings: &Surroundings,
    settings: &Settings,
    core: Core,
    (slots, lane_counts): (Vec<Option<LaneSlot>>, watch::Sender<Vec<LaneCounts>>),
    publishing: Publishing,
    recovery: &Recovery,
) -> StageParts {
    let mut redelivery = Redelivery::new(settings.brokers.iter().map(|broker| broker.receive_max.max(1)));
    for mark in &recovery.delivered {
        redelivery.remember(BrokerIndex(mark.broker), mark.packet_id, mark.content_crc);
    }
    let now = clock::monotonic_micros();
    StageParts {
        core,
        brokers: settings.brokers.iter().map(|broker| broker.name.clone()).collect(),
        slots,
        lane_counts,
        publishing,
        redelivery,
        next_sequence: recovery.next_prediction_sequence,
        privacy: settings.drift.privacy,
        metrics: Arc::clone(&surroundings.metrics),
        heartbeats: (
            surroundings.watchdog.register("stage", now),
            surroundings.watchdog.register("writer", now),
        ),
    }
}
