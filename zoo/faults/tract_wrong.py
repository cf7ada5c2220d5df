"""Where tract gives another value than ONNX's text and ONNX Runtime, without an error."""

import numpy as np
from onnx import TensorProto as T

from .kit import Fault, choice, f32, i8, i64, node, of_type, u8

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
            f"{operator.lower()}_int64", "Integers are added in 32 bits, as quantised ones are (`q_sum_t`).",
            node(operator, ["x"], ["o"], keepdims=0), {"x": i64([HUGE, HUGE])}, outputs=of_type(T.INT64),
        )  # fmt: skip
    yield fault(
        "reducel1_int64", "Integers are added in 32 bits, as quantised ones are (`q_sum_t`).",
        node("ReduceL1", ["x"], ["o"], keepdims=0), {"x": i64([HUGE, 4])}, outputs=of_type(T.INT64),
    )  # fmt: skip
    for operator, sign in (("ReduceMax", -1), ("ReduceMin", 1)):
        yield fault(
            f"{operator.lower()}_nan", "Comparisons with NaN drop it.",
            node(operator, ["x"], ["o"], keepdims=0), {"x": f32([NAN, 1])},
        )  # fmt: skip
        yield fault(
            f"{operator.lower()}_infinite", "The start is a finite number, not infinity.",
            node(operator, ["x"], ["o"], keepdims=0), {"x": f32([sign * INF, sign * INF])},
        )  # fmt: skip
        yield fault(
            f"{operator.lower()}_empty", "The start is a finite number, where ONNX says infinity for an empty set.",
            node(operator, ["x", "axes"], ["o"], keepdims=0), {"x": f32(np.zeros((2, 0)))}, constant={"axes": i64([1])},
        )  # fmt: skip
    for operator in ("ArgMax", "ArgMin"):
        yield fault(
            f"{operator.lower()}_nan", "Comparisons with NaN are always false, so that the order is none.",
            node(operator, ["x"], ["o"], axis=1), {"x": f32([[NAN, 1, 2]])}, outputs=of_type(T.INT64),
        )  # fmt: skip
    for operator, sign in (("ArgMax", -1), ("ArgMin", 1)):
        yield fault(
            f"{operator.lower()}_infinite", "The start is the bound of the finite numbers, which infinities do not pass.",
            node(operator, ["x"], ["o"], axis=1, select_last_index=1), {"x": f32([[sign * INF, sign * INF]])},
            outputs=of_type(T.INT64),
        )  # fmt: skip
    both = {"o": T.FLOAT, "o1": T.INT64}
    yield fault(
        "topk_nan", "The comparison is no order where there is NaN.",
        node("TopK", ["x", "k"], ["o", "o1"]), {"x": f32([1, NAN, 3, 2])}, constant={"k": i64([2])}, outputs=both,
    )  # fmt: skip
    yield fault(
        "topk_k_beyond", "The result is padded where `k` is larger than the axis.",
        node("TopK", ["x", "k"], ["o", "o1"]), {"x": f32([1, 2])}, constant={"k": i64([3])}, outputs=both,
        right="`k` is larger than the axis", source="TopK: retrieve the top-K elements along a specified axis, of which there are two",
    )  # fmt: skip


def activations():
    for operator in ("Relu", "Sigmoid", "Tanh", "HardSigmoid"):
        yield fault(
            f"{operator.lower()}_nan", "The kernel clamps its argument by comparisons that drop NaN.",
            node(operator, ["x"], ["o"]), {"x": f32([NAN, 1])},
        )  # fmt: skip
    yield fault(
        "clip_nan", "Comparisons with NaN drop it.",
        node("Clip", ["x", "low", "high"], ["o"]), {"x": f32([NAN, 1])}, constant={"low": f32(-1), "high": f32(1)},
    )  # fmt: skip
    yield fault(
        "clip_infinite", "A bound that is not given is none, where ONNX says numeric_limits::lowest() and max().",
        node("Clip", ["x"], ["o"]), {"x": f32([INF, -INF])},
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
        "celu", "The factor `alpha` of the exponential is missing: min(0, exp(x / alpha) - 1).",
        node("Celu", ["x"], ["o"], alpha=2.0), {"x": f32([-1])},
    )  # fmt: skip
    yield fault(
        "swish_alpha", "`alpha` is passed over.",
        node("Swish", ["x"], ["o"], alpha=0.5), {"x": f32([1])}, opset=24,
        right=[f32([1 / (1 + np.exp(-0.5))])], source="Swish 24: Swish(x) = x * sigmoid(alpha * x)",
    )  # fmt: skip
    for operator in ("FastGelu", "QuickGelu"):
        yield fault(
            f"{operator.lower()}_far", "The argument times a tanh or sigmoid that is nearly, but not, at its bound.",
            node(operator, ["x"], ["o"], domain="com.microsoft"), {"x": f32([-1e10])}, output_shapes={"o": [1]},
        )  # fmt: skip
    yield fault(
        "gelu_tanh_far", "The argument times a tanh or sigmoid that is nearly, but not, at its bound.",
        node("Gelu", ["x"], ["o"], approximate="tanh"), {"x": f32([-1e10])},
    )  # fmt: skip


def conversions():
    yield fault(
        "cast_int64", "Integers of 64 bits become sizes of tensors (`TDim`), by way of i32.",
        node("Cast", ["x"], ["o"], to=T.INT64), {"x": f32([3e9])}, outputs=of_type(T.INT64),
    )  # fmt: skip
    yield fault(
        "constant_of_shape", "Without `value` the zeros are of f64, where ONNX says f32.",
        node("ConstantOfShape", ["x"], ["o"]), {}, constant={"x": i64([2])},
    )  # fmt: skip
    yield fault(
        "mod_ranks", "A dividend of smaller rank is passed over: the result is the divisor.",
        node("Mod", ["x", "y"], ["o"]), {"x": i64([5, 6, 7]), "y": i64([[2, 3, 4], [4, 5, 6]])}, outputs=of_type(T.INT64),
    )  # fmt: skip
    for direction in ("LEFT", "RIGHT"):
        yield fault(
            f"bitshift_{direction.lower()}_beyond", "The distance wraps around at the number of bits.",
            node("BitShift", ["x", "y"], ["o"], direction=direction), {"x": u8([3, 255]), "y": u8([8, 9])},
            outputs=of_type(T.UINT8),
        )  # fmt: skip
    yield fault(
        "pad_mode_with_value", "A constant's value makes the mode `constant`, whatever `mode` is.",
        node("Pad", ["x", "pads", "value"], ["o"], mode="edge"), {"x": f32([1, 2, 3, 4])},
        constant={"pads": i64([1, 1]), "value": f32(9)},
    )  # fmt: skip


def indices():
    yield fault(
        "einsum_scalar", "An equation without axes of the output is not taken for a sum.",
        node("Einsum", ["x"], ["o"], equation="ij->"), {"x": f32([[1, 2], [3, 4]])},
    )  # fmt: skip
    yield fault(
        "einsum_ellipsis", "An equation without an output has the axes of the ellipsis in ONNX, and none in tract.",
        node("Einsum", ["x", "y"], ["o"], equation="...i,...i"), {"x": f32([[1, 2], [3, 4]]), "y": f32([[1, 2], [3, 4]])},
    )  # fmt: skip
    yield fault(
        "array_feature_extractor_rank_1", "An input of one axis becomes no row.",
        node("ArrayFeatureExtractor", ["x", "y"], ["o"], domain="ai.onnx.ml"), {"x": f32([10, 20, 30])},
        constant={"y": i64([2, 0])}, output_shapes={"o": ["N", "C"]},
    )  # fmt: skip


GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def cell(operator, name, cause, more_inputs=(), more=None, **attributes) -> Fault:
    """Three steps of one value, one hidden value; few weights, so that the table shows them."""
    gates = GATES[operator]
    weights = 0.5 + 0.25 * np.arange(gates).reshape(1, gates, 1)
    return fault(
        f"{operator.lower()}_{name}", cause, node(operator, ["x", "w", "r", *more_inputs], ["o"], hidden_size=1, **attributes),
        {"x": f32([[[1]], [[-2]], [[3]]])}, constant={"w": f32(weights), "r": f32(weights / 2)} | (more or {}),
    )  # fmt: skip


def recurrent():
    for operator in GATES:
        yield cell(operator, "reverse", "`direction` is passed over unless it is `bidirectional`.", direction="reverse")
    relu = {"RNN": ["Relu"], "GRU": ["Relu", "Relu"], "LSTM": ["Relu", "Relu", "Relu"]}
    for operator, names in relu.items():
        yield cell(operator, "activations", "`activations` is passed over.", activations=names)
    for operator in GATES:
        yield cell(operator, "clip", "`clip` is passed over.", clip=0.25)
    yield cell("LSTM", "input_forget", "`input_forget` is passed over.", input_forget=1)
    yield fault(
        "lstm_nan", "The kernels of sigmoid and tanh drop NaN.",
        node("LSTM", ["x", "w", "r"], ["o"], hidden_size=1), {"x": f32([[[NAN]]])},
        constant={"w": f32(np.ones((1, 4, 1))), "r": f32(np.ones((1, 4, 1)))},
    )  # fmt: skip


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


def pools_and_images():
    yield fault(
        "global_lp_pool", "The sum of powers is divided by the number of values.",
        node("GlobalLpPool", ["x"], ["o"], p=2), {"x": f32([[[1, -2, 2]]])},
    )  # fmt: skip
    yield fault(
        "gridsample_cubic_border", "The point is moved to the border before its neighbours are taken; PyTorch, which is the contract, takes those of the point itself.",
        node("GridSample", ["x", "y"], ["o"], mode="cubic", padding_mode="border"),
        {"x": f32([[[[1, 2, 3], [4, 5, 7], [7, 8, 9]]]]), "y": f32([[[[-0.9, -0.9], [1.2, 0.9]]]])},
    )  # fmt: skip
    yield fault(
        "space_to_depth_crd", "`mode` is passed over.",
        node("SpaceToDepth", ["x"], ["o"], blocksize=2, mode="CRD"),
        {"x": f32(np.arange(8).reshape(1, 2, 2, 2))}, opset=28,
        right=[f32(np.arange(8).reshape(1, 8, 1, 1))],
        source="SpaceToDepth 28: use CRD for column-row-depth order re-arrangement",
    )  # fmt: skip
    yield fault(
        "dft_default_axis", "The axis that is not given is 1, where operator set 20 says -2.",
        node("DFT", ["x"], ["o"]), {"x": f32(np.arange(4).reshape(1, 2, 2, 1))}, opset=20,
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
    yield fault(
        "tree_classifier_two_classes", "Of two classes with positive weights for one alone the label changes at 0, where exporters and ONNX Runtime have 0.5.",
        tree([(1, 1, 0.25), (2, 1, 0.75)], [0, 1]), {"x": f32([[0], [1]])}, outputs=LABEL_AND_SCORES,
    )  # fmt: skip
    yield fault(
        "normalizer_max", "Divides by the largest magnitude, where ONNX has Y = X / max(X).",
        node("Normalizer", ["x"], ["o"], norm="MAX", domain="ai.onnx.ml"), {"x": f32([[-4, 2]])}, output_shapes={"o": [1, 2]},
    )  # fmt: skip


def reading():
    yield fault(
        "foreign_domain", "Operators are looked up by name alone, so that one of a foreign domain is run as ONNX's.",
        node("Add", ["x", "y"], ["o"], domain="my.domain"), {"x": f32([1]), "y": f32([2])},
        right="nobody knows `Add` of `my.domain`", source="IR: a node names its operator by domain and op_type",
    )  # fmt: skip
    yield fault(
        "unknown_attribute", "Attributes that the operator does not have are passed over.",
        node("Add", ["x", "y"], ["o"], axis=0, broadcast=1), {"x": f32([[1, 2], [3, 4]]), "y": f32([10, 20])},
        right="`Add` has no such attributes", source="Add 14 declares none; `onnx.checker` refuses the model",
    )  # fmt: skip


def branches():
    yield fault(
        "if_constant_then", "The value of a constant `then_branch` is taken for that of the output, whatever the condition.",
        [choice("c", "b", [1, 2], [5, 6]), node("Neg", ["b"], ["o"])], {"c": np.array(False)},
    )  # fmt: skip


FAULTS = [
    *reductions(), *activations(), *conversions(), *indices(), *recurrent(), *quantised(), *pools_and_images(),
    *machine_learning(), *reading(), *branches(),
]  # fmt: skip
