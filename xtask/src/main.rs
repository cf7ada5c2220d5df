//! `cargo xtask`: everything that is done to the repository rather than by the product.
//!
//! Runs checks, tests, the demo and the benches by starting the real programs. Holds nothing of the product's code and
//! depends on no crate of the workspace, so that it builds in seconds. Stands before everything else: a fresh machine
//! with a Rust toolchain and a C compiler needs nothing but these commands.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command of developers talks to its terminal"
)]

mod broker;
mod checks;
mod demo;
mod examples;
mod fuzz;
mod machine;
mod models;
mod nodes;
mod schemathesis;
mod seeds;
mod step;
mod tools;
mod trust;
mod view;

use std::process::{Command, ExitCode};

const USAGE: &str = "\
cargo xtask COMMAND

  test               everything that must hold before a change is merged; installs what it needs
  ci                 the same, without colours
  tidy               the repository's own rules: edges, sizes, headers, links
  demo [--for 20s]   broker, simulated machines and the daemon, live in the terminal
  bench [ARGS]       measures the daemon on this machine
  bench fleet [--devices N...] [--for SECONDS] [--rounds N] [--sqlite|--postgres] [--output FILE]
                     measures the fleet server with crowds of simulated gateways
  oracle [ARGS]      full recorded series against their expected predictions, with kills and cuts; `--swaps 1000`: hot
                     swaps under load
  example NAME|--all builds the package of an example anew and signs it with a key that is thrown away
  models [--family NAME] [--quick]
                     exports of all families by our engine and by ONNX Runtime; writes docs/models.md. `--keep` runs those
                     that were made last, `--subset` writes those of the test suite, `--faults` runs the minimal models of
                     what was worked around and writes their section
  fuzz [TARGET...] [--for 10m]
                     feeds every parser made-up inputs; the targets share the time. Those of pipeline and
                     daemon run here alone: they take minutes to build. `fuzz TARGET --input FILE` runs one input again
  nodes [--write FILE]
                     the node tests of the `onnx` package against the engine; FILE gets what became of each
  conformance [--suite DIR]   the public suite of The Update Framework against our core
  schemathesis [--for 10m] [--seed N]
                     made-up requests of the fleet server's document against a real server
  differential [--for 10m]    random repositories before our core and another client";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) =
        arguments.split_first().map_or(("", &[][..]), |(command, rest)| (command.as_str(), rest));
    let outcome = match command {
        "test" | "ci" => checks::test(),
        "tidy" => checks::tidy(),
        "demo" => demo::run(rest),
        "bench" if rest.first().is_some_and(|first| first == "fleet") => fleet_bench(&rest[1..]),
        "bench" | "oracle" => end_to_end(command, rest),
        "fuzz" => fuzz::run(rest),
        "models" => models::run(rest),
        "example" => examples::run(rest),
        "nodes" => nodes::run(rest),
        "conformance" => trust::conformance(rest),
        "schemathesis" => schemathesis::run(rest),
        "differential" => trust::differential(rest),
        "" | "help" | "-h" | "--help" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => Err(format!("`{other}` is no command\n\n{USAGE}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            if !message.is_empty() {
                eprintln!("{message}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Runs one of the programs of package `dunlin-e2e`, as fast as the daemon that it measures.
fn end_to_end(program: &str, arguments: &[String]) -> Result<(), String> {
    tools::install_broker()?;
    let mut build = tools::cargo();
    build.args(["build", "--release", "-p", "dunlin-daemon", "--bin", "dunlind"]);
    succeed(&mut build)?;
    let mut run = tools::cargo();
    run.args(["run", "--release", "-p", "dunlin-e2e", "--bin", program, "--"]).args(arguments);
    succeed(&mut run)
}

/// Measures the server's and the operator's program as they are released; the harness beside them need not be fast.
fn fleet_bench(arguments: &[String]) -> Result<(), String> {
    let mut build = tools::cargo();
    build.args(["build", "--release", "-p", "dunlin-fleet", "-p", "dunlin-cli"]);
    succeed(&mut build)?;
    let mut run = tools::cargo();
    run.args(["run", "-p", "dunlin-e2e", "--bin", "fleet_bench", "--"]).args(arguments);
    let folder =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), std::path::PathBuf::from);
    let program = |name: &str| folder.join("release").join(name);
    run.env("DUNLIN_FLEET_BIN", program("dunlin-fleet")).env("DUNLIN_BIN", program("dunlin"));
    succeed(&mut run)
}

pub(crate) fn succeed(command: &mut Command) -> Result<(), String> {
    let status = command
        .status()
        .map_err(|error| format!("cannot start `{}`: {error}", command.get_program().display()))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} ended with {status}")) }
}
