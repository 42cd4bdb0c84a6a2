"""The CUDA that a runner needs, behind one interface over two bindings: memory, streams, events and graphs.

Every handle has one owner, who closes it while the GPU is current (``with cuda:``); closing it again does nothing. What
CUDA refuses is a :class:`MachineError` with the call and CUDA's own words.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import ParamSpec, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from deploy.errors import DeployError, InputError, MachineError

# The default first. Each is a module with `open_gpu(ordinal)`, imported only where it is used: it loads the driver.
BINDINGS = {"cuda-core": "deploy.runtime.cuda_core", "pycuda": "deploy.runtime.cuda_pycuda"}
VARIABLE = "DEPLOY_CUDA"

P = ParamSpec("P")
T = TypeVar("T")


class DeviceMemory(Protocol):
    """Memory of the GPU. ``address`` is a multiple of 256."""

    address: int
    nbytes: int

    def close(self) -> None: ...


class PinnedMemory(Protocol):
    """Page-locked host memory, which copies run from and to while the host goes on.

    ``array`` is that memory as bytes: not to be touched while a copy is under way, nor after closing.
    """

    array: npt.NDArray[np.uint8]
    address: int

    def close(self) -> None: ...


class Event(Protocol):
    """A point in a stream's work, with its time."""

    def synchronize(self) -> None:
        """Wait until the work before it is done."""

    def milliseconds_since(self, earlier: Event) -> float:
        """On the GPU, once both have been waited for."""

    def close(self) -> None: ...


class Graph(Protocol):
    """Captured work, ready to be launched as one."""

    def launch(self) -> None:
        """Queue it in the stream that it was captured from."""

    def close(self) -> None: ...


class Stream(Protocol):
    """Work in order. ``handle`` is the ``cudaStream_t``."""

    handle: int

    def upload(self, source: PinnedMemory, target: DeviceMemory, nbytes: int) -> None:
        """Queue a copy of the first ``nbytes``."""

    def download(self, source: DeviceMemory, target: PinnedMemory, nbytes: int) -> None:
        """Queue a copy of the first ``nbytes``."""

    def record(self, event: Event) -> None:
        """Put ``event`` behind what has been queued."""

    def wait(self, event: Event) -> None:
        """Let what is queued from now on wait for ``event`` of another stream."""

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """What ``enqueue`` queues here, as a graph; nothing of it runs now. Other threads go on undisturbed.

        Raises what ``enqueue`` does, and :class:`MachineError` where its work cannot be captured; the stream is as
        before then.
        """

    def synchronize(self) -> None:
        """Wait until everything queued is done."""

    def close(self) -> None: ...


class Cuda(Protocol):
    """One GPU through one binding. Within ``with cuda:`` it is current in this thread, as all calls here need it.

    Attributes:
        binding: ``cuda-core`` or ``pycuda``.
        device: the GPU's name.
        graphs: whether the binding can capture graphs.
    """

    binding: str
    device: str
    graphs: bool

    def __enter__(self) -> Cuda: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def memory_info(self) -> tuple[int, int]:
        """Bytes of the GPU's memory that are free, and all."""

    def memory(self, nbytes: int) -> DeviceMemory: ...

    def pinned(self, nbytes: int) -> PinnedMemory: ...

    def stream(self) -> Stream: ...

    def event(self) -> Event: ...


def open_cuda(ordinal: int = 0, environ: Mapping[str, str] = os.environ) -> Cuda:
    """One GPU, through the binding that ``DEPLOY_CUDA`` names, else the first that is installed.

    Raises:
        InputError: ``DEPLOY_CUDA`` names no binding.
        MachineError: no binding is installed, or the GPU cannot be used.
    """
    wanted = environ.get(VARIABLE, "")
    if wanted and wanted not in BINDINGS:
        raise InputError(f"{VARIABLE} names no CUDA binding", got=wanted, expected=" or ".join(BINDINGS))
    problems = []
    for binding in [wanted] if wanted else BINDINGS:
        try:
            module = importlib.import_module(BINDINGS[binding])
        except ImportError as error:
            problems.append(f"{binding}: {error}")
            continue
        opened: Cuda = module.open_gpu(ordinal)
        return opened
    fix = "pip install 'cuda-core[cu13]' (or [cu12] for a CUDA 12 driver)"
    fix = f"Unset {VARIABLE}, or pip install pycuda." if wanted == "pycuda" else f"{fix}."
    raise MachineError("no CUDA binding can be imported", got="; ".join(problems), fix=fix)


def reports(call: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a method: what its binding raises becomes a :class:`MachineError` that names ``call``."""

    def decorate(method: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(method)
        def reporting(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return method(*args, **kwargs)
            except DeployError:
                raise
            except Exception as error:  # the bindings' errors have no public base class in common
                said = f"{type(error).__name__}: {error}"
                raise MachineError(f"CUDA failed in {call}", got=said, fix=_fix(said)) from error

        return reporting

    return decorate


def _fix(said: str) -> str:
    if "out of memory" in said.lower() or "OUT_OF_MEMORY" in said:
        return "Free GPU memory, or build the engine for a smaller --batch."
    return "See python -m deploy doctor."
