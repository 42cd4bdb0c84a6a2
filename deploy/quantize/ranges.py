"""From a histogram of |x| to the range that INT8 covers: the methods, by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from deploy.graph.irtools import Array
from deploy.graph.qdq import INT8_MAX
from deploy.quantize.observers import Histogram

PERCENTILE = 99.99
# Symmetric INT8 has 128 levels of |x|: 0 to 127.
_LEVELS = INT8_MAX + 1
_CANDIDATES = 128
_STRIDE = 4


def by_max(histogram: Histogram) -> float:
    """max |x|: nothing is clipped."""
    return histogram.amax


def by_percentile(histogram: Histogram, percent: float = PERCENTILE) -> float:
    """The smallest bin edge that ``percent`` of the values lie below."""
    cumulated = np.cumsum(histogram.counts)
    index = int(np.searchsorted(cumulated, percent / 100 * cumulated[-1]))
    return min((index + 1) * histogram.width, histogram.amax)


def by_entropy(histogram: Histogram) -> float:
    """The clipping that loses the least information, as TensorRT's entropy calibration finds it.

    For each candidate the histogram with its tail gathered in the last bin (P) is compared with its 128-level
    quantization (Q); the smallest Kullback-Leibler divergence wins. (S. Migacz, "8-bit Inference with TensorRT",
    GTC 2017.)
    """
    # Exact zeros, half of the values behind a ReLU, survive any quantization: they must not decide the clipping.
    counts = histogram.counts.astype(np.float64)
    counts[0] = counts[1]
    edges = _candidate_edges(histogram)
    divergences = [_divergence(counts, int(edge)) for edge in edges]
    return _amax_at(histogram, int(edges[int(np.argmin(divergences))]))


def by_mse(histogram: Histogram) -> float:
    """The clipping with the smallest expected squared error of quantizing a value."""
    candidates = [_amax_at(histogram, int(edge)) for edge in _candidate_edges(histogram)]
    # Every fourth first, then those around the best: the error falls, and rises again.
    errors = {amax: squared_error(histogram, amax) for amax in candidates[::_STRIDE]}
    best = candidates.index(min(errors, key=lambda amax: errors[amax]))
    near = candidates[max(0, best - _STRIDE + 1) : best + _STRIDE]
    return min(near, key=lambda amax: squared_error(histogram, amax))


METHODS: dict[str, Callable[[Histogram], float]] = {
    "max": by_max,
    "percentile": by_percentile,
    "entropy": by_entropy,
    "mse": by_mse,
}


def _candidate_edges(histogram: Histogram) -> Array:
    """Bin counts to keep, from 128 (one bin a level: finer than this histogram can judge) to all that are used."""
    used = int(np.flatnonzero(histogram.counts).max(initial=0)) + 1
    return np.unique(np.linspace(min(_LEVELS, used), used, _CANDIDATES).round().astype(int))


def _amax_at(histogram: Histogram, edge: int) -> float:
    return min(edge * histogram.width, histogram.amax)


def _divergence(counts: Array, edge: int) -> float:
    """KL(P || Q) of keeping ``edge`` bins."""
    kept = counts[:edge]
    reference = kept.copy()
    reference[-1] += counts[edge:].sum()
    level = np.arange(edge) * _LEVELS // edge
    # A level's count is spread over the bins that were not empty: an empty bin stays empty in Q.
    filled = kept > 0
    mass = np.bincount(level, kept, _LEVELS)
    cells = np.bincount(level, filled, _LEVELS)
    spread = np.where(filled, (mass / np.maximum(cells, 1))[level], 0.0)
    return _kl(reference, spread)


def _kl(reference: Array, other: Array) -> float:
    p, q = reference / reference.sum(), other / max(other.sum(), 1.0)
    # Where only Q is empty the divergence is infinite: the tail was gathered in an empty bin.
    if np.any((p > 0) & (q == 0)):
        return float("inf")
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / q[seen])))


def loss_db(histogram: Histogram, amax: float, than: float) -> float:
    """By how many dB quantizing over ``[-amax, amax]`` loses more of what was seen than over ``[-than, than]``."""
    one, other = squared_error(histogram, amax), squared_error(histogram, than)
    return 10 * math.log10(one / other) if one and other else 0.0


def squared_error(histogram: Histogram, amax: float) -> float:
    """The summed squared error of quantizing what was seen to INT8 over ``[-amax, amax]``."""
    filled = np.flatnonzero(histogram.counts)
    values = (filled + 0.5) * histogram.width
    scale = amax / INT8_MAX
    rounded = np.minimum(np.rint(values / scale), INT8_MAX) * scale if scale else np.zeros_like(values)
    return float(np.sum(histogram.counts[filled] * (values - rounded) ** 2))
