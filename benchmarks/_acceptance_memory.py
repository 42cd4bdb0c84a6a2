"""Memory watched while something runs: this process's on the host, everybody's on the GPU. Does it stay flat?"""

from __future__ import annotations

import ctypes
import os
import statistics
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MIB = 2**20
# Within half of the time: 1 KiB lost in each of 1,000 requests a second passes them in a soak of 2 minutes.
BOUND_MIB = {"host": 32.0, "gpu": 16.0}
# Under this many samples a quarter says nothing.
_FEWEST = 12
_MOST_SAMPLES = 400


@dataclass
class Watched:
    """Samples of memory in use, in MiB: of the host, and of the GPU where there is one."""

    host: list[float] = field(default_factory=list)
    gpu: list[float] = field(default_factory=list)

    def verdict(self) -> dict[str, Any]:
        """Growth by side in MiB, None where it cannot be told, and what is beyond its bound."""
        grown = {side: growth(getattr(self, side)) for side in BOUND_MIB}
        failures = [
            f"{side} memory grew by {mib:.0f} MiB, over {BOUND_MIB[side]:.0f} MiB"
            for side, mib in grown.items()
            if mib is not None and mib > BOUND_MIB[side]
        ]
        peaks = {side: max(getattr(self, side), default=None) for side in BOUND_MIB}
        return {"grown_mib": grown, "bound_mib": BOUND_MIB, "peak_mib": peaks, "failures": failures}


def growth(samples: Sequence[float]) -> float | None:
    """What goes on growing: twice the smaller of the steps from the second quarter to the third and to the last.

    The first quarter is warm-up, and medians leave single samples out. A step that is made once is an allocator that
    met its worst case late; a leak is in both.
    """
    if len(samples) < _FEWEST:
        return None
    quarter = len(samples) // 4
    second, third, last = (statistics.median(samples[start * quarter :][:quarter]) for start in (1, 2, 3))
    return 2 * min(third - second, last - third)


@contextmanager
def watching(seconds: float) -> Iterator[Watched]:
    """Sample while the body runs, which takes about ``seconds``."""
    watched, ended = Watched(), threading.Event()
    every = min(1.0, max(0.05, seconds / _MOST_SAMPLES))
    thread = threading.Thread(target=_sample, args=(watched, ended, every), name="memory")
    thread.start()
    try:
        yield watched
    finally:
        ended.set()
        thread.join()


def _sample(watched: Watched, ended: threading.Event, every: float) -> None:
    gpu = open_gpu_memory()
    try:
        while not ended.wait(every):
            watched.host.append(host_mib())
            if gpu is not None:
                watched.gpu.append(gpu.used_mib())
    finally:
        if gpu is not None:
            gpu.close()


def host_mib() -> float:
    """Resident set of this process (proc(5), statm)."""
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return resident * os.sysconf("SC_PAGE_SIZE") / MIB


class GpuMemory:
    """What all processes use of a GPU, by the driver: it knows on Jetsons too, where NVML does not.

    Belongs to the thread that made it.
    """

    def __init__(self, library: Any, device: int) -> None:
        self._library, self._device = library, device
        context = ctypes.c_void_p()
        # The primary context, which CUDA's runtime and TensorRT use: no memory is taken for another.
        self._ready = library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
        self._ready = self._ready and library.cuCtxSetCurrent(context) == 0

    def used_mib(self) -> float:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        if not self._ready or self._library.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) != 0:
            return float("nan")
        return (total.value - free.value) / MIB

    def close(self) -> None:
        self._library.cuDevicePrimaryCtxRelease_v2(self._device)


def open_gpu_memory() -> GpuMemory | None:
    """The first GPU's, or None where there is none."""
    library = load_driver()
    device = ctypes.c_int()
    if library is None or library.cuInit(0) != 0 or library.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    return GpuMemory(library, device.value)


def load_driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
