//! Operators of `ai.onnx.ml`, which exporters of scikit-learn, XGBoost and LightGBM write.
//!
//! One module an operator or family, each with its kernel, the reading of its attributes and its tests.

mod scaler;

use super::Builder;

/// All of them.
pub(super) const OPERATORS: &[(&str, Builder)] = &[("Scaler", scaler::build)];
