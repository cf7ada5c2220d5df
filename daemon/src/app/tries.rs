//! Starts of models, counted in `state.db`.
//!
//! Joins the slots' trait with the store's table, so that neither knows the other.

use std::sync::{Mutex, MutexGuard, PoisonError};

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::Digest;

use crate::slot::TryLedger;
use crate::store::{StateDatabase, StoreError};

/// The state database behind the slots' trait.
pub struct StateLedger(Mutex<StateDatabase>);

impl StateLedger {
    /// Wraps the database.
    #[must_use]
    pub const fn new(state: StateDatabase) -> Self {
        Self(Mutex::new(state))
    }

    /// Records that the daemon stopped in order.
    ///
    /// *Errors*: the database cannot be written; the next start checks more than it needs to.
    pub fn mark_clean(&self) -> Result<(), StoreError> {
        self.lock().mark_clean()
    }

    fn lock(&self) -> MutexGuard<'_, StateDatabase> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TryLedger for StateLedger {
    fn record_start(&self, model: &str, digest: &Digest) -> u32 {
        self.lock().record_start(model, &digest.to_string()).unwrap_or_else(|error| {
            tracing::warn!(model, error = %Chain(&error), "starts cannot be counted");
            1
        })
    }

    fn record_ready(&self, model: &str, digest: &Digest) {
        if let Err(error) = self.lock().record_ready(model, &digest.to_string()) {
            tracing::warn!(model, error = %Chain(&error), "starts cannot be counted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FolderLock;

    #[test]
    fn starts_count_up_across_restarts_until_the_model_is_ready() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        let ledger = || StateLedger::new(StateDatabase::open(&lock).unwrap());
        let digest = Digest::of(b"a");
        assert_eq!(ledger().record_start("m", &digest), 1);
        assert_eq!(ledger().record_start("m", &digest), 2);
        assert_eq!(ledger().record_start("m", &Digest::of(b"b")), 1);
        ledger().record_ready("m", &digest);
        assert_eq!(ledger().record_start("m", &digest), 1);
    }
}
