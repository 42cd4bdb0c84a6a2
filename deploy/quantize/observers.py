"""What calibration remembers of a tensor: max |x|, or a histogram of |x|. Memory does not grow with the data."""

from __future__ import annotations

import copy
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
# Of the mean over images of how far a channel reaches in each.
_REACH_POWER = 8


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

    With ``importance`` [channels] a value counts as often as its channel (axis 1) matters, in steps of a millionth of
    the most important channel: whole numbers, so that the order still makes no difference.
    """

    def __init__(self, importance: Array | None = None) -> None:
        self._importance = None if importance is None else _whole(importance)
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
            self._zeros += values.size if self._importance is None else int(self._weights(values).sum() * len(values))
            return
        self._widen(max(math.frexp(peak)[1], _MIN_EXPONENT))
        single = values.astype(np.float32, copy=False)
        if self._importance is None:
            self._count(single.reshape(-1))
            return
        weights = self._weights(values)
        for image in single:
            self._count(image.reshape(-1), weights)

    def _weights(self, values: Array) -> Array:
        """How often each value of one image counts."""
        assert self._importance is not None
        return np.repeat(self._importance, values[0].size // len(self._importance))

    def _widen(self, exponent: int) -> None:
        """Double the range until 2^exponent fits in it."""
        if self._exponent is None:
            self._exponent = exponent
        for _ in range(min(exponent - self._exponent, BINS.bit_length())):
            self._counts[: BINS // 2] = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts[BINS // 2 :] = 0
        self._exponent = max(self._exponent, exponent)

    def _count(self, values: Array, weights: Array | None = None) -> None:
        assert self._exponent is not None
        # A product with a power of two is exact, so no value changes its bin by rounding.
        factor = np.float32(math.ldexp(BINS, -self._exponent))
        for start in range(0, values.size, _BLOCK):
            block = np.abs(values[start : start + _BLOCK])
            block *= factor
            counted = None if weights is None else weights[start : start + _BLOCK]
            # Sums of whole numbers are exact in float64.
            self._counts += np.bincount(block.astype(np.intp), counted, BINS).astype(np.int64)


class ChannelObserver:
    """Remembers max |x|, how far an image reaches, and the mean square of each channel (axis 1).

    Attributes:
        amax: max |x| of all channels.
        peaks: max |x| of each channel, float64 [channels].
    """

    def __init__(self) -> None:
        self.amax = 0.0
        self.peaks: Array = np.zeros(0)
        self._powers: Array = np.zeros(0)
        self._squares: Array = np.zeros(0)
        self._images = self._count = 0

    @property
    def mean_square(self) -> Array:
        """Mean of x² of each channel, float64 [channels]."""
        return self._squares / max(1, self._count)

    @property
    def reach(self) -> Array:
        """How far each channel reaches: the mean of power 8 over the images of max |x| in one, float64 [channels].

        Between the mean and the largest: the one image with the largest value is another one in other images.
        """
        return np.asarray((self._powers / max(1, self._images)) ** (1 / _REACH_POWER))

    def scaled(self, factors: Array) -> ChannelObserver:
        """As if each channel had been ``factors`` times what it was."""
        result = copy.copy(self)
        result.peaks, result._squares = self.peaks * factors, self._squares * factors**2
        result._powers = self._powers * factors**_REACH_POWER
        result.amax = float(result.peaks.max(initial=0.0))
        return result

    def observe(self, values: Array) -> None:
        channels = values.shape[1] if values.ndim > 1 else 1
        # One row for each channel of each image. Reductions of rows are slow where these are short, those of slices of
        # one long row are not.
        rows = values.reshape(len(values) * channels, -1)
        flat, starts = rows.reshape(-1), np.arange(0, rows.size, rows.shape[1])
        lowest, highest = np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)
        each = np.maximum(-lowest, highest).reshape(-1, channels)
        peaks = each.max(axis=0).astype(np.float64)
        powers = (each.astype(np.float64) ** _REACH_POWER).sum(axis=0)
        squares = np.einsum("rx,rx->r", rows, rows).reshape(-1, channels).sum(axis=0, dtype=np.float64)
        first = not self._count
        self.peaks = peaks if first else np.maximum(self.peaks, peaks)
        self._powers = powers if first else self._powers + powers
        self._squares = squares if first else self._squares + squares
        self._images += len(each)
        self._count += len(values) * rows.shape[1]
        self.amax = _larger(self.amax, float(self.peaks.max(initial=0.0)))


def _whole(importance: Array) -> Array:
    """Importance in whole numbers from 1 to a million, as float64."""
    largest = float(importance.max(initial=0.0))
    return np.maximum(1.0, np.rint(1e6 * importance / largest)) if largest else np.ones(len(importance))


def _peak(values: Array) -> float:
    if values.size == 0:
        return 0.0
    # Two reductions without a temporary; NaN passes through both.
    low, high = float(values.min()), float(values.max())
    return _larger(-low, high)


def _larger(first: float, second: float) -> float:
    """max() that NaN survives."""
    return float(np.maximum(first, second))
