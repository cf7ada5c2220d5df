//! Publishing a stream of messages and counting what the broker has acknowledged.
//!
//! Keeps a bounded number unacknowledged and never sends one twice. What the broker acknowledged is what the oracle
//! expects.

use std::path::Path;
use std::time::Duration;

use dunlin_model_package::golden::RecordedMessage;

use crate::failure::{Failure, Outcome};
use crate::link::Link;
use crate::wire::{Qos, Retain, Session};

/// Messages on their way to the broker at QoS 1.
const IN_FLIGHT_MAX: u64 = 200;

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// Event time in milliseconds since 1970, where the payload holds one.
    pub event_ms: i64,
}

impl Message {
    /// Returns a message without an event time.
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self { topic: topic.into(), payload: payload.into(), event_ms: 0 }
    }

    /// Returns a message with the event time its payload holds.
    pub fn timed(topic: impl Into<String>, payload: impl Into<Vec<u8>>, event_ms: i64) -> Self {
        Self { event_ms, ..Self::new(topic, payload) }
    }
}

/// A connection that publishes.
#[derive(Debug)]
pub struct Publisher {
    link: Link,
    sent: u64,
}

impl Publisher {
    /// Connects to the broker at this loopback port.
    ///
    /// *Errors*: nobody listens, or the broker refuses.
    pub fn connect(port: u16, client_id: &str) -> Outcome<Self> {
        Ok(Self { link: Link::connect(port, client_id, Session::Clean)?, sent: 0 })
    }

    /// Publishes messages in order; returns how many the broker acknowledged (QoS 1) or took (QoS 0) in all so far.
    ///
    /// *Errors*: the connection broke, or acknowledgements did not come.
    pub fn publish_all(&mut self, messages: &[Message], qos: Qos) -> Outcome<u64> {
        for message in messages {
            self.publish(message, qos, Retain::Pass)?;
        }
        if qos == Qos::AtMostOnce {
            return Ok(messages.len() as u64);
        }
        self.link.wait_acked(self.sent)?;
        Ok(self.link.acked())
    }

    /// Publishes one message, waiting while too many are unacknowledged.
    ///
    /// *Errors*: as [`Publisher::publish_all`].
    pub fn publish(&mut self, message: &Message, qos: Qos, retain: Retain) -> Outcome<()> {
        self.link.publish(&message.topic, &message.payload, qos, retain)?;
        if qos == Qos::AtLeastOnce {
            self.sent += 1;
            self.link.wait_acked(self.sent.saturating_sub(IN_FLIGHT_MAX))?;
        }
        Ok(())
    }
}

/// A connection that listens.
#[derive(Debug)]
pub struct Listener(Link);

impl Listener {
    /// Connects and subscribes to a filter.
    ///
    /// *Errors*: nobody listens, or the broker refuses.
    pub fn connect(port: u16, client_id: &str, filter: &str) -> Outcome<Self> {
        let mut link = Link::connect(port, client_id, Session::Clean)?;
        link.subscribe(filter, Qos::AtLeastOnce)?;
        Ok(Self(link))
    }

    /// Returns all messages that come until there is none for `quiet`.
    ///
    /// *Errors*: the connection broke.
    pub fn take_until_quiet(&mut self, quiet: Duration) -> Outcome<Vec<Message>> {
        let mut taken = Vec::new();
        while let Some(arrived) = self.0.next(quiet)? {
            taken.push(Message::new(arrived.topic, arrived.payload));
        }
        Ok(taken)
    }
}

/// Reads a recorded stream: one message a line, as `dunlind replay` reads it.
///
/// *Errors*: the file cannot be read or a line is no message; the failure names the line.
pub fn read_ndjson(path: &Path) -> Outcome<Vec<Message>> {
    let text = std::fs::read_to_string(path).map_err(Failure::of(path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let at = || format!("{} line {}", path.display(), index + 1);
            let record: RecordedMessage = serde_json::from_str(line).map_err(Failure::of(at()))?;
            let payload = record.payload_bytes().map_err(Failure::of(at()))?;
            Ok(Message::timed(record.topic, payload, record.arrival_ms.unwrap_or_default()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Broker, BrokerPlan};

    #[test]
    fn everything_acknowledged_reaches_a_listener_in_order() {
        let broker = Broker::start(&BrokerPlan { in_flight_max: 1_000, queued_max: 0 }).unwrap();
        let mut listener = Listener::connect(broker.port(), "listener", "x/#").unwrap();
        let messages: Vec<_> =
            (0..2_000).map(|n| Message::new(format!("x/{}", n % 7), n.to_string())).collect();
        let mut publisher = Publisher::connect(broker.port(), "publisher").unwrap();
        assert_eq!(publisher.publish_all(&messages, Qos::AtLeastOnce).unwrap(), 2_000);
        let mut taken = Vec::new();
        while taken.len() < messages.len() {
            let more = listener.take_until_quiet(Duration::from_millis(200)).unwrap();
            taken.extend(more);
        }
        assert_eq!(taken, messages);
    }

    #[test]
    fn a_recorded_stream_is_read_and_a_bad_line_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.ndjson");
        let good = "{\"topic\":\"a\",\"payload\":\"1\",\"arrival_ms\":5}\n\n{\"topic\":\"b\",\"payload_hex\":\"ff\"}\n";
        dunlin_kit::atomic_file::write(&path, good.as_bytes()).unwrap();
        assert_eq!(read_ndjson(&path).unwrap(), [Message::timed("a", "1", 5), Message::new("b", vec![0xff])]);
        dunlin_kit::atomic_file::write(&path, format!("{good}{{}}\n").as_bytes()).unwrap();
        assert!(read_ndjson(&path).unwrap_err().to_string().contains("line 4"));
    }
}
