//! The repository behind the server's GETs, and behind its mirrors: metadata by name, manifests and files by hash.
//!
//! Resumes where a file was cut, turns to the next place where one fails, and stops at a floor under the speed. Believes
//! nothing of what comes: whoever reads it checks it. Blocks the thread that reads.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dunlin_model_package::{Digest, RepositoryPath, RepositorySource, SourceError};
use dunlin_protocol::routes::{blob_path, delta_path, image_path};
use dunlin_trust::transfer::require_speed;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use reqwest::{Method, Response};
use tokio::runtime::Runtime;

use super::meter::{Meter, OVERHEAD_BYTES, Traffic};
use super::remote::{Remote, RemoteError, SILENCE_MAX, answered, words_of};
use crate::update::place::ListedSource;

/// Longest wait for the head of a reply.
const HEAD_MAX: Duration = Duration::from_secs(60);

/// The places, seen as one repository.
#[derive(Debug, Clone)]
pub struct ServerRepository {
    remote: Remote,
    /// Where blobs are looked for first: moves on when a place gave something wrong.
    first: Arc<AtomicUsize>,
}

impl ServerRepository {
    /// Returns the repository of a server.
    #[must_use]
    pub fn new(remote: Remote) -> Self {
        Self { remote, first: Arc::default() }
    }

    /// Returns how many places there are.
    #[must_use]
    pub fn places(&self) -> usize {
        self.remote.settings().mirrors.len() + 1
    }

    /// Begins with the next place from here on: this one gave something wrong.
    pub fn turn_to_next(&self) {
        self.first.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the places in the order in which they are asked for a file.
    fn order(&self, path: &RepositoryPath) -> Vec<&str> {
        let settings = self.remote.settings();
        let mirrors = settings.mirrors.iter().map(String::as_str);
        if path.is_metadata() {
            // The server's are the newest.
            return [settings.server.as_str()].into_iter().chain(mirrors).collect();
        }
        let mut places: Vec<&str> = mirrors.chain([settings.server.as_str()]).collect();
        let count = places.len();
        places.rotate_left(self.first.load(Ordering::Relaxed) % count);
        places
    }

    /// Returns what makes a blob of another that is here: one frame of Zstandard. Nothing where there is none.
    ///
    /// *Errors*: no place was reached.
    pub fn patch(&self, sha256: Digest, base: Digest) -> Result<Option<impl Read + Send>, SourceError> {
        let path = RepositoryPath::Blob(sha256);
        let asked = self.ask_for(&path, &delta_path(&sha256, &base), Part::From(0))?;
        Ok(asked.map(|response| self.download(response, path.to_string(), Traffic::Packages, 0)))
    }

    fn download(&self, response: Response, object: String, traffic: Traffic, skipped: u64) -> Download {
        self.remote.meter().received(traffic, OVERHEAD_BYTES);
        Download {
            response,
            runtime: self.remote.runtime(),
            part: bytes::Bytes::new(),
            skipped,
            window: (Instant::now(), 0),
            object,
            remote: self.remote.clone(),
            traffic,
        }
    }

    fn ask(&self, path: &RepositoryPath, part: Part) -> Result<Option<Response>, SourceError> {
        self.ask_for(path, &route_of(path), part)
    }

    /// Asks each place in turn; nothing where those that answer have no such file.
    fn ask_for(
        &self,
        path: &RepositoryPath,
        route: &str,
        part: Part,
    ) -> Result<Option<Response>, SourceError> {
        let (mut failed, mut is_absent) = (None, false);
        for place in self.order(path) {
            let mut request = self.remote.request(Method::GET, place, route).timeout(DOWNLOAD_MAX);
            match part {
                Part::From(0) => {}
                Part::From(offset) => request = request.header(RANGE, format!("bytes={offset}-")),
                Part::First => request = request.header(RANGE, "bytes=0-0"),
            }
            let asked = self.remote.runtime().block_on(async {
                let asked = tokio::time::timeout(HEAD_MAX, answered(request, route)).await;
                asked.unwrap_or_else(|_| Err(RemoteError::TooSlow(route.to_owned())))
            });
            match asked {
                Ok(Some(response)) => return Ok(Some(response)),
                Ok(None) => is_absent = true,
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if !is_absent => Err(source_error(path, &error)),
            _ => Ok(None),
        }
    }
}

/// Which part of a file is asked for.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// One byte, to hear how long the file is: mirrors may not know HEAD.
    First,
    /// All from here on.
    From(u64),
}

/// Longest transfer of one file: one of the largest at the slowest speed would take longer, and is resumed.
const DOWNLOAD_MAX: Duration = Duration::from_secs(6 * 3_600);

fn route_of(path: &RepositoryPath) -> String {
    match path {
        RepositoryPath::Metadata { version, role } => image_path(&format!("{version}.{role}.json")),
        RepositoryPath::Timestamp => image_path("timestamp.json"),
        RepositoryPath::Manifest { sha256, .. } | RepositoryPath::Blob(sha256) => blob_path(sha256),
    }
}

fn source_error(path: &RepositoryPath, error: &RemoteError) -> SourceError {
    let kind = match error {
        RemoteError::TooSlow(_) => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    };
    SourceError::Io { path: PathBuf::from(path.to_string()), source: io::Error::new(kind, words_of(error)) }
}

impl RepositorySource for ServerRepository {
    fn length(&self, path: &RepositoryPath) -> Result<Option<u64>, SourceError> {
        let Some(response) = self.ask(path, Part::First)? else { return Ok(None) };
        self.remote.meter().received(Traffic::Packages, OVERHEAD_BYTES);
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        // Who knows no parts announces the whole file, of which no more is read than came with the head.
        let length = match response.status().as_u16() {
            206 => header(CONTENT_RANGE).and_then(|range| range.rsplit('/').next()?.parse().ok()),
            _ => header(CONTENT_LENGTH).and_then(|length| length.parse().ok()),
        };
        let unsaid =
            || source_error(path, &RemoteError::Foreign(format!("nobody says how long `{path}` is")));
        length.map(Some).ok_or_else(unsaid)
    }

    fn reader_at(
        &self,
        path: &RepositoryPath,
        offset: u64,
    ) -> Result<Option<Box<dyn Read + Send>>, SourceError> {
        let Some(response) = self.ask(path, Part::From(offset))? else { return Ok(None) };
        let skipped = match response.status().as_u16() {
            206 if begins_at(&response, offset) => 0,
            206 => {
                let words = format!("another part of `{path}` came than was asked for");
                return Err(source_error(path, &RemoteError::Foreign(words)));
            }
            // Who knows no parts sends the whole file.
            _ => offset,
        };
        let traffic = if path.is_metadata() { Traffic::Metadata } else { Traffic::Packages };
        Ok(Some(Box::new(self.download(response, path.to_string(), traffic, skipped))))
    }
}

impl ListedSource for ServerRepository {
    fn manifests(&self, _: &str) -> Vec<(String, Digest)> {
        Vec::new()
    }
}

fn begins_at(response: &Response, offset: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
    first == Some(offset)
}

/// A file on its way.
struct Download {
    response: Response,
    runtime: Arc<Runtime>,
    part: bytes::Bytes,
    /// Bytes at the beginning that are here already.
    skipped: u64,
    /// Since when the speed is judged, and what came since.
    window: (Instant, u64),
    object: String,
    remote: Remote,
    traffic: Traffic,
}

impl Download {
    fn meter(&self) -> &Meter {
        self.remote.meter()
    }

    /// Takes the next part from the connection.
    ///
    /// *Errors*: the connection broke; `TimedOut` where it is silent or too slow.
    fn advance(&mut self) -> io::Result<()> {
        let too_slow = |words: String| io::Error::new(io::ErrorKind::TimedOut, words);
        let part =
            self.runtime.block_on(async { tokio::time::timeout(SILENCE_MAX, self.response.chunk()).await });
        let part = part
            .map_err(|_| too_slow(format!("nothing came for {} s", SILENCE_MAX.as_secs())))?
            .map_err(|error| io::Error::other(dunlin_kit::error_chain::Chain(&error).to_string()))?;
        self.part = part.unwrap_or_default();
        let count = self.part.len() as u64;
        self.meter().received(self.traffic, count);
        self.window.1 += count;
        let elapsed = self.window.0.elapsed();
        require_speed(self.window.1, elapsed, &self.object).map_err(|failure| too_slow(failure.reason))?;
        if elapsed >= dunlin_trust::transfer::SPEED_WINDOW {
            self.window = (Instant::now(), 0);
        }
        Ok(())
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.part.is_empty() {
                self.advance()?;
                if self.part.is_empty() {
                    return Ok(0);
                }
            }
            if self.skipped > 0 {
                let skipped = self.skipped.min(self.part.len() as u64);
                self.part = self.part.slice(skipped as usize..);
                self.skipped -= skipped;
                continue;
            }
            let count = buffer.len().min(self.part.len());
            buffer[..count].copy_from_slice(&self.part[..count]);
            self.part = self.part.slice(count..);
            return Ok(count);
        }
    }
}
