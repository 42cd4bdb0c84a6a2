"""What NVML tells of a GPU while it works: power, clocks, memory (https://docs.nvidia.com/deploy/nvml-api).

NVML comes with the driver. Jetsons and virtual GPUs have part of it or none: what is not there is None.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from deploy.hardware import pci_bus_id

_SM_CLOCK = 1  # nvml.h: nvmlClockType_t
_SAMPLE_EVERY = 0.2  # seconds: asking the driver costs the queries that are timed meanwhile
_LEAST_S = 1.0  # the energy counter moves in steps of up to a tenth of a second; power is the mean of up to a second


class _Memory(ctypes.Structure):
    """nvml.h: nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class GpuCounters:
    """The counters of one GPU, whoever uses it."""

    def __init__(self, library: Any, device: ctypes.c_void_p) -> None:
        self._library, self._device = library, device

    def memory_used(self) -> int | None:
        """Bytes in use by all processes."""
        memory = _Memory()
        return memory.used if self._ask("nvmlDeviceGetMemoryInfo", memory) else None

    def energy(self) -> float | None:
        """Joules since the driver was loaded; Volta and newer."""
        millijoules = ctypes.c_ulonglong()
        return millijoules.value / 1e3 if self._ask("nvmlDeviceGetTotalEnergyConsumption", millijoules) else None

    def power(self) -> float | None:
        """Watts; from Ampere on the mean of the last second, but for GA100."""
        milliwatts = ctypes.c_uint()
        return milliwatts.value / 1e3 if self._ask("nvmlDeviceGetPowerUsage", milliwatts) else None

    def clock(self) -> int | None:
        """MHz of the streaming multiprocessors."""
        megahertz = ctypes.c_uint()
        return megahertz.value if self._ask("nvmlDeviceGetClockInfo", _SM_CLOCK, megahertz) else None

    def _ask(self, name: str, *arguments: Any) -> bool:
        """Call a function that stores its answer through its last argument; False where it has none."""
        function: Callable[..., int] | None = getattr(self._library, name, None)
        *given, answer = arguments
        return function is not None and function(self._device, *given, ctypes.byref(answer)) == 0


def open_counters(ordinal: int = 0) -> GpuCounters | None:
    """The counters of a GPU by CUDA's number; None where there is no such GPU, or NVML does not know it."""
    place, library = pci_bus_id(ordinal), _load()
    if place is None or library is None or library.nvmlInit_v2() != 0:
        return None
    device = ctypes.c_void_p()
    found = library.nvmlDeviceGetHandleByPciBusId_v2(place, ctypes.byref(device)) == 0
    return GpuCounters(library, device) if found else None


def _load() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None


@dataclass
class GpuUse:
    """What a GPU has used over several turns of one artefact. Only its turns count."""

    seconds: float = 0.0
    joules: float = 0.0
    watts: list[float] = field(default_factory=list)
    clocks: list[int] = field(default_factory=list)
    counted: bool = True  # by the energy counter, in every turn

    @contextmanager
    def during(self, counters: GpuCounters | None) -> Iterator[None]:
        """Count and sample while the body runs."""
        if counters is None:
            yield
            return
        ended = threading.Event()
        before, start = counters.energy(), perf_counter()
        sampling = threading.Thread(target=self._sample, args=(counters, ended, before is None), name="nvml")
        sampling.start()
        try:
            yield
        finally:
            seconds, after = perf_counter() - start, counters.energy()
            ended.set()
            sampling.join()
        self._add(seconds, before, after)

    def power(self) -> float | None:
        """Mean watts: by the energy counter where there is one, else of the samples.

        None where less than a second was measured, or without the counter where no turn took longer.
        """
        if self.counted:
            return self.joules / self.seconds if self.joules > 0 and self.seconds >= _LEAST_S else None
        return sum(self.watts) / len(self.watts) if self.watts else None

    def clock_range(self) -> tuple[int, int] | None:
        """The lowest and the highest clock in MHz."""
        return (min(self.clocks), max(self.clocks)) if self.clocks else None

    def _add(self, seconds: float, before: float | None, after: float | None) -> None:
        self.seconds += seconds
        if before is None or after is None:
            self.counted = False
        else:
            self.joules += after - before

    def _sample(self, counters: GpuCounters, ended: threading.Event, powers: bool) -> None:
        start = perf_counter()
        while not ended.wait(_SAMPLE_EVERY):
            clock = counters.clock()
            self.clocks += [clock] if clock is not None else []
            # Before, it would be the mean of this turn and of what ran before it.
            if powers and perf_counter() - start >= _LEAST_S:
                watts = counters.power()
                self.watts += [watts] if watts is not None else []
