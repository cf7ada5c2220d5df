//! The manifest: what a model takes, what it gives, what it may use, and which files belong to it.
//!
//! Reads and checks `manifest.json` (schema 1). Never opens the files it names: [`crate::package`] does.

use std::collections::BTreeMap;
use std::fmt;

use dunlin_trust::metadata::ReleaseNote;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::package::{BLOB_BYTES_MAX, MANIFEST_BYTES_MAX, MODEL_FILE};
use crate::span::Span;
use dunlin_kit::digest::Digest;

/// The version of the manifest's format that this build reads and writes.
pub const SCHEMA: u32 = 1;
/// Longest window in rows: a day of seconds.
pub const WINDOW_LENGTH_MAX: u32 = 86_400;
/// Most features of one input.
pub const FEATURES_MAX: usize = 4_096;
/// Most values of one window over all inputs: 64 MiB as f32, what one frame to a worker may hold.
pub const WINDOW_VALUES_MAX: usize = 16 * 1024 * 1024;
/// Most inputs or outputs of a model.
pub const TENSORS_MAX: usize = 64;
/// Most output values of one prediction: what a stored row and a published message may hold.
pub const OUTPUT_VALUES_MAX: usize = 65_536;

/// Most files of a package: a model, vectors, a profile, and some earlier versions' deltas.
pub const BLOBS_MAX: usize = 64;
/// Longest name, version and file name.
const NAME_BYTES_MAX: usize = 64;
/// Longest name of a tensor in the graph: exporters reach some 100 characters.
const TENSOR_NAME_BYTES_MAX: usize = 256;
/// Most axes of a shape, as the engine takes them.
const AXES_MAX: usize = 8;
/// Longest deadline of one batch: what a slot may keep its windows waiting for a model that hangs.
const DEADLINE_MAX: Span = Span::from_secs(60);

/// The manifest of a model package.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the manifest's format: 1.
    pub schema: u32,
    /// Name of the model: lower-case letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Version for people, as in `1.4.0`.
    pub version: String,
    /// Strictly rising number of the release.
    pub release_counter: u64,
    /// Who or what built the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_by: Option<String>,
    /// SHA-256 of the training source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_digest: Option<Digest>,
    /// SHA-256 of the training data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_data_digest: Option<Digest>,
    /// How the engine's outputs agreed with the training framework's own. Without it nobody has compared them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<FrameworkEvidence>,
    /// Which rows the model sees.
    pub window: PackageWindow,
    /// The model's inputs, in the order of the ONNX graph.
    pub inputs: Vec<InputSpec>,
    /// The model's outputs that are kept, in order.
    pub outputs: Vec<OutputSpec>,
    /// What the model needs.
    #[serde(default)]
    pub requirements: Requirements,
    /// What the model may use.
    #[serde(default)]
    pub budgets: Budgets,
    /// Tolerance of the golden vectors, relative to `max(1, |expected|)`.
    #[serde(default = "golden_tolerance_default")]
    pub golden_tolerance: f64,
    /// The package's files by name: `model.onnx`, `golden.jsonl`, `profile.json`.
    pub blobs: BTreeMap<String, BlobSpec>,
}

/// How outputs of the engine agreed with those of the training framework when the package was built.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FrameworkEvidence {
    /// Rows (windows) compared. *Range*: at least 1.
    pub rows: u64,
    /// Largest difference of a value, relative to `max(1, |expected|)`.
    pub worst: f64,
    /// Largest difference that was allowed.
    pub tolerance: f64,
}

/// The window a model was trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PackageWindow {
    /// Rows in a window. *Range*: 1 to 86,400.
    pub length: u32,
    /// Rows between two predictions. Default: 1.
    #[serde(default = "one")]
    pub hop: u32,
    /// A longer silence than this starts the window anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_max: Option<Span>,
}

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floating point.
    #[default]
    F32,
    /// 64-bit floating point.
    F64,
    /// 32-bit integer; values are rounded.
    I32,
    /// 64-bit integer; values are rounded.
    I64,
}

/// Order of the two axes of a window in an input tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// `[batch, window, feature]`, or either axis left out where it is 1, or both flattened.
    #[default]
    TimeFeature,
    /// `[batch, feature, window]`: channels first.
    FeatureTime,
}

/// One axis of a shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Dim {
    /// A fixed size.
    Fixed(u32),
    /// The batch axis, written `"batch"`.
    Named(String),
}

/// One input of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Name of the ONNX graph's input.
    pub name: String,
    /// Element type.
    #[serde(default)]
    pub dtype: Dtype,
    /// Shape with the batch first, as in `["batch", 32, 4]`.
    pub shape: Vec<Dim>,
    /// Order of the axes.
    #[serde(default)]
    pub layout: Layout,
    /// The features of a row, in order.
    pub features: Vec<FeatureDeclaration>,
}

/// What a model expects of one feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureDeclaration {
    /// The feature expression that the model was trained with; the default of `inputs` in the configuration.
    pub name: String,
    /// Unit the model was trained in. The daemon converts to it, or refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Range seen in training; predictions of windows outside are flagged `out_of_training_range`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
}

/// What kind of thing an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OutputKind {
    /// A quantity.
    Regression,
    /// One probability or score a class, or one label.
    Classification,
    /// A score that is high when something is wrong.
    Anomaly,
    /// Values without a meaning of their own, such as an embedding.
    Vector,
}

/// One output of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputSpec {
    /// Name of the ONNX graph's output.
    pub name: String,
    /// What kind of thing it is.
    pub kind: OutputKind,
    /// Shape with the batch first.
    pub shape: Vec<Dim>,
    /// Unit of the values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// From values to a label.
    #[serde(default)]
    pub post: PostProcessing,
}

/// How an output's values become a label.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PostProcessing {
    /// Classification: the classes in the order of the values; the label is that of the highest value. With one value and two or more labels the value is the label itself: a text, or an integer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Regression and anomaly: a threshold on the first value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<ThresholdSpec>,
    /// Classification by scores: below this highest value the label is `abstain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence_min: Option<f64>,
    /// Regression and anomaly: a first value inside this band has the label `abstain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abstain_band: Option<[f64; 2]>,
}

/// A threshold with hysteresis on an output's first value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ThresholdSpec {
    /// At or above this value the label is `label`.
    pub above: f64,
    /// It stays until the value is below this one. Default: `above`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear: Option<f64>,
    /// The label above the threshold. Default: `alarm`.
    #[serde(default = "label_default")]
    pub label: String,
    /// The label below it. Default: `normal`.
    #[serde(default = "otherwise_default")]
    pub otherwise: String,
}

/// What a model needs of the daemon and the board.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Requirements {
    /// Oldest engine that runs it, as in `tract-onnx 0.23`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// ONNX operators in the graph.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<String>,
    /// Processor architectures it was checked on; empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
}

/// What a model may use; the worker enforces it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Budgets {
    /// Memory a worker may take for the model, in bytes. *Range*: 16 MiB to 4 GiB. Default: 256 MiB.
    pub resident_bytes: u64,
    /// Longest run of one batch before the worker is killed. *Range*: 1ms to 1m. Default: 1s.
    pub deadline: Span,
    /// Longest 99th percentile of one inference by board: `pi1`, `pi2`, `pi3`, `pi4`, `pi5`, `pizero`, `pizero2`, else the architecture `x86_64`, `aarch64` or `armv7`, else `any`. A slower release is not admitted.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub p99: BTreeMap<String, Span>,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { resident_bytes: 256 << 20, deadline: Span::from_secs(1), p99: BTreeMap::new() }
    }
}

/// A file of the package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlobSpec {
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Its length in bytes.
    pub bytes: u64,
}

const fn one() -> u32 {
    1
}

const fn golden_tolerance_default() -> f64 {
    1e-4
}

fn label_default() -> String {
    "alarm".to_owned()
}

fn otherwise_default() -> String {
    "normal".to_owned()
}

/// Most findings of one manifest: more than a person corrects at once.
const FINDINGS_MAX: usize = 32;
/// Longest text taken over from a package.
const SHOWN_CHARS_MAX: usize = 512;

/// Returns a text that a package had a part in as a terminal or a log may show it: without control characters, cut.
#[must_use]
pub fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut short: String = text.chars().take(SHOWN_CHARS_MAX).map(plain).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}

/// What is wrong with a manifest: all findings, each naming its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError(pub Vec<String>);

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for ManifestError {}

/// Returns the JSON Schema of the manifest, for editors and other builders.
#[must_use]
pub fn manifest_schema_json() -> String {
    let mut text = format!("{:#}", schemars::schema_for!(Manifest).to_value());
    text.push('\n');
    text
}

impl InputSpec {
    /// Returns the number of values of one window: the product of the shape without the batch.
    #[must_use]
    pub fn values(&self) -> usize {
        fixed_product(&self.shape)
    }
}

impl OutputSpec {
    /// Returns the number of values of one prediction: the product of the shape without the batch.
    #[must_use]
    pub fn values(&self) -> usize {
        fixed_product(&self.shape)
    }
}

fn fixed_product(shape: &[Dim]) -> usize {
    shape.iter().skip(1).fold(1, |product: usize, dim| match dim {
        Dim::Fixed(size) => product.saturating_mul(*size as usize),
        Dim::Named(_) => 0,
    })
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// *Errors*: all findings at once; the package is not to be used.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        if text.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(ManifestError(vec![format!("manifest is longer than {MANIFEST_BYTES_MAX} bytes")]));
        }
        let manifest: Self = serde_json::from_slice(text)
            .map_err(|e| ManifestError(vec![shown(&format!("manifest is not readable: {e}"))]))?;
        let findings = manifest.findings();
        if findings.is_empty() {
            return Ok(manifest);
        }
        Err(ManifestError(findings.iter().take(FINDINGS_MAX).map(|finding| shown(finding)).collect()))
    }

    /// Returns the path under which a repository holds the manifest.
    #[must_use]
    pub fn target_path(&self) -> String {
        format!("models/{}/{}/manifest.json", self.name, self.version)
    }

    /// Returns what the metadata say of the release beside the manifest's hash.
    #[must_use]
    pub fn release_note(&self) -> ReleaseNote {
        ReleaseNote {
            model: self.name.clone(),
            version: self.version.clone(),
            release_counter: self.release_counter,
            architectures: self.requirements.architectures.clone(),
        }
    }

    /// Returns the number of output values of one prediction over all outputs.
    #[must_use]
    pub fn output_values(&self) -> usize {
        self.outputs.iter().map(OutputSpec::values).sum()
    }

    fn findings(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.schema != SCHEMA {
            found.push(format!("schema is {}, this build reads {SCHEMA}; update dunlind", self.schema));
        }
        if !is_model_name(&self.name) {
            found.push(format!("name `{}` has other characters than a-z, 0-9, `-`, `_`, `.`", self.name));
        }
        if !is_plain_name(&self.version) {
            found.push(format!(
                "version `{}` is not 1 to {NAME_BYTES_MAX} of letters, digits, `-`, `_`, `+` and `.`",
                self.version
            ));
        }
        if self.release_counter == 0 {
            found.push("release_counter is 0; releases count from 1".to_owned());
        }
        if !(1..=WINDOW_LENGTH_MAX).contains(&self.window.length) || self.window.hop == 0 {
            found.push(format!("window is not 1 to {WINDOW_LENGTH_MAX} rows with a hop of at least 1"));
        }
        if self.inputs.is_empty()
            || self.inputs.len() > TENSORS_MAX
            || self.outputs.is_empty()
            || self.outputs.len() > TENSORS_MAX
        {
            found.push(format!("there are not 1 to {TENSORS_MAX} inputs and outputs"));
        }
        self.inputs.iter().for_each(|input| found.extend(self.input_findings(input)));
        self.outputs.iter().for_each(|output| found.extend(output_findings(output)));
        if self.inputs.iter().map(InputSpec::values).fold(0, usize::saturating_add) > WINDOW_VALUES_MAX {
            found.push(format!("a window has more than {WINDOW_VALUES_MAX} values"));
        }
        if self.outputs.iter().map(OutputSpec::values).fold(0, usize::saturating_add) > OUTPUT_VALUES_MAX {
            found.push(format!("a prediction has more than {OUTPUT_VALUES_MAX} values"));
        }
        self.budget_findings(&mut found);
        self.blob_findings(&mut found);
        found
    }

    fn budget_findings(&self, found: &mut Vec<String>) {
        if !(16 << 20..=4 << 30).contains(&self.budgets.resident_bytes) {
            found.push("budgets.resident_bytes is not between 16 MiB and 4 GiB".to_owned());
        }
        if !(Span::from_millis(1)..=DEADLINE_MAX).contains(&self.budgets.deadline) {
            found.push(format!("budgets.deadline is not between 1ms and {DEADLINE_MAX}"));
        }
        if !self.golden_tolerance.is_finite() || self.golden_tolerance < 0.0 {
            found.push("golden_tolerance is not a number of at least 0".to_owned());
        }
        if let Some(FrameworkEvidence { rows, worst, tolerance }) = self.evidence
            && (rows == 0 || !(0.0..=tolerance).contains(&worst) || !tolerance.is_finite())
        {
            found.push(
                "evidence has no rows, or a worst difference that is not within its tolerance".to_owned(),
            );
        }
    }

    fn blob_findings(&self, found: &mut Vec<String>) {
        if !self.blobs.contains_key(MODEL_FILE) {
            found.push(format!("blobs has no `{MODEL_FILE}`"));
        }
        if self.blobs.len() > BLOBS_MAX {
            found.push(format!("blobs has more than {BLOBS_MAX} files"));
        }
        for (name, blob) in &self.blobs {
            if !is_plain_name(name) {
                found.push(format!(
                    "blob `{name}` has a name that is not letters, digits, `-`, `_`, `+` and `.`"
                ));
            }
            if blob.bytes > BLOB_BYTES_MAX {
                found.push(format!("blob `{name}` is longer than {BLOB_BYTES_MAX} bytes"));
            }
        }
    }

    fn input_findings(&self, input: &InputSpec) -> Option<String> {
        let rows = self.window.length as usize;
        if let Some(finding) = tensor_finding("input", &input.name, &input.shape) {
            return Some(finding);
        }
        if input.features.is_empty() || input.features.len() > FEATURES_MAX {
            return Some(format!("input `{}` has not 1 to {FEATURES_MAX} features", input.name));
        }
        if !has_batch_first(&input.shape) {
            return Some(format!(
                "input `{}`: shape does not begin with \"batch\" and go on with sizes of at least 1",
                input.name
            ));
        }
        (input.values() != rows.saturating_mul(input.features.len())).then(|| {
            format!(
                "input `{}`: shape holds {} values, the window {} rows of {} features",
                input.name,
                input.values(),
                rows,
                input.features.len()
            )
        })
    }
}

/// Judges what every tensor has: a name that can be shown and a shape that the engine takes.
fn tensor_finding(kind: &str, name: &str, shape: &[Dim]) -> Option<String> {
    if name.len() > TENSOR_NAME_BYTES_MAX || name.contains(char::is_control) {
        return Some(format!(
            "an {kind} has a name with control characters or of more than {TENSOR_NAME_BYTES_MAX} bytes"
        ));
    }
    (shape.len() > AXES_MAX).then(|| format!("{kind} `{name}` has more than {AXES_MAX} axes"))
}

fn output_findings(output: &OutputSpec) -> Option<String> {
    if let Some(finding) = tensor_finding("output", &output.name, &output.shape) {
        return Some(finding);
    }
    if !has_batch_first(&output.shape) {
        return Some(format!(
            "output `{}`: shape does not begin with \"batch\" and go on with sizes of at least 1",
            output.name
        ));
    }
    if output.values() > OUTPUT_VALUES_MAX {
        return Some(format!("output `{}` has more than {OUTPUT_VALUES_MAX} values", output.name));
    }
    let labels = output.post.labels.len();
    if output.kind == OutputKind::Classification && labels != output.values() && !output.is_label() {
        return Some(format!("output `{}` has {} values and {labels} labels", output.name, output.values()));
    }
    if output.is_label() && output.post.confidence_min.is_some() {
        return Some(format!(
            "output `{}` is a label and has no confidence; leave post.confidence_min out, or keep the scores instead",
            output.name
        ));
    }
    let threshold = output.post.threshold.as_ref()?;
    let clear = threshold.clear.unwrap_or(threshold.above);
    (!threshold.above.is_finite() || !clear.is_finite() || clear > threshold.above)
        .then(|| format!("output `{}`: threshold.clear is above threshold.above", output.name))
}

fn has_batch_first(shape: &[Dim]) -> bool {
    let mut dims = shape.iter();
    matches!(dims.next(), Some(Dim::Named(name)) if name == "batch")
        && dims.all(|dim| matches!(dim, Dim::Fixed(1..)))
}

/// A name that is safe as one part of a path.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+'))
}

fn is_model_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> serde_json::Value {
        serde_json::json!({
            "schema": 1, "name": "frost", "version": "1.0.0", "release_counter": 1,
            "window": { "length": 2 },
            "inputs": [{ "name": "x", "shape": ["batch", 2, 1], "features": [{ "name": "temperature", "unit": "Cel" }] }],
            "outputs": [{ "name": "y", "kind": "anomaly", "shape": ["batch", 1], "post": { "threshold": { "above": 0.5, "clear": 0.4 } } }],
            "blobs": { "model.onnx": { "sha256": "00".repeat(32), "bytes": 10 } }
        })
    }

    #[test]
    fn a_small_manifest_is_read_and_written_back_the_same() {
        let manifest = Manifest::parse(sample().to_string().as_bytes()).unwrap();
        let again = Manifest::parse(&serde_json::to_vec(&manifest).unwrap()).unwrap();
        assert_eq!(manifest, again);
        assert_eq!(manifest.budgets.deadline, Span::from_secs(1));
    }

    #[test]
    fn what_a_package_says_is_shown_short_and_without_a_terminals_commands() {
        let mut value = sample();
        value["name"] = "\u{1b}]0;owned\u{7}".into();
        value["version"] = "v".repeat(1 << 20).into();
        let error = Manifest::parse(value.to_string().as_bytes()).unwrap_err();
        assert!(error.to_string().len() < 2_048 && !error.to_string().contains(char::is_control), "{error}");
    }

    #[test]
    fn a_budget_beyond_its_range_is_refused() {
        for (key, wrong) in [("deadline", "36500d"), ("deadline", "61s"), ("deadline", "0s")] {
            let mut value = sample();
            value["budgets"] = serde_json::json!({ key: wrong });
            let ManifestError(found) = Manifest::parse(value.to_string().as_bytes()).unwrap_err();
            assert!(found.len() == 1 && found[0].contains("between 1ms and"), "{found:?}");
        }
    }

    #[test]
    fn a_label_has_no_confidence() {
        let mut value = sample();
        let post = serde_json::json!({ "labels": ["sound", "worn"] });
        value["outputs"][0] =
            serde_json::json!({ "name": "y", "kind": "classification", "shape": ["batch"], "post": post });
        assert!(Manifest::parse(value.to_string().as_bytes()).unwrap().outputs[0].is_label());
        value["outputs"][0]["post"]["confidence_min"] = 0.5.into();
        let ManifestError(found) = Manifest::parse(value.to_string().as_bytes()).unwrap_err();
        assert!(found.len() == 1 && found[0].contains("is a label"), "{found:?}");
    }

    #[test]
    fn all_findings_come_at_once() {
        let mut value = sample();
        value["name"] = "../frost".into();
        value["inputs"][0]["shape"] = serde_json::json!(["batch", 3, 1]);
        value["outputs"][0]["post"]["threshold"]["clear"] = 0.9.into();
        let ManifestError(found) = Manifest::parse(value.to_string().as_bytes()).unwrap_err();
        assert_eq!(found.len(), 3, "{found:?}");
    }
}
