//! `dunlind`: the input and output around the pipeline on a gateway.
//!
//! Holds the stages (ingest, stage, slots, publisher, writer), the configuration and the commands. Data runs one
//! way; the pipeline's crate does all that can be done without input and output.

pub mod app;
pub mod backlog;
pub mod board;
pub mod command;
pub mod config;
pub mod flow;
pub mod lanes;
pub mod latencies;
pub mod link;
pub mod logging;
pub mod metrics;
pub mod mqtt;
pub mod publication;
pub mod remote_settings;
pub mod slot;
pub mod stage;
pub mod status;
pub mod store;
pub mod systemd;
pub mod update;
pub mod upload;
