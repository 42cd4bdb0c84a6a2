"""The benchmarks are scripts: their folder goes on the path as Python puts it there when one is run."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch):
    """Import a module of ``benchmarks/`` by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def script(monkeypatch):
    """Run a script of ``benchmarks/`` in a process that sees no GPU; returns the finished process."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # PyTorch's threads spin when a busy machine keeps them waiting

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, BENCHMARKS / name, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    return run


def classifier(side: int) -> onnx.ModelProto:
    """Two convolutions and a linear layer for images of ``side`` pixels, without a manifest."""
    rng = np.random.default_rng(0)
    weights = {"w1": (16, 3, 3, 3), "w2": (32, 16, 3, 3), "w3": (10, 32)}
    arrays = {name: rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])) for name, shape in weights.items()}
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["c1"], name="conv1", strides=[4, 4]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="conv2"),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w3"], ["logits"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", 3, side, side])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def graph(tmp_path):
    """Write a classifier of some image size; returns the file."""

    def write(side: int, name: str = "net.onnx") -> Path:
        path = tmp_path / name
        onnx.save(onnx.shape_inference.infer_shapes(classifier(side)), path)
        return path

    return write
