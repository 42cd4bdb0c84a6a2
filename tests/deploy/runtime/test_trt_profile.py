"""Times of engines, on simulated modules of every version, and what inspectors tell of their layers."""

import gc
import json

import pytest
from tensorrt_api.cuda import LIVE, SimulatedClock, SimulatedCuda
from tensorrt_api.graphs import network
from tensorrt_api.simulator import simulate
from tensorrt_api.tables import APIS

from deploy.engine.build import build_engine
from deploy.errors import MachineError
from deploy.runtime import trt_profile
from deploy.runtime.trt_profile import TimedRunner, layer_nodes
from deploy.specs import ShapeProfile

NEWEST = next(api for api in APIS if api.version.startswith("11.4"))


@pytest.fixture(autouse=True)
def few_runs(monkeypatch):
    monkeypatch.setattr(trt_profile, "WARM_UP", 0.02)
    monkeypatch.setattr(trt_profile, "time", SimulatedClock)
    monkeypatch.setattr(trt_profile, "RUNS", 3)
    yield
    gc.collect()
    assert LIVE == {}


def cost(nodes, int8):
    """Of the network: 5 ms in a convolution of FP16, 2 in one of INT8, 1 in any other layer."""
    return (2.0 if int8 else 5.0) if "/conv" in nodes else 1.0


def opened(precision, api=NEWEST, cost=cost):
    flavour = simulate(api, cost)
    plan = build_engine(network(precision), flavour=flavour, batch=ShapeProfile(1, 4, 8)).plan
    return TimedRunner(plan, flavour, SimulatedCuda())


@pytest.mark.parametrize("api", APIS, ids=str)
def test_layers_by_their_nodes_in_every_version(api):
    with opened("fp16", api) as half, opened("int8", api) as int8:
        assert half.layer_milliseconds() == {
            frozenset({"/cast_in"}): 1,
            frozenset({"/conv", "/relu"}): 5,
            frozenset({"/pool"}): 1,
            frozenset({"/flat"}): 1,
            frozenset({"/fc"}): 1,
            frozenset({"/cast_out"}): 1,
        }
        times = int8.layer_milliseconds()
    assert times[frozenset({"/dq", "/conv", "/relu"})] == 2
    assert times[frozenset({"/cast_in", "/q"})] == 1


def test_the_whole_engine_by_the_clock():
    with opened("fp16") as half, opened("int8") as int8:
        assert half.milliseconds() == pytest.approx(10)
        assert int8.milliseconds() == pytest.approx(7)


def test_slow_runs_at_first_do_not_count():
    """Warming up takes 20 ms: two runs of 15. Of the three that count, one that is slow does not matter."""
    spent = iter([15, 15, 1, 90, 2])
    with opened("fp16", cost=lambda nodes, int8: next(spent) if "/fc" in nodes else 0) as half:
        assert half.milliseconds() == pytest.approx(2)
    assert list(spent) == []


def test_the_usual_batch_is_what_is_timed():
    with opened("fp16") as half:
        half.milliseconds()
        assert half._lanes[0].context(0)._shapes == {"input": (4, 3, 16, 16)}


def test_layers_that_compute_the_same_nodes_are_added_up(monkeypatch):
    monkeypatch.setattr(trt_profile, "layer_nodes", lambda text: dict.fromkeys(layer_nodes(text), frozenset({"all"})))
    with opened("fp16") as half:
        assert half.layer_milliseconds() == {frozenset({"all"}): 10}


def test_each_call_profiles_anew():
    spent = [1.0]
    with opened("fp32", cost=lambda nodes, int8: spent[0]) as runner:
        assert set(runner.layer_milliseconds().values()) == {1.0}
        spent[0] = 2.0
        assert set(runner.layer_milliseconds().values()) == {2.0}


def test_a_run_that_is_refused_carries_the_engines_words(monkeypatch):
    with opened("fp16") as half:
        refuse = half._engine.trt.IExecutionContext
        monkeypatch.setattr(refuse, "execute_async_v3", lambda self, handle: self._log("ERROR", "no kernel image"))
        with pytest.raises(MachineError, match=r"the engine failed to run \(got no kernel image\)"):
            half.milliseconds()


def test_a_shape_that_is_refused():
    with opened("fp16") as half:
        half._engine.cuda_engine._profiles[0]["input"] = [[2, 3, 16, 16]] * 3
        with pytest.raises(MachineError, match="Static dimension mismatch"):
            half.layer_milliseconds()


LAYERS = [
    {
        "Name": "Reformatting CopyNode for Input Tensor 0 to features.0/Conv + features.1/Relu",
        "LayerType": "Reformat",
        "Inputs": [{"Name": "x", "Dimensions": [8, 3, 224, 224], "Format/Datatype": "Row major linear FP16 format"}],
        "Metadata": "",
    },
    {
        "Name": "features.0/Conv + features.1/Relu",
        "LayerType": "CaskConvolution",
        "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32",
        "StreamId": 0,
        "Metadata": "[ONNX Layer: x/QuantizeLinear]\x1f[ONNX Layer: features.0/Conv]\x1e[ONNX Layer: features.1/Relu]",
    },
    {"Name": "__myl_FcMul", "LayerType": "gemm", "Metadata": "[ONNX Layer: a/Gemm][ONNX Layer: b[0]/Mul | f (Block)]"},
    {"Name": "Unnamed Layer 3", "LayerType": "Constant"},
    "names alone",
]
NODES = {
    LAYERS[0]["Name"]: frozenset({"x/QuantizeLinear", "features.0/Conv", "features.1/Relu"}),
    LAYERS[1]["Name"]: frozenset({"x/QuantizeLinear", "features.0/Conv", "features.1/Relu"}),
    "__myl_FcMul": frozenset({"a/Gemm", "b[0]/Mul"}),
}
TENSORRT_10 = {"Layers": LAYERS, "Bindings": ["input", "logits"]}
# What became of Bindings, and of a tensor's Format/Datatype: NVIDIA's "Migrating IEngineInspector Usage".
TENSORRT_11 = {
    "Layers": [
        {**layer, "Inputs": [{"Name": "x", "Format": "Row major linear FP16 format (kLINEAR)", "DataType": "Half"}]}
        if isinstance(layer, dict)
        else layer
        for layer in LAYERS
    ],
    "I/O Tensors": [{"Name": "input", "IOMode": "Input", "DataType": "Float", "Dimensions": [-1, 3, 224, 224]}],
}


@pytest.mark.parametrize("document", [TENSORRT_10, TENSORRT_11], ids=["10", "11"])
def test_both_forms_of_the_inspectors_json(document):
    assert layer_nodes(json.dumps(document)) == NODES


def test_control_characters_may_come_as_they_are():
    text = json.dumps(TENSORRT_10).replace("\\u001f", "\x1f").replace("\\u001e", "\x1e")
    assert "\x1f" in text
    assert layer_nodes(text) == NODES


@pytest.mark.parametrize(
    "text",
    ["", "Layers: a, b", "[]", "{}", '{"Layers": null}', '{"Layers": [{}, {"Name": 3}, {"Name": "a", "Metadata": 7}]}'],
)
def test_text_that_tells_of_no_layer(text):
    assert layer_nodes(text) == {}


def test_a_plan_without_detailed_names_tells_of_no_layer(monkeypatch):
    monkeypatch.setattr("deploy.engine.build._configure", lambda trt, config, flavour, options: None)
    with opened("fp16") as half:
        assert half.layer_milliseconds() == {}
