"""The networks that the soak test serves, and images whose answer is known: every answer names its request."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image

from deploy.images.decode import decode
from deploy.images.default import default_preprocessing
from deploy.images.preprocess import preprocess
from deploy.images.synthetic import synthetic_images
from deploy.specs import Preprocessing, TensorSpec

WIDTH = 64
WEIGHT = np.random.default_rng(7).standard_normal((WIDTH, WIDTH)).astype(np.float32)
IMAGE_INPUT = TensorSpec("input", "float32", ("batch", 3, 224, 224))
# steady: never reloaded, so its statistics can be added up. replaced: loaded again. moved: unloaded and loaded.
# slow: what waits for it still waits when the server is told to stop. pictures: the mean of each channel.
TAGGED = ("steady", "replaced", "moved")
_SLOW_NODES, _SLOW_WIDTH = 400, 2048


def rows_of(tag: int, count: int) -> np.ndarray:
    """``count`` rows that no other request has: a tag of 48 bits in two columns, noise of that seed in the others."""
    rows = np.random.default_rng(tag).standard_normal((count, WIDTH)).astype(np.float32)
    rows[:, 0], rows[:, 1] = tag >> 24, tag & 0xFFFFFF
    return rows


def answer_to(rows: np.ndarray) -> np.ndarray:
    """What a tagged network gives: the tag, and the other columns times ``WEIGHT``."""
    return np.concatenate([rows[:, :2], rows[:, 2:] @ WEIGHT[2:]], axis=1)


def write_models(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in TAGGED:
        _save(folder / f"{name}.onnx", *_tagged())
    _save(folder / "slow.onnx", *_slow())
    nodes = [helper.make_node("ReduceMean", ["input"], ["logits"], axes=[2, 3], keepdims=0)]
    _save(folder / "pictures.onnx", nodes, [], ("input", ["batch", 3, 224, 224]), ("logits", ["batch", 3]), opset=17)


def _tagged() -> tuple:
    weights = [numpy_helper.from_array(WEIGHT[2:], "weight"), *_cuts()]
    nodes = [
        helper.make_node("Slice", ["x", "zero", "two", "one"], ["tag"]),
        helper.make_node("Slice", ["x", "two", "end", "one"], ["rest"]),
        helper.make_node("MatMul", ["rest", "weight"], ["product"]),
        helper.make_node("Concat", ["tag", "product"], ["y"], axis=1),
    ]
    return nodes, weights, ("x", ["batch", WIDTH]), ("y", ["batch", WIDTH + 2])


def _slow() -> tuple:
    """The tag, after a chain of products that takes some tenths of a second whatever the batch."""
    square = np.random.default_rng(1).standard_normal((_SLOW_WIDTH, _SLOW_WIDTH)).astype(np.float32)
    wide = np.random.default_rng(2).standard_normal((WIDTH, _SLOW_WIDTH)).astype(np.float32)
    arrays = {"square": square / np.sqrt(_SLOW_WIDTH), "wide": wide / 1e8}
    weights = [*(numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()), *_cuts()]
    nodes = [helper.make_node("MatMul", ["x", "wide"], ["h0"])]
    nodes += [helper.make_node("MatMul", [f"h{i}", "square"], [f"h{i + 1}"]) for i in range(_SLOW_NODES)]
    nodes.append(helper.make_node("Slice", ["x", "zero", "two", "one"], ["tag"]))
    nodes.append(helper.make_node("Slice", [f"h{_SLOW_NODES}", "zero", "two", "one"], ["end_of_chain"]))
    nodes.append(helper.make_node("Concat", ["tag", "end_of_chain"], ["y"], axis=1))
    return nodes, weights, ("x", ["batch", WIDTH]), ("y", ["batch", 4])


def _cuts() -> list[onnx.TensorProto]:
    given = {"zero": [0], "two": [2], "end": [WIDTH], "one": [1]}
    return [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in given.items()]


def _save(path: Path, nodes: list, weights: list, given: tuple, got: tuple, opset: int = 19) -> None:
    tensors = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in (given, got)]
    graph = helper.make_graph(nodes, path.stem, tensors[:1], tensors[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


@dataclass(frozen=True)
class Picture:
    """An encoded image and the three means that the network must give for it."""

    file: bytes
    means: np.ndarray


def photographs(count: int = 6) -> list[Picture]:
    """JPEG and PNG files of several sizes; what they give is computed here, by the toolkit's own preprocessing."""
    made = []
    for seed in range(count):
        side = 160 + 140 * seed
        (pixels,) = synthetic_images(1, (side, side + 60), seed)
        file = encoded(Image.fromarray(pixels), "PNG" if seed % 3 == 2 else "JPEG")
        made.append(Picture(file, preprocess(decode(file), default_preprocessing([IMAGE_INPUT])).mean(axis=(1, 2))))
    return made


def colour(tag: int) -> Picture:
    """A PNG of one colour, which is the tag's 24 lowest bits."""
    rgb = tag >> 16 & 255, tag >> 8 & 255, tag & 255
    means = (np.array(rgb) / 255 - Preprocessing.mean) / Preprocessing.std
    return Picture(encoded(Image.new("RGB", (256, 256), rgb), "PNG"), means)


def encoded(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()
