//! What became of one model, as one line of JSON.

use serde::{Deserialize, Serialize};

/// How a comparison ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// All outputs of all rows agree.
    Runs,
    /// The engine does not take the model.
    Refused,
    /// An output differs: floats by more than the tolerance, anything else at all.
    Wrong,
    /// The engine took the model and failed on a row, crashed or hung.
    Failed,
    /// ONNX Runtime itself does not take the model: there is nothing to compare with.
    NoPeer,
}

/// What became of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The file's name without its ending.
    pub(crate) model: String,
    pub(crate) outcome: Outcome,
    /// Why, where it does not run right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Length of the file in bytes.
    pub(crate) bytes: u64,
    /// Rows that were compared.
    pub(crate) rows: usize,
    /// Largest difference of a float, relative to the range of its output; nothing where a value that is not finite
    /// differs, or nothing was compared.
    pub(crate) difference: Option<f64>,
    /// Rows that lie at a tie of rounding and agree with a neighbour.
    #[serde(default)]
    pub(crate) ties: usize,
    pub(crate) outputs: Vec<OutputReport>,
    pub(crate) latency: Vec<LatencyReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resident: Option<ResidentReport>,
}

/// How one output agreed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct OutputReport {
    pub(crate) name: String,
    /// `float`, `integer` or `text`.
    pub(crate) kind: String,
    /// As [`Report::difference`].
    pub(crate) difference: Option<f64>,
    /// Values that must be equal and are not: of integers and texts, and places that are not finite on one side alone.
    pub(crate) unequal: usize,
    /// The value that differs most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) worst: Option<String>,
}

/// Latency of one batch size, both engines in turn, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LatencyReport {
    pub(crate) batch: usize,
    pub(crate) ours_p50_us: f64,
    pub(crate) ours_p99_us: f64,
    pub(crate) theirs_p50_us: f64,
    pub(crate) theirs_p99_us: f64,
    /// Our median by theirs.
    pub(crate) ratio: f64,
    /// Runs of each.
    pub(crate) runs: usize,
}

/// What a process with one engine alone has resident, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ResidentReport {
    pub(crate) ours_bytes: u64,
    pub(crate) theirs_bytes: u64,
}

impl Report {
    /// Returns a report without results.
    pub(crate) fn without_results(model: String, bytes: u64, outcome: Outcome, reason: String) -> Self {
        Self {
            model,
            outcome,
            reason: Some(reason),
            bytes,
            rows: 0,
            difference: None,
            ties: 0,
            outputs: Vec::new(),
            latency: Vec::new(),
            resident: None,
        }
    }

    /// Returns the report as one line.
    pub(crate) fn to_line(&self) -> String {
        serde_json::to_string(self).expect("a report is numbers and texts")
    }
}
