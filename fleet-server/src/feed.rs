//! Who listens to events at this server: told when there is something new, and when the server stops.
//!
//! Looks into the database from time to time, since another server may have written. Holds no event itself: a listener
//! reads on from the last one that it knows.

use std::sync::Arc;
use std::time::Duration;

use dunlin_kit::error_chain::Chain;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::background::Stopping;
use crate::fleet::Fleet;
use crate::store::events;

/// Between two looks: what a person sees as at once.
const LOOK: Duration = Duration::from_millis(300);
/// Listeners at the same time: each holds a connection, and reads every event.
const LISTENERS_MAX: usize = 256;

/// What listeners are told.
#[derive(Debug)]
pub struct Feed {
    newest: watch::Sender<Option<u64>>,
    places: Arc<Semaphore>,
}

impl Default for Feed {
    fn default() -> Self {
        Self { newest: watch::Sender::new(Some(0)), places: Arc::new(Semaphore::new(LISTENERS_MAX)) }
    }
}

/// A place among those who listen.
#[derive(Debug)]
pub struct Listener {
    newest: watch::Receiver<Option<u64>>,
    _place: OwnedSemaphorePermit,
}

impl Feed {
    /// Takes a place; none where all are taken.
    #[must_use]
    pub fn listen(&self) -> Option<Listener> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Listener { newest: self.newest.subscribe(), _place: place })
    }

    /// Tells all that nothing comes any more.
    pub fn close(&self) {
        self.newest.send_replace(None);
    }

    fn announce(&self, seq: u64) {
        self.newest.send_if_modified(|newest| match newest {
            Some(known) if *known < seq => {
                *known = seq;
                true
            }
            _ => false,
        });
    }
}

impl Listener {
    /// Waits for an event after this one; false where the server stops.
    pub async fn is_more(&mut self, after: u64) -> bool {
        let newest = self.newest.wait_for(|newest| newest.is_none_or(|newest| newest > after)).await;
        newest.is_ok_and(|newest| newest.is_some())
    }
}

/// Looks for events until the server stops.
pub(crate) async fn follow(fleet: Arc<Fleet>, mut stopping: Stopping) {
    let mut was_well = true;
    while stopping.pause(LOOK).await {
        let newest = fleet.store.read(events::newest).await;
        match &newest {
            Ok(newest) => fleet.feed.announce(*newest),
            Err(error) if was_well => tracing::warn!(error = %Chain(error), "cannot look for events"),
            Err(_) => {}
        }
        was_well = newest.is_ok();
    }
}
