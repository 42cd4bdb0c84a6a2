"""How much each layer costs in INT8, measured alone: every other layer in FP16.

Measured alone, the errors of layers add up to about that of all of them together (trained MobileNetV3-Small: 29.5 dB
summed, 28.9 dB measured). What the error falls by when one layer of an INT8 network returns to FP16 mixes with the
errors of the others, and may be negative. The error is that of the logits: it is seen on tens of images, where top-1
needs thousands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from deploy.quantize.units import Unit
from deploy.runtime.base import Array

Make = Callable[[Collection[str]], ir.Model]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sensitivity:
    """What one unit alone does in INT8.

    Attributes:
        error: mean squared error of the logits beyond that of the FP16 graph, 0 or more.
        sqnr_db: signal power of the FP32 logits over the power of their error.
        drop: images whose top-1 class is another than FP32's, in points.
    """

    unit: Unit
    error: float
    sqnr_db: float
    drop: float


def measure(
    units: Sequence[Unit],
    make: Make,
    logits: Callable[[ir.Model], Array],
    reference: Array,
    progress: Progress = lambda done, total: None,
) -> list[Sensitivity]:
    """The sensitivity of each of ``units``, in their order.

    Args:
        units: all that may be INT8.
        make: names of layers that stay FP16 → the precise graph.
        logits: runs a precise graph: [images, classes] of the images that ``reference`` was computed on.
        reference: what the FP32 graph gives on them.
        progress: told (done, total).
    """
    layers = [name for unit in units for name in unit.layers]
    floor = _mean_square(logits(make(layers)), reference)
    found = []
    for done, unit in enumerate(units, 1):
        alone = logits(make([name for name in layers if name not in unit.layers]))
        found.append(_sensitivity(unit, alone, reference, floor))
        progress(done, len(units))
    return found


def by_error_per_mac(sensitivities: Sequence[Sensitivity]) -> list[Unit]:
    """The units, first those that lose most for the work they do; equals in graph order."""
    return [each.unit for each in sorted(sensitivities, key=lambda each: -each.error / max(each.unit.macs, 1))]


def by_error(sensitivities: Sequence[Sensitivity]) -> list[Unit]:
    """The units, first those that lose most; equals in graph order."""
    return [each.unit for each in sorted(sensitivities, key=lambda each: -each.error)]


def _sensitivity(unit: Unit, logits: Array, reference: Array, floor: float) -> Sensitivity:
    error = _mean_square(logits, reference)
    changed = float((logits.argmax(axis=1) != reference.argmax(axis=1)).mean())
    beyond = max(error - floor, 0.0) if math.isfinite(error) else math.inf
    return Sensitivity(unit, beyond, _decibel(_mean_square(reference), error), 100 * changed)


def _decibel(signal: float, error: float) -> float:
    if not error or not math.isfinite(error):
        return -math.inf if error else math.inf
    return 10 * math.log10(signal / error) if signal else -math.inf


def _mean_square(values: Array, reference: Array | float = 0.0) -> float:
    """Of the differences; infinite where a value is not finite."""
    error = float(((values.astype(np.float64) - reference) ** 2).mean())
    return error if math.isfinite(error) else math.inf
