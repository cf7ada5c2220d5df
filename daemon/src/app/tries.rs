//! Starts of models, counted in `state.db`.
//!
//! Joins the slots' trait with the store's table, so that neither knows the other.

use std::sync::{Mutex, MutexGuard, PoisonError};

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::Digest;

use crate::slot::TryLedger;
use crate::store::{StateDatabase, StoreError};

/// The state database behind the slots' trait.
pub(crate) struct StateLedger(Mutex<StateDatabase>);

impl StateLedger {
    /// Wraps the database.
    pub(crate) const fn new(state: StateDatabase) -> Self {
        Self(Mutex::new(state))
    }

    /// Records that the daemon stopped in order.
    pub(crate) fn mark_clean(&self) -> Result<(), StoreError> {
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
