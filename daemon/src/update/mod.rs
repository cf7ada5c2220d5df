//! Updates of models: which release of each model runs, which one is being tried, and which ones never again.
//!
//! Decides by signed intents and by what a release does on this gateway; never by a network's word or a wall clock.
//! What to run goes to the stage as arrangements of lanes; what came of it comes back as counts.
//!
//! `machine` is the pure core with `guards`, `plan` and `safe_mode` beside it; `book` joins it with the store, `updater`
//! with the running daemon.

pub mod active_copy;
pub mod book;
pub mod guards;
pub mod live_stage;
pub mod machine;
pub mod plan;
pub mod release;
pub mod report;
pub mod safe_mode;
pub mod stage;
pub mod updater;

#[cfg(test)]
pub(crate) mod tests;
