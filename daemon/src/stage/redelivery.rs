//! Recognises messages that the broker delivers again although they are safe already.
//!
//! A redelivered reading with a time of its own is recognised by its series; this is for the others. Remembers the
//! last content under each packet identifier; a duplicate flag with the same content is the same message. Filled
//! from the store at start, so that it works across a kill.

use crate::flow::{AckToken, BrokerIndex, Delivery};

/// Packet identifiers are 16 bits wide.
const PACKET_IDS: usize = 1 << 16;

/// A broker may hold as many unacknowledged messages from a time when the configuration allowed more.
const IN_FLIGHT_MIN: u32 = 2_048;

/// What was last seen under each packet identifier of each broker.
#[derive(Debug, Default)]
pub struct Redelivery {
    brokers: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// By packet identifier: checksum of the content, and number of the message. Empty until the first message.
    marks: Vec<(u32, u32)>,
    /// Messages so far, repeated ones too.
    count: u32,
    /// A message that is delivered again is at most so many messages old.
    age_max: u32,
}

impl Redelivery {
    /// Returns an empty memory for brokers that send so many messages before they wait for an acknowledgement.
    ///
    /// Acknowledgements go out in the order of messages, so one that comes again was among the last of these, twice
    /// over where the repetition was cut off as well. An older one under the same identifier is another message, even
    /// if it has the same content, as with a sensor whose value stands still.
    #[must_use]
    pub fn new(in_flight_max: impl IntoIterator<Item = u16>) -> Self {
        let seen = |max| Seen { marks: Vec::new(), count: 0, age_max: 2 * u32::from(max).max(IN_FLIGHT_MIN) };
        Self { brokers: in_flight_max.into_iter().map(seen).collect() }
    }

    /// Remembers a message that is safe.
    pub fn remember(&mut self, broker: BrokerIndex, packet_id: u16, content_crc: u32) {
        let Some(seen) = self.brokers.get_mut(usize::from(broker.0)) else { return };
        if seen.marks.is_empty() {
            seen.marks = vec![(0, 0); PACKET_IDS];
        }
        seen.count = seen.count.wrapping_add(1);
        // 0 means "never seen": a content with that checksum is stored as 1 and recognised as rarely as any other.
        seen.marks[usize::from(packet_id)] = (content_crc.max(1), seen.count);
    }

    /// Tells whether this delivery is a message that was taken before, and remembers it.
    pub fn is_repeated(&mut self, delivery: &Delivery) -> bool {
        let Some(AckToken { broker, packet_id, content_crc, .. }) = delivery.ack else {
            return false;
        };
        let seen = self.brokers.get(usize::from(broker.0));
        let known = seen.is_some_and(|seen| {
            let mark = seen.marks.get(usize::from(packet_id));
            mark.is_some_and(|(crc, number)| {
                *crc == content_crc.max(1) && seen.count.wrapping_sub(*number) < seen.age_max
            })
        });
        self.remember(broker, packet_id, content_crc);
        delivery.duplicate && known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::ConnectionId;
    use bytes::Bytes;

    fn delivery(packet_id: u16, content_crc: u32, duplicate: bool) -> Delivery {
        let ack = AckToken { broker: BrokerIndex(0), connection: ConnectionId(1), packet_id, content_crc };
        Delivery {
            broker: BrokerIndex(0),
            topic: Bytes::new(),
            payload: Bytes::new(),
            retained: false,
            duplicate,
            ack: Some(ack),
            arrived_us: 0,
        }
    }

    #[test]
    fn only_the_same_content_delivered_again_is_repeated() {
        let mut redelivery = Redelivery::new([10]);
        assert!(!redelivery.is_repeated(&delivery(1, 7, true)), "first seen");
        assert!(redelivery.is_repeated(&delivery(1, 7, true)));
        assert!(!redelivery.is_repeated(&delivery(1, 7, false)), "a new message may have the same content");
        assert!(!redelivery.is_repeated(&delivery(1, 8, true)));
        assert!(!redelivery.is_repeated(&delivery(2, 8, true)));
    }

    #[test]
    fn the_same_content_under_an_identifier_of_long_ago_is_another_message() {
        let mut redelivery = Redelivery::new([10]);
        for packet_id in 1..=5_000 {
            assert!(!redelivery.is_repeated(&delivery(packet_id, 7, false)));
        }
        assert!(redelivery.is_repeated(&delivery(1_000, 7, true)), "4,001 messages ago");
        assert!(!redelivery.is_repeated(&delivery(900, 7, true)), "4,102 messages ago");
        assert!(!Redelivery::new([10]).is_repeated(&delivery(1, 7, true)), "never");
    }
}
