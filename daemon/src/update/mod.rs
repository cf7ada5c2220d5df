//! Updates of models: which release of each model runs, which one is being tried, and which ones never again; and how
//! releases come onto the gateway.
//!
//! Decides by signed intents and by what a release does on this gateway; never by a network's word or a wall clock.
//! Verifies before it keeps, keeps before it tells. What to run goes to the stage as arrangements of lanes; what came of
//! it comes back as counts.
//!
//! `machine` is the pure core with `guards`, `plan` and `safe_mode` beside it; `book` joins it with the store, `updater`
//! with the running daemon.

pub mod active_copy;
pub mod approval;
pub mod blobs;
pub mod book;
pub mod clean_up;
pub mod compatibility;
pub mod cut;
pub mod direct;
pub mod guards;
pub mod import;
pub mod import_desk;
pub mod importer;
pub mod live_stage;
pub mod machine;
pub mod open_release;
pub mod place;
pub mod plan;
pub mod refusal;
pub mod release;
pub mod report;
pub mod safe_mode;
pub mod stage;
pub mod trust_state;
pub mod updater;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;
