//! Decision trees, forests and boosted trees: `TreeEnsembleClassifier`, `TreeEnsembleRegressor`, `TreeEnsemble`.
//!
//! Reads the three operators into one sketch of branches and leaves (`node_lists`, `split_lists`), lays it out flat
//! (`forest`), follows rows through it (`walk`), adds up what the leaves say (`leaves`) and makes outputs of the sums
//! (`classify`, `transform`). Never recurses and never allocates by what an attribute claims: all is bounded by the
//! length of the attributes. The numbers are those of ONNX Runtime, also where the text of ONNX leaves them open or
//! says otherwise; where ONNX Runtime's own are undefined, the model is refused.
//!
//! *Source*: ai.onnx.ml 1 and 3 (the older two operators), ai.onnx.ml 5 (`TreeEnsemble`).

mod classifier;
mod classify;
mod forest;
mod leaves;
mod node_lists;
mod numbers;
mod regressor;
mod sketch;
mod split_lists;
mod transform;
mod walk;

#[cfg(test)]
mod tests;

use super::Builder;

/// All of them.
pub(super) const OPERATORS: &[(&str, Builder)] = &[
    ("TreeEnsembleClassifier", classifier::build),
    ("TreeEnsembleRegressor", regressor::build),
    ("TreeEnsemble", regressor::build_from_splits),
];
