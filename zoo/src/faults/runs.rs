//! One minimal model by each library: tract as it is, ONNX Runtime, and our engine.
//!
//! Opens, prepares and runs; whatever happens becomes a [`Given`]. Never compares.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use dunlin_model_package::Digest;
use dunlin_model_package::package::MODEL_FILE;
use dunlin_pipeline::engine::{Engine, TractEngine};
use serde_json::{Value, json};
use tract_onnx::prelude::*;

use super::tensors::{Values, agree};
use crate::package;
use crate::peer::Peer;

/// Longest text of an error that is taken over.
const ERROR_CHARS_MAX: usize = 300;
/// Memory that a model may take, in bytes: the minimal ones take next to nothing.
const RESIDENT_BYTES: u64 = 1 << 28;

/// What a library made of a model.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Given {
    Values(Vec<Values>),
    /// It does not take or does not run the model, and why.
    Refused(String),
    Panicked(String),
}

impl Given {
    /// Tells whether this is the right result; all refusals are one.
    pub(super) fn is(&self, right: &Self) -> bool {
        match (self, right) {
            (Self::Values(given), Self::Values(right)) => {
                given.len() == right.len() && given.iter().zip(right).all(|(given, right)| given.is(right))
            }
            (Self::Refused(_), Self::Refused(_)) => true,
            _ => false,
        }
    }

    /// As [`Given::is`] for our engine, which gives all outputs as one row of numbers.
    pub(super) fn is_as_numbers(&self, right: &Self) -> bool {
        match (self, right) {
            (Self::Values(given), Self::Values(right)) => {
                // The engine gives f32.
                let all = |tensors: &[Values]| -> Vec<f64> {
                    tensors.iter().flat_map(|one| &one.values).map(|&value| f64::from(value as f32)).collect()
                };
                agree(&all(given), &all(right), right.iter().any(Values::is_float))
            }
            _ => self.is(right),
        }
    }
}

impl std::fmt::Display for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Values(values) => {
                f.write_str(&values.iter().map(Values::to_string).collect::<Vec<_>>().join("; "))
            }
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Panicked(why) => write!(f, "panics: {why}"),
        }
    }
}

/// Runs a model by tract alone.
pub(super) fn by_tract(model: &Path, inputs: &[Values]) -> Given {
    caught(|| {
        let outputs = tract_outputs(model, inputs).map_err(|error| format!("{error:#}"))?;
        outputs.iter().map(|output| Values::of_tract(output)).collect()
    })
}

fn tract_outputs(model: &Path, inputs: &[Values]) -> TractResult<TVec<TValue>> {
    let mut graph = onnx().model_for_path(model)?;
    let mut tensors = tvec!();
    for (position, outlet) in graph.input_outlets()?.to_vec().into_iter().enumerate() {
        let name = &graph.node(outlet.node).name;
        let input = inputs.iter().find(|input| input.name == *name);
        let input = input.ok_or_else(|| TractError::msg("an input is not in the index"))?;
        let tensor = input.to_tract().map_err(TractError::msg)?;
        graph.set_input_fact(position, InferenceFact::dt_shape(tensor.datum_type(), tensor.shape()))?;
        tensors.push(tensor);
    }
    graph.into_optimized()?.into_runnable()?.run(tensors)
}

/// Runs a model by ONNX Runtime.
pub(super) fn by_peer(library: &Path, model: &Path, inputs: &[Values]) -> Given {
    caught(|| {
        let mut peer = Peer::open(library, model)?;
        let mut tensors = Vec::new();
        for name in peer.input_names() {
            let input =
                inputs.iter().find(|input| input.name == name).ok_or("an input is not in the index")?;
            tensors.push(input.to_peer()?);
        }
        let outputs = peer.run(&tensors)?;
        outputs.iter().map(|(_, value)| Values::of_peer(&value)).collect()
    })
}

/// Runs a model by our engine, inside a package whose outputs are as long as the right ones.
pub(super) fn by_ours(model: &Path, inputs: &[Values], right: &Given) -> Given {
    caught(|| {
        let bytes =
            std::fs::read(model).map_err(|error| format!("cannot read `{}`: {error}", model.display()))?;
        let folder = tempfile::tempdir().map_err(|error| format!("cannot make a folder: {error}"))?;
        package::write(folder.path(), &bytes, &manifest(&bytes, inputs, right))?;
        let package = package::open(folder.path())?;
        let mut engine = TractEngine::load(&package, 1).map_err(|error| error.to_string())?;
        let window: Vec<f32> = match inputs {
            [] => vec![0.0],
            inputs => {
                inputs.iter().flat_map(|input| input.values.iter().map(|&value| value as f32)).collect()
            }
        };
        let row = engine.run(1, &window).map_err(|error| error.to_string())?;
        let values: Vec<f64> = row.into_iter().map(f64::from).collect();
        Ok(vec![Values {
            name: String::new(),
            kind: "float32".to_owned(),
            shape: vec![values.len()],
            values,
        }])
    })
}

/// Outputs have the names `o`, `o1`, `o2`, as `zoo/make_faults.py` gives them, and one axis each.
fn manifest(model: &[u8], inputs: &[Values], right: &Given) -> Value {
    let dtype = |kind: &str| match kind {
        "float32" => "f32",
        "float64" => "f64",
        "int32" => "i32",
        _ => "i64",
    };
    let features = |count: usize| (0..count).map(|n| json!({ "name": format!("f{n}") })).collect::<Vec<_>>();
    let mut entries: Vec<Value> = inputs
        .iter()
        .map(|input| {
            let shape: Vec<Value> =
                std::iter::once(json!("batch")).chain(input.shape.iter().map(|axis| json!(axis))).collect();
            json!({ "name": input.name, "dtype": dtype(&input.kind), "shape": shape, "features": features(input.values.len()) })
        })
        .collect();
    if entries.is_empty() {
        entries.push(
            json!({ "name": "unused", "dtype": "f32", "shape": ["batch", 1], "features": features(1) }),
        );
    }
    let widths: Vec<usize> = match right {
        Given::Values(values) => values.iter().map(|one| one.values.len()).collect(),
        Given::Refused(_) | Given::Panicked(_) => vec![1],
    };
    let outputs: Vec<Value> = widths
        .iter()
        .enumerate()
        .map(|(n, width)| {
            let name = if n == 0 { "o".to_owned() } else { format!("o{n}") };
            json!({ "name": name, "kind": "vector", "shape": ["batch", width] })
        })
        .collect();
    json!({
        "schema": 1, "name": "fault", "version": "1.0.0", "release_counter": 1,
        "window": { "length": 1 },
        "inputs": entries,
        "outputs": outputs,
        "budgets": { "resident_bytes": RESIDENT_BYTES },
        "blobs": { MODEL_FILE: { "sha256": Digest::of(model), "bytes": model.len() } }
    })
}

/// Sound for what is called here: nothing that a panic leaves behind is used again.
fn caught(work: impl FnOnce() -> Result<Vec<Values>, String>) -> Given {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(values)) => Given::Values(values),
        Ok(Err(why)) => Given::Refused(shortened(&why)),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            Given::Panicked(shortened(
                text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("?"),
            ))
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(ERROR_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
