//! A model's specification checked against its package and its sources, ready to run.
//!
//! Resolves names to positions, fills in the package's defaults, and finds every contradiction at once. Holds no
//! state: instances do.

use std::collections::BTreeMap;
use std::sync::Arc;

use dunlin_model_package::manifest::{FeatureDeclaration, Manifest, WINDOW_VALUES_MAX};
use dunlin_model_package::model_spec::{ResampleMethod, TriggerSpec};
use dunlin_model_package::unit::{Conversion, conversion};
use dunlin_model_package::{Aggregate, Digest, FeatureExpression, MissingPolicy, ModelSpec, Profile};

use crate::collect::Plan;
use crate::decode::CompiledSource;
use crate::postprocess::PostProcess;
use crate::refusal::SpecFinding;
use crate::window::{InputColumns, WindowShape};

/// Most cells of a time grid that a silence may last before the grid starts anew: a day at a cell a second.
const SILENCE_CELLS_MAX: i64 = 100_000;

/// A model and the package it runs.
#[derive(Debug, Clone)]
pub struct ModelBinding {
    /// The model as configured.
    pub spec: ModelSpec,
    /// Its package's manifest.
    pub manifest: Manifest,
    /// Its package's digest.
    pub package: Digest,
    /// What its inputs and outputs were like in training, where the package says so and windows are counted.
    pub profile: Option<Arc<Profile>>,
}

/// A compiled model.
#[derive(Debug, Clone)]
pub struct CompiledModel {
    /// What it was compiled from.
    pub binding: ModelBinding,
    /// Digest of everything that shapes an instance's state: a saved state fits only the same.
    pub fingerprint: Digest,
    /// Digest of what shapes its rows: packages that have it in common take over each other's windows.
    pub rows: Digest,
    /// Digest of what shapes its post-processing.
    pub judging: Digest,
    /// Fields it reads, each once.
    pub fields: Vec<FieldUse>,
    /// Columns of a row, over all inputs in order.
    pub columns: Vec<Column>,
    /// Where the inputs stand in a row.
    pub inputs: Vec<InputColumns>,
    /// Size of the window.
    pub shape: WindowShape,
    /// A longer silence starts the window anew; `i64::MAX`: never.
    pub gap_max_us: i64,
    /// Bound of reordering.
    pub lateness_us: i64,
    /// Time grid, for time windows.
    pub grid: Option<Grid>,
    /// When a row is made.
    pub trigger: Trigger,
    /// Furthest apart the values of one row may be.
    pub skew_max_us: i64,
    /// The sources that feed it, by position, with where their fields and key tags stand.
    pub feeds: BTreeMap<usize, Feed>,
    /// From outputs to labels.
    pub post: PostProcess,
    /// How its readings and predictions are counted, where the package has a profile.
    pub plan: Option<Arc<Plan>>,
}

/// One field as a model uses it.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldUse {
    /// Its name.
    pub name: String,
    /// Whether a column takes its value as it is.
    pub plain: bool,
    /// Longest span of an aggregate; 0: no history.
    pub span_us: i64,
    /// Longest lag; 0: none.
    pub lag: u32,
    /// What stands in for a missing value.
    pub missing: MissingPolicy,
}

/// One column of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Position of the field in [`CompiledModel::fields`].
    pub field: usize,
    /// What is computed of it.
    pub aggregate: Aggregate,
    /// From the source's unit to the package's.
    pub conversion: Conversion,
    /// Range seen in training, in the package's unit.
    pub range: Option<[f64; 2]>,
}

/// A regular grid of event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Width of a cell.
    pub cell_us: i64,
    /// Interval of predictions, a multiple of the cell.
    pub every_us: i64,
    /// What stands for the values of a cell.
    pub method: ResampleMethod,
    /// Most cells that one reading closes; after a longer silence the grid and the window start anew.
    pub silence_cells_max: i64,
}

/// When a row is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A reading brings this field.
    On(usize),
    /// Every field of the trigger has a new value.
    All,
    /// At multiples of this interval of event time, in microseconds.
    Every(i64),
}

/// How one source feeds a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    /// Pairs of positions: the source's field, the model's field.
    pub fields: Arc<[(usize, usize)]>,
    /// Positions of the key's tags among the source's tags.
    pub key: Vec<usize>,
}

impl CompiledModel {
    /// Compiles a model.
    ///
    /// *Errors*: all findings, with paths relative to the model.
    pub fn compile(binding: ModelBinding, sources: &[CompiledSource]) -> Result<Self, Vec<SpecFinding>> {
        let mut found = Vec::new();
        let (fields, mut columns, inputs) = compile_inputs(&binding, &mut found);
        let candidates = candidate_sources(&binding.spec, sources, &mut found);
        let feeds = compile_feeds(&binding.spec, &fields, &candidates, sources, &mut found);
        convert_units(&binding, &fields, &mut columns, &feeds, sources, &mut found);
        let trigger = compile_trigger(&binding.spec.trigger, &fields, &mut found);
        let (shape, grid) = compile_window(&binding, columns.len(), &mut found);
        for name in
            binding.spec.missing.keys().filter(|name| !fields.iter().any(|field| field.name == **name))
        {
            found.push(SpecFinding::new(
                format!("missing.{name}"),
                format!("`{name}` is no field of the inputs; remove the policy"),
            ));
        }
        let post = PostProcess::compile(&binding.manifest, binding.spec.alert.as_ref());
        let post = post.map_err(|why| found.push(SpecFinding::new("alert", why))).ok();
        match post {
            Some(post) if found.is_empty() => {
                let outputs = (&binding.manifest, post.labels());
                let plan = binding.profile.as_ref().map(|of| Plan::new(of, &fields, &columns, outputs));
                let window = &binding.spec.window;
                let gap_max = window.gap_max.or(binding.manifest.window.gap_max);
                Ok(Self {
                    fingerprint: fingerprint(&binding),
                    rows: rows_digest(&binding),
                    judging: judging_digest(&binding),
                    gap_max_us: gap_max.map_or(i64::MAX, |span| span.as_micros()),
                    lateness_us: window.lateness.map_or(0, |span| span.as_micros()),
                    skew_max_us: binding.spec.skew_max.as_micros(),
                    binding,
                    fields,
                    columns,
                    inputs,
                    shape,
                    grid,
                    trigger,
                    feeds,
                    post,
                    plan: plan.map(Arc::new),
                })
            }
            _ => Err(found),
        }
    }

    /// Returns the key's tag names.
    #[must_use]
    pub fn key(&self) -> &[String] {
        self.binding.spec.key.as_deref().unwrap_or_default()
    }
}

/// Topics, alert and output do not shape the state of windows; everything else does.
fn fingerprint(binding: &ModelBinding) -> Digest {
    let mut spec = binding.spec.clone();
    spec.package = None;
    spec.output.topic.clear();
    if let Some(alert) = &mut spec.alert {
        alert.topic.clear();
    }
    let text = serde_json::to_vec(&spec).expect("a specification has only text keys");
    Digest::of_parts(&[&text, binding.package.as_bytes()])
}

/// What the package says of rows beside its identity: order and units of the columns, and the window. Ranges say
/// nothing of a row's values, and the layout of a tensor nothing of its rows.
fn rows_digest(binding: &ModelBinding) -> Digest {
    let mut spec = binding.spec.clone();
    spec.package = None;
    spec.output.topic.clear();
    (spec.alert, spec.inputs) = (None, BTreeMap::new());
    let columns: Vec<(String, Option<&str>)> = binding
        .manifest
        .inputs
        .iter()
        .flat_map(|input| {
            let given = binding.spec.inputs.get(&input.name);
            input.features.iter().enumerate().map(move |(index, feature)| {
                let text = given.and_then(|texts| texts.get(index)).unwrap_or(&feature.name);
                (text.clone(), feature.unit.as_deref())
            })
        })
        .collect();
    let text = serde_json::to_vec(&(spec, columns, &binding.manifest.window));
    Digest::of(&text.expect("a specification has only text keys"))
}

fn judging_digest(binding: &ModelBinding) -> Digest {
    let mut alert = binding.spec.alert.clone();
    if let Some(alert) = &mut alert {
        alert.topic.clear();
    }
    let text = serde_json::to_vec(&(alert, &binding.manifest.outputs));
    Digest::of(&text.expect("a specification has only text keys"))
}

fn compile_inputs(
    binding: &ModelBinding,
    found: &mut Vec<SpecFinding>,
) -> (Vec<FieldUse>, Vec<Column>, Vec<InputColumns>) {
    let (mut fields, mut columns, mut inputs) = (Vec::new(), Vec::new(), Vec::new());
    for name in binding
        .spec
        .inputs
        .keys()
        .filter(|name| !binding.manifest.inputs.iter().any(|input| input.name == **name))
    {
        let known: Vec<_> = binding.manifest.inputs.iter().map(|input| input.name.as_str()).collect();
        found.push(SpecFinding::new(
            format!("inputs.{name}"),
            format!("the package has no input `{name}`; it has {}", known.join(", ")),
        ));
    }
    for input in &binding.manifest.inputs {
        let declared: Vec<String> = input.features.iter().map(|feature| feature.name.clone()).collect();
        let texts = binding.spec.inputs.get(&input.name).unwrap_or(&declared);
        let path = format!("inputs.{}", input.name);
        if texts.len() != declared.len() {
            found.push(SpecFinding::new(
                &path,
                format!(
                    "{} features are given, the package takes {}: {}",
                    texts.len(),
                    declared.len(),
                    declared.join(", ")
                ),
            ));
            continue;
        }
        let start = columns.len();
        for (index, (text, declaration)) in texts.iter().zip(&input.features).enumerate() {
            match text.parse::<FeatureExpression>() {
                Ok(expression) => {
                    columns.push(compile_column(&expression, declaration, &binding.spec, &mut fields))
                }
                Err(error) => found.push(SpecFinding::new(format!("{path}[{index}]"), error.to_string())),
            }
        }
        inputs.push(InputColumns { columns: start..columns.len(), layout: input.layout });
    }
    (fields, columns, inputs)
}

fn compile_column(
    expression: &FeatureExpression,
    declaration: &FeatureDeclaration,
    spec: &ModelSpec,
    fields: &mut Vec<FieldUse>,
) -> Column {
    let field = fields.iter().position(|field| field.name == expression.field).unwrap_or_else(|| {
        let missing = spec.missing.get(&expression.field).copied().unwrap_or(MissingPolicy::Drop);
        fields.push(FieldUse { name: expression.field.clone(), plain: false, span_us: 0, lag: 0, missing });
        fields.len() - 1
    });
    let used = &mut fields[field];
    match expression.aggregate {
        Aggregate::Value => used.plain = true,
        Aggregate::Lag(rows) => used.lag = used.lag.max(rows),
        other => used.span_us = used.span_us.max(other.span().map_or(0, |span| span.as_micros())),
    }
    Column {
        field,
        aggregate: expression.aggregate,
        conversion: Conversion::IDENTITY,
        range: declaration.range,
    }
}

fn candidate_sources(
    spec: &ModelSpec,
    sources: &[CompiledSource],
    found: &mut Vec<SpecFinding>,
) -> Vec<usize> {
    let Some(names) = &spec.sources else {
        return (0..sources.len()).collect();
    };
    let mut candidates = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match sources.iter().position(|source| source.name() == name) {
            Some(position) => candidates.push(position),
            None => found
                .push(SpecFinding::new(format!("sources[{index}]"), format!("there is no source `{name}`"))),
        }
    }
    candidates
}

fn compile_feeds(
    spec: &ModelSpec,
    fields: &[FieldUse],
    candidates: &[usize],
    sources: &[CompiledSource],
    found: &mut Vec<SpecFinding>,
) -> BTreeMap<usize, Feed> {
    let mut feeds = BTreeMap::new();
    for &position in candidates {
        let source = &sources[position];
        let pairs: Vec<(usize, usize)> = source
            .field_names()
            .iter()
            .enumerate()
            .filter_map(|(i, name)| fields.iter().position(|field| field.name == *name).map(|j| (i, j)))
            .collect();
        if pairs.is_empty() {
            continue;
        }
        let key = key_positions(spec, source, found);
        feeds.insert(position, Feed { fields: pairs.into(), key });
    }
    for (index, field) in fields.iter().enumerate() {
        if !feeds.values().any(|feed| feed.fields.iter().any(|(_, used)| *used == index)) {
            found.push(SpecFinding::new(
                "inputs",
                format!("no source of the model has the field `{}`", field.name),
            ));
        }
    }
    feeds
}

fn key_positions(spec: &ModelSpec, source: &CompiledSource, found: &mut Vec<SpecFinding>) -> Vec<usize> {
    let tags = source.tag_names();
    let Some(key) = &spec.key else {
        if !tags.is_empty() {
            let names = tags.join("\", \"");
            let text = format!(
                "source `{}` has tags; say which tell series apart, as in `key = [\"{names}\"]`, or `key = []` for one window over all",
                source.name()
            );
            found.push(SpecFinding::new("key", text));
        }
        return Vec::new();
    };
    let mut positions = Vec::new();
    for (index, tag) in key.iter().enumerate() {
        match tags.iter().position(|known| known == tag) {
            Some(position) => positions.push(position),
            None => {
                let known = if tags.is_empty() { "none".to_owned() } else { tags.join(", ") };
                found.push(SpecFinding::new(
                    format!("key[{index}]"),
                    format!("source `{}` has no tag `{tag}`; it has {known}", source.name()),
                ));
            }
        }
    }
    positions
}

fn convert_units(
    binding: &ModelBinding,
    fields: &[FieldUse],
    columns: &mut [Column],
    feeds: &BTreeMap<usize, Feed>,
    sources: &[CompiledSource],
    found: &mut Vec<SpecFinding>,
) {
    let declarations = binding.manifest.inputs.iter().flat_map(|input| {
        input.features.iter().enumerate().map(move |(i, feature)| (&input.name, i, feature))
    });
    for (column, (input, index, declaration)) in columns.iter_mut().zip(declarations) {
        let Some(wanted) = &declaration.unit else { continue };
        if matches!(column.aggregate, Aggregate::Count(_) | Aggregate::Slope(_)) {
            continue;
        }
        let field = &fields[column.field];
        let mut units = feeds.iter().flat_map(|(position, feed)| {
            let source = &sources[*position];
            feed.fields
                .iter()
                .filter(|(_, used)| *used == column.field)
                .map(move |(own, _)| (source, source.field_unit(*own)))
        });
        let Some((first, given)) = units.next() else { continue };
        let path = format!("inputs.{input}[{index}]");
        if let Some((other, _)) = units.find(|(_, unit)| *unit != given) {
            found.push(SpecFinding::new(
                path,
                format!(
                    "sources `{}` and `{}` give `{}` in different units; give both the same",
                    first.name(),
                    other.name(),
                    field.name
                ),
            ));
            continue;
        }
        let converted = given.and_then(|unit| conversion(unit, wanted));
        match (converted, column.aggregate) {
            (Some(found_conversion), Aggregate::Std(_)) => column.conversion = Conversion { offset: 0.0, ..found_conversion },
            (Some(found_conversion), Aggregate::Sum(_)) if found_conversion.offset != 0.0 => {
                found.push(SpecFinding::new(path, format!("a sum of `{}` cannot be converted into {wanted}", field.name)));
            }
            (Some(found_conversion), _) => column.conversion = found_conversion,
            (None, _) => found.push(SpecFinding::new(
                path,
                match given {
                    None => format!("the package takes `{}` in {wanted}; source `{}` does not say its unit: add `unit = \"{wanted}\"` to the field, or its real unit", field.name, first.name()),
                    Some(unit) => format!("the package takes `{}` in {wanted}; source `{}` gives {unit}, and there is no known conversion", field.name, first.name()),
                },
            )),
        }
    }
}

fn compile_trigger(spec: &TriggerSpec, fields: &[FieldUse], found: &mut Vec<SpecFinding>) -> Trigger {
    let given =
        usize::from(spec.on.is_some()) + usize::from(spec.every.is_some()) + usize::from(spec.when.is_some());
    if given > 1 {
        found.push(SpecFinding::new("trigger", "give one of `on`, `every` and `when`"));
    }
    if let Some(name) = &spec.on {
        return match fields.iter().position(|field| field.name == *name) {
            Some(position) => Trigger::On(position),
            None => {
                found.push(SpecFinding::new("trigger.on", format!("`{name}` is no field of the inputs")));
                Trigger::All
            }
        };
    }
    match spec.every {
        Some(span) if span.as_micros() > 0 => Trigger::Every(span.as_micros()),
        Some(_) => {
            found.push(SpecFinding::new("trigger.every", "the interval is zero"));
            Trigger::All
        }
        None => Trigger::All,
    }
}

fn compile_window(
    binding: &ModelBinding,
    columns: usize,
    found: &mut Vec<SpecFinding>,
) -> (WindowShape, Option<Grid>) {
    let (spec, package) = (&binding.spec.window, &binding.manifest.window);
    if let Some(length) = spec.length.filter(|length| *length != package.length) {
        found.push(SpecFinding::new(
            "window.length",
            format!("{length} rows are given, the package takes {}", package.length),
        ));
    }
    if spec.hop == Some(0) {
        found.push(SpecFinding::new("window.hop", "the hop is at least 1"));
    }
    if columns.saturating_mul(package.length as usize) > WINDOW_VALUES_MAX {
        found.push(SpecFinding::new("window", format!("a window has more than {WINDOW_VALUES_MAX} values")));
    }
    let shape = WindowShape {
        length: package.length,
        columns: u32::try_from(columns).unwrap_or(u32::MAX),
        hop: spec.hop.unwrap_or(package.hop).max(1),
    };
    let grid = match (spec.every, spec.resample) {
        (None, None) => {
            if spec.method.is_some() {
                found.push(SpecFinding::new(
                    "window.method",
                    "only time windows resample; add `every` and `resample`",
                ));
            }
            return (shape, None);
        }
        (Some(every), Some(resample)) => Grid {
            cell_us: resample.as_micros(),
            every_us: every.as_micros(),
            method: spec.method.unwrap_or_default(),
            silence_cells_max: shape.catch_up_max().min(SILENCE_CELLS_MAX),
        },
        _ => {
            found.push(SpecFinding::new("window", "time windows need both `every` and `resample`"));
            return (shape, None);
        }
    };
    if grid.cell_us == 0 || grid.every_us == 0 || grid.every_us % grid.cell_us != 0 {
        found.push(SpecFinding::new(
            "window.every",
            "`every` is a multiple of `resample`, and neither is zero",
        ));
    }
    if spec.hop.is_some() || spec.gap_max.is_some() {
        found.push(SpecFinding::new("window", "`hop` and `gap_max` belong to count windows; a time window restarts at the first cell without a value"));
    }
    if binding.spec.trigger != TriggerSpec::default() {
        found.push(SpecFinding::new(
            "trigger",
            "a time window makes its rows by its grid; remove the trigger",
        ));
    }
    (WindowShape { hop: 1, ..shape }, Some(grid))
}
