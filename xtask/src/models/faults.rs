//! The faults of libraries that were worked around: minimal models, run each time the page is written.
//!
//! Starts `zoo/make_faults.py` and the program of `zoo/`, and turns what they say into the page's section. Fails where a
//! fault does not show any more, or the engine is not right about one. Judges no number itself.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::read_json;
use crate::{succeed, tools};

/// The heading of the page's section.
const HEADING: &str = "## What was worked around";
/// Longest text in a cell of what a library gave; the whole stands in the results.
const CELL_CHARS_MAX: usize = 180;
/// Longest node in a cell; the whole stands in the model.
const NODE_CHARS_MAX: usize = 320;

/// Runs all faults and returns the section's tables; what is known of each is kept as lines of JSON besides.
///
/// *Errors*: a fault does not show, or the engine gives a wrong value: the text names each.
pub(super) fn run(
    python: &Path,
    program: &Path,
    library: &Path,
    folder: &Path,
    keep: bool,
) -> Result<String, String> {
    if !(keep && folder.join("faults.json").is_file()) {
        succeed(Command::new(python).arg(tools::root().join("zoo/make_faults.py")).arg(folder))?;
    }
    let lines = quiet(Command::new(program).arg("faults").arg(folder).arg("--library").arg(library))?;
    super::write(&folder.join("results.jsonl"), lines.as_bytes())?;
    let results: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).map_err(|error| format!("`{line}`: {error}")))
        .collect::<Result<_, _>>()?;
    check(&results)?;
    println!("{} faults show", results.len());
    let faults = read_json(&folder.join("faults.json"))?;
    Ok(tables(&faults, &results, &versions(library)?))
}

/// Returns what a command prints. What it complains of, as ONNX Runtime does of each model that it refuses, is shown only
/// where the command fails.
fn quiet(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().display().to_string();
    let output = command.output().map_err(|error| format!("cannot start `{name}`: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("`{name}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// Puts the section of a filled template into a page that is there.
///
/// *Errors*: either has no such section.
pub(super) fn replaced(page: &str, filled: &str) -> Result<String, String> {
    let missing = |text: &str| format!("{text} has no section `{HEADING}`");
    let section = &filled[section(filled).ok_or_else(|| missing("the template"))?];
    let mut page = page.to_owned();
    let place = self::section(&page).ok_or_else(|| missing("the page"))?;
    page.replace_range(place, section);
    Ok(page)
}

/// Returns where the section stands: from its heading to the next of its level.
fn section(text: &str) -> Option<std::ops::Range<usize>> {
    let start = text.find(HEADING)?;
    let inner = start + HEADING.len();
    let end = text[inner..].find("\n## ").map_or(text.len(), |length| inner + length);
    Some(start..end)
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

fn check(results: &[Value]) -> Result<(), String> {
    let complaint = |result: &Value| {
        let name = text(result, "name");
        match (text(result, "outcome"), text(result, "ours")) {
            ("agrees", _) => Some(format!("`{name}` does not show: {}", text(result, "gives"))),
            ("unknown", _) => {
                Some(format!("of `{name}` nothing is known to be right: {}", text(result, "right")))
            }
            (_, "wrong") => Some(format!(
                "the engine is wrong about `{name}`: it gives {} and not {}",
                text(result, "ours_gives"),
                text(result, "right")
            )),
            _ => None,
        }
    };
    let complaints: Vec<String> = results.iter().filter_map(complaint).collect();
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\n")) }
}

/// The versions of both libraries: tract's as the comparing program has it, ONNX Runtime's as its file is named.
fn versions(library: &Path) -> Result<[String; 2], String> {
    let lock = tools::root().join("zoo/Cargo.lock");
    let text = std::fs::read_to_string(&lock)
        .map_err(|error| format!("cannot read `{}`: {error}", lock.display()))?;
    let tract =
        text.split_once("name = \"tract-onnx\"\nversion = \"").and_then(|(_, rest)| rest.split_once('"'));
    let (tract, _) = tract.ok_or("`zoo/Cargo.lock` does not name tract-onnx")?;
    let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let runtime = name.rsplit_once(".so.").map_or("", |(_, version)| version);
    Ok([tract.to_owned(), runtime.to_owned()])
}

fn tables(faults: &Value, results: &[Value], [tract, runtime]: &[String; 2]) -> String {
    let rows: Vec<(&Value, &Value)> = faults
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|fault| Some((fault, results.iter().find(|result| result["name"] == fault["name"])?)))
        .collect();
    let table = |library: &str, is_wrong: bool| -> (usize, String) {
        let chosen = rows.iter().filter(|(fault, result)| {
            text(fault, "library") == library && (text(result, "outcome") == "differs") == is_wrong
        });
        let lines: Vec<String> = chosen.map(|(fault, result)| line(fault, result)).collect();
        let head = "| model | node | input | gives | right | cause | the engine here |\n\
            | --- | --- | --- | --- | --- | --- | --- |\n";
        (lines.len(), format!("{head}{}", lines.concat()))
    };
    let mut page = String::new();
    for (title, library) in
        [(format!("tract {tract}"), "tract"), (format!("ONNX Runtime {runtime}"), "onnxruntime")]
    {
        page += &format!("### {title}\n\n");
        for (is_wrong, what) in [(true, "Wrong values, without an error"), (false, "Refused or panicking")] {
            let (count, table) = table(library, is_wrong);
            if count > 0 {
                page += &format!("{what} ({count}):\n\n{table}\n");
            }
        }
    }
    page
}

fn line(fault: &Value, result: &Value) -> String {
    let source = text(fault, "source");
    let right = match text(result, "right") {
        right if source.is_empty() => cell(right, CELL_CHARS_MAX),
        right => format!("{} ({})", cell(right, CELL_CHARS_MAX), cell(source, CELL_CHARS_MAX)),
    };
    let ours = match text(result, "ours") {
        "as-onnx-runtime" => "as ONNX Runtime",
        other => other,
    };
    format!(
        "| {} | `{}` | {} | {} | {right} | {} | {ours} |\n",
        text(fault, "name"),
        cell(text(fault, "node"), NODE_CHARS_MAX).replace('`', "'"),
        cell(text(fault, "input"), CELL_CHARS_MAX),
        cell(text(result, "gives"), CELL_CHARS_MAX),
        cell(text(fault, "cause"), CELL_CHARS_MAX),
    )
}

/// Returns a text as it may stand in a table.
fn cell(text: &str, chars_max: usize) -> String {
    let plain: String = text
        .chars()
        .take(chars_max)
        .map(|c| match c {
            '|' => '/',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect();
    if text.chars().nth(chars_max).is_some() { format!("{}…", plain.trim_end()) } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn result(outcome: &str, ours: &str) -> Value {
        json!({ "name": "celu", "outcome": outcome, "ours": ours, "gives": "1", "right": "2", "ours_gives": "3" })
    }

    #[test]
    fn a_fault_that_does_not_show_and_a_wrong_engine_are_named() {
        assert_eq!(check(&[result("differs", "right"), result("panics", "refused")]), Ok(()));
        let why = check(&[result("agrees", "right"), result("differs", "wrong")]).unwrap_err();
        assert!(why.contains("`celu` does not show") && why.contains("gives 3 and not 2"), "{why}");
        assert!(check(&[result("unknown", "right")]).is_err());
    }

    #[test]
    fn the_section_alone_is_replaced() {
        let page = format!("# A\n\nx\n\n{HEADING}\n\nold\n### inner\n\n## B\n\ny\n");
        let filled = format!("# T\n\n{HEADING}\n\nnew\n\n## C\n");
        assert_eq!(replaced(&page, &filled).unwrap(), format!("# A\n\nx\n\n{HEADING}\n\nnew\n\n## B\n\ny\n"));
        assert!(replaced("# A\n", &filled).is_err());
    }

    #[test]
    fn faults_stand_under_their_library_by_what_they_do() {
        let faults = json!([
            { "name": "a", "library": "tract", "node": "make_node(\"A\")", "input": "x", "cause": "one | two", "source": "" },
            { "name": "b", "library": "tract", "node": "n", "input": "x", "cause": "c", "source": "B: says so" },
            { "name": "c", "library": "onnxruntime", "node": "n", "input": "x", "cause": "c", "source": "" },
        ]);
        let results = [("a", "differs"), ("b", "panics"), ("c", "differs")]
            .map(|(name, outcome)| json!({ "name": name, "outcome": outcome, "gives": "1", "right": "2", "ours": "right" }));
        let page = tables(&faults, &results, &["0.1".to_owned(), "9.9".to_owned()]);
        let order = [
            "### tract 0.1",
            "Wrong values",
            "| a | `make_node(\"A\")` | x | 1 | 2 | one / two | right |",
            "panicking (1)",
            "2 (B: says so)",
            "### ONNX Runtime 9.9",
            "| c | `n`",
        ];
        let places: Vec<Option<usize>> = order.iter().map(|part| page.find(part)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{page}");
    }
}
