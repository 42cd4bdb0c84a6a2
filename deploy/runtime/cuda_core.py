"""CUDA through NVIDIA's cuda-core."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

import numpy as np
from cuda.core import Buffer, Device, LegacyPinnedMemoryResource, Stream

from deploy.errors import MachineError


class CoreBuffer:
    """A :class:`~deploy.runtime.cuda_stream.Buffer` of page-locked host memory and stream-ordered device memory."""

    def __init__(self, device: Device, stream: Stream, nbytes: int) -> None:
        self._stream = stream
        with _cuda_errors(f"allocate {nbytes / 2**20:.1f} MiB on the GPU"), contextlib.ExitStack() as undo:
            self._pinned = LegacyPinnedMemoryResource().allocate(nbytes)
            undo.callback(self._pinned.close)
            self._memory = device.allocate(nbytes, stream=stream)
            undo.pop_all()
        self.address = int(self._memory.handle)
        self.host = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(int(self._pinned.handle)))

    def upload(self, nbytes: int) -> None:
        self._copy(self._pinned, self._memory, nbytes)

    def download(self, nbytes: int) -> None:
        self._copy(self._memory, self._pinned, nbytes)

    def close(self) -> None:
        try:
            self._memory.close(self._stream)
        finally:
            self._pinned.close()

    def _copy(self, source: Buffer, destination: Buffer, nbytes: int) -> None:
        # cuda-core copies whole buffers: these are views of the part in use, kept alive by their owners.
        part, target = (Buffer.from_handle(each.handle, nbytes, owner=each) for each in (source, destination))
        with _cuda_errors("copy between host and GPU"):
            part.copy_to(target, stream=self._stream)


class CoreStream:
    """A :class:`~deploy.runtime.cuda_stream.CudaStream` of one GPU."""

    def __init__(self, ordinal: int) -> None:
        with _cuda_errors(f"use GPU {ordinal}"):
            self._device = Device(ordinal)
            self._device.set_current()
            self._stream = self._device.create_stream()
        self.handle = int(self._stream.handle)
        self.device = self._device.name

    def activate(self) -> None:
        with _cuda_errors("use the GPU from this thread"):
            self._device.set_current()

    def buffer(self, nbytes: int) -> CoreBuffer:
        return CoreBuffer(self._device, self._stream, nbytes)

    def synchronize(self) -> None:
        with _cuda_errors("finish the work queued on the GPU"):
            self._stream.sync()

    def close(self) -> None:
        self._stream.close()


@contextlib.contextmanager
def _cuda_errors(action: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # cuda-core has no public base class of its errors
        fix = "See python -m deploy doctor; free GPU memory if it ran out."
        raise MachineError(f"CUDA cannot {action}", got=f"{type(error).__name__}: {error}", fix=fix) from error
