"""A plan in memory: its tensors, and the contexts that run it, the same way for TensorRT and TensorRT-RTX."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.engine.api import ICudaEngine, IExecutionContext, IRuntimeConfig, Runtime, TensorRt
from deploy.engine.flavours import Flavour
from deploy.engine.loading import AS_IT_IS, Loading, refit, trust
from deploy.engine.log import LogLine, failures, process_logger, recording
from deploy.errors import MachineError
from deploy.runtime.trt_cache import RuntimeCache
from deploy.runtime.trt_io import read_io

_LINES = 64  # of TensorRT's log, kept to explain what fails
# Held in the whole process while a graph is captured, and while engines and contexts come and go: these may wait for
# the device, which breaks a capture in any thread and any mode (NVIDIA/TensorRT, issue 2888).
changing_device = threading.RLock()


class Engine:
    """A deserialised plan, whose weights all its contexts share.

    Attributes:
        io: its tensors.
        own_graphs: its contexts capture CUDA graphs by themselves (TensorRT-RTX).
        own_memory: its contexts allocate what they compute in (TensorRT-RTX).
        activations: bytes of device memory that a context computes in; see :meth:`context`.
    """

    def __init__(
        self,
        plan: bytes,
        flavour: Flavour,
        *,
        graphs: bool = True,
        eager: bool = False,
        runtime_cache: Path | None = None,
        loading: Loading = AS_IT_IS,
    ) -> None:
        """See :class:`deploy.runtime.trt.TrtRunner` for the arguments and what is raised."""
        self.trt: TensorRt = flavour.module
        self._flavour, self._eager = flavour, eager
        self._lines = deque[LogLine](maxlen=_LINES)
        self._runtime: Runtime = None
        self.cuda_engine: ICudaEngine = None
        self._cache = RuntimeCache(runtime_cache if flavour.can.jit else None)
        with changing_device, contextlib.ExitStack() as owned:
            owned.enter_context(recording(self.trt, self._lines))
            owned.callback(self._drop)
            self._runtime = self._made(lambda: self.trt.Runtime(process_logger(self.trt)))
            trust(self._runtime, loading)
            self.cuda_engine = self._made(lambda: self._runtime.deserialize_cuda_engine(plan))
            refit(flavour, self.cuda_engine, loading, self._lines)
            self.io = read_io(self.trt, self.cuda_engine)
            self.own_graphs, self.own_memory = flavour.can.jit and graphs, flavour.can.jit
            owned.callback(self._cache.save)
            self._owned = owned.pop_all()
        self.activations = max(1, int(self.cuda_engine.device_memory_size_v2))
        self.weights = len(plan) + len(loading.onnx or b"")

    def context(self, memory: int) -> IExecutionContext:
        """A new context, with the first profile active and no shapes or addresses.

        Args:
            memory: the address of :attr:`activations` bytes that it computes in, which it may share with contexts that
                never run at the same time. TensorRT-RTX allocates its own: it may need more, for kernels that it has
                not compiled yet.

        Raises:
            MachineError: there is no memory for it.
        """
        with changing_device:
            if self._flavour.can.jit:
                return self._made(lambda: self.cuda_engine.create_execution_context(self._config()))
            strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context: IExecutionContext = self._made(lambda: self.cuda_engine.create_execution_context(strategy))
            context.set_device_memory(memory, self.activations)
            return context

    def failure(self) -> MachineError:
        """The error of what TensorRT just refused, in the words it logged."""
        reasons = failures(tuple(self._lines))
        self._lines.clear()
        return MachineError("the engine failed to run", got="; ".join(reasons) or "no reason given", details=reasons)

    def close(self) -> None:
        """Its contexts have been dropped before. Keeps the runtime cache."""
        with changing_device:
            self._owned.close()

    def _config(self) -> IRuntimeConfig:
        trt, config = self.trt, self.cuda_engine.create_runtime_config()
        graphs, kernels = trt.CudaGraphStrategy, trt.DynamicShapesKernelSpecializationStrategy
        config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if self.own_graphs else graphs.DISABLED
        config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER if self._eager else kernels.LAZY
        self._cache.attach(config)
        return config

    def _drop(self) -> None:
        self._cache.drop()
        self.cuda_engine = None  # before its runtime
        self._runtime = None

    def _made(self, make: Callable[[], Any]) -> Any:
        """What ``make`` returns; TensorRT returns nothing, or pybind11 raises TypeError, where it failed."""
        try:
            made = make()
        except TypeError as error:
            made, fallback = None, str(error)
        else:
            fallback = "no reason given"
        if made is None:
            reasons = failures(tuple(self._lines))
            raise MachineError(
                f"{self._flavour} cannot load this plan",
                got=reasons[0] if reasons else fallback,
                expected=f"a plan built by {self._flavour} for this GPU",
                fix="Build it again here: python build_engine.py MODEL.onnx.",
                details=reasons,
            )
        return made
