//! `dunlin`: the operator's command line, and the only place that holds offline keys.
//!
//! Builds, checks, signs and publishes model packages. Never runs on a gateway, and never shares code with the daemon
//! or the server beyond the crates that all of them stand on.

pub mod command;
pub mod director;
pub mod fleet;
pub mod key_file;
pub mod keyring;
pub mod output;
pub mod passphrase;
pub mod print;
pub mod profile;
pub mod publication;
pub mod verification;
pub mod workspace;
