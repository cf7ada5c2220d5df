"""What tract refuses or panics at."""

import math

import numpy as np
from onnx import TensorProto as T, helper

from .kit import choice, f32, f64, i8, i64, node, of_type, u8
from .tract_wrong import GATES, LABEL_AND_SCORES, cell, fault


def types():
    yield fault(
        "gemm_f64", "`alpha` and `beta` are f32, which the product of f64 is not multiplied with.",
        node("Gemm", ["x", "y", "z"], ["o"], alpha=2.0), {"x": f64([[1, 2]])},
        constant={"y": f64([[1], [1]]), "z": f64([[1]])}, outputs=of_type(T.DOUBLE),
    )  # fmt: skip
    yield fault(
        "pow_int64", "A power of 2 becomes a square, which there is none of integers.",
        node("Pow", ["x", "y"], ["o"]), {"x": i64([2, 3])}, constant={"y": i64(2)}, outputs=of_type(T.INT64),
    )  # fmt: skip
    yield fault(
        "equal_bool", "There is no comparison of truth values.",
        node("Equal", ["x", "y"], ["o"]), {"x": np.array([True, False]), "y": np.array([True, True])},
        outputs=of_type(T.BOOL),
    )  # fmt: skip
    yield fault(
        "reducemax_bool", "There is no extreme of truth values.",
        node("ReduceMax", ["x"], ["o"], keepdims=0), {"x": np.array([True, False])}, outputs=of_type(T.BOOL),
    )  # fmt: skip
    yield fault(
        "reduce_sum_square_int64", "There is no square of integers.",
        node("ReduceSumSquare", ["x"], ["o"], keepdims=0), {"x": i64([3, 4])}, outputs=of_type(T.INT64),
    )  # fmt: skip
    for operator in ("Sigmoid", "Round"):
        yield fault(
            f"{operator.lower()}_f64", "The operator has no kernel for f64.",
            node(operator, ["x"], ["o"]), {"x": f64([-1, 2])}, outputs=of_type(T.DOUBLE),
        )  # fmt: skip
    # ONNX Runtime has none of these either: the formulas of ONNX's text say what is right.
    for operator, formula, right in (
        ("LeakyRelu", "f(x) = alpha * x for x < 0, f(x) = x for x >= 0; alpha is 0.01", [-0.01, 2]),
        ("HardSwish", "y = x * max(0, min(1, alpha * x + beta)), alpha = 1/6, beta = 0.5", [-1 / 3, 5 / 3]),
        ("Erf", "the error function", [math.erf(-1), math.erf(2)]),
    ):
        yield fault(
            f"{operator.lower()}_f64", "The operator has no kernel for f64.",
            node(operator, ["x"], ["o"]), {"x": f64([-1, 2])}, outputs=of_type(T.DOUBLE), right=[f64(right)],
            source=f"{operator}: {formula}",
        )  # fmt: skip
    for operator, x in (("IsNaN", [np.nan, 1]), ("IsInf", [np.inf, 1])):
        yield fault(
            f"{operator.lower()}_f64", "The operator has no kernel for f64.",
            node(operator, ["x"], ["o"]), {"x": f64(x)}, outputs=of_type(T.BOOL),
        )  # fmt: skip
    for post in ("SOFTMAX_ZERO", "PROBIT"):
        yield fault(
            f"linear_classifier_{post.lower()}", "The post-transform is not implemented.",
            node(
                "LinearClassifier", ["x"], ["o", "o1"], domain="ai.onnx.ml", coefficients=[1.0, 2.0], intercepts=[0.25, -0.25],
                classlabels_ints=[0, 1], post_transform=post,
            ),
            {"x": f32([[0.25]])}, outputs=LABEL_AND_SCORES,
        )  # fmt: skip
    yield fault(
        "mod_int_zero", "Integers are divided without a look at the divisor.",
        node("Mod", ["x", "y"], ["o"]), {"x": i64([1, 4]), "y": i64([0, 2])}, outputs=of_type(T.INT64),
        right="an error of the run, as in ONNX Runtime", source="Mod 13 is silent about it for integers",
    )  # fmt: skip
    yield fault(
        "div_int_zero", "Integers are divided without a look at the divisor.",
        node("Div", ["x", "y"], ["o"]), {"x": i64([1, 4]), "y": i64([0, 2])}, outputs=of_type(T.INT64),
        right="an error of the run, as in ONNX Runtime", source="Div 14 is silent about it",
    )  # fmt: skip


def graphs():
    yield fault(
        "named_axis_in_value_info", "An axis named in `value_info` is taken for another than the input's, which is fixed by then.",
        [node("Relu", ["x"], ["t"]), node("Abs", ["t"], ["o"])], {"x": f32([[1, -2, 3], [4, 5, 6]])},
        shapes={"x": ["N", 3]}, value_info=[helper.make_tensor_value_info("t", T.FLOAT, ["N", 3])],
    )  # fmt: skip
    yield fault(
        "slice_fed_bounds", "Bounds that are inputs become symbols which the plan does not know.",
        node("Slice", ["x", "y", "z"], ["o"]), {"x": f32([1, 2, 3]), "y": i64([1]), "z": i64([3])},
    )  # fmt: skip


    yield fault(
        "if_twice", "The nodes of every `If` get the same name.",
        [choice("c", "a", [1], [2]), choice("d", "b", [3], [4]), node("Add", ["a", "b"], ["o"])],
        {"c": np.array(True), "d": np.array(False)},
    )  # fmt: skip


def indices_and_shapes():
    yield fault(
        "pad_negative", "A negative width is read as a huge one.",
        node("Pad", ["x", "pads"], ["o"]), {"x": f32([1, 2, 3, 4])}, constant={"pads": i64([-1, 1])},
    )  # fmt: skip
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
        "gather_outside", "An index outside is used without a check.",
        node("Gather", ["x", "y"], ["o"]), {"x": f32([1, 2, 3]), "y": i64([7])},
        right="an error of the run, as in ONNX Runtime", source="Gather 13: it is an error if any of the index values are out of bounds",
    )  # fmt: skip


def recurrent_and_quantised():
    for operator in GATES:
        yield cell(
            operator, "sequence_lens", "Sequences that are shorter than the window are not implemented.", ["", "n"],
            {"n": np.array([2], dtype=np.int32)},
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


FAULTS = [*types(), *graphs(), *indices_and_shapes(), *recurrent_and_quantised()]
