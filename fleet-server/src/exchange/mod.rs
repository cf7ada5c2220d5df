//! Exchanges with gateways: one message, one answer.
//!
//! Judges who speaks before it looks at what is said. Never keeps a connection's state: any server can take the next
//! message.

mod answer;
pub mod counter;
mod ingest;
mod judge;
pub mod waiters;

pub use answer::{Answered, exchange};
pub(crate) use answer::{next_of, wire_state};
