"""How long an engine takes on the GPU of this machine: as a whole, and by the ONNX nodes that it computes together."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from deploy.engine.api import EngineInspector, ICudaEngine, IExecutionContext, IProfiler, TensorRt
from deploy.engine.flavours import Flavour
from deploy.runtime.cuda import Cuda
from deploy.runtime.trt import TrtRunner
from deploy.runtime.trt_io import with_batch

# Seconds in which clocks rise and kernels are loaded; trtexec's --warmUp has the same default.
WARM_UP = 0.2
RUNS = 50

# The parser's importerUtils.cpp (onnx-tensorrt): "[ONNX Layer: <name> | <function it was inlined from> …]". A fused
# layer has one for each node, behind one another or apart by a control character.
_NODE = re.compile(r"\[ONNX Layer: (.+?)(?: \| .*?)?\](?=[\x1e\x1f]|\[ONNX Layer: |\s*$)")
_REFORMAT = re.compile(r"Reformatting CopyNode for (?:Input|Output) Tensor \d+ to (.+)")


class TimedRunner(TrtRunner):
    """A runner for its time alone: random inputs at the profile's usual batch lie in GPU memory, nothing is copied.

    For one thread. Once layers have been timed, whole runs are slower. Without CUDA graphs, whose layers no profiler
    sees.
    """

    def __init__(self, plan: bytes, flavour: Flavour, cuda: Cuda | None = None) -> None:
        """Load a plan. Raises as :class:`TrtRunner` does."""
        super().__init__(plan, flavour, cuda, lanes=1, graphs=False, eager=True)
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
        nodes = layer_nodes(_information(self._engine.trt, self._engine.cuda_engine))
        reported: list[tuple[str, float]] = []
        times = defaultdict[frozenset[str], list[float]](list)
        with self._cuda:
            context: IExecutionContext = self._lanes[0].context(self._piece.profile)
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


def layer_nodes(information: str) -> dict[str, frozenset[str]]:
    """Engine layer → the ONNX nodes in it, from the inspector's JSON; layers that tell of none are left out.

    TensorRT 10 and 11 differ in how they describe tensors, which is not read here. An engine built without
    ``ProfilingVerbosity.DETAILED`` lists names alone. Text that is no such JSON tells of no layer.
    """
    try:
        document = json.loads(information, strict=False)  # the control characters may come as they are
    except json.JSONDecodeError:
        return {}
    layers = document.get("Layers") if isinstance(document, dict) else None
    found: dict[str, frozenset[str]] = {}
    names = list[str]()
    for layer in layers if isinstance(layers, list) else []:
        if isinstance(layer, dict) and isinstance(layer.get("Name"), str):
            names.append(layer["Name"])
            found[layer["Name"]] = frozenset(_NODE.findall(str(layer.get("Metadata", ""))))
    for name in names:
        if not found[name] and (copy := _REFORMAT.fullmatch(name)):
            found[name] = found.get(copy[1], frozenset())
    return {name: nodes for name, nodes in found.items() if nodes}


def _by_nodes(nodes: dict[str, frozenset[str]], reported: list[tuple[str, float]]) -> dict[frozenset[str], float]:
    """The time of one run; several layers may compute the same nodes."""
    times = defaultdict[frozenset[str], float](float)
    for name, milliseconds in reported:
        if name in nodes:
            times[nodes[name]] += milliseconds
    return times


def _information(trt: TensorRt, engine: ICudaEngine) -> str:
    inspector: EngineInspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _make_profiler(trt: TensorRt, report: Callable[[str, float], None]) -> IProfiler:
    """TensorRT's profiler, reporting layer and milliseconds, for each run before ``execute_async_v3`` returns."""
    base: Any = trt.IProfiler

    class Profiler(base):  # type: ignore[misc]  # the base exists only once the module is imported
        def __init__(self) -> None:
            base.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            report(layer_name, ms)

    return Profiler()
