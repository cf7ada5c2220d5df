"""What all families of the zoo share: generated data, rows that are hard on purpose, and how an export is kept.

Everything is seeded: the same versions of the libraries make the same files. Nothing here depends on the engine.
"""

from dataclasses import dataclass, field
from typing import Callable, Iterator

import numpy as np
import onnx

SEED = 20_260_101
ROWS = 1_000

FAMILIES: dict[str, Callable[[], Iterator["Export"]]] = {}


@dataclass
class Export:
    """A model and the rows that it is run on. `make` is called last, so that one failing export costs no other."""

    name: str
    exporter: str
    make: Callable[[], onnx.ModelProto]
    # An array for the only input, or one for each name; or what makes them of the model.
    rows: object
    about: str = ""
    # Whether it is part of the seeded subset that the test suite runs.
    subset: bool = field(default=False)
    # Positions of rows that the subset must hold, beside those at even distances: they guard something.
    guards: list[int] = field(default_factory=list)


def family(name: str):
    """Marks a function as the maker of a family."""

    def register(function):
        FAMILIES[name] = function
        return function

    return register


def random(salt: int = 0) -> np.random.Generator:
    return np.random.default_rng(SEED + salt)


def features(count: int = 8, rows: int = 600, salt: int = 1) -> np.ndarray:
    """Rows of sensor-like features: of different scale, some correlated. Shape [rows, count], float32."""
    generator = random(salt)
    base = generator.normal(size=(rows, count))
    base[:, 1::3] += 0.6 * base[:, ::3][:, : base[:, 1::3].shape[1]]
    scale = np.array([1.0, 10.0, 0.1, 5.0])[np.arange(count) % 4]
    return (base * scale + np.arange(count) % 5).astype(np.float32)


def target(x: np.ndarray, salt: int = 2) -> np.ndarray:
    """A smooth quantity of the features with a step and some noise."""
    noise = random(salt).normal(scale=0.1, size=len(x))
    z = (x - x.mean(0)) / x.std(0)
    return (2 * z[:, 0] + np.sin(2 * z[:, 1]) + (z[:, 2] > 0.3) * z[:, 3] + noise).astype(np.float64)


def classes(x: np.ndarray, count: int = 2, salt: int = 3) -> np.ndarray:
    """Classes 0 to count - 1 of about the same size."""
    y = target(x, salt)
    return np.digitize(y, np.quantile(y, np.linspace(0, 1, count + 1)[1:-1])).astype(np.int64)


def plain_rows(count: int = 8, salt: int = 11) -> np.ndarray:
    """Rows as those of the training."""
    return features(count, ROWS, salt)


def with_missing(rows: np.ndarray, share: float = 0.1, salt: int = 12) -> np.ndarray:
    """The same rows with missing values in a third of them."""
    rows = rows.copy()
    hit = random(salt).random(rows.shape) < share
    hit[len(rows) // 3 :] = False
    rows[hit] = np.nan
    return rows


def thresholds(model: onnx.ModelProto) -> list[tuple[int, float]]:
    """Returns feature and threshold of the nodes of all tree ensembles in a model."""
    found = []
    for node in model.graph.node:
        values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        splits = values.get("nodes_values") or values.get("nodes_values_as_tensor") or values.get("nodes_splits")
        if "nodes_featureids" not in values or splits is None:
            continue
        if isinstance(splits, onnx.TensorProto):
            splits = onnx.numpy_helper.to_array(splits)
        found.extend(zip(values["nodes_featureids"], (float(split) for split in splits)))
    return found


def tree_rows(model: onnx.ModelProto, count: int = 8, missing: bool = False, infinite: bool = True) -> np.ndarray:
    """Rows for trees: plain ones, ties at split thresholds and their neighbours in float32, and extremes."""
    rows = plain_rows(count)
    generator = random(13)
    splits = [(f, t) for f, t in thresholds(model) if f < count]
    if splits:
        for row in range(400, 800):
            for _ in range(1 + row % 3):
                feature, split = splits[generator.integers(len(splits))]
                split = np.float32(split)
                step = (split, np.nextafter(split, np.float32(np.inf)), np.nextafter(split, np.float32(-np.inf)))
                rows[row, feature] = step[generator.integers(3)]
    extremes = [1e30, -1e30, 0.0, -0.0, 1e-40, -1e-40, 3.4e38, -3.4e38, 1e-38]
    extremes += [np.inf, -np.inf] if infinite else []
    for row in range(800, ROWS):
        hit = generator.random(count) < 0.3
        rows[row, hit] = generator.choice(np.array(extremes, dtype=np.float32), size=hit.sum())
    return with_missing(rows) if missing else rows


def sequence_rows(steps: int, channels: int, salt: int = 14, rows: int = ROWS) -> np.ndarray:
    """Windows of smooth signals with noise. Shape [rows, steps, channels], float32."""
    generator = random(salt)
    time = np.arange(steps)[None, :, None] / steps
    phase = generator.random((rows, 1, channels)) * 6.3
    rate = 1 + 4 * generator.random((rows, 1, channels))
    return (np.sin(6.3 * rate * time + phase) + 0.2 * generator.normal(size=(rows, steps, channels))).astype(np.float32)
