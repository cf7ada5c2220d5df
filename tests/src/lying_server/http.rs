//! The lying server's HTTP: one request a connection, a thread each.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dunlin_protocol::routes::{ENROLL, ENVELOPE_MEDIA_TYPE, EXCHANGE};

use super::answers::{self, File};
use super::{Lie, State};
use crate::failure::{Failure, Outcome};

/// Longest head and body of a request.
const REQUEST_BYTES_MAX: u64 = 8 << 20;
/// Nobody waits longer for the next bytes.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Bytes after which one who reads without an end is left alone.
const ENDLESS_BYTES: usize = 64 << 20;

/// What a portal says to everything.
const PAGE: &[u8] = b"<html><body>Please accept our conditions.</body></html>";

/// Serves until it is told to stop.
pub(super) fn serve(listener: &TcpListener, state: &Arc<Mutex<State>>, is_stopping: &Arc<AtomicBool>) {
    while let Ok((stream, _)) = listener.accept() {
        if is_stopping.load(Ordering::Relaxed) {
            return;
        }
        let (state, is_stopping) = (Arc::clone(state), Arc::clone(is_stopping));
        std::thread::spawn(move || {
            // A client that goes away, or says nothing of sense, is answered by the end of its connection.
            answer(&stream, &state, &is_stopping).ok();
        });
    }
}

struct Request {
    method: String,
    path: String,
    body: Vec<u8>,
    from: usize,
}

fn answer(mut stream: &TcpStream, state: &Mutex<State>, is_stopping: &AtomicBool) -> Outcome<()> {
    stream.set_read_timeout(Some(IDLE_MAX))?;
    let request = read(stream)?;
    let path = request.path.split('?').next().unwrap_or_default();
    let reply = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        match (request.method.as_str(), path) {
            ("POST", ENROLL) => Reply::Envelope(answers::enrol(&mut state, &request.body)?),
            ("POST", EXCHANGE) => match state.lie {
                Some(Lie::CaptivePortal) => Reply::Page,
                Some(Lie::EndlessAnswer) => Reply::Endless(answers::exchange(&mut state, &request.body)?),
                _ => Reply::Envelope(answers::exchange(&mut state, &request.body)?),
            },
            ("GET" | "HEAD", path) => answers::file(&mut state, path).map_or(Reply::Missing, Reply::File),
            _ => Reply::Missing,
        }
    };
    let head = |status: &str, kind: &str, length: Option<usize>| {
        let length = length.map_or_else(String::new, |length| format!("content-length: {length}\r\n"));
        format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{length}connection: close\r\n\r\n")
    };
    if request.method == "HEAD" {
        let whole = head("200 OK", "application/octet-stream", reply.length());
        let missing = head("404 Not Found", "text/plain", Some(0));
        stream.write_all(if matches!(reply, Reply::Missing) { missing } else { whole }.as_bytes())?;
        return Ok(());
    }
    match reply {
        Reply::Envelope(body) => {
            stream.write_all(head("200 OK", ENVELOPE_MEDIA_TYPE, Some(body.len())).as_bytes())?;
            stream.write_all(&body)?;
        }
        Reply::Page => {
            stream.write_all(head("200 OK", "text/html", Some(PAGE.len())).as_bytes())?;
            stream.write_all(PAGE)?;
        }
        Reply::Missing => stream.write_all(head("404 Not Found", "text/plain", Some(0)).as_bytes())?,
        Reply::File(File::Whole(raw)) => {
            let part = raw.get(request.from..).unwrap_or_default();
            let status = if request.from == 0 { "200 OK" } else { "206 Partial Content" };
            let range =
                format!("content-range: bytes {}-{}/{}\r\n", request.from, raw.len().max(1) - 1, raw.len());
            let head = head(status, "application/octet-stream", Some(part.len()));
            let head = if request.from == 0 {
                head
            } else {
                head.replacen("content-type", &format!("{range}content-type"), 1)
            };
            stream.write_all(head.as_bytes())?;
            stream.write_all(part)?;
        }
        Reply::Endless(raw) => {
            stream.write_all(head("200 OK", ENVELOPE_MEDIA_TYPE, None).as_bytes())?;
            go_on(stream, &raw)?;
        }
        Reply::File(File::Endless(raw)) => {
            stream.write_all(head("200 OK", "application/octet-stream", None).as_bytes())?;
            go_on(stream, &raw)?;
        }
        Reply::File(File::Slow(raw)) => {
            stream.write_all(head("200 OK", "application/octet-stream", Some(raw.len())).as_bytes())?;
            for byte in raw {
                if is_stopping.load(Ordering::Relaxed) {
                    break;
                }
                stream.write_all(&[byte])?;
                std::thread::park_timeout(Duration::from_secs(1));
            }
        }
    }
    Ok(())
}

/// Writes these bytes, and then more and more.
fn go_on(mut stream: &TcpStream, raw: &[u8]) -> Outcome<()> {
    stream.write_all(raw)?;
    for _ in 0..ENDLESS_BYTES / 65_536 {
        stream.write_all(&[b' '; 65_536])?;
    }
    Ok(())
}

enum Reply {
    Envelope(Vec<u8>),
    /// An envelope, and then more and more.
    Endless(Vec<u8>),
    Page,
    Missing,
    File(File),
}

impl Reply {
    /// Returns the length that is promised, where one is.
    fn length(&self) -> Option<usize> {
        match self {
            Self::File(File::Whole(raw) | File::Slow(raw)) => Some(raw.len()),
            Self::File(File::Endless(raw)) => Some(raw.len() + ENDLESS_BYTES),
            _ => None,
        }
    }
}

fn read(stream: &TcpStream) -> Outcome<Request> {
    let mut reader = BufReader::new(stream.take(REQUEST_BYTES_MAX));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(Failure::new("no request"));
    };
    let (mut length, mut from, mut is_compressed) = (0, 0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match (name.to_ascii_lowercase().as_str(), value.trim()) {
            ("content-length", value) => length = value.parse().unwrap_or(0),
            ("range", value) => {
                let first = value.strip_prefix("bytes=").and_then(|range| range.split('-').next());
                from = first.and_then(|first| first.parse().ok()).unwrap_or(0);
            }
            ("content-encoding", "zstd") => is_compressed = true,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    if is_compressed {
        body = zstd::bulk::decompress(&body, REQUEST_BYTES_MAX as usize)?;
    }
    Ok(Request { method, path, body, from })
}
