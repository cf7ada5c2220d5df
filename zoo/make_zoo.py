"""Makes the zoo: models of all families, by the exporters that people use, with rows that are hard on purpose.

    python make_zoo.py FOLDER [--family NAME] [--quick] [--subset]

Writes `NAME.onnx`, `NAME.npy` (the rows) and `NAME.expected.npz` (what ONNX Runtime says) for each, and `index.json` with
family, exporter and opsets; a model that the exporter could not make stands there with the reason. Everything is seeded.
Adding a model is adding a line to one of the families in `exports/`.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import json
import logging
import os
import platform
import sys
import traceback
import warnings
from pathlib import Path

# One thread: the sums of some libraries depend on the number of threads.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
import onnx
import onnxruntime

from exports import kit

MODULES = {
    "scikit_learn": ["scikit-learn", "skl2onnx"],
    "boosted": ["xgboost", "lightgbm", "onnxmltools"],
    "pytorch": ["torch"],
    "quantised": ["onnxruntime"],
}
# Every so many models of a family are made for a quick look, and those of the subset.
QUICK = 5


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--family")
    arguments.add_argument("--quick", action="store_true", help="a fifth of the models")
    arguments.add_argument("--subset", action="store_true", help="the small models of the test suite alone")
    given = arguments.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    given.folder.mkdir(parents=True, exist_ok=True)
    missing = [reason for module in MODULES if (reason := unavailable(module))]
    if given.family and given.family not in kit.FAMILIES:
        print(f"`{given.family}` is no family; there are {', '.join(kit.FAMILIES)}", file=sys.stderr)
        return 1
    entries = []
    for family, make in kit.FAMILIES.items():
        if given.family in (None, family):
            print(f"making {family}", flush=True)
            for number, export in enumerate(make()):
                if (given.subset and not export.subset) or (given.quick and number % QUICK and not export.subset):
                    continue
                entries.append(kept(given.folder, family, export))
    index = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "versions": {name: version(name) for names in MODULES.values() for name in names} | {"onnx": onnx.__version__},
        "missing": missing,
        "models": entries,
    }
    (given.folder / "index.json").write_text(json.dumps(index, indent=1))
    made = sum("reason" not in entry for entry in entries)
    print(f"{made} models made, {len(entries) - made} could not be made")
    return 0


def unavailable(module: str) -> str | None:
    """Loads a module of families; returns why it cannot be."""
    try:
        importlib.import_module(f"exports.{module}")
        return None
    except ImportError as error:
        return f"{module}: {error}"


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def kept(folder: Path, family: str, export: kit.Export) -> dict:
    """Makes an export and writes its files; returns its entry of the index."""
    entry = {"name": export.name, "family": family, "exporter": export.exporter, "about": export.about, "subset": export.subset, "guards": export.guards}
    try:
        model = settled(export.make(), export.name)
        rows = export.rows(model) if callable(export.rows) else export.rows
        if rows.dtype == np.float32 and takes(model) == onnx.TensorProto.INT64:
            rows = rows.astype(np.int64)
        expected = outputs(model, rows)
    except Exception as error:  # an exporter may fail in any way; the table says which did
        print(f"{export.name}: {type(error).__name__}: {error}"[:300], file=sys.stderr)
        if os.environ.get("ZOO_TRACEBACK"):
            traceback.print_exc()
        return entry | {"reason": f"{type(error).__name__}: {error}"[:300]}
    # An old model lying there would be taken for this one.
    path = folder / f"{export.name}.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    np.save(folder / f"{export.name}.npy", rows)
    np.savez_compressed(folder / f"{export.name}.expected.npz", **expected)
    opsets = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
    operators = sorted({node.op_type for node in model.graph.node})
    return entry | {"opsets": opsets, "operators": operators, "bytes": path.stat().st_size}


# What PyTorch's exporter says of a node's origin: the folders of the machine that made the file.
STACK_TRACE = "pkg.torch.onnx.stack_trace"


def settled(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Names the graph and sorts the opsets: some exporters make up the name, and the order is that of a set. Takes out stack
    traces, which are of the machine and not of the model."""
    model.graph.name = name
    for node in [*model.graph.node, *(inner for function in model.functions for inner in function.node)]:
        kept = [prop for prop in node.metadata_props if prop.key != STACK_TRACE]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    opsets = sorted(((opset.domain, opset.version) for opset in model.opset_import))
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, number) for domain, number in opsets)
    return model


def takes(model: onnx.ModelProto) -> int:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    assert len(inputs) == 1, "the zoo's models have one input"
    return inputs[0].type.tensor_type.elem_type


def outputs(model: onnx.ModelProto, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What ONNX Runtime says of all rows; a map becomes an array with a column a key."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    taken = session.get_inputs()[0]
    values = rows.astype({"tensor(double)": np.float64, "tensor(int64)": np.int64}.get(taken.type, rows.dtype))
    size = 1 if taken.shape and taken.shape[0] == 1 else len(rows)
    parts = [session.run(None, {taken.name: values[n : n + size]}) for n in range(0, len(rows), size)]
    named = {}
    for place, output in enumerate(session.get_outputs()):
        found = [plain(part[place]) for part in parts]
        for number, column in enumerate(zip(*found)):
            name = output.name if len(found[0]) == 1 else f"{output.name}.{number}"
            named[name] = np.concatenate(column)
    return named


def plain(value) -> list[np.ndarray]:
    if not isinstance(value, list):
        return [np.asarray(value)]
    if value and isinstance(value[0], dict):
        return [np.array([[row[key] for key in sorted(row)] for row in value], dtype=np.float32)]
    return [np.asarray(part) for part in value]


if __name__ == "__main__":
    sys.exit(main())
