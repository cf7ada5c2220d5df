//! `SVMClassifier` and `SVMRegressor`: support vector machines and linear models as libsvm and liblinear make them.
//!
//! *Source*: ai.onnx.ml 1; libsvm's decision function and pairwise coupling. Labels, the layout of scores and what
//! becomes of two classes are as in ONNX Runtime.

mod classifier;
mod coupling;
mod regressor;
mod support_vectors;
#[cfg(test)]
mod tests;

pub(super) use classifier::build as build_classifier;
pub(super) use regressor::build as build_regressor;
