"""What build and inspect say of an engine's layers: on a simulated GPU, and on a machine without one."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from commands import Cli, write_images
from tensorrt_api.simulator import simulate
from tensorrt_api.tables import APIS

from deploy.hardware import GpuInfo

GPU = GpuInfo("NVIDIA L4", "8.9", 24 << 30, "580.65")
BUILD = ("build", "net.onnx", "--precision", "int8", "--calibration-data", "photos", "--backend", "tensorrt")


@pytest.fixture
def on_gpu(net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Call it with a row of the API tables: engines of that version are built, and load where the inspector looks.

    ``first`` is read by two convolutions and by a pool that stays FP16: its Q cannot fuse with what makes it.
    """
    monkeypatch.chdir(tmp_path)
    first = net.op("Relu", "first", net.conv("first_conv", "input", (3, 16), 3))
    one = net.conv("one", first, (16, 16), 3)
    both = net.op("Add", "sum", one, net.conv("other", first, (16, 16), 3))
    gated = net.op("Mul", "gated", both, net.op("GlobalAveragePool", "gate", first))
    flat = net.op("Flatten", "flat", net.op("GlobalAveragePool", "pool", gated))
    head = net.op("Gemm", "logits", flat, net.weight("head", 20, 16), net.weight("bias", 20), transB=1)
    onnx.save(ir.to_proto(net.model(head, ["batch", 20])), "net.onnx")
    write_images(Path("photos"), 6)

    def install(api):
        flavour = simulate(api)
        monkeypatch.setattr("deploy.workflows.build.choose_flavour", lambda backend: flavour)
        monkeypatch.setattr("deploy.workflows.inspection.load_flavour", lambda name: flavour)
        monkeypatch.setattr("deploy.workflows.inspection.devices", lambda: [GPU])
        monkeypatch.setattr("deploy.workflows.inspection.preflight", lambda plan, manifest: None)
        return flavour

    return install


@pytest.mark.parametrize("api", APIS, ids=str)
def test_a_build_tells_what_became_of_int8(cli: Cli, on_gpu, api):
    flavour = on_gpu(api)
    document = cli.done(*BUILD, "--json").document
    found = document["manifest"]["engine"]["inspection"]
    assert (found["convolutions"], found["int8_convolutions"]) == (3, 3)
    assert found["unfused_qdq"] == ["first/QuantizeLinear"]
    assert found["higher_precision"] == {}
    out = cli.done(*BUILD).out
    assert f"{found['layers']}; 3 of 3 convolutions in INT8" in out
    assert "1: first/QuantizeLinear" in out
    assert "higher precision" not in out
    assert flavour.version in out


def in_fp32(self, name):
    return {"Name": name, "DataType": "Float"}


def test_layers_in_a_higher_precision_are_named(cli: Cli, on_gpu, monkeypatch: pytest.MonkeyPatch):
    flavour = on_gpu(APIS[-1])
    monkeypatch.setattr(flavour.module.EngineInspector, "_tensor", in_fp32)
    out = cli.done(*BUILD).out
    assert "0 of 3 convolutions in INT8" in out
    assert "int8 in the graph, fp32 in the engine" in " ".join(out.split())


def test_inspect_of_a_plan(cli: Cli, on_gpu):
    on_gpu(APIS[0])
    built = cli.done(*BUILD, "--json").document["manifest"]["engine"]["inspection"]
    plan = next(Path().glob("*.plan"))
    document = cli.done("inspect", plan, "--layers", "--json").document
    assert document["inspection"] == built
    assert len(document["layers"]) == built["layers"]
    fused = next(layer for layer in document["layers"] if "one_node" in layer["nodes"])
    assert fused["inputs"]["first/quantized"] == "int8"
    table = cli.done("inspect", plan, "--layers").out
    assert "3 of 3 convolutions in INT8" in table
    assert "first/QuantizeLinear" in table


def test_a_plan_whose_graph_is_another_by_now(cli: Cli, on_gpu):
    on_gpu(APIS[0])
    cli.done(*BUILD)
    Path("net.int8.onnx").write_bytes(Path("net.onnx").read_bytes())
    plan = next(Path().glob("*.plan"))
    assert cli.done("inspect", plan, "--json").document["inspection"]["higher_precision"] is None
    assert "the graph it was built from is not here" in cli.done("inspect", plan).out


def test_without_a_gpu(cli: Cli, on_gpu, monkeypatch: pytest.MonkeyPatch):
    """What was found when it was built is still told."""
    on_gpu(APIS[0])
    cli.done(*BUILD)
    plan = next(Path().glob("*.plan"))
    monkeypatch.setattr("deploy.workflows.inspection.devices", list)
    reason = {"not_verifiable": "no GPU to load the engine"}
    assert cli.done("inspect", plan, "--json").document["inspection"] == reason
    assert "3 of 3 convolutions in INT8" in cli.done("inspect", plan).out
    document = cli.done(*BUILD, "--json").document
    assert document["manifest"]["engine"]["inspection"] == reason
    assert "not verifiable here: no GPU to load the engine" in cli.done("inspect", plan).out


def test_an_engine_that_cannot_be_loaded(cli: Cli, on_gpu, monkeypatch: pytest.MonkeyPatch):
    flavour = on_gpu(APIS[0])

    def refuse(self, plan):
        self._log("ERROR", "no kernel image is available")

    monkeypatch.setattr(flavour.module.Runtime, "deserialize_cuda_engine", refuse)
    found = cli.done(*BUILD, "--json").document["manifest"]["engine"]["inspection"]
    assert found == {"not_verifiable": f"{flavour} cannot load this plan (got no kernel image is available)"}


def test_nodes_without_a_name(cli: Cli, on_gpu, monkeypatch: pytest.MonkeyPatch):
    """NVIDIA's parser gives them one, which is what the inspector tells."""
    on_gpu(APIS[0])
    cli.done(*BUILD)
    model = onnx.load("net.int8.onnx")
    (conv,) = [node for node in model.graph.node if node.name == "one_node"]
    conv.name = ""
    onnx.save(model, "net.int8.onnx")
    half = [{"Name": "x", "DataType": "Half"}]
    layer = {"Name": "a", "LayerType": "gemm", "Metadata": "[ONNX Layer: node_of_one]", "Inputs": half, "Outputs": half}
    told = json.dumps({"Layers": [layer]})
    monkeypatch.setattr("deploy.runtime.trt_inspector.plan_information", lambda plan, flavour, loading: told)
    built = cli.done("build", "net.int8.onnx", "--precision", "int8", "--backend", "tensorrt", "--json").document
    found = built["manifest"]["engine"]["inspection"]
    assert (found["convolutions"], found["int8_convolutions"]) == (1, 0)
    assert found["higher_precision"] == {"node_of_one": "int8 in the graph, fp16 in the engine"}
