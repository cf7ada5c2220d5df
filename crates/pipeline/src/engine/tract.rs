//! The tract engine: an optimised plan for each batch size in use.
//!
//! Loads a model under the limits, checks it against its manifest and runs it; a panic of the engine becomes an
//! error. Never opens a file and never waits. The plans are all made at load, so that a running worker needs
//! neither new memory for plans nor a longer deadline for the first batch of a size.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::manifest::{Dim, Dtype};
use dunlin_model_package::package::MODEL_FILE;
use dunlin_model_package::{InputSpec, LabelPositions, Manifest, OutputSpec, Package};
use tract_onnx::Onnx;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;

use super::limits::{self, ModelSize};
use super::signature::{self, BatchAxis, Signature};
use super::{Engine, EngineError, operators, rewrite};

/// Batch sizes that plans are made for. Matrix kernels work on tiles of 4 to 32 rows: a 32-row run of a small dense
/// model costs about three single ones. Other counts are put together from these.
pub const PLAN_SIZES: [usize; 3] = [1, 4, 32];
/// Every plan packs the constants anew: further plans are made only while all packed constants stay under this part
/// of the model's own budget.
const PLAN_BUDGET_PART: u64 = 4;
/// Longest text taken over from the engine.
const ENGINE_TEXT_BYTES_MAX: usize = 1_024;

/// How the engine's panic begins when a tensor gets no memory (`Blob::for_layout` of tract-data).
const ALLOCATION_PANIC: &str = "failed to allocate";

pub(super) type Plan = Arc<TypedRunnableModel>;

/// A model loaded into tract.
pub struct TractEngine {
    inputs: Vec<InputSpec>,
    outputs: Vec<OutputSpec>,
    /// For each output, what its labels are, where it is a label.
    labels: Vec<Option<LabelPositions>>,
    /// For each input of the graph, its position in the manifest and its offset in a window.
    order: Vec<(usize, usize)>,
    window_values: usize,
    output_values: usize,
    /// By falling batch size; the last is of size 1.
    plans: Vec<(usize, Plan)>,
}

impl TractEngine {
    /// Loads the model of an approved package for batches of up to `batch_max` windows.
    ///
    /// *Errors*: the file cannot be used; what is beyond a limit, not supported, or not as the manifest says. The model
    /// is not to be used.
    pub fn load(package: &Package, batch_max: usize) -> Result<Self, EngineError> {
        let model = package
            .read_blob(MODEL_FILE)
            .map_err(|error| EngineError::Unreadable(Chain(&error).to_string()))?;
        Self::load_file(&model, package.manifest(), batch_max)
    }

    /// Loads a model's bytes; apart from [`TractEngine::load`] for this module's tests alone.
    pub(super) fn load_file(
        model: &[u8],
        manifest: &Manifest,
        batch_max: usize,
    ) -> Result<Self, EngineError> {
        catching(|| load(model, manifest, batch_max))
    }

    /// Returns the batch sizes that plans were made for, falling.
    pub fn plan_sizes(&self) -> impl Iterator<Item = usize> + '_ {
        self.plans.iter().map(|(size, _)| *size)
    }

    /// Runs every plan once on zeros, so that the first real batch finds warm caches and all memory taken. The
    /// result does not matter: a model may refuse zeros and still be right.
    pub fn warm_up(&mut self) {
        let sizes: Vec<usize> = self.plan_sizes().collect();
        for size in sizes {
            let _ = self.run(size, &vec![0.0; size * self.window_values]);
        }
    }

    /// Returns the plan of a batch size that plans were made for.
    pub(super) fn plan(&self, size: usize) -> Result<&Plan, EngineError> {
        let found = self.plans.iter().find(|(known, _)| *known == size).map(|(_, plan)| plan);
        found.ok_or_else(|| EngineError::Run(format!("there is no plan for batches of {size}")))
    }

    /// Returns what a plan takes for `size` windows, in the graph's order.
    pub(super) fn input_tensors(&self, size: usize, values: &[f32]) -> Result<TVec<TValue>, EngineError> {
        let tensors = self.order.iter().map(|&(position, offset)| {
            let tensor = input_tensor(&self.inputs[position], size, values, offset, self.window_values);
            tensor.map(IntoTValue::into_tvalue).map_err(run_error)
        });
        tensors.collect()
    }

    fn run_plan(
        &self,
        (size, plan): (usize, &Plan),
        values: &[f32],
        into: &mut [f32],
    ) -> Result<(), EngineError> {
        let results = plan.run(self.input_tensors(size, values)?).map_err(run_error)?;
        let mut offset = 0;
        for ((spec, labels), result) in self.outputs.iter().zip(&self.labels).zip(&results) {
            let width = spec.values();
            let cast = match labels {
                Some(labels) => Cow::Owned(positions(spec, labels, result)?),
                None => result.cast_to::<f32>().map_err(run_error)?,
            };
            let flat = cast.try_as_plain_ram().and_then(|view| view.as_slice::<f32>()).map_err(run_error)?;
            if flat.len() != size * width {
                return Err(EngineError::Run(format!(
                    "output `{}` has shape {:?}, not {} values a window",
                    spec.name,
                    result.shape(),
                    width
                )));
            }
            for (window, row) in flat.chunks_exact(width).enumerate() {
                let start = window * self.output_values + offset;
                into[start..start + width].copy_from_slice(row);
            }
            offset += width;
        }
        Ok(())
    }

    fn run_split(&self, batch: usize, values: &[f32]) -> Result<Vec<f32>, EngineError> {
        let expected = batch.checked_mul(self.window_values);
        if expected != Some(values.len()) {
            return Err(EngineError::Run(format!(
                "{batch} windows of {} values were announced and {} values came",
                self.window_values,
                values.len()
            )));
        }
        let mut outputs = vec![0.0; batch * self.output_values];
        let mut done = 0;
        for (size, plan) in &self.plans {
            while batch - done >= *size {
                let windows = &values[done * self.window_values..(done + size) * self.window_values];
                let into = &mut outputs[done * self.output_values..(done + size) * self.output_values];
                self.run_plan((*size, plan), windows, into)?;
                done += size;
            }
        }
        Ok(outputs)
    }
}

impl Engine for TractEngine {
    fn run(&mut self, batch: usize, values: &[f32]) -> Result<Vec<f32>, EngineError> {
        catching(|| self.run_split(batch, values))
    }
}

/// Turns a panic of the engine into an error. Sound for what is called here: plans are not changed by a run, and
/// the state of a run is dropped with it.
pub(super) fn catching<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("without a message");
        let text = shortened(text);
        let is_memory = text.starts_with(ALLOCATION_PANIC);
        Err(if is_memory { EngineError::Memory(text) } else { EngineError::Panicked(text) })
    })
}

fn shortened(text: &str) -> String {
    let mut short: String =
        text.chars().take(ENGINE_TEXT_BYTES_MAX / 4).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

pub(super) fn run_error(error: TractError) -> EngineError {
    EngineError::Run(shortened(&format!("{error:#}")))
}

pub(super) fn build_error(error: TractError) -> EngineError {
    EngineError::Build(shortened(&format!("{error:#}")))
}

fn load(model: &[u8], manifest: &Manifest, batch_max: usize) -> Result<TractEngine, EngineError> {
    let engine = operators::onnx();
    let mut proto = read_proto(&engine, model)?;
    let size = limits::check(&proto, manifest.budgets.resident_bytes)?;
    let default_domain = proto.opset_import.iter().find(|set| matches!(set.domain.as_str(), "" | "ai.onnx"));
    let opset = default_domain.map_or(0, |set| set.version);
    let no_graph = || EngineError::Unreadable("it holds no graph".to_owned());
    let graph = proto.graph.as_mut().ok_or_else(no_graph)?;
    rewrite::to_tensors(graph)?;
    let signature = signature::compare(graph, manifest)?;
    let outputs: Vec<&str> = manifest.outputs.iter().map(|output| output.name.as_str()).collect();
    rewrite::keep(graph, &outputs);
    operators::check(&proto, &engine)?;
    let graph = proto.graph.as_mut().ok_or_else(no_graph)?;
    rewrite::simplify(graph, opset);
    rewrite::keep(graph, &outputs);
    let batch_max = if operators::quantized::is_batch_dependent(graph) { 1 } else { batch_max };
    let inference = engine.model_for_proto_model(&proto).map_err(build_error)?;
    drop(proto);

    let mut offsets = Vec::with_capacity(manifest.inputs.len());
    let mut window_values = 0;
    for input in &manifest.inputs {
        offsets.push(window_values);
        window_values += input.values();
    }
    let mut plans: Vec<(usize, Plan)> = Vec::new();
    for batch in plan_sizes(&signature, size, manifest.budgets.resident_bytes, batch_max) {
        match build_plan(inference.clone(), &signature, manifest, batch) {
            // An output whose batch is not its first axis, such as `[classes, batch, 2]`: the same.
            Ok(plan) if plans.last().is_some_and(|(_, single)| !has_batch_first(single, &plan, batch)) => {
                break;
            }
            Ok(plan) => plans.insert(0, (batch, plan)),
            // A batch size that is baked into the graph behind a free batch axis: windows are run one by one.
            Err(_) if batch > 1 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(TractEngine {
        inputs: manifest.inputs.clone(),
        outputs: manifest.outputs.clone(),
        labels: manifest.outputs.iter().map(LabelPositions::of).collect(),
        order: signature.inputs.iter().map(|&position| (position, offsets[position])).collect(),
        window_values,
        output_values: manifest.output_values(),
        plans,
    })
}

/// Decodes an ONNX file.
pub(super) fn read_proto(engine: &Onnx, model: &[u8]) -> Result<ModelProto, EngineError> {
    if model.len() > limits::MODEL_BYTES_MAX {
        return Err(EngineError::Limit(format!("its file is longer than {} bytes", limits::MODEL_BYTES_MAX)));
    }
    engine
        .proto_model_for_read(&mut &*model)
        .map_err(|error| EngineError::Unreadable(shortened(&format!("{error:#}"))))
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

fn plan_sizes(signature: &Signature, size: ModelSize, budget: u64, batch_max: usize) -> Vec<usize> {
    let mut sizes = vec![1];
    if signature.batch == BatchAxis::Free {
        let room = (budget / PLAN_BUDGET_PART).checked_div(size.constant_bytes).unwrap_or(u64::MAX);
        let more = PLAN_SIZES.into_iter().filter(|&batch| batch > 1 && batch <= batch_max);
        sizes.extend(more.take(usize::try_from(room.saturating_sub(1)).unwrap_or(usize::MAX)));
    }
    sizes
}

/// Whether every output of a plan is that of single windows one after the other.
fn has_batch_first(single: &Plan, many: &Plan, batch: usize) -> bool {
    let outputs = single.model().output_outlets().map_or(0, <[OutletId]>::len);
    (0..outputs).all(|position| {
        let shape =
            |plan: &Plan| Some(plan.model().output_fact(position).ok()?.shape.as_concrete()?.to_vec());
        let (Some(single), Some(many)) = (shape(single), shape(many)) else { return true };
        let Some(axis) = single.iter().zip(&many).position(|(one, many)| one != many) else { return false };
        single.len() == many.len()
            && single[..axis].iter().all(|length| *length == 1)
            && single[axis] * batch == many[axis]
            && single[axis + 1..] == many[axis + 1..]
    })
}

fn build_plan(
    mut model: InferenceModel,
    signature: &Signature,
    manifest: &Manifest,
    batch: usize,
) -> Result<Plan, EngineError> {
    for (input, &position) in signature.inputs.iter().enumerate() {
        let spec = &manifest.inputs[position];
        model.set_input_fact(input, input_fact(spec, batch)).map_err(build_error)?;
    }
    let typed = model.into_optimized().map_err(build_error)?;
    for (position, spec) in manifest.outputs.iter().enumerate() {
        let fact = typed.output_fact(position).map_err(build_error)?;
        check_elements(spec, fact.datum_type)?;
        // A shape that depends on the input's values is only known, and checked, when the plan runs.
        if let Some(shape) = fact.shape.as_concrete() {
            check_output(spec, shape, batch)?;
        }
    }
    typed.into_runnable().map_err(build_error)
}

/// Returns the positions of labels that the model gave, which are texts or integers.
///
/// *Errors*: one is no label of the manifest.
fn positions(spec: &OutputSpec, labels: &LabelPositions, result: &Tensor) -> Result<Tensor, EngineError> {
    let position = |found: Option<usize>, given: &dyn std::fmt::Display| {
        found.map(|position| position as f32).ok_or_else(|| {
            EngineError::Run(shortened(&format!(
                "output `{}` is `{given}`, which is no label of the manifest; it has {}",
                spec.name,
                spec.post.labels.join(", ")
            )))
        })
    };
    let values: Vec<f32> = if result.datum_type() == DatumType::String {
        let texts =
            result.try_as_plain_ram().and_then(|view| view.as_slice::<String>()).map_err(run_error)?;
        texts.iter().map(|text| position(labels.of_text(text), text)).collect::<Result<_, _>>()?
    } else {
        let integers = result.cast_to::<i64>().map_err(run_error)?;
        let view = integers.try_as_plain_ram().and_then(|view| view.as_slice::<i64>()).map_err(run_error)?;
        view.iter().map(|value| position(labels.of_integer(*value), value)).collect::<Result<_, _>>()?
    };
    Ok(tensor1(&values))
}

/// Refuses a label that is neither text nor integer, and texts that are not labels.
fn check_elements(spec: &OutputSpec, datum_type: DatumType) -> Result<(), EngineError> {
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
fn check_output(spec: &OutputSpec, shape: &[usize], batch: usize) -> Result<(), EngineError> {
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

fn tensor_shape(spec: &InputSpec, batch: usize) -> TVec<usize> {
    spec.shape
        .iter()
        .map(|dim| match dim {
            Dim::Fixed(size) => *size as usize,
            Dim::Named(_) => batch,
        })
        .collect()
}

fn input_tensor(
    spec: &InputSpec,
    batch: usize,
    values: &[f32],
    offset: usize,
    stride: usize,
) -> TractResult<Tensor> {
    let shape = tensor_shape(spec, batch);
    let width = spec.values();
    if width == stride && spec.dtype == Dtype::F32 {
        return Tensor::from_shape(&shape, values);
    }
    let mine = values.chunks_exact(stride).flat_map(|window| window[offset..offset + width].iter());
    match spec.dtype {
        Dtype::F32 => Tensor::from_shape(&shape, &mine.copied().collect::<Vec<f32>>()),
        Dtype::F64 => Tensor::from_shape(&shape, &mine.map(|v| f64::from(*v)).collect::<Vec<f64>>()),
        // `as` saturates and makes 0 of NaN: a defined value for every input.
        Dtype::I32 => Tensor::from_shape(&shape, &mine.map(|v| v.round() as i32).collect::<Vec<i32>>()),
        Dtype::I64 => Tensor::from_shape(&shape, &mine.map(|v| v.round() as i64).collect::<Vec<i64>>()),
    }
}
