//! `dunlind`: the daemon's program.
//!
//! Dispatches to the commands; holds no logic of its own.

use std::process::ExitCode;

use dunlin_daemon::slot::worker::worker_main;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("worker") => worker_main(),
        _ => ExitCode::FAILURE,
    }
}
