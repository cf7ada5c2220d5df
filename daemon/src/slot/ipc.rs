//! Frames between the daemon and its workers.
//!
//! Encodes and decodes; never reads or writes a socket. Both sides keep one request and one answer in flight, so a
//! buffer never holds more than one frame. Layout: length of what follows the length (u32), kind (u8), body;
//! integers and floats little-endian. Both ends are the same program: no version travels.

use std::fmt;
use std::ops::Range;

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::manifest::WINDOW_VALUES_MAX;
use dunlin_model_package::{Blobs, Digest, Package};
use dunlin_trust::Evidence;
use serde::{Deserialize, Serialize};

/// Bytes of length and kind.
pub const HEADER_BYTES: usize = 5;
/// Longest frame: one window of the largest model, which holds the largest manifest with its proof as well, and some
/// room for the fixed fields. The parent keeps batches under it with [`windows_per_frame`].
pub const FRAME_BYTES_MAX: usize = WINDOW_VALUES_MAX * 4 + 64;
/// Longest text of a failure.
pub const TEXT_BYTES_MAX: usize = 4_096;

const LOAD: u8 = 1;
const READY: u8 = 2;
const RUN: u8 = 3;
const OUTPUTS: u8 = 4;
const FAILED: u8 = 5;

/// A decoded frame; values are still bytes in the buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'b> {
    /// To the worker: load a model.
    Load {
        /// Most windows of one run.
        batch_max: u32,
        /// The package, as JSON of a [`LoadRequest`].
        package: &'b [u8],
    },
    /// From the worker: the model is loaded and was run once.
    Ready {
        /// Output values of one window.
        output_values: u32,
    },
    /// To the worker: run these windows.
    Run {
        /// How many.
        count: u32,
        /// Their values.
        values: Floats<'b>,
    },
    /// From the worker: the outputs of the windows, in order.
    Outputs {
        /// All values.
        values: Floats<'b>,
    },
    /// From the worker: the model cannot be loaded or run.
    Failed {
        /// Why, without control characters.
        text: String,
    },
}

/// Little-endian 32-bit floats in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floats<'b>(&'b [u8]);

impl<'b> Floats<'b> {
    /// Returns how many there are.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.len() / 4
    }

    /// Tells whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Returns the values.
    pub fn iter(self) -> impl ExactSizeIterator<Item = f32> + use<'b> {
        self.0.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
    }
}

/// A frame that the other side cannot have meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// It announces more than [`FRAME_BYTES_MAX`].
    TooLong(usize),
    /// It ends before its fields do, or has bytes left.
    Malformed(&'static str),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(bytes) => write!(f, "a frame of {bytes} bytes is longer than {FRAME_BYTES_MAX}"),
            Self::Malformed(what) => write!(f, "a frame has no readable `{what}`"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Returns how many windows of this many values fit into one frame, at least 1.
#[must_use]
pub fn windows_per_frame(window_values: usize, output_values: usize) -> usize {
    ((FRAME_BYTES_MAX - 64) / 4).checked_div(window_values.max(output_values)).unwrap_or(1).max(1)
}

/// A package on its way to a worker, which verifies it again before the engine may load it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadRequest {
    /// SHA-256 of the root that the daemon trusts.
    anchor: Digest,
    /// Proof of the manifest's approval.
    evidence: Evidence,
    /// The manifest's file.
    manifest: String,
    /// Where the files lie.
    blobs: Blobs,
}

impl LoadRequest {
    /// Returns the request to load a package.
    #[must_use]
    pub fn of(package: &Package) -> Self {
        let file = package.file();
        Self {
            anchor: Digest::of(file.evidence.root.as_bytes()),
            evidence: file.evidence.clone(),
            manifest: String::from_utf8_lossy(&file.bytes).into_owned(),
            blobs: package.blobs().absolute(),
        }
    }

    /// Returns the package, verified.
    ///
    /// *Errors*: what the verifier or the package refuses, in words.
    pub fn verify(self) -> Result<Package, String> {
        let text = |error: &dyn std::error::Error| Chain(error).to_string();
        let file = self.evidence.verify(&self.anchor, self.manifest.into_bytes()).map_err(|e| text(&e))?;
        Package::without_files(file, self.blobs).map_err(|e| text(&e))
    }
}

/// Writes a `Load` frame over what `buffer` held.
///
/// *Errors*: a path of the package is no text.
pub fn encode_load(buffer: &mut Vec<u8>, batch_max: u32, load: &LoadRequest) -> serde_json::Result<()> {
    begin(buffer, LOAD);
    buffer.extend_from_slice(&batch_max.to_le_bytes());
    serde_json::to_writer(&mut *buffer, load)?;
    end(buffer);
    Ok(())
}

/// Writes a `Ready` frame over what `buffer` held.
pub fn encode_ready(buffer: &mut Vec<u8>, output_values: u32) {
    begin(buffer, READY);
    buffer.extend_from_slice(&output_values.to_le_bytes());
    end(buffer);
}

/// Writes a `Run` frame over what `buffer` held.
pub fn encode_run<'v>(buffer: &mut Vec<u8>, windows: impl ExactSizeIterator<Item = &'v [f32]>) {
    begin(buffer, RUN);
    buffer.extend_from_slice(&(windows.len() as u32).to_le_bytes());
    windows.for_each(|values| append_floats(buffer, values));
    end(buffer);
}

/// Writes an `Outputs` frame over what `buffer` held.
pub fn encode_outputs(buffer: &mut Vec<u8>, values: &[f32]) {
    begin(buffer, OUTPUTS);
    append_floats(buffer, values);
    end(buffer);
}

/// Writes a `Failed` frame over what `buffer` held; a longer text is cut.
pub fn encode_failed(buffer: &mut Vec<u8>, text: &str) {
    begin(buffer, FAILED);
    buffer.extend_from_slice(&text.as_bytes()[..text.floor_char_boundary(TEXT_BYTES_MAX)]);
    end(buffer);
}

fn begin(buffer: &mut Vec<u8>, kind: u8) {
    buffer.clear();
    buffer.extend_from_slice(&[0, 0, 0, 0, kind]);
}

fn end(buffer: &mut [u8]) {
    let length = (buffer.len() - 4) as u32;
    buffer[..4].copy_from_slice(&length.to_le_bytes());
}

fn append_floats(buffer: &mut Vec<u8>, values: &[f32]) {
    let start = buffer.len();
    buffer.resize(start + values.len() * 4, 0);
    for (place, value) in buffer[start..].as_chunks_mut().0.iter_mut().zip(values) {
        *place = value.to_le_bytes();
    }
}

/// Reads a frame's kind and body.
///
/// *Errors*: the frame is not one of these; the connection is not to be used on.
pub fn decode(frame: &[u8]) -> Result<Frame<'_>, FrameError> {
    let (&kind, body) = frame.split_first().ok_or(FrameError::Malformed("kind"))?;
    match kind {
        LOAD => {
            let (batch_max, package) = take_u32(body, "batch_max")?;
            Ok(Frame::Load { batch_max, package })
        }
        READY => match take_u32(body, "output_values")? {
            (output_values, []) => Ok(Frame::Ready { output_values }),
            _ => Err(FrameError::Malformed("output_values")),
        },
        RUN => {
            let (count, rest) = take_u32(body, "count")?;
            Ok(Frame::Run { count, values: floats(rest)? })
        }
        OUTPUTS => Ok(Frame::Outputs { values: floats(body)? }),
        FAILED if body.len() <= TEXT_BYTES_MAX => {
            // The worker runs what a model made of it: its text may reach a terminal through the log.
            let text = String::from_utf8_lossy(body);
            Ok(Frame::Failed { text: text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect() })
        }
        FAILED => Err(FrameError::Malformed("text")),
        _ => Err(FrameError::Malformed("kind")),
    }
}

fn take_u32<'b>(bytes: &'b [u8], what: &'static str) -> Result<(u32, &'b [u8]), FrameError> {
    let (head, rest) = bytes.split_first_chunk().ok_or(FrameError::Malformed(what))?;
    Ok((u32::from_le_bytes(*head), rest))
}

const fn floats(bytes: &[u8]) -> Result<Floats<'_>, FrameError> {
    if bytes.len().is_multiple_of(4) { Ok(Floats(bytes)) } else { Err(FrameError::Malformed("values")) }
}

/// Bytes as they arrive, until they are a frame.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    filled: usize,
}

/// Room that one read is offered: a batch of 32 windows of 128 values with one system call.
const READ_BYTES: usize = 16 * 1_024 + 64;

impl FrameBuffer {
    /// Returns room for the next read; what was read is announced with [`FrameBuffer::advance`].
    ///
    /// *Errors*: the announced frame is too long. Memory grows with what arrives, never with what is announced.
    pub fn room(&mut self) -> Result<&mut [u8], FrameError> {
        let wanted = match self.announced()? {
            Some(end) => end.min(self.filled.max(READ_BYTES) * 2),
            None => self.filled + READ_BYTES,
        };
        if self.bytes.len() < wanted {
            self.bytes.resize(wanted, 0);
        }
        let filled = self.filled;
        Ok(&mut self.bytes[filled..])
    }

    /// Announces that `count` bytes were read into the room.
    pub fn advance(&mut self, count: usize) {
        self.filled = (self.filled + count).min(self.bytes.len());
    }

    /// Returns where the kind and body of a whole frame lie, if one has arrived.
    ///
    /// *Errors*: the frame is too long.
    pub fn frame(&self) -> Result<Option<Range<usize>>, FrameError> {
        Ok(self.announced()?.filter(|&end| end <= self.filled).map(|end| 4..end))
    }

    /// Returns the bytes of a range that [`FrameBuffer::frame`] gave.
    #[must_use]
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// Forgets a frame that was read.
    pub fn consume(&mut self, range: Range<usize>) {
        self.bytes.copy_within(range.end..self.filled, 0);
        self.filled -= range.end;
        // One large frame, as at load, must not stay in memory for good.
        if self.filled == 0 && self.bytes.len() > 64 * READ_BYTES {
            self.bytes = Vec::new();
        }
    }

    fn announced(&self) -> Result<Option<usize>, FrameError> {
        let Some(head) = self.bytes[..self.filled].first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*head) as usize;
        if length > FRAME_BYTES_MAX { Err(FrameError::TooLong(length)) } else { Ok(Some(length + 4)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pass(buffer: &mut FrameBuffer, bytes: &[u8], step: usize) -> Range<usize> {
        for part in bytes.chunks(step) {
            let mut rest = part;
            while !rest.is_empty() {
                let room = buffer.room().unwrap();
                let count = room.len().min(rest.len());
                room[..count].copy_from_slice(&rest[..count]);
                buffer.advance(count);
                rest = &rest[count..];
            }
        }
        buffer.frame().unwrap().expect("the frame is whole")
    }

    proptest! {
        #[test]
        fn frames_survive_any_splitting(
            windows in proptest::collection::vec(proptest::collection::vec(any::<f32>(), 7), 0..600),
            step in 1..20_000_usize,
            text in ".{0,300}",
        ) {
            let (mut bytes, mut buffer) = (Vec::new(), FrameBuffer::default());
            encode_run(&mut bytes, windows.iter().map(Vec::as_slice));
            let range = pass(&mut buffer, &bytes, step);
            let Frame::Run { count, values } = decode(buffer.bytes(range.clone())).unwrap() else { panic!() };
            prop_assert_eq!(count as usize, windows.len());
            prop_assert!(values.iter().map(f32::to_bits).eq(windows.iter().flatten().map(|v| v.to_bits())));
            buffer.consume(range);

            encode_failed(&mut bytes, &text);
            let range = pass(&mut buffer, &bytes, step);
            let Frame::Failed { text: back } = decode(buffer.bytes(range.clone())).unwrap() else { panic!() };
            prop_assert_eq!(back.chars().count(), text.chars().count());
            prop_assert!(!back.contains(char::is_control));
            buffer.consume(range);

            let load = LoadRequest {
                anchor: Digest::of(text.as_bytes()),
                evidence: Evidence { target: text.clone(), root: text.clone(), roles: vec![text.clone()] },
                manifest: text,
                blobs: Blobs::ByDigest(format!("/x/{step}").into()),
            };
            encode_load(&mut bytes, 32, &load).unwrap();
            let range = pass(&mut buffer, &bytes, step);
            let Frame::Load { batch_max: 32, package } = decode(buffer.bytes(range)).unwrap() else { panic!() };
            prop_assert_eq!(serde_json::from_slice::<LoadRequest>(package).unwrap(), load);
        }

        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused_by_its_head() {
        let mut buffer = FrameBuffer::default();
        buffer.room().unwrap()[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        buffer.advance(4);
        assert_eq!(buffer.frame(), Err(FrameError::TooLong(u32::MAX as usize)));
        assert!(buffer.room().is_err());
    }

    #[test]
    fn an_announced_length_takes_no_memory() {
        let mut buffer = FrameBuffer::default();
        buffer.room().unwrap()[..4].copy_from_slice(&(FRAME_BYTES_MAX as u32).to_le_bytes());
        buffer.advance(4);
        assert!(buffer.room().unwrap().len() <= 2 * READ_BYTES);
    }

    #[test]
    fn the_largest_window_fits_a_frame() {
        assert_eq!(windows_per_frame(WINDOW_VALUES_MAX, 1), 1);
        assert_eq!(windows_per_frame(1024, 1), 16 * 1024);
        assert!(windows_per_frame(0, 0) >= 1);
    }
}
