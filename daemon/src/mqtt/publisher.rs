//! The publishing connection: predictions and alerts to the broker, at least once.
//!
//! Never holds up the stage and forgets nothing before it is confirmed; what the queue could not take is read back
//! from the store. Stands at the end of the flow, on a connection of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dunlin_kit::backoff::random_unit;
use dunlin_kit::clock::monotonic_micros;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Packet, PubAckReason};
use rumqttc::v5::{AsyncClient, Event, EventLoop};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::connection::{self, End, end_of, qos_of};
use super::feed::{BacklogAnswer, BacklogReader, PublishQueue};
use super::ingest::stopped;
use super::outbox::{AfterPage, Confirmation, Outbox, Supply, Want};
use super::reconnect::Reconnect;
use crate::config::settings::{BrokerSettings, SubscriptionQos};
use crate::flow::{Loss, LossKind, Publication};
use crate::metrics::Metrics;

/// Publications kept until they are confirmed: some round trips of a broker's in-flight window, and with payloads of
/// 300 bytes about 1 MB.
const OUTBOX_MAX: usize = 2_048;
/// Publications in the event loop's queue; so many are written without this task running in between.
const HANDED_MAX: usize = 512;
/// QoS 1 publications in flight; the broker's Receive Maximum is usually less.
const IN_FLIGHT_MAX: u16 = 1_024;
/// Publications taken from the queue in one turn.
const BATCH: usize = 256;
/// Publications read back from the store at once.
const PAGE: usize = 512;
/// Between two reads of a store that has not committed all of a gap; about the shortest commit interval.
const REREAD_WAIT: Duration = Duration::from_millis(100);
/// A gap that the store does not fill for so long is given up: live predictions are worth more.
const BACKLOG_PATIENCE: Duration = Duration::from_secs(60);
/// Fixed header, topic length, packet identifier and empty properties of a PUBLISH packet, rounded up.
const PUBLISH_OVERHEAD: usize = 16;
/// MQTT holds the topic's length in 16 bits.
const TOPIC_BYTES_MAX: usize = 65_535;

/// What was published and committed before this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// Highest sequence up to which every publication was confirmed.
    pub published_through: u64,
    /// Last sequence on disk; live publications start after it.
    pub committed_through: u64,
}

/// All that the publisher needs.
pub struct Publisher {
    /// The broker.
    pub settings: BrokerSettings,
    /// Quality of service.
    pub qos: SubscriptionQos,
    /// From the stage.
    pub queue: PublishQueue,
    /// The way back to the store.
    pub backlog: BacklogReader,
    /// Where to go on.
    pub resume: Resume,
    /// Highest sequence up to which every publication is confirmed: to be stored, and given as `resume` at the next start.
    pub published_through: Arc<AtomicU64>,
    /// Losses for the ledger.
    pub losses: mpsc::Sender<Loss>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Becomes true when the daemon stops.
    pub shutdown: watch::Receiver<bool>,
    /// How long the last publications may take after that.
    pub drain: Duration,
}

/// Runs until `shutdown` is set and the queue is closed, empty and confirmed, or the drain time is over.
pub async fn run_publisher(publisher: Publisher) {
    let Publisher {
        settings,
        qos,
        queue,
        backlog,
        resume,
        published_through,
        losses,
        metrics,
        shutdown,
        drain,
    } = publisher;
    let confirmation = match qos {
        SubscriptionQos::AtMostOnce => Confirmation::Written,
        SubscriptionQos::AtLeastOnce => Confirmation::Acknowledged,
    };
    published_through.store(resume.published_through, Ordering::Release);
    let shared = Arc::new(Shared {
        settings,
        qos: qos_of(qos),
        outbox: Mutex::new(Outbox::new(confirmation, resume.published_through)),
        progress: Notify::new(),
        accepted_us: AtomicU64::new(0),
        heard_us: AtomicU64::new(0),
        keep_alive_us: AtomicU64::new(0),
        packet_bytes_max: AtomicU64::new(u64::MAX),
        published_through,
        given_up: AtomicU64::new(0),
        untold: AtomicU64::new(0),
        losses,
        metrics,
    });
    let supply = Supply::resume(resume.published_through, resume.committed_through);
    let mut feeder = Feeder {
        shared,
        queue,
        backlog,
        supply,
        asked: false,
        reread_at: None,
        stuck_since: None,
        closed: false,
        shutdown,
        drain,
    };
    feeder.run().await;
}

/// What the feeding and the polling task share.
struct Shared {
    settings: BrokerSettings,
    qos: QoS,
    outbox: Mutex<Outbox>,
    /// Room in the event loop's queue or in the outbox, a new connection, or everything confirmed.
    progress: Notify,
    /// Monotonic time at which the broker accepted the connection; 0 before.
    accepted_us: AtomicU64,
    /// Monotonic time at which the broker was last heard.
    heard_us: AtomicU64,
    keep_alive_us: AtomicU64,
    packet_bytes_max: AtomicU64,
    published_through: Arc<AtomicU64>,
    /// Publications given up, and those that the ledger has not been told of.
    given_up: AtomicU64,
    untold: AtomicU64,
    losses: mpsc::Sender<Loss>,
    metrics: Arc<Metrics>,
}

impl Shared {
    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) {
        self.heard_us.store(monotonic_micros().unsigned_abs(), Ordering::Relaxed);
    }

    /// Tells whether nothing was heard for twice the keep-alive: a write that waits for a dead peer keeps the event
    /// loop from its own check.
    fn is_silent(&self) -> bool {
        let silent = monotonic_micros().unsigned_abs().saturating_sub(self.heard_us.load(Ordering::Relaxed));
        let interval = self.keep_alive_us.load(Ordering::Relaxed);
        self.is_accepted() && silent / 2 > interval
    }

    fn is_accepted(&self) -> bool {
        self.accepted_us.load(Ordering::Relaxed) > 0
    }

    /// Changes the outbox, publishes how far it is confirmed and wakes the feeding task where that has work again.
    fn advance(&self, change: impl FnOnce(&mut Outbox)) {
        let mut outbox = self.outbox();
        let (handed, kept) = (outbox.handed(), outbox.len());
        change(&mut outbox);
        self.published_through.store(outbox.published_through(), Ordering::Release);
        let fell_to = |before: usize, after: usize, mark: usize| before > mark && after <= mark;
        let marks = [(handed, outbox.handed(), HANDED_MAX), (kept, outbox.len(), OUTBOX_MAX)];
        if marks
            .iter()
            .any(|&(before, after, max)| fell_to(before, after, max / 2) || fell_to(before, after, 0))
        {
            self.progress.notify_one();
        }
    }

    fn lose(&self, kind: LossKind, object: &str, count: u64, reason: &str) {
        let before = self.given_up.fetch_add(count, Ordering::Relaxed);
        // Logged at 1, 2, 4, 8, ...: a wrong topic is wrong for every prediction.
        if before.checked_ilog2() != (before + count).checked_ilog2() {
            let total = before + count;
            tracing::error!(broker = %self.settings.name, object, total, reason, "publications are given up");
        }
        let count = self.untold.swap(0, Ordering::Relaxed) + count;
        let loss = Loss {
            kind,
            object: object.to_owned(),
            first_us: 0,
            last_us: 0,
            count,
            reason: reason.to_owned(),
        };
        if self.losses.try_send(loss).is_err() {
            self.untold.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Tells why a publication can never be sent.
    fn fault(&self, publication: &Publication) -> Option<&'static str> {
        let topic = publication.topic.as_str();
        if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX || topic.contains(['+', '#', '\0']) {
            return Some("publish_bad_topic");
        }
        let bytes = (topic.len() + publication.payload.len() + PUBLISH_OVERHEAD) as u64;
        (bytes > self.packet_bytes_max.load(Ordering::Relaxed)).then_some("publish_too_large")
    }

    /// Hands what waits to the event loop, as far as its queue takes it.
    fn hand(&self, client: &AsyncClient) {
        let mut outbox = self.outbox();
        let mut repeated = 0;
        while outbox.handed() < HANDED_MAX {
            let Some(publication) = outbox.waiting() else { break };
            if let Some(reason) = self.fault(publication) {
                self.lose(LossKind::Messages, &publication.topic, 1, reason);
                outbox.give_up_waiting();
                continue;
            }
            let (topic, payload) = (publication.topic.as_str(), publication.payload.clone());
            if client.try_publish(topic, self.qos, false, payload).is_err() {
                break;
            }
            repeated += outbox.mark_handed();
        }
        self.metrics.republished.add(repeated);
        self.published_through.store(outbox.published_through(), Ordering::Release);
    }

    /// Polls one connection until it ends.
    async fn poll_all(self: Arc<Self>, mut eventloop: EventLoop) -> End {
        loop {
            let polled = eventloop.poll().await;
            if matches!(polled, Ok(Event::Incoming(_))) {
                self.heard();
            }
            match polled {
                Ok(Event::Outgoing(Outgoing::Publish(packet_id))) => {
                    self.metrics.published.add(1);
                    self.advance(|outbox| outbox.written(packet_id));
                }
                Ok(Event::Outgoing(Outgoing::AwaitAck(packet_id))) => {
                    self.advance(|outbox| outbox.collided(packet_id));
                }
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return End::Closed,
                Ok(Event::Incoming(Packet::PubAck(puback))) => {
                    self.metrics.published_acked.add(1);
                    if !matches!(puback.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers) {
                        self.refused(puback.reason);
                    }
                    self.advance(|outbox| outbox.acknowledged(puback.pkid));
                }
                Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                    let announced = connection::keep_alive(&self.settings);
                    let interval = connection::agreed_keep_alive(&connack, announced, &mut eventloop);
                    self.keep_alive_us.store(micros_of(interval), Ordering::Relaxed);
                    self.accepted(&connack);
                }
                Ok(_) => {}
                Err(error) => return end_of(&error),
            }
        }
    }

    fn accepted(&self, connack: &ConnAck) {
        let most = connack.properties.as_ref().and_then(|properties| properties.max_packet_size);
        self.packet_bytes_max.store(most.map_or(u64::MAX, u64::from), Ordering::Relaxed);
        self.outbox().connected();
        self.accepted_us.store(monotonic_micros().unsigned_abs().max(1), Ordering::Relaxed);
        self.progress.notify_one();
        tracing::info!(broker = %self.settings.name, "connected for publishing");
    }

    /// The broker will refuse it again, so it counts as confirmed; the prediction is in the store.
    fn refused(&self, reason: PubAckReason) {
        let text = format!("publishing: the broker refused a prediction: {reason:?}");
        self.metrics.broker(&self.settings.name, |counts| counts.last_error = Some(text));
        self.lose(LossKind::Messages, &self.settings.name, 1, "publish_refused");
    }
}

/// Why feeding stopped.
enum Fed {
    Ended(End),
    Finished,
}

struct Feeder {
    shared: Arc<Shared>,
    queue: PublishQueue,
    backlog: BacklogReader,
    supply: Supply,
    /// A page was asked for.
    asked: bool,
    reread_at: Option<Instant>,
    /// Since when reading back has not come further.
    stuck_since: Option<Instant>,
    /// The stage is gone.
    closed: bool,
    shutdown: watch::Receiver<bool>,
    drain: Duration,
}

impl Feeder {
    async fn run(&mut self) {
        let mut rule = Reconnect::new(self.shared.settings.reconnect_max);
        loop {
            let (end, stood) = match self.one_connection().await {
                (Fed::Finished, _) => return,
                (Fed::Ended(end), stood) => (end, stood),
            };
            if *self.shutdown.borrow() {
                return;
            }
            let next = rule.after(&end, stood, random_unit());
            let end = if rule.suspects_takeover() { End::TakenOver } else { end };
            let text = format!("publishing: {}", end.describe(&self.shared.settings));
            tracing::warn!(broker = %self.shared.settings.name, error = %text, "no connection");
            self.shared.metrics.broker(&self.shared.settings.name, |counts| counts.last_error = Some(text));
            tokio::select! {
                () = tokio::time::sleep(next.wait) => {}
                () = stopped(&mut self.shutdown) => return,
            }
        }
    }

    async fn one_connection(&mut self) -> (Fed, Option<Duration>) {
        let settings = &self.shared.settings;
        let client_id = format!("{}-out", settings.client_id);
        let options = match connection::options(settings, &client_id, IN_FLIGHT_MAX) {
            Ok(options) => options,
            Err(error) => return (Fed::Ended(End::Lost(error.to_string())), None),
        };
        let (client, eventloop) = AsyncClient::new(options, HANDED_MAX + 1);
        self.shared.accepted_us.store(0, Ordering::Relaxed);
        let mut task = tokio::spawn(Arc::clone(&self.shared).poll_all(eventloop));
        let fed = self.feed(&client, &mut task).await;
        let accepted = self.shared.accepted_us.load(Ordering::Relaxed);
        let stood = monotonic_micros().unsigned_abs().saturating_sub(accepted);
        if matches!(fed, Fed::Finished) && client.try_disconnect().is_ok() {
            let _ = tokio::time::timeout(REREAD_WAIT, &mut task).await;
        }
        task.abort();
        (fed, (accepted > 0).then(|| Duration::from_micros(stood)))
    }

    /// Moves publications from queue and store to the connection until it ends or there is nothing left to do.
    async fn feed(&mut self, client: &AsyncClient, task: &mut JoinHandle<End>) -> Fed {
        let mut batch = Vec::with_capacity(BATCH);
        let mut deadline: Option<Instant> = None;
        let mut look = tokio::time::interval(connection::keep_alive(&self.shared.settings) / 4);
        loop {
            let kept = self.prepare(client).await;
            if *self.shutdown.borrow() {
                let until = *deadline.get_or_insert_with(|| Instant::now() + self.drain);
                // What the store still holds is for the next start.
                let no_more = self.closed || self.supply.want() != Want::Queue;
                if (no_more && kept == 0) || !self.shared.is_accepted() || Instant::now() >= until {
                    return Fed::Finished;
                }
            }
            let room = OUTBOX_MAX.saturating_sub(kept);
            let from_queue =
                self.shared.is_accepted() && self.supply.want() == Want::Queue && !self.closed && room > 0;
            let stopping = deadline.is_some();
            tokio::select! {
                joined = &mut *task => {
                    return Fed::Ended(joined.unwrap_or_else(|error| {
                        End::Lost(format!("the MQTT client failed: {error}"))
                    }));
                }
                () = self.shared.progress.notified() => {}
                _ = look.tick() => if self.shared.is_silent() {
                    return Fed::Ended(End::Lost("nothing was heard from the broker for two keep-alives".to_owned()));
                },
                count = self.queue.queue.recv_many(&mut batch, room.min(BATCH)), if from_queue => {
                    self.take_live(&mut batch, count);
                }
                answer = self.backlog.answers.recv(), if self.asked => self.take_answer(answer),
                () = sleep_until(self.reread_at), if self.reread_at.is_some() => self.reread_at = None,
                () = sleep_until(deadline), if stopping => {}
                () = stopped(&mut self.shutdown), if !stopping => {}
            }
        }
    }

    /// Does what can be done without waiting; returns how many publications are kept.
    async fn prepare(&mut self, client: &AsyncClient) -> usize {
        if self.shared.is_accepted() {
            self.shared.hand(client);
            self.look_for_gap();
            self.ask_for_page().await;
        }
        let kept = self.shared.outbox().len();
        let waiting = i64::try_from(self.queue.queue.len() + kept).unwrap_or(i64::MAX);
        self.shared.metrics.publications_waiting.set(waiting);
        kept
    }

    fn take_live(&mut self, batch: &mut Vec<Publication>, count: usize) {
        if count == 0 {
            self.closed = true;
            if self.queue.gap.first_missing().is_none() {
                self.shared.advance(Outbox::end_of_queue);
            }
            return;
        }
        let mut outbox = self.shared.outbox();
        batch.drain(..).for_each(|publication| outbox.accept_live(publication));
    }

    /// Turns to the store once the queue, which holds what came before the gap, is drained.
    fn look_for_gap(&mut self) {
        if self.supply.want() != Want::Queue {
            return;
        }
        // In this order: nothing enters the queue after the gap has opened.
        let Some(first) = self.queue.gap.first_missing() else { return };
        if self.queue.queue.is_empty() {
            tracing::info!(broker = %self.shared.settings.name, first, "predictions are read back from the store");
            self.supply.gap_reached(first);
        }
    }

    async fn ask_for_page(&mut self) {
        let Want::Page(after) = self.supply.want() else { return };
        let stopping = *self.shutdown.borrow();
        if self.asked
            || self.reread_at.is_some()
            || stopping
            || self.shared.outbox().len() > OUTBOX_MAX - PAGE
        {
            return;
        }
        // Room for one request, and none is under way: this does not wait.
        self.asked = self.backlog.requests.send((after, PAGE)).await.is_ok();
        if !self.asked {
            self.give_up("publish_backlog_ended");
        }
    }

    fn take_answer(&mut self, answer: Option<BacklogAnswer>) {
        self.asked = false;
        let page = match answer {
            Some(Ok(page)) => page,
            Some(Err(error)) => {
                tracing::warn!(error, "cannot read predictions back from the store");
                return self.wait_for_store();
            }
            None => return self.give_up("publish_backlog_ended"),
        };
        let before = self.supply;
        let after = self.supply.take_page(page, &mut self.shared.outbox());
        if self.supply != before {
            self.stuck_since = None;
        }
        match after {
            AfterPage::Continue => {}
            AfterPage::Wait => self.wait_for_store(),
            AfterPage::Close => match self.queue.gap.close() {
                Some(last) => self.supply.closed(last),
                None => self.supply.closed(0),
            },
        }
        self.shared.advance(|_| {});
    }

    fn wait_for_store(&mut self) {
        let now = Instant::now();
        if now.duration_since(*self.stuck_since.get_or_insert(now)) >= BACKLOG_PATIENCE {
            self.give_up("publish_backlog_unreadable");
        } else {
            self.reread_at = Some(now + REREAD_WAIT);
        }
    }

    fn give_up(&mut self, reason: &str) {
        self.stuck_since = None;
        let last_missing = self.queue.gap.close();
        let (after, through) = self.supply.give_up(last_missing, &mut self.shared.outbox());
        self.shared.lose(LossKind::Messages, &self.shared.settings.name, through - after, reason);
    }
}

fn micros_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}
