//! The tract engine: an optimised plan for each batch size in use.
//!
//! Loads a model under the limits, checks it against its manifest and runs it; a panic of the engine becomes an
//! error. Never opens a file and never waits. The plans are all made at load, so that a running worker needs
//! neither new memory for plans nor a longer deadline for the first batch of a size.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::manifest::Dim;
use dunlin_model_package::package::MODEL_FILE;
use dunlin_model_package::{Manifest, Package};
use tract_onnx::Onnx;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;

use super::limits::{self, ModelSize};
use super::plan::Plan;
use super::signature::{self, BatchAxis, Signature};
use super::window_tensors::{WindowTensors, check_elements, check_output, input_fact, tensor_shape};
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

/// A model loaded into tract.
pub struct TractEngine {
    tensors: WindowTensors,
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
            let _ = self.run(size, &vec![0.0; size * self.tensors.window_values()]);
        }
    }

    /// Returns what plans take and give.
    pub(super) const fn tensors(&self) -> &WindowTensors {
        &self.tensors
    }

    /// Returns the plan of a batch size that plans were made for.
    pub(super) fn plan(&self, size: usize) -> Result<&Plan, EngineError> {
        let found = self.plans.iter().find(|(known, _)| *known == size).map(|(_, plan)| plan);
        found.ok_or_else(|| EngineError::Run(format!("there is no plan for batches of {size}")))
    }

    fn run_split(&mut self, batch: usize, values: &[f32], outputs: &mut Vec<f32>) -> Result<(), EngineError> {
        let (width, output_width) = (self.tensors.window_values(), self.tensors.output_values());
        if batch.checked_mul(width) != Some(values.len()) {
            return Err(EngineError::Run(format!(
                "{batch} windows of {width} values were announced and {} values came",
                values.len()
            )));
        }
        outputs.resize(batch * output_width, 0.0);
        let (tensors, mut done) = (&self.tensors, 0);
        for (size, plan) in &mut self.plans {
            while batch - done >= *size {
                let windows = &values[done * width..(done + *size) * width];
                let into = &mut outputs[done * output_width..(done + *size) * output_width];
                let write = |input: usize, tensor: &mut Tensor| tensors.write_input(input, windows, tensor);
                let read = |results: &[&Tensor]| tensors.take_outputs(*size, results, into);
                plan.run(write, read).map_err(run_error)??;
                done += *size;
            }
        }
        Ok(())
    }
}

impl Engine for TractEngine {
    fn run_into(&mut self, batch: usize, values: &[f32], outputs: &mut Vec<f32>) -> Result<(), EngineError> {
        outputs.clear();
        let ran = catching(|| self.run_split(batch, values, outputs));
        if ran.is_err() {
            outputs.clear();
        }
        ran
    }
}

/// Turns a panic of the engine into an error. Sound for what is called here: the state of a run that panicked is
/// dropped with it.
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

pub(super) fn shortened(text: &str) -> String {
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
    let are_first = manifest.inputs.iter().all(|input| {
        matches!(input.shape.first(), Some(Dim::Named(_)))
            && input.shape[1..].iter().all(|dim| matches!(dim, Dim::Fixed(_)))
    });
    let batch_max = if operators::quantized::are_mixed(graph, are_first) { 1 } else { batch_max };
    let inference = engine.model_for_proto_model(&proto).map_err(build_error)?;
    drop(proto);

    let mut plans: Vec<(usize, Plan)> = Vec::new();
    for batch in plan_sizes(&signature, size, manifest.budgets.resident_bytes, batch_max) {
        match build_plan(inference.clone(), &signature, manifest, batch) {
            // An output whose batch is not its first axis, such as `[classes, batch, 2]`: the same.
            Ok(plan) if plans.last().is_some_and(|(_, single)| !plan.has_batch_first(single, batch)) => break,
            Ok(plan) => plans.insert(0, (batch, plan)),
            // A batch size that is baked into the graph behind a free batch axis: windows are run one by one.
            Err(_) if batch > 1 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(TractEngine { tensors: WindowTensors::new(manifest, &signature), plans })
}

/// Decodes an ONNX file and inlines its local functions.
pub(super) fn read_proto(engine: &Onnx, model: &[u8]) -> Result<ModelProto, EngineError> {
    if model.len() > limits::MODEL_BYTES_MAX {
        return Err(EngineError::Limit(format!("its file is longer than {} bytes", limits::MODEL_BYTES_MAX)));
    }
    let mut proto = engine
        .proto_model_for_read(&mut &*model)
        .map_err(|error| EngineError::Unreadable(shortened(&format!("{error:#}"))))?;
    rewrite::functions::inline(&mut proto, model, engine)?;
    Ok(proto)
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
    for (input, &position) in signature.inputs.iter().enumerate() {
        let fact = typed.input_fact(input).map_err(build_error)?;
        // What windows are written into: an input that the engine turned around would be filled the wrong way.
        if fact.shape.as_concrete() != Some(&tensor_shape(&manifest.inputs[position], batch)) {
            return Err(EngineError::Build(format!("input {input} has become of shape {:?}", fact.shape)));
        }
    }
    Plan::new(typed).map_err(build_error)
}
