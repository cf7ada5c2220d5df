//! Operators of `ai.onnx.ml`, which exporters of scikit-learn, XGBoost and LightGBM write.
//!
//! One module an operator or family, each with its kernel, the reading of its attributes and its tests. Where the
//! operators' text leaves something open, they do what ONNX Runtime does: exporters are tested against it.

mod array_feature_extractor;
mod binarizer;
mod class_labels;
mod feature_vectorizer;
mod imputer;
mod label_encoder;
mod linear;
mod maps;
mod normalizer;
mod one_hot_encoder;
mod post_transform;
mod rows;
mod scaler;
mod svm;

use tract_onnx::model::ParsingContext;

use super::Builder;

/// All of them.
pub(super) const OPERATORS: &[(&str, Builder)] = &[
    ("ArrayFeatureExtractor", array_feature_extractor::build),
    ("Binarizer", binarizer::build),
    ("CastMap", maps::refuse),
    ("CategoryMapper", label_encoder::build_category_mapper),
    ("DictVectorizer", maps::refuse),
    ("FeatureVectorizer", feature_vectorizer::build),
    ("Imputer", imputer::build),
    ("LabelEncoder", label_encoder::build),
    ("LinearClassifier", linear::build_classifier),
    ("LinearRegressor", linear::build_regressor),
    ("Normalizer", normalizer::build),
    ("OneHotEncoder", one_hot_encoder::build),
    ("SVMClassifier", svm::build_classifier),
    ("SVMRegressor", svm::build_regressor),
    ("Scaler", scaler::build),
];

/// Returns the version of `ai.onnx.ml` that a model imports; 1 where it imports none.
fn ml_version(context: &ParsingContext<'_>) -> i64 {
    let import = context.model.opset_import.iter().find(|import| import.domain == "ai.onnx.ml");
    import.map_or(1, |import| import.version)
}
