"""What tract refuses, or panics at, though it is right."""

import numpy as np
from onnx import TensorProto as T, helper

from .kit import f32, f64, i64, node, of_type
from .tract_wrong import fault


def types():
    yield fault(
        "gemm_f64", "`alpha` and `beta` are f32, which the product of f64 is not multiplied with.",
        node("Gemm", ["x", "y", "z"], ["o"], alpha=2.0), {"x": f64([[1, 2]])},
        constant={"y": f64([[1], [1]]), "z": f64([[1]])}, outputs=of_type(T.DOUBLE),
    )  # fmt: skip
    yield fault(
        "pow_int64", "There is no power of integers.",
        node("Pow", ["x", "y"], ["o"]), {"x": i64([2, 3]), "y": i64([3, 2])}, outputs=of_type(T.INT64),
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
    for operator in ("Sigmoid", "Tanh", "HardSigmoid", "Softplus", "Gelu", "Celu", "HardSwish", "LeakyRelu", "Round", "Relu"):
        yield fault(
            f"{operator.lower()}_f64", "The operator has no kernel for f64.",
            node(operator, ["x"], ["o"]), {"x": f64([-1, 2])}, outputs=of_type(T.DOUBLE),
        )  # fmt: skip
    yield fault(
        "div_int_zero", "Integers are divided without a look at the divisor.",
        node("Div", ["x", "y"], ["o"]), {"x": i64([1, 4]), "y": i64([0, 2])}, outputs=of_type(T.INT64),
        right="ONNX leaves it open: an error of the run", source="Div: integer division by zero is undefined",
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
        "prelu_rank", "A slope of one value a channel is not shaped as the channels are.",
        node("PRelu", ["x", "y"], ["o"]), {"x": f32([[[-1, 2], [-3, 4]]])}, constant={"y": f32([[0.1], [0.2]])},
    )  # fmt: skip
    yield fault(
        "prelu_old", "A slope of one value a channel is not aligned with the channels, as it was up to operator set 6.",
        node("PRelu", ["x", "y"], ["o"]), {"x": f32([[[-1, 2], [-3, 4]]])}, constant={"y": f32([0.1, 0.2])}, opset=6,
        right=[f32([[[-0.1, 2], [-0.6, 4]]])], source="PRelu 6: if the slope is of size 1 or C, it is shared across the channels",
    )  # fmt: skip


FAULTS = [*types(), *graphs()]
