"""Which layers stay in INT8 where a GPU tells how fast they are: engines with made-up times, then simulated ones."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from commands import Cli, write_images
from tensorrt_api.cuda import LIVE, SimulatedClock, SimulatedCuda
from tensorrt_api.simulator import simulate
from tensorrt_api.tables import APIS

from deploy.data.arrays import ArraySource
from deploy.engine.flavours import FLAVOURS
from deploy.engine.refusals import NoImplementationError, refusals
from deploy.errors import MachineError
from deploy.hardware import GpuInfo
from deploy.manifest import Manifest
from deploy.quantize.recipe import Recipe
from deploy.runtime import trt_profile
from deploy.runtime.trt import TrtRunner
from deploy.specs import Precision, TensorSpec
from deploy.workflows.quantize import Calibration, prepare_int8
from deploy.workflows.source import Source
from deploy.workflows.speed import faster_layers

GPU = GpuInfo("NVIDIA L4", "8.9", 24 << 30, "580.65")
INPUTS = (TensorSpec("input", "float32", ("batch", 3, 16, 16)),)
NAMES = ("first_node", "second_node", "third_node", "logits_node")
SLOW = "INT8 is not faster here: 3 ms against 1 ms in FP16"


def chain(net) -> ir.Model:
    """Three convolutions and a classifier."""
    value = "input"
    for name, channels in (("first", (3, 16)), ("second", (16, 16)), ("third", (16, 16))):
        value = net.op("Relu", f"{name}.relu", net.conv(name, value, channels, 3))
    flat = net.op("Flatten", "flat", net.op("GlobalAveragePool", "pool", value))
    net.op("Gemm", "logits", flat, net.weight("head", 20, 16), net.weight("bias", 20), transB=1)
    return net.model("logits", ["batch", 20])


def cost(nodes, int8):
    """2 ms for a layer in FP16, 1 in INT8; but 1 and 3 for the second convolution. Nothing for what is no layer."""
    if "second_node" in nodes:
        return 3.0 if int8 else 1.0
    return (1.0 if int8 else 2.0) if set(nodes) & set(NAMES) else 0.0


class Told:
    phases = None

    def __init__(self):
        self.notes, self.warnings = [], []
        self.note, self.warn = self.notes.append, self.warnings.append


class Engines:
    """In place of :class:`~deploy.quantize.measured.Measured`: a plan is the layers in INT8, a run takes its costs."""

    gpu = GPU.name

    def __init__(self, cost=cost, whole=None, told=True, alone=None):
        self.cost, self.told, self.alone, self.built = cost, told, alone or {}, []
        self.whole = whole or (lambda plan: sum(cost([name], name in plan) for name in NAMES))

    def plan(self, graph):
        layers = [node for node in graph.graph if node.name in NAMES]
        quantized = frozenset(n.name for n in layers if n.inputs[1].producer() is not None)
        self.built.append(quantized)
        return quantized

    @contextmanager
    def load(self, plan):
        self.loaded = plan
        engine = self

        class Runner:
            def layer_milliseconds(self):
                times = {frozenset({name}): engine.cost([name], name in plan) for name in NAMES}
                alone = {frozenset({name}): spent for name, spent in engine.alone.items() if plan}
                return {**times, **alone} if engine.told else {}

            def milliseconds(self):
                return engine.whole(plan)

        yield Runner()


@pytest.fixture
def int8(net, tmp_path):
    np.savez(tmp_path / "images.npz", input=np.random.default_rng(0).standard_normal((8, 3, 16, 16), np.float32))
    data, outputs = ArraySource(tmp_path / "images.npz", INPUTS), (TensorSpec("logits", "float32", ("batch", 20)),)
    manifest = Manifest("net", Precision.FP32, INPUTS, outputs)
    source = Source(Path("net.onnx"), chain(net), manifest, Precision.FP32)
    return prepare_int8(source, Calibration(data, tmp_path / "net.calib.json", "max", Recipe.of("fast", [])))


def left_out(int8):
    return int8.quantized({}).facts["left_out"]


def test_the_slow_layer_returns_with_its_reason(int8):
    told, engines = Told(), Engines()
    assert left_out(int8) == {}
    assert left_out(faster_layers(int8, engines, told)) == {"second_node": SLOW}
    assert engines.built == [frozenset(NAMES), frozenset(), frozenset(NAMES) - {"second_node"}]
    assert told.notes == [
        "timing 4 INT8 layers on NVIDIA L4, beside FP16",
        "not faster in INT8: 1 of 4 layers, which return to FP16: "
        "the engine takes 4 ms with them in FP16, 6 ms in INT8",
    ]
    assert told.warnings == []


def test_the_whole_engine_has_the_last_word(int8):
    """What is copied between INT8 and FP16 costs more than the layer gains."""
    told = Told()
    slower = Engines(whole=lambda plan: 5.0 if len(plan) == 4 else 5.1)
    assert faster_layers(int8, slower, told) is int8
    assert told.notes[-1].startswith("not faster in INT8: 1 of 4 layers, which stay so: the engine takes 5.1 ms with")
    same = Engines(whole=lambda plan: 5.0)
    assert left_out(faster_layers(int8, same, Told())) == {"second_node": SLOW}


def test_where_all_are_faster_nothing_more_is_built(int8):
    told, engines = Told(), Engines(lambda nodes, int8: 1.0 if int8 else 2.0)
    assert faster_layers(int8, engines, told) is int8
    assert len(engines.built) == 2
    assert told.notes[-1] == "INT8 is faster than FP16 in every layer that it takes"


@pytest.mark.parametrize("alone", ["first.relu/QuantizeLinear", "second.weight/DequantizeLinear"])
def test_quantizing_for_a_layer_is_part_of_its_time(int8, alone):
    engines = Engines(lambda nodes, int8: 1.0 if int8 else 2.0, whole=lambda plan: 1.0, alone={alone: 4.0})
    reason = "INT8 is not faster here: 5 ms against 2 ms in FP16"
    assert left_out(faster_layers(int8, engines, Told())) == {"second_node": reason}


def test_where_none_is_faster_int8_stays_and_that_is_said(int8):
    told = Told()
    assert faster_layers(int8, Engines(lambda nodes, int8: 1.0), told) is int8
    assert told.warnings == ["no layer is faster in INT8 on NVIDIA L4: try --precision fp16"]


def test_an_engine_that_tells_no_layers(int8):
    told = Told()
    assert faster_layers(int8, Engines(told=False), told) is int8
    assert told.warnings == ["layers were not compared between INT8 and FP16: the engine does not tell which they are"]


def test_an_engine_that_cannot_be_built(int8, monkeypatch):
    def failed(self, graph):
        raise MachineError("TensorRT cannot build this graph", got="out of memory")

    told = Told()
    monkeypatch.setattr(Engines, "plan", failed)
    assert faster_layers(int8, Engines(), told) is int8
    assert told.warnings == [
        "layers were not compared between INT8 and FP16: TensorRT cannot build this graph (got out of memory)"
    ]


class Refusing(Engines):
    """Has no INT8 kernel for the third convolution; with ``always`` it names it of any graph."""

    always = False

    def plan(self, graph):
        quantized = super().plan(graph)
        if self.always or "third_node" in quantized:
            words = ["Could not find any implementation for node third_node."]
            raise NoImplementationError("cannot build", refusals(words), got=words[0], fix="none", details=words)
        return quantized


def test_a_layer_that_the_target_refuses_is_left_out_before_times_are_compared(int8):
    told, engines = Told(), Refusing()
    result = faster_layers(int8, engines, told)
    assert result.refused == {"third_node": "third_node"}
    assert left_out(result) == {"second_node": SLOW, "third_node": "the target refuses it in INT8: third_node"}
    assert told.notes[1] == "timing 3 INT8 layers on NVIDIA L4, beside FP16"
    assert len(told.warnings) == 1
    assert told.warnings[0].startswith("no INT8 kernel for third_node: out of INT8, and the engine is built again (got")


def test_a_refusal_that_leaving_int8_does_not_help(int8, monkeypatch):
    told = Told()
    monkeypatch.setattr(Refusing, "always", True)
    result = faster_layers(int8, Refusing(), told)
    assert set(result.refused) == {"third_node"}
    assert len(told.warnings) == 2
    assert told.warnings[1].startswith("layers were not compared between INT8 and FP16: cannot build (got Could not")


# From here on through the command line, with engines of the simulator.

BUILD = ("build", "net.onnx", "--precision", "int8", "--calibration-data", "photos", "--batch", "1:2:4")


@pytest.fixture
def on_gpu(net, tmp_path, monkeypatch):
    """A GPU that runs simulated engines: call it with a row of the API tables."""
    monkeypatch.chdir(tmp_path)
    onnx.save(ir.to_proto(chain(net)), "net.onnx")
    write_images(Path("photos"), 6)
    monkeypatch.setattr(trt_profile, "WARM_UP", 0.01)
    monkeypatch.setattr(trt_profile, "time", SimulatedClock)
    monkeypatch.setattr(trt_profile, "RUNS", 2)

    def install(api):
        flavour = simulate(api, cost)
        monkeypatch.setattr("deploy.workflows.build.devices", lambda: [GPU])
        monkeypatch.setattr("deploy.workflows.build.choose_flavour", lambda backend: flavour)
        monkeypatch.setattr("deploy.runtime.trt.open_cuda", SimulatedCuda)
        monkeypatch.setattr("deploy.runtime.trt.open_plan", lambda path, **_: TrtRunner(path.read_bytes(), flavour))

    yield install
    gc.collect()
    assert LIVE == {}


@pytest.mark.parametrize("api", APIS, ids=str)
def test_a_build_returns_the_slow_layer_where_its_times_mean_something(cli: Cli, on_gpu, api):
    on_gpu(api)
    done = cli.done(*BUILD, "--json")
    facts, timed = done.document["manifest"]["quantization"], FLAVOURS[api.flavour].timed
    assert timed == (api.flavour == "tensorrt")
    assert facts["left_out"] == ({"second_node": SLOW} if timed else {})
    assert facts["int8_layers"] == (3 if timed else 4)
    assert ("profile" in done.document["seconds"]) == timed
    assert [figures["how"] for figures in done.document["manifest"]["parity"]][1].startswith("executed on a simulated")
    weights = {tensor.name for tensor in onnx.load("net.int8.onnx").graph.initializer}
    assert ("second.weight/quantized" in weights) != timed


NEWEST = next(api for api in APIS if api.version.startswith("11.4"))


def test_kept_in_int8_where_that_is_asked_for(cli: Cli, on_gpu):
    on_gpu(NEWEST)
    done = cli.done(*BUILD, "--keep-int8", "--json")
    assert done.document["manifest"]["quantization"]["left_out"] == {}
    assert "profile" not in done.document["seconds"]


def test_without_an_engine_or_a_gpu_nothing_is_timed(cli: Cli, on_gpu, monkeypatch):
    on_gpu(NEWEST)
    without = [cli.done(*BUILD[:-2], "--backend", "none", "--json").document]
    monkeypatch.setattr("deploy.workflows.build.devices", list)
    without.append(cli.done(*BUILD, "--json").document)
    for document in without:
        assert document["manifest"]["quantization"]["left_out"] == {}
        assert "profile" not in document["seconds"]


def test_the_table_is_measured_for_its_rows_alone(cli: Cli, on_gpu, monkeypatch):
    """The layer that is not faster is out of the search; what it may lose is counted without it."""
    on_gpu(NEWEST)
    measured = []
    run = trt_profile.TimedRunner.milliseconds
    monkeypatch.setattr(trt_profile.TimedRunner, "milliseconds", lambda self: measured.append(1) or run(self))
    done = cli.done(*BUILD, "--max-drop", "99", "--json")
    points = done.document["manifest"]["quantization"]["search"]["pareto"]
    assert {point["latency_how"] for point in points} == {"measured on NVIDIA L4"}
    assert len(measured) == 10 + len(points), "five rounds of two engines for the layer, and the rows"
    assert (points[0]["chosen"], points[0]["fp16_layers"], points[-1]["latency"]) == (True, [], 1)
    assert points[0]["latency"] == pytest.approx(4 / 7)
    assert "second_node" not in points[-1]["fp16_layers"], "INT8 could not take it"


def test_a_row_that_cannot_be_measured_is_unknown(cli: Cli, on_gpu, monkeypatch):
    on_gpu(NEWEST)

    def full(self):
        raise MachineError("the GPU's memory is full")

    monkeypatch.setattr(trt_profile.TimedRunner, "milliseconds", full)
    done = cli.done(*BUILD, "--max-drop", "99", "--keep-int8", "--json")
    points = done.document["manifest"]["quantization"]["search"]["pareto"]
    assert [point["latency"] for point in points] == [None] * len(points)
    assert "the time of one graph is unknown: the GPU's memory is full" in done.err


def test_what_keep_int8_is_about(cli: Cli, on_gpu):
    error = cli.refused(2, *BUILD[:2], "--precision", "fp16", "--backend", "none", "--keep-int8")
    assert error.startswith("--keep-int8 chooses how INT8 is made (got --precision fp16). Leave that out, or")
