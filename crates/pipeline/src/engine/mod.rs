//! Engines: what turns the values of windows into the values of outputs.
//!
//! Loads a model under limits and runs batches of windows; never judges the values (NaN passes through) and never
//! makes a process or a deadline. The daemon's worker, its thread and the golden vectors call it behind one trait.

mod cost;
mod limits;
mod onnx_file;
mod operators;
mod plan;
mod rewrite;
#[cfg(test)]
pub(crate) mod samples;
mod signature;
mod steps;
#[cfg(test)]
mod tests;
mod tract;
mod vectors;
mod window_tensors;

pub use cost::NodeCost;
pub use limits::{INITIALISER_BYTES_MAX, MODEL_BYTES_MAX, NODES_MAX, RANK_MAX, SUBGRAPH_DEPTH_MAX};
pub use onnx_file::{GraphTensor, OnnxFile, RefusedNode, axes_text};
pub use tract::{PLAN_SIZES, TractEngine};

use std::fmt;

/// The engine of this build, as a manifest's `requirements.engine` names it.
pub const ENGINE: &str = "tract-onnx 0.23";

/// Something that runs a model.
pub trait Engine {
    /// Runs the model on `batch` windows.
    ///
    /// *Shape*: `values` are the windows one after the other, each as `ReadyWindow::values`; the result holds
    /// `batch` times `Manifest::output_values` values, the outputs of a window one after the other in the order of
    /// the manifest. Values that are not finite are returned as they are.
    ///
    /// *Errors*: the windows have no outputs; the engine can be used again.
    fn run(&mut self, batch: usize, values: &[f32]) -> Result<Vec<f32>, EngineError> {
        let mut outputs = Vec::new();
        self.run_into(batch, values, &mut outputs)?;
        Ok(outputs)
    }

    /// Does what [`Engine::run`] does, and puts the outputs into a vector in place of what it held. A caller that runs
    /// again and again saves the making of one.
    ///
    /// *Errors*: as of [`Engine::run`]; the vector is then empty.
    fn run_into(&mut self, batch: usize, values: &[f32], outputs: &mut Vec<f32>) -> Result<(), EngineError>;
}

/// Why a model cannot be loaded or a batch not be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineError {
    /// The file is no ONNX model.
    Unreadable(String),
    /// The model is larger than a limit allows.
    Limit(String),
    /// The engine lacks these operators: one text a node.
    Unsupported(Vec<String>),
    /// Inputs or outputs are not those of the manifest.
    Mismatch(String),
    /// The engine refused the model while making the plan.
    Build(String),
    /// The engine failed while running.
    Run(String),
    /// The engine panicked.
    Panicked(String),
    /// The engine got no more memory.
    Memory(String),
}

/// How the text of [`EngineError::Memory`] begins, by which it is known behind a worker.
pub const MEMORY_REFUSED: &str = "the model wants more memory than `budgets.resident_bytes` allows";

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => {
                write!(f, "`model.onnx` is no readable ONNX model: {why}; export it again")
            }
            Self::Limit(why) => write!(f, "the model is beyond a limit: {why}"),
            Self::Unsupported(nodes) => {
                write!(f, "the engine does not support {}; export the model without them", nodes.join(", "))
            }
            Self::Mismatch(why) => write!(f, "the model is not what its manifest says: {why}"),
            Self::Build(why) => write!(f, "the engine cannot prepare the model: {why}"),
            Self::Run(why) => write!(f, "the model failed on its input: {why}"),
            Self::Memory(why) => write!(f, "{MEMORY_REFUSED}: {why}"),
            Self::Panicked(why) => write!(f, "the engine panicked: {why}"),
        }
    }
}

impl std::error::Error for EngineError {}
