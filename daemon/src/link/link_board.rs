//! How the link stands, for `dunlind status` and `dunlind check`.
//!
//! Written by the link's thread, read by the status socket; decides nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::upload::UploadReport;

/// The link as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkReport {
    /// Where the server is.
    pub url: String,
    /// The gateway's id.
    pub device: String,
    /// Six words of its key, to compare with what the server shows.
    pub words: String,
    /// `enrolling`, `active`, `pending`, `suspended`, `revoked`, or the code of a refusal.
    pub state: String,
    /// Answers that were taken.
    pub answers: u64,
    /// Questions in a row without an answer that was taken.
    pub failures: u64,
    /// Monotonic time of the last answer in microseconds since boot; none since the start.
    pub answered_at_us: Option<i64>,
    /// Why the last question came to nothing, or what was refused of its answer.
    pub last_error: Option<String>,
    /// Revision of the newest statement that was taken.
    pub desired_revision: u64,
    /// Settings of the server, where it gave any.
    #[serde(default)]
    pub settings: Option<SettingsShown>,
    /// What waits for the server, and what was spent on it.
    #[serde(default)]
    pub upload: UploadReport,
}

/// What became of the server's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsShown {
    /// Their revision.
    pub revision: u64,
    /// `trial`, `confirmed`, `reverted`, `refused`, or `local`: none are in use.
    pub state: String,
    /// Why they are not in use.
    pub detail: Option<String>,
}

/// The board.
#[derive(Debug, Default)]
pub struct LinkBoard(Mutex<Option<LinkReport>>);

impl LinkBoard {
    /// Changes what is shown.
    pub fn change(&self, change: impl FnOnce(&mut LinkReport)) {
        change(self.lock().get_or_insert_default());
    }

    /// Returns how the link stands; none where the gateway belongs to no server.
    #[must_use]
    pub fn report(&self) -> Option<LinkReport> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<LinkReport>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
