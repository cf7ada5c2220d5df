//! An HTTP proxy on loopback, before one server, that writes down every request of one client: what a gateway asked its server for, in which
//! order, and how often.
//!
//! Passes everything on as it is, one request a connection; can hold requests back. A client that goes away takes its
//! request with it, as without the proxy.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome};
use crate::wait::pause;

/// How soon a thread notices a change.
const TICK: Duration = Duration::from_millis(10);
/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Requests for files of packages begin so.
pub const BLOBS: &str = "/device/v1/blobs/";
/// Questions begin so.
pub const QUESTIONS: &str = "/device/v1/exchange";

/// A request as it went by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Method.
    pub method: String,
    /// Path with its query.
    pub path: String,
    /// Whether it asks for one byte alone, to hear how long the file is.
    pub is_probe: bool,
    /// When it came.
    pub began: Instant,
    /// Status of the answer; none while there is none, or where the client went away.
    pub status: Option<u16>,
    /// Whether it is over.
    pub is_over: bool,
    /// How many requests had come when it was over.
    pub over_after: usize,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    stopped: AtomicBool,
    held: Mutex<Option<String>>,
    all: Mutex<Vec<Recorded>>,
}

/// A running recorder.
#[derive(Debug)]
pub struct Recorder {
    port: u16,
    shared: Arc<Shared>,
}

impl Recorder {
    /// Starts a recorder before the server at this loopback port.
    ///
    /// *Errors*: no port or no thread is left.
    pub fn start(target_port: u16) -> Outcome<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Failure::of("start the recorder"))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            target: SocketAddr::from((Ipv4Addr::LOCALHOST, target_port)),
            stopped: AtomicBool::new(false),
            held: Mutex::default(),
            all: Mutex::default(),
        });
        let own = Arc::clone(&shared);
        thread::Builder::new().name("recorder".to_owned()).spawn(move || accept(&listener, &own))?;
        Ok(Self { port, shared })
    }

    /// Returns the address that the client takes for its proxy.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Lets requests whose path begins so wait from here on; nothing: all pass, those that wait too.
    pub fn hold(&self, prefix: Option<&str>) {
        *lock(&self.shared.held) = prefix.map(str::to_owned);
    }

    /// Returns all requests so far, in the order in which they came.
    #[must_use]
    pub fn all(&self) -> Vec<Recorded> {
        lock(&self.shared.all).clone()
    }

    /// Returns the paths below a prefix that were asked for so far, probes left out.
    #[must_use]
    pub fn paths(&self, prefix: &str) -> Vec<String> {
        let all = lock(&self.shared.all);
        let fetches = all.iter().filter(|one| !one.is_probe && one.path.starts_with(prefix));
        fetches.map(|one| one.path.clone()).collect()
    }

    /// Returns the place of a question that the server keeps open at present.
    #[must_use]
    pub fn open_question(&self) -> Option<usize> {
        let all = lock(&self.shared.all);
        let is_open =
            |one: &Recorded| !one.is_over && one.path.starts_with(QUESTIONS) && one.path.contains("wait=");
        all.iter().position(is_open)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.stopped.load(Ordering::Relaxed) {
        let Ok((client, _)) = listener.accept() else {
            pause(TICK);
            continue;
        };
        let own = Arc::clone(shared);
        let serve = move || {
            // What breaks off is the client's to notice.
            let _ = serve(client, &own);
        };
        if thread::Builder::new().name("recorder-line".to_owned()).spawn(serve).is_err() {
            return;
        }
    }
}

fn serve(mut client: TcpStream, shared: &Shared) -> Outcome<()> {
    client.set_nonblocking(false)?;
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(Duration::from_secs(60)))?;
    let (head, mut body) = read_head(&mut client)?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path_of(&target);
    let first = format!("{method} {path} HTTP/1.1");
    let headers: Vec<&str> =
        lines.filter(|line| !line.is_empty() && !line.to_lowercase().starts_with("connection:")).collect();
    let place = {
        let mut all = lock(&shared.all);
        let path = path.clone();
        all.push(Recorded {
            method,
            path,
            is_probe: headers.iter().any(|line| line.eq_ignore_ascii_case("range: bytes=0-0")),
            began: Instant::now(),
            status: None,
            is_over: false,
            over_after: 0,
        });
        all.len() - 1
    };
    let length = headers.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let mut rest = vec![0; length.unwrap_or(0_usize).saturating_sub(body.len())];
    client.read_exact(&mut rest)?;
    body.extend(rest);
    while lock(&shared.held).as_ref().is_some_and(|held| path.starts_with(held)) {
        if shared.stopped.load(Ordering::Relaxed) {
            return Ok(());
        }
        pause(TICK);
    }
    let request = format!("{first}\r\n{}\r\nconnection: close\r\n\r\n", headers.join("\r\n"));
    let status = pass(&mut client, shared, request.as_bytes(), &body);
    let mut all = lock(&shared.all);
    let over_after = all.len();
    if let Some(one) = all.get_mut(place) {
        (one.is_over, one.over_after) = (true, over_after);
        one.status = status.as_ref().ok().copied().flatten();
    }
    drop(all);
    client.shutdown(Shutdown::Both).ok();
    status.map(drop)
}

/// Returns the path of a target; clients name to a proxy the whole address.
fn path_of(target: &str) -> String {
    let rest = target.split_once("://").map_or(target, |(_, rest)| rest);
    rest.find('/').map_or("/", |slash| &rest[slash..]).to_owned()
}

/// Passes a request on and its answer back; returns the answer's status.
fn pass(client: &mut TcpStream, shared: &Shared, head: &[u8], body: &[u8]) -> Outcome<Option<u16>> {
    let mut server = TcpStream::connect(shared.target)?;
    server.set_nodelay(true)?;
    server.write_all(head)?;
    server.write_all(body)?;
    server.set_read_timeout(Some(TICK))?;
    let (mut piece, mut status) = (vec![0; 64 << 10], None);
    while !shared.stopped.load(Ordering::Relaxed) {
        match server.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => {
                let word =
                    || String::from_utf8_lossy(&piece[..count.min(16)]).split(' ').nth(1)?.parse().ok();
                status = status.or_else(word);
                client.write_all(&piece[..count])?;
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if is_gone(client)? {
                    server.shutdown(Shutdown::Both).ok();
                    return Ok(None);
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(status)
}

/// Tells whether the client has closed.
fn is_gone(client: &TcpStream) -> Outcome<bool> {
    client.set_nonblocking(true)?;
    let peeked = client.peek(&mut [0]);
    client.set_nonblocking(false)?;
    Ok(match peeked {
        Ok(count) => count == 0,
        Err(e) => e.kind() != ErrorKind::WouldBlock,
    })
}

/// Reads the head of a request, and what came with it of the body.
fn read_head(client: &mut TcpStream) -> Outcome<(String, Vec<u8>)> {
    let (mut raw, mut piece) = (Vec::new(), vec![0; 16 << 10]);
    loop {
        if let Some(end) = raw.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = raw.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&raw[..end]).into_owned(), body));
        }
        let count = client.read(&mut piece)?;
        if count == 0 || raw.len() > HEAD_BYTES_MAX {
            return Err(Failure::new("no request"));
        }
        raw.extend_from_slice(&piece[..count]);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
