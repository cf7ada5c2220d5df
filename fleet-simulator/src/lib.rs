//! Simulated gateways that speak the real protocol: one for tests that drive it by hand, and thousands in one process for
//! `dunlin simulate`.
//!
//! Written with the protocol's own types; a model runs nowhere, and rows are made up. Never used by `dunlind`, whose link is
//! a program of its own.

pub mod agent;
pub mod board;
pub mod crowd;
pub mod figures;
pub mod files_limit;
pub mod gateway_trust;
mod line;
mod member;
mod mirror;
pub mod order;
pub mod outbox;
pub mod plan;
pub mod rhythm;
mod watch;

pub use agent::Agent;
pub use board::{Board, Manner};
pub use crowd::{CrowdError, run};
pub use figures::Summary;
pub use plan::Plan;
