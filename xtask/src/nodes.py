"""Writes the node tests of the `onnx` package into a folder: for each case its model, and its inputs and outputs.

A case is two ONNX files: `NAME.onnx`, the model, and `NAME.data.onnx`, whose initialisers `input/0`, `output/0`... are
the values and whose metadata are the tolerances. Values that are no tensors (sequences, maps, absent ones) are left
out. The domains are ai.onnx and ai.onnx.ml; what needs another domain is not written.
"""

import pathlib
import sys
import warnings

warnings.simplefilter("ignore")

import onnx
from onnx import helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import load_model_tests

DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}
# Models of single operators in older operator sets, made by PyTorch.
KINDS = ["pytorch-operator", "pytorch-converted", "simple"]


def tensor(name, value, kind):
    if not kind.type.HasField("tensor_type") or value is None:
        return None
    made = value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(value)
    made.name = name
    return made


def write(folder, name, model, data, rtol, atol):
    if not {opset.domain for opset in model.opset_import} <= DOMAINS:
        return
    inputs, outputs = data
    values = [tensor(f"input/{i}", v, k) for i, (v, k) in enumerate(zip(inputs, model.graph.input))]
    values += [tensor(f"output/{i}", v, k) for i, (v, k) in enumerate(zip(outputs, model.graph.output))]
    graph = helper.make_graph([], name, [], [], [value for value in values if value is not None])
    holder = helper.make_model(graph)
    helper.set_model_props(holder, {"rtol": str(rtol), "atol": str(atol)})
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    (folder / f"{name}.data.onnx").write_bytes(holder.SerializeToString())


def stored(folder, kind):
    for case in load_model_tests(kind=kind):
        source = pathlib.Path(case.model_dir)
        model = onnx.load(source / "model.onnx")
        for number, data in enumerate(sorted(source.glob("test_data_set_*"))):
            sides = []
            for side, kinds in (("input", model.graph.input), ("output", model.graph.output)):
                values = []
                for index, kind_of in enumerate(kinds):
                    file = data / f"{side}_{index}.pb"
                    is_tensor = kind_of.type.HasField("tensor_type") and file.exists()
                    values.append(onnx.TensorProto.FromString(file.read_bytes()) if is_tensor else None)
                sides.append(values)
            name = f"{kind.replace('-', '_')}_{case.name}" + (f"_{number}" if number else "")
            write(folder, name, model, sides, case.rtol, case.atol)


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for case in collect_testcases(None):
        write(folder, case.name, case.model, case.data_sets[0], case.rtol, case.atol)
    for kind in KINDS:
        stored(folder, kind)


main()
