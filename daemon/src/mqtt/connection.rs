//! What a connection to a broker is made with, and how its end is named.
//!
//! Turns settings into options of the client library and its errors into few kinds with texts for an operator. Makes
//! no connection itself.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dunlin_kit::error_chain::Chain;
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnectReturnCode, DisconnectReasonCode, SubscribeReasonCode};
use rumqttc::v5::mqttbytes::{Error as CodecError, QoS};
use rumqttc::v5::{ConnectionError, EventLoop, MqttOptions, StateError};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};

use super::credential::{self, CredentialError};
use super::tls::{self, TlsError};
use crate::config::settings::{BrokerSettings, SubscriptionQos};
use crate::flow::ConnectionId;

/// Seconds that DNS, TCP, TLS and CONNACK may take together.
const CONNECT_SECONDS_MAX: u64 = 10;
/// The client library refuses a shorter keep-alive.
const KEEP_ALIVE_MIN: Duration = Duration::from_secs(5);
/// MQTT holds it in 16 bits.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(65_535);

/// Why a connection was not tried.
#[derive(Debug)]
pub(super) enum SetupError {
    /// The credential file.
    Credential(CredentialError),
    /// The TLS files.
    Tls(TlsError),
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credential(error) => Chain(error).fmt(f),
            Self::Tls(error) => Chain(error).fmt(f),
        }
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// This side closed it.
    Closed,
    /// It could not be made, or broke.
    Lost(String),
    /// The broker closed it without a word.
    ClosedByBroker,
    /// The broker refused it in CONNACK.
    Refused(String),
    /// Another client took the session.
    TakenOver,
    /// The broker sent a packet that cannot be read; it will send it again in this session.
    Unreadable(String),
    /// The stage took no message for longer than the keep-alive allows.
    Stalled,
}

impl End {
    /// Returns the text for logs and status.
    pub(super) fn describe(&self, settings: &BrokerSettings) -> String {
        match self {
            Self::Closed => "closed by the daemon".to_owned(),
            Self::ClosedByBroker => "the broker closed the connection".to_owned(),
            Self::Lost(text) | Self::Refused(text) => text.clone(),
            Self::TakenOver => format!(
                "the broker closes connections soon after it has accepted them: another client takes over the client id `{}` (give each gateway its own `client_id`), or the link is unstable",
                settings.client_id
            ),
            Self::Unreadable(text) => format!("the broker sent a packet that cannot be read: {text}"),
            Self::Stalled => {
                "the pipeline took no message for too long: the broker keeps them and delivers them again"
                    .to_owned()
            }
        }
    }
}

/// Returns the next connection's number.
pub(super) fn next_connection() -> ConnectionId {
    static LAST: AtomicU64 = AtomicU64::new(0);
    ConnectionId(LAST.fetch_add(1, Ordering::Relaxed) + 1)
}

/// Returns the keep-alive interval that is announced.
pub(super) fn keep_alive(settings: &BrokerSettings) -> Duration {
    settings.keep_alive.clamp(KEEP_ALIVE_MIN, KEEP_ALIVE_MAX)
}

/// Returns the keep-alive interval that the broker answered with, and mends the event loop where it answered 0: that
/// switches the broker's watch off, and the library would ping without pause.
pub(super) fn agreed_keep_alive(
    connack: &ConnAck,
    announced: Duration,
    eventloop: &mut EventLoop,
) -> Duration {
    match connack.properties.as_ref().and_then(|properties| properties.server_keep_alive) {
        Some(seconds) if seconds > 0 => Duration::from_secs(u64::from(seconds)),
        _ => {
            eventloop.options.set_keep_alive(announced);
            announced
        }
    }
}

/// Returns options for a clean connection under this client id; reads the credential and TLS files.
pub(super) fn options(
    settings: &BrokerSettings,
    client_id: &str,
    outgoing_in_flight_max: u16,
) -> Result<MqttOptions, SetupError> {
    // Brackets belong to URLs; resolver and certificate check want the bare address.
    let host = settings.host.trim_start_matches('[').trim_end_matches(']');
    let mut options = MqttOptions::new(client_id, host, settings.port);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options
        .set_network_options(network)
        .set_keep_alive(keep_alive(settings))
        .set_clean_start(true)
        .set_connection_timeout(CONNECT_SECONDS_MAX)
        .set_max_packet_size(Some(settings.packet_bytes_max))
        .set_outgoing_inflight_upper_limit(outgoing_in_flight_max);
    if let Some(tls) = &settings.tls {
        let config = tls::client_config(tls).map_err(SetupError::Tls)?;
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
    }
    let credential = credential::read(settings.username.as_deref(), settings.credential_file.as_deref())
        .map_err(SetupError::Credential)?;
    if let Some(credential) = credential {
        options.set_credentials(credential.username, credential.password);
    }
    Ok(options)
}

/// Returns the client library's word for a quality of service.
pub(super) const fn qos_of(qos: SubscriptionQos) -> QoS {
    match qos {
        SubscriptionQos::AtMostOnce => QoS::AtMostOnce,
        SubscriptionQos::AtLeastOnce => QoS::AtLeastOnce,
    }
}

/// Classifies an error of the event loop.
pub(super) fn end_of(error: &ConnectionError) -> End {
    match error {
        ConnectionError::MqttState(state) => end_of_state(state),
        ConnectionError::Timeout(_) => {
            End::Lost(format!("no answer from the broker within {CONNECT_SECONDS_MAX} s"))
        }
        ConnectionError::ConnectionRefused(code) => End::Refused(refusal_text(*code)),
        ConnectionError::Tls(error) => End::Lost(format!("TLS: {}", Chain(error))),
        ConnectionError::Io(error) => End::Lost(error.to_string()),
        ConnectionError::NotConnAck(_) => End::Lost("the peer does not speak MQTT 5".to_owned()),
        ConnectionError::RequestsDone => End::Closed,
    }
}

fn end_of_state(error: &StateError) -> End {
    match error {
        StateError::ServerDisconnect { reason_code: DisconnectReasonCode::SessionTakenOver, .. } => {
            End::TakenOver
        }
        StateError::ServerDisconnect { reason_code, reason_string } => {
            let detail = reason_string.as_deref().unwrap_or_default();
            End::Lost(format!("the broker disconnected: {reason_code:?} {detail}").trim_end().to_owned())
        }
        StateError::Deserialization(CodecError::Io(error)) => End::Lost(error.to_string()),
        StateError::Io(error) => End::Lost(error.to_string()),
        StateError::Deserialization(CodecError::OutgoingPacketTooLarge { .. })
        | StateError::OutgoingPacketTooLarge { .. } => End::Lost(error.to_string()),
        StateError::Deserialization(CodecError::PayloadSizeLimitExceeded { pkt_size, max }) => {
            End::Unreadable(format!("{pkt_size} bytes where Maximum Packet Size is {max}"))
        }
        StateError::Deserialization(_)
        | StateError::WrongPacket
        | StateError::Unsolicited(_)
        | StateError::IncomingPacketTooLarge { .. } => End::Unreadable(error.to_string()),
        StateError::ConnectionAborted => End::ClosedByBroker,
        StateError::AwaitPingResp => End::Lost("the broker did not answer a ping".to_owned()),
        other => End::Lost(other.to_string()),
    }
}

fn refusal_text(code: ConnectReturnCode) -> String {
    let why = match code {
        ConnectReturnCode::BadUserNamePassword => {
            "bad user name or password: check `username` and `credential_file`"
        }
        ConnectReturnCode::NotAuthorized => {
            "not authorised: check `username`, `credential_file` and the broker's access list"
        }
        ConnectReturnCode::ClientIdentifierNotValid | ConnectReturnCode::BadClientId => {
            "the client id is not valid: change `client_id`"
        }
        ConnectReturnCode::UnsupportedProtocolVersion | ConnectReturnCode::RefusedProtocolVersion => {
            "the broker does not speak MQTT 5: use one that does"
        }
        ConnectReturnCode::RetainNotSupported => "the broker does not keep retained messages",
        ConnectReturnCode::Banned => "this client is banned: ask the broker's operator",
        ConnectReturnCode::ServerUnavailable
        | ConnectReturnCode::ServiceUnavailable
        | ConnectReturnCode::ServerBusy => "the broker is busy or unavailable",
        _ => return format!("the broker refused the connection: {code:?}"),
    };
    format!("the broker refused the connection: {why}")
}

/// Returns why a subscription is not what was asked for, or `None` where it is.
pub(super) fn subscription_fault(asked: QoS, answer: SubscribeReasonCode) -> Option<String> {
    match answer {
        SubscribeReasonCode::Success(granted) if granted == asked => None,
        SubscribeReasonCode::Success(granted) => {
            Some(format!("granted with QoS {} instead of {}", granted as u8, asked as u8))
        }
        SubscribeReasonCode::NotAuthorized => {
            Some("not authorised: check the broker's access list".to_owned())
        }
        SubscribeReasonCode::QuotaExceeded => {
            Some("the broker's quota of subscriptions is used up".to_owned())
        }
        SubscribeReasonCode::WildcardSubscriptionsNotSupported => {
            Some("the broker takes no wildcards: name the topics one by one".to_owned())
        }
        other => Some(format!("refused: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart_by_what_helps() {
        let state = |error| end_of(&ConnectionError::MqttState(error));
        let disconnect = |reason_code| StateError::ServerDisconnect { reason_code, reason_string: None };
        assert_eq!(state(disconnect(DisconnectReasonCode::SessionTakenOver)), End::TakenOver);
        assert!(matches!(state(disconnect(DisconnectReasonCode::ServerShuttingDown)), End::Lost(_)));
        assert!(matches!(
            state(StateError::Deserialization(CodecError::MalformedPacket)),
            End::Unreadable(_)
        ));
        let broken = CodecError::Io(std::io::Error::other("reset"));
        assert_eq!(state(StateError::Deserialization(broken)), End::Lost("reset".into()));
        let End::Refused(text) =
            end_of(&ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized))
        else {
            panic!("a refusal is not named as one");
        };
        assert!(text.contains("credential_file"), "{text}");
    }
}
