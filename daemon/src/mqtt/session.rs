//! One ingest connection: the task that polls it, and the link over which its messages are acknowledged.
//!
//! Polls until the connection ends and never reconnects; waits for the stage no longer than the keep-alive allows.
//! Stands between the socket and the stage.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dunlin_kit::clock::monotonic_micros;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Filter, Packet, Publish, RetainForwardRule, SubAck};
use rumqttc::v5::{AsyncClient, Event, EventLoop};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::connection::{End, agreed_keep_alive, end_of, keep_alive, qos_of, subscription_fault};
use super::ingest::WillSpec;
use super::reconnect::SessionStart;
use crate::config::settings::BrokerSettings;
use crate::flow::{AckToken, BrokerIndex, ConnectionId, Delivery, Loss, LossKind};
use crate::metrics::Metrics;

/// Filters of one SUBSCRIBE packet, so that it stays under any sensible packet limit.
const FILTERS_PER_PACKET: usize = 64;
/// A row of the ledger each second at most, however many messages are dropped.
const LEDGER_INTERVAL_US: i64 = 1_000_000;
/// Packet identifiers have 16 bits.
const PACKET_IDS: usize = 65_536;

/// What all connections of one broker have in common.
pub(super) struct Shared {
    pub(super) settings: BrokerSettings,
    pub(super) index: BrokerIndex,
    pub(super) subscriptions: Vec<String>,
    pub(super) identity: WillSpec,
    pub(super) losses: mpsc::Sender<Loss>,
    pub(super) metrics: Arc<Metrics>,
    /// `None` once the daemon stops: what arrives then stays with the broker.
    deliveries: Mutex<Option<mpsc::Sender<Delivery>>>,
    link: Mutex<Option<Arc<Link>>>,
}

impl Shared {
    pub(super) fn new(
        (settings, index): (BrokerSettings, BrokerIndex),
        subscriptions: Vec<String>,
        identity: WillSpec,
        (deliveries, losses): (mpsc::Sender<Delivery>, mpsc::Sender<Loss>),
        metrics: Arc<Metrics>,
    ) -> Self {
        let deliveries = Mutex::new(Some(deliveries));
        Self { settings, index, subscriptions, identity, losses, metrics, deliveries, link: Mutex::new(None) }
    }

    /// Ends the flow to the stage.
    pub(super) fn stop_delivering(&self) {
        *self.deliveries.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Makes this the link that acknowledgements may go over.
    pub(super) fn set_link(&self, link: Option<Arc<Link>>) {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = link;
    }

    /// Returns the link of this connection, or `None` where the connection is gone.
    pub(super) fn link_of(&self, connection: ConnectionId) -> Option<Arc<Link>> {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.as_ref().filter(|link| link.connection == connection).cloned()
    }

    /// Puts a loss into the ledger; tells whether its queue had room.
    pub(super) fn lose(&self, count: u64, reason: &str) -> bool {
        let loss = Loss {
            kind: LossKind::Messages,
            object: self.settings.name.clone(),
            first_us: 0,
            last_us: 0,
            count,
            reason: reason.to_owned(),
        };
        self.losses.try_send(loss).is_ok()
    }

    fn hand(&self, delivery: Delivery) -> Handed {
        let deliveries = self.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = deliveries.as_ref() else { return Handed::Stopped };
        match sender.try_send(delivery) {
            Ok(()) => Handed::Taken,
            Err(TrySendError::Closed(_)) => Handed::Stopped,
            Err(TrySendError::Full(delivery)) => Handed::Full(Box::new(delivery), sender.clone()),
        }
    }
}

enum Handed {
    Taken,
    Full(Box<Delivery>, mpsc::Sender<Delivery>),
    Stopped,
}

/// What the supervisor and the acknowledging task see of a connection.
pub(super) struct Link {
    pub(super) connection: ConnectionId,
    pub(super) client: AsyncClient,
    accepted_us: AtomicI64,
    heard_us: AtomicI64,
    keep_alive_us: AtomicI64,
    in_flight: AtomicU64,
    /// By packet identifier: messages received and not acknowledged. None is acknowledged twice; and a broker that goes
    /// round its identifiers while messages wait, beyond the agreed number, gets an answer for each.
    outstanding: Vec<AtomicU8>,
}

impl Link {
    pub(super) fn new(connection: ConnectionId, client: AsyncClient) -> Self {
        Self {
            connection,
            client,
            accepted_us: AtomicI64::new(0),
            heard_us: AtomicI64::new(0),
            keep_alive_us: AtomicI64::new(0),
            in_flight: AtomicU64::new(0),
            outstanding: (0..PACKET_IDS).map(|_| AtomicU8::new(0)).collect(),
        }
    }

    /// Returns how long the connection has stood, or `None` where the broker has not accepted it.
    pub(super) fn stood(&self) -> Option<Duration> {
        let accepted = self.accepted_us.load(Ordering::Relaxed);
        (accepted > 0).then(|| Duration::from_micros((monotonic_micros() - accepted).unsigned_abs()))
    }

    /// Tells whether nothing was heard for 1.5 keep-alive intervals: the line is dead in one direction.
    pub(super) fn is_silent(&self) -> bool {
        let heard = self.heard_us.load(Ordering::Relaxed);
        let allowed = self.keep_alive_us.load(Ordering::Relaxed) / 2 * 3;
        heard > 0 && allowed > 0 && monotonic_micros() - heard > allowed
    }

    /// Sends PUBACK for a packet of this connection; waits only where the request queue is full, which the size of
    /// the queue rules out.
    pub(super) async fn acknowledge(&self, packet_id: u16) {
        let outstanding = &self.outstanding[usize::from(packet_id)];
        let fewer = |count: u8| count.checked_sub(1);
        if outstanding.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_err() {
            return;
        }
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let mut publish = Publish::new("", QoS::AtLeastOnce, Vec::new(), None);
        publish.pkid = packet_id;
        if self.client.try_ack(&publish).is_err() {
            // An error here means that the connection is gone: the broker delivers the message again.
            let _ = self.client.ack(&publish).await;
        }
    }

    fn received(&self, packet_id: u16) {
        let more = |count: u8| count.checked_add(1);
        let outstanding = &self.outstanding[usize::from(packet_id)];
        if outstanding.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The polling side of a connection.
pub(super) struct Session {
    shared: Arc<Shared>,
    link: Arc<Link>,
    start: SessionStart,
    /// How long the stage has held this task since the socket was looked at.
    held: Duration,
    messages: u64,
    payload_bytes: u64,
    dropped: u64,
    /// Dropped messages that the ledger has not been told of, and when it was told last.
    untold: u64,
    told_us: i64,
}

impl Session {
    pub(super) const fn new(shared: Arc<Shared>, link: Arc<Link>, start: SessionStart) -> Self {
        let (messages, payload_bytes, dropped, untold) = (0, 0, 0, 0);
        Self {
            shared,
            link,
            start,
            held: Duration::ZERO,
            messages,
            payload_bytes,
            dropped,
            untold,
            told_us: 0,
        }
    }

    /// Polls until the connection ends and says how.
    pub(super) async fn run(mut self, mut eventloop: EventLoop) -> End {
        let end = self.poll_all(&mut eventloop).await;
        // What came in one read with the packet that ended the connection: it was received, and QoS 0 has no other
        // chance.
        while let Some(event) = eventloop.state.events.pop_front() {
            if let Event::Incoming(Packet::Publish(publish)) = event
                && self.deliver(publish).await.is_some()
            {
                break;
            }
        }
        self.count();
        self.tell_losses();
        end
    }

    async fn poll_all(&mut self, eventloop: &mut EventLoop) -> End {
        loop {
            if eventloop.state.events.is_empty() {
                self.held = Duration::ZERO;
                self.count();
            }
            let event = match eventloop.poll().await {
                Ok(event) => event,
                Err(error) => return end_of(&error),
            };
            let ended = match event {
                Event::Incoming(packet) => {
                    self.link.heard_us.store(monotonic_micros(), Ordering::Relaxed);
                    match packet {
                        Packet::Publish(publish) => self.deliver(publish).await,
                        Packet::ConnAck(connack) => self.accepted(&connack, eventloop),
                        Packet::SubAck(suback) => {
                            self.subscribed(&suback);
                            None
                        }
                        _ => None,
                    }
                }
                Event::Outgoing(Outgoing::Disconnect) => Some(End::Closed),
                Event::Outgoing(_) => None,
            };
            if let Some(end) = ended {
                return end;
            }
        }
    }

    fn accepted(&self, connack: &ConnAck, eventloop: &mut EventLoop) -> Option<End> {
        let properties = connack.properties.as_ref();
        let announced = keep_alive(&self.shared.settings);
        let interval = agreed_keep_alive(connack, announced, eventloop);
        let now = monotonic_micros();
        let interval_us = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX);
        self.link.keep_alive_us.store(interval_us, Ordering::Relaxed);
        self.link.accepted_us.store(now, Ordering::Relaxed);
        let settings = &self.shared.settings;
        if self.start == SessionStart::Resume
            && !connack.session_present
            && !settings.session_expiry.is_zero()
        {
            tracing::warn!(
                broker = %settings.name,
                "the broker has lost the session: what it held for the daemon is gone; check its persistence"
            );
            let _ = self.shared.lose(0, "session_lost");
        }
        tracing::info!(broker = %settings.name, session = connack.session_present, "connected");
        self.shared.metrics.broker(&settings.name, |counts| {
            counts.connected = true;
            counts.connects += 1;
        });
        self.greet(properties.and_then(|properties| properties.retain_available) != Some(0))
    }

    /// Subscribes and says that the gateway is there. The request queue is empty and large enough for both.
    fn greet(&self, retain: bool) -> Option<End> {
        for chunk in self.shared.subscriptions.chunks(FILTERS_PER_PACKET) {
            let filters = chunk.iter().map(|path| {
                let mut filter = Filter::new(path, qos_of(self.shared.settings.qos));
                // Retained messages once a session, not once a connection.
                filter.retain_forward_rule = RetainForwardRule::OnNewSubscribe;
                filter
            });
            if self.link.client.try_subscribe_many(filters).is_err() {
                return Some(End::Lost(format!("`{}` holds no valid topic filters", chunk.join("`, `"))));
            }
        }
        let will = &self.shared.identity;
        let _ = self.link.client.try_publish(
            will.status_topic.as_str(),
            QoS::AtLeastOnce,
            retain,
            will.online.clone(),
        );
        None
    }

    fn subscribed(&self, suback: &SubAck) {
        let settings = &self.shared.settings;
        // Packets are answered in order and each holds one chunk, numbered from 1.
        let first = usize::from(suback.pkid.saturating_sub(1)) * FILTERS_PER_PACKET;
        for (position, answer) in suback.return_codes.iter().enumerate() {
            let Some(fault) = subscription_fault(qos_of(settings.qos), *answer) else { continue };
            let topic = self.shared.subscriptions.get(first + position).map_or("?", String::as_str);
            tracing::error!(broker = %settings.name, topic, fault, "subscription");
            let text = format!("subscription `{topic}`: {fault}");
            self.shared.metrics.broker(&settings.name, |counts| counts.last_error = Some(text));
        }
    }

    async fn deliver(&mut self, publish: Publish) -> Option<End> {
        self.messages += 1;
        self.payload_bytes += publish.payload.len() as u64;
        let ack = match publish.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => {
                self.link.received(publish.pkid);
                Some(AckToken {
                    broker: self.shared.index,
                    connection: self.link.connection,
                    packet_id: publish.pkid,
                    content_crc: crc32c::crc32c_append(crc32c::crc32c(&publish.topic), &publish.payload),
                })
            }
            // Subscribed at QoS 1 at most: a leftover of another subscription in this session.
            QoS::ExactlyOnce => return Some(End::Unreadable("a message with QoS 2".to_owned())),
        };
        let delivery = Delivery {
            broker: self.shared.index,
            topic: publish.topic,
            payload: publish.payload,
            retained: publish.retain,
            duplicate: publish.dup,
            ack,
            arrived_us: monotonic_micros(),
        };
        match self.shared.hand(delivery) {
            Handed::Taken | Handed::Stopped => None,
            Handed::Full(delivery, sender) => self.hold(*delivery, sender).await,
        }
    }

    /// Waits for room. A quarter of the keep-alive between two looks at the socket leaves the broker's ping its
    /// chance even where two looks in a row pass it over.
    async fn hold(&mut self, delivery: Delivery, sender: mpsc::Sender<Delivery>) -> Option<End> {
        let at_least_once = delivery.ack.is_some();
        let allowed = (keep_alive(&self.shared.settings) / 4).saturating_sub(self.held);
        let before = tokio::time::Instant::now();
        let sent = tokio::time::timeout(allowed, sender.send(delivery)).await;
        self.held += before.elapsed();
        if sent.is_ok() {
            return None;
        }
        if at_least_once {
            return Some(End::Stalled);
        }
        self.dropped += 1;
        None
    }

    fn count(&mut self) {
        let in_flight = self.link.in_flight.load(Ordering::Relaxed);
        let (messages, bytes, dropped) = (self.messages, self.payload_bytes, self.dropped);
        (self.messages, self.payload_bytes, self.dropped) = (0, 0, 0);
        self.shared.metrics.broker(&self.shared.settings.name, |counts| {
            counts.messages += messages;
            counts.payload_bytes += bytes;
            counts.dropped += dropped;
            counts.in_flight = in_flight;
        });
        self.untold += dropped;
        if self.untold > 0 && monotonic_micros() - self.told_us > LEDGER_INTERVAL_US {
            self.tell_losses();
        }
    }

    fn tell_losses(&mut self) {
        if self.untold > 0 && self.shared.lose(self.untold, "queue_full") {
            self.untold = 0;
        }
        self.told_us = monotonic_micros();
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::MqttOptions;

    use super::*;

    #[test]
    fn as_many_are_acknowledged_as_came_under_an_identifier_and_no_more() {
        let (client, _eventloop) = AsyncClient::new(MqttOptions::new("gw", "localhost", 1883), 8);
        let link = Link::new(super::super::connection::next_connection(), client);
        let in_flight = || link.in_flight.load(Ordering::Relaxed);
        // A broker that went round its identifiers before the first was acknowledged.
        [7, 8, 7].into_iter().for_each(|packet_id| link.received(packet_id));
        assert_eq!(in_flight(), 3);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (packet_id, left) in [(7, 2), (7, 1), (7, 1), (8, 0), (9, 0)] {
            runtime.block_on(link.acknowledge(packet_id));
            assert_eq!(in_flight(), left, "{packet_id}");
        }
    }
}
