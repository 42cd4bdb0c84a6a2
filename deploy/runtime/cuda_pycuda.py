"""CUDA through pycuda, which knows no graphs.

pycuda keeps a stack of contexts for each thread and aborts the process when a thread ends with one on it: so the GPU is
current only within ``with cuda:``. It destroys a stream or an event when the last reference to it goes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

import numpy as np
import pycuda.driver as driver

from deploy.errors import MachineError
from deploy.runtime import cuda as base
from deploy.runtime.cuda import reports

_NONBLOCKING = 1  # CU_STREAM_NON_BLOCKING: pycuda passes the flag on and has no name for it


@reports("cuDevicePrimaryCtxRetain")
def open_gpu(ordinal: int) -> PycudaCuda:
    """One GPU by its number; raises :class:`MachineError` where it cannot be used."""
    return PycudaCuda(ordinal)


@functools.cache
def _primary(ordinal: int) -> driver.Context:
    """The context that the CUDA runtime, and so TensorRT, uses; kept until the process ends, as the runtime does."""
    driver.init()
    return driver.Device(ordinal).retain_primary_context()


class PycudaMemory:
    """A :class:`~deploy.runtime.cuda.DeviceMemory`."""

    def __init__(self, nbytes: int) -> None:
        self._native: driver.DeviceAllocation | None = driver.mem_alloc(nbytes)
        self.address, self.nbytes = int(self._native), nbytes

    @reports("cuMemFree")
    def close(self) -> None:
        native, self._native = self._native, None
        if native is not None:
            native.free()


class PycudaPinned:
    """A :class:`~deploy.runtime.cuda.PinnedMemory`."""

    def __init__(self, nbytes: int) -> None:
        self.array = driver.pagelocked_empty(nbytes, np.uint8)
        self.address = int(self.array.ctypes.data)
        self._native: driver.PagelockedHostAllocation | None = self.array.base

    @reports("cuMemFreeHost")
    def close(self) -> None:
        native, self._native = self._native, None
        if native is not None:
            native.free()


class PycudaEvent:
    """A :class:`~deploy.runtime.cuda.Event`."""

    def __init__(self) -> None:
        self._native: driver.Event | None = driver.Event()

    @property
    def native(self) -> driver.Event:
        return _alive(self._native, "event")

    @reports("cuEventSynchronize")
    def synchronize(self) -> None:
        self.native.synchronize()

    @reports("cuEventElapsedTime")
    def milliseconds_since(self, earlier: base.Event) -> float:
        return float(self.native.time_since(_native(earlier)))

    def close(self) -> None:
        self._native = None


class PycudaStream:
    """A :class:`~deploy.runtime.cuda.Stream`."""

    def __init__(self) -> None:
        self._native: driver.Stream | None = driver.Stream(_NONBLOCKING)
        self.handle = int(self._native.handle)

    @reports("cuMemcpyHtoDAsync")
    def upload(self, source: base.PinnedMemory, target: base.DeviceMemory, nbytes: int) -> None:
        driver.memcpy_htod_async(target.address, source.array[:nbytes], self._alive())

    @reports("cuMemcpyDtoHAsync")
    def download(self, source: base.DeviceMemory, target: base.PinnedMemory, nbytes: int) -> None:
        driver.memcpy_dtoh_async(target.array[:nbytes], source.address, self._alive())

    @reports("cuEventRecord")
    def record(self, event: base.Event) -> None:
        _native(event).record(self._alive())

    @reports("cuStreamWaitEvent")
    def wait(self, event: base.Event) -> None:
        self._alive().wait_for_event(_native(event))

    def capture(self, enqueue: Callable[[], None]) -> NoReturn:
        raise MachineError("pycuda cannot capture CUDA graphs", fix="pip install 'cuda-core[cu13]'.")

    @reports("cuStreamSynchronize")
    def synchronize(self) -> None:
        self._alive().synchronize()

    def close(self) -> None:
        self._native = None

    def _alive(self) -> driver.Stream:
        return _alive(self._native, "stream")


class PycudaCuda:
    """A :class:`~deploy.runtime.cuda.Cuda`."""

    binding, graphs = "pycuda", False

    def __init__(self, ordinal: int) -> None:
        self._context = _primary(ordinal)
        self.device = str(driver.Device(ordinal).name())

    @reports("cuCtxPushCurrent")
    def __enter__(self) -> PycudaCuda:
        self._context.push()
        return self

    @reports("cuCtxPopCurrent")
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        driver.Context.pop()

    @reports("cuMemGetInfo")
    def memory_info(self) -> tuple[int, int]:
        free, total = driver.mem_get_info()
        return int(free), int(total)

    def memory(self, nbytes: int) -> PycudaMemory:
        return reports(f"cuMemAlloc of {nbytes / 2**20:.1f} MiB on the GPU")(PycudaMemory)(nbytes)

    def pinned(self, nbytes: int) -> PycudaPinned:
        return reports(f"cuMemHostAlloc of {nbytes / 2**20:.1f} MiB")(PycudaPinned)(nbytes)

    @reports("cuStreamCreate")
    def stream(self) -> PycudaStream:
        return PycudaStream()

    @reports("cuEventCreate")
    def event(self) -> PycudaEvent:
        return PycudaEvent()


def _native(event: base.Event) -> driver.Event:
    if not isinstance(event, PycudaEvent):
        raise TypeError("the event is of another binding")
    return event.native


def _alive(native: object | None, kind: str) -> driver.Event:
    if native is None:
        raise RuntimeError(f"the {kind} is closed")
    return native
