"""The models that both servers have: identities of several types, a slow one, and a small CNN from one ONNX file.

For Triton each is a model of its Python backend; for ours the identities are runners made here and the CNN is opened as
any file is.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from graphs import model, tensor, weight
from onnx import helper

from deploy.manifest import METADATA_KEY, Manifest
from deploy.runtime.base import Array, Runner
from deploy.specs import Precision, TensorSpec

MAX_BATCH = 8
MAX_QUEUE = 2
LABELS = tuple(f"class_{index}" for index in range(10))
CNN = "cnn"
# name → input → (output, numpy's type). Each tensor has one open axis beside the batch, but for the slow model's.
ECHOES: dict[str, dict[str, tuple[str, str]]] = {
    "identity_fp32": {"x": ("y", "float32")},
    "identity_fp16": {"x": ("y", "float16")},
    "identity_int64": {"x": ("y", "int64")},
    "identity_uint8": {"x": ("y", "uint8")},
    "identity_bool": {"x": ("y", "bool")},
    "identity_bytes": {"x": ("y", "object")},
    "pair": {"a": ("c", "float32"), "b": ("d", "int64")},
    "slow": {"x": ("y", "float32")},
}
NAMES = (*ECHOES, CNN)


class Echo(Runner):
    """Its inputs under other names; ``slow`` first sleeps for as many seconds as its first element says."""

    backend, execution = "python", "executed on CPU"

    def __init__(self, name: str) -> None:
        self._renamed, self._slow = ECHOES[name], name == "slow"
        self.inputs = tuple(TensorSpec(x, dtype, ("batch", width(name))) for x, (_, dtype) in self._renamed.items())
        self.outputs = tuple(TensorSpec(y, dtype, ("batch", width(name))) for y, dtype in self._renamed.values())

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.check(feeds)
        if self._slow:
            time.sleep(float(feeds["x"][0, 0]))
        return {output: feeds[name].copy() for name, (output, _) in self._renamed.items()}

    def close(self) -> None:
        pass


def width(name: str) -> int | str:
    """The size of the axis beside the batch."""
    return 1 if name == "slow" else "n"


def write_cnn(path: Path) -> Path:
    """Convolution, pool and classifier of 10 classes with labels; scores 8 and 9 of each row are equal."""
    head = weight("head", 16, 10)
    weights = onnx.numpy_helper.to_array(head).copy()
    weights[:, 9] = weights[:, 8]
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["convolved"], pads=[1] * 4),
        helper.make_node("Relu", ["convolved"], ["activated"]),
        helper.make_node("GlobalAveragePool", ["activated"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "head"], ["logits"]),
    ]
    inputs, outputs = [tensor("input", ["batch", 3, 16, 16])], [tensor("logits", ["batch", 10])]
    weights = [weight("kernel", 16, 3, 3, 3), onnx.numpy_helper.from_array(weights, "head")]
    graph = model(nodes, inputs, outputs, weights)
    onnx.checker.check_model(graph, full_check=True)
    specs = (TensorSpec("input", "float32", ("batch", 3, 16, 16)),), (TensorSpec("logits", "float32", ("batch", 10)),)
    entry = graph.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, Manifest(CNN, Precision.FP32, *specs, labels=LABELS).to_json()
    onnx.save(graph, path)
    return path


def image(rows: int = 1) -> Array:
    """What the CNN is asked for."""
    return np.random.default_rng(rows).standard_normal((rows, 3, 16, 16)).astype(np.float32)


@functools.cache
def _session() -> ort.InferenceSession:
    with tempfile.TemporaryDirectory() as folder:
        return ort.InferenceSession(write_cnn(Path(folder) / "cnn.onnx").read_bytes())


def logits(rows: int) -> Array:
    """The CNN's answer to :func:`image`, from ONNX Runtime in this process."""
    return np.asarray(_session().run(None, {"input": image(rows)})[0])
