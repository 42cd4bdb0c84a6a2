"""One of the places of a :class:`~deploy.runtime.trt.TrtRunner` in which a request runs."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from deploy.engine.api import IExecutionContext
from deploy.errors import MachineError
from deploy.runtime.base import Array
from deploy.runtime.cuda import Cuda, Graph
from deploy.runtime.timing import InferenceTime
from deploy.runtime.trt_buffers import Bindings, Buffers
from deploy.runtime.trt_engine import Engine, changing_device
from deploy.runtime.trt_io import Piece

_log = logging.getLogger(__name__)

GRAPHS = 32  # of one lane at most
FAILED_CAPTURES = 3  # after so many a lane tries no more


@dataclass(slots=True)
class _Plain:
    """A context for all batch sizes of a profile, and the one that its shapes are set to."""

    context: IExecutionContext
    rows: int = 0


@dataclass(slots=True)
class _Size:
    """A batch size in a profile: how often it ran without a graph, and its graph."""

    profile: int
    bindings: Bindings
    uses: int = 0
    graph: Graph | None = None


class Lane:
    """A stream, memory on both sides for the largest batch, and contexts. For one thread at a time.

    Any batch size runs through one context for each profile. The second request of a size gets a CUDA graph: a context
    of its own, because a graph holds only while its context is left as it was captured (TensorRT's developer guide, on
    CUDA graphs); that context is enqueued once, which is that request, and then captured, without which the capture
    would contain what TensorRT defers after a change of shape. All contexts of a lane compute in the same device
    memory, one behind the other. :data:`GRAPHS` sizes get a graph, exact sizes, first come; the others run without, as
    does one whose capture failed, and all after :data:`FAILED_CAPTURES` of these; the reason is kept and logged.
    TensorRT-RTX makes graphs by itself.
    """

    def __init__(self, engine: Engine, cuda: Cuda, *, graphs: bool) -> None:
        self._engine = engine
        self._graphs_left = GRAPHS if graphs and not engine.own_graphs else 0
        self._captures_left = FAILED_CAPTURES
        self.graph_problem: str | None = None
        self._plain: dict[int, _Plain] = {}
        self._sizes: dict[tuple[int, int], _Size] = {}
        self._captured: list[IExecutionContext] = []  # kept alive for their graphs
        with contextlib.ExitStack() as owned:
            self.stream = cuda.stream()
            owned.callback(self.stream.close)
            self._activations = None if engine.own_memory else cuda.memory(engine.activations)
            if self._activations is not None:
                owned.callback(self._activations.close)
            self.buffers = Buffers(engine.io, cuda)
            owned.callback(self.buffers.close)
            owned.callback(self._drop_contexts)
            self._events = [cuda.event() for _ in range(4)]
            for event in self._events:
                owned.callback(event.close)
            self._owned = owned.pop_all()

    def start(self, feeds: Mapping[str, Array], piece: Piece) -> None:
        """Queue a piece of a request. Raises :class:`MachineError` where CUDA or TensorRT refuses it."""
        size = self._fill(feeds, piece)
        size.bindings.upload(self.stream)
        self._launch(size)
        size.bindings.download(self.stream)

    def finish(self, results: Mapping[str, Array], piece: Piece) -> None:
        """Wait for the piece and copy its rows to ``results``."""
        self.stream.synchronize()
        self.buffers.at(piece.filled).read(results, piece)

    def run_timed(self, feeds: Mapping[str, Array], results: Mapping[str, Array], piece: Piece) -> InferenceTime:
        """:meth:`start` and :meth:`finish`, with CUDA events between copies and computing."""
        size, stream, events = self._fill(feeds, piece), self.stream, self._events
        stream.record(events[0])
        size.bindings.upload(stream)
        stream.record(events[1])
        before = time.perf_counter()
        self._launch(size)
        enqueue_ms = 1000 * (time.perf_counter() - before)
        stream.record(events[2])
        size.bindings.download(stream)
        stream.record(events[3])
        self.finish(results, piece)
        h2d, compute, d2h = (events[later].milliseconds_since(events[later - 1]) for later in (1, 2, 3))
        return InferenceTime(h2d, compute, d2h, enqueue_ms)

    def load(self, feeds: Mapping[str, Array], piece: Piece) -> None:
        """Copy inputs to the GPU, and set the shapes of the context for plain runs."""
        size = self._fill(feeds, piece)
        size.bindings.upload(self.stream)
        self._set_shapes(size)
        self.stream.synchronize()

    def run(self, profile: int) -> None:
        """Compute once on what :meth:`load` left on the GPU, and wait for the end."""
        self._enqueue(self.context(profile))
        self.stream.synchronize()

    def context(self, profile: int) -> IExecutionContext:
        """The one for plain runs in a profile."""
        if profile not in self._plain:
            self._plain[profile] = _Plain(self._new_context(profile))
        return self._plain[profile].context

    @property
    def device_bytes(self) -> int:
        """On the GPU, of this lane; what TensorRT keeps for each context is not known to it."""
        activations = len(self._plain) if self._activations is None else 1
        return activations * self._engine.activations + self.buffers.device_bytes

    def close(self) -> None:
        """Wait for what is under way, also of a call that was interrupted, and free all."""
        try:
            self.stream.synchronize()
        finally:
            with changing_device:
                self._owned.close()

    def _fill(self, feeds: Mapping[str, Array], piece: Piece) -> _Size:
        # What an interrupted call left under way may read this too: nobody waits for its results, and they come first.
        size = self._sizes.get((piece.profile, piece.filled))
        if size is None:
            size = _Size(piece.profile, self.buffers.at(piece.filled))
            self._sizes[piece.profile, piece.filled] = size
        size.bindings.fill(feeds, piece)
        return size

    def _launch(self, size: _Size) -> None:
        if size.graph is not None:
            size.graph.launch()
            return
        size.uses += 1
        if size.uses == 2 and self._graphs_left and self._make_graph(size):
            return
        self._set_shapes(size)
        if size.uses <= 2 and self._engine.own_graphs:  # TensorRT-RTX may capture in here
            with changing_device:
                self._enqueue(self.context(size.profile))
        else:
            self._enqueue(self.context(size.profile))

    def _make_graph(self, size: _Size) -> bool:
        """Whether this queued the work of ``size``, through a context that has been captured if that could be done."""
        queued = False
        try:
            context: IExecutionContext = self._new_context(size.profile)
            self._captured.append(context)
            self._shape(context, size.bindings)
            self._enqueue(context)
            queued = True
            self.stream.synchronize()  # TensorRT's samples capture when that run has ended
            with changing_device:
                size.graph = self.stream.capture(lambda: self._enqueue(context))
            self._owned.callback(size.graph.close)
            self._graphs_left -= 1
        except MachineError as error:
            self._failed_capture(size, error.headline)
        return queued

    def _failed_capture(self, size: _Size, problem: str) -> None:
        if self.graph_problem is None:
            _log.warning("a batch of %d runs without a CUDA graph: %s", size.bindings.rows, problem)
        self.graph_problem = problem
        self._captures_left -= 1
        if not self._captures_left:
            self._graphs_left = 0

    def _set_shapes(self, size: _Size) -> None:
        context, rows = self.context(size.profile), size.bindings.rows
        plain = self._plain[size.profile]
        if plain.rows != rows:
            plain.rows = 0  # until all are set
            self._shape(context, size.bindings)
            plain.rows = rows

    def _enqueue(self, context: IExecutionContext) -> None:
        if not context.execute_async_v3(self.stream.handle):
            raise self._engine.failure()

    def _new_context(self, profile: int) -> IExecutionContext:
        memory = self._activations.address if self._activations is not None else 0
        context: IExecutionContext = self._engine.context(memory)
        accepted = profile == 0 or context.set_optimization_profile_async(profile, self.stream.handle)
        for name, address in self.buffers.addresses.items():
            accepted = accepted and context.set_tensor_address(name, address)
        if not accepted:
            raise self._engine.failure()
        return context

    def _shape(self, context: IExecutionContext, bindings: Bindings) -> None:
        if not all(context.set_input_shape(each.name, each.host.shape) for each in bindings.inputs):
            raise self._engine.failure()

    def _drop_contexts(self) -> None:
        self._plain.clear()
        self._captured.clear()
