"""Real engines on a real GPU, against ONNX Runtime."""

import numpy as np
import onnxruntime as ort
import pytest
from tensorrt_api.graphs import network

from deploy import hardware
from deploy.engine.build import build_engine
from deploy.engine.flavours import FLAVOURS, load_flavour
from deploy.errors import MachineError
from deploy.runtime.trt import TrtRunner, open_plan
from deploy.runtime.trt_profile import TimedRunner
from deploy.specs import ShapeProfile

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not hardware.devices(), reason="no NVIDIA GPU"),
]
# FP32 as the product promises (TF32 would miss it by ten); INT8 quantises an image of deviation 1 in steps of 4/127.
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "int8": 5e-2}


@pytest.fixture(params=list(FLAVOURS))
def flavour(request):
    try:
        flavour = load_flavour(request.param)
        plan = build_engine(network(), flavour=flavour, batch=ShapeProfile(1, 1, 1)).plan
        TrtRunner(plan, flavour).close()
    except MachineError as error:
        pytest.skip(f"{request.param} does not work on this GPU: {error.headline}")
    return flavour


@pytest.mark.parametrize("precision", list(TOLERANCE))
def test_computes_what_onnx_runtime_does(flavour, precision, tmp_path):
    batch = np.random.default_rng(0).normal(size=(11, 3, 16, 16)).astype(np.float32)
    plan = tmp_path / "net.plan"
    plan.write_bytes(build_engine(network(precision), flavour=flavour, batch=ShapeProfile(2, 4, 4)).plan)
    with open_plan(plan) as runner:
        got = runner.infer({"input": batch})["logits"]
        assert hardware.devices()[0].name in runner.execution
    expected = ort.InferenceSession(network(), providers=["CPUExecutionProvider"]).run(None, {"input": batch})[0]
    assert np.ptp(expected) > 1
    assert np.abs(got - expected).max() <= TOLERANCE[precision] * np.abs(expected).max()


@pytest.mark.parametrize("precision", list(TOLERANCE))
def test_times_of_the_engine_and_its_layers(flavour, precision):
    if not flavour.can.timed:
        pytest.skip(f"{flavour} is not timed")
    plan = build_engine(network(precision), flavour=flavour, batch=ShapeProfile(1, 4, 8)).plan
    with TimedRunner(plan, flavour) as runner:
        assert 0 < runner.milliseconds() < 100
        layers = runner.layer_milliseconds()
    assert {"/conv", "/fc"} <= frozenset().union(*layers)
    assert all(milliseconds > 0 for milliseconds in layers.values())


def test_damaged_plan(flavour):
    plan = build_engine(network(), flavour=flavour, batch=ShapeProfile(1, 4, 8)).plan
    with pytest.raises(MachineError, match="cannot load this plan"):
        TrtRunner(plan[: len(plan) // 2], flavour)
