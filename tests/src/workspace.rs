//! Where things are: the repository, the programs, the folder of public series.
//!
//! Only looks, and builds a program where its binary is older than its source. Tests that lack something say so
//! with [`skip`] instead of passing silently.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

use crate::failure::{Failure, Outcome};

/// Returns the repository's root.
#[must_use]
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}

/// Returns the folder with public sensor series, their oracles and the peers of the benchmark: `DUNLIN_SHARED`, or
/// `shared` beside the repository.
#[must_use]
pub fn shared_folder() -> Option<PathBuf> {
    let given = std::env::var_os("DUNLIN_SHARED").map(PathBuf::from);
    given.or_else(|| Some(root().parent()?.join("shared"))).filter(|folder| folder.is_dir())
}

/// Says on standard error that a test did not run, and why.
pub fn skip(reason: &str) {
    writeln!(io::stderr(), "SKIPPED: {reason}").ok();
}

/// Writes a line for whoever reads the test's output: a seed, a figure.
pub fn note(line: &str) {
    writeln!(io::stderr(), "{line}").ok();
}

/// Returns the path of `dunlind`: `DUNLIND_BIN`, or the one of the running program's profile, built where it is
/// missing or older than its source.
///
/// *Errors*: there is none and it cannot be built.
pub fn daemon_program() -> Outcome<PathBuf> {
    static FOUND: OnceLock<Outcome<PathBuf>> = OnceLock::new();
    let find = || find_program("dunlind", "daemon", "daemon");
    FOUND.get_or_init(|| given_or("DUNLIND_BIN", find)).clone()
}

/// Returns the path of `dunlin`, the owner's program, of the running program's profile, built where it is missing or
/// older than its source.
///
/// *Errors*: there is none and it cannot be built.
pub fn owner_program() -> Outcome<PathBuf> {
    static FOUND: OnceLock<Outcome<PathBuf>> = OnceLock::new();
    FOUND.get_or_init(|| given_or("DUNLIN_BIN", || find_program("dunlin", "cli", "cli"))).clone()
}

/// Returns the path of `dunlin-fleet`, of the running program's profile, built where it is missing or older than its
/// source.
///
/// *Errors*: there is none and it cannot be built.
pub fn fleet_program() -> Outcome<PathBuf> {
    static FOUND: OnceLock<Outcome<PathBuf>> = OnceLock::new();
    let find = || find_program("dunlin-fleet", "fleet", "fleet-server");
    FOUND.get_or_init(|| given_or("DUNLIN_FLEET_BIN", find)).clone()
}

/// Returns the program that a variable names, or one that is found.
fn given_or(variable: &str, find: impl FnOnce() -> Outcome<PathBuf>) -> Outcome<PathBuf> {
    match std::env::var_os(variable) {
        Some(given) => {
            fs::canonicalize(&given).map_err(Failure::of(format!("{variable}={}", given.display())))
        }
        None => find(),
    }
}

/// Finds a program of the package `dunlin-PACKAGE`, which is in a folder of the workspace.
fn find_program(name: &str, package: &str, source: &str) -> Outcome<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    let folder = folder.ok_or_else(|| Failure::new("the running program has no folder"))?;
    let program = folder.join(name);
    // Other test processes look at the same moment: one builds, the others wait.
    let gate = File::options().create(true).append(true).open(folder.join(format!(".{name}-build.lock")))?;
    gate.lock()?;
    if !is_current(&program, source) {
        build(name, package, folder.ends_with("release"))?;
    }
    if program.is_file() {
        return Ok(program);
    }
    let program = program.display();
    Err(Failure::new(format!("`{program}` is missing: run `cargo build -p dunlin-{package}`")))
}

/// Tells whether the binary is newer than everything it is built from.
fn is_current(program: &Path, source: &str) -> bool {
    let Ok(built) = fs::metadata(program).and_then(|meta| meta.modified()) else { return false };
    let shared = ["crates", "agent-protocol"];
    let mut folders: Vec<PathBuf> =
        shared.iter().chain([&source]).map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if modified(&path).is_some_and(|at| at > built) && is_source(&path) {
                return false;
            }
        }
    }
    true
}

fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext == "rs" || ext == "toml" || ext == "sql")
        && path
            .strip_prefix(root())
            .is_ok_and(|path| path.components().all(|part| part.as_os_str() != "tests"))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

/// Builds a program in the running program's profile; a missing cargo is no failure where a binary is there.
fn build(name: &str, package: &str, release: bool) -> Outcome<()> {
    let package = format!("dunlin-{package}");
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    let mut command = Command::new(cargo);
    command.current_dir(root()).args(["build", "--quiet", "-p", &package, "--bin", name]);
    if release {
        command.arg("--release");
    }
    let status = command.status().map_err(Failure::of("start cargo"))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("`cargo build -p {package} --bin {name}` failed: build it by hand to see why")))
}
