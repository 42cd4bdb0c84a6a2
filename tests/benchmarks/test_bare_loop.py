"""The bare loop over TensorRT's calls, on a stream that does things in order and only when it is waited for."""

import types

import numpy as np
import pytest

from deploy.errors import MachineError

pytest.importorskip("cuda.core")


class Cuda:
    """Just enough of cuda-core to run the bare loop: a stream that does things in order, when it is waited for."""

    def __init__(self, capturing=True):
        self.queue, self.handle, self.now, self.memory, self.capturing = [], 7, 0.0, {}, capturing
        self.launched = 0

    def allocate(self, nbytes, stream):
        address = 1000 + len(self.memory)
        self.memory[address] = nbytes
        close = lambda stream: self.memory.pop(address)  # noqa: E731
        return types.SimpleNamespace(handle=address, close=close, copy_from=lambda *_, **__: None)

    def record(self, options):
        event = Event(self)
        self.queue.append(event.reached)
        return event

    def sync(self):
        while self.queue:
            self.queue.pop(0)()

    def capture(self, enqueue):
        """As the project's own stream has it."""
        assert not self.queue, "captured before what was queued is done"
        if not self.capturing:
            raise MachineError("CUDA failed in the capture of a CUDA graph")
        enqueue()
        graph, self.queue = self.queue, []
        return types.SimpleNamespace(launch=lambda: self.launch(graph))

    def launch(self, graph):
        self.launched += 1
        self.queue += graph


class Event:
    def __init__(self, cuda):
        self.cuda, self.time = cuda, None

    def reached(self):
        self.time = self.cuda.now

    def sync(self):
        while self.time is None:
            self.cuda.queue.pop(0)()

    def __sub__(self, other):
        return self.time - other.time


@pytest.fixture
def bare(benchmark_module, monkeypatch):
    """The bare loop over an engine that takes 0.25 ms, on simulated CUDA; returns what it measured and that CUDA."""
    module = benchmark_module("_bare_loop")

    def run(jit=False, **options):
        cuda = Cuda(**options)

        def execute(handle):
            assert handle == cuda.handle
            cuda.queue.append(lambda: setattr(cuda, "now", cuda.now + 0.25))
            return True

        bound, contexts, mode = {}, [], types.SimpleNamespace(INPUT="in")
        shapes = {"input": (-1, 3, 4, 4), "logits": (-1, 10)}
        context = types.SimpleNamespace(
            set_tensor_address=lambda name, memory: bound.update({name: memory}) is None and memory in cuda.memory,
            set_input_shape=lambda name, shape: shape == (2, 3, 4, 4),
            execute_async_v3=execute,
        )
        engine = types.SimpleNamespace(
            num_io_tensors=2,
            get_tensor_name=lambda index: list(shapes)[index],
            get_tensor_shape=shapes.__getitem__,
            get_tensor_dtype=lambda name: "FLOAT",
            get_tensor_mode=lambda name: "in" if name == "input" else "out",
            create_runtime_config=types.SimpleNamespace,
            create_execution_context=lambda *config: contexts.append(config) or context,
        )
        runtime = types.SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
        trt = types.SimpleNamespace(Runtime=lambda logger: runtime, nptype=lambda kind: np.float32, TensorIOMode=mode)
        trt.CudaGraphStrategy = types.SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph")
        trt.DynamicShapesKernelSpecializationStrategy = types.SimpleNamespace(EAGER="eager")
        monkeypatch.setattr(module, "process_logger", lambda trt: None)
        monkeypatch.setattr(module, "_fill", lambda *arguments: None)
        monkeypatch.setattr(module, "_WARM_UP_S", 0.01)
        device = types.SimpleNamespace(set_current=lambda: None, create_stream=lambda: cuda, allocate=cuda.allocate)
        monkeypatch.setattr("cuda.core.Device", lambda ordinal: device)
        monkeypatch.setattr("deploy.runtime.cuda_core.CoreStream", lambda native: native)
        flavour = types.SimpleNamespace(module=trt, can=types.SimpleNamespace(jit=jit))
        took = module.bare_loop(b"plan", flavour, 2, 0.05)
        (config,) = contexts
        return took, cuda, bound, [vars(each) for each in config]

    return run


def test_the_bare_loop_times_a_captured_graph(bare):
    took, cuda, bound, config = bare()
    assert (took.compute_ms, took.graph) == (0.25, True)
    assert cuda.launched > 3
    assert set(bound) == {"input", "logits"}
    assert not cuda.memory
    assert config == []


def test_the_bare_loop_runs_call_by_call_where_it_cannot_be_captured(bare):
    took, cuda, _, _ = bare(capturing=False)
    assert (took.compute_ms, took.graph) == (0.25, False)
    assert cuda.launched == 0


def test_the_bare_loop_leaves_graphs_to_tensorrt_rtx(bare):
    took, cuda, _, config = bare(jit=True)
    assert (took.compute_ms, took.graph, cuda.launched) == (0.25, False, 0)
    assert config == [{"cuda_graph_strategy": "whole graph", "dynamic_shapes_kernel_specialization_strategy": "eager"}]
