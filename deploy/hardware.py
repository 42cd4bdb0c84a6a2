"""The processor and the GPUs of this machine.

GPUs are asked of the driver's own library: no CUDA package is needed, and no GPU either.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

# cuda.h: CUdevice_attribute
_MAJOR, _MINOR = 75, 76
_VERSION_FILE = Path("/sys/module/nvidia/version")
_CPU_FILE = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class GpuInfo:
    """One GPU.

    Attributes:
        name: for example ``NVIDIA GeForce RTX 4090``.
        compute_capability: for example ``8.9``.
        memory: in bytes.
        driver: the driver's version, ``580.65.06``; ``CUDA 13.0`` (what it supports) where that cannot be read.
    """

    name: str
    compute_capability: str
    memory: int
    driver: str


def devices() -> list[GpuInfo]:
    """The GPUs that CUDA programs may use here, in CUDA's order; empty where there is none or no driver."""
    library = _load()
    if library is None or library.cuInit(0) != 0:
        return []
    count = _integer(library.cuDeviceGetCount)
    driver = _driver(library)
    return [_describe(library, ordinal, driver) for ordinal in range(count)]


def pci_bus_id(ordinal: int = 0) -> bytes | None:
    """Where a GPU of :func:`devices` is plugged in, ``0000:01:00.0``: what NVML, which counts all GPUs, knows it by."""
    library = _load()
    if library is None or library.cuInit(0) != 0:
        return None
    text = ctypes.create_string_buffer(32)
    if library.cuDeviceGetPCIBusId(text, len(text), _integer(library.cuDeviceGet, ordinal)) != 0:
        return None
    return text.value


def usable_cores() -> int:
    """The cores this process may use: in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The CPU's name, and how many of its cores this process may use."""
    cores = usable_cores()
    lines = _CPU_FILE.read_text(encoding="utf-8").splitlines() if _CPU_FILE.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return f"{names[0] if names else platform.machine()}, {cores} core{'s' if cores > 1 else ''}"


def _load() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def _describe(library: ctypes.CDLL, ordinal: int, driver: str) -> GpuInfo:
    device = _integer(library.cuDeviceGet, ordinal)
    name = ctypes.create_string_buffer(256)
    library.cuDeviceGetName(name, len(name), device)
    memory = ctypes.c_size_t()
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    major, minor = (_integer(library.cuDeviceGetAttribute, attribute, device) for attribute in (_MAJOR, _MINOR))
    return GpuInfo(name.value.decode(errors="replace"), f"{major}.{minor}", memory.value, driver)


def _driver(library: ctypes.CDLL) -> str:
    try:
        return _VERSION_FILE.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        version = _integer(library.cuDriverGetVersion)
        return f"CUDA {version // 1000}.{version % 1000 // 10}"


def _integer(function: ctypes._NamedFuncPointer, *arguments: int) -> int:
    """Call a driver function that stores one int through its first argument; 0 where it fails."""
    value = ctypes.c_int()
    return value.value if function(ctypes.byref(value), *arguments) == 0 else 0


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver supports, ``(13, 0)``; None where there is no driver."""
    library = _load()
    version = _integer(library.cuDriverGetVersion) if library is not None else 0
    return (version // 1000, version % 1000 // 10) if version else None


def free_memory(ordinal: int = 0) -> int | None:
    """Bytes of a GPU's memory that no process uses, by NVML; None where that does not tell, as on a Jetson.

    NVML counts all GPUs of the machine, CUDA those that it may use: the PCI address says which is meant.
    https://docs.nvidia.com/deploy/nvml-api
    """
    cuda, nvml = _load(), _load_nvml()
    if cuda is None or nvml is None or cuda.cuInit(0) != 0 or nvml.nvmlInit_v2() != 0:
        return None
    place, device, memory = ctypes.create_string_buffer(32), ctypes.c_void_p(), _Memory()
    told = (
        cuda.cuDeviceGetPCIBusId(place, len(place), _integer(cuda.cuDeviceGet, ordinal)) == 0
        and nvml.nvmlDeviceGetHandleByPciBusId_v2(place, ctypes.byref(device)) == 0
        and nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0
    )
    nvml.nvmlShutdown()
    return memory.free if told else None


class _Memory(ctypes.Structure):
    """nvml.h: nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _load_nvml() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None
