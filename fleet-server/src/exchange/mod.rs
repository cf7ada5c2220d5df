//! Exchanges with gateways: one message, one answer.
//!
//! Judges who speaks before it looks at what is said. Never keeps a connection's state: any server can take the next
//! message.

pub mod counter;
