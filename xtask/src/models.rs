//! `cargo xtask models`: makes the zoo of exported models, runs each by our engine and by ONNX Runtime, writes the table.
//!
//! Starts `zoo/make_zoo.py` in a Python environment of pinned packages, and the program of `zoo/`, once a model. A model that
//! crashes or hangs is a row of the table. Holds nothing of engines, and judges no number: the program does.

mod faults;
mod table;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{succeed, tools};

/// What is written for people.
const PAGE: &str = "docs/models.md";
/// The hand-written parts of it.
const TEMPLATE: &str = "zoo/models.md.template";
/// Where the models of the test suite are.
const SUBSET: &str = "crates/pipeline/tests/zoo";
/// Rows of a model of the test suite: a few of each kind, in a few kilobytes.
const SUBSET_ROWS: &str = "20";
/// Time for the latency of one batch size in milliseconds.
const MEASURE_MS: &str = "1000";
const QUICK_MEASURE_MS: &str = "200";

/// What is asked for on the command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    family: Option<String>,
    /// A fifth of the models, measured shortly.
    quick: bool,
    /// The models of the test suite are written anew, and nothing else.
    subset: bool,
    /// The faults of libraries are run, and nothing else; their section of the page is written anew.
    faults: bool,
    /// The models that were made last are run again.
    keep: bool,
    /// Time for the latency of one batch size in milliseconds; 0 measures neither latency nor memory.
    measure_ms: Option<String>,
}

impl Request {
    /// Tells whether the whole zoo is run: only then is the page written.
    const fn is_whole(&self) -> bool {
        self.family.is_none() && !self.quick
    }

    /// Returns the folder of the models. A part has its own: running the whole zoo again with `--keep` never takes it.
    const fn folder(&self) -> &'static str {
        match (self.subset, self.is_whole()) {
            (true, _) => "subset",
            (false, true) => "zoo",
            (false, false) => "part",
        }
    }
}

/// Makes the models, runs them and writes the table.
///
/// *Errors*: an environment or a program cannot be made; a fault of a library does not show any more. Models that do not
/// run are no error.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let request = parse(arguments)?;
    let python = environment()?;
    if !request.faults {
        add_torch();
    }
    let library = runtime_library(&python)?;
    let folder = tools::root().join("target/models").join(request.folder());
    if !request.keep && !request.faults {
        make(&python, &folder, &request)?;
    }
    let program = build()?;
    if request.subset {
        let index = read_json(&folder.join("index.json"))?;
        return write_subset(&program, &library, &folder, &index);
    }
    let template = read_text(&tools::root().join(TEMPLATE))?;
    // Before the models, whose measuring takes an hour.
    let shown = faults::run(&python, &program, &library, &folder.with_file_name("faults"), request.keep)?;
    let template = template.replace("{{faults}}", shown.trim_end());
    let page = tools::root().join(PAGE);
    if request.faults {
        let text = faults::replaced(&read_text(&page)?, &template)?;
        println!("the section is written to {}", page.display());
        return write(&page, text.as_bytes());
    }
    let index = read_json(&folder.join("index.json"))?;
    let results = run_all(&program, &library, &folder, &index, &request)?;
    let text = table::page(&template, &index, &results, &machine());
    let path = if request.is_whole() { page } else { folder.join("models.md") };
    write(&path, text.as_bytes())?;
    println!("{}\nwritten to {}", table::summary(&index, &results), path.display());
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Request, String> {
    let usage = "usage: cargo xtask models [--family NAME] [--quick] [--keep] [--measure-ms N] | --subset [--keep] | \
        --faults [--keep]";
    let mut request = Request::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--family" => request.family = Some(rest.next().ok_or(usage)?.clone()),
            "--quick" => request.quick = true,
            "--measure-ms" => {
                let time = rest.next().filter(|time| time.parse::<u64>().is_ok()).ok_or(usage)?;
                request.measure_ms = Some(time.clone());
            }
            "--subset" => request.subset = true,
            "--faults" => request.faults = true,
            "--keep" => request.keep = true,
            _ => return Err(usage.to_owned()),
        }
    }
    Ok(request)
}

/// Returns the Python that makes the models, but for those of PyTorch.
fn environment() -> Result<PathBuf, String> {
    println!("preparing the Python packages of the zoo");
    let probe = "import sklearn, skl2onnx, onnxmltools, xgboost, lightgbm, onnxruntime";
    packages(probe, "requirements.txt")
}

/// Adds PyTorch to it, which is gigabytes: without it its families are missing, and the page says so.
fn add_torch() {
    if let Err(why) = packages("import torch, onnxscript", "requirements-torch.txt") {
        println!("PyTorch's families are left out: {why}");
    }
}

fn packages(probe: &str, requirements: &str) -> Result<PathBuf, String> {
    let venv = tools::root().join("target/models/venv");
    let file = tools::root().join("zoo").join(requirements).display().to_string();
    tools::environment_at(&venv, probe, &["-r", &file])
}

/// Returns ONNX Runtime's library inside the Python package.
fn runtime_library(python: &Path) -> Result<PathBuf, String> {
    let program = "import onnxruntime, pathlib; \
        print(*(pathlib.Path(onnxruntime.__file__).parent / 'capi').glob('libonnxruntime.so.*'))";
    let output = Command::new(python)
        .args(["-c", program])
        .output()
        .map_err(|error| format!("cannot start `{}`: {error}", python.display()))?;
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    if path.is_file() { Ok(path) } else { Err("the package onnxruntime carries no library".to_owned()) }
}

fn make(python: &Path, folder: &Path, request: &Request) -> Result<(), String> {
    if folder.is_dir() {
        fs::remove_dir_all(folder)
            .map_err(|error| format!("cannot remove `{}`: {error}", folder.display()))?;
    }
    let mut make = Command::new(python);
    make.arg(tools::root().join("zoo/make_zoo.py")).arg(folder);
    if let Some(family) = &request.family {
        make.args(["--family", family]);
    }
    for (is_given, option) in [(request.quick, "--quick"), (request.subset, "--subset")] {
        if is_given {
            make.arg(option);
        }
    }
    succeed(&mut make)
}

/// Builds the program that compares, as fast as the product's release.
fn build() -> Result<PathBuf, String> {
    let given = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = given.unwrap_or_else(|| tools::root().join("target/models/build"));
    let mut build = tools::cargo();
    build.args(["build", "--release", "--manifest-path", "zoo/Cargo.toml"]);
    succeed(build.env("CARGO_TARGET_DIR", &target))?;
    Ok(target.join("release/zoo"))
}

/// Runs all models that were made; what is known of each is kept as lines of JSON besides.
fn run_all(
    program: &Path,
    library: &Path,
    folder: &Path,
    index: &Value,
    request: &Request,
) -> Result<Vec<Value>, String> {
    let mut results = Vec::new();
    let mut lines = String::new();
    for name in names(index) {
        let mut command = zoo(program, library, folder, name, "run");
        let usual = if request.quick { QUICK_MEASURE_MS } else { MEASURE_MS };
        command.args(["--measure-ms", request.measure_ms.as_deref().unwrap_or(usual)]);
        let line = line_of(&mut command)?;
        let result: Value = serde_json::from_str(&line).map_err(|error| format!("`{line}`: {error}"))?;
        println!("{:<32} {}", name, table::short(&result));
        results.push(result);
        lines += &line;
    }
    write(&folder.join("results.jsonl"), lines.as_bytes())?;
    Ok(results)
}

fn names(index: &Value) -> Vec<&str> {
    let models = index["models"].as_array().map_or(&[][..], Vec::as_slice);
    models
        .iter()
        .filter(|model| model["reason"].is_null())
        .filter_map(|model| model["name"].as_str())
        .collect()
}

fn zoo(program: &Path, library: &Path, folder: &Path, name: &str, command: &str) -> Command {
    let mut zoo = Command::new(program);
    zoo.arg(command).arg(folder.join(format!("{name}.onnx")));
    zoo.arg("--rows").arg(folder.join(format!("{name}.npy"))).arg("--library").arg(library);
    zoo
}

fn line_of(command: &mut Command) -> Result<String, String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start `{}`: {error}", command.get_program().display()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{command:?} ended with {}", output.status))
    }
}

/// Writes the models of the test suite, each with its rows and what ONNX Runtime says of them.
fn write_subset(program: &Path, library: &Path, folder: &Path, index: &Value) -> Result<(), String> {
    let into = tools::root().join(SUBSET);
    let mut bytes = 0;
    for name in names(index) {
        let model = folder.join(format!("{name}.onnx"));
        let file = fs::read(&model).map_err(|error| format!("cannot read `{}`: {error}", model.display()))?;
        let mut command = zoo(program, library, folder, name, "record");
        command.args(["--rows-max", SUBSET_ROWS]);
        let guards = guards(index, name);
        if !guards.is_empty() {
            command.args(["--guards", &guards.join(",")]);
        }
        let record = line_of(&mut command)?;
        println!("{name:<32} {:>7} bytes of model, {:>7} of rows", file.len(), record.len());
        bytes += file.len() + record.len();
        write(&into.join(format!("{name}.onnx")), &file)?;
        write(&into.join(format!("{name}.json")), record.as_bytes())?;
    }
    println!("{bytes} bytes in {}", into.display());
    Ok(())
}

/// Returns the positions of the rows that guard something, whatever else is taken.
fn guards(index: &Value, name: &str) -> Vec<String> {
    let models = index["models"].as_array().into_iter().flatten();
    let guards = models.filter(|model| model["name"] == name).filter_map(|model| model["guards"].as_array());
    guards.flatten().map(Value::to_string).collect()
}

fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let system = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{}, {cores} cores, Linux {}",
        name.map_or(std::env::consts::ARCH, |(_, name)| name),
        system.trim()
    )
}

fn read_text(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))
}

fn read_json(path: &Path) -> Result<Value, String> {
    let bytes = fs::read(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("`{}`: {error}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let parent = path.parent().unwrap_or(path);
    let written = fs::create_dir_all(parent)
        .and_then(|()| fs::File::create(path))
        .and_then(|mut file| file.write_all(bytes));
    written.map_err(|error| format!("cannot write `{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_written_of_the_whole_zoo_alone() {
        let parsed = |words: &[&str]| parse(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
        assert!(parsed(&[]).unwrap().is_whole() && parsed(&["--keep"]).unwrap().is_whole());
        assert!(!parsed(&["--quick"]).unwrap().is_whole());
        assert!(!parsed(&["--family", "trees"]).unwrap().is_whole());
        assert!(parsed(&["--family"]).is_err() && parsed(&["trees"]).is_err());
    }

    #[test]
    fn a_part_is_never_taken_for_the_whole_zoo() {
        let folder = |words: &[&str]| {
            parse(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()).unwrap().folder()
        };
        assert_eq!(folder(&[]), folder(&["--keep"]));
        assert_eq!(folder(&["--quick"]), folder(&["--family", "trees", "--keep"]));
        assert_ne!(folder(&["--quick"]), folder(&[]));
        assert_ne!(folder(&["--subset"]), folder(&["--quick"]));
    }

    #[test]
    fn rows_that_guard_something_are_those_of_their_model() {
        let index = serde_json::json!({ "models": [{ "name": "a", "guards": [7, 30] }, { "name": "b" }] });
        assert_eq!(guards(&index, "a"), ["7", "30"]);
        assert!(guards(&index, "b").is_empty());
    }
}
