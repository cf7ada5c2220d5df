//! The harness of the end-to-end tests: a real broker, the real daemon, a proxy that does harm, and an oracle.
//!
//! Starts and stops processes and counts what comes out of them; never calls the daemon's code. The test binary, the
//! full oracle runs and the benchmark are written with it.

pub mod broker;
pub mod bucket;
pub mod campaign;
pub mod certificates;
pub mod daemon;
pub mod failure;
pub mod fleet_owner;
pub mod fleet_server;
pub mod golden;
pub mod key_files;
pub mod killing;
pub mod link;
pub mod load;
pub mod lying_server;
pub mod onnx;
pub mod operator;
pub mod oracle;
pub mod owner;
pub mod package;
pub mod postgres;
pub mod proxy;
pub mod recorder;
pub mod releases;
pub mod seed;
pub mod series;
pub mod stream;
pub mod swaps;
pub mod tls_front;
pub mod wait;
pub mod wire;
pub mod workspace;

pub use dunlin_fleet_simulator::gateway_trust;
pub use failure::{Failure, Outcome};
