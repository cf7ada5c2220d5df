//! `dunlind predict`: a package's model on inputs from a file or standard input, without daemon and broker.
//!
//! Reads one JSON object a line with the values of each input, hands them to the model that `main` passes in and prints
//! outputs and label. Knows shapes and names, not how a model is run.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use dunlin_model_package::manifest::{Manifest, OutputSpec};
use dunlin_model_package::{InputSpec, Package};
use serde_json::{Map, Value};

use crate::command::output::{Output, output_error};
use crate::command::replay::read_line;
use crate::command::{CommandError, note};
use crate::publication::{push_text, push_values};
use crate::update::open_release::OpenedRelease;

/// Deepest nesting of an input's values: more axes than any tensor of a package has.
const DEPTH_MAX: usize = 8;

/// Arguments of `dunlind predict`.
#[derive(Debug, Clone, Args)]
pub struct PredictArgs {
    /// The bundle, or the folder of the repository, that holds the package
    #[arg(long, value_name = "PATH")]
    pub package: PathBuf,
    /// The root of trust that its owner gave out
    #[arg(long, value_name = "FILE")]
    pub root: PathBuf,
    /// Which model, where the bundle holds several
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Inputs, one JSON object a line, as in `{"x":[[1.0,2.0],[3.0,4.0]]}`; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub input: PathBuf,
}

/// What a model made of one line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Predicted {
    /// *Shape*: the outputs one after the other in the manifest's order, flattened row-major.
    pub outputs: Vec<f32>,
    /// The label after post-processing.
    pub label: Option<String>,
}

/// A loaded model.
pub trait PredictModel {
    /// Runs the model on one window.
    ///
    /// *Shape* of `values`: the inputs one after the other in the manifest's order, each row-major without the batch.
    ///
    /// *Errors*: why it could not be run, in words; the next line is tried.
    fn predict(&mut self, values: &[f32]) -> Result<Predicted, String>;
}

/// Predicts each line of the input; `load` loads the model of the package.
///
/// *Errors*: the package is not there (exit code 3) or refused (1), a line was refused or could not be run (1, after
/// the others were done), or reading or writing failed.
pub fn run<M: PredictModel>(
    args: &PredictArgs,
    release_of: impl FnOnce(&PredictArgs) -> Result<OpenedRelease, CommandError>,
    load: impl FnOnce(&Package) -> Result<M, CommandError>,
) -> Result<ExitCode, CommandError> {
    let release = release_of(args)?;
    let package = &release.package;
    let mut input = open(&args.input)?;
    let mut model = load(package)?;
    let mut output = Output::standard();
    let failed = predict_lines(package.manifest(), &mut input, &mut model, &mut output)?;
    output.finish()?;
    match failed {
        0 => Ok(ExitCode::SUCCESS),
        count => {
            Err(CommandError::Failed { message: format!("{count} line(s) have no prediction"), source: None })
        }
    }
}

fn open(path: &Path) -> Result<Box<dyn BufRead>, CommandError> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    match File::open(path) {
        Ok(file) => Ok(Box::new(BufReader::with_capacity(64 * 1024, file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(CommandError::NotFound(format!("there is no file `{}`", path.display())))
        }
        Err(error) => Err(CommandError::failed(format!("cannot read `{}`", path.display()), error)),
    }
}

/// Returns how many lines failed. Each line of the input has its line in the output: a prediction, or
/// `{"error":"…"}`.
fn predict_lines(
    manifest: &Manifest,
    input: &mut impl BufRead,
    model: &mut impl PredictModel,
    output: &mut impl Write,
) -> Result<u64, CommandError> {
    let (mut line, mut out, mut number, mut failed) = (Vec::new(), Vec::new(), 0_u64, 0);
    loop {
        number += 1;
        line.clear();
        let count = read_line(input, &mut line)
            .map_err(|error| CommandError::failed("cannot read the input", error))?;
        if count == 0 {
            return Ok(failed);
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        out.clear();
        match window_values(&manifest.inputs, &line).and_then(|values| model.predict(&values)) {
            Ok(predicted) => push_predicted(&mut out, &manifest.outputs, &predicted),
            Err(reason) => {
                failed += 1;
                note(&format!("line {number}: {reason}"));
                out.extend_from_slice(b"{\"error\":");
                push_text(&mut out, &reason);
                out.extend_from_slice(b"}\n");
            }
        }
        output.write_all(&out).map_err(output_error)?;
    }
}

/// Returns the values of one window from a JSON line.
///
/// *Errors*: not an object, an input is missing, unknown or of another size, a value is not a number; in words.
pub fn window_values(inputs: &[InputSpec], line: &[u8]) -> Result<Vec<f32>, String> {
    let object: Map<String, Value> =
        serde_json::from_slice(line).map_err(|error| format!("not a JSON object: {error}"))?;
    let names = || inputs.iter().map(|input| format!("`{}`", input.name)).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = object.keys().find(|name| inputs.iter().all(|input| input.name != **name)) {
        return Err(format!("`{unknown}` is no input of the model; its inputs are {}", names()));
    }
    let mut values = Vec::with_capacity(inputs.iter().map(InputSpec::values).sum());
    for input in inputs {
        let given = object
            .get(&input.name)
            .ok_or_else(|| format!("input `{}` is missing; the inputs are {}", input.name, names()))?;
        let before = values.len();
        flatten(given, &mut values, &input.name, 0)?;
        let (count, expected) = (values.len() - before, input.values());
        if count != expected {
            return Err(format!("input `{}` has {count} values, the model takes {expected}", input.name));
        }
    }
    Ok(values)
}

/// `null` is a missing value: NaN.
fn flatten(value: &Value, values: &mut Vec<f32>, input: &str, depth: usize) -> Result<(), String> {
    match value {
        Value::Array(elements) if depth < DEPTH_MAX => {
            elements.iter().try_for_each(|element| flatten(element, values, input, depth + 1))
        }
        Value::Array(_) => Err(format!("input `{input}` is nested more than {DEPTH_MAX} deep")),
        Value::Null => {
            values.push(f32::NAN);
            Ok(())
        }
        Value::Number(number) => match number.as_f64().map(|number| number as f32) {
            Some(number) if number.is_finite() => {
                values.push(number);
                Ok(())
            }
            _ => Err(format!("input `{input}`: {number} is beyond the range of a 32-bit number")),
        },
        _ => Err(format!("input `{input}` holds something that is not a number, an array or null")),
    }
}

/// Appends `{"outputs":{name:[…]},"label":…}` and a line end.
fn push_predicted(out: &mut Vec<u8>, outputs: &[OutputSpec], predicted: &Predicted) {
    out.extend_from_slice(b"{\"outputs\":{");
    let mut rest = predicted.outputs.as_slice();
    for (index, output) in outputs.iter().enumerate() {
        let (values, others) = rest.split_at(output.values().min(rest.len()));
        rest = others;
        if index > 0 {
            out.push(b',');
        }
        push_text(out, &output.name);
        out.extend_from_slice(b":[");
        push_values(out, values);
        out.push(b']');
    }
    out.extend_from_slice(b"},\"label\":");
    match &predicted.label {
        Some(label) => push_text(out, label),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b"}\n");
}

#[cfg(test)]
#[path = "predict/tests.rs"]
mod tests;
