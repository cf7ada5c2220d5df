//! What of a graph the engine takes: which operators of which domain, with which attributes, of which operator sets.
//!
//! tract looks an operator up by its name alone, passes over attributes that it does not know and mostly ignores the
//! operator set. Here stands what was compared with ONNX's own tests and with ONNX Runtime; everything else is refused
//! with a reason before anything is built. Operators of our own check their attributes themselves.

use std::collections::BTreeSet;

use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto};

/// Operator sets of `ai.onnx` that were compared. Before 7 operators broadcast by attributes; the last is that of the
/// node tests.
const OPSETS: std::ops::RangeInclusive<i64> = 6..=28;
/// Operator sets of `ai.onnx.ml` that were compared.
const ML_OPSETS: std::ops::RangeInclusive<i64> = 1..=5;
/// The one operator set of `com.microsoft`.
const MICROSOFT_OPSETS: std::ops::RangeInclusive<i64> = 1..=1;

/// Operators of `ai.onnx.ml`.
const ML: &[&str] = &[
    "ArrayFeatureExtractor",
    "Binarizer",
    "CastMap",
    "CategoryMapper",
    "DictVectorizer",
    "FeatureVectorizer",
    "Imputer",
    "LabelEncoder",
    "LinearClassifier",
    "LinearRegressor",
    "Normalizer",
    "OneHotEncoder",
    "SVMClassifier",
    "SVMRegressor",
    "Scaler",
    "TreeEnsemble",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
    "ZipMap",
];

/// Operators of `com.microsoft` alone.
const MICROSOFT: &[&str] = &[
    "BiasGelu",
    "CDist",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "FastGelu",
    "FusedConv",
    "FusedGemm",
    "FusedMatMul",
    "MatMulInteger16",
    "MatMulIntegerToFloat",
    "NhwcMaxPool",
    "QAttention",
    "QGemm",
    "QLinearAdd",
    "QLinearAveragePool",
    "QLinearConcat",
    "QLinearGlobalAveragePool",
    "QLinearLeakyRelu",
    "QLinearMul",
    "QLinearReduceMean",
    "QLinearSigmoid",
    "QLinearSoftmax",
    "QLinearWhere",
    "QuickGelu",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
];

/// Operators that are the same in `ai.onnx` and `com.microsoft`.
const BOTH: &[&str] = &["Gelu", "QuantizeLinear", "DequantizeLinear"];

/// Operators of `ai.onnx` that tract runs right, each with the attributes that it reads or that change no value.
const TRACT: &[(&str, &str)] = &[
    ("Abs", ""),
    ("Acos", ""),
    ("Acosh", ""),
    ("Add", ""),
    ("And", ""),
    ("Asin", ""),
    ("Asinh", ""),
    ("Atan", ""),
    ("Atanh", ""),
    ("AveragePool", "auto_pad ceil_mode count_include_pad dilations kernel_shape pads strides"),
    ("BatchNormalization", "epsilon momentum spatial training_mode"),
    ("BitwiseAnd", ""),
    ("BitwiseNot", ""),
    ("BitwiseOr", ""),
    ("BitwiseXor", ""),
    ("BlackmanWindow", "output_datatype periodic"),
    ("CastLike", "saturate round_mode"),
    ("Ceil", ""),
    ("Compress", "axis"),
    ("Concat", "axis"),
    ("Constant", "value value_float value_floats value_int value_ints value_string value_strings"),
    ("Conv", "auto_pad dilations group kernel_shape pads strides"),
    ("ConvTranspose", "auto_pad dilations group kernel_shape output_padding output_shape pads strides"),
    ("Cos", ""),
    ("Cosh", ""),
    ("CumSum", "exclusive reverse"),
    ("DFT", "axis inverse onesided"),
    ("DepthToSpace", "blocksize mode"),
    ("Dropout", "ratio seed"),
    ("Einsum", "equation"),
    ("Elu", "alpha"),
    ("Erf", ""),
    ("Exp", ""),
    ("Expand", ""),
    ("EyeLike", "dtype k"),
    ("Flatten", "axis"),
    ("Floor", ""),
    ("Gather", "axis"),
    ("GatherElements", "axis"),
    ("GlobalAveragePool", ""),
    ("GlobalMaxPool", ""),
    ("Greater", ""),
    ("GreaterOrEqual", ""),
    ("GridSample", "align_corners mode padding_mode"),
    ("GroupNormalization", "epsilon num_groups stash_type"),
    ("HammingWindow", "output_datatype periodic"),
    ("HannWindow", "output_datatype periodic"),
    ("Identity", ""),
    ("If", "else_branch then_branch"),
    ("InstanceNormalization", "epsilon"),
    ("LRN", "alpha beta bias size"),
    ("LayerNormalization", "axis epsilon stash_type"),
    ("Less", ""),
    ("LessOrEqual", ""),
    ("Log", ""),
    ("LpNormalization", "axis p"),
    ("MatMul", ""),
    ("MaxPool", "auto_pad ceil_mode dilations kernel_shape pads storage_order strides"),
    ("Mean", ""),
    ("MeanVarianceNormalization", "axes"),
    ("MelWeightMatrix", "output_datatype"),
    ("Mish", ""),
    ("Mul", ""),
    ("Neg", ""),
    ("NonMaxSuppression", "center_point_box"),
    ("NonZero", ""),
    ("Not", ""),
    ("Or", ""),
    ("PRelu", ""),
    ("RMSNormalization", "axis epsilon stash_type"),
    ("Range", ""),
    ("Reciprocal", ""),
    ("Reshape", "allowzero"),
    ("RotaryEmbedding", "interleaved num_heads rotary_embedding_dim"),
    ("STFT", "onesided"),
    (
        "Scan",
        "body num_scan_inputs scan_input_axes scan_input_directions scan_output_axes scan_output_directions",
    ),
    ("Scatter", "axis"),
    ("ScatterElements", "axis reduction"),
    ("Selu", "alpha gamma"),
    ("Shape", "end start"),
    ("Shrink", "bias lambd"),
    ("Sign", ""),
    ("Sin", ""),
    ("Sinh", ""),
    ("Size", ""),
    ("Softmax", "axis"),
    ("Softsign", ""),
    ("SpaceToDepth", "blocksize mode"),
    ("Slice", "axes ends starts"),
    ("Split", "axis num_outputs split"),
    ("Sqrt", ""),
    ("Squeeze", "axes"),
    ("Sub", ""),
    ("Sum", ""),
    ("Swish", "alpha"),
    ("Tan", ""),
    ("ThresholdedRelu", "alpha"),
    ("Tile", ""),
    ("Transpose", "perm"),
    ("Trilu", "upper"),
    ("Unsqueeze", "axes"),
    ("Where", ""),
    ("Xor", ""),
    // Of `ai.onnx.ml`.
    (
        "LinearClassifier",
        "classlabels_ints classlabels_strings coefficients intercepts multi_class post_transform",
    ),
    // Of `com.microsoft`.
    ("BiasGelu", ""),
    ("SkipLayerNormalization", "epsilon"),
    ("SkipSimplifiedLayerNormalization", "epsilon"),
];

/// What a node is judged by: the operator sets and what else its graph holds.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'g> {
    pub(super) model: &'g ModelProto,
    pub(super) graph: &'g GraphProto,
}

/// Returns why a node is not taken, if it is not; `is_own` tells that its operator is one of ours.
pub(super) fn refusal(node: &NodeProto, around: Surroundings<'_>, is_own: bool) -> Option<String> {
    domain(node, around.model)
        .or_else(|| if is_own { None } else { attributes(node).or_else(|| values(node, around)) })
}

fn domain(node: &NodeProto, model: &ModelProto) -> Option<String> {
    let operator = node.op_type.as_str();
    let named = if node.domain == "ai.onnx" { "" } else { node.domain.as_str() };
    let shown: String = named.chars().take(64).collect();
    let opsets = match named {
        "" if !ML.contains(&operator) && !MICROSOFT.contains(&operator) => OPSETS,
        "ai.onnx.ml" if ML.contains(&operator) => ML_OPSETS,
        "com.microsoft" if MICROSOFT.contains(&operator) || BOTH.contains(&operator) => MICROSOFT_OPSETS,
        "" => return Some("it is of another domain than `ai.onnx`".to_owned()),
        _ => return Some(format!("the engine does not know it in domain `{shown}`")),
    };
    let is_same = |domain: &str| domain == named || (named.is_empty() && domain == "ai.onnx");
    let mut imports = model.opset_import.iter().filter(|import| is_same(&import.domain));
    let Some(version) = imports.next().map(|import| import.version) else {
        return Some("the file names no operator set of its domain".to_owned());
    };
    if imports.any(|import| import.version != version) {
        return Some("the file names several operator sets of its domain".to_owned());
    }
    let is_known = opsets.contains(&version);
    (!is_known).then(|| {
        let (first, last) = (opsets.start(), opsets.end());
        format!("it is of operator set {version}; the engine knows {first} to {last}")
    })
}

fn attributes(node: &NodeProto) -> Option<String> {
    let Some((_, known)) = TRACT.iter().find(|(operator, _)| *operator == node.op_type) else {
        return Some("the engine does not take it".to_owned());
    };
    let mut seen = BTreeSet::new();
    for attribute in &node.attribute {
        let name: String = attribute.name.chars().take(64).collect();
        if !known.split(' ').any(|known| known == attribute.name) || !attribute.ref_attr_name.is_empty() {
            return Some(format!("the engine does not take its attribute `{name}`"));
        }
        if !seen.insert(attribute.name.as_str()) {
            return Some(format!("its attribute `{name}` occurs twice"));
        }
    }
    None
}

/// What tract computes wrong by a node's attributes, or otherwise than ONNX Runtime does, which exporters are tested with.
fn values(node: &NodeProto, around: Surroundings<'_>) -> Option<String> {
    let attribute = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name);
    let text =
        |name: &str| attribute(name).map(|attribute| String::from_utf8_lossy(&attribute.s).into_owned());
    let integer = |name: &str, absent: i64| attribute(name).map_or(absent, |attribute| attribute.i);
    let float = |name: &str, absent: f32| attribute(name).map_or(absent, |attribute| attribute.f);
    let version = opset(around.model);
    let reason = match node.op_type.as_str() {
        "AveragePool" | "MaxPool" => {
            let is_padded = text("auto_pad").is_some_and(|pad| pad.starts_with("SAME"));
            let is_dilated =
                attribute("dilations").is_some_and(|dilations| dilations.ints.iter().any(|d| *d != 1));
            (is_padded && is_dilated).then_some("`auto_pad` with dilations")
        }
        "BatchNormalization" => (integer("training_mode", 0) != 0 || node.output.len() > 1 && version < 14)
            .then_some("it is made for training; export the model for inference"),
        "DFT" => (version >= 20 && node.input.get(2).is_none_or(String::is_empty))
            .then_some("its axis is not given"),
        "Dropout" => dropout(node, around.graph, version),
        "Einsum" => {
            let equation = text("equation").unwrap_or_default();
            let output = equation.split_once("->").map(|(_, output)| output.trim());
            (output == Some("") || output.is_none() && equation.contains("..."))
                .then_some("an equation without an output's axes")
        }
        "GridSample" => {
            let is_cubic = text("mode").is_some_and(|mode| mode.contains("cubic"));
            let is_border = text("padding_mode").as_deref() == Some("border");
            (is_cubic && is_border).then_some("`mode` is cubic and `padding_mode` is `border`")
        }
        // tract aligns the slopes with the last axes, as later sets say; a single one is the same in all.
        "PRelu" => {
            let is_single = |tensor: &TensorProto| tensor.dims.iter().product::<i64>() == 1;
            let slopes = node.input.get(1);
            let mut constants = around.graph.initializer.iter().filter(|tensor| Some(&tensor.name) == slopes);
            (version < 7 && !constants.next().is_some_and(is_single))
                .then_some("before operator set 7 its slopes are by channel; export a later one")
        }
        "Slice" => {
            // tract's plan would read symbols of another graph.
            let mut bounds = node.input.iter().skip(1).filter(|name| !name.is_empty());
            bounds.any(|name| is_free(name, around.graph)).then_some("its bounds are inputs of the graph")
        }
        "SpaceToDepth" => text("mode").is_some_and(|mode| mode != "DCR").then_some("`mode` is not `DCR`"),
        "Swish" => (float("alpha", 1.0) != 1.0).then_some("`alpha` is not 1"),
        _ => None,
    };
    reason.map(str::to_owned)
}

/// tract drops nothing and makes no mask in the type of old operator sets.
fn dropout(node: &NodeProto, graph: &GraphProto, version: i64) -> Option<&'static str> {
    let mask = node.output.get(1).filter(|mask| !mask.is_empty());
    let reads = |mask: &String| {
        graph.node.iter().any(|other| other.input.contains(mask))
            || graph.output.iter().any(|output| output.name == *mask)
    };
    if version < 12 && mask.is_some_and(reads) {
        return Some("its mask is read");
    }
    let flag = node.input.get(2).filter(|flag| !flag.is_empty())?;
    let constants = graph.initializer.iter().filter(|tensor| tensor.name == *flag);
    let written =
        graph.node.iter().filter(|other| other.op_type == "Constant" && other.output.contains(flag));
    let written = written.flat_map(|other| &other.attribute).filter_map(|attribute| attribute.t.as_ref());
    let is_false = |tensor: &TensorProto| {
        tensor.raw_data.iter().all(|byte| *byte == 0) && tensor.int32_data.iter().all(|value| *value == 0)
    };
    let value = constants.chain(written).next();
    (!value.is_some_and(is_false)).then_some("it is made for training; export the model for inference")
}

/// Tells whether a name is an input of the graph without a constant for it.
fn is_free(name: &str, graph: &GraphProto) -> bool {
    graph.input.iter().any(|input| input.name == name)
        && !graph.initializer.iter().any(|tensor| tensor.name == name)
}

/// Returns the operator set of `ai.onnx`.
fn opset(model: &ModelProto) -> i64 {
    let is_default = |domain: &str| domain.is_empty() || domain == "ai.onnx";
    model.opset_import.iter().find(|import| is_default(&import.domain)).map_or(0, |import| import.version)
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::OperatorSetIdProto;

    use super::super::testing::{float, int, ints, node, text};
    use super::super::{check, onnx};
    use super::*;

    /// Returns what is said of a model of one node, of operator sets by domain.
    fn said(node: NodeProto, opsets: &[(&str, i64)]) -> String {
        let opset = |(domain, version): &(&str, i64)| OperatorSetIdProto {
            domain: (*domain).to_owned(),
            version: *version,
        };
        let model = ModelProto {
            opset_import: opsets.iter().map(opset).collect(),
            graph: Some(GraphProto { node: vec![node], ..GraphProto::default() }),
            ..ModelProto::default()
        };
        check(&model, &onnx()).err().map(|error| error.to_string()).unwrap_or_default()
    }

    fn of(domain: &str, mut node: NodeProto) -> NodeProto {
        node.domain = domain.to_owned();
        node
    }

    #[test]
    fn a_name_counts_in_its_own_domain_alone() {
        let opsets = [("", 17), ("ai.onnx.ml", 3), ("com.microsoft", 1), ("my.domain", 1)];
        let add = || node("Add", 2, 1, vec![]);
        for domain in ["", "ai.onnx"] {
            assert_eq!(said(of(domain, add()), &opsets), "");
        }
        for domain in ["my.domain", "ai.onnx.ml", "com.microsoft", "ai.onnx.training"] {
            let said = said(of(domain, add()), &opsets);
            assert!(said.contains(&format!("does not know it in domain `{domain}`")), "{said}");
        }
        assert!(said(node("Scaler", 1, 1, vec![]), &opsets).contains("another domain"));
        assert!(said(node("CDist", 2, 1, vec![]), &opsets).contains("another domain"));
        assert_eq!(said(of("ai.onnx.ml", node("Scaler", 1, 1, vec![])), &opsets), "");
        assert_eq!(said(of("com.microsoft", node("CDist", 2, 1, vec![])), &opsets), "");
    }

    #[test]
    fn operator_sets_that_nobody_compared_are_refused() {
        let relu = || node("Relu", 1, 1, vec![]);
        assert_eq!(said(relu(), &[("", 6)]), "");
        assert_eq!(said(relu(), &[("ai.onnx", 28), ("my.domain", 900)]), "");
        assert!(said(relu(), &[("", 5)]).contains("operator set 5; the engine knows 6 to 28"));
        assert!(said(relu(), &[("", 29)]).contains("operator set 29"));
        assert!(said(relu(), &[("ai.onnx.ml", 3)]).contains("names no operator set"));
        assert!(said(relu(), &[("", 12), ("ai.onnx", 13)]).contains("several operator sets"));
    }

    #[test]
    fn slopes_by_channel_of_an_old_set_are_refused() {
        let slopes = || node("PRelu", 2, 1, vec![]);
        assert!(said(slopes(), &[("", 6)]).contains("operator set 7"));
        assert_eq!(said(slopes(), &[("", 7)]), "");
        let slope = |dims: &[i64]| TensorProto {
            name: slopes().input[1].clone(),
            dims: dims.to_vec(),
            ..TensorProto::default()
        };
        let of = |dims: &[i64]| {
            let graph = GraphProto { initializer: vec![slope(dims)], ..GraphProto::default() };
            let model = ModelProto {
                opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 6 }],
                ..ModelProto::default()
            };
            values(&slopes(), Surroundings { model: &model, graph: &graph })
        };
        assert_eq!(of(&[1, 1]), None);
        assert!(of(&[2]).is_some());
    }

    #[test]
    fn what_tract_passes_over_is_refused() {
        let refused = [
            node("Softmax", 1, 1, vec![int("axes", 1)]),
            node("Conv", 2, 1, vec![ints("stride", &[2, 2])]),
            node("Add", 2, 1, vec![int("broadcast", 1)]),
            node("Concat", 2, 1, vec![int("axis", 0), int("axis", 1)]),
            node("Einsum", 1, 1, vec![text("equation", "ij->")]),
            node("MaxPool", 1, 1, vec![text("auto_pad", "SAME_UPPER"), ints("dilations", &[2])]),
            node("Swish", 1, 1, vec![float("alpha", 0.5)]),
            node("BatchNormalization", 5, 3, vec![int("training_mode", 1)]),
            node("RandomNormal", 0, 1, vec![]),
        ];
        for node in refused {
            let operator = node.op_type.clone();
            let said = said(node, &[("", 20)]);
            assert!(said.contains(&format!("operator `{operator}` of node")), "{operator}: {said}");
        }
    }

    #[test]
    fn inner_graphs_are_judged_too() {
        let mut branch =
            tract_onnx::pb::AttributeProto { name: "then_branch".to_owned(), ..Default::default() };
        let inner = of("my.domain", node("Add", 2, 1, vec![]));
        branch.g = Some(GraphProto { node: vec![inner], ..GraphProto::default() });
        let said = said(node("If", 1, 1, vec![branch]), &[("", 17)]);
        assert!(said.contains("domain `my.domain`"), "{said}");
    }

    #[test]
    fn every_operator_of_the_tables_is_there() {
        let engine = onnx();
        for (operator, _) in TRACT {
            assert!(engine.op_register.0.contains_key(*operator), "{operator}");
        }
    }
}
