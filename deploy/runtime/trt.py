"""Plans through TensorRT or TensorRT-RTX on the GPU: one code path, the flavour being a parameter."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, LifoQueue

import numpy as np

from deploy.engine.flavours import Flavour, load_flavour
from deploy.engine.loading import AS_IT_IS, Loading, loading_of
from deploy.engine.plan import plan_kind
from deploy.engine.preflight import preflight
from deploy.manifest import Manifest, read_plan_manifest
from deploy.runtime.base import Array, Runner
from deploy.runtime.cuda import Cuda, open_cuda
from deploy.runtime.timing import InferenceTime
from deploy.runtime.trt_cache import runtime_cache_path
from deploy.runtime.trt_engine import Engine
from deploy.runtime.trt_io import Piece, with_batch
from deploy.runtime.trt_lane import Lane

LANES = 2


def open_plan(
    path: Path, *, lanes: int = LANES, graphs: bool = True, eager: bool = False, loading: Loading | None = None
) -> TrtRunner:
    """The runner of a plan file, with its manifest if it has one; see :class:`TrtRunner` for the arguments.

    ``loading`` is for a plan whose manifest is not beside it yet; None: what its manifest says.

    Raises:
        InputError: the file is no plan, or not the one that its manifest describes; or it lacks its weights, and so
            does its graph.
        MachineError: this machine cannot run it; the error says what to do instead.
    """
    manifest = read_plan_manifest(path)
    remarks = preflight(path, manifest)
    flavour = load_flavour(plan_kind(path).flavour)
    cache = runtime_cache_path(path)
    loading = loading or loading_of(path, manifest.engine if manifest is not None else None)
    plan = path.read_bytes()
    runner = TrtRunner(plan, flavour, lanes=lanes, graphs=graphs, eager=eager, runtime_cache=cache, loading=loading)
    runner.manifest = manifest
    runner.execution = "; ".join([runner.execution, *remarks])
    return runner


class TrtRunner(Runner):
    """One engine, whose weights are on the GPU once, and a few lanes in which requests run.

    Any thread may call :meth:`infer`; as many requests as there are lanes are under way at once, others wait. A request
    larger than the largest batch runs in pieces, in as many lanes as are idle, so that one piece is copied while
    another computes. Each piece runs in the optimization profile that fits it best. A piece smaller than any profile's
    smallest batch is filled up with copies of its last row, whose results are dropped. An engine of one fixed batch
    takes exactly that batch. :class:`~deploy.runtime.trt_lane.Lane` tells of CUDA graphs, docs/runtime.md of memory.

    Attributes:
        timed_by: what :meth:`infer_timed` reads.
        profile: from the smallest batch to the largest of one piece.
    """

    timed_by = "CUDA events"

    def __init__(
        self,
        plan: bytes,
        flavour: Flavour,
        cuda: Cuda | None = None,
        *,
        lanes: int = LANES,
        graphs: bool = True,
        eager: bool = False,
        runtime_cache: Path | None = None,
        loading: Loading = AS_IT_IS,
    ) -> None:
        """Load a plan.

        Args:
            plan: the serialised engine.
            flavour: what built it, in the same release.
            cuda: where to run; by default the first GPU.
            lanes: requests under way at once. Each takes memory for the largest batch.
            graphs: launch batch sizes that come again as CUDA graphs, where the binding can.
            eager: TensorRT-RTX compiles the kernels of a shape when it meets it, rather than in the background.
            runtime_cache: the file in which TensorRT-RTX's kernels are kept; None keeps none.
            loading: what the plan needs besides: its weights, or trust in the code that it carries.

        Raises:
            InputError: the engine has other dynamic axes than the batch, or tensors that numpy cannot hold.
            MachineError: the plan cannot be loaded here, or the GPU's memory is full.
        """
        self.backend = flavour.name
        self.manifest: Manifest | None = None
        self._graphs, self._closing, self._closed = graphs, threading.Lock(), False
        self._cuda = cuda or open_cuda()
        with self._cuda, contextlib.ExitStack() as owned:
            self._engine = Engine(
                plan, flavour, graphs=graphs, eager=eager, runtime_cache=runtime_cache, loading=loading
            )
            owned.callback(self._engine.close)
            self._lanes: list[Lane] = []
            for _ in range(lanes):
                self._lanes.append(Lane(self._engine, self._cuda, graphs=graphs and self._cuda.graphs))
                owned.callback(self._lanes[-1].close)
            self._owned = owned.pop_all()
        self._io = self._engine.io
        self.inputs, self.outputs, self.profile = self._io.inputs, self._io.outputs, self._io.batch
        # The lane that was used last is taken first: one client keeps to one lane, and to its graphs.
        self._idle = LifoQueue[Lane | None]()
        self._collected: list[Lane] = []
        for lane in self._lanes:
            self._idle.put(lane)
        self.execution = f"executed on {self._cuda.device} ({flavour})"

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        results, pieces = self._request(feeds)
        with self._cuda:
            self._run(feeds, results, pieces)
        return results

    def infer_timed(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], InferenceTime]:
        """:meth:`infer`, and how long its parts took on the GPU; the pieces of a large request run one by one."""
        results, pieces = self._request(feeds)
        with self._cuda:
            lane = self._take()
            try:
                times = [lane.run_timed(feeds, results, piece) for piece in pieces]
            finally:
                self._idle.put(lane)
        return results, _sum(times)

    def device_memory(self) -> int:
        """Bytes on the GPU: weights (as many as the plan has), activations, inputs and outputs of all lanes."""
        return self._engine.weights + sum(lane.device_bytes for lane in self._lanes)

    @property
    def graph_problem(self) -> str | None:
        """Why requests run without CUDA graphs though they were asked for."""
        if self._graphs and not (self._cuda.graphs or self._engine.own_graphs):
            return f"{self._cuda.binding} cannot capture CUDA graphs"
        return next((lane.graph_problem for lane in self._lanes if lane.graph_problem), None)

    def close(self) -> None:
        """Wait for the requests under way, and release all."""
        with self._closing:
            self._closed = True
            # An interrupted call goes on where it was when it is made again.
            while len(self._collected) < len(self._lanes):
                lane = self._idle.get()
                if lane is not None:
                    self._collected.append(lane)
            self._idle.put(None)  # for those who still wait for a lane
            with self._cuda:  # memory is freed in the current CUDA context, and threads begin with none
                self._owned.close()

    def _request(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], list[Piece]]:
        self.check(feeds)
        rows = self._io.rows(feeds)
        results = {spec.name: np.empty(with_batch(spec, rows), spec.dtype) for spec in self.outputs}
        return results, self._io.pieces(rows)

    def _run(self, feeds: Mapping[str, Array], results: Mapping[str, Array], pieces: Sequence[Piece]) -> None:
        """Each piece in a lane that is idle, else in the one of this request that finishes first.

        Waits for a lane of others only while it holds none: two requests cannot wait for each other.
        """
        under_way = deque[tuple[Lane, Piece]]()
        try:
            for piece in pieces:
                lane = self._idle_lane() if under_way else self._take()
                if lane is None:
                    lane, earlier = under_way[0]
                    lane.finish(results, earlier)
                    under_way.popleft()
                under_way.append((lane, piece))
                lane.start(feeds, piece)
            while under_way:
                lane, piece = under_way[0]
                lane.finish(results, piece)
                self._idle.put(under_way.popleft()[0])
        finally:
            for lane, _ in under_way:
                self._idle.put(lane)

    def _take(self) -> Lane:
        """A lane, waited for."""
        lane = None
        if not self._closed:
            lane = self._idle.get()
            if lane is None:
                self._idle.put(None)  # for the next of those who wait
        if lane is None:
            raise RuntimeError("this runner is closed")
        return lane

    def _idle_lane(self) -> Lane | None:
        try:
            return self._idle.get_nowait()
        except Empty:
            return None


def _sum(times: Sequence[InferenceTime]) -> InferenceTime:
    return InferenceTime(
        sum(time.h2d_ms for time in times),
        sum(time.compute_ms for time in times),
        sum(time.d2h_ms for time in times),
        sum(time.enqueue_ms or 0 for time in times),
    )
