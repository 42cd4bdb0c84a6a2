"""A plan through TensorRT's bare calls and a CUDA graph: what there is to reach where NVIDIA's timer is not at hand."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from deploy.engine.api import ICudaEngine, IExecutionContext, Runtime, TensorRt
from deploy.engine.flavours import Flavour
from deploy.engine.log import process_logger
from deploy.errors import MachineError

_WARM_UP_S = 0.2
Launch = Callable[[], None]


@dataclass(frozen=True)
class BareTime:
    """``compute_ms`` is the median between CUDA events around a run; ``graph`` tells whether one was captured."""

    compute_ms: float
    graph: bool


def bare_loop(plan: bytes, flavour: Flavour, batch: int, seconds: float) -> BareTime:
    """Run ``plan`` for a while, nothing copied, with one run queued ahead as trtexec does it.

    Raises:
        MachineError: cuda-core is not installed, or a call fails.
    """
    try:
        from cuda.core import Device

        device = Device(0)
        device.set_current()
    except Exception as error:  # no package, no driver, no GPU: cuda-core's errors have no base class
        raise MachineError("the bare loop needs cuda-core and a GPU", got=f"{type(error).__name__}: {error}") from error
    trt, stream = flavour.module, device.create_stream()
    runtime: Runtime = trt.Runtime(process_logger(trt))
    engine: ICudaEngine = runtime.deserialize_cuda_engine(plan)
    context = _context(flavour, engine)
    memory = _bind(trt, engine, context, device, stream, batch)
    launch, graph = _called(context, stream) if flavour.can.jit else _captured(context, stream)
    times = _timed(launch, stream, seconds)
    stream.sync()
    for buffer in memory:
        buffer.close(stream)
    return BareTime(statistics.median(times), graph)


def _context(flavour: Flavour, engine: ICudaEngine) -> IExecutionContext:
    """TensorRT-RTX has kernels for a shape, and its graph, made before the first run ends: none in the background."""
    if not flavour.can.jit:
        return engine.create_execution_context()
    trt, config = flavour.module, engine.create_runtime_config()
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(config)


def _bind(
    trt: TensorRt, engine: ICudaEngine, context: IExecutionContext, device: Any, stream: Any, batch: int
) -> list[Any]:
    """Memory of every tensor, random numbers in the inputs'."""
    rng, buffers = np.random.default_rng(0), []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape = tuple(batch if dim == -1 else int(dim) for dim in engine.get_tensor_shape(name))
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        buffers.append(device.allocate(max(1, int(np.prod(shape)) * dtype.itemsize), stream=stream))
        _check(context.set_tensor_address(name, int(buffers[-1].handle)), f"set the address of '{name}'")
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            _check(context.set_input_shape(name, shape), f"run a batch of {batch}")
            _fill(buffers[-1], rng.random(shape).astype(dtype), stream)
    return buffers


def _fill(buffer: Any, values: np.ndarray[Any, Any], stream: Any) -> None:
    import ctypes

    from cuda.core import LegacyPinnedMemoryResource

    pinned = LegacyPinnedMemoryResource().allocate(values.nbytes)
    ctypes.memmove(int(pinned.handle), values.ctypes.data, values.nbytes)
    buffer.copy_from(pinned, stream=stream)
    stream.sync()
    pinned.close()


def _called(context: IExecutionContext, stream: Any) -> tuple[Launch, bool]:
    """A way to run it call by call. TensorRT-RTX makes a graph of that by itself."""
    launch = partial(_run, context, stream)
    launch()
    return launch, False


def _captured(context: IExecutionContext, stream: Any) -> tuple[Launch, bool]:
    """A way to run it as a graph, or call by call where it cannot be captured."""
    launch, _ = _called(context, stream)  # what is set up on the first run must not be part of the graph
    stream.sync()
    from deploy.runtime.cuda_core import CoreStream

    try:
        return CoreStream(stream).capture(launch).launch, True
    except MachineError:
        return launch, False


def _run(context: IExecutionContext, stream: Any) -> None:
    _check(context.execute_async_v3(int(stream.handle)), "run")


def _timed(launch: Launch, stream: Any, seconds: float) -> list[float]:
    """Milliseconds of each run after the warm-up. The next is queued before the last is waited for: no gaps."""
    options = {"timing_enabled": True}
    times, previous = list[float](), None
    start = perf_counter()
    while (now := perf_counter() - start) < _WARM_UP_S + seconds:
        began = stream.record(options=options)
        launch()
        ended = stream.record(options=options)
        if previous is not None:
            previous[1].sync()
            times += [previous[1] - previous[0]] if now > _WARM_UP_S else []
        previous = (began, ended)
    return times


def _check(accepted: bool, action: str) -> None:
    if not accepted:
        raise MachineError(f"TensorRT cannot {action} in the bare loop")
