"""Are the weights of two graphs the same, but for the precision they are stored in?"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from deploy.graph.irtools import Array, constant
from deploy.graph.twin import twin
from deploy.specs import Precision

# FP16 rounding leaves about 72 dB, INT8 per channel 40: what is far below belongs to another channel or layer.
LEAST_SQNR_DB = {Precision.FP16: 55.0, Precision.INT8: 30.0}


def weight_sqnr(reference: ir.Model, other: ir.Model) -> dict[str, float]:
    """Node → SQNR in dB of its weight in ``other``, dequantized, for the nodes of that name and shape in both.

    Empty where the reference has batch norms: they may be folded into the weights of ``other``.
    """
    if any(node.op_type == "BatchNormalization" for node in reference.graph):
        return {}
    wanted, have = _weights(reference), _weights(other)
    return {
        name: _sqnr(weight, have[name])
        for name, weight in wanted.items()
        if name in have and have[name].shape == weight.shape
    }


def _weights(model: ir.Model) -> dict[str, Array]:
    """Node name → its second input, where that is a constant of at least two dimensions."""
    found = {str(node.name): constant(node.inputs[1]) for node in twin(model).graph if len(node.inputs) > 1}
    return {name: array for name, array in found.items() if array is not None and array.ndim > 1}


def _sqnr(wanted: Array, have: Array) -> float:
    signal = float(np.square(wanted, dtype=np.float64).sum())
    error = float(np.square(wanted.astype(np.float64) - have).sum())
    if error == 0:
        return math.inf
    return 10 * math.log10(signal / error) if signal else -math.inf
