//! Releases on their way onto the gateway: from a repository's files to packages that are complete and approved.
//!
//! Verifies before it keeps, keeps before it tells; every step may be cut and run again. Never runs a model: what it
//! offers is admitted, tried and judged by the slots' state machine.

pub mod approval;
pub mod blobs;
pub mod compatibility;
pub mod cut;
pub mod import;
pub mod import_desk;
pub mod importer;
pub mod open_release;
pub mod place;
pub mod refusal;
pub mod trust_state;

#[cfg(test)]
pub(crate) mod testing;
