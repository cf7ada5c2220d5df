//! `cargo xtask schemathesis`: made-up requests of the fleet server's document against a real server.
//!
//! Makes the Python environment and starts the test, which starts the server and fills it. Judges nothing itself: the test
//! does. `cargo xtask test` runs it for a minute among all others.

use std::path::PathBuf;

use crate::demo::duration;
use crate::{succeed, tools};

/// Names the Python with schemathesis to the test.
pub(crate) const VARIABLE: &str = "DUNLIN_SCHEMATHESIS_PYTHON";
const SECONDS: &str = "DUNLIN_SCHEMATHESIS_SECONDS";
const SEED: &str = "DUNLIN_SCHEMATHESIS_SEED";
/// The minor version whose checks and options the test knows.
const PACKAGE: &str = "schemathesis>=4.32,<4.33";
const TEST: &str = "attacks::schemathesis::the_server_keeps_what_its_document_says_whatever_is_asked";

/// Returns a Python with schemathesis.
///
/// *Errors*: why there is none, for a person to read; the test then says that it is skipped.
pub(crate) fn python() -> Result<PathBuf, String> {
    let none = |why: String| format!("no schemathesis: {why}");
    let venv = tools::root().join("target/schemathesis");
    tools::environment_at(&venv, "import schemathesis", &[PACKAGE]).map_err(none)
}

/// Runs it alone; `--for 10m` says how long, `--seed N` begins with other requests.
///
/// *Errors*: there is no Python with it, or the server fails a check; the test says which.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let mut test = tools::cargo();
    test.args(["test", "-p", "dunlin-e2e", "--test", "fleet", "--", "--exact", TEST, "--nocapture"]);
    test.env(SECONDS, duration("10m")?.as_secs().to_string());
    for pair in arguments.chunks(2) {
        match pair {
            [flag, time] if flag == "--for" => test.env(SECONDS, duration(time)?.as_secs().to_string()),
            [flag, seed] if flag == "--seed" && seed.parse::<u64>().is_ok() => test.env(SEED, seed),
            _ => return Err("usage: cargo xtask schemathesis [--for 10m] [--seed N]".to_owned()),
        };
    }
    succeed(test.env(VARIABLE, python()?))
}
