//! The brokers: messages in, acknowledgements and predictions out. The only home of the MQTT client library.
//!
//! Never decodes a payload and never decides what is safe: a message is acknowledged when the writer says so. Each
//! connection has a client and an event loop of its own, polled by a task of its own; ingest and publishing never
//! share one.

mod connection;
mod reconnect;
mod session;

pub mod credential;
pub mod feed;
pub mod ingest;
pub mod outbox;
pub mod probe;
pub mod publisher;
pub mod tls;

#[cfg(test)]
mod progress_tests;
