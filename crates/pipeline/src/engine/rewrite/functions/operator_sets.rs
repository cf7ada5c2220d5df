//! Whether an operator means the same in two operator sets, by the versions in which ONNX changed it.
//!
//! Knows the sets that the engine takes; any other pair of versions counts as different. A version that only adds
//! element types changes nothing: it has the same text, inputs, outputs and attributes as the one before.
//!
//! *Source*: the operator schemas of ONNX 1.23 with their history.

/// What a version of an operator set brought.
struct Version {
    number: i64,
    /// Operators that were not there before.
    new: &'static str,
    /// Operators with another text, input, output or attribute than before.
    changed: &'static str,
}

/// A domain's versions, from the one after its first.
struct Domain {
    first: i64,
    versions: &'static [Version],
}

const DEFAULT: Domain = Domain { first: 6, versions: AI_ONNX };
const ML: Domain = Domain { first: 1, versions: AI_ONNX_ML };

/// Tells whether an operator is the same in both versions of its domain's operator set.
pub(super) fn is_same(domain: &str, operator: &str, one: i64, other: i64) -> bool {
    if one == other {
        return true;
    }
    let Some(known) = versions_of(domain) else { return false };
    let last = known.versions.last().map_or(known.first, |version| version.number);
    let (from, to) = (one.min(other), one.max(other));
    from >= known.first
        && to <= last
        && !known
            .versions
            .iter()
            .filter(|version| version.number > from && version.number <= to)
            .any(|version| lists(version.new, operator) || lists(version.changed, operator))
}

/// Tells whether an operator of ONNX came into its domain only after a version.
pub(super) fn came_after(domain: &str, operator: &str, version: i64) -> bool {
    versions_of(domain).is_some_and(|known| {
        known.versions.iter().any(|set| set.number > version && lists(set.new, operator))
    })
}

fn versions_of(domain: &str) -> Option<Domain> {
    match domain {
        "" => Some(DEFAULT),
        "ai.onnx.ml" => Some(ML),
        _ => None,
    }
}

fn lists(names: &str, name: &str) -> bool {
    names.split(' ').any(|listed| listed == name)
}

/// `ai.onnx`.
const AI_ONNX: &[Version] = &[
    Version {
        number: 7,
        new: "Acos Asin Atan Cos Multinomial Sin Tan",
        changed: "Add And AveragePool BatchNormalization Div Dropout Equal GRU Gemm Greater LSTM Less Mul Or PRelu \
             Pow RNN Sub Upsample Xor",
    },
    Version { number: 8, new: "Expand Scan", changed: "Max MaxPool Mean Min Sum" },
    Version {
        number: 9,
        new: "Acosh Asinh Atanh Compress ConstantOfShape Cosh Erf EyeLike IsNaN MaxUnpool \
             MeanVarianceNormalization NonZero OneHot Scatter Shrink Sign Sinh TfIdfVectorizer Where",
        changed: "BatchNormalization Cast Scan Upsample",
    },
    Version {
        number: 10,
        new: "ConvInteger DequantizeLinear IsInf MatMulInteger Mod NonMaxSuppression QLinearConv QLinearMatMul \
             QuantizeLinear Resize ReverseSequence RoiAlign StringNormalizer ThresholdedRelu",
        changed: "AveragePool Dropout MaxPool Slice TopK Upsample",
    },
    Version {
        number: 11,
        new: "BitShift ConcatFromSequence CumSum Det DynamicQuantizeLinear GatherElements GatherND Range Round \
             ScatterElements ScatterND SequenceAt SequenceConstruct SequenceEmpty SequenceErase \
             SequenceInsert SequenceLength SplitToSequence Unique",
        changed: "ArgMax ArgMin AveragePool Clip Compress Concat Constant Conv ConvTranspose DepthToSpace Flatten \
             Gather Gemm Hardmax If LogSoftmax Loop LpPool MaxPool MaxUnpool NonMaxSuppression OneHot Pad \
             ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd \
             ReduceSum ReduceSumSquare Resize Scan Scatter Slice Softmax Split Squeeze TopK Unsqueeze",
    },
    Version {
        number: 12,
        new: "Celu Einsum GreaterOrEqual LessOrEqual NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
        changed: "ArgMax ArgMin Constant Dropout GatherND MaxPool Pow ReduceMax ReduceMin",
    },
    Version {
        number: 13,
        new: "",
        changed: "Abs ArgMax ArgMin Cast Ceil Clip DepthToSpace DequantizeLinear Floor Gather GatherElements \
             GatherND Gemm Hardmax LRN LogSoftmax Loop MeanVarianceNormalization Mod \
             NegativeLogLikelihoodLoss Pad Pow QuantizeLinear ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp \
             ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Resize Slice Softmax \
             SoftmaxCrossEntropyLoss Split Squeeze Unsqueeze",
    },
    Version {
        number: 14,
        new: "HardSwish Trilu",
        changed: "Add BatchNormalization Div GRU Identity LSTM Mul RNN Reshape Sub",
    },
    Version {
        number: 15,
        new: "Bernoulli CastLike Optional OptionalGetElement OptionalHasElement",
        changed: "BatchNormalization Shape",
    },
    Version { number: 16, new: "GridSample", changed: "Loop PRelu RoiAlign ScatterElements ScatterND" },
    Version {
        number: 17,
        new: "BlackmanWindow DFT HammingWindow HannWindow LayerNormalization MelWeightMatrix STFT SequenceMap",
        changed: "",
    },
    Version {
        number: 18,
        new: "BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im GroupNormalization Mish",
        changed: "LpPool OptionalGetElement OptionalHasElement Pad ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp \
             ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare Resize ScatterElements ScatterND Split",
    },
    Version {
        number: 19,
        new: "DeformConv",
        changed: "AveragePool Cast CastLike DequantizeLinear Pad QuantizeLinear Resize",
    },
    Version {
        number: 20,
        new: "AffineGrid Gelu ImageDecoder RegexFullMatch StringConcat StringSplit",
        changed: "DFT GridSample ReduceMax ReduceMin",
    },
    Version {
        number: 21,
        new: "",
        changed: "DequantizeLinear GroupNormalization QLinearMatMul QuantizeLinear Transpose",
    },
    Version { number: 22, new: "", changed: "AveragePool Dropout EyeLike LSTM MaxPool" },
    Version {
        number: 23,
        new: "Attention RMSNormalization RotaryEmbedding",
        changed: "DequantizeLinear QuantizeLinear Squeeze Unsqueeze",
    },
    Version { number: 24, new: "Swish TensorScatter", changed: "Attention Cast CastLike QuantizeLinear" },
    Version { number: 25, new: "", changed: "Attention QuantizeLinear Transpose" },
    Version { number: 26, new: "BitCast CumProd", changed: "" },
    Version { number: 27, new: "CausalConvWithState LinearAttention", changed: "Range" },
    Version { number: 28, new: "SwiGLU", changed: "BitShift Mod QuantizeLinear SpaceToDepth" },
];

/// `ai.onnx.ml`.
const AI_ONNX_ML: &[Version] = &[
    Version { number: 2, new: "", changed: "LabelEncoder" },
    Version { number: 3, new: "", changed: "TreeEnsembleClassifier TreeEnsembleRegressor" },
    Version { number: 4, new: "", changed: "LabelEncoder" },
    Version { number: 5, new: "TreeEnsemble", changed: "TreeEnsembleClassifier TreeEnsembleRegressor" },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_is_the_same_until_its_text_changed() {
        for (domain, operator, one, other, expected) in [
            ("", "Softmax", 12, 13, false),
            ("", "Softmax", 13, 28, true),
            ("", "ReduceSum", 13, 28, true),
            ("", "ReduceSum", 12, 13, false),
            ("", "ReduceMax", 17, 18, false),
            // Element types alone.
            ("", "Constant", 13, 25, true),
            ("", "Constant", 25, 13, true),
            // Not there before.
            ("", "LayerNormalization", 16, 17, false),
            ("", "GroupNormalization", 18, 21, false),
            ("", "Add", 13, 13, true),
            ("", "Abs", 5, 6, false),
            ("", "Sign", 28, 29, false),
            ("", "Sign", 400, 400, true),
            ("ai.onnx.ml", "LabelEncoder", 1, 2, false),
            ("ai.onnx.ml", "LabelEncoder", 2, 3, true),
            ("ai.onnx.ml", "Scaler", 1, 5, true),
            ("com.microsoft", "Gelu", 1, 1, true),
            ("com.microsoft", "Gelu", 1, 2, false),
        ] {
            assert_eq!(is_same(domain, operator, one, other), expected, "{operator} {one} {other}");
        }
    }

    #[test]
    fn operators_are_known_from_their_first_version() {
        assert!(came_after("", "Gelu", 19));
        assert!(!came_after("", "Gelu", 20));
        assert!(!came_after("", "Relu", 6));
        assert!(!came_after("my.domain", "Gelu", 1));
    }
}
