"""Plans through TensorRT or TensorRT-RTX on the GPU: one code path, the flavour being a parameter."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deploy.engine.api import ICudaEngine, IExecutionContext, Runtime
from deploy.engine.flavours import Flavour, load_flavour
from deploy.engine.log import LogLine, failures, process_logger, recording
from deploy.engine.preflight import plan_kind, preflight
from deploy.errors import MachineError
from deploy.manifest import Manifest, read_plan_manifest
from deploy.runtime.base import Array, Runner
from deploy.runtime.cuda_stream import Buffer, CudaStream, open_stream
from deploy.runtime.trt_io import is_batched, nbytes, read_io, with_batch
from deploy.specs import TensorSpec


def open_plan(path: Path) -> TrtRunner:
    """The runner of a plan file, with its manifest if it has one.

    Raises:
        InputError: the file is no plan, or not the one that its manifest describes.
        MachineError: this machine cannot run it; the error says what to do instead.
    """
    manifest = read_plan_manifest(path)
    preflight(path, manifest)
    runner = TrtRunner(path.read_bytes(), load_flavour(plan_kind(path).flavour))
    runner.manifest = manifest
    return runner


class TrtRunner(Runner):
    """One engine, one execution context, one stream, and buffers for the largest batch of its profile.

    Any thread may call :meth:`infer`; one runs at a time. A request larger than the profile's largest batch runs in
    pieces. A piece smaller than its smallest batch is filled up with copies of its last row, whose results are
    dropped. An engine of one fixed batch takes exactly that batch.
    """

    def __init__(self, plan: bytes, flavour: Flavour, stream: CudaStream | None = None) -> None:
        """Load a plan.

        Args:
            plan: the serialised engine.
            flavour: what built it, in the same release.
            stream: where to run, closed with this runner; by default a new stream of the first GPU.

        Raises:
            InputError: the engine has other dynamic axes than the batch, or tensors that numpy cannot hold.
            MachineError: the plan cannot be loaded here, or the GPU's memory is full.
        """
        self.backend = flavour.name
        self.manifest: Manifest | None = None
        self._trt = flavour.module
        self._lock = threading.Lock()
        with contextlib.ExitStack() as owned:
            self._stream = stream or open_stream()
            owned.callback(self._stream.close)
            owned.callback(self._drop_engine)
            self._load(plan, flavour)
            self._buffers = {spec.name: self._bind(spec, owned) for spec in (*self.inputs, *self.outputs)}
            # Runs first on closing: an interrupted call may have left copies under way.
            owned.callback(self._stream.synchronize)
            self._owned = owned.pop_all()
        self._closed = False
        self.execution = f"executed on {self._stream.device} ({flavour})"

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.check(feeds)
        rows = self._io.rows(feeds)
        results = {spec.name: np.empty(with_batch(spec, rows), spec.dtype) for spec in self.outputs}
        with self._lock:
            if self._closed:
                raise RuntimeError("this runner is closed")
            self._stream.activate()
            for piece in self._io.pieces(rows):
                self._run(feeds, results, piece)
        return results

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._stream.activate()  # memory is freed in the current CUDA context, and threads begin with none
                self._owned.close()

    def _load(self, plan: bytes, flavour: Flavour) -> None:
        trt, lines = flavour.module, list[LogLine]()
        self._context: IExecutionContext = None
        self._engine: ICudaEngine = None
        self._runtime: Runtime = None
        with recording(trt, lines):
            self._runtime = _made(flavour, lines, lambda: trt.Runtime(process_logger(trt)))
            self._engine = _made(flavour, lines, lambda: self._runtime.deserialize_cuda_engine(plan))
            self._io = read_io(trt, self._engine)
            self._context = _made(flavour, lines, self._engine.create_execution_context)
        self.inputs, self.outputs = self._io.inputs, self._io.outputs

    def _bind(self, spec: TensorSpec, owned: contextlib.ExitStack) -> Buffer:
        buffer = self._stream.buffer(max(1, nbytes(spec, self._io.batch.max)))
        owned.callback(buffer.close)
        if not self._context.set_tensor_address(spec.name, buffer.address):
            raise MachineError(f"the engine refuses the memory of tensor '{spec.name}'")
        return buffer

    def _run(self, feeds: Mapping[str, Array], results: Mapping[str, Array], piece: slice) -> None:
        """Run ``piece`` of the rows, from ``feeds`` into ``results``."""
        filled = max(piece.stop - piece.start, self._io.batch.min)
        lines: list[LogLine] = []
        with recording(self._trt, lines):
            accepted = [self._upload(spec, _rows(spec, feeds[spec.name], piece), filled) for spec in self.inputs]
            if not (all(accepted) and self._context.execute_async_v3(self._stream.handle)):
                raise run_failure(lines)
        for spec in self.outputs:
            self._buffers[spec.name].download(nbytes(spec, filled))
        self._stream.synchronize()
        for spec in self.outputs:
            target = _rows(spec, results[spec.name], piece)
            target[...] = self._host(spec, filled)[: len(target)] if is_batched(spec) else self._host(spec, filled)

    def _upload(self, spec: TensorSpec, values: Array, filled: int) -> bool:
        """Queue one input, filled up to the engine's smallest batch; False where the engine refuses the shape."""
        host = self._host(spec, filled)
        if is_batched(spec):
            host[: len(values)] = values
            host[len(values) :] = values[-1]
        else:
            host[...] = values
        self._buffers[spec.name].upload(host.nbytes)
        return bool(self._context.set_input_shape(spec.name, host.shape))

    def _host(self, spec: TensorSpec, rows: int) -> Array:
        """The host side of a tensor's buffer at one batch size, as an array of its own type."""
        return self._buffers[spec.name].host[: nbytes(spec, rows)].view(spec.dtype).reshape(with_batch(spec, rows))

    def _drop_engine(self) -> None:
        self._context = None  # before its engine, and that before its runtime
        self._engine = None
        self._runtime = None


def run_failure(lines: list[LogLine]) -> MachineError:
    """The error of a run that TensorRT refused, in the words it logged."""
    reasons = failures(lines)
    return MachineError("the engine failed to run", got="; ".join(reasons) or "no reason given", details=reasons)


def _made(flavour: Flavour, lines: list[LogLine], make: Callable[[], Any]) -> Any:
    """What ``make`` returns; TensorRT returns nothing, or pybind11 raises TypeError, where it failed."""
    try:
        made = make()
    except TypeError as error:
        made, fallback = None, str(error)
    else:
        fallback = "no reason given"
    if made is None:
        reasons = failures(lines)
        raise MachineError(
            f"{flavour} cannot load this plan",
            got=reasons[0] if reasons else fallback,
            expected=f"a plan built by {flavour} for this GPU",
            fix="Build it again here: python build_engine.py MODEL.onnx.",
            details=reasons,
        )
    return made


def _rows(spec: TensorSpec, array: Array, piece: slice) -> Array:
    return array[piece] if is_batched(spec) else array
