//! The fleet server's parts against the real things: PostgreSQL, HTTP clients, simulated gateways.
//!
//! Apart from the gateway's tests so that these link no server. Each test has its own folders, databases and ports.
#![expect(clippy::unwrap_used, reason = "what a test makes itself is sound, or the test fails")]

mod api;
mod attacks;
mod daemon;
mod daemon_lies;
mod device;
mod field;
mod ingest;
mod operator;
mod rollouts;
mod rows;
mod serving;
mod store;
mod trust;
mod uploads;
