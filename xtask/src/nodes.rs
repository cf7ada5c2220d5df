//! `cargo xtask nodes`: the node tests that the `onnx` package carries, run against the engine.
//!
//! Writes the cases once, with the package in a Python environment of its own, and starts the test with their folder.
//! Judges nothing itself: the test does. `cargo xtask test` runs it among all others.

use std::path::PathBuf;
use std::process::Command;

use crate::{succeed, tools};

/// Names the folder with the cases to the test.
pub(crate) const VARIABLE: &str = "DUNLIN_ONNX_NODES";
/// Where the test writes what it found, for `--write`.
const WRITTEN: &str = "DUNLIN_ONNX_NODES_WRITE";
const WRITER: &str = "xtask/src/nodes.py";
/// The test, in the library's own tests.
const TEST: &str = "engine::operators::node_tests::every_node_test_of_onnx_is_right_or_refused";

/// Returns the folder with the cases, and writes them where it is missing.
///
/// *Errors*: why there are none, for a person to read; the test then says that it is skipped.
pub(crate) fn cases() -> Result<PathBuf, String> {
    let none = |why: String| format!("no node tests of ONNX: {why}");
    let folder = tools::root().join("target").join(format!("onnx-nodes-{}", tools::ONNX));
    if folder.is_dir() {
        return Ok(folder);
    }
    let python = tools::onnx_python().map_err(none)?;
    let unfinished = folder.with_extension("unfinished");
    let _ = std::fs::remove_dir_all(&unfinished);
    let mut write = Command::new(python);
    write.arg(tools::root().join(WRITER)).arg(&unfinished);
    succeed(&mut write).map_err(none)?;
    std::fs::rename(&unfinished, &folder).map_err(|error| none(error.to_string()))?;
    Ok(folder)
}

/// Runs the node tests alone; `--write FILE` keeps what became of each case.
///
/// *Errors*: there are no cases, or a case is wrong or listed wrongly; the test says which.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let folder = cases()?;
    let mut test = tools::cargo();
    test.args(["test", "-p", "dunlin-pipeline", "--lib", "--", "--exact", TEST, "--nocapture"]);
    test.env(VARIABLE, folder);
    match arguments {
        [] => {}
        [flag, file] if flag == "--write" => {
            test.env(WRITTEN, std::path::absolute(file).map_err(|error| format!("`{file}`: {error}"))?);
        }
        _ => return Err("usage: cargo xtask nodes [--write FILE]".to_owned()),
    }
    succeed(&mut test)
}
