//! The long proofs of trust: the public conformance suite of The Update Framework, and the second opinion.
//!
//! Builds the example client and runs what others wrote against it. The suite is no part of the repository: it is given,
//! or fetched where the network allows. Skips aloud where it can do neither.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::demo::duration;
use crate::step::{Outcome, passes};
use crate::tools;

const SUITE: &str = "https://github.com/theupdateframework/tuf-conformance";

/// Runs the conformance suite; `arguments` may be `--suite DIR`.
///
/// *Errors*: what failed. A suite that cannot be had is no failure, and is said.
pub(crate) fn conformance(arguments: &[String]) -> Result<(), String> {
    let given = match arguments {
        [] => std::env::var_os("DUNLIN_TUF_CONFORMANCE").map(PathBuf::from),
        [flag, folder] if flag == "--suite" => Some(PathBuf::from(folder)),
        _ => return Err("write `cargo xtask conformance [--suite DIR]`".to_owned()),
    };
    match run(given) {
        Outcome::Passed => Ok(()),
        Outcome::Failed(why) => Err(format!("conformance: {why}")),
        Outcome::Skipped(why) => {
            println!("conformance: SKIPPED: {why}");
            Ok(())
        }
    }
}

/// Runs the second opinion on random repositories for a while; `arguments` may be `--for 10m`.
///
/// *Errors*: what failed.
pub(crate) fn differential(arguments: &[String]) -> Result<(), String> {
    let time = match arguments {
        [] => "10m",
        [flag, time] if flag == "--for" => time.as_str(),
        _ => return Err("write `cargo xtask differential [--for 10m]`".to_owned()),
    };
    let seconds = duration(time)?.as_secs();
    let mut test = tools::cargo();
    test.args(["test", "-p", "dunlin-trust", "--test", "differential", "--", "--nocapture"])
        .env("DUNLIN_DIFFERENTIAL_SECONDS", seconds.to_string());
    match passes(&mut test) {
        Outcome::Passed => Ok(()),
        Outcome::Failed(why) | Outcome::Skipped(why) => Err(format!("differential: {why}")),
    }
}

fn run(given: Option<PathBuf>) -> Outcome {
    let suite = match given.map_or_else(fetched, Ok) {
        Ok(suite) => suite,
        Err(why) => return Outcome::Skipped(why),
    };
    if !suite.join("tuf_conformance/conftest.py").is_file() {
        return Outcome::Failed(format!("`{}` is not the suite tuf-conformance", suite.display()));
    }
    let python = match python(&suite) {
        Ok(python) => python,
        Err(why) => return Outcome::Skipped(why),
    };
    if let Err(why) = tools::install_faketime() {
        return Outcome::Skipped(why);
    }
    let mut build = tools::cargo();
    let built = passes(build.args(["build", "-p", "dunlin-trust", "--example", "tuf-client"]));
    if built != Outcome::Passed {
        return built;
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| tools::root().join("target"), PathBuf::from);
    let client = target.join("debug/examples/tuf-client");
    passes(
        Command::new(python)
            .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "tuf_conformance", "--entrypoint"])
            .arg(client)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(suite),
    )
}

/// Returns the suite as it was fetched before, or fetches it.
fn fetched() -> Result<PathBuf, String> {
    let folder = tools::root().join(".xtask/tuf-conformance");
    if folder.join("tuf_conformance").is_dir() {
        return Ok(folder);
    }
    let git = tools::need("git")?;
    let mut clone = Command::new(git);
    clone.args(["clone", "--quiet", "--depth", "1", SUITE]).arg(&folder).env("GIT_TERMINAL_PROMPT", "0");
    if tools::works(&mut clone) {
        return Ok(folder);
    }
    Err(format!("{SUITE} cannot be fetched; give a copy with `--suite DIR` or DUNLIN_TUF_CONFORMANCE"))
}

/// Returns a Python with what the suite asks for, as its own pyproject.toml pins it.
fn python(suite: &Path) -> Result<PathBuf, String> {
    let venv = tools::root().join(".xtask/tuf-venv");
    let python = venv.join("bin/python");
    let has_all = || works(&python, &["-c", "import tuf, securesystemslib, pytest"]);
    if has_all() {
        return Ok(python);
    }
    let system = tools::need("python3")?;
    if !tools::works(Command::new(system).args(["-m", "venv"]).arg(&venv)) {
        return Err("`python3 -m venv` fails; install python3-venv".to_owned());
    }
    let needs = requirements(suite)?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet"]).args(needs);
    if tools::works(&mut install) && has_all() {
        Ok(python)
    } else {
        Err("the packages that the suite needs could not be installed".to_owned())
    }
}

fn works(python: &Path, arguments: &[&str]) -> bool {
    python.is_file() && tools::works(Command::new(python).args(arguments))
}

fn requirements(suite: &Path) -> Result<Vec<String>, String> {
    let path = suite.join("pyproject.toml");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    let needs = requirements_in(&text);
    if needs.is_empty() {
        return Err(format!("`{}` lists no dependencies", path.display()));
    }
    Ok(needs)
}

/// Returns the entries of `dependencies = [` of a pyproject.toml that writes one a line.
fn requirements_in(text: &str) -> Vec<String> {
    let lines = text.lines().skip_while(|line| !line.starts_with("dependencies = [")).skip(1);
    lines
        .take_while(|line| !line.starts_with(']'))
        .map(|line| line.trim().trim_end_matches(',').trim_matches('"').to_owned())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suites_own_list_says_what_to_install() {
        let text = "name = \"x\"\ndependencies = [\n    \"securesystemslib[crypto]==1.4.0\",\n    \"tuf==7.0.0\"\n]\nother = [\n \"a\"\n]";
        assert_eq!(requirements_in(text), ["securesystemslib[crypto]==1.4.0", "tuf==7.0.0"]);
    }
}
