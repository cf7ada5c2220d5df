//! The tutorial of `docs/model-package.md`, run as it is written.
//!
//! Takes every line of its command blocks and runs it in a copy of the example, with the programs of this build in front
//! of the path. Needs a Python with scikit-learn and skl2onnx, which `cargo xtask test` makes and names in
//! `DUNLIN_SKLEARN_PYTHON`; without one the test says so and ends.

#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that is not as it should be")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The section, by its heading.
const HEADING: &str = "\n## From model.pkl to a running gateway\n";
/// Most commands from `model.pkl` on.
const COMMANDS_MAX: usize = 9;
/// Lines that begin so are counted and not run here: packages of Python are installed by whoever starts the test, and the
/// other commands have tests of their own.
const ELSEWHERE: [&str; 5] = ["pip install ", "dunlin keys ", "dunlin sign ", "dunlin bundle ", "dunlind "];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Returns the lines of all `sh` blocks of the section.
fn commands() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/model-package.md")).unwrap();
    let (_, rest) = text.split_once(HEADING).unwrap();
    let section = rest.split_once("\n## ").map_or(rest, |(section, _)| section);
    let blocks = section.split("```sh\n").skip(1).map(|block| block.split_once("```").unwrap().0);
    blocks.flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn run(line: &str, folder: &Path, python: &Path) {
    let programs = [python.parent().unwrap(), Path::new(env!("CARGO_BIN_EXE_dunlin")).parent().unwrap()];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = programs.iter().map(|folder| (*folder).to_owned()).chain(std::env::split_paths(&path));
    let output = Command::new("sh")
        .args(["-e", "-c", line])
        .current_dir(folder)
        .env("PATH", std::env::join_paths(all).unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "`{line}` ended with {}:\n{text}", output.status);
}

#[test]
fn the_way_from_a_pickle_to_a_gateway_has_under_ten_commands() {
    let lines = commands();
    let pickled = lines.iter().position(|line| line.contains("train.py")).unwrap();
    assert!((1..=COMMANDS_MAX).contains(&(lines.len() - pickled - 1)), "{lines:?}");
    assert!(lines.last().unwrap().starts_with("dunlind run"), "{lines:?}");
}

#[test]
fn every_command_of_the_tutorial_does_what_it_says() {
    let Some(python) = std::env::var_os("DUNLIN_SKLEARN_PYTHON").map(PathBuf::from) else {
        println!(
            "left out: DUNLIN_SKLEARN_PYTHON names no Python with scikit-learn; cargo xtask test makes one"
        );
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(root().join("examples/from-scikit-learn")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let mut ran = 0;
    for line in commands() {
        if ELSEWHERE.iter().any(|beginning| line.starts_with(beginning)) {
            println!("not run here: {line}");
            continue;
        }
        run(&line, folder.path(), &python);
        ran += 1;
    }
    assert!(ran >= 4 && folder.path().join("package/manifest.json").is_file());
}
