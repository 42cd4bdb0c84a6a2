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


class ChannelObserver:
    """Remembers max |x| and the mean square of each channel (axis 1).

    Attributes:
        amax: max |x| of all channels.
        peaks: max |x| of each channel, float64 [channels].
    """

    def __init__(self) -> None:
        self.amax = 0.0
        self.peaks: Array = np.zeros(0)
        self._squares: Array = np.zeros(0)
        self._count = 0

    @property
    def mean_square(self) -> Array:
        """Mean of x² of each channel, float64 [channels]."""
        return self._squares / max(1, self._count)

    def observe(self, values: Array) -> None:
        shaped = values.reshape(len(values), values.shape[1] if values.ndim > 1 else 1, -1)
        peaks = np.maximum(-shaped.min(axis=(0, 2)), shaped.max(axis=(0, 2))).astype(np.float64)
        squares = np.einsum("ncx,ncx->c", shaped, shaped, dtype=np.float64)
        first = not self._count
        self.peaks = peaks if first else np.maximum(self.peaks, peaks)
        self._squares = squares if first else self._squares + squares
        self._count += shaped.shape[0] * shaped.shape[2]
        self.amax = _larger(self.amax, float(self.peaks.max(initial=0.0)))


def _peak(values: Array) -> float:
    if values.size == 0:
        return 0.0
    # Two reductions without a temporary; NaN passes through both.
    low, high = float(values.min()), float(values.max())
    return _larger(-low, high)


def _larger(first: float, second: float) -> float:
    """max() that NaN survives."""
    return float(np.maximum(first, second))
