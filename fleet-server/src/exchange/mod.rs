//! Exchanges with gateways: one message, one answer.
//!
//! Judges who speaks before it looks at what is said. Never keeps a connection's state: any server can take the next
//! message.

mod answer;
pub mod counter;
mod ingest;
mod judge;
pub mod keys;
mod patience;
mod resends;
mod results;
pub mod waiters;
mod wishes;

pub use answer::{Answered, exchange, open};
pub(crate) use answer::{next_of, wire_state};
pub use judge::Question;
pub(crate) use patience::Patience;
pub use results::take_results;
pub(crate) use wishes::{EXCHANGE, UPLOADS};
