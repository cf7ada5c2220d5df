//! The stage's end of publishing, and the way back to what did not fit into the queue.
//!
//! Never waits: what the queue cannot take is in the store and is read back. Once something was left out, all that
//! follows is left out too until the publisher has caught up, so order is kept.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::flow::Publication;

/// What was read back from the store.
#[derive(Debug, Clone, Default)]
pub struct BacklogPage {
    /// Publications in rising order of sequence; all of a sequence or none.
    pub publications: Vec<Publication>,
    /// All publications up to this sequence, and after the one asked for, are in `publications`; predictions that are
    /// never published or were given up count as covered. Not below the sequence asked for.
    pub through: u64,
    /// Whether there is more.
    pub end: PageEnd,
}

/// Whether a page reached what is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PageEnd {
    /// The limit cut it.
    More,
    /// The store holds nothing after `through`.
    #[default]
    Exhausted,
}

/// Reads publications back from the store.
pub trait Backlog: Send {
    /// Returns about `limit` publications after `sequence`.
    ///
    /// *Errors*: a text for the log; the publisher tries again for a while, then gives up what is missing.
    fn publications_after(&mut self, sequence: u64, limit: usize) -> Result<BacklogPage, String>;
}

/// Answers of the thread that reads.
pub(super) type BacklogAnswer = Result<BacklogPage, String>;

/// The publisher's end of the thread that reads back.
pub struct BacklogReader {
    pub(super) requests: mpsc::Sender<(u64, usize)>,
    pub(super) answers: mpsc::Receiver<BacklogAnswer>,
}

/// Starts the thread that reads back; it ends when the reader is dropped.
///
/// *Errors*: the system has no thread left.
pub fn start_backlog(mut backlog: impl Backlog + 'static) -> io::Result<BacklogReader> {
    let (requests, mut asked) = mpsc::channel(1);
    let (answer, answers) = mpsc::channel(1);
    std::thread::Builder::new().name("publish-backlog".to_owned()).spawn(move || {
        while let Some((sequence, limit)) = asked.blocking_recv() {
            if answer.blocking_send(backlog.publications_after(sequence, limit)).is_err() {
                break;
            }
        }
    })?;
    Ok(BacklogReader { requests, answers })
}

/// Sequences that the stage left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) first: u64,
    pub(super) last: u64,
}

/// What the stage left out since the publisher last caught up.
#[derive(Debug, Default)]
pub(super) struct GapRecord(Mutex<Option<Gap>>);

impl GapRecord {
    fn lock(&self) -> MutexGuard<'_, Option<Gap>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the first sequence that was left out.
    pub(super) fn first_missing(&self) -> Option<u64> {
        self.lock().map(|gap| gap.first)
    }

    /// Ends the gap: from here on the stage sends again. Returns the last sequence that was left out.
    pub(super) fn close(&self) -> Option<u64> {
        self.lock().take().map(|gap| gap.last)
    }
}

/// What became of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// The publisher has it.
    Queued,
    /// It will be read back from the store, by its sequence.
    LeftOut,
}

/// The sending end for the stage.
#[derive(Debug, Clone)]
pub struct PublishFeed {
    queue: mpsc::Sender<Publication>,
    gap: Arc<GapRecord>,
}

impl PublishFeed {
    /// Hands a publication to the publisher, or leaves it to be read back from the store. Sequences never fall.
    pub fn offer(&self, publication: Publication) -> Offered {
        let mut gap = self.gap.lock();
        if let Some(gap) = gap.as_mut() {
            gap.last = gap.last.max(publication.sequence);
            return Offered::LeftOut;
        }
        match self.queue.try_send(publication) {
            Ok(()) => Offered::Queued,
            Err(TrySendError::Full(left_out)) => {
                *gap = Some(Gap { first: left_out.sequence, last: left_out.sequence });
                Offered::LeftOut
            }
            Err(TrySendError::Closed(_)) => Offered::LeftOut,
        }
    }

    /// Hands on a publication that comes after ones with higher sequences. In the queue it stands under `given`,
    /// which is above everything that was offered, so that it is not taken for one that was read back.
    pub fn offer_late(&self, publication: Publication, given: u64) -> OfferedLate {
        let mut gap = self.gap.lock();
        let own = publication.sequence;
        if let Some(gap) = gap.as_mut() {
            if own < gap.first {
                return OfferedLate::Refused(publication);
            }
            gap.last = gap.last.max(own);
            return OfferedLate::LeftOut;
        }
        match self.queue.try_send(Publication { sequence: given, ..publication }) {
            Ok(()) => OfferedLate::Queued,
            Err(TrySendError::Full(refused) | TrySendError::Closed(refused)) => {
                OfferedLate::Refused(Publication { sequence: own, ..refused })
            }
        }
    }
}

/// What became of a late offer.
#[derive(Debug)]
pub enum OfferedLate {
    /// The publisher has it.
    Queued,
    /// It will be read back from the store, by its own sequence.
    LeftOut,
    /// It is to be offered again: what will be read back begins after it, or there is no room.
    Refused(Publication),
}

/// The receiving end for the publisher.
pub struct PublishQueue {
    pub(super) queue: mpsc::Receiver<Publication>,
    pub(super) gap: Arc<GapRecord>,
}

/// Returns both ends of a queue for `capacity` publications.
#[must_use]
pub fn publish_channel(capacity: usize) -> (PublishFeed, PublishQueue) {
    let (sender, receiver) = mpsc::channel(capacity);
    let gap = Arc::new(GapRecord::default());
    (PublishFeed { queue: sender, gap: Arc::clone(&gap) }, PublishQueue { queue: receiver, gap })
}
