"""How long an engine takes on the GPU of this machine: as a whole, and by the ONNX nodes that it computes together."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from deploy.engine.api import IExecutionContext, IProfiler, TensorRt
from deploy.engine.flavours import Flavour
from deploy.engine.layers import layer_nodes
from deploy.engine.loading import AS_IT_IS, Loading
from deploy.runtime.cuda import Cuda
from deploy.runtime.trt import TrtRunner
from deploy.runtime.trt_inspector import engine_information
from deploy.runtime.trt_io import with_batch

# Seconds in which clocks rise and kernels are loaded; trtexec's --warmUp has the same default.
WARM_UP = 0.2
RUNS = 50


class TimedRunner(TrtRunner):
    """A runner for its time alone: random inputs at the profile's usual batch lie in GPU memory, nothing is copied.

    For one thread. Once layers have been timed, whole runs are slower. Without CUDA graphs, whose layers no profiler
    sees.
    """

    def __init__(self, plan: bytes, flavour: Flavour, cuda: Cuda | None = None, loading: Loading = AS_IT_IS) -> None:
        """Load a plan. Raises as :class:`TrtRunner` does."""
        super().__init__(plan, flavour, cuda, lanes=1, graphs=False, eager=True, loading=loading)
        self._piece = self._io.piece(0, self.profile.opt)

    def __enter__(self) -> TimedRunner:
        return self

    def milliseconds(self) -> float:
        """Of one run and the wait for its end, by the host's clock: the median after a warm-up."""
        with self._cuda:
            self._warm_up()
            return statistics.median(self._clocked() for _ in range(RUNS))

    def layer_milliseconds(self) -> dict[frozenset[str], float]:
        """ONNX nodes computed together → their time in one run, by TensorRT's profiler: medians after a warm-up.

        Copies between layouts count to the layer that they are for; what belongs to no node is left out.
        """
        reported: list[tuple[str, float]] = []
        times = defaultdict[frozenset[str], list[float]](list)
        with self._cuda:
            context: IExecutionContext = self._lanes[0].context(self._piece.profile)
            nodes = layer_nodes(engine_information(self._engine.trt, self._engine.cuda_engine, context))
            context.profiler = _make_profiler(self._engine.trt, lambda name, ms: reported.append((name, ms)))
            self._warm_up()
            for _ in range(RUNS):
                reported.clear()
                self._once()
                for group, total in _by_nodes(nodes, reported).items():
                    times[group].append(total)
        return {group: statistics.median(found) for group, found in times.items()}

    def _warm_up(self) -> None:
        rng, rows = np.random.default_rng(0), self._piece.filled
        feeds = {spec.name: rng.random(with_batch(spec, rows)).astype(spec.dtype) for spec in self.inputs}
        self._lanes[0].load(feeds, self._piece)
        until = time.perf_counter() + WARM_UP
        self._once()
        while time.perf_counter() < until:
            self._once()

    def _clocked(self) -> float:
        start = time.perf_counter()
        self._once()
        return 1000 * (time.perf_counter() - start)

    def _once(self) -> None:
        self._lanes[0].run(self._piece.profile)


def _by_nodes(nodes: dict[str, frozenset[str]], reported: list[tuple[str, float]]) -> dict[frozenset[str], float]:
    """The time of one run; several layers may compute the same nodes."""
    times = defaultdict[frozenset[str], float](float)
    for name, milliseconds in reported:
        if name in nodes:
            times[nodes[name]] += milliseconds
    return times


def _make_profiler(trt: TensorRt, report: Callable[[str, float], None]) -> IProfiler:
    """TensorRT's profiler, reporting layer and milliseconds, for each run before ``execute_async_v3`` returns."""
    base: Any = trt.IProfiler

    class Profiler(base):  # type: ignore[misc]  # the base exists only once the module is imported
        def __init__(self) -> None:
            base.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            report(layer_name, ms)

    return Profiler()
