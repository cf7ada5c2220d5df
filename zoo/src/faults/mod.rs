//! The faults of libraries: minimal models that show them, each run by the library as it is, by what is right, and by us.
//!
//! Reads the folder that `zoo/make_faults.py` wrote and says of each whether the fault shows; a library that panics is
//! caught. tract runs here without any operator of ours. Never decides what is right: ONNX Runtime does, or the value that
//! the table has from ONNX's text.

mod runs;
mod tensors;

use std::path::Path;

use serde::{Deserialize, Serialize};

use runs::{Given, by_ours, by_peer, by_tract};
use tensors::Values;

/// The index in a folder of faults.
const INDEX: &str = "faults.json";

/// A fault as the index has it.
#[derive(Debug, Deserialize)]
struct Fault {
    name: String,
    library: Library,
    inputs: Vec<Values>,
    right: Option<Right>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Library {
    Tract,
    OnnxRuntime,
}

/// What is right by ONNX's text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Right {
    Values(Vec<Values>),
    /// Why it is to be refused.
    Refused(String),
}

/// What became of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    /// The library gives another value than the right one.
    Differs,
    /// The library refuses what is right, before or in the run.
    Refused,
    Panics,
    /// The library gives what is right: the fault does not show.
    Agrees,
    /// ONNX Runtime does not run the model, and the table has no right value: nothing can be said.
    Unknown,
}

/// What our engine makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Ours {
    Right,
    /// With a reason, when the package is built or in the run.
    Refused,
    /// As ONNX Runtime does, where its value is not that of ONNX's text.
    AsOnnxRuntime,
    Wrong,
}

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    library: Library,
    outcome: Outcome,
    gives: String,
    right: String,
    ours: Ours,
    ours_gives: String,
}

/// Runs all faults of a folder; returns one line of JSON each.
///
/// *Errors*: the folder cannot be read; what the libraries do is in the lines.
pub(crate) fn run(folder: &Path, library: &Path) -> Result<String, String> {
    let path = folder.join(INDEX);
    let text = std::fs::read(&path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    let faults: Vec<Fault> =
        serde_json::from_slice(&text).map_err(|error| format!("`{}`: {error}", path.display()))?;
    // What panics is in the result; the terminal is for people.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let lines: Result<Vec<String>, String> =
        faults.iter().map(|fault| line(folder, library, fault)).collect();
    std::panic::set_hook(hook);
    Ok(lines?.join("\n"))
}

fn line(folder: &Path, library: &Path, fault: &Fault) -> Result<String, String> {
    let model = folder.join(format!("{}.onnx", fault.name));
    let peer = by_peer(library, &model, &fault.inputs);
    let right = match &fault.right {
        Some(Right::Values(values)) => Given::Values(values.clone()),
        Some(Right::Refused(why)) => Given::Refused(why.clone()),
        None => peer.clone(),
    };
    let given = match fault.library {
        Library::Tract => by_tract(&model, &fault.inputs),
        Library::OnnxRuntime => peer.clone(),
    };
    let ours = by_ours(&folder.join(format!("{}.window.onnx", fault.name)), &fault.inputs, &right);
    let judged = match ours {
        _ if ours.is_as_numbers(&right) => Ours::Right,
        Given::Refused(_) => Ours::Refused,
        _ if fault.library == Library::OnnxRuntime && ours.is_as_numbers(&peer) => Ours::AsOnnxRuntime,
        Given::Values(_) | Given::Panicked(_) => Ours::Wrong,
    };
    let line = Line {
        name: fault.name.clone(),
        library: fault.library,
        outcome: outcome(&given, &right, fault.right.is_some()),
        gives: given.to_string(),
        right: right.to_string(),
        ours: judged,
        ours_gives: ours.to_string(),
    };
    serde_json::to_string(&line).map_err(|error| format!("`{}`: {error}", fault.name))
}

/// A refusal of ONNX Runtime's is right where it is of what ONNX does not allow, which the table must say: it may lack the
/// operator as well.
fn outcome(given: &Given, right: &Given, is_by_text: bool) -> Outcome {
    match (given, right) {
        (_, Given::Refused(_) | Given::Panicked(_)) if !is_by_text => Outcome::Unknown,
        (Given::Panicked(_), _) => Outcome::Panics,
        (given, right) if given.is(right) => Outcome::Agrees,
        (Given::Refused(_), _) => Outcome::Refused,
        (Given::Values(_), _) => Outcome::Differs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(number: f64) -> Given {
        let values = vec![number];
        Given::Values(vec![Values { name: String::new(), kind: "int64".to_owned(), shape: vec![1], values }])
    }

    #[test]
    fn a_fault_shows_where_the_library_is_not_right_and_only_there() {
        let refused = || Given::Refused("no such operator".to_owned());
        assert_eq!(outcome(&values(1.0), &values(1.0), false), Outcome::Agrees);
        assert_eq!(outcome(&values(1.0), &values(2.0), false), Outcome::Differs);
        assert_eq!(outcome(&refused(), &values(2.0), false), Outcome::Refused);
        assert_eq!(outcome(&values(1.0), &refused(), true), Outcome::Differs);
        assert_eq!(outcome(&refused(), &refused(), true), Outcome::Agrees);
        assert_eq!(outcome(&values(1.0), &refused(), false), Outcome::Unknown);
        assert_eq!(outcome(&Given::Panicked(String::new()), &values(1.0), false), Outcome::Panics);
    }
}
