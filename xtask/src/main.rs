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
mod fuzz;
mod machine;
mod seeds;
mod step;
mod tools;
mod trust;
mod view;

use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};

/// Messages of a golden file: enough for full windows, gaps, late and missing values.
const GOLDEN_MESSAGES: &str = "160";

const USAGE: &str = "\
cargo xtask COMMAND

  test               everything that must hold before a change is merged; installs what it needs
  ci                 the same, without colours
  tidy               the repository's own rules: edges, sizes, headers, links
  demo [--for 20s]   broker, simulated machines and the daemon, live in the terminal
  bench [ARGS]       measures the daemon on this machine
  oracle [ARGS]      full recorded series against their expected predictions, with kills and cuts
  golden NAME|--all  builds the package of an example anew
  fuzz [TARGET...] [--for 10m]
                     feeds every parser made-up inputs; the targets share the time. Those of pipeline and
                     daemon run here alone: they take minutes to build. `fuzz TARGET --input FILE` runs one input again
  conformance [--suite DIR]   the public suite of The Update Framework against our core
  differential [--for 10m]    random repositories before our core and another client";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) =
        arguments.split_first().map_or(("", &[][..]), |(command, rest)| (command.as_str(), rest));
    let outcome = match command {
        "test" | "ci" => checks::test(),
        "tidy" => checks::tidy(),
        "demo" => demo::run(rest),
        "bench" | "oracle" => end_to_end(command, rest),
        "fuzz" => fuzz::run(rest),
        "golden" => golden(rest),
        "conformance" => trust::conformance(rest),
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

fn golden(arguments: &[String]) -> Result<(), String> {
    let names: Vec<String> = match arguments {
        [all] if all == "--all" => examples()?,
        [name] if !name.starts_with('-') => vec![name.clone()],
        _ => return Err("write the name of an example, or `--all`".to_owned()),
    };
    succeed(tools::cargo().args(["build", "-p", "dunlin-cli"]))?;
    names.iter().try_for_each(|name| build_package(name))
}

/// Builds an example's package anew, with golden vectors of the first messages that its generator makes.
fn build_package(name: &str) -> Result<(), String> {
    let folder = tools::root().join("examples").join(name);
    let generator = Command::new(tools::need("python3")?)
        .arg(folder.join("generate.py"))
        .output()
        .map_err(|error| format!("cannot start python3: {error}"))?;
    if !generator.status.success() {
        return Err(format!("`{name}/generate.py` failed: {}", String::from_utf8_lossy(&generator.stderr)));
    }
    let mut build = tools::cargo();
    build.args(["run", "--quiet", "-p", "dunlin-cli", "--", "package", "build", "--samples", "-"]);
    build.args(["--samples-max", GOLDEN_MESSAGES]);
    for (option, file) in [
        ("--model", "package/model.onnx"),
        ("--spec", "package.toml"),
        ("--config", "dunlind.toml"),
        ("--out", "package"),
    ] {
        build.arg(option).arg(folder.join(file));
    }
    let mut child = build
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start `{}`: {error}", build.get_program().display()))?;
    if let Some(mut input) = child.stdin.take() {
        // It takes what it wants and no more: how it ends tells whether that was enough.
        let _ = input.write_all(&generator.stdout);
    }
    let status = child.wait().map_err(|error| format!("`dunlin package build` is lost: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`dunlin package build` ended with {status}")) }
}

fn examples() -> Result<Vec<String>, String> {
    let folder = tools::root().join("examples");
    let entries =
        std::fs::read_dir(&folder).map_err(|error| format!("cannot read `{}`: {error}", folder.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("generate.py").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let status = command
        .status()
        .map_err(|error| format!("cannot start `{}`: {error}", command.get_program().display()))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} ended with {status}")) }
}
