"""A small detector in the form of YOLOv5: SiLU, pooled and upsampled branches that are joined, two heads, a decode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from deploy.graph import files
from deploy.manifest import Manifest, Weights
from deploy.specs import NmsSettings, Precision, Preprocessing, TensorSpec
from deploy.workflows.source import with_nms

SIDE, CLASSES = 64, 5
LABELS = ("ant", "bee", "cat", "dog", "elk")
# Boxes of 10 to 40 pixels at cells of 4 and of 8.
STRIDES, ANCHORS = (4, 8), (((10, 13), (16, 10), (12, 12)), ((30, 20), (24, 40), (33, 33)))
PREDICTIONS = 3 * ((SIDE // 4) ** 2 + (SIDE // 8) ** 2)
LETTERBOX = Preprocessing(SIDE, (SIDE, SIDE), "linear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "letterbox")


class _Graph:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, out: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"{out}_node", **attributes))
        return out

    def conv(
        self,
        out: str,
        source: str,
        inner: int,
        outer: int,
        size: int,
        stride: int = 1,
        gain: float = 2,
        bias: float = 0,
    ) -> str:
        shape = (outer, inner, size, size)
        weight = (self.rng.standard_normal(shape) * gain / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        weight -= weight.mean(axis=(1, 2, 3), keepdims=True)  # images are all positive: without it answers are one
        bias = np.full(outer, bias, np.float32)
        pad = 0 if stride == size else size // 2
        names = self.constant(f"{out}.weight", weight), self.constant(f"{out}.bias", bias)
        return self.op("Conv", out, source, *names, strides=[stride] * 2, pads=[pad] * 4)

    def silu(self, out: str, source: str) -> str:
        return self.op("Mul", out, source, self.op("Sigmoid", f"{out}_gate", source))

    def ints(self, name: str, *values: int) -> str:
        return self.constant(name, np.array(values, np.int64))


def _body(graph: _Graph) -> list[str]:
    """The maps at strides 4 and 8, each of 32 channels."""
    fine = graph.silu("fine", graph.conv("fine_conv", "input", 3, 16, 4, 4, gain=6))
    coarse = graph.silu("coarse", graph.conv("coarse_conv", fine, 16, 32, 2, 2))
    pooled = graph.op("MaxPool", "pooled", coarse, kernel_shape=[5, 5], pads=[2] * 4, strides=[1, 1])
    wide = graph.op("MaxPool", "wide", pooled, kernel_shape=[5, 5], pads=[2] * 4, strides=[1, 1])
    spp = graph.silu(
        "spp", graph.conv("spp_conv", graph.op("Concat", "pools", coarse, pooled, wide, axis=1), 96, 32, 1)
    )
    scales = graph.constant("scales", np.array([1, 1, 2, 2], np.float32))
    up = graph.op("Resize", "up", spp, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric")
    joined = graph.op("Concat", "joined", up, fine, axis=1)
    return [graph.silu("neck", graph.conv("neck_conv", joined, 48, 32, 1)), spp]


def _decode(graph: _Graph, maps: list[str]) -> None:
    """As models/yolo_detect.py decodes, with grid and anchors as constants."""
    channels, flat = 5 + CLASSES, []
    for index, source in enumerate(maps):
        head = graph.conv(f"head{index}", source, 32, 3 * channels, 1, gain=2, bias=-1.5)
        shape = graph.ints(f"shape{index}", 0, 3, channels, -1)
        flat.append(graph.op("Reshape", f"level{index}", head, shape))
    raw = graph.op("Transpose", "raw", graph.op("Concat", "levels", *flat, axis=3), perm=[0, 1, 3, 2])
    rows = graph.op("Reshape", "rows", raw, graph.ints("rows_shape", 0, -1, channels))
    parts = ["centre", "size", "objectness", "classes"]
    split = [graph.op("Sigmoid", "predictions", rows), graph.ints("split_sizes", 2, 2, 1, CLASSES)]
    graph.nodes.append(helper.make_node("Split", split, parts, name="split_node", axis=2))
    strides, corners, anchors = _grid()
    step = graph.op("Mul", "step", "centre", graph.constant("two_strides", 2 * strides))
    middle = graph.op("Add", "middle", step, graph.constant("corners", corners))
    squared = graph.op("Mul", "squared", "size", "size")
    half = graph.op("Mul", "half", squared, graph.constant("two_anchors", 2 * anchors))
    ends = [graph.op(kind, kind.lower(), middle, half) for kind in ("Sub", "Add")]
    graph.op("Concat", "boxes", *ends, axis=2)
    graph.op("Mul", "scores", "objectness", "classes")


def _grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    strides, corners, anchors = [], [], []
    for anchor in range(3):
        for stride, sizes in zip(STRIDES, ANCHORS):
            cells = SIDE // stride
            y, x = np.mgrid[:cells, :cells]
            corners.append((np.stack([x, y], 2).reshape(-1, 2) - 0.5) * stride)
            strides.append(np.full((cells**2, 1), stride))
            anchors.append(np.tile(sizes[anchor], (cells**2, 1)))
    stacked = (np.concatenate(part).astype(np.float32) for part in (strides, corners, anchors))
    return tuple(stacked)


def detector() -> ir.Model:
    """``input[batch, 3, 64, 64]`` → ``boxes[batch, 960, 4]``, ``scores[batch, 960, 5]``."""
    graph = _Graph()
    _decode(graph, _body(graph))
    made = helper.make_graph(
        graph.nodes,
        "detector",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", PREDICTIONS, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", PREDICTIONS, CLASSES]),
        ],
        graph.weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def manifest(**changes: object) -> Manifest:
    return Manifest(
        "tiny_detector",
        Precision.FP32,
        (TensorSpec("input", "float32", ("batch", 3, SIDE, SIDE)),),
        (
            TensorSpec("boxes", "float32", ("batch", PREDICTIONS, 4)),
            TensorSpec("scores", "float32", ("batch", PREDICTIONS, CLASSES)),
        ),
        task="detection",
        weights=Weights("file", "tiny.pt", "ab" * 32),
        preprocessing=LETTERBOX,
        labels=LABELS,
    ).evolve(**changes)


def write_detector(path: Path, **changes: object) -> Path:
    """The detector with its manifest, some fields of it changed."""
    files.save(path, detector(), manifest(**changes))
    return path


def write_with_nms(path: Path, settings: NmsSettings, **changes: object) -> Path:
    """The detector that ends in NMS."""
    files.save(path, *with_nms(detector(), manifest(**changes), settings))
    return path
