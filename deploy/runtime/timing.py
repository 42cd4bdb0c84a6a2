"""What a runner on a GPU may tell of its own time and memory; ``bench`` asks for it and does without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from deploy.runtime.base import Array, Runner
from deploy.specs import ShapeProfile


@dataclass(frozen=True)
class InferenceTime:
    """The parts of one query in milliseconds, in the terms of trtexec (TensorRT, samples/common/sampleReporting).

    Attributes:
        h2d_ms: H2D Latency, copying the inputs to the device.
        compute_ms: GPU Compute Time, from the first kernel's start to the last one's end.
        d2h_ms: D2H Latency, copying the outputs back.
        enqueue_ms: Enqueue Time, the host's time for queueing the kernels; None where it waits for them as well.
    """

    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    enqueue_ms: float | None = None

    @property
    def latency_ms(self) -> float:
        """Latency: the sum of copies and computing. What the host does before, between and after is not in it."""
        return self.h2d_ms + self.compute_ms + self.d2h_ms


@runtime_checkable
class TimedInference(Protocol):
    """A runner that can take its queries apart. Any thread may call it, as :meth:`Runner.infer`.

    Attributes:
        timed_by: what the times are read from, ``CUDA events``; None where this runner cannot tell.
    """

    timed_by: str | None

    def infer_timed(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], InferenceTime]:
        """:meth:`Runner.infer`, and how long its parts took. Raises as that does."""
        ...


@runtime_checkable
class HoldsDeviceMemory(Protocol):
    """A runner that knows the device memory it holds."""

    def device_memory(self) -> int:
        """Bytes for weights, activations, inputs and outputs."""
        ...


@runtime_checkable
class HasProfile(Protocol):
    """A runner that was built for a range of batches."""

    @property
    def profile(self) -> ShapeProfile: ...


def timer_of(runner: Runner) -> TimedInference | None:
    """``runner`` as one that takes its queries apart, or None where it cannot."""
    return runner if isinstance(runner, TimedInference) and runner.timed_by is not None else None
