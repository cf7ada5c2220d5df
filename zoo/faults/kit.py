"""What the tables of faults share: a row, how its minimal model is made, and how it is written as text.

A row is a node with its inputs. Inputs that are `fed` reach the model when it runs, `constant` ones stand in its file.
Besides the minimal model there is one for Dunlin's engine, whose windows hold numbers of four types with the batch as
their first axis: the same nodes between casts and reshapes.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 21
# Element types that an input of Dunlin's engine may have; other numbers go in as int64 and are cast.
WINDOW_TYPES = (np.float32, np.float64, np.int32, np.int64)
DOMAINS = {"ai.onnx.ml": 3, "com.microsoft": 1}
# Values of an array that a text shows.
SHOWN_MAX = 24


@dataclass
class Fault:
    """A fault: the nodes that show it, from inputs `x`, `y`, … to the outputs."""

    name: str
    library: str
    # One sentence.
    cause: str
    nodes: list[onnx.NodeProto]
    fed: dict[str, np.ndarray]
    constant: dict[str, np.ndarray] = field(default_factory=dict)
    # Names and element types of the outputs, which are called `o`, `o1`, …
    outputs: dict[str, int] = field(default_factory=lambda: {"o": TensorProto.FLOAT})
    # What ONNX's text demands: arrays, or why it is to be refused. Without it ONNX Runtime's result is the right one.
    right: list[np.ndarray] | str | None = None
    # Where the text stands that demands it.
    source: str = ""
    opset: int = OPSET
    # Operator sets of other domains than usual.
    domains: dict[str, int] = field(default_factory=dict)
    # Shapes of inputs in the file, where they are not those of the arrays, and shapes of values in between.
    shapes: dict[str, list] = field(default_factory=dict)
    value_info: list[onnx.ValueInfoProto] = field(default_factory=list)
    # Shapes of outputs, where ONNX's own inference does not know them.
    output_shapes: dict[str, list] = field(default_factory=dict)


node = helper.make_node


def f32(values) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def f64(values) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def i64(values) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def u8(values) -> np.ndarray:
    return np.array(values, dtype=np.uint8)


def i8(values) -> np.ndarray:
    return np.array(values, dtype=np.int8)


def constant_branch(values) -> onnx.GraphProto:
    """A branch of an `If` that gives the same values whatever the inputs."""
    made = node("Constant", [], ["v"], value=numpy_helper.from_array(f32(values)))
    shape = helper.make_tensor_value_info("v", TensorProto.FLOAT, [len(values)])
    return helper.make_graph([made], "branch", [], [shape])


def choice(condition: str, output: str, then_values, else_values) -> onnx.NodeProto:
    """An `If` between two constant branches."""
    branches = {"then_branch": constant_branch(then_values), "else_branch": constant_branch(else_values)}
    return node("If", [condition], [output], **branches)


def of_type(kind: int) -> dict[str, int]:
    """The one output `o` of this element type."""
    return {"o": kind}


def model(fault: Fault) -> onnx.ModelProto:
    """The minimal model."""
    inputs = [value(name, array, fault.shapes.get(name, list(array.shape))) for name, array in fault.fed.items()]
    shape = fault.output_shapes.get
    outputs = [helper.make_tensor_value_info(name, kind, shape(name)) for name, kind in fault.outputs.items()]
    constants = [numpy_helper.from_array(array, name) for name, array in fault.constant.items()]
    graph = helper.make_graph(fault.nodes, fault.name, inputs, outputs, constants, value_info=fault.value_info)
    return finished(fault, graph)


def window_model(fault: Fault) -> onnx.ModelProto:
    """The same between the types and shapes of a window and of a row of outputs."""
    constants = [numpy_helper.from_array(array, name) for name, array in fault.constant.items()]
    inputs, before, after = [], [], []
    renamed = {name: f"{name}.row" for name in fault.outputs}
    for name, array in fault.fed.items():
        taken = array if array.dtype.type in WINDOW_TYPES else array.astype(np.int64)
        inputs.append(value(name, taken, [1, *array.shape]))
        constants.append(numpy_helper.from_array(i64(array.shape), f"{name}.shape"))
        renamed[name] = f"{name}.of_window"
        shaped = renamed[name] if taken is array else f"{name}.shaped"
        before.append(node("Reshape", [name, f"{name}.shape"], [shaped]))
        if taken is not array:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            before.append(node("Cast", [shaped], [renamed[name]], to=kind))
    if not inputs:
        inputs.append(value("unused", f32([[0]]), [1, 1]))
    constants.append(numpy_helper.from_array(i64([1, -1]), "row.shape"))
    outputs = []
    for name, kind in fault.outputs.items():
        plain = kind if kind in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64) else TensorProto.INT64
        cast = renamed[name] if plain == kind else f"{name}.cast"
        if plain != kind:
            after.append(node("Cast", [renamed[name]], [cast], to=plain))
        after.append(node("Reshape", [cast, "row.shape"], [name]))
        outputs.append(helper.make_tensor_value_info(name, plain, None))
    middle = []
    for one in fault.nodes:
        inner = onnx.NodeProto()
        inner.CopyFrom(one)
        inner.input[:] = [renamed.get(name, name) for name in one.input]
        inner.output[:] = [renamed.get(name, name) for name in one.output]
        middle.append(inner)
    graph = helper.make_graph(before + middle + after, fault.name, inputs, outputs, constants)
    return finished(fault, graph)


def value(name: str, array: np.ndarray, shape: list) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)


def finished(fault: Fault, graph: onnx.GraphProto) -> onnx.ModelProto:
    domains = {one.domain for one in fault.nodes if one.domain}
    versions = {domain: DOMAINS.get(domain, 1) for domain in sorted(domains)} | fault.domains
    opsets = [helper.make_opsetid("", fault.opset), *(helper.make_opsetid(*pair) for pair in versions.items())]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="")
    # The shapes of the outputs, which ONNX demands.
    inferred = onnx.shape_inference.infer_shapes(made)
    for output, known in zip(made.graph.output, inferred.graph.output):
        output.CopyFrom(known)
    return made


def entry(fault: Fault) -> dict:
    """The fault's entry of the index."""
    right = fault.right
    return {
        "name": fault.name,
        "library": fault.library,
        "cause": fault.cause,
        "source": fault.source,
        "node": " → ".join(node_text(one) for one in fault.nodes) + opset_text(fault),
        "input": "; ".join(input_text(fault)),
        "inputs": [tensor(name, array) for name, array in fault.fed.items()],
        "right": right if right is None or isinstance(right, str) else [tensor("", array) for array in right],
    }


def tensor(name: str, array: np.ndarray) -> dict:
    values = [float(one) for one in array.ravel()]
    # JSON has no number for what is not finite.
    values = [one if np.isfinite(one) else str(one) for one in values]
    return {"name": name, "type": str(array.dtype), "shape": list(array.shape), "values": values}


def opset_text(fault: Fault) -> str:
    versions = {"": OPSET, **DOMAINS}
    told = ([("", fault.opset)] if fault.opset != OPSET else []) + list(fault.domains.items())
    told = [f"{domain} {version}".strip() for domain, version in told if versions.get(domain) != version]
    return f" (operator set {', '.join(told)})" if told else ""


def input_text(fault: Fault) -> list[str]:
    fed = [f"{name} = {array_text(array)}" for name, array in fault.fed.items()]
    return fed + [f"{name} = {array_text(array)}, constant" for name, array in fault.constant.items()]


def node_text(one: onnx.NodeProto) -> str:
    """A node as the call of `helper.make_node` that makes it."""
    words = [repr(one.op_type), names_text(one.input), names_text(one.output)]
    words += [f"{attribute.name}={attribute_text(attribute)}" for attribute in one.attribute]
    if one.domain:
        words.append(f"domain={one.domain!r}")
    return f"make_node({', '.join(words)})".replace("'", '"')


def names_text(names) -> str:
    return "[" + ", ".join(repr(name) for name in names) + "]"


def attribute_text(attribute: onnx.AttributeProto) -> str:
    found = helper.get_attribute_value(attribute)
    if isinstance(found, onnx.TensorProto):
        array = numpy_helper.to_array(found)
        return f"from_array({array_text(array)})"
    if isinstance(found, onnx.GraphProto):
        return f"make_graph([{', '.join(node_text(inner) for inner in found.node)}], …)"
    if isinstance(found, bytes):
        return repr(found.decode())
    if isinstance(found, (list, tuple)) or hasattr(found, "__len__"):
        return "[" + ", ".join(repr(one.decode()) if isinstance(one, bytes) else number_text(one) for one in found) + "]"
    return number_text(found)


def number_text(number) -> str:
    return f"{float(number):.7g}" if isinstance(number, float) else str(number)


def array_text(array: np.ndarray) -> str:
    if not 0 < array.size <= SHOWN_MAX:
        return f"{array.dtype} of shape {list(array.shape)}"
    return f"{array.dtype} {nested_text(array)}"


def nested_text(array: np.ndarray) -> str:
    if array.ndim:
        return "[" + ", ".join(nested_text(part) for part in array) + "]"
    number = array.item()
    return f"{array.astype(np.float64):.7g}" if isinstance(number, float) else str(number)
