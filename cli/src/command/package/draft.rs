//! The manifest of a package under construction: what was written down, joined with what can be derived.
//!
//! Takes names, types, shapes and classes from the graph, features and units from the configuration; decides nothing that changes
//! what a model computes. All findings come at once.

use std::collections::BTreeMap;

use dunlin_model_package::expression::{Aggregate, FeatureExpression};
use dunlin_model_package::manifest::{
    BlobSpec, Dim, Dtype, FeatureDeclaration, PackageWindow, Requirements, SCHEMA,
};
use dunlin_model_package::package::MODEL_FILE;
use dunlin_model_package::{Digest, InputSpec, Manifest, OutputKind, OutputSpec};
use dunlin_pipeline::engine::{ENGINE, GraphTensor, OnnxFile, axes_text};

use super::configuration::Configuration;
use super::spec::{InputTable, OutputTable, PackageSpec};

/// Tolerance of golden vectors: what single precision keeps through a hundred operations on another processor.
const GOLDEN_TOLERANCE: f64 = 1e-4;

/// Where the release's number comes from, and what the specification's files hash to.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    /// Number of the release.
    pub(super) release_counter: u64,
    /// SHA-256 of the training's source.
    pub(super) source_digest: Option<Digest>,
    /// SHA-256 of its data.
    pub(super) training_data_digest: Option<Digest>,
}

/// Returns the manifest of a model without golden vectors, and leaves in `file` only what it keeps.
///
/// *Errors*: everything that is missing or does not fit, each with what to write.
pub(super) fn draft(
    spec: &PackageSpec,
    configuration: &Configuration,
    origin: &Origin,
    file: &mut OnnxFile,
    model: &[u8],
) -> Result<Manifest, Vec<String>> {
    let mut found = Vec::new();
    let graph_inputs = file.inputs();
    unknown_names(spec.inputs.keys(), &graph_inputs, "input", &mut found);
    unknown_names(spec.outputs.keys(), &file.outputs(), "output", &mut found);
    let none = InputTable::default();
    let tables = graph_inputs.iter().map(|graph| (graph, spec.inputs.get(&graph.name).unwrap_or(&none)));
    let features: Vec<Vec<FeatureDeclaration>> = tables
        .clone()
        .map(|(graph, table)| declared_features(graph, table, configuration, &mut found))
        .collect();
    let length = window_length(spec, configuration, &graph_inputs, &features);
    let mut inputs = Vec::new();
    for ((graph, table), features) in tables.zip(features) {
        match input(graph, table, features, length) {
            Ok(input) => inputs.push(input),
            Err(reason) => found.push(reason),
        }
    }
    let kept: Vec<GraphTensor> =
        file.outputs().into_iter().filter(|output| spec.outputs.contains_key(&output.name)).collect();
    if kept.is_empty() {
        let names: Vec<String> = file.outputs().iter().map(|output| format!("`{}`", output.name)).collect();
        found.push(format!(
            "no output is kept; add [outputs.NAME] with its `kind` for one of {}",
            names.join(", ")
        ));
    }
    if !found.is_empty() {
        return Err(found);
    }
    let names: Vec<&str> = kept.iter().map(|output| output.name.as_str()).collect();
    file.keep_outputs(&names);
    require_supported(file)?;
    let shapes = file.output_shapes(&inputs).map_err(|error| vec![error.to_string()])?;
    let outputs = kept
        .iter()
        .zip(shapes)
        .map(|(graph, shape)| output(graph, &spec.outputs[&graph.name], shape, file.class_names(&graph.name)))
        .collect();
    let window = &configuration.model.window;
    Ok(Manifest {
        schema: SCHEMA,
        name: spec.name.clone(),
        version: spec.version.clone(),
        release_counter: origin.release_counter,
        built_by: Some(
            spec.built_by.clone().unwrap_or_else(|| concat!("dunlin ", env!("CARGO_PKG_VERSION")).to_owned()),
        ),
        source_digest: origin.source_digest,
        training_data_digest: origin.training_data_digest,
        evidence: None,
        window: PackageWindow {
            length,
            hop: spec.window.hop.or(window.hop).unwrap_or(1),
            gap_max: spec.window.gap_max.or(window.gap_max),
        },
        inputs,
        outputs,
        requirements: Requirements {
            engine: Some(ENGINE.to_owned()),
            operators: file.operators(),
            architectures: spec.architectures.clone(),
        },
        budgets: spec.budgets.clone(),
        golden_tolerance: spec.golden_tolerance.unwrap_or(GOLDEN_TOLERANCE),
        blobs: BTreeMap::from([(MODEL_FILE.to_owned(), blob(model))]),
    })
}

/// Returns what a manifest says of a file.
pub(super) fn blob(bytes: &[u8]) -> BlobSpec {
    BlobSpec { sha256: Digest::of(bytes), bytes: bytes.len() as u64 }
}

/// Refuses a graph with nodes that the engine does not take.
///
/// *Errors*: one text a node, with what to do about the operators that exporters write most.
pub(super) fn require_supported(file: &OnnxFile) -> Result<(), Vec<String>> {
    let refused = file.refused_nodes();
    if refused.is_empty() {
        return Ok(());
    }
    Err(refused
        .iter()
        .map(|node| {
            format!(
                "node `{}` with shape {}: operator `{}` is not supported ({}); {}",
                node.node,
                node.shape,
                node.operator,
                node.reason,
                remedy(&node.operator)
            )
        })
        .collect())
}

/// Returns what to do about an operator that the engine lacks.
pub(super) fn remedy(operator: &str) -> &'static str {
    match operator {
        "DictVectorizer" | "CastMap" => "train on columns of numbers in the place of dictionaries",
        _ => "export the model without it",
    }
}

fn unknown_names<'n>(
    given: impl Iterator<Item = &'n String>,
    graph: &[GraphTensor],
    what: &str,
    found: &mut Vec<String>,
) {
    for name in given.filter(|name| graph.iter().all(|tensor| tensor.name != **name)) {
        let known: Vec<String> = graph.iter().map(|tensor| format!("`{}`", tensor.name)).collect();
        found.push(format!("{what} `{name}` is not in the graph, which has {}", known.join(", ")));
    }
}

fn declared_features(
    graph: &GraphTensor,
    table: &InputTable,
    configuration: &Configuration,
    found: &mut Vec<String>,
) -> Vec<FeatureDeclaration> {
    let configured = configuration.model.inputs.get(&graph.name).cloned().unwrap_or_default();
    let mut features: Vec<FeatureDeclaration> = if table.features.is_empty() {
        configured.into_iter().map(|name| FeatureDeclaration { name, unit: None, range: None }).collect()
    } else {
        table.features.iter().map(super::spec::FeatureEntry::declaration).collect()
    };
    if features.is_empty() {
        found.push(format!(
            "input `{}` has no features; name them in order, as in `[inputs.{}] features = [\"temperature\", \"pressure@mean:5m\"]`",
            graph.name, graph.name
        ));
    }
    for feature in &mut features {
        match feature.name.parse::<FeatureExpression>() {
            Ok(expression) if has_unit_of_field(expression.aggregate) && feature.unit.is_none() => {
                feature.unit = configuration.unit(&expression.field).map(str::to_owned);
            }
            Ok(_) => {}
            Err(error) => found.push(format!("input `{}`: {error}", graph.name)),
        }
    }
    features
}

const fn has_unit_of_field(aggregate: Aggregate) -> bool {
    !matches!(aggregate, Aggregate::Count(_) | Aggregate::Slope(_))
}

/// Returns the window's rows: as written, as configured, or what the graph's fixed sizes leave.
fn window_length(
    spec: &PackageSpec,
    configuration: &Configuration,
    graph: &[GraphTensor],
    features: &[Vec<FeatureDeclaration>],
) -> u32 {
    if let Some(length) = spec.window.length.or(configuration.model.window.length) {
        return length;
    }
    let derived = graph.iter().zip(features).find_map(|(tensor, features)| {
        let fixed = tensor.axes.as_ref()?.get(1..)?.iter().copied().collect::<Option<Vec<u32>>>()?;
        let values = fixed.iter().map(|length| *length as usize).product::<usize>();
        u32::try_from(values.checked_div(features.len())?).ok()
    });
    derived.unwrap_or(1).max(1)
}

fn input(
    graph: &GraphTensor,
    table: &InputTable,
    features: Vec<FeatureDeclaration>,
    length: u32,
) -> Result<InputSpec, String> {
    let dtype = graph.dtype.ok_or_else(|| {
        format!(
            "input `{}` has elements of type {}; export the model with inputs of type float, double, int32 or int64",
            graph.name, graph.element
        )
    })?;
    let shape = match &table.shape {
        Some(shape) => shape.clone(),
        None => input_shape(graph, length as usize * features.len())?,
    };
    let input = InputSpec { name: graph.name.clone(), dtype, shape, layout: table.layout, features };
    let values = length as usize * input.features.len();
    if input.values() != values {
        return Err(format!(
            "input `{}` takes {} values, and {length} rows of {} features are {values}; correct `features` or `window.length`",
            graph.name,
            input.values(),
            input.features.len()
        ));
    }
    Ok(input)
}

/// Returns the graph's shape with its one free axis filled.
fn input_shape(graph: &GraphTensor, values: usize) -> Result<Vec<Dim>, String> {
    let unclear = |axes: &str| {
        format!(
            "input `{}` has shape {axes} in the graph; write its `shape`, as in [\"batch\", {values}]",
            graph.name
        )
    };
    let axes = graph.axes.as_ref().filter(|axes| !axes.is_empty()).ok_or_else(|| unclear("unknown"))?;
    let rest = &axes[1..];
    let fixed: usize = rest.iter().flatten().map(|length| *length as usize).product();
    let free = rest.iter().filter(|axis| axis.is_none()).count();
    let fill = u32::try_from(values.checked_div(fixed).unwrap_or(0)).unwrap_or(0);
    if free > 1 {
        return Err(unclear(&axes_text(axes)));
    }
    let sizes = rest.iter().map(|axis| Dim::Fixed(axis.unwrap_or(fill)));
    Ok(std::iter::once(Dim::Named("batch".to_owned())).chain(sizes).collect())
}

fn output(
    graph: &GraphTensor,
    table: &OutputTable,
    shape: Option<Vec<u32>>,
    class_names: Option<&[String]>,
) -> OutputSpec {
    let mut post = table.post();
    if table.kind == OutputKind::Classification && post.labels.is_empty() {
        // As many as scores, or for one value, which is then the label itself.
        let values: Option<u32> = shape.as_ref().map(|sizes| sizes.iter().product());
        let fits =
            |names: &&[String]| values.is_none_or(|values| values == 1 || values as usize == names.len());
        post.labels = class_names.filter(fits).map(<[String]>::to_vec).unwrap_or_default();
    }
    let derived = || {
        let fallback = u32::try_from(post.labels.len().max(1)).unwrap_or(1);
        let declared = graph.axes.iter().flatten().skip(1).map(|axis| axis.unwrap_or(fallback));
        let sizes = shape.unwrap_or_else(|| declared.collect());
        std::iter::once(Dim::Named("batch".to_owned())).chain(sizes.into_iter().map(Dim::Fixed)).collect()
    };
    OutputSpec {
        name: graph.name.clone(),
        kind: table.kind,
        shape: table.shape.clone().unwrap_or_else(derived),
        unit: table.unit.clone(),
        post,
    }
}

/// Tells how a type is written in NumPy, for messages.
#[must_use]
pub(super) const fn numpy_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "float32",
        Dtype::F64 => "float64",
        Dtype::I32 => "int32",
        Dtype::I64 => "int64",
    }
}
