from __future__ import annotations

import numpy as np
import pytest
from tensorrt_api.simulator import plan_header
from tensorrt_api.tables import APIS

from deploy import hardware
from deploy.errors import InputError, MachineError
from deploy.graph import files
from deploy.graph.fp16 import to_fp16
from deploy.graph.placement import place
from deploy.graph.qdq import insert_qdq
from deploy.graph.twin import twin
from deploy.manifest import Manifest
from deploy.runtime.open import open_runner
from deploy.specs import Precision


@pytest.fixture
def graphs(tmp_path, mini, ranges):
    """The mini network in every precision, as files with a manifest."""
    placement = place(mini)
    quantized = insert_qdq(mini, placement, ranges(mini, placement.tensors))
    made = {Precision.FP32: mini, Precision.FP16: to_fp16(mini), Precision.INT8: to_fp16(quantized)}
    for precision, graph in made.items():
        files.save(tmp_path / f"net.{precision}.onnx", graph, Manifest("net", precision, (), ()))
    return made


@pytest.fixture
def plan(tmp_path):
    """A plan of TensorRT-RTX as far as it is read before a GPU is needed."""
    api = next(api for api in APIS if api.flavour == "tensorrt_rtx")
    path = tmp_path / "net.int8.rtx.plan"
    path.write_bytes(plan_header(api, b"engine") + b"engine")
    return path


def test_fp32_is_executed(tmp_path, graphs, images, run):
    with open_runner(tmp_path / "net.fp32.onnx", device="cpu", threads=1) as runner:
        assert runner.execution.startswith("executed on CPU (ONNX Runtime")
        got = runner.infer({"input": images})["logits"]
    np.testing.assert_allclose(got, run(graphs[Precision.FP32], images)["logits"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8])
def test_reduced_precision_is_simulated_and_says_so(tmp_path, graphs, images, run, precision):
    with open_runner(tmp_path / f"net.{precision}.onnx", device="cpu", threads=1) as runner:
        assert runner.execution == f"simulated on CPU by the twin of the {precision.name} graph"
        assert runner.manifest.precision is precision
        got = runner.infer({"input": images})["logits"]
    simulated = run(twin(graphs[precision]), images)["logits"]
    np.testing.assert_array_equal(got, simulated)
    assert not np.array_equal(got, run(graphs[Precision.FP32], images)["logits"])


def test_a_graph_of_others_is_executed(tmp_path, mini):
    (tmp_path / "net.onnx").write_bytes(files.to_bytes(mini))
    with open_runner(tmp_path / "net.onnx", device="cpu", threads=1) as runner:
        assert runner.manifest is None
        assert runner.execution.startswith("executed on CPU")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.onnx", r"no such file: .*missing.onnx"),
        ("missing.plan", r"no such file: .*missing.plan"),
        ("folder.onnx", "folder.onnx is a folder"),
        ("net.pt", r"neither a graph nor an engine \(got .pt; expected .onnx or .plan\)"),
        ("net", r"neither a graph nor an engine \(got no suffix"),
        ("empty.onnx", r"empty.onnx is empty .*Export it: python export.py"),
        ("garbage.onnx", "ONNX Runtime cannot load .*garbage.onnx"),
        ("empty.plan", "empty.plan"),
        ("garbage.plan", "garbage.plan"),
    ],
)
def test_what_cannot_be_opened(tmp_path, name, said):
    (tmp_path / "folder.onnx").mkdir()
    contents = {"net.pt": b"x", "net": b"x", "empty.onnx": b"", "garbage.onnx": b"garbage " * 50}
    contents |= {"empty.plan": b"", "garbage.plan": b"garbage " * 50}
    for file, content in contents.items():
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=said):
        open_runner(tmp_path / name)


def test_an_engine_without_a_gpu_names_the_next_command(plan, monkeypatch):
    monkeypatch.setattr(hardware, "devices", list)
    with pytest.raises(MachineError) as caught:
        open_runner(plan)
    assert "no NVIDIA GPU" in caught.value.got
    assert "python build_engine.py" in caught.value.fix
    (plan.parent / "net.int8.onnx").write_bytes(b"graph")
    with pytest.raises(MachineError, match=r"python infer.py --engine .*net.int8.onnx IMAGE"):
        open_runner(plan)


def test_an_engine_never_runs_on_a_cpu(plan):
    with pytest.raises(MachineError, match=r"runs on a GPU only. Give its ONNX graph instead"):
        open_runner(plan, device="cpu")
