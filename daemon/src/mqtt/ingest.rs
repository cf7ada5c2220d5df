//! The ingest connection of one broker: connects, hands messages to the stage, acknowledges what the writer made safe.
//!
//! Never acknowledges by itself and never carries an acknowledgement over to another connection. First stage of the
//! flow; the acknowledgements are the only thing that comes back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dunlin_kit::backoff::random_unit;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::LastWill;
use rumqttc::v5::{AsyncClient, MqttOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::connection::{self, End, SetupError, keep_alive};
use super::reconnect::{Next, Reconnect, SessionStart};
use super::session::{Link, Session, Shared};
use crate::config::settings::BrokerSettings;
use crate::flow::{AckToken, BrokerIndex, Delivery, Loss};
use crate::metrics::Metrics;

/// Requests beside the acknowledgements: subscriptions, the status message, DISCONNECT.
const REQUESTS_BESIDE: usize = 1_024;
/// The status message and SUBSCRIBE packets are all that this connection numbers.
const OUTGOING_IN_FLIGHT_MAX: u16 = 1_024;
/// How long the broker may take to see us off.
const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// Groups of acknowledgements taken in one turn.
const GROUPS_PER_TURN: usize = 64;

/// What the broker tells others about the gateway.
#[derive(Debug, Clone)]
pub struct WillSpec {
    /// Topic of the retained status, as in `dunlin/gw1/status`.
    pub status_topic: String,
    /// Payload while connected.
    pub online: Bytes,
    /// Payload of the last will, and after an orderly stop.
    pub offline: Bytes,
}

impl WillSpec {
    /// Returns the status of a gateway: `online` and `offline` on `dunlin/<gateway>/status`.
    #[must_use]
    pub fn of_gateway(gateway: &str) -> Self {
        Self {
            status_topic: format!("dunlin/{gateway}/status"),
            online: Bytes::from_static(b"online"),
            offline: Bytes::from_static(b"offline"),
        }
    }
}

/// All that the ingest of one broker needs.
pub struct Ingest {
    /// The broker.
    pub settings: BrokerSettings,
    /// Its number.
    pub index: BrokerIndex,
    /// Topic filters to subscribe to.
    pub subscriptions: Vec<String>,
    /// Status topic.
    pub identity: WillSpec,
    /// To the stage; dropped as soon as `shutdown` is set.
    pub deliveries: mpsc::Sender<Delivery>,
    /// From the writer, for this broker alone; after `shutdown` the ingest goes on until all senders are dropped.
    pub acks: mpsc::Receiver<Vec<AckToken>>,
    /// Losses for the ledger.
    pub losses: mpsc::Sender<Loss>,
    /// Counters; this broker's entry has its name.
    pub metrics: Arc<Metrics>,
    /// Becomes true when the daemon stops.
    pub shutdown: watch::Receiver<bool>,
    /// How long the last acknowledgements may take after that.
    pub drain: Duration,
}

/// Runs until `shutdown` is set and the last acknowledgements are out. Failures of the broker are counted, logged
/// and tried again for ever.
pub async fn run_ingest(ingest: Ingest) {
    let Ingest { settings, index, subscriptions, identity, deliveries, acks, losses, metrics, .. } = ingest;
    let scheme = if settings.tls.is_some() { "mqtts" } else { "mqtt" };
    let url = format!("{scheme}://{}:{}", settings.host, settings.port);
    metrics.broker(&settings.name, |counts| counts.url = url);
    let rule = Reconnect::new(settings.reconnect_max);
    let shared = Shared::new((settings, index), subscriptions, identity, (deliveries, losses), metrics);
    let shared = Arc::new(shared);
    let acknowledging = tokio::spawn(acknowledge(acks, Arc::clone(&shared)));
    let mut supervisor = Supervisor { shared, acknowledging, shutdown: ingest.shutdown, drain: ingest.drain };
    supervisor.run(rule).await;
    supervisor.acknowledging.abort();
    supervisor.shared.set_link(None);
}

/// Sends the acknowledgements of one broker in the writer's order; those of another connection are dropped.
async fn acknowledge(mut acks: mpsc::Receiver<Vec<AckToken>>, shared: Arc<Shared>) {
    let mut groups = Vec::with_capacity(GROUPS_PER_TURN);
    while acks.recv_many(&mut groups, GROUPS_PER_TURN).await > 0 {
        let mut stale = 0_u64;
        for token in groups.drain(..).flatten() {
            match shared.link_of(token.connection) {
                Some(link) if token.broker == shared.index => link.acknowledge(token.packet_id).await,
                _ => stale += 1,
            }
        }
        if stale > 0 {
            tracing::debug!(broker = %shared.settings.name, stale, "acknowledgements of an earlier connection");
        }
    }
}

struct Supervisor {
    shared: Arc<Shared>,
    acknowledging: JoinHandle<()>,
    shutdown: watch::Receiver<bool>,
    drain: Duration,
}

impl Supervisor {
    async fn run(&mut self, mut rule: Reconnect) {
        let mut start = SessionStart::First;
        while !*self.shutdown.borrow() {
            let (end, stood) = match self.options(start) {
                Ok(options) => self.one_connection(options, start).await,
                Err(error) => (End::Lost(error.to_string()), None),
            };
            if *self.shutdown.borrow() {
                break;
            }
            let Next { wait, start: next } = rule.after(&end, stood, random_unit());
            let end = if rule.suspects_takeover() { End::TakenOver } else { end };
            self.record(&end, wait);
            if next == SessionStart::Clean && start != SessionStart::Clean {
                self.give_up_session();
            }
            start = next;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopped(&mut self.shutdown) => {}
            }
        }
        self.shared.stop_delivering();
    }

    fn options(&self, start: SessionStart) -> Result<MqttOptions, SetupError> {
        let settings = &self.shared.settings;
        let identity = &self.shared.identity;
        let mut options = connection::options(settings, &settings.client_id, OUTGOING_IN_FLIGHT_MAX)?;
        let expiry = u32::try_from(settings.session_expiry.as_secs()).unwrap_or(u32::MAX);
        let will = LastWill::new(
            identity.status_topic.as_str(),
            identity.offline.clone(),
            QoS::AtLeastOnce,
            true,
            None,
        );
        options
            .set_clean_start(start == SessionStart::Clean)
            .set_session_expiry_interval(Some(expiry))
            .set_receive_maximum(Some(settings.receive_max.max(1)))
            .set_manual_acks(true)
            .set_last_will(will);
        Ok(options)
    }

    async fn one_connection(&mut self, options: MqttOptions, start: SessionStart) -> (End, Option<Duration>) {
        let filters = self.shared.subscriptions.len();
        let capacity = usize::from(self.shared.settings.receive_max) + REQUESTS_BESIDE + filters;
        let (client, eventloop) = AsyncClient::new(options, capacity);
        let link = Arc::new(Link::new(connection::next_connection(), client));
        self.shared.set_link(Some(Arc::clone(&link)));
        let session = Session::new(Arc::clone(&self.shared), Arc::clone(&link), start);
        let mut task = tokio::spawn(session.run(eventloop));
        let end = self.watch(&link, &mut task).await;
        self.shared.set_link(None);
        let name = &self.shared.settings.name;
        self.shared.metrics.broker(name, |counts| (counts.connected, counts.in_flight) = (false, 0));
        (end, link.stood())
    }

    async fn watch(&mut self, link: &Link, task: &mut JoinHandle<End>) -> End {
        let mut look = tokio::time::interval(keep_alive(&self.shared.settings) / 8);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // A panic in the client library: it fell over something that it was sent. One text for all, since
                // identical failures are counted.
                joined = &mut *task => {
                    return joined.unwrap_or_else(|_| End::Unreadable("the MQTT client failed on it".to_owned()));
                }
                _ = look.tick() => if link.is_silent() {
                    task.abort();
                    let _ = (&mut *task).await;
                    return End::Lost("nothing was heard from the broker for 1.5 keep-alive intervals".to_owned());
                },
                () = stopped(&mut self.shutdown) => break,
            }
        }
        self.farewell(link, task).await;
        End::Closed
    }

    /// Waits for the last acknowledgements, then leaves in an orderly way: the broker drops the last will, so the
    /// status is published first.
    async fn farewell(&mut self, link: &Link, task: &mut JoinHandle<End>) {
        self.shared.stop_delivering();
        if link.stood().is_some() {
            tokio::select! {
                _ = &mut *task => return,
                _ = &mut self.acknowledging => {}
                () = tokio::time::sleep(self.drain) => {
                    tracing::warn!(
                        broker = %self.shared.settings.name,
                        "messages were not acknowledged before the deadline: the broker delivers them again"
                    );
                }
            }
            let identity = &self.shared.identity;
            let topic = identity.status_topic.as_str();
            let _ = link.client.try_publish(topic, QoS::AtLeastOnce, true, identity.offline.clone());
            if link.client.try_disconnect().is_ok()
                && tokio::time::timeout(FAREWELL_MAX, &mut *task).await.is_ok()
            {
                return;
            }
        }
        task.abort();
        let _ = task.await;
    }

    fn record(&self, end: &End, wait: Duration) {
        let settings = &self.shared.settings;
        let text = end.describe(settings);
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let repeated =
            self.shared.metrics.brokers().get(&settings.name).and_then(|counts| counts.last_error.clone())
                == Some(text.clone());
        if repeated {
            tracing::debug!(broker = %settings.name, error = %text, wait_ms, "no connection");
        } else {
            tracing::warn!(broker = %settings.name, error = %text, wait_ms, "no connection");
        }
        self.shared.metrics.broker(&settings.name, |counts| counts.last_error = Some(text));
    }

    /// The number of messages is not known: at least the one that cannot be read.
    fn give_up_session(&self) {
        let name = &self.shared.settings.name;
        tracing::error!(
            broker = %name,
            "the session holds a packet that cannot be read: it is started clean, what the broker held is lost"
        );
        self.shared.metrics.broker(name, |counts| counts.dropped += 1);
        if !self.shared.lose(1, "session_reset") {
            tracing::warn!(broker = %name, "the loss could not be put into the ledger");
        }
    }
}

/// Returns once the daemon stops.
pub(super) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // A dropped sender is a stop as well.
    let _ = shutdown.wait_for(|stop| *stop).await;
}
