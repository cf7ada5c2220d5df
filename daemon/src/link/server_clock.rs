//! The server's time in this boot, as its signed answers brought it.
//!
//! Shared by the link, which sets it, and the checks of metadata, which ask it. Never kept across starts: a stolen online
//! key delays, and never for good.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dunlin_trust::time::UnixTime;
use dunlin_trust::trusted_time::ServerTime;

/// The clock.
#[derive(Debug, Default)]
pub struct ServerClock(Mutex<Option<ServerTime>>);

impl ServerClock {
    /// Takes the time of a signed answer that came at this monotonic time.
    pub fn set(&self, server_time_ms: u64, received_at: Duration) {
        let signed = UnixTime(i64::try_from(server_time_ms / 1_000).unwrap_or(i64::MAX));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ServerTime { signed, received_at });
    }

    /// Returns the newest time.
    #[must_use]
    pub fn time(&self) -> Option<ServerTime> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
