"""Where ONNX Runtime gives another value than ONNX's text, which says what is right."""

import numpy as np
from onnx import TensorProto as T, numpy_helper

from .kit import Fault, f32, i64, i8, node, of_type, u8
from .tract_wrong import LABEL_AND_SCORES, tree


def fault(name, cause, nodes, fed, **more) -> Fault:
    return Fault(name, "onnxruntime", cause, nodes if isinstance(nodes, list) else [nodes], fed, **more)


def logistic(values) -> np.ndarray:
    return f32(1 / (1 + np.exp(-np.array(values, dtype=np.float64))))


def softmax(values) -> np.ndarray:
    powers = np.exp(np.array(values, dtype=np.float64))
    return f32(powers / powers.sum(-1, keepdims=True))


def tensor(array) -> object:
    return numpy_helper.from_array(array)


def ensembles():
    for post, right, name in ((1, softmax([[1, 2]]), "softmax"), (2, logistic([[1, 2]]), "logistic")):
        yield fault(
            f"tree_ensemble_{name}", "`post_transform` 1 and 2 are exchanged.",
            node(
                "TreeEnsemble", ["x"], ["o"], domain="ai.onnx.ml", n_targets=2, post_transform=post, tree_roots=[0, 1],
                nodes_featureids=[0, 0], nodes_splits=tensor(f32([0.5, 0.5])), nodes_modes=tensor(u8([0, 0])),
                nodes_truenodeids=[0, 2], nodes_trueleafs=[1, 1], nodes_falsenodeids=[1, 3], nodes_falseleafs=[1, 1],
                leaf_targetids=[0, 0, 1, 1], leaf_weights=tensor(f32([1, -1, 2, -2])),
            ),
            {"x": f32([[0]])}, right=[right], domains={"ai.onnx.ml": 5},
            source="TreeEnsemble 5: one of 'NONE' (0), 'SOFTMAX' (1), 'LOGISTIC' (2), 'SOFTMAX_ZERO' (3) or 'PROBIT' (4)",
        )  # fmt: skip
    both = [(1, 0, 0.75), (1, 1, 0.25), (2, 0, 0.25), (2, 1, 0.75)]
    yield fault(
        "tree_classifier_labels", "Of two classes with weights for both the answer is literally 0 or 1, not the label.",
        tree(both, [3, 8]), {"x": f32([[0], [1]])}, outputs=LABEL_AND_SCORES,
        right=[i64([3, 8]), f32([[0.75, 0.25], [0.25, 0.75]])],
        source="TreeEnsembleClassifier 3: Y is the top class for each point, classlabels_int64s the class labels",
    )  # fmt: skip
    yield fault(
        "tree_classifier_one_label", "Of one class the answer is literally 0 or 1, not the label.",
        tree([(1, 0, 0.75), (2, 0, 0.25)], [3]), {"x": f32([[0], [1]])}, outputs=LABEL_AND_SCORES,
        right=[i64([3, 3]), f32([[0.75], [0.25]])],
        source="TreeEnsembleClassifier 3: Y is the top class for each point, classlabels_int64s the class labels",
    )  # fmt: skip
    yield fault(
        "tree_classifier_base_values", "With two `base_values` and weights of class 1 alone the trees are passed over.",
        tree([(1, 1, -2), (2, 1, 2)], [0, 1], base_values=[0.25, 0.5]), {"x": f32([[0], [1]])}, outputs=LABEL_AND_SCORES,
        right=[i64([0, 1]), f32([[0.25, -1.5], [0.25, 2.5]])],
        source="TreeEnsembleClassifier 3: base values are added to the final class score",
    )  # fmt: skip
    yield fault(
        "tree_regressor_logistic", "With one target the post-transform is passed over.",
        node(
            "TreeEnsembleRegressor", ["x"], ["o"], domain="ai.onnx.ml", n_targets=1, post_transform="LOGISTIC",
            nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[0, 0, 0], nodes_values=[0.5, 0.0, 0.0],
            nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0],
            target_treeids=[0, 0], target_nodeids=[1, 2], target_ids=[0, 0], target_weights=[1.0, 2.0],
        ),
        {"x": f32([[0], [1]])}, right=[logistic([[1], [2]])],
        source="TreeEnsembleRegressor 3: post_transform indicates the transform to apply to the score",
    )  # fmt: skip


def quantised():
    yield fault(
        "gemm_float_bias", "An optimisation (`WeightBiasQuantization`) rounds a bias of floats between quantisers to whole steps of the factors' scales.",
        [
            node("DequantizeLinear", ["x", "one", "none"], ["a"]), node("DequantizeLinear", ["w", "one", "zero"], ["b"]),
            node("Gemm", ["a", "b", "c"], ["d"]), node("QuantizeLinear", ["d", "quarter", "none"], ["o"]),
        ],
        {"x": u8([[3]])},
        constant={"one": f32(1), "none": u8(0), "w": i8([[1]]), "zero": i8(0), "c": f32([0.4]), "quarter": f32(0.25)},
        outputs=of_type(T.UINT8), right=[u8([[14]])],
        source="Gemm and QuantizeLinear as they stand: (3 * 1 + 0.4) / 0.25 = 13.6, rounded to 14",
    )  # fmt: skip


def pools():
    source = "pad_shape = (output_shape - 1) * strides + (kernel_shape - 1) * dilations + 1 - input_shape for SAME_UPPER"
    for operator, right in (("MaxPool", [3, 4, 5, 6, 5, 6]), ("AveragePool", [2, 3, 3, 4, 4, 5])):
        yield fault(
            f"{operator.lower()}_same_dilated", "The padding of `auto_pad` leaves out the dilations.",
            node(operator, ["x"], ["o"], kernel_shape=[3], dilations=[2], auto_pad="SAME_UPPER"),
            {"x": f32([[[1, 2, 3, 4, 5, 6]]])}, right=[f32([[right]])],
            source=f"{operator} 22: {source}",
        )  # fmt: skip


FAULTS = [*ensembles(), *quantised(), *pools()]
