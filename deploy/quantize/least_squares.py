"""The weights that fit a layer's output best, given that its input is quantized.

What of the noise of a quantized input can be foreseen from the input itself, a layer's weights can take back. Where
noise and signal are told apart badly, as with few images, weights stay near what they were: how near is chosen by
cross-validation, so that nothing is fitted to the noise of the calibration images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deploy.graph.irtools import Array

# Strengths of the pull to the original weights, relative to the mean power of an input.
_PULLS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)

# Of FP32 inputs and their sums of squares, relative to these.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Moments:
    """Sums over patches p [terms] and wanted results y [outputs] of a layer, per group; float64.

    Attributes:
        pp: Σ p pᵀ, [groups, terms, terms]; empty where it was not asked for.
        yp: Σ y pᵀ, [groups, outputs, terms]; likewise.
        p, y: Σ p and Σ y.
        count: number of patches.
    """

    pp: Array
    yp: Array
    p: Array
    y: Array
    count: int

    @classmethod
    def of(cls, patches: Array, results: Array, second: bool = True) -> Moments:
        """From [groups, count, terms] and [groups, count, outputs]; ``second``: the sums of products too."""
        # In FP32 the covariance of inputs that vary little would be nothing but rounding.
        p, y = patches.astype(np.float64), results.astype(np.float64)
        none: Array = np.zeros((len(p), 0, 0))
        return cls(
            np.matmul(p.transpose(0, 2, 1), p) if second else none,
            np.matmul(y.transpose(0, 2, 1), p) if second else none,
            p.sum(axis=1),
            y.sum(axis=1),
            p.shape[1],
        )

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.pp + other.pp, self.yp + other.yp, self.p + other.p, self.y + other.y, self.count + other.count
        )

    def covariance(self) -> tuple[Array, Array]:
        """Of patches with patches, and of results with patches: what is left when a bias has done its part."""
        p, y = self.p / self.count, self.y / self.count
        patches = self.pp / self.count - p[:, :, None] * p[:, None, :]
        return patches, self.yp / self.count - y[:, :, None] * p[:, None, :]

    def rounding(self) -> Array:
        """What of the covariance of patches may be rounding, [groups]: all of it, for inputs that hardly vary."""
        return np.asarray(_ROUNDING * np.einsum("gtt->g", self.pp) / self.pp.shape[1] / self.count)

    def bias(self, weights: Array) -> Array:
        """The bias [groups, outputs] with which ``weights`` give the right mean."""
        return np.asarray((self.y - np.einsum("got,gt->go", weights, self.p)) / self.count)


def fit(weights: Array, halves: tuple[Moments, Moments]) -> Array:
    """Weights [groups, outputs, terms] that give the wanted results best, found on two halves of the images.

    The pull to ``weights`` is the one with which each half foretells the other best; where none does better than
    ``weights`` themselves, they are returned.
    """
    first, second = halves
    errors = {
        pull: _error(_solve(weights, first, pull), second) + _error(_solve(weights, second, pull), first)
        for pull in _PULLS
    }
    best = min(errors, key=lambda pull: errors[pull])
    if errors[best] >= _error(weights, first) + _error(weights, second):
        return weights
    return _solve(weights, first + second, best)


def _solve(weights: Array, moments: Moments, pull: float) -> Array:
    patches, results = moments.covariance()
    mean = np.einsum("gtt->g", patches) / patches.shape[1]
    strength = (pull * np.maximum(mean, 0) + moments.rounding() + 1e-30)[:, None, None]
    pulled = patches + strength * np.eye(patches.shape[1])
    return np.linalg.solve(pulled, (results + strength * weights).transpose(0, 2, 1)).transpose(0, 2, 1)


def _error(weights: Array, moments: Moments) -> float:
    """Mean squared error of the results, up to a constant."""
    patches, results = moments.covariance()
    return float(np.sum(np.matmul(weights, patches) * weights) - 2 * np.sum(weights * results))
