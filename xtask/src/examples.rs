//! `cargo xtask example`: builds the packages of the examples anew, and signs them.
//!
//! Runs each example's generator and the `dunlin` program; holds nothing of what they do.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{succeed, tools};

/// Messages of a golden file: enough for full windows, gaps, late and missing values.
const GOLDEN_MESSAGES: &str = "160";

/// Builds and signs the examples that the arguments name.
///
/// *Errors*: a program is missing or failed; the text says which.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let names: Vec<String> = match arguments {
        [all] if all == "--all" => examples()?,
        [name] if !name.starts_with('-') => vec![name.clone()],
        _ => return Err("write the name of an example, or `--all`".to_owned()),
    };
    succeed(tools::cargo().args(["build", "-p", "dunlin-cli"]))?;
    names.iter().try_for_each(|name| build_package(name).and_then(|()| sign_package(name)))
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

/// Signs an example's package with a key of this call alone, so that the example runs without keys. The next call makes
/// another owner: a gateway that trusted the last one needs a new state folder.
fn sign_package(name: &str) -> Result<(), String> {
    let folder = tools::root().join("examples").join(name);
    let trust = tools::root().join("target/example-trust").join(name);
    if trust.is_dir() {
        remove(&trust)?;
    }
    dunlin(&["keys", "init", "--development"], &[], &[&trust])?;
    dunlin(&["sign"], &[("--trust", &trust)], &[&folder.join("package")])?;
    let bundle = folder.join(format!("{name}.bundle"));
    dunlin(&["bundle", "export"], &[("--trust", &trust), ("--output", &bundle)], &[])?;
    let root = folder.join("root.json");
    std::fs::copy(trust.join("metadata/1.root.json"), &root)
        .map_err(|error| format!("cannot write `{}`: {error}", root.display()))?;
    remove(&trust)
}

fn remove(folder: &Path) -> Result<(), String> {
    std::fs::remove_dir_all(folder).map_err(|error| format!("cannot remove `{}`: {error}", folder.display()))
}

fn dunlin(words: &[&str], options: &[(&str, &Path)], arguments: &[&Path]) -> Result<(), String> {
    let mut command = tools::cargo();
    command.args(["run", "--quiet", "-p", "dunlin-cli", "--"]).args(words);
    options.iter().for_each(|(option, value)| {
        command.arg(option).arg(value);
    });
    succeed(command.args(arguments))
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
