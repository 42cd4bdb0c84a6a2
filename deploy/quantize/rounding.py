"""Rounding a layer's weights together: each error is made up for by those not yet rounded.

Nearest rounding is best for single weights, not for their sum. Columns are rounded one after the other; what is lost is
spread over the rest so that the layer's output changes least (E. Frantar et al., "GPTQ", ICLR 2023, a fast form of
optimal brain surgery; AdaRound, M. Nagel et al., ICML 2020, seeks the same by gradient descent).
"""

from __future__ import annotations

import numpy as np

from deploy.graph.irtools import Array
from deploy.graph.qdq import INT8_MAX

# Relative to the mean power of an input: keeps the inverse finite where inputs are never used (GPTQ's value).
_DAMPING = 0.01


def round_together(weights: Array, scale: Array, covariance: Array, uncertain: Array | float = 0.0) -> Array:
    """INT8 levels, as float64, for ``weights`` [groups, outputs, terms].

    Args:
        scale: [groups, outputs], what a level stands for.
        covariance: of the inputs that the weights multiply, [groups, terms, terms].
        uncertain: what of it may be rounding, [groups] (:meth:`deploy.quantize.least_squares.Moments.rounding`).
    """
    terms = weights.shape[2]
    power = np.einsum("gtt->gt", covariance)
    damping = (_DAMPING * np.maximum(power.mean(axis=1), 0) + uncertain + 1e-30)[:, None, None]
    # The most powerful inputs first: while there are many left to make up for them.
    order = np.argsort(-power, axis=1, kind="stable")
    left = np.take_along_axis(weights, order[:, None, :], axis=2)
    ordered = np.take_along_axis(np.take_along_axis(covariance, order[:, :, None], 1), order[:, None, :], 2)
    inverse = np.linalg.inv(ordered + damping * np.eye(terms))
    spread = np.linalg.cholesky(inverse).transpose(0, 2, 1)
    levels = np.empty_like(left)
    for term in range(terms):
        column = left[:, :, term]
        levels[:, :, term] = nearest(column, scale)
        error = (column - levels[:, :, term] * scale) / spread[:, term, term, None]
        left[:, :, term:] -= error[:, :, None] * spread[:, None, term, term:]
    return np.take_along_axis(levels, np.argsort(order, axis=1)[:, None, :], axis=2)


def nearest(values: Array, scale: Array) -> Array:
    """The nearest INT8 levels, from -127 to 127."""
    return np.clip(np.rint(values / scale), -INT8_MAX, INT8_MAX)
