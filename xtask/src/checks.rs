//! `cargo xtask test`: everything that must hold before a change is merged, in one order.
//!
//! Starts the checks and tells what became of them. All run, even after a failure, so that one run shows all there is to
//! mend. The test runner's own summary stands at the end.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::step::{Outcome, Steps, passes, passes_and_tells};
use crate::{fuzz, nodes, schemathesis, tools};

/// The units, and the programs that they start.
const UNITS: [(&str, &str); 2] =
    [("dunlind.service", "/usr/bin/dunlind"), ("dunlin-fleet.service", "/usr/bin/dunlin-fleet")];
/// Workspaces of their own: the fuzz targets, and the comparison with ONNX Runtime.
const BESIDE: [&str; 2] = ["fuzz/Cargo.toml", "zoo/Cargo.toml"];

/// Exposure in tenths that the unit may have at most; see `docs/operations.md`.
const EXPOSURE_MAX: &str = "--threshold=12";

/// Runs all checks.
///
/// *Errors*: an empty text, since what failed was said where it failed.
pub(crate) fn test() -> Result<(), String> {
    let mut steps = Steps::default();
    steps.run("broker", || tools::install_broker().map_or_else(Outcome::Failed, |()| Outcome::Passed));
    steps.run("database", || tools::install_postgres().map_or_else(Outcome::Failed, |()| Outcome::Passed));
    steps.run("wrong clocks", || {
        tools::install_faketime().map_or_else(Outcome::Skipped, |()| Outcome::Passed)
    });
    let given = given(&mut steps);
    steps.run("format", || {
        let format = |more: &[&str]| passes(tools::cargo().args(["fmt", "--all", "--check"]).args(more));
        let beside = BESIDE.iter().map(|manifest| format(&["--manifest-path", manifest]));
        let mut outcomes = std::iter::once(format(&[])).chain(beside);
        outcomes.find(|outcome| *outcome != Outcome::Passed).unwrap_or(Outcome::Passed)
    });
    steps.run("clippy", || {
        passes(tools::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    steps.run("rustdoc", || {
        let mut doc = tools::cargo();
        passes(doc.args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))
    });
    let mut summary = Vec::new();
    steps.run("tests", || {
        let (outcome, lines) = passes_and_tells(suite().envs(given));
        summary = summary_of(&lines);
        outcome
    });
    steps.run("documentation tests", || {
        passes(tools::cargo().args(["test", "--workspace", "--doc", "--quiet"]))
    });
    steps.run("fuzz targets", fuzz::stretch);
    steps.run("dependencies", dependencies);
    steps.run("advisories", advisories);
    steps.run("systemd units", units);
    steps.print();
    println!();
    for line in &summary {
        println!("{line}");
    }
    if steps.all_hold() { Ok(()) } else { Err(String::new()) }
}

/// Makes what tests are given from outside, and names it as they know it; where it cannot be had, they say that they are
/// skipped.
fn given(steps: &mut Steps) -> Vec<(&'static str, PathBuf)> {
    type Source = fn() -> Result<PathBuf, String>;
    let sources: [(&str, &str, Source, &str); 4] = [
        ("recorded series", "DUNLIN_PYTHON", tools::replay_python, "the checks against them are skipped"),
        (
            "scikit-learn",
            "DUNLIN_SKLEARN_PYTHON",
            tools::sklearn_python,
            "the tutorial of model packages is not run",
        ),
        ("node tests of ONNX", nodes::VARIABLE, nodes::cases, "the engine is not held against them"),
        (
            "schemathesis",
            schemathesis::VARIABLE,
            schemathesis::python,
            "made-up requests are not sent to the fleet server",
        ),
    ];
    let mut given = Vec::new();
    for (name, variable, source, lost) in sources {
        steps.run(name, || match source() {
            Ok(found) => {
                given.push((variable, found));
                Outcome::Passed
            }
            Err(why) => Outcome::Skipped(format!("{why}; {lost}")),
        });
    }
    given
}

/// Runs the repository's own rules alone.
///
/// *Errors*: an empty text, since the test says what is wrong.
pub(crate) fn tidy() -> Result<(), String> {
    match passes(tools::cargo().args(["test", "--quiet", "-p", "xtask", "--test", "tidy"])) {
        Outcome::Passed => Ok(()),
        _ => Err(String::new()),
    }
}

fn has_nextest() -> bool {
    tools::works(tools::cargo().args(["nextest", "--version"]))
}

fn suite() -> Command {
    let mut command = tools::cargo();
    if has_nextest() {
        command.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
    } else {
        command.args(["test", "--workspace", "--all-targets", "--no-fail-fast"]);
    }
    command
}

/// Returns the runner's own summary: nextest's from the line `Summary` on, or cargo's line of each test binary.
fn summary_of(lines: &[String]) -> Vec<String> {
    match lines.iter().rposition(|line| line.trim_start().starts_with("Summary [")) {
        Some(start) => lines[start..].to_vec(),
        None => lines.iter().filter(|line| line.starts_with("test result: ")).cloned().collect(),
    }
}

fn dependencies() -> Outcome {
    if let Err(why) = tools::install_cargo_deny() {
        return Outcome::Failed(why);
    }
    passes(tools::cargo().args(["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]))
}

/// Advisories need a database from the network: without it nothing is known, which is not the same as bad.
fn advisories() -> Outcome {
    let (outcome, lines) = passes_and_tells(tools::cargo().args(["deny", "check", "advisories"]));
    let unfetched = lines.iter().any(|line| {
        line.contains("failed to fetch advisory database")
            || line.contains("failed to load advisory database")
    });
    match outcome {
        Outcome::Failed(_) if unfetched => {
            Outcome::Skipped("the advisory database could not be fetched".to_owned())
        }
        other => other,
    }
}

fn units() -> Outcome {
    let Some(analyze) = tools::find("systemd-analyze") else {
        return Outcome::Skipped("systemd-analyze is not installed".to_owned());
    };
    let outcomes = UNITS.iter().map(|(name, program)| unit_of(&analyze, name, program));
    outcomes.into_iter().find(|outcome| *outcome != Outcome::Passed).unwrap_or(Outcome::Passed)
}

fn unit_of(analyze: &Path, name: &str, program: &str) -> Outcome {
    let unit = tools::root().join("systemd/system").join(name);
    // `verify` wants the program to be installed: it gets a copy that names one that is.
    let folder = tools::root().join("target/xtask-unit");
    let copy = folder.join(name);
    let written = std::fs::read_to_string(&unit).and_then(|text| {
        std::fs::create_dir_all(&folder)?;
        let mut file = std::fs::File::create(&copy)?;
        std::io::Write::write_all(&mut file, text.replace(program, "/bin/true").as_bytes())
    });
    if let Err(error) = written {
        return Outcome::Failed(format!("cannot copy `{name}`: {error}"));
    }
    let (verified, lines) = passes_and_tells(Command::new(analyze).arg("verify").arg(&copy));
    if verified != Outcome::Passed {
        return verified;
    }
    if !lines.is_empty() {
        return Outcome::Failed("`systemd-analyze verify` is not clean".to_owned());
    }
    exposure(
        Command::new(analyze).args(["security", "--offline=true", "--no-pager", EXPOSURE_MAX]).arg(&unit),
    )
}

/// Shows what is open and the sum; what is closed fills a screen.
fn exposure(command: &mut Command) -> Outcome {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return Outcome::Failed(format!("cannot start systemd-analyze: {error}")),
    };
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('✓')) {
        println!("{line}");
    }
    if output.status.success() {
        Outcome::Passed
    } else {
        Outcome::Failed("the unit is too exposed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_summary_of_nextest_is_its_last_block() {
        let output = lines(
            "PASS a\n     Summary [   1.2s] 3 tests run: 2 passed, 1 failed, 0 skipped\n        FAIL b",
        );
        assert_eq!(summary_of(&output), output[1..]);
    }

    #[test]
    fn the_summary_of_cargo_is_a_line_a_binary() {
        let output = lines("running 1 test\ntest result: ok. 1 passed\n\ntest result: ok. 2 passed");
        assert_eq!(summary_of(&output), ["test result: ok. 1 passed", "test result: ok. 2 passed"]);
    }
}
