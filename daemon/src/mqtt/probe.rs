//! Looks at a broker for `dunlind check`: what it allows, what it answers to the subscriptions, what arrives.
//!
//! Never touches the daemon's session: it has a client id of its own, starts clean, leaves no session, no last will
//! and acknowledges nothing that another client waits for.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Filter, Packet, SubAck};
use rumqttc::v5::{AsyncClient, Event, EventLoop};
use tokio::time::Instant;

use super::connection::{self, End, SetupError, end_of, qos_of, subscription_fault};
use crate::config::settings::BrokerSettings;

/// Topics that a report lists.
pub const TOPICS_MAX: usize = 1_000;
/// Where brokers say what they are.
pub const VERSION_TOPIC: &str = "$SYS/broker/version";
/// Longest version that is kept, in bytes.
const VERSION_BYTES_MAX: usize = 128;
/// How long the broker may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(15);
const FILTERS_PER_PACKET: usize = 64;

/// What was seen of a broker.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct ProbeReport {
    /// QoS 1 publications that the broker takes before it acknowledges one; 65,535 where it names none.
    pub receive_max: u16,
    /// Largest packet that the broker takes, in bytes, where it names one.
    pub packet_bytes_max: Option<u32>,
    /// Highest quality of service.
    pub qos_max: u8,
    /// Whether it keeps retained messages.
    pub retain_available: bool,
    /// Whether it takes wildcards in subscriptions.
    pub wildcards_available: bool,
    /// Keep-alive that it asks for, in seconds.
    pub server_keep_alive: Option<u16>,
    /// Longest time that it keeps a session, in seconds, where it is shorter than asked for.
    pub session_expiry: Option<u32>,
    /// Client id that it assigned.
    pub assigned_client_id: Option<String>,
    /// What it says on [`VERSION_TOPIC`].
    pub version: Option<String>,
    /// What is wrong with subscriptions, by filter; empty when all were granted.
    pub subscription_faults: BTreeMap<String, String>,
    /// Messages by topic, at most [`TOPICS_MAX`] topics.
    pub topics: BTreeMap<String, u64>,
    /// Messages of other topics.
    pub other_messages: u64,
}

/// Why nothing was seen.
#[derive(Debug)]
pub enum ProbeError {
    /// Credential or TLS files.
    Setup(String),
    /// The broker refused the connection: the text says why and what to change.
    Refused(String),
    /// The broker cannot be reached, or the connection broke.
    Unreachable(String),
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup(text) | Self::Refused(text) => f.write_str(text),
            Self::Unreachable(text) => {
                write!(f, "no connection to the broker: {text}: check host, port and whether it runs")
            }
        }
    }
}

impl std::error::Error for ProbeError {}

impl From<SetupError> for ProbeError {
    fn from(error: SetupError) -> Self {
        Self::Setup(error.to_string())
    }
}

impl From<End> for ProbeError {
    fn from(end: End) -> Self {
        match end {
            End::Refused(text) => Self::Refused(text),
            End::Lost(text) | End::Unreadable(text) => Self::Unreachable(text),
            End::Closed | End::ClosedByBroker | End::TakenOver | End::Stalled => {
                Self::Unreachable("the broker closed the connection".to_owned())
            }
        }
    }
}

/// Connects, subscribes and listens for `seconds`.
///
/// *Errors*: files, a refusal, or no connection; each names the remedy.
pub async fn probe(
    settings: &BrokerSettings,
    subscriptions: &[String],
    seconds: u64,
) -> Result<ProbeReport, ProbeError> {
    let client_id = format!("{}-check-{}", settings.client_id, std::process::id());
    let options = connection::options(settings, &client_id, 1_024)?;
    let (client, mut eventloop) = AsyncClient::new(options, subscriptions.len() + 16);
    let mut probing = Probing {
        settings,
        subscriptions,
        report: ProbeReport::default(),
        packets_awaited: subscriptions.len().div_ceil(FILTERS_PER_PACKET),
        accepted: false,
    };
    let answered = tokio::time::timeout(ANSWER_MAX, probing.answers(&client, &mut eventloop)).await;
    answered.map_err(|_| ProbeError::Unreachable("it does not answer".to_owned()))??;
    // Dropping the poll is harmless: nothing is sent any more, and the connection goes with it.
    let until = Instant::now() + Duration::from_secs(seconds);
    if let Ok(Err(error)) = tokio::time::timeout_at(until, probing.listen(&mut eventloop)).await {
        return Err(error);
    }
    let report = std::mem::take(&mut probing.report);
    if client.try_disconnect().is_ok() {
        let _ = tokio::time::timeout(Duration::from_secs(1), probing.listen(&mut eventloop)).await;
    }
    Ok(report)
}

struct Probing<'p> {
    settings: &'p BrokerSettings,
    subscriptions: &'p [String],
    report: ProbeReport,
    packets_awaited: usize,
    accepted: bool,
}

impl Probing<'_> {
    async fn answers(&mut self, client: &AsyncClient, eventloop: &mut EventLoop) -> Result<(), ProbeError> {
        while !self.accepted || self.packets_awaited > 0 {
            match eventloop.poll().await.map_err(|error| end_of(&error))? {
                Event::Incoming(Packet::ConnAck(connack)) => {
                    self.accepted = true;
                    self.read_limits(&connack);
                    self.subscribe(client)?;
                }
                Event::Incoming(Packet::SubAck(suback)) => self.read_grants(&suback),
                event => self.count(&event),
            }
        }
        Ok(())
    }

    async fn listen(&mut self, eventloop: &mut EventLoop) -> Result<(), ProbeError> {
        loop {
            let event = eventloop.poll().await.map_err(|error| end_of(&error))?;
            if matches!(event, Event::Outgoing(rumqttc::Outgoing::Disconnect)) {
                return Ok(());
            }
            self.count(&event);
        }
    }

    fn read_limits(&mut self, connack: &ConnAck) {
        let report = &mut self.report;
        (report.receive_max, report.qos_max) = (u16::MAX, 2);
        (report.retain_available, report.wildcards_available) = (true, true);
        let Some(properties) = &connack.properties else { return };
        report.receive_max = properties.receive_max.unwrap_or(u16::MAX);
        report.packet_bytes_max = properties.max_packet_size;
        report.qos_max = properties.max_qos.unwrap_or(2);
        report.retain_available = properties.retain_available != Some(0);
        report.wildcards_available = properties.wildcard_subscription_available != Some(0);
        report.server_keep_alive = properties.server_keep_alive;
        report.session_expiry = properties.session_expiry_interval;
        report.assigned_client_id.clone_from(&properties.assigned_client_identifier);
    }

    fn subscribe(&self, client: &AsyncClient) -> Result<(), ProbeError> {
        for chunk in self.subscriptions.chunks(FILTERS_PER_PACKET) {
            let filters = chunk.iter().map(|path| Filter::new(path, qos_of(self.settings.qos)));
            client.try_subscribe_many(filters).map_err(|_| {
                ProbeError::Setup(format!("`{}` holds no valid topic filters", chunk.join("`, `")))
            })?;
        }
        Ok(())
    }

    fn read_grants(&mut self, suback: &SubAck) {
        self.packets_awaited = self.packets_awaited.saturating_sub(1);
        let first = usize::from(suback.pkid.saturating_sub(1)) * FILTERS_PER_PACKET;
        let asked: QoS = qos_of(self.settings.qos);
        for (position, answer) in suback.return_codes.iter().enumerate() {
            let topic = self.subscriptions.get(first + position);
            if let (Some(topic), Some(fault)) = (topic, subscription_fault(asked, *answer)) {
                self.report.subscription_faults.insert(topic.clone(), fault);
            }
        }
    }

    fn count(&mut self, event: &Event) {
        let Event::Incoming(Packet::Publish(publish)) = event else { return };
        let topic = String::from_utf8_lossy(&publish.topic);
        if topic == VERSION_TOPIC {
            let said =
                String::from_utf8_lossy(&publish.payload[..publish.payload.len().min(VERSION_BYTES_MAX)]);
            self.report.version = Some(said.chars().filter(|letter| !letter.is_control()).collect());
            return;
        }
        if let Some(count) = self.report.topics.get_mut(topic.as_ref()) {
            *count += 1;
        } else if self.report.topics.len() < TOPICS_MAX {
            self.report.topics.insert(topic.into_owned(), 1);
        } else {
            self.report.other_messages += 1;
        }
    }
}
