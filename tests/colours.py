"""A detector whose answers are known: the smallest box around all red, all green and all blue pixels of an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from graphs import constant, model, tensor
from onnx import helper

from deploy.graph import files
from deploy.manifest import Manifest, Weights
from deploy.specs import Precision, Preprocessing, TensorSpec

SIDE = 64
LABELS = ("red", "green", "blue")
LETTERBOX = Preprocessing(SIDE, (SIDE, SIDE), "linear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "letterbox")
INPUTS = (TensorSpec("input", "float32", ("batch", 3, SIDE, SIDE)),)
OUTPUTS = (TensorSpec("boxes", "float32", ("batch", 3, 4)), TensorSpec("scores", "float32", ("batch", 3, 3)))


def _graph() -> onnx.ModelProto:
    """A pixel is of a channel where that is above a half of white and the other two are below."""
    nodes, op = [], helper.make_node

    def add(kind: str, out: str, *inputs: str, **attributes: object) -> str:
        nodes.append(op(kind, list(inputs), [out], **attributes))
        return out

    bright = add("Cast", "bright", add("Greater", "above", "input", "half"), to=1)
    alone = add("Equal", "alone", add("ReduceSum", "colours", bright, "channels"), "one")
    seen = add("Mul", "seen", bright, add("Cast", "pure", alone, to=1))
    ends = []
    for axis, over in (("x", "rows"), ("y", "columns")):
        line = add("ReduceMax", f"line_{axis}", seen, over, keepdims=0)  # [batch, 3, 64]: is there any
        last = add("ReduceMax", f"last_{axis}", add("Mul", f"places_{axis}", line, "after"), "lines")
        rest = add("ReduceMax", f"rest_{axis}", add("Mul", f"turned_{axis}", line, "before"), "lines")
        ends.append((add("Sub", f"first_{axis}", "side", rest), last))
    (left, right), (top, bottom) = ends
    add("Concat", "boxes", left, top, right, bottom, axis=2)
    found = add("ReduceMax", "found", seen, "plane", keepdims=0)  # [batch, 3]
    add("Mul", "scores", add("Unsqueeze", "found_too", found, "lines"), "certain")
    weights = [
        constant("half", 0.5),
        constant("one", 1.0),
        constant("side", float(SIDE)),
        constant("after", np.arange(1, SIDE + 1)),
        constant("before", np.arange(SIDE, 0, -1)),
        constant("certain", np.diag([0.9, 0.8, 0.7])),
        *(
            constant(name, axes, np.int64)
            for name, axes in (("channels", [1]), ("rows", [2]), ("columns", [3]), ("lines", [2]), ("plane", [2, 3]))
        ),
    ]
    ends_of = [tensor(spec.name, spec.shape) for spec in OUTPUTS]
    return model(nodes, [tensor("input", INPUTS[0].shape)], ends_of, weights)


def write_colours(path: Path, labels: tuple[str, ...] = LABELS) -> Path:
    """The detector with its manifest. Red scores 0.9, green 0.8, blue 0.7."""
    proto = _graph()
    onnx.checker.check_model(proto, full_check=True)
    manifest = Manifest(
        "colours",
        Precision.FP32,
        INPUTS,
        OUTPUTS,
        task="detection",
        weights=Weights("code"),
        preprocessing=LETTERBOX,
        labels=labels,
    )
    files.save(path, ir.from_proto(proto), manifest)
    return path
