//! A load for measurements: many sensors at a given rate, and how long each prediction took to come back.
//!
//! One thread writes, one reads acknowledgements, one listens; none of them allocates per message on the sending
//! side. The time in a reading is when it was sent, so a prediction tells its own latency.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dunlin_kit::clock::wall_micros;

use crate::failure::{Failure, Outcome};
use crate::link::ANSWER_MAX;
use crate::wait::pause;
use crate::wire::{self, Packet, Qos, Received, Retain, Session};

/// Messages written at once: more would bunch what is offered evenly.
const BATCH_MAX: u64 = 128;
/// Unacknowledged messages at QoS 1; beyond it the broker is the bottleneck and the offer falls behind.
const UNACKED_MAX: u64 = 10_000;
/// Rest where nothing is due.
const REST: Duration = Duration::from_micros(300);
/// Different value texts; a window never holds the same row throughout.
const VALUE_TEXTS: usize = 64;

/// A connection that offers readings `{"ts": <ns>, "values": [4 floats]}` on `sensors/<n>/data`.
#[derive(Debug)]
pub struct Load {
    stream: TcpStream,
    qos: Qos,
    window: u64,
    topics: Vec<String>,
    values: Vec<String>,
    /// Readings so far and time of the last one, in microseconds, by sensor.
    sensors: Vec<(u64, i64)>,
    next: usize,
    sent: u64,
    acked: Arc<AtomicU64>,
    bytes: Vec<u8>,
    payload: Vec<u8>,
}

/// What was offered in a stretch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Offered {
    /// Readings sent.
    pub sent: u64,
    /// Predictions that these readings are due to.
    pub due: u64,
    /// How long it took.
    pub took: Duration,
}

impl Load {
    /// Connects a load of this many sensors; `window` readings of a sensor give its first prediction.
    ///
    /// *Errors*: the broker does not answer.
    pub fn connect(port: u16, sensors: usize, window: u64, qos: Qos) -> Outcome<Self> {
        let (stream, received) = open(port, "bench-load")?;
        let acked = Arc::new(AtomicU64::new(0));
        let (own, mut reading) = (Arc::clone(&acked), stream.try_clone()?);
        thread::Builder::new().name("load-acks".to_owned()).spawn(move || {
            let mut received = received;
            let count = |packet: Packet<'_>| {
                if matches!(packet, Packet::PubAck(_)) {
                    own.fetch_add(1, Ordering::Relaxed);
                }
            };
            while read_some(&mut reading, &mut received).is_ok() && received.drain(count).is_ok() {}
        })?;
        let value = |n: usize, k: usize| 20.0 + ((n * (7 + k)) % VALUE_TEXTS) as f64 / 16.0;
        let text = |n| {
            format!("000, \"values\": [{}, {}, {}, {}]}}", value(n, 0), value(n, 1), value(n, 2), value(n, 3))
        };
        Ok(Self {
            stream,
            qos,
            window,
            topics: (0..sensors).map(|n| format!("sensors/s{n}/data")).collect(),
            values: (0..VALUE_TEXTS).map(text).collect(),
            sensors: vec![(0, 0); sensors],
            next: 0,
            sent: 0,
            acked,
            bytes: Vec::new(),
            payload: Vec::new(),
        })
    }

    /// Offers readings at `rate` a second for `length`, the sensors taking turns.
    ///
    /// *Errors*: the connection broke.
    pub fn offer(&mut self, rate: f64, length: Duration) -> Outcome<Offered> {
        let count = (rate * length.as_secs_f64()).ceil() as u64;
        self.offer_count(rate, count, length)
    }

    /// Offers `count` readings at `rate` a second, giving up at `limit`.
    ///
    /// *Errors*: the connection broke.
    pub fn offer_count(&mut self, rate: f64, count: u64, limit: Duration) -> Outcome<Offered> {
        let start = Instant::now();
        let (mut sent, mut due) = (0, 0);
        while sent < count {
            let elapsed = start.elapsed();
            if elapsed > limit {
                break;
            }
            let owed = ((elapsed.as_secs_f64() * rate) as u64 + 1).min(count).saturating_sub(sent);
            let unacked = self.sent.saturating_sub(self.acked.load(Ordering::Relaxed));
            let room =
                if self.qos == Qos::AtLeastOnce { UNACKED_MAX.saturating_sub(unacked) } else { BATCH_MAX };
            let batch = owed.min(room).min(BATCH_MAX);
            if batch == 0 {
                pause(REST);
                continue;
            }
            due += (0..batch).map(|_| u64::from(self.push_reading())).sum::<u64>();
            self.stream.write_all(&self.bytes).map_err(Failure::of("offer"))?;
            self.bytes.clear();
            sent += batch;
        }
        Ok(Offered { sent, due, took: start.elapsed() })
    }

    /// Appends the next sensor's reading; tells whether it is due to a prediction.
    fn push_reading(&mut self) -> bool {
        let sensor = self.next;
        self.next = (self.next + 1) % self.topics.len();
        self.sent += 1;
        let (count, last_us) = &mut self.sensors[sensor];
        *count += 1;
        *last_us = wall_micros().max(*last_us + 1);
        self.payload.clear();
        write!(self.payload, "{{\"ts\": {last_us}").ok();
        self.payload.extend_from_slice(self.values[(sensor + *count as usize) % VALUE_TEXTS].as_bytes());
        let packet_id = (self.qos == Qos::AtLeastOnce).then_some((self.sent % 65_535) as u16 + 1);
        wire::publish(&mut self.bytes, &self.topics[sensor], &self.payload, packet_id, Retain::Pass);
        *count >= self.window
    }
}

#[derive(Debug, Default)]
struct Seen {
    count: AtomicU64,
    stopped: AtomicBool,
    /// Latencies in microseconds.
    latencies: Mutex<Vec<u32>>,
}

/// A connection that counts predictions and how long each took since its newest reading was sent.
#[derive(Debug)]
pub struct Watch(Arc<Seen>);

impl Watch {
    /// Subscribes to a filter.
    ///
    /// *Errors*: the broker does not answer.
    pub fn start(port: u16, filter: &str) -> Outcome<Self> {
        let (mut stream, mut received) = open(port, "bench-watch")?;
        let mut bytes = Vec::new();
        wire::subscribe(&mut bytes, 1, filter, Qos::AtMostOnce);
        stream.write_all(&bytes)?;
        wait_packet(&mut stream, &mut received, |packet| matches!(packet, Packet::SubAck))?;
        let seen = Arc::new(Seen::default());
        let own = Arc::clone(&seen);
        thread::Builder::new().name("watch".to_owned()).spawn(move || {
            while !own.stopped.load(Ordering::Relaxed) && read_some(&mut stream, &mut received).is_ok() {
                if take(&own, &mut received).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self(seen))
    }

    /// Returns how many predictions came so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.count.load(Ordering::Relaxed)
    }

    /// Returns the latencies since the last call, in microseconds, sorted.
    #[must_use]
    pub fn take_latencies(&self) -> Vec<u32> {
        let mut latencies =
            std::mem::take(&mut *self.0.latencies.lock().unwrap_or_else(PoisonError::into_inner));
        latencies.sort_unstable();
        latencies
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Relaxed);
    }
}

/// Returns the value at a quantile of sorted values; 0 where there are none.
#[must_use]
pub fn quantile(sorted: &[u32], quantile: f64) -> u32 {
    let index = (sorted.len() as f64 * quantile) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

fn take(seen: &Seen, received: &mut Received) -> Outcome<()> {
    let now_us = wall_micros();
    let mut latencies = seen.latencies.lock().unwrap_or_else(PoisonError::into_inner);
    let mut count = 0;
    received.drain(|packet| {
        if let Packet::Publish { payload, .. } = packet {
            count += 1;
            if let Some(sent_us) = sent_micros(payload) {
                latencies.push(u32::try_from((now_us - sent_us).max(0)).unwrap_or(u32::MAX));
            }
        }
    })?;
    drop(latencies);
    seen.count.fetch_add(count, Ordering::Relaxed);
    Ok(())
}

/// Returns when the newest reading of a prediction was sent: from `"window_end": "<RFC 3339>"` or `"ts": <ns>`.
fn sent_micros(payload: &[u8]) -> Option<i64> {
    if let Some(rest) = after(payload, b"\"window_end\":") {
        let text = rest.split(|byte| *byte == b'"').nth(1)?;
        let time: jiff::Timestamp = std::str::from_utf8(text).ok()?.parse().ok()?;
        return Some(time.as_microsecond());
    }
    let rest = after(payload, b"\"ts\":")?.trim_ascii_start();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
    let nanos = digits.fold(0_i64, |sum, byte| sum.wrapping_mul(10).wrapping_add(i64::from(byte - b'0')));
    Some(nanos / 1_000)
}

fn after<'p>(payload: &'p [u8], name: &[u8]) -> Option<&'p [u8]> {
    let at = payload.windows(name.len()).position(|window| window == name)?;
    Some(&payload[at + name.len()..])
}

/// Connects and waits for the broker's answer; returns the socket and what was received besides.
fn open(port: u16, client_id: &str) -> Outcome<(TcpStream, Received)> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let mut bytes = Vec::new();
    wire::connect(&mut bytes, client_id, Session::Clean);
    stream.write_all(&bytes)?;
    let mut received = Received::default();
    wait_packet(&mut stream, &mut received, |packet| packet == Packet::ConnAck(0))?;
    Ok((stream, received))
}

fn wait_packet(
    stream: &mut TcpStream,
    received: &mut Received,
    is_wanted: impl Fn(Packet<'_>) -> bool,
) -> Outcome<()> {
    let start = Instant::now();
    let mut found = false;
    while !found {
        if start.elapsed() > ANSWER_MAX {
            return Err(Failure::new("the broker does not answer"));
        }
        read_some(stream, received)?;
        received.drain(|packet| found |= is_wanted(packet))?;
    }
    Ok(())
}

/// Reads what is there, waiting at most the socket's time.
fn read_some(stream: &mut TcpStream, received: &mut Received) -> Outcome<()> {
    let mut piece = [0; 32 << 10];
    match stream.read(&mut piece) {
        Ok(0) => Err(Failure::new("the broker closed the connection")),
        Ok(count) => {
            received.extend(&piece[..count]);
            Ok(())
        }
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
        Err(e) => Err(Failure::new(format!("receive: {e}"))),
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Both).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Broker, BrokerPlan};
    use crate::wait::wait_until;

    #[test]
    fn times_are_read_from_both_shapes_of_predictions() {
        let ours = br#"{"id":"ab","window_end":"1970-01-01T00:00:01.000002Z","outputs":{"y":[1]}}"#;
        assert_eq!(sent_micros(ours), Some(1_000_002));
        assert_eq!(sent_micros(br#"{"ts": 1000002000, "score": 3}"#), Some(1_000_002));
        assert_eq!(sent_micros(br#"{"ts":1000002000,"score":3}"#), Some(1_000_002));
        assert_eq!(sent_micros(b"{}"), None);
    }

    #[test]
    fn what_is_offered_arrives_and_the_due_predictions_are_counted() {
        let broker = Broker::start(&BrokerPlan { in_flight_max: 1_000, queued_max: 0 }).unwrap();
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
            // The load itself stands in for predictions: its readings have a `ts`.
            let watch = Watch::start(broker.port(), "sensors/+/data").unwrap();
            let mut load = Load::connect(broker.port(), 10, 32, qos).unwrap();
            let offered = load.offer_count(5_000.0, 1_000, Duration::from_secs(30)).unwrap();
            assert_eq!((offered.sent, offered.due), (1_000, 10 * (100 - 31)));
            wait_until("all readings are seen", Duration::from_secs(30), || watch.count() == 1_000).unwrap();
            let latencies = watch.take_latencies();
            assert_eq!(latencies.len(), 1_000);
            assert!(quantile(&latencies, 0.5) <= quantile(&latencies, 0.99));
        }
        assert_eq!(quantile(&[], 0.5), 0);
    }
}
