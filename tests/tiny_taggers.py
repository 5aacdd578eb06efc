"""Small ONNX taggers with the contracts of real ones: what they give can be computed by hand.

The score of label k is the mean of one colour channel of the picture that arrives, times a weight, plus a bias.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LABELS = [
    # Ratings are not the first, characters not the last: who counts by position is wrong here.
    ("1girl", "0"),
    ("general", "9"),
    ("zorb_(hero)", "4"),
    ("sensitive", "9"),
    ("long_hair", "0"),
    ("^_^", "0"),
    ("questionable", "9"),
    ("explicit", "9"),
]


@dataclass(frozen=True)
class TinyModel:
    """``channel`` of the arriving picture (0 to 2) and weight and bias of each label: score = weight * mean + bias."""

    channel: Sequence[int]
    weight: Sequence[float]
    bias: Sequence[float]

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """float64 [labels] for pixels [h, w, 3] as they arrive."""
        mean = pixels.astype(np.float64).mean(axis=(0, 1))
        return mean[list(self.channel)] * np.asarray(self.weight) + np.asarray(self.bias)


# For pixels from 0 to 255: scores between 0 and 1.
TINY = TinyModel(
    channel=(0, 1, 2, 0, 1, 2, 0, 1),
    weight=[1 / 255] * 8,
    bias=[0.0] * 8,
)


def write_model(
    path: Path,
    model: TinyModel = TINY,
    *,
    batch: int | str = "batch",
    size_px: int | str = 32,
    channels_first: bool = False,
    sigmoid_of_logits: bool = False,
    element: int = TensorProto.FLOAT,
    extra_output: bool = False,
) -> Path:
    """Write it as ONNX; ``sigmoid_of_logits`` puts a Sigmoid at its end, as WD14 has one."""
    labels = len(model.channel)
    matrix = np.zeros((3, labels), np.float32)
    matrix[list(model.channel), range(labels)] = model.weight
    shape = [batch, 3, size_px, size_px] if channels_first else [batch, size_px, size_px, 3]
    axes = [2, 3] if channels_first else [1, 2]
    nodes = [
        helper.make_node("Cast", ["input_1:0"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["mean", "matrix"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Sigmoid" if sigmoid_of_logits else "Identity", ["sum"], ["predictions"]),
    ]
    outputs = [helper.make_tensor_value_info("predictions", TensorProto.FLOAT, [batch, labels])]
    if extra_output:
        outputs.insert(0, helper.make_tensor_value_info("mean", TensorProto.FLOAT, [batch, 3]))
    graph = helper.make_graph(
        nodes,
        "tiny tagger",
        [helper.make_tensor_value_info("input_1:0", element, shape)],
        outputs,
        [
            numpy_helper.from_array(matrix, "matrix"),
            numpy_helper.from_array(np.asarray(model.bias, np.float32), "bias"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    made.ir_version = 7
    onnx.checker.check_model(made)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(made, str(path))
    return path


def write_csv(path: Path, labels: Sequence[tuple[str, str]] = LABELS) -> Path:
    """As ``selected_tags.csv``."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["tag_id", "name", "category", "count"])
        rows.writerows([number, name, category, 100] for number, (name, category) in enumerate(labels))
    return path


def write_tagger(folder: Path, model: TinyModel = TINY, labels: Sequence[tuple[str, str]] = LABELS, **how) -> Path:
    """A folder with a model and its csv."""
    write_model(folder / "model.onnx", model, **how)
    write_csv(folder / "selected_tags.csv", labels)
    return folder


def write_json(path: Path, values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path
