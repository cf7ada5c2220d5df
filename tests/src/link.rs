//! A plain MQTT connection over loopback, for tests that publish and listen.
//!
//! Blocks with a limit on every wait; never reconnects by itself. The load generator has its own threads and uses
//! the bytes of [`crate::wire`] directly.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome};
use crate::wire::{self, Packet, Qos, Received, Retain, Session};

/// Longest wait for an answer of a broker on the same machine, under full load.
pub const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A message that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A connection to a broker.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    received: Received,
    chunk: Vec<u8>,
    /// Messages that arrived and were not asked for yet.
    arrived: VecDeque<Arrived>,
    answered: bool,
    refused: Option<u8>,
    acked: u64,
    packet_id: u16,
}

impl Link {
    /// Connects to the broker at this loopback port.
    ///
    /// *Errors*: nobody listens, or the broker refuses.
    pub fn connect(port: u16, client_id: &str, session: Session) -> Outcome<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, ANSWER_MAX).map_err(Failure::of("connect"))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        let mut link = Self {
            stream,
            received: Received::default(),
            chunk: vec![0; 64 << 10],
            arrived: VecDeque::new(),
            answered: false,
            refused: None,
            acked: 0,
            packet_id: 0,
        };
        let mut bytes = Vec::new();
        wire::connect(&mut bytes, client_id, session);
        link.send(&bytes)?;
        link.wait_answer("CONNACK")?;
        match link.refused {
            Some(code) => Err(Failure::new(format!("the broker refuses the connection with code {code}"))),
            None => Ok(link),
        }
    }

    /// Subscribes to a filter and waits for the broker's answer.
    ///
    /// *Errors*: the connection broke or the answer did not come.
    pub fn subscribe(&mut self, filter: &str, qos: Qos) -> Outcome<()> {
        let mut bytes = Vec::new();
        wire::subscribe(&mut bytes, self.next_packet_id(), filter, qos);
        self.send(&bytes)?;
        self.wait_answer("SUBACK")
    }

    /// Publishes one message; at QoS 1 the acknowledgement is counted when it comes.
    ///
    /// *Errors*: the connection broke.
    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: Qos, retain: Retain) -> Outcome<()> {
        let packet_id = (qos == Qos::AtLeastOnce).then(|| self.next_packet_id());
        let mut bytes = Vec::with_capacity(topic.len() + payload.len() + 9);
        wire::publish(&mut bytes, topic, payload, packet_id, retain);
        self.send(&bytes)
    }

    /// Sends raw bytes, which need not be MQTT.
    ///
    /// *Errors*: the connection broke.
    pub fn send(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.stream.write_all(bytes).map_err(Failure::of("send"))
    }

    /// Returns how many messages of ours the broker has acknowledged.
    #[must_use]
    pub const fn acked(&self) -> u64 {
        self.acked
    }

    /// Returns the next message, waiting for it at most `limit`.
    ///
    /// *Errors*: the connection broke.
    pub fn next(&mut self, limit: Duration) -> Outcome<Option<Arrived>> {
        let start = Instant::now();
        while self.arrived.is_empty() {
            let Some(rest) = limit.checked_sub(start.elapsed()).filter(|rest| !rest.is_zero()) else {
                return Ok(None);
            };
            self.receive(rest)?;
        }
        Ok(self.arrived.pop_front())
    }

    /// Waits until the broker has acknowledged `count` messages of ours.
    ///
    /// *Errors*: it did not, or the connection broke.
    pub fn wait_acked(&mut self, count: u64) -> Outcome<()> {
        let start = Instant::now();
        while self.acked < count {
            if start.elapsed() > ANSWER_MAX {
                return Err(Failure::new(format!("the broker acknowledged {} of {count}", self.acked)));
            }
            self.receive(Duration::from_millis(100))?;
        }
        Ok(())
    }

    fn wait_answer(&mut self, what: &str) -> Outcome<()> {
        let start = Instant::now();
        self.answered = false;
        while !self.answered {
            if start.elapsed() > ANSWER_MAX {
                return Err(Failure::new(format!("the broker did not send {what}")));
            }
            self.receive(Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Takes what comes within `limit`, acknowledging messages at QoS 1.
    fn receive(&mut self, limit: Duration) -> Outcome<()> {
        self.stream.set_read_timeout(Some(limit.max(Duration::from_millis(1))))?;
        let count = match self.stream.read(&mut self.chunk) {
            Ok(0) => return Err(Failure::new("the broker closed the connection")),
            Ok(count) => count,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(()),
            Err(e) => return Err(Failure::new(format!("receive: {e}"))),
        };
        self.received.extend(&self.chunk[..count]);
        let mut replies = Vec::new();
        let Self { received, arrived, answered, refused, acked, .. } = self;
        received.drain(|packet| match packet {
            Packet::Publish { topic, payload, packet_id } => {
                arrived.push_back(Arrived { topic: topic.to_owned(), payload: payload.to_vec() });
                if let Some(id) = packet_id {
                    wire::puback(&mut replies, id);
                }
            }
            Packet::PubAck(_) => *acked += 1,
            Packet::ConnAck(code) => {
                *answered = true;
                *refused = (code != 0).then_some(code);
            }
            Packet::SubAck => *answered = true,
            Packet::Other(_) => (),
        })?;
        if replies.is_empty() { Ok(()) } else { self.send(&replies) }
    }

    const fn next_packet_id(&mut self) -> u16 {
        self.packet_id = if self.packet_id == u16::MAX { 1 } else { self.packet_id + 1 };
        self.packet_id
    }
}
