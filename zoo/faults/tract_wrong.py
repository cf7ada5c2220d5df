"""Where tract gives another value than ONNX's text and ONNX Runtime, without an error."""

import numpy as np
from onnx import TensorProto as T, helper, numpy_helper

from .kit import OPSET, Fault, f32, f64, i8, i64, node, of_type, u8

INF, NAN = np.inf, np.nan
HUGE = 2**31


def fault(name, cause, nodes, fed, **more) -> Fault:
    return Fault(name, "tract", cause, nodes if isinstance(nodes, list) else [nodes], fed, **more)


def reductions():
    yield fault(
        "reduce_log_sum_exp", "The largest value is not subtracted before the exponential.",
        node("ReduceLogSumExp", ["x"], ["o"], keepdims=0), {"x": f32([-1000, -1000])},
    )  # fmt: skip
    for operator in ("ReduceSum", "ReduceMean"):
        yield fault(
            f"{operator.lower()}_int64", "Integers of 64 bits are added in 32.",
            node(operator, ["x"], ["o"], keepdims=0), {"x": i64([HUGE, HUGE])}, outputs=of_type(T.INT64),
        )  # fmt: skip
    for operator, sign in (("ReduceMax", -1), ("ReduceMin", 1)):
        yield fault(
            f"{operator.lower()}_nan", "Comparisons with NaN drop it.",
            node(operator, ["x"], ["o"], keepdims=0), {"x": f32([NAN, 1])},
        )  # fmt: skip
        yield fault(
            f"{operator.lower()}_infinite", "The start is the largest finite number, not infinity.",
            node(operator, ["x"], ["o"], keepdims=0), {"x": f32([sign * INF, sign * INF])},
        )  # fmt: skip
    yield fault(
        "reducemax_empty", "The start is the lowest finite number, where ONNX says -inf for an empty set.",
        node("ReduceMax", ["x", "axes"], ["o"], keepdims=0), {"x": f32(np.zeros((2, 0)))}, constant={"axes": i64([1])},
        right=[f32([-INF, -INF])], source="ReduceMax: reduction over an empty set of values yields minus infinity (if supported by the datatype)",
    )  # fmt: skip
    for operator in ("ArgMax", "ArgMin"):
        yield fault(
            f"{operator.lower()}_nan", "Comparisons with NaN are always false, so that the order is none.",
            node(operator, ["x"], ["o"], axis=1), {"x": f32([[NAN, 1, 2]])}, outputs=of_type(T.INT64),
        )  # fmt: skip
    for operator, sign in (("ArgMax", -1), ("ArgMin", 1)):
        yield fault(
            f"{operator.lower()}_infinite", "The start is the bound of the finite numbers, which infinities do not pass.",
            node(operator, ["x"], ["o"], axis=1), {"x": f32([[sign * INF, sign * INF]])}, outputs=of_type(T.INT64),
        )  # fmt: skip
    both = {"o": T.FLOAT, "o1": T.INT64}
    yield fault(
        "topk_nan", "The comparison is no order where there is NaN.",
        node("TopK", ["x", "k"], ["o", "o1"]), {"x": f32([1, NAN, 3, 2])}, constant={"k": i64([2])}, outputs=both,
    )  # fmt: skip
    yield fault(
        "topk_k_beyond", "The result is padded where `k` is larger than the axis.",
        node("TopK", ["x", "k"], ["o", "o1"]), {"x": f32([1, 2])}, constant={"k": i64([3])}, outputs=both,
        right="`k` is larger than the axis", source="TopK: retrieve the top-K elements along a specified axis",
    )  # fmt: skip


def activations():
    for operator in ("Relu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "LeakyRelu"):
        yield fault(
            f"{operator.lower()}_nan", "The kernel clamps its argument by comparisons that drop NaN.",
            node(operator, ["x"], ["o"]), {"x": f32([NAN] * 8)},
        )  # fmt: skip
    yield fault(
        "clip_nan", "Comparisons with NaN drop it.",
        node("Clip", ["x", "low", "high"], ["o"]), {"x": f32([NAN] * 8)}, constant={"low": f32(-1), "high": f32(1)},
    )  # fmt: skip
    for operator in ("Max", "Min"):
        yield fault(
            f"{operator.lower()}_nan", "Comparisons with NaN drop it.",
            node(operator, ["x", "y"], ["o"]), {"x": f32([NAN, 1]), "y": f32([1, NAN])},
        )  # fmt: skip
    yield fault(
        "logsoftmax", "It is the logarithm of a softmax, which is 0 for small probabilities.",
        node("LogSoftmax", ["x"], ["o"]), {"x": f32([[100, 200, 300]])},
    )  # fmt: skip
    yield fault(
        "softplus", "The exponential overflows.",
        node("Softplus", ["x"], ["o"]), {"x": f32([120])},
    )  # fmt: skip
    yield fault(
        "celu", "`alpha` is not divided by inside the exponential.",
        node("Celu", ["x"], ["o"], alpha=2.0), {"x": f32([-1])},
    )  # fmt: skip
    yield fault(
        "swish_alpha", "`alpha` is passed over.",
        node("Swish", ["x"], ["o"], alpha=0.5), {"x": f32([1])}, opset=24,
        right=[f32([1 / (1 + np.exp(-0.5))])], source="Swish: y = x * sigmoid(alpha * x)",
    )  # fmt: skip
    for operator, x in (("FastGelu", -1e10), ("QuickGelu", -1e10), ("Gelu", -1e10)):
        yield fault(
            f"{operator.lower()}_far", "A power of the argument overflows.",
            node(operator, ["x"], ["o"], domain="com.microsoft"), {"x": f32([x, -1e20])},
        )  # fmt: skip
    yield fault(
        "gelu_tanh_far", "A power of the argument overflows.",
        node("Gelu", ["x"], ["o"], approximate="tanh"), {"x": f32([-1e10, -1e20])},
    )  # fmt: skip


def conversions():
    yield fault(
        "cast_int64", "Integers of 64 bits become sizes of tensors, by way of 32 bits.",
        node("Cast", ["x"], ["o"], to=T.INT64), {"x": f32([3e9])}, outputs=of_type(T.INT64),
    )  # fmt: skip
    yield fault(
        "cast_int64_float", "Integers of 64 bits become sizes of tensors, by way of 32 bits.",
        node("Cast", ["x"], ["o"], to=T.FLOAT), {"x": i64([3_000_000_000])},
    )  # fmt: skip
    yield fault(
        "constant_of_shape", "Without `value` the zeros are of f64.",
        node("ConstantOfShape", ["x"], ["o"]), {}, constant={"x": i64([2])},
    )  # fmt: skip
    yield fault(
        "mod_ranks", "Tensors of different rank are not aligned at their last axes.",
        node("Mod", ["x", "y"], ["o"]), {"x": i64([[5, 6, 7], [8, 9, 10]]), "y": i64([2, 3, 4])}, outputs=of_type(T.INT64),
    )  # fmt: skip
    yield fault(
        "mod_negative", "The sign is that of the dividend, not of the divisor.",
        node("Mod", ["x", "y"], ["o"]), {"x": i64([-4, 7, 5]), "y": i64([2, -3, 8])}, outputs=of_type(T.INT64),
    )  # fmt: skip
    for direction in ("LEFT", "RIGHT"):
        yield fault(
            f"bitshift_{direction.lower()}_beyond", "The distance wraps around at the number of bits, or overflows.",
            node("BitShift", ["x", "y"], ["o"], direction=direction), {"x": u8([3, 255]), "y": u8([8, 9])},
            outputs=of_type(T.UINT8),
        )  # fmt: skip
    yield fault(
        "pad_negative", "A negative width is read as a huge one.",
        node("Pad", ["x", "pads"], ["o"]), {"x": f32([1, 2, 3, 4])}, constant={"pads": i64([-1, 1])},
    )  # fmt: skip
    yield fault(
        "pad_mode_with_value", "A constant's value makes the mode `constant`, whatever `mode` is.",
        node("Pad", ["x", "pads", "value"], ["o"], mode="edge"), {"x": f32([1, 2, 3, 4])},
        constant={"pads": i64([1, 1]), "value": f32(9)},
    )  # fmt: skip


def indices():
    yield fault(
        "gathernd_negative", "An index counted from the end is taken for a huge one.",
        node("GatherND", ["x", "y"], ["o"]), {"x": f32([1, 2, 3]), "y": i64([[-1]])},
    )  # fmt: skip
    yield fault(
        "scatternd_negative", "An index counted from the end is taken for a huge one.",
        node("ScatterND", ["x", "y", "z"], ["o"]), {"x": f32([1, 2, 3]), "y": i64([[-1]]), "z": f32([9])},
    )  # fmt: skip
    yield fault(
        "onehot_outside", "An index outside the depth is used without a check.",
        node("OneHot", ["x", "depth", "values"], ["o"]), {"x": i64([1, 3])},
        constant={"depth": i64([3]), "values": f32([0, 1])},
    )  # fmt: skip
    yield fault(
        "einsum_scalar", "An equation without axes of the output is not taken for a sum.",
        node("Einsum", ["x"], ["o"], equation="ij->"), {"x": f32([[1, 2], [3, 4]])},
    )  # fmt: skip
    yield fault(
        "array_feature_extractor_rank_1", "An input of one axis becomes no row.",
        node("ArrayFeatureExtractor", ["x", "y"], ["o"], domain="ai.onnx.ml"), {"x": f32([10, 20, 30])},
        constant={"y": i64([2, 0])},
    )  # fmt: skip


GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent():
    """Two steps of one value, one hidden value; all weights are of one kind, so that the table shows them."""

    def cell(operator, name, cause, more_inputs=(), more=None, unusual=None, directions=1, **attributes):
        gates = GATES[operator]
        weights = 0.5 + 0.25 * np.arange(directions * gates).reshape(directions, gates, 1)
        constant = {"w": f32(weights), "r": f32(weights / 2)}
        inputs = ["x", "w", "r", *more_inputs]
        if unusual is not None:
            attributes["activations"] = unusual
        return fault(
            f"{operator.lower()}_{name}", cause, node(operator, inputs, ["o"], hidden_size=1, **attributes),
            {"x": f32([[[1]], [[-2]], [[3]]])}, constant=constant | (more or {}),
        )  # fmt: skip

    for operator in GATES:
        yield cell(operator, "reverse", "`direction` is passed over unless it is `bidirectional`.", direction="reverse")
    relu = {"RNN": ["Relu"], "GRU": ["Relu", "Relu"], "LSTM": ["Relu", "Relu", "Relu"]}
    for operator, unusual in relu.items():
        yield cell(operator, "activations", "`activations` is passed over.", unusual=unusual)
    for operator in GATES:
        yield cell(operator, "clip", "`clip` is passed over.", clip=0.25)
    yield cell("LSTM", "input_forget", "`input_forget` is passed over.", input_forget=1)
    for operator in GATES:
        inputs, more = ["", "n"], {"n": np.array([2], dtype=np.int32)}
        yield cell(operator, "sequence_lens", "`sequence_lens` is refused or passed over.", inputs, more)
    for operator in GATES:
        yield cell(operator, "layout", "`layout` is passed over.", layout=1)


def quantised():
    scale, zero = {"scale": f32(0.01)}, {"zero": u8(128)}
    yield fault(
        "quantize_linear_far", "The zero point is added to an integer of 32 bits that is the largest already, which wraps.",
        node("QuantizeLinear", ["x", "scale", "zero"], ["o"]), {"x": f32([1e9, -1e9])}, constant=scale | zero,
        outputs=of_type(T.UINT8),
    )  # fmt: skip
    ties = f32((np.arange(200) + 0.5).astype(np.float32) * np.float32(0.003))
    quotients = np.rint(ties / np.float32(0.003)).astype(np.uint8)
    inverse = np.rint(ties * (np.float32(1) / np.float32(0.003))).astype(np.uint8)
    yield fault(
        "quantize_linear_tie", "It multiplies by the scale's reciprocal, which is beside the quotient next to a tie.",
        node("QuantizeLinear", ["x", "scale", "zero"], ["o"]), {"x": ties[quotients != inverse][:6]},
        constant={"scale": f32(0.003), "zero": u8(0)}, outputs=of_type(T.UINT8),
    )  # fmt: skip
    grid = {"s": f32(0.1), "z": i8(0), "t": f32(0.01)}
    yield fault(
        "quantised_softmax", "The three nodes become a table of 256 entries, as if a softmax were of single values.",
        [
            node("DequantizeLinear", ["x", "s", "z"], ["a"]), node("Softmax", ["a"], ["b"], axis=1),
            node("QuantizeLinear", ["b", "t", "z"], ["o"]),
        ],
        {"x": i8([[0, 0, 0], [100, 0, 0]])}, constant=grid, outputs=of_type(T.INT8),
    )  # fmt: skip
    yield fault(
        "quantised_tanh_signs", "The table is made by the type of the result and read by that of the argument.",
        [
            node("DequantizeLinear", ["x", "s", "z"], ["a"]), node("Tanh", ["a"], ["b"]),
            node("QuantizeLinear", ["b", "t", "y"], ["o"]),
        ],
        {"x": u8([0, 100, 140, 255])}, constant={"s": f32(0.05), "z": u8(120), "t": f32(0.01), "y": i8(-20)},
        outputs=of_type(T.INT8),
    )  # fmt: skip
    yield fault(
        "dynamic_quantize_linear_zeros", "The scale of zeros is 0, and the quanta are quotients by it.",
        node("DynamicQuantizeLinear", ["x"], ["o", "o1", "o2"]), {"x": f32([0, 0])},
        outputs={"o": T.UINT8, "o1": T.FLOAT, "o2": T.UINT8},
    )  # fmt: skip


def pools_and_images():
    yield fault(
        "maxpool_same_dilated", "The padding of `SAME_UPPER` leaves out the dilations.",
        node("MaxPool", ["x"], ["o"], kernel_shape=[3], dilations=[2], auto_pad="SAME_UPPER"),
        {"x": f32([[[1, 2, 3, 4, 5, 6]]])},
        right=[f32([[[3, 4, 5, 6, 5, 6]]])],
        source="MaxPool: output_shape[i] = ceil(input_shape[i] / strides[i]), pads by ((kernel_shape[i] - 1) * dilations[i] + 1)",
    )  # fmt: skip
    yield fault(
        "averagepool_same_dilated", "The padding of `SAME_UPPER` leaves out the dilations.",
        node("AveragePool", ["x"], ["o"], kernel_shape=[3], dilations=[2], auto_pad="SAME_UPPER"),
        {"x": f32([[[1, 2, 3, 4, 5, 6]]])},
        right=[f32([[[2, 3, 3, 4, 4, 5]]])],
        source="AveragePool: output_shape[i] = ceil(input_shape[i] / strides[i]), pads by ((kernel_shape[i] - 1) * dilations[i] + 1)",
    )  # fmt: skip
    yield fault(
        "resize_align_corners", "The scale is taken of the lengths after they are cut to integers.",
        node("Resize", ["x", "", "scales"], ["o"], coordinate_transformation_mode="align_corners", mode="linear"),
        {"x": f32([[[1, 2, 4]]])}, constant={"scales": f32([1, 1, 1.5])},
    )  # fmt: skip
    yield fault(
        "resize_crop", "`tf_crop_and_resize` is passed over, and with it `roi`.",
        node("Resize", ["x", "roi", "", "sizes"], ["o"], coordinate_transformation_mode="tf_crop_and_resize", mode="linear"),
        {"x": f32([[[[1, 2, 3, 4]] * 2]])[0]}, constant={"roi": f32([0, 0, 0.25, 1, 1, 0.75]), "sizes": i64([1, 2, 3])},
    )  # fmt: skip
    yield fault(
        "gridsample_cubic_border", "`padding_mode` is applied to the point and not to each of its neighbours.",
        node("GridSample", ["x", "y"], ["o"], mode="cubic", padding_mode="border"),
        {"x": f32([[[[1, 2, 3], [4, 5, 7], [7, 8, 9]]]]), "y": f32([[[[-0.9, -0.9], [1.2, 0.9]]]])},
    )  # fmt: skip
    yield fault(
        "space_to_depth_crd", "`mode` is passed over.",
        node("SpaceToDepth", ["x"], ["o"], blocksize=2, mode="CRD"),
        {"x": f32(np.arange(8).reshape(1, 2, 2, 2))}, opset=28,
        right=[f32(np.arange(8).reshape(1, 8, 1, 1))],
        source="SpaceToDepth 28: in CRD mode elements of one channel stay together",
    )  # fmt: skip
    yield fault(
        "dft_default_axis", "The axis that is not given is 1, where operator set 20 says -2.",
        node("DFT", ["x"], ["o"]), {"x": f32(np.arange(4).reshape(1, 2, 2, 1))}, opset=20,
    )  # fmt: skip


def training():
    yield fault(
        "dropout_training", "`training_mode` is passed over: with a ratio of 0 the mask is still one of truth values.",
        node("Dropout", ["x", "ratio", "mode"], ["o", "o1"]), {"x": f32([1, 2])},
        constant={"ratio": f32(0), "mode": np.array(True)}, outputs={"o": T.FLOAT, "o1": T.BOOL},
    )  # fmt: skip
    yield fault(
        "batch_normalization_training", "`training_mode` is passed over: the statistics are the stored ones.",
        node("BatchNormalization", ["x", "s", "b", "m", "v"], ["o", "o1", "o2"], training_mode=1), {"x": f32([[1], [3]])},
        constant={"s": f32([1]), "b": f32([0]), "m": f32([0]), "v": f32([1])},
        outputs={"o": T.FLOAT, "o1": T.FLOAT, "o2": T.FLOAT},
    )  # fmt: skip


def tree(weights_of_leaves, labels, **more):
    """A tree of one split at 0.5: leaf 1 left, leaf 2 right; weights as (leaf, class, weight)."""
    leaves, classes, weights = zip(*weights_of_leaves)
    return node(
        "TreeEnsembleClassifier", ["x"], ["o", "o1"], domain="ai.onnx.ml",
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[0, 0, 0], nodes_values=[0.5, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0],
        class_treeids=[0] * len(leaves), class_nodeids=list(leaves), class_ids=list(classes),
        class_weights=[float(one) for one in weights], classlabels_int64s=labels, **more,
    )  # fmt: skip


LABEL_AND_SCORES = {"o": T.INT64, "o1": T.FLOAT}


def machine_learning():
    for post, first in (("LOGISTIC", -2), ("NONE", 0.25)):
        yield fault(
            f"tree_classifier_two_classes_{post.lower()}", "Of two classes with one weight a leaf the label is not that of the score.",
            tree([(1, 1, first), (2, 1, 2 if first < 0 else 0.75)], [0, 1], post_transform=post), {"x": f32([[0], [1]])},
            outputs=LABEL_AND_SCORES,
        )  # fmt: skip
    yield fault(
        "normalizer_max", "Divides by the largest magnitude, where ONNX and ONNX Runtime have the largest value.",
        node("Normalizer", ["x"], ["o"], norm="MAX", domain="ai.onnx.ml"), {"x": f32([[-4, 2]])},
    )  # fmt: skip
    yield fault(
        "linear_classifier_binary", "Of two classes with one row of coefficients the scores are not completed.",
        node(
            "LinearClassifier", ["x"], ["o", "o1"], domain="ai.onnx.ml", coefficients=[1.0, -1.0], intercepts=[0.5],
            classlabels_ints=[0, 1], post_transform="LOGISTIC",
        ),
        {"x": f32([[1, 3], [3, 1]])}, outputs=LABEL_AND_SCORES,
    )  # fmt: skip


def reading():
    yield fault(
        "foreign_domain", "Operators are looked up by name alone, so that one of a foreign domain is run as ONNX's.",
        node("Add", ["x", "y"], ["o"], domain="my.domain"), {"x": f32([1]), "y": f32([2])},
        right="nobody knows `Add` of `my.domain`", source="IR: operators are identified by domain, name and version",
    )  # fmt: skip
    yield fault(
        "unknown_attribute", "Attributes that the operator does not have are passed over.",
        node("Add", ["x", "y"], ["o"], axis=0, broadcast=1), {"x": f32([[1, 2], [3, 4]]), "y": f32([10, 20])},
        right="`Add` has no attributes", source="IR: checker, unrecognised attribute",
    )  # fmt: skip
    yield fault(
        "old_broadcast", "The attributes of operator set 6 are passed over: the axes are aligned at the last one.",
        node("Add", ["x", "y"], ["o"], axis=0, broadcast=1), {"x": f32([[1, 2], [3, 4]]), "y": f32([10, 20])}, opset=6,
        right=[f32([[11, 12], [23, 24]])], source="Add 6: `axis` defines the broadcast dimensions",
    )  # fmt: skip


FAULTS = [
    *reductions(), *activations(), *conversions(), *indices(), *recurrent(), *quantised(), *pools_and_images(),
    *training(), *machine_learning(), *reading(),
]  # fmt: skip
