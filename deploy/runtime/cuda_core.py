"""CUDA through NVIDIA's cuda-core."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import TracebackType

import cuda.core as core
import numpy as np
from cuda.bindings import driver

from deploy.runtime import cuda as base
from deploy.runtime.cuda import reports


@reports("cuDevicePrimaryCtxRetain")
def open_gpu(ordinal: int) -> CoreCuda:
    """One GPU by its number; raises :class:`MachineError` where it cannot be used."""
    return CoreCuda(ordinal)


class CoreMemory:
    """A :class:`~deploy.runtime.cuda.DeviceMemory`; it is not of a stream's pool, which graphs must not outlive."""

    def __init__(self, nbytes: int) -> None:
        (result, pointer) = driver.cuMemAlloc(nbytes)
        _check(result)
        self.address, self.nbytes = int(pointer), nbytes
        self._open = True

    @reports("cuMemFree")
    def close(self) -> None:
        if self._open:
            self._open = False
            _check(*driver.cuMemFree(self.address))


class CorePinned:
    """A :class:`~deploy.runtime.cuda.PinnedMemory`."""

    def __init__(self, nbytes: int) -> None:
        self._buffer = core.LegacyPinnedMemoryResource().allocate(nbytes)
        self.address = int(self._buffer.handle)
        self.array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(self.address))

    @reports("cuMemFreeHost")
    def close(self) -> None:
        self._buffer.close()


class CoreEvent:
    """A :class:`~deploy.runtime.cuda.Event`."""

    def __init__(self, native: core.Event) -> None:
        self.native = native

    @reports("cuEventSynchronize")
    def synchronize(self) -> None:
        self.native.sync()

    @reports("cuEventElapsedTime")
    def milliseconds_since(self, earlier: base.Event) -> float:
        return float(self.native - _native(earlier))

    @reports("cuEventDestroy")
    def close(self) -> None:
        self.native.close()


class CoreGraph:
    """A :class:`~deploy.runtime.cuda.Graph`."""

    def __init__(self, native: driver.CUgraphExec, stream: driver.CUstream) -> None:
        self._native, self._stream = native, stream
        self._open = True

    def upload(self) -> None:
        """Do now what the first launch would do else."""
        _check(*driver.cuGraphUpload(self._native, self._stream))

    @reports("cuGraphLaunch")
    def launch(self) -> None:
        _check(*driver.cuGraphLaunch(self._native, self._stream))

    @reports("cuGraphExecDestroy")
    def close(self) -> None:
        if self._open:
            self._open = False
            _check(*driver.cuGraphExecDestroy(self._native))


class CoreStream:
    """A :class:`~deploy.runtime.cuda.Stream`."""

    def __init__(self, native: core.Stream) -> None:
        self._native = native
        self.handle = int(native.handle)
        # cuda-core copies whole buffers: these stand for the parts that were copied so far. They own nothing.
        self._parts: dict[tuple[int, int], core.Buffer] = {}

    @reports("cuMemcpyAsync to the GPU")
    def upload(self, source: base.PinnedMemory, target: base.DeviceMemory, nbytes: int) -> None:
        self._part(source.address, nbytes).copy_to(self._part(target.address, nbytes), stream=self._native)

    @reports("cuMemcpyAsync from the GPU")
    def download(self, source: base.DeviceMemory, target: base.PinnedMemory, nbytes: int) -> None:
        self._part(source.address, nbytes).copy_to(self._part(target.address, nbytes), stream=self._native)

    @reports("cuEventRecord")
    def record(self, event: base.Event) -> None:
        self._native.record(_native(event))

    @reports("cuStreamWaitEvent")
    def wait(self, event: base.Event) -> None:
        self._native.wait(_native(event))

    @reports("the capture of a CUDA graph")
    def capture(self, enqueue: Callable[[], None]) -> CoreGraph:
        # By the driver's calls: cuda-core 1.2's GraphBuilder frees the graph of an invalidated capture, which CUDA has
        # freed already, and the process dies (NVIDIA/cuda-python, issue 2834).
        stream = driver.CUstream(self.handle)
        # Global capture, the mode that CUDA has by default, makes allocations of any other thread fail.
        _check(*driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
        try:
            enqueue()
        except BaseException:
            (ended, captured) = driver.cuStreamEndCapture(stream)
            if ended == driver.CUresult.CUDA_SUCCESS:
                driver.cuGraphDestroy(captured)
            raise
        (ended, captured) = driver.cuStreamEndCapture(stream)
        _check(ended)
        (made, executable) = driver.cuGraphInstantiate(captured, 0)
        driver.cuGraphDestroy(captured)
        _check(made)
        graph = CoreGraph(executable, stream)
        graph.upload()
        return graph

    @reports("cuStreamSynchronize")
    def synchronize(self) -> None:
        self._native.sync()

    @reports("cuStreamDestroy")
    def close(self) -> None:
        self._parts.clear()
        self._native.close()

    def _part(self, address: int, nbytes: int) -> core.Buffer:
        part = self._parts.get((address, nbytes))
        if part is None:
            part = self._parts[address, nbytes] = core.Buffer.from_handle(address, nbytes)
        return part


class CoreCuda:
    """A :class:`~deploy.runtime.cuda.Cuda`."""

    binding, graphs = "cuda-core", True

    def __init__(self, ordinal: int) -> None:
        self._device = core.Device(ordinal)
        self._device.set_current()
        self.device = str(self._device.name)

    @reports("cuCtxSetCurrent")
    def __enter__(self) -> CoreCuda:
        self._device.set_current()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The primary context, which TensorRT uses as well, stays current: to change it costs more."""

    @reports("cuMemGetInfo")
    def memory_info(self) -> tuple[int, int]:
        (result, free, total) = driver.cuMemGetInfo()
        _check(result)
        return int(free), int(total)

    def memory(self, nbytes: int) -> CoreMemory:
        return reports(f"cuMemAlloc of {nbytes / 2**20:.1f} MiB on the GPU")(CoreMemory)(nbytes)

    def pinned(self, nbytes: int) -> CorePinned:
        return reports(f"cuMemAllocHost of {nbytes / 2**20:.1f} MiB")(CorePinned)(nbytes)

    @reports("cuStreamCreate")
    def stream(self) -> CoreStream:
        return CoreStream(self._device.create_stream())

    @reports("cuEventCreate")
    def event(self) -> CoreEvent:
        return CoreEvent(self._device.create_event(core.EventOptions(timing_enabled=True)))


def _native(event: base.Event) -> core.Event:
    if not isinstance(event, CoreEvent):
        raise TypeError("the event is of another binding")
    return event.native


def _check(result: driver.CUresult) -> None:
    if result != driver.CUresult.CUDA_SUCCESS:
        (_, text) = driver.cuGetErrorString(result)
        raise RuntimeError(f"{driver.CUresult(result).name}: {text.decode() if text else 'no text'}")
