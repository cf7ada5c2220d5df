"""Makes the minimal models that show faults of tract and of ONNX Runtime.

    python make_faults.py FOLDER

Writes `NAME.onnx` for each, `NAME.window.onnx` as Dunlin's engine takes the same nodes, and `faults.json` with inputs, text
and what is right where ONNX's text says it. Adding a fault is adding a row to one of the tables in `faults/`.
"""

import json
import sys
from pathlib import Path

import onnx

from faults import kit, onnx_runtime, tract_fails, tract_wrong


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 1
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.onnx"):
        old.unlink()
    faults = [*tract_wrong.FAULTS, *tract_fails.FAULTS, *onnx_runtime.FAULTS]
    names = [fault.name for fault in faults]
    assert len(set(names)) == len(names), "two faults have one name"
    for fault in faults:
        model = kit.model(fault)
        # What is to be refused is not right in the first place.
        if not isinstance(fault.right, str):
            onnx.checker.check_model(model)
        (folder / f"{fault.name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
        (folder / f"{fault.name}.window.onnx").write_bytes(kit.window_model(fault).SerializeToString(deterministic=True))
    entries = [kit.entry(fault) for fault in faults]
    (folder / "faults.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False))
    print(f"{len(faults)} faults with onnx {onnx.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
