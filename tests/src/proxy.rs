//! A TCP proxy on loopback that does what networks do: cuts, hangs, delays, garbage.
//!
//! Forwards bytes between a client and one target; knows nothing of MQTT. At most `CONNECTIONS_MAX` connections;
//! all of its threads end soon after it is dropped.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::failure::{Failure, Outcome};
use crate::wait::pause;

/// Most connections that are open at once; further ones are closed.
const CONNECTIONS_MAX: usize = 64;
/// How soon a thread notices a change.
const TICK: Duration = Duration::from_millis(10);

/// What the proxy does with what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Forwards.
    None,
    /// Keeps connections open and forwards nothing: the other side seems to be asleep.
    HalfOpen,
    /// Forwards each piece only after this time.
    Delay(Duration),
    /// Forwards so many bytes in each direction of a connection, and then one a second.
    Trickle {
        /// Bytes before that.
        after_bytes: u64,
    },
    /// Closes new connections at once.
    Refuse,
}

#[derive(Debug)]
struct Shared {
    fault: Mutex<Fault>,
    stopped: AtomicBool,
    accepted: AtomicU64,
    forwarded_bytes: AtomicU64,
    /// Both sockets of each connection: client, target.
    open: Mutex<Vec<(TcpStream, TcpStream)>>,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Starts a proxy to this loopback port.
    ///
    /// *Errors*: no port or no thread is left.
    pub fn start(target_port: u16) -> Outcome<Self> {
        Self::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), target_port)
    }

    /// Starts a proxy at another address of loopback.
    ///
    /// *Errors*: as [`Proxy::start`].
    pub fn listen(address: SocketAddr, target_port: u16) -> Outcome<Self> {
        let listener = TcpListener::bind(address).map_err(Failure::of("start the proxy"))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            fault: Mutex::new(Fault::None),
            stopped: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            forwarded_bytes: AtomicU64::new(0),
            open: Mutex::default(),
        });
        let own = Arc::clone(&shared);
        thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || accept(&listener, target_port, &own))?;
        Ok(Self { port, shared })
    }

    /// Returns the loopback port that clients connect to.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Changes what happens from here on, to open connections as well.
    pub fn set(&self, fault: Fault) {
        *lock(&self.shared.fault) = fault;
    }

    /// Cuts all open connections; returns how many.
    pub fn cut(&self) -> usize {
        let open = std::mem::take(&mut *lock(&self.shared.open));
        open.iter().flat_map(|(client, target)| [client, target]).for_each(|socket| {
            socket.shutdown(Shutdown::Both).ok();
        });
        open.len()
    }

    /// Sends bytes to all clients, between whatever the target sends.
    pub fn inject(&self, garbage: &[u8]) {
        for (client, _) in &mut *lock(&self.shared.open) {
            client.write_all(garbage).ok();
        }
    }

    /// Returns how many connections were forwarded so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Returns how many bytes were forwarded so far, both ways.
    #[must_use]
    pub fn forwarded_bytes(&self) -> u64 {
        self.shared.forwarded_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.cut();
    }
}

fn accept(listener: &TcpListener, target_port: u16, shared: &Arc<Shared>) {
    while !shared.stopped.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((client, _)) if *lock(&shared.fault) != Fault::Refuse => {
                forward(client, target_port, shared).ok();
            }
            Ok(_) => (),
            Err(_) => pause(TICK),
        }
    }
}

fn forward(client: TcpStream, target_port: u16, shared: &Arc<Shared>) -> Outcome<()> {
    let target = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, target_port)))?;
    client.set_nonblocking(false)?;
    for socket in [&client, &target] {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TICK))?;
        socket.set_write_timeout(Some(Duration::from_secs(10)))?;
    }
    let mut open = lock(&shared.open);
    open.retain(|(known, _)| known.take_error().is_ok_and(|e| e.is_none()) && known.peer_addr().is_ok());
    if open.len() >= CONNECTIONS_MAX {
        return Err(Failure::new("too many connections"));
    }
    open.push((client.try_clone()?, target.try_clone()?));
    drop(open);
    shared.accepted.fetch_add(1, Ordering::Relaxed);
    for (from, to) in [(client.try_clone()?, target.try_clone()?), (target, client)] {
        let own = Arc::clone(shared);
        thread::Builder::new().name("proxy-pump".to_owned()).spawn(move || pump(from, to, &own))?;
    }
    Ok(())
}

/// Forwards in one direction until either side ends; then ends both.
fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let (mut piece, mut forwarded) = (vec![0; 16 << 10], 0);
    while !shared.stopped.load(Ordering::Relaxed) {
        if *lock(&shared.fault) == Fault::HalfOpen {
            if matches!(from.take_error(), Ok(Some(_)) | Err(_)) || from.peer_addr().is_err() {
                break;
            }
            pause(TICK);
            continue;
        }
        let mut room = piece.len();
        if let Fault::Trickle { after_bytes } = *lock(&shared.fault) {
            room = usize::try_from(after_bytes.saturating_sub(forwarded)).unwrap_or(room).clamp(1, room);
            if forwarded >= after_bytes {
                pause(Duration::from_secs(1));
            }
        }
        let count = match from.read(&mut piece[..room]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        forwarded += count as u64;
        shared.forwarded_bytes.fetch_add(count as u64, Ordering::Relaxed);
        let fault = *lock(&shared.fault);
        if let Fault::Delay(length) = fault {
            pause(length);
        }
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Broker, BrokerPlan};
    use crate::link::Link;
    use crate::wire::{Qos, Retain, Session};

    fn linked() -> (Broker, Proxy, Link) {
        let broker = Broker::start(&BrokerPlan::default()).unwrap();
        let proxy = Proxy::start(broker.port()).unwrap();
        let mut link = Link::connect(proxy.port(), "through", Session::Clean).unwrap();
        link.subscribe("t", Qos::AtMostOnce).unwrap();
        (broker, proxy, link)
    }

    fn echo(link: &mut Link, limit: Duration) -> Outcome<bool> {
        link.publish("t", b"1", Qos::AtMostOnce, Retain::Pass)?;
        Ok(link.next(limit)?.is_some())
    }

    #[test]
    fn a_cut_ends_the_connection_and_a_new_one_passes() {
        let (_broker, proxy, mut link) = linked();
        assert!(echo(&mut link, Duration::from_secs(20)).unwrap());
        assert_eq!(proxy.cut(), 1);
        assert!(link.next(Duration::from_secs(20)).is_err());
        let mut again = Link::connect(proxy.port(), "through", Session::Clean).unwrap();
        again.subscribe("t", Qos::AtMostOnce).unwrap();
        assert!(echo(&mut again, Duration::from_secs(20)).unwrap());
        assert_eq!(proxy.accepted(), 2);
    }

    #[test]
    fn half_open_hangs_without_an_error_and_delay_only_delays() {
        let (_broker, proxy, mut link) = linked();
        proxy.set(Fault::HalfOpen);
        pause(TICK * 5);
        assert!(!echo(&mut link, Duration::from_millis(200)).unwrap());
        proxy.set(Fault::Delay(Duration::from_millis(20)));
        assert!(link.next(Duration::from_secs(20)).unwrap().is_some());
    }

    #[test]
    fn garbage_reaches_the_client() {
        let (_broker, proxy, mut link) = linked();
        proxy.inject(&[0xff; 64]);
        assert!(link.next(Duration::from_secs(20)).is_err());
    }
}
