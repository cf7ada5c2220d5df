//! How often a model was started without becoming ready: kept on disk, so that a model that takes the whole gateway
//! down with it is noticed at the next start.
//!
//! Counts; never decides what follows. The slot writes a start before it happens and takes it back once the model
//! is ready.

use dunlin_model_package::Digest;

/// The count of a package that must not be started: its tries are used up.
pub const START_REFUSED: u32 = u32::MAX;

/// Where starts are counted.
pub trait TryLedger: Send + Sync {
    /// Records durably that this model is about to be started; returns the starts since it was last ready, this one
    /// included; [`START_REFUSED`] where it must not be started. A ledger that cannot be written returns 1 for a model that
    /// was good: inference goes on without it.
    fn record_start(&self, model: &str, digest: &Digest) -> u32;

    /// Records that the model became ready.
    fn record_ready(&self, model: &str, digest: &Digest);
}
