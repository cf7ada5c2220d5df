//! The little of MQTT 3.1.1 that a load generator needs, as bytes.
//!
//! Encodes into a buffer of the caller and finds whole packets in what was received; never reads a socket. Written
//! apart from the daemon's client, so that a fault of that client cannot hide behind itself.

use crate::failure::{Failure, Outcome};

/// Longest remaining length that four bytes can say.
const REMAINING_MAX: usize = 268_435_455;

/// Quality of service of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// At most once.
    AtMostOnce,
    /// At least once.
    AtLeastOnce,
}

/// What becomes of the session when the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// It ends too.
    Clean,
    /// The broker keeps it.
    Kept,
}

/// Whether the broker is to keep the message for later subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retain {
    /// No.
    Pass,
    /// Yes.
    Keep,
}

/// A packet from the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'b> {
    /// The answer to CONNECT; 0 is success.
    ConnAck(u8),
    /// A message.
    Publish {
        /// Its topic.
        topic: &'b str,
        /// Its payload.
        payload: &'b [u8],
        /// Its packet identifier, at QoS 1.
        packet_id: Option<u16>,
    },
    /// The broker has this message of ours.
    PubAck(u16),
    /// The answer to SUBSCRIBE.
    SubAck,
    /// Anything else.
    Other(u8),
}

/// Appends CONNECT, without keep-alive.
pub fn connect(out: &mut Vec<u8>, client_id: &str, session: Session) {
    out.push(0x10);
    push_remaining(out, 12 + client_id.len());
    push_text(out, "MQTT");
    out.extend([4, if session == Session::Clean { 2 } else { 0 }, 0, 0]);
    push_text(out, client_id);
}

/// Appends SUBSCRIBE for one filter.
pub fn subscribe(out: &mut Vec<u8>, packet_id: u16, filter: &str, qos: Qos) {
    out.push(0x82);
    push_remaining(out, 5 + filter.len());
    out.extend(packet_id.to_be_bytes());
    push_text(out, filter);
    out.push(u8::from(qos == Qos::AtLeastOnce));
}

/// Appends PUBLISH; at QoS 1 where there is a packet identifier.
pub fn publish(out: &mut Vec<u8>, topic: &str, payload: &[u8], packet_id: Option<u16>, retain: Retain) {
    let first = 0x30 | (u8::from(packet_id.is_some()) << 1) | u8::from(retain == Retain::Keep);
    out.push(first);
    push_remaining(out, 2 + topic.len() + packet_id.map_or(0, |_| 2) + payload.len());
    push_text(out, topic);
    if let Some(id) = packet_id {
        out.extend(id.to_be_bytes());
    }
    out.extend_from_slice(payload);
}

/// Appends PUBACK.
pub fn puback(out: &mut Vec<u8>, packet_id: u16) {
    out.extend([0x40, 2]);
    out.extend(packet_id.to_be_bytes());
}

/// Appends DISCONNECT.
pub fn disconnect(out: &mut Vec<u8>) {
    out.extend([0xe0, 0]);
}

fn push_remaining(out: &mut Vec<u8>, length: usize) {
    let mut rest = length.min(REMAINING_MAX);
    loop {
        let byte = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Received bytes, of which whole packets are taken.
#[derive(Debug, Default)]
pub struct Received {
    bytes: Vec<u8>,
}

impl Received {
    /// Appends bytes from the socket.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Hands every whole packet to `each`, in order, and forgets it.
    ///
    /// *Errors*: the bytes are not MQTT; the connection is of no use any more.
    pub fn drain(&mut self, mut each: impl FnMut(Packet<'_>)) -> Outcome<()> {
        let mut start = 0;
        while let Some((body, end)) = frame(&self.bytes[start..])? {
            each(packet(self.bytes[start], &self.bytes[start + body..start + end])?);
            start += end;
        }
        self.bytes.drain(..start);
        Ok(())
    }
}

/// Returns where the first packet's body begins and ends, once it is whole.
fn frame(bytes: &[u8]) -> Outcome<Option<(usize, usize)>> {
    let mut length = 0;
    for index in 1..=4 {
        let Some(byte) = bytes.get(index) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * (index - 1));
        if byte & 0x80 == 0 {
            let end = index + 1 + length;
            return Ok((bytes.len() >= end).then_some((index + 1, end)));
        }
    }
    Err(Failure::new("a packet's length has more than four bytes"))
}

fn packet(first: u8, body: &[u8]) -> Outcome<Packet<'_>> {
    let short = || Failure::new(format!("packet {first:#04x} is too short"));
    let u16_at = |at: usize| match body.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(short()),
    };
    Ok(match first >> 4 {
        2 => Packet::ConnAck(*body.get(1).ok_or_else(short)?),
        3 => {
            let topic_end = 2 + usize::from(u16_at(0)?);
            let topic = std::str::from_utf8(body.get(2..topic_end).ok_or_else(short)?)
                .map_err(Failure::of("topic"))?;
            let packet_id = if first & 6 == 0 { None } else { Some(u16_at(topic_end)?) };
            let payload_start = topic_end + packet_id.map_or(0, |_| 2);
            Packet::Publish { topic, payload: &body[payload_start..], packet_id }
        }
        4 => Packet::PubAck(u16_at(0)?),
        9 => Packet::SubAck,
        _ => Packet::Other(first),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(bytes: &[u8], piece: usize) -> Vec<String> {
        let (mut received, mut seen) = (Received::default(), Vec::new());
        for part in bytes.chunks(piece) {
            received.extend(part);
            received.drain(|packet| seen.push(format!("{packet:?}"))).unwrap();
        }
        seen
    }

    #[test]
    fn packets_are_found_however_the_bytes_are_cut() {
        let mut bytes = Vec::new();
        publish(&mut bytes, "a/b", &[7; 300], Some(9), Retain::Pass);
        puback(&mut bytes, 513);
        publish(&mut bytes, "c", b"", None, Retain::Keep);
        let whole = packets(&bytes, bytes.len());
        assert_eq!(whole.len(), 3);
        assert!(whole[0].contains("packet_id: Some(9)") && whole[1] == "PubAck(513)");
        for piece in 1..20 {
            assert_eq!(packets(&bytes, piece), whole);
        }
    }

    #[test]
    fn what_is_not_mqtt_is_refused() {
        let mut received = Received::default();
        received.extend(&[0x30, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert!(received.drain(|_| ()).is_err());
        let mut short = Received::default();
        short.extend(&[0x30, 1, 0]);
        assert!(short.drain(|_| ()).is_err());
    }
}
