//! The body of a POST: its media type, its coding, and no more bytes or time than allowed.
//!
//! Never decompresses more than asked for, whatever a frame promises.

use std::future::poll_fn;
use std::io::Read as _;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::{HeaderMap, Request, StatusCode, header};
use dunlin_protocol::limits::envelope_bytes_max;
use dunlin_protocol::refusal::RefusalCode;
use dunlin_protocol::routes::ENVELOPE_MEDIA_TYPE;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Rejection;

/// Largest window of a frame: as much memory as reading one takes, whatever its length.
const WINDOW_LOG_MAX: u32 = 23;

/// Memory that bodies of gateways' messages take together: as many of the longest as a small server parses in a second.
const ROOM_BYTES: usize = 32 << 20;
/// Bodies up to this need no room: those that bring no rows.
const FREE_BYTES: usize = 16 << 10;

/// Room for bodies: what has none is refused, so that those which flood the server fill no memory, and the short messages
/// of others pass.
#[derive(Debug)]
pub struct BodyRoom(Semaphore);

impl Default for BodyRoom {
    fn default() -> Self {
        Self(Semaphore::new(ROOM_BYTES))
    }
}

impl BodyRoom {
    /// Makes room for so many bytes more.
    fn grow<'r>(&'r self, taken: &mut Option<SemaphorePermit<'r>>, bytes: usize) -> Result<(), Rejection> {
        let have = FREE_BYTES + taken.as_ref().map_or(0, SemaphorePermit::num_permits);
        let Some(missing) = bytes.checked_sub(have).filter(|missing| *missing > 0) else { return Ok(()) };
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        let more = self.0.try_acquire_many(missing).map_err(|_| {
            Rejection::of(RefusalCode::Unavailable, "the server reads too many long messages at present")
        })?;
        match taken {
            Some(taken) => taken.merge(more),
            None => *taken = Some(more),
        }
        Ok(())
    }
}

/// A body, and its room, which is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Roomed<'r> {
    pub(super) bytes: Vec<u8>,
    _room: Option<SemaphorePermit<'r>>,
}

/// Decompresses one frame of Zstandard; none where it is broken or comes to more.
pub(crate) fn zstd_frame(frame: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(frame).ok()?.single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX).ok()?;
    let mut plain = Vec::new();
    decoder.by_ref().take(bytes_max as u64 + 1).read_to_end(&mut plain).ok()?;
    // Nothing may follow the frame.
    (plain.len() <= bytes_max && decoder.finish().is_empty()).then_some(plain)
}

/// Reads the envelope of a request, whose payload has at most `payload_bytes_max` bytes.
pub(super) async fn read_envelope<'r>(
    request: Request<Body>,
    body_room: &'r BodyRoom,
    payload_bytes_max: usize,
    time_max: Duration,
) -> Result<Roomed<'r>, Rejection> {
    let bytes_max = envelope_bytes_max(payload_bytes_max);
    let (parts, body) = request.into_parts();
    let is_compressed = require_readable(&parts.headers)?;
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if length.and_then(|length| length.parse().ok()).is_some_and(|length: usize| length > bytes_max) {
        return Err(too_large(bytes_max));
    }
    let mut room = None;
    let grow = |bytes| body_room.grow(&mut room, bytes);
    let mut bytes = within(time_max, collect(body, bytes_max, grow)).await?;
    if is_compressed {
        bytes = zstd_frame(&bytes, bytes_max).ok_or_else(|| too_large(bytes_max))?;
        body_room.grow(&mut room, bytes.len())?;
    }
    Ok(Roomed { bytes, _room: room })
}

/// Reads a body as it comes, within a number of bytes and a time.
pub(crate) async fn read_body(
    body: Body,
    bytes_max: usize,
    time_max: Duration,
) -> Result<Vec<u8>, Rejection> {
    within(time_max, collect(body, bytes_max, |_| Ok(()))).await
}

async fn within(
    time_max: Duration,
    reading: impl Future<Output = Result<Vec<u8>, Rejection>>,
) -> Result<Vec<u8>, Rejection> {
    tokio::time::timeout(time_max, reading).await.map_err(|_| {
        Rejection::http(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not come in time")
    })?
}

fn too_large(bytes_max: usize) -> Rejection {
    let detail = format!("the body is broken or longer than {bytes_max} bytes");
    Rejection::of(RefusalCode::TooLarge, &detail)
}

/// Checks media type and coding; tells whether the body is compressed.
fn require_readable(headers: &HeaderMap) -> Result<bool, Rejection> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?").trim());
    let media_type = text(header::CONTENT_TYPE).and_then(|media_type| media_type.split(';').next());
    if !media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case(ENVELOPE_MEDIA_TYPE)) {
        let detail = format!("the media type is not `{ENVELOPE_MEDIA_TYPE}`");
        return Err(Rejection::of(RefusalCode::Unsupported, &detail));
    }
    match text(header::CONTENT_ENCODING) {
        None | Some("identity") => Ok(false),
        Some("zstd") => Ok(true),
        Some(_) => {
            Err(Rejection::of(RefusalCode::Unsupported, "the coding is neither `identity` nor `zstd`"))
        }
    }
}

async fn collect(
    mut body: Body,
    bytes_max: usize,
    mut grow: impl FnMut(usize) -> Result<(), Rejection>,
) -> Result<Vec<u8>, Rejection> {
    let mut raw = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| Rejection::of(RefusalCode::Malformed, "the body broke off"))?;
        if let Ok(piece) = frame.into_data() {
            if raw.len() + piece.len() > bytes_max {
                return Err(too_large(bytes_max));
            }
            grow(raw.len() + piece.len())?;
            raw.extend_from_slice(&piece);
        }
    }
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_bodies_share_their_room_and_short_ones_need_none() {
        let room = BodyRoom::default();
        let (mut first, mut second, mut short) = (None, None, None);
        room.grow(&mut first, ROOM_BYTES / 2).unwrap();
        room.grow(&mut first, ROOM_BYTES).unwrap();
        assert!(room.grow(&mut second, ROOM_BYTES).is_err());
        assert!(room.grow(&mut short, FREE_BYTES).is_ok());
        drop(first);
        assert!(room.grow(&mut second, ROOM_BYTES).is_ok());
        assert!(room.grow(&mut second, ROOM_BYTES + FREE_BYTES + 1).is_err());
    }

    #[test]
    fn a_frame_is_read_up_to_its_limit_and_alone() {
        let frame = zstd::encode_all([7_u8; 1_000].as_slice(), 3).unwrap();
        assert_eq!(zstd_frame(&frame, 1_000).map(|plain| plain.len()), Some(1_000));
        assert_eq!(zstd_frame(&frame, 999), None);
        assert_eq!(zstd_frame(&[frame.clone(), frame.clone()].concat(), 10_000), None);
        assert_eq!(zstd_frame(&frame[..frame.len() - 1], 1_000), None);
    }
}
