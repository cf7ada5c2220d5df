//! Those who hold connections and send slowly, and a server that stops meanwhile.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use dunlin_e2e::Outcome;
use dunlin_fleet::http::Bounds;
use dunlin_protocol::RefusalCode;
use dunlin_protocol::limits::{REQUEST_BYTES_MAX, envelope_bytes_max};
use dunlin_protocol::routes::{ENVELOPE_MEDIA_TYPE, EXCHANGE};

use crate::device::request;
use crate::serving::Running;

/// Connections of a flood: two a connection are files of this one process, whose limit is often 1,024.
const FLOOD: usize = 300;

fn flood(running: &Running, text: &str) -> Outcome<Vec<TcpStream>> {
    let mut streams = Vec::new();
    for _ in 0..FLOOD {
        let mut stream = TcpStream::connect(running.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(text.as_bytes())?;
        streams.push(stream);
    }
    Ok(streams)
}

#[test]
fn connections_that_say_nothing_make_room_for_those_that_speak() -> Outcome<()> {
    let bounds = Bounds { connections: FLOOD, head: Duration::from_millis(500), ..Bounds::default() };
    let running = Running::start_within(bounds, tempfile::tempdir()?)?;
    // Half a head each, and all places taken.
    let _held = flood(&running, "GET /healthz HTTP/1.1\r\nhost: f")?;
    assert_eq!(request(running.address, "GET", "/healthz", "", b"")?.status, 200);
    Ok(())
}

#[test]
fn slow_bodies_do_not_hold_up_others() -> Outcome<()> {
    let running = Running::start()?;
    let mut device = running.enrolled(1)?;
    let head = format!(
        "POST {EXCHANGE} HTTP/1.1\r\nhost: f\r\ncontent-type: {ENVELOPE_MEDIA_TYPE}\r\ncontent-length: 1000\r\n\r\n{{"
    );
    let _held = flood(&running, &head)?;
    assert_eq!(device.exchange(Vec::new())?.refusal, None);
    Ok(())
}

#[test]
fn long_bodies_beyond_the_room_for_them_are_refused_and_short_ones_pass() -> Outcome<()> {
    let running = Running::start()?;
    let mut device = running.enrolled(1)?;
    let bytes = envelope_bytes_max(REQUEST_BYTES_MAX) - 1;
    let head = format!(
        "POST {EXCHANGE} HTTP/1.1\r\nhost: f\r\ncontent-type: {ENVELOPE_MEDIA_TYPE}\r\ncontent-length: {bytes}\r\n\r\n"
    );
    // All but the last byte: each is kept in memory until it comes or its time is over.
    let body = vec![b' '; bytes - 1];
    let mut held = Vec::new();
    let mut refusal = String::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(running.address)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        let mut answer = [0; 512];
        if let Ok(count @ 1..) = stream.read(&mut answer) {
            refusal = String::from_utf8_lossy(&answer[..count]).into_owned();
            break;
        }
        held.push(stream);
    }
    assert!(refusal.starts_with("HTTP/1.1 503"), "{refusal} after {}", held.len());
    assert!(refusal.to_ascii_lowercase().contains("retry-after"), "{refusal}");
    assert_eq!(device.exchange(Vec::new())?.refusal, None);
    assert_eq!(RefusalCode::Unavailable.http_status(), 503);
    Ok(())
}

#[test]
fn a_server_that_stops_answers_those_that_wait() -> Outcome<()> {
    let running = Running::start()?;
    let mut device = running.enrolled(1)?;
    let mut question = device.question(Vec::new());
    question.report.full = Some(Box::new(crate::rows::report()));
    device.send(&question, 0)?;
    let question = device.question(Vec::new());
    let (waiting, id) = (device.clone(), device.id());
    let thread = std::thread::spawn(move || waiting.send(&question, 50));
    dunlin_e2e::wait::wait_until("the question waits", Duration::from_secs(60), || {
        running.with_fleet(async |fleet| fleet.waiters.has(id)).unwrap_or(false)
    })?;
    running.stop();
    let reply = thread.join().unwrap()?;
    assert_eq!(reply.status, 200);
    Ok(())
}
