"""The path that OnnxRunner takes on CUDA, with the CPU as the device: the same calls of ONNX Runtime's API."""

from __future__ import annotations

import threading

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from deploy.errors import InputError, MachineError
from deploy.graph import files
from deploy.runtime import onnxrt
from deploy.runtime.onnx_binding import BoundSession
from deploy.runtime.onnxrt import OnnxRunner
from deploy.runtime.timing import InferenceTime, TimedInference, timer_of


def session(nodes, inputs, outputs):
    """A session of ``nodes``; inputs and outputs are (name, onnx type, shape)."""
    infos = [[helper.make_tensor_value_info(*each) for each in side] for side in (inputs, outputs)]
    graph = helper.make_graph(nodes, "net", *infos)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def relu(dtype=TensorProto.FLOAT):
    tensors = [("x", dtype, ["n", 4])], [("y", dtype, ["n", 4])]
    return BoundSession(session([helper.make_node("Relu", ["x"], ["y"])], *tensors), ["y"], "cpu")


def rows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


def test_it_computes_what_session_run_does(mini, images):
    plain = ort.InferenceSession(files.to_bytes(mini), providers=["CPUExecutionProvider"])
    bound = BoundSession(plain, ["logits"], "cpu")
    for batch in (8, 1, 3, 3, 8):
        (wanted,) = plain.run(["logits"], {"input": images[:batch]})
        np.testing.assert_array_equal(bound.infer({"input": images[:batch]})[0]["logits"], wanted)


def test_results_and_feeds_belong_to_the_caller():
    bound, feed = relu(), np.abs(rows(3))
    kept = feed.copy()
    first = bound.infer({"x": feed})[0]["y"]
    bound.infer({"x": np.abs(rows(3, 1))})
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(feed, kept)
    feed[:] = -1
    np.testing.assert_array_equal(first, kept)
    first[:] = 7


def test_feeds_need_not_be_contiguous():
    feed = rows(6)[::2, ::-1]
    np.testing.assert_array_equal(relu().infer({"x": feed})[0]["y"], np.maximum(feed, 0))


def test_the_number_of_results_may_depend_on_the_data():
    nonzero = session(
        [helper.make_node("NonZero", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, ["n"])],
        [("y", TensorProto.INT64, [1, "found"])],
    )
    bound = BoundSession(nonzero, ["y"], "cpu")
    for values in ([0, 1, 0], [1, 1, 1], [0, 0, 0]):
        got = bound.infer({"x": np.array(values, np.float32)})[0]["y"]
        np.testing.assert_array_equal(got, np.nonzero(values))


def test_outputs_keep_their_names_whatever_their_order():
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    shape = (TensorProto.FLOAT, ["n", 4])
    both = session(nodes, [("a", *shape), ("b", *shape)], [("sum", *shape), ("difference", *shape)])
    bound = BoundSession(both, ["difference", "sum"], "cpu")
    for _ in range(2):
        got = bound.infer({"b": rows(2), "a": rows(2, 1)})[0]
        np.testing.assert_array_equal(got["sum"], rows(2, 1) + rows(2))
        np.testing.assert_array_equal(got["difference"], rows(2, 1) - rows(2))


@pytest.mark.parametrize("name", ["float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"])
def test_types(name):
    values = np.array([[0, 1, 1, 0]]).astype(name)
    dtype = helper.np_dtype_to_tensor_dtype(values.dtype)
    tensors = [("x", dtype, ["n", 4])], [("y", dtype, ["n", 4])]
    bound = BoundSession(session([helper.make_node("Identity", ["x"], ["y"])], *tensors), ["y"], "cpu")
    got = bound.infer({"x": values})[0]["y"]
    assert got.dtype == values.dtype
    np.testing.assert_array_equal(got, values)


def test_threads_have_bindings_of_their_own():
    bound, wrong = relu(), []

    def work(seed):
        for index in range(200):
            feed = rows(1 + (seed + index) % 5, 1000 * seed + index)
            got = bound.infer({"x": feed})[0]["y"]
            if not np.array_equal(got, np.maximum(feed, 0)):
                wrong.append((seed, index))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert 1 <= len(bound._free) <= 4


def test_an_error_leaves_nothing_behind():
    shape = (TensorProto.FLOAT, ["n", 4])
    add = session([helper.make_node("Add", ["a", "b"], ["sum"])], [("a", *shape), ("b", *shape)], [("sum", *shape)])
    bound = BoundSession(add, ["sum"], "cpu")
    bound.infer({"a": rows(2), "b": rows(2)})
    with pytest.raises(Exception, match="2 by 3"):
        bound.infer({"a": rows(2), "b": rows(3)})
    np.testing.assert_array_equal(bound.infer({"a": rows(2), "b": rows(2)})[0]["sum"], 2 * rows(2))


def test_the_parts_of_a_query_are_timed(mini, images):
    bound = BoundSession(
        ort.InferenceSession(files.to_bytes(mini), providers=["CPUExecutionProvider"]), ["logits"], "cpu"
    )
    _, time = bound.infer({"input": images})
    assert min(time.h2d_ms, time.compute_ms, time.d2h_ms) > 0
    assert time.compute_ms > time.d2h_ms
    assert time.latency_ms == time.h2d_ms + time.compute_ms + time.d2h_ms
    assert time.enqueue_ms is None


@pytest.fixture
def on_cuda(monkeypatch):
    """ONNX Runtime seems to run on CUDA: the CPU answers, and its memory is bound."""

    class Session(ort.InferenceSession):
        def __init__(self, source, options, providers=None, **rest):
            super().__init__(source, options, providers=["CPUExecutionProvider"], **rest)

        def get_providers(self):
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def bound(session, outputs, device):
        assert device == "cuda"
        return BoundSession(session, outputs, "cpu")

    monkeypatch.setattr(onnxrt.ort, "InferenceSession", Session)
    monkeypatch.setattr(onnxrt, "BoundSession", bound)
    monkeypatch.setattr(
        onnxrt.ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )


def test_a_runner_on_cuda_binds_and_times(on_cuda, mini, images, run):
    with OnnxRunner(files.to_bytes(mini), device="cuda") as runner:
        timer = timer_of(runner)
        assert timer is runner
        got, time = timer.infer_timed({"input": images})
        assert isinstance(time, InferenceTime)
        np.testing.assert_array_equal(runner.infer({"input": images})["logits"], got["logits"])
        np.testing.assert_allclose(got["logits"], run(mini, images)["logits"], rtol=1e-5, atol=1e-6)
        with pytest.raises(InputError, match="does not fit the model"):
            runner.infer_timed({"input": images[:, :1]})
    with pytest.raises(RuntimeError, match="this runner is closed"):
        runner.infer_timed({"input": images})


PLACE = "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 std::conditional_t<true> CudaCall(int) "
DEVICE = [
    f"{PLACE}CUDA failure 2: out of memory ; GPU=0 ; hostname=here ; expr=cudaMalloc(&p, size);",
    f"{PLACE}CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0",
    f"{PLACE}CUBLAS failure 3: the resource allocation failed ; GPU=0",
    "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 9663676416",
]
INPUTS = "Non-zero status code returned while running Add node. Name:'only' Status Message: 2 by 3"


@pytest.mark.parametrize(
    ("text", "error"),
    [*((text, MachineError) for text in DEVICE), (INPUTS, InputError), (f"{PLACE}2 by 3", InputError)],
)
def test_a_gpu_that_fails_is_no_wrong_input(on_cuda, mini, images, monkeypatch, text, error):
    def fail(self, feeds):
        raise RuntimeError(f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {text}")

    monkeypatch.setattr(BoundSession, "infer", fail)
    with OnnxRunner(files.to_bytes(mini), device="cuda") as runner:
        for infer in (runner.infer, runner.infer_timed):
            with pytest.raises(error) as caught:
                infer({"input": images})
            assert type(caught.value) is error
            assert (caught.value.fix == "Free GPU memory, or give a smaller batch.") is (error is MachineError)


def test_on_the_cpu_no_gpu_fails(mini, images, monkeypatch):
    class Failing:
        def run(self, names, feeds):
            raise RuntimeError("Failed to allocate memory for requested buffer of size 9")

    with OnnxRunner(files.to_bytes(mini), device="cpu") as runner:
        monkeypatch.setattr(runner, "_session", Failing())
        with pytest.raises(InputError, match="cannot run the graph on these inputs"):
            runner.infer({"input": images})


def test_a_runner_on_the_cpu_tells_no_parts(mini):
    with OnnxRunner(files.to_bytes(mini), device="cpu") as runner:
        assert isinstance(runner, TimedInference)
        assert timer_of(runner) is None
        with pytest.raises(RuntimeError, match="only a runner on CUDA"):
            runner.infer_timed({"input": np.zeros((1, 3, 16, 16), np.float32)})
