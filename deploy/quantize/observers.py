"""What calibration remembers of a tensor: max |x|, or a histogram of |x|. Memory does not grow with the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deploy.graph.irtools import Array

BINS = 4096
# A block of this many numbers stays in the processor's cache through all the passes over it.
_BLOCK = 1 << 16
# Below this limit (2^-100) everything counts as zero: the bins' width must stay a normal FP32 number.
_MIN_EXPONENT = -100


@dataclass(frozen=True)
class Histogram:
    """Counts of |x| in equal bins over ``[0, limit)``, and the exact max |x|."""

    counts: Array
    limit: float
    amax: float

    @property
    def width(self) -> float:
        return self.limit / len(self.counts)


class Observer(Protocol):
    """Sees a tensor batch by batch."""

    def observe(self, values: Array) -> None: ...

    @property
    def amax(self) -> float:
        """max |x| so far; NaN or infinite if such a value was seen."""
        ...


class MaxObserver:
    """Remembers max |x|."""

    def __init__(self) -> None:
        self.amax = 0.0

    def observe(self, values: Array) -> None:
        self.amax = _larger(self.amax, _peak(values))


class HistogramObserver:
    """Counts |x| in :data:`BINS` bins.

    The range is the smallest power of two above max |x|: when a larger value arrives it doubles, and bins merge in
    pairs. So the counts are exact and the same whatever the order and the batches, and at least half the bins are used.
    """

    def __init__(self) -> None:
        self.amax = 0.0
        self._exponent: int | None = None
        self._counts = np.zeros(BINS, np.int64)
        self._zeros = 0

    @property
    def histogram(self) -> Histogram:
        counts = self._counts.copy()
        counts[0] += self._zeros
        return Histogram(counts, math.ldexp(1.0, self._exponent or 0), self.amax)

    def observe(self, values: Array) -> None:
        peak = _peak(values)
        self.amax = _larger(self.amax, peak)
        if not math.isfinite(peak):
            return
        if peak == 0:
            self._zeros += values.size
            return
        self._widen(max(math.frexp(peak)[1], _MIN_EXPONENT))
        self._count(values.astype(np.float32, copy=False).reshape(-1))

    def _widen(self, exponent: int) -> None:
        """Double the range until 2^exponent fits in it."""
        if self._exponent is None:
            self._exponent = exponent
        for _ in range(min(exponent - self._exponent, BINS.bit_length())):
            self._counts[: BINS // 2] = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts[BINS // 2 :] = 0
        self._exponent = max(self._exponent, exponent)

    def _count(self, values: Array) -> None:
        assert self._exponent is not None
        # A product with a power of two is exact, so no value changes its bin by rounding.
        factor = np.float32(math.ldexp(BINS, -self._exponent))
        for start in range(0, values.size, _BLOCK):
            block = np.abs(values[start : start + _BLOCK])
            block *= factor
            self._counts += np.bincount(block.astype(np.intp), minlength=BINS)


def _peak(values: Array) -> float:
    if values.size == 0:
        return 0.0
    # Two reductions without a temporary; NaN passes through both.
    low, high = float(values.min()), float(values.max())
    return _larger(-low, high)


def _larger(first: float, second: float) -> float:
    """max() that NaN survives."""
    return float(np.maximum(first, second))
