//! Between the values of windows and the tensors of a graph.
//!
//! Cuts windows into the graph's inputs, and puts its outputs into rows in the order of the manifest; labels become their
//! positions. Never runs a model and never judges a value.

use dunlin_model_package::manifest::{Dim, Dtype};
use dunlin_model_package::{InputSpec, LabelPositions, Manifest, OutputSpec};
use tract_onnx::prelude::InferenceFact;
use tract_onnx::tract_core::internal::*;

use super::EngineError;
use super::signature::{self, Signature};
use super::tract::{run_error, shortened};

/// How the windows and rows of a package stand to the tensors of its graph.
pub(super) struct WindowTensors {
    /// In the order of the graph.
    inputs: Vec<InputPart>,
    /// In the order of the manifest.
    outputs: Vec<OutputPart>,
    window_values: usize,
    output_values: usize,
}

/// What an input of the graph takes of a window.
struct InputPart {
    dtype: Dtype,
    offset: usize,
    width: usize,
}

/// What an output gives to a row.
struct OutputPart {
    spec: OutputSpec,
    /// What its labels are, where it is a label.
    labels: Option<LabelPositions>,
    offset: usize,
    width: usize,
}

impl WindowTensors {
    /// Joins a manifest with the order of its graph's inputs.
    pub(super) fn new(manifest: &Manifest, signature: &Signature) -> Self {
        let mut offsets = Vec::with_capacity(manifest.inputs.len());
        let mut window_values = 0;
        for input in &manifest.inputs {
            offsets.push(window_values);
            window_values += input.values();
        }
        let inputs = signature.inputs.iter().map(|&position| {
            let spec = &manifest.inputs[position];
            InputPart { dtype: spec.dtype, offset: offsets[position], width: spec.values() }
        });
        let mut output_values = 0;
        let outputs = manifest.outputs.iter().map(|spec| {
            let (offset, width) = (output_values, spec.values());
            output_values += width;
            OutputPart { spec: spec.clone(), labels: LabelPositions::of(spec), offset, width }
        });
        Self {
            inputs: inputs.collect(),
            outputs: outputs.collect(),
            window_values,
            output_values: manifest.output_values(),
        }
    }

    /// Returns the number of values of a window.
    pub(super) const fn window_values(&self) -> usize {
        self.window_values
    }

    /// Returns the number of values of a row of outputs.
    pub(super) const fn output_values(&self) -> usize {
        self.output_values
    }

    /// Writes what windows hold of an input into its tensor; inputs are counted in the graph's order.
    ///
    /// *Errors*: the tensor is not of the input's type and size.
    pub(super) fn write_input(&self, input: usize, values: &[f32], tensor: &mut Tensor) -> TractResult<()> {
        let InputPart { dtype, offset, width } = self.inputs[input];
        let stride = self.window_values;
        ensure!(
            tensor.len() * stride == values.len() * width,
            "an input is of another size than its windows"
        );
        let mut plain = tensor.try_as_plain_ram_mut()?;
        if width == stride && dtype == Dtype::F32 {
            plain.as_slice_mut::<f32>()?.copy_from_slice(values);
            return Ok(());
        }
        let mine = values.chunks_exact(stride).flat_map(|window| &window[offset..offset + width]);
        match dtype {
            Dtype::F32 => put(plain.as_slice_mut()?, mine, |value| value),
            Dtype::F64 => put(plain.as_slice_mut()?, mine, f64::from),
            // `as` saturates and makes 0 of NaN: a defined value for every input.
            Dtype::I32 => put(plain.as_slice_mut()?, mine, |value| value.round() as i32),
            Dtype::I64 => put(plain.as_slice_mut()?, mine, |value| value.round() as i64),
        }
        Ok(())
    }

    /// Puts the outputs for `size` windows into rows, one window after the other.
    ///
    /// *Errors*: an output is not of the declared shape, or a label is none of the manifest.
    pub(super) fn take_outputs(
        &self,
        size: usize,
        results: &[&Tensor],
        into: &mut [f32],
    ) -> Result<(), EngineError> {
        for (part, result) in self.outputs.iter().zip(results) {
            let OutputPart { spec, labels, offset, width } = part;
            let (offset, width) = (*offset, *width);
            if result.len() != size * width {
                return Err(EngineError::Run(format!(
                    "output `{}` has shape {:?}, not {width} values a window",
                    spec.name,
                    result.shape()
                )));
            }
            let rows = into.chunks_exact_mut(self.output_values).map(|row| &mut row[offset..offset + width]);
            match labels {
                Some(labels) => put_positions(spec, labels, result, rows)?,
                None => {
                    let values = result.cast_to::<f32>().map_err(run_error)?;
                    let flat = flat::<f32>(&values)?;
                    rows.zip(flat.chunks_exact(width)).for_each(|(row, values)| row.copy_from_slice(values));
                }
            }
        }
        Ok(())
    }
}

fn put<'v, T>(into: &mut [T], values: impl Iterator<Item = &'v f32>, converted: impl Fn(f32) -> T) {
    into.iter_mut().zip(values).for_each(|(into, value)| *into = converted(*value));
}

/// Returns what the engine is told of an input.
pub(super) fn input_fact(spec: &InputSpec, batch: usize) -> InferenceFact {
    let dtype = match spec.dtype {
        Dtype::F32 => f32::datum_type(),
        Dtype::F64 => f64::datum_type(),
        Dtype::I32 => i32::datum_type(),
        Dtype::I64 => i64::datum_type(),
    };
    InferenceFact::dt_shape(dtype, tensor_shape(spec, batch))
}

/// Puts the positions of labels that the model gave, which are texts or integers, one into each row.
///
/// *Errors*: one is no label of the manifest.
fn put_positions<'r>(
    spec: &OutputSpec,
    labels: &LabelPositions,
    result: &Tensor,
    rows: impl Iterator<Item = &'r mut [f32]>,
) -> Result<(), EngineError> {
    let unknown = |given: &dyn std::fmt::Display| {
        EngineError::Run(shortened(&format!(
            "output `{}` is `{given}`, which is no label of the manifest; it has {}",
            spec.name,
            spec.post.labels.join(", ")
        )))
    };
    if result.datum_type() == DatumType::String {
        for (row, text) in rows.zip(flat::<String>(result)?) {
            row[0] = labels.of_text(text).ok_or_else(|| unknown(text))? as f32;
        }
        return Ok(());
    }
    let integers = result.cast_to::<i64>().map_err(run_error)?;
    for (row, value) in rows.zip(flat::<i64>(&integers)?) {
        row[0] = labels.of_integer(*value).ok_or_else(|| unknown(value))? as f32;
    }
    Ok(())
}

fn flat<T: Datum>(tensor: &Tensor) -> Result<&[T], EngineError> {
    tensor.try_as_plain_ram().and_then(|view| view.as_slice::<T>()).map_err(run_error)
}

/// Refuses a label that is neither text nor integer, and texts that are not labels.
pub(super) fn check_elements(spec: &OutputSpec, datum_type: DatumType) -> Result<(), EngineError> {
    let is_text = datum_type == DatumType::String;
    // The engine keeps some integers as sizes, which may be symbols while it prepares.
    let is_integer = datum_type.is_integer() || [DatumType::Bool, DatumType::TDim].contains(&datum_type);
    let why = if spec.is_label() && !is_text && !is_integer {
        format!("has elements of type {datum_type:?}, and labels are texts or integers")
    } else if is_text && !spec.is_label() {
        "holds texts; keep it as a classification with its labels, of one value a window".to_owned()
    } else {
        return Ok(());
    };
    Err(EngineError::Mismatch(format!("output `{}` {why}", spec.name)))
}

/// Axes of length 1 may stand anywhere: exporters differ in them, and the flat values are the same.
pub(super) fn check_output(spec: &OutputSpec, shape: &[usize], batch: usize) -> Result<(), EngineError> {
    let declared = std::iter::once(batch).chain(spec.shape.iter().filter_map(|dim| match dim {
        Dim::Fixed(size) => Some(*size as usize),
        Dim::Named(_) => None,
    }));
    let declared = declared.filter(|&length| length != 1);
    let actual = shape.iter().copied().filter(|&length| length != 1);
    if declared.eq(actual) {
        return Ok(());
    }
    Err(EngineError::Mismatch(format!(
        "output `{}` has shape {shape:?} for {batch} windows, the manifest says {}",
        spec.name,
        signature::shape_text(&spec.shape)
    )))
}

/// Returns the shape of an input's tensor.
pub(super) fn tensor_shape(spec: &InputSpec, batch: usize) -> TVec<usize> {
    spec.shape
        .iter()
        .map(|dim| match dim {
            Dim::Fixed(size) => *size as usize,
            Dim::Named(_) => batch,
        })
        .collect()
}
