"""One of the places of a :class:`~deploy.runtime.trt.TrtRunner` in which a request runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from deploy.engine.api import IExecutionContext
from deploy.errors import MachineError
from deploy.runtime.base import Array
from deploy.runtime.cuda import Cuda, DeviceMemory, Graph, PinnedMemory
from deploy.runtime.timing import InferenceTime
from deploy.runtime.trt_engine import Engine
from deploy.runtime.trt_io import Piece, is_batched, nbytes, with_batch
from deploy.specs import TensorSpec

GRAPHS = 32  # of one lane at most


@dataclass(slots=True)
class _Binding:
    """One tensor at one batch size: its part of the lane's memory, and that as an array."""

    name: str
    batched: bool
    host: Array
    pinned: PinnedMemory
    device: DeviceMemory
    nbytes: int


@dataclass(slots=True)
class _Size:
    """All that depends on the batch size."""

    profile: int
    rows: int
    inputs: list[_Binding]
    outputs: list[_Binding]
    uses: int = 0
    graph: Graph | None = None


@dataclass(slots=True)
class _Profile:
    """The context for plain runs in one profile, and the rows that its shapes are set to."""

    context: IExecutionContext
    rows: int = field(default=0)


class Lane:
    """A stream, memory on both sides for the largest batch, and contexts. For one thread at a time.

    Any batch size runs through one context for each profile. The second request of a size gets a CUDA graph: a context
    of its own, because a graph holds only while its context is left as it was captured (TensorRT's developer guide, on
    CUDA graphs); that context is enqueued once, which is that request, and then captured, without which the capture
    would contain what TensorRT defers after a change of shape. All contexts of a lane compute in the same device
    memory, one behind the other. :data:`GRAPHS` sizes get a graph, exact sizes, first come; the others run without, and
    so do all after a capture that failed, whose reason is kept. TensorRT-RTX makes graphs by itself.
    """

    def __init__(self, engine: Engine, cuda: Cuda, *, graphs: bool) -> None:
        self._engine, self._cuda = engine, cuda
        self.graphs_left = GRAPHS if graphs and not engine.own_graphs else 0
        self.graph_problem: str | None = None
        self._sizes: dict[tuple[int, int], _Size] = {}
        self._profiles: dict[int, _Profile] = {}
        self._graph_contexts: list[IExecutionContext] = []
        self._under_way = False
        with contextlib.ExitStack() as owned:
            self.stream = cuda.stream()
            owned.callback(self.stream.close)
            self._activations = None if engine.own_memory else cuda.memory(engine.activations)
            if self._activations is not None:
                owned.callback(self._activations.close)
            specs = (*engine.io.inputs, *engine.io.outputs)
            self._memory = {spec.name: self._allocate(spec, owned) for spec in specs}
            owned.callback(self._drop_contexts)
            self._events = [cuda.event() for _ in range(4)]
            for event in self._events:
                owned.callback(event.close)
            self._owned = owned.pop_all()

    def start(self, feeds: Mapping[str, Array], piece: Piece) -> None:
        """Queue a piece of a request. Raises :class:`MachineError` where CUDA or TensorRT refuses it."""
        size = self._prepare(feeds, piece)
        self._upload(size)
        self._launch(size)
        self._download(size)

    def finish(self, results: Mapping[str, Array], piece: Piece) -> None:
        """Wait for the piece and copy its rows to ``results``."""
        self.stream.synchronize()
        self._under_way = False
        rows = piece.stop - piece.start
        for output in self._sizes[piece.profile, piece.filled].outputs:
            if output.batched:
                results[output.name][piece.start : piece.stop] = output.host[:rows]
            else:
                results[output.name][...] = output.host

    def run_timed(self, feeds: Mapping[str, Array], results: Mapping[str, Array], piece: Piece) -> InferenceTime:
        """:meth:`start` and :meth:`finish`, with CUDA events between copies and computing."""
        size, stream, events = self._prepare(feeds, piece), self.stream, self._events
        stream.record(events[0])
        self._upload(size)
        stream.record(events[1])
        before = time.perf_counter()
        self._launch(size)
        enqueue_ms = 1000 * (time.perf_counter() - before)
        stream.record(events[2])
        self._download(size)
        stream.record(events[3])
        self.finish(results, piece)
        h2d, compute, d2h = (events[later].milliseconds_since(events[later - 1]) for later in (1, 2, 3))
        return InferenceTime(h2d, compute, d2h, enqueue_ms)

    def load(self, feeds: Mapping[str, Array], piece: Piece) -> None:
        """Copy inputs to the GPU, and set the shapes of the context for plain runs."""
        size = self._prepare(feeds, piece)
        self._upload(size)
        self._set_shapes(size)
        self.stream.synchronize()

    def run(self, profile: int) -> None:
        """Compute once on what :meth:`load` left on the GPU, and wait for the end."""
        self._enqueue(self.context(profile))
        self.stream.synchronize()

    def context(self, profile: int) -> IExecutionContext:
        """The one for plain runs in a profile."""
        return self._plain(profile).context

    @property
    def device_bytes(self) -> int:
        """Bytes on the GPU that belong to this lane; what TensorRT keeps for each context is not known to it."""
        activations = len(self._profiles) if self._activations is None else 1
        return activations * self._engine.activations + sum(device.nbytes for _, device in self._memory.values())

    def close(self) -> None:
        """Wait for what is under way, also of a call that was interrupted, and free all."""
        try:
            self.stream.synchronize()
        finally:
            self._owned.close()

    def _prepare(self, feeds: Mapping[str, Array], piece: Piece) -> _Size:
        """Fill the host side of the inputs; rows beyond the piece's repeat its last one."""
        if self._under_way:  # of a call that was interrupted: its copies may still read what is written now
            self.stream.synchronize()
        self._under_way = True
        size = self._size(piece.profile, piece.filled)
        rows = piece.stop - piece.start
        for each in size.inputs:
            values = feeds[each.name]
            if not each.batched:
                each.host[...] = values
            elif rows == size.rows:
                each.host[...] = values[piece.start : piece.stop]
            else:
                each.host[:rows] = values[piece.start : piece.stop]
                each.host[rows:] = values[piece.stop - 1]
        return size

    def _upload(self, size: _Size) -> None:
        for each in size.inputs:
            self.stream.upload(each.pinned, each.device, each.nbytes)

    def _download(self, size: _Size) -> None:
        for each in size.outputs:
            self.stream.download(each.device, each.pinned, each.nbytes)

    def _launch(self, size: _Size) -> None:
        if size.graph is not None:
            size.graph.launch()
            return
        size.uses += 1
        if size.uses > 1 and self.graphs_left and self._make_graph(size):
            return
        self._set_shapes(size)
        self._enqueue(self._profiles[size.profile].context)

    def _enqueue(self, context: IExecutionContext) -> None:
        if not context.execute_async_v3(self.stream.handle):
            raise self._engine.failure()

    def _set_shapes(self, size: _Size) -> None:
        plain = self._plain(size.profile)
        if plain.rows != size.rows:
            plain.rows = 0
            self._shape(plain.context, size)
            plain.rows = size.rows

    def _make_graph(self, size: _Size) -> bool:
        """Whether this queued the work of ``size``, through a context that has been captured if that could be done."""
        queued = False
        try:
            context: IExecutionContext = self._new_context(size.profile)
            self._graph_contexts.append(context)
            self._shape(context, size)
            self._enqueue(context)
            queued = True
            size.graph = self.stream.capture(lambda: self._enqueue(context))
            self._owned.callback(size.graph.close)
            self.graphs_left -= 1
        except MachineError as error:
            self.graphs_left, self.graph_problem = 0, error.headline
        return queued

    def _plain(self, profile: int) -> _Profile:
        plain = self._profiles.get(profile)
        if plain is None:
            plain = self._profiles[profile] = _Profile(self._new_context(profile))
        return plain

    def _new_context(self, profile: int) -> IExecutionContext:
        context: IExecutionContext = self._engine.context(self._activations.address if self._activations else 0)
        accepted = profile == 0 or context.set_optimization_profile_async(profile, self.stream.handle)
        for name, (_, device) in self._memory.items():
            accepted = accepted and context.set_tensor_address(name, device.address)
        if not accepted:
            raise self._engine.failure()
        return context

    def _shape(self, context: IExecutionContext, size: _Size) -> None:
        if not all(context.set_input_shape(each.name, each.host.shape) for each in size.inputs):
            raise self._engine.failure()

    def _size(self, profile: int, rows: int) -> _Size:
        size = self._sizes.get((profile, rows))
        if size is None:
            inputs, outputs = (
                [self._binding(spec, rows) for spec in specs]
                for specs in (self._engine.io.inputs, self._engine.io.outputs)
            )
            size = self._sizes[profile, rows] = _Size(profile, rows, inputs, outputs)
        return size

    def _binding(self, spec: TensorSpec, rows: int) -> _Binding:
        pinned, device = self._memory[spec.name]
        size = nbytes(spec, rows)
        host = pinned.array[:size].view(spec.dtype).reshape(with_batch(spec, rows))
        return _Binding(spec.name, is_batched(spec), host, pinned, device, size)

    def _allocate(self, spec: TensorSpec, owned: contextlib.ExitStack) -> tuple[PinnedMemory, DeviceMemory]:
        size = max(1, nbytes(spec, self._engine.io.batch.max))
        pinned = self._cuda.pinned(size)
        owned.callback(pinned.close)
        device = self._cuda.memory(size)
        owned.callback(device.close)
        return pinned, device

    def _drop_contexts(self) -> None:
        self._profiles.clear()
        self._graph_contexts.clear()
