//! Recognises messages that the broker delivers again although they are safe already.
//!
//! A redelivered reading with a time of its own is recognised by its series; this is for the others. Remembers the
//! last content under each packet identifier; a duplicate flag with the same content is the same message. Filled
//! from the store at start, so that it works across a kill.

use std::collections::HashMap;

use crate::flow::{AckToken, BrokerIndex, Delivery};

/// Packet identifiers are 16 bits wide.
const PACKET_IDS: usize = 1 << 16;

/// What was last seen under each packet identifier of each broker.
#[derive(Debug, Default)]
pub struct Redelivery {
    seen: HashMap<BrokerIndex, Vec<u32>>,
}

impl Redelivery {
    /// Remembers a message that is safe.
    pub fn remember(&mut self, broker: BrokerIndex, packet_id: u16, content_crc: u32) {
        let seen = self.seen.entry(broker).or_insert_with(|| vec![0; PACKET_IDS]);
        // 0 means "never seen": a content with that checksum is stored as 1 and recognised as rarely as any other.
        seen[usize::from(packet_id)] = content_crc.max(1);
    }

    /// Tells whether this delivery is a message that was taken before, and remembers it otherwise.
    pub fn is_repeated(&mut self, delivery: &Delivery) -> bool {
        let Some(AckToken { broker, packet_id, content_crc, .. }) = delivery.ack else {
            return false;
        };
        let known =
            self.seen.get(&broker).is_some_and(|seen| seen[usize::from(packet_id)] == content_crc.max(1));
        if delivery.duplicate && known {
            return true;
        }
        self.remember(broker, packet_id, content_crc);
        false
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
        let mut redelivery = Redelivery::default();
        assert!(!redelivery.is_repeated(&delivery(1, 7, true)), "first seen");
        assert!(redelivery.is_repeated(&delivery(1, 7, true)));
        assert!(!redelivery.is_repeated(&delivery(1, 7, false)), "a new message may have the same content");
        assert!(!redelivery.is_repeated(&delivery(1, 8, true)));
        assert!(!redelivery.is_repeated(&delivery(2, 8, true)));
    }
}
