//! `package.toml`: what a manifest needs and nobody can derive.
//!
//! Declares the file and reads it strictly; `draft` joins it with the ONNX graph and the configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dunlin_model_package::Span;
use dunlin_model_package::manifest::{
    Budgets, Dim, FeatureDeclaration, Layout, OutputKind, PostProcessing, ThresholdSpec,
};
use serde::Deserialize;

use super::read;
use crate::command::CommandError;

/// Longest specification: that of a manifest.
const SPEC_BYTES_MAX: u64 = 4 << 20;

/// The feature specification of a package.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PackageSpec {
    /// Name of the model.
    pub(super) name: String,
    /// Version for people.
    pub(super) version: String,
    /// Number of the release. Default: one more than the last published one.
    pub(super) release_counter: Option<u64>,
    /// Who built it. Default: this program.
    pub(super) built_by: Option<String>,
    /// The training's source, hashed into the manifest.
    pub(super) source: Option<PathBuf>,
    /// The training's data, hashed into the manifest.
    pub(super) training_data: Option<PathBuf>,
    /// Rows of a window. Default: what the configuration's model says, else what the graph's shape leaves.
    #[serde(default)]
    pub(super) window: WindowTable,
    /// The graph's inputs by name.
    #[serde(default)]
    pub(super) inputs: BTreeMap<String, InputTable>,
    /// The graph's outputs that are kept, by name; at least one.
    #[serde(default)]
    pub(super) outputs: BTreeMap<String, OutputTable>,
    /// Architectures it was checked on. Default: any.
    #[serde(default)]
    pub(super) architectures: Vec<String>,
    /// What the model may use.
    #[serde(default)]
    pub(super) budgets: Budgets,
    /// Tolerance of the golden vectors.
    pub(super) golden_tolerance: Option<f64>,
}

/// The window a model was trained on.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WindowTable {
    pub(super) length: Option<u32>,
    pub(super) hop: Option<u32>,
    pub(super) gap_max: Option<Span>,
}

/// An input of the graph.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InputTable {
    /// The features of a row, in order. Default: the configuration's `inputs`.
    #[serde(default)]
    pub(super) features: Vec<FeatureEntry>,
    #[serde(default)]
    pub(super) layout: Layout,
    /// Shape with the batch first. Default: the graph's.
    pub(super) shape: Option<Vec<Dim>>,
}

/// A feature: its expression alone, or with unit and range.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum FeatureEntry {
    /// The expression.
    Name(String),
    /// With what the model expects of it.
    Declared(FeatureDeclaration),
}

impl FeatureEntry {
    /// Returns the declaration.
    pub(super) fn declaration(&self) -> FeatureDeclaration {
        match self {
            Self::Name(name) => FeatureDeclaration { name: name.clone(), unit: None, range: None },
            Self::Declared(declaration) => declaration.clone(),
        }
    }
}

/// An output of the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutputTable {
    pub(super) kind: OutputKind,
    /// Shape with the batch first. Default: what the engine finds.
    pub(super) shape: Option<Vec<Dim>>,
    pub(super) unit: Option<String>,
    #[serde(default)]
    labels: Vec<String>,
    threshold: Option<ThresholdSpec>,
    confidence_min: Option<f64>,
    abstain_band: Option<[f64; 2]>,
}

impl OutputTable {
    /// Returns what makes labels of the values.
    pub(super) fn post(&self) -> PostProcessing {
        PostProcessing {
            labels: self.labels.clone(),
            threshold: self.threshold.clone(),
            confidence_min: self.confidence_min,
            abstain_band: self.abstain_band,
        }
    }
}

impl PackageSpec {
    /// Reads the file.
    ///
    /// *Errors*: it is not there (exit code 3), or no specification (exit code 5).
    pub(super) fn read(path: &Path) -> Result<Self, CommandError> {
        let text = super::configuration::text(path, read(path, SPEC_BYTES_MAX)?)?;
        toml::from_str(&text).map_err(|error| {
            CommandError::CheckFailed(format!(
                "`{}` is refused: {}",
                path.display(),
                error.to_string().trim_end()
            ))
        })
    }
}
