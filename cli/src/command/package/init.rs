//! `dunlin package build --init`: a `package.toml` to begin with, from the graph of an ONNX file.
//!
//! Writes what can be seen and marks what a person must say. Never replaces a file.

use std::fmt::Write as _;
use std::path::Path;

use dunlin_model_package::package::BLOB_BYTES_MAX;
use dunlin_pipeline::engine::{GraphTensor, OnnxFile, axes_text};

use super::draft::{numpy_name, remedy};
use super::read;
use crate::command::CommandError;
use crate::print;

/// Most labels in the skeleton's line: more are not read there.
const LABELS_SHOWN_MAX: usize = 16;

/// Writes the skeleton for `model` to `spec`.
///
/// *Errors*: there is no model (exit code 3), something is at `spec` already (4), the model is none (5).
pub(super) fn run(model: &Path, spec: &Path) -> Result<(), CommandError> {
    if spec.exists() {
        return Err(CommandError::Conflict(format!(
            "`{}` is there already; remove it to begin anew",
            spec.display()
        )));
    }
    let bytes = read(model, BLOB_BYTES_MAX)?;
    let file = OnnxFile::read(&bytes).map_err(|error| CommandError::CheckFailed(error.to_string()))?;
    let name = model.file_stem().and_then(|stem| stem.to_str()).unwrap_or("model");
    dunlin_kit::atomic_file::write(spec, skeleton(name, &file).as_bytes())
        .map_err(|error| CommandError::failed(format!("cannot write `{}`", spec.display()), error))?;
    print::note(&format!("wrote `{}`; fill in what it asks for", spec.display()));
    for node in file.refused_nodes() {
        print::note(&format!(
            "note: operator `{}` of node `{}` is not supported: {}",
            node.operator,
            node.node,
            remedy(&node.operator)
        ));
    }
    Ok(())
}

fn skeleton(name: &str, file: &OnnxFile) -> String {
    let name: String =
        name.to_ascii_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let mut text = format!(
        "# What a package needs and the ONNX file does not say. All keys: docs/model-package.md\n\n\
         name = \"{name}\"\nversion = \"1.0.0\"\n# release_counter = 1   # default: one more than in --repository, else 1\n\n\
         # Default: what `window` of the model in dunlind.toml says, else what the shapes leave.\n\
         # window = {{ length = 1, hop = 1, gap_max = \"15m\" }}\n"
    );
    for input in file.inputs() {
        let _ = write!(
            text,
            "\n# {}\n[inputs.{}]\n# In the order of the training's columns. Default: `inputs` of the model in dunlind.toml; units from its sources,\n\
             # ranges from the samples.\n\
             # features = [\"temperature\", {{ name = \"pressure@mean:5m\", unit = \"hPa\", range = [950, 1050] }}]\n",
            signature(&input),
            key(&input.name)
        );
    }
    for (position, output) in file.outputs().iter().enumerate() {
        // Scores come last where an exporter writes label and scores; what is left out is not computed.
        let mark = if position + 1 == file.outputs().len() { "" } else { "# " };
        let (kind, labels) = match file.class_names(&output.name) {
            Some(names) => ("classification", format!("# labels = {}   # default: these, as the file holds them", list(names))),
            None => ("vector", "# labels = [\"no\", \"yes\"]                          # classification: in the order of the values, or of a label".to_owned()),
        };
        let _ = write!(
            text,
            "\n# {}\n{mark}[outputs.{}]\n{mark}kind = \"{kind}\"   # regression, classification, anomaly or vector\n\
             {labels}\n\
             # threshold = {{ above = 0.5, label = \"alarm\" }}    # regression, anomaly\n",
            signature(output),
            key(&output.name)
        );
    }
    text.push_str("\n[budgets]\n# resident_bytes = 268435456\n# deadline = \"1s\"\n");
    text
}

fn signature(tensor: &GraphTensor) -> String {
    let axes = tensor.axes.as_deref().map_or_else(|| "of unknown shape".to_owned(), axes_text);
    format!(
        "{} {axes}",
        tensor.dtype.map_or_else(|| tensor.element.clone(), |dtype| numpy_name(dtype).to_owned())
    )
}

/// Returns texts as a list of TOML in one line.
fn list(texts: &[String]) -> String {
    let mut shown: Vec<String> = texts
        .iter()
        .take(LABELS_SHOWN_MAX)
        .map(|text| toml::Value::from(text.as_str()).to_string())
        .collect();
    if texts.len() > LABELS_SHOWN_MAX {
        shown.push("…".to_owned());
    }
    format!("[{}]", shown.join(", ").replace(['\n', '\r'], " "))
}

/// Returns a name as a part of a TOML key.
fn key(name: &str) -> String {
    let is_bare =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if is_bare { name.to_owned() } else { toml::Value::from(name).to_string() }
}
