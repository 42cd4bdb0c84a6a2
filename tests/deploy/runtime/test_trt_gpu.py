"""Real engines on a real GPU, against ONNX Runtime."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import pytest
from tensorrt_api.graphs import network

from deploy import hardware
from deploy.engine.build import build_engine
from deploy.engine.flavours import FLAVOURS, load_flavour
from deploy.errors import MachineError
from deploy.runtime.cuda import BINDINGS, VARIABLE, open_cuda
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


@pytest.mark.parametrize("binding", list(BINDINGS))
@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "plain"])
def test_threads_and_repeated_sizes(flavour, binding, graphs):
    """Every answer is that of the first time, bit for bit, whichever lane, graph or piece it comes from."""
    try:
        cuda = open_cuda(environ={VARIABLE: binding})
    except MachineError as error:
        pytest.skip(error.headline)
    plan = build_engine(network("fp16"), flavour=flavour, batch=ShapeProfile(1, 4, 8)).plan
    batches = [np.random.default_rng(rows).random((rows, 3, 16, 16), np.float32) for rows in (1, 3, 8, 20)]
    with TrtRunner(plan, flavour, cuda, graphs=graphs, eager=True) as runner, ThreadPoolExecutor(4) as pool:
        first = [runner.infer({"input": batch})["logits"] for batch in batches]
        for index, answer in pool.map(lambda n: (n % 4, runner.infer({"input": batches[n % 4]})["logits"]), range(200)):
            np.testing.assert_array_equal(answer, first[index])
        outputs, times = runner.infer_timed({"input": batches[2]})
        problem = runner.graph_problem
    np.testing.assert_array_equal(outputs["logits"], first[2])
    assert 0 < times.compute_ms < 100
    assert problem is None or not graphs or not cuda.graphs


def test_a_capture_that_is_broken_leaves_the_process_alive():
    """What waits for the device cannot be captured; closing a graph of cuda-core's then ends the process."""
    try:
        cuda = open_cuda(environ={VARIABLE: "cuda-core"})
    except MachineError as error:
        pytest.skip(error.headline)
    from cuda.bindings import driver

    with cuda:
        stream = cuda.stream()
        with pytest.raises(MachineError, match="capture of a CUDA graph"):
            stream.capture(lambda: driver.cuCtxSynchronize())
        stream.synchronize()
        stream.close()
