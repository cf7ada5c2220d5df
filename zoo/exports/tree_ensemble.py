"""From TreeEnsembleRegressor (ai.onnx.ml 3) to TreeEnsemble (ai.onnx.ml 5), which no exporter writes yet."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

MODES = {"BRANCH_LEQ": 0, "BRANCH_LT": 1, "BRANCH_GTE": 2, "BRANCH_GT": 3, "BRANCH_EQ": 4, "BRANCH_NEQ": 5}
AGGREGATES = {"AVERAGE": 0, "SUM": 1, "MIN": 2, "MAX": 3}


def as_tree_ensemble(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with its one TreeEnsembleRegressor written as a TreeEnsemble."""
    nodes = list(model.graph.node)
    place = next(n for n, node in enumerate(nodes) if node.op_type == "TreeEnsembleRegressor")
    old = nodes[place]
    element = model.graph.input[0].type.tensor_type.elem_type
    base = [value for attribute in old.attribute if attribute.name.startswith("base_values") for value in numbers(
        {attribute.name: helper.get_attribute_value(attribute)}, "base_values")]
    nodes[place] = tree_ensemble(old, element)
    if any(base):
        # The newest operator has no base values: they are added behind it.
        dtype = np.float64 if element == onnx.TensorProto.DOUBLE else np.float32
        model.graph.initializer.append(numpy_helper.from_array(np.array(base, dtype=dtype), "base"))
        nodes.insert(place + 1, helper.make_node("Add", ["trees", "base"], [old.output[0]]))
        nodes[place].output[0] = "trees"
    for output in model.graph.output:
        output.type.tensor_type.elem_type = element
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 5)])
    model.ir_version = max(model.ir_version, 9)
    return model


def tree_ensemble(old: onnx.NodeProto, element: int) -> onnx.NodeProto:
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in old.attribute}
    dtype = np.float64 if element == onnx.TensorProto.DOUBLE else np.float32
    read = lambda name: np.asarray(numbers(given, name), dtype=dtype)
    modes = [mode.decode() for mode in given["nodes_modes"]]
    keys = list(zip(given["nodes_treeids"], given["nodes_nodeids"]))
    weights = dict(zip(zip(given["target_treeids"], given["target_nodeids"]), read("target_weights")))
    targets = dict(zip(zip(given["target_treeids"], given["target_nodeids"]), given["target_ids"]))
    branches = {key: place for place, key in enumerate(k for k, m in zip(keys, modes) if m != "LEAF")}
    leaves = {key: place for place, key in enumerate(k for k, m in zip(keys, modes) if m == "LEAF")}
    kept = [n for n, mode in enumerate(modes) if mode != "LEAF"]

    def child(name, n):
        key = (keys[n][0], given[name][n])
        return (leaves[key], 1) if key in leaves else (branches[key], 0)

    trues = [child("nodes_truenodeids", n) for n in kept]
    falses = [child("nodes_falsenodeids", n) for n in kept]
    missing = given.get("nodes_missing_value_tracks_true") or [0] * len(modes)
    roots = [branches[(t, 0)] for t in sorted({t for t, _ in keys}) if (t, 0) in branches]
    post = {"NONE": 0, "SOFTMAX": 1, "LOGISTIC": 2, "SOFTMAX_ZERO": 3, "PROBIT": 4}
    return helper.make_node(
        "TreeEnsemble",
        list(old.input),
        list(old.output),
        domain="ai.onnx.ml",
        n_targets=given["n_targets"],
        aggregate_function=AGGREGATES[given.get("aggregate_function", b"SUM").decode()],
        post_transform=post[given.get("post_transform", b"NONE").decode()],
        tree_roots=roots,
        nodes_modes=numpy_helper.from_array(np.array([MODES[modes[n]] for n in kept], dtype=np.uint8), "modes"),
        nodes_featureids=[given["nodes_featureids"][n] for n in kept],
        nodes_splits=numpy_helper.from_array(read("nodes_values")[kept], "splits"),
        nodes_truenodeids=[place for place, _ in trues],
        nodes_trueleafs=[leaf for _, leaf in trues],
        nodes_falsenodeids=[place for place, _ in falses],
        nodes_falseleafs=[leaf for _, leaf in falses],
        nodes_missing_value_tracks_true=[int(missing[n]) for n in kept],
        leaf_targetids=[targets[key] for key in leaves],
        leaf_weights=numpy_helper.from_array(np.array([weights[key] for key in leaves], dtype=dtype), "weights"),
    )


def numbers(given, name):
    """A list attribute, or the tensor that stands for it where numbers are doubles."""
    tensor = given.get(f"{name}_as_tensor")
    return numpy_helper.to_array(tensor) if tensor is not None else given[name]
