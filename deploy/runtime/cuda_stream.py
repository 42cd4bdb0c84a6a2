"""The little of CUDA that a runner needs: one stream, and buffers that exist on both sides of it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from deploy.errors import MachineError


class Buffer(Protocol):
    """Device memory and host memory of one size.

    Attributes:
        address: of the device memory.
        host: the host memory, as bytes. The runner writes and reads it only while no copy is under way.
    """

    address: int
    host: npt.NDArray[np.uint8]

    def upload(self, nbytes: int) -> None:
        """Queue a copy of the first ``nbytes`` from the host to the device."""

    def download(self, nbytes: int) -> None:
        """Queue a copy of the first ``nbytes`` from the device to the host."""

    def close(self) -> None:
        """Free both sides."""


class CudaStream(Protocol):
    """One stream of one GPU. ``handle`` is the ``cudaStream_t``; ``device`` names the GPU."""

    handle: int
    device: str

    def activate(self) -> None:
        """Make the GPU current in the calling thread: each thread that works on the stream does it first."""

    def buffer(self, nbytes: int) -> Buffer:
        """Allocate. Raises :class:`MachineError` where the memory is not there."""

    def synchronize(self) -> None:
        """Wait until everything queued is done."""

    def close(self) -> None:
        """Destroy the stream; its buffers have been closed before."""


def open_stream(ordinal: int = 0) -> CudaStream:
    """A stream on one GPU.

    Raises:
        MachineError: no CUDA binding is installed, or the GPU cannot be used.
    """
    try:
        from deploy.runtime.cuda_core import CoreStream  # imports the CUDA binding, which loads the driver
    except ImportError as error:
        fix = "pip install 'cuda-core[cu13]' (or [cu12] for a CUDA 12 driver)."
        raise MachineError("the CUDA binding cannot be imported", got=error, fix=fix) from error
    return CoreStream(ordinal)
