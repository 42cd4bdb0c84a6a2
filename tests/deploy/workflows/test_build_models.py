"""Every model in every precision through NVIDIA's own parser and builder, at full size."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import Cli
from onnx import numpy_helper

from deploy.artifacts import sha256_file
from deploy.engine.plan import plan_kind
from deploy.quantize.cache import load


@pytest.fixture(autouse=True)
def rtx():
    if platform.machine() == "x86_64":
        assert metadata.version("tensorrt-rtx-cu13"), "the test environment has TensorRT-RTX on x86-64"
    else:
        pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no package for this platform")


@pytest.fixture
def built(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path, network: Path):
    """Builds a precision in an empty folder; the JSON document."""
    monkeypatch.chdir(tmp_path)

    def build(precision: str) -> dict:
        argv = [network, "--precision", precision, "--calibration-data", photos, "--backend", "tensorrt_rtx"]
        return cli.done("build", *argv, "--json").document

    return build


def check_plan(document: dict, graph: Path) -> None:
    plan = Path(document["plan"])
    manifest = json.loads(plan.with_name(plan.name + ".json").read_text())
    assert manifest == document["manifest"]
    assert plan_kind(plan).flavour == "tensorrt_rtx"
    assert manifest["engine"]["plan_sha256"] == sha256_file(plan)
    assert manifest["engine"]["onnx_sha256"] == sha256_file(graph)
    assert manifest["engine"]["batch"] == {"min": 1, "opt": 8, "max": 32}
    assert manifest["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["batch", 3, 224, 224]}]
    assert manifest["outputs"] == [{"name": "logits", "dtype": "float32", "shape": ["batch", 1000]}]


def test_fp32(built, network: Path):
    document = built("fp32")
    check_plan(document, network)
    assert document["plan"] == f"{network.stem}.fp32.rtx.plan"


def test_fp16(built, network: Path):
    document = built("fp16")
    check_plan(document, Path(f"{network.stem}.fp16.onnx"))
    graph = onnx.load(document["onnx"]).graph
    stored = [tensor for tensor in graph.initializer if numpy_helper.to_array(tensor).ndim == 4]
    assert {tensor.data_type for tensor in stored} == {onnx.TensorProto.FLOAT16}
    figures = document["verdicts"]["graph"]
    assert figures["samples"] == 12
    assert figures["sqnr_db"] > 40
    assert figures["spread"] > 1e-3


def test_int8(built, network: Path):
    document = built("int8")
    check_plan(document, Path(f"{network.stem}.int8.onnx"))
    graph = onnx.load(document["onnx"]).graph
    cache = load(Path(f"{network.stem}.int8.calib.json"))
    assert (cache.method, cache.images) == ("mse", 12)
    check_scales(graph, cache.amax)
    facts = document["manifest"]["quantization"]
    assert facts["int8_layers"] > 20
    assert facts["int8_mac_share"] > 0.7
    assert document["verdicts"]["graph"]["spread"] > 1e-3


def check_scales(graph: onnx.GraphProto, amax: dict[str, float]) -> None:
    """Each activation's scale in the graph is the calibrated range over 127; zero points are zero."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    scales = sorted(float(constants[node.input[1]]) for node in quantizers)
    assert len(scales) == len(amax)
    np.testing.assert_allclose(scales, sorted(value / 127 for value in amax.values()), rtol=2e-3)
    assert all(not constants[node.input[2]].any() for node in quantizers)
