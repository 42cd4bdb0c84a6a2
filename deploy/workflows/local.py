"""Checks of a precise graph part by part, where the end-to-end error would hide one wrong scale or channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir

from deploy.data.calibration import CalibrationData
from deploy.graph.twin import precision_of
from deploy.graph.weights import LEAST_SQNR_DB, weight_sqnr
from deploy.quantize.audit import LEAST_IMAGES, MOST_LOSS_DB, scale_losses
from deploy.quantize.equalize import equalized, fits
from deploy.specs import Precision

_SHOWN = 3
# Of the figures kept for fitted weights: the reference may come from another export of the same checkpoint.
_SLACK_DB = 0.5


def local_failures(
    reference: ir.Model | None,
    precise: ir.Model,
    data: CalibrationData | None,
    facts: Mapping[str, Any] | None = None,
) -> list[str]:
    """Why parts of an FP16 or INT8 graph do not fit: weights against ``reference``, scales on ``data``.

    Either may be missing, or there may be too few images; then that check is left out. The worst three are named.

    Args:
        facts: the manifest's ``quantization`` of ``precise``: how its weights were changed on purpose.
    """
    precision = precision_of(precise)
    reasons: list[str] = []
    if reference is not None and precision in LEAST_SQNR_DB:
        reasons += _worst(_wrong_weights(reference, precise, LEAST_SQNR_DB[precision], facts or {}))
    if data is not None and len(data) >= LEAST_IMAGES and precision is Precision.INT8:
        reasons += _worst(_wrong_scales(precise, data))
    return reasons


def _wrong_weights(reference: ir.Model, precise: ir.Model, least: float, facts: Mapping[str, Any]) -> Iterator[str]:
    if text := facts.get("equalization"):
        if not fits(reference, text):
            return
        reference = equalized(reference, text)
    fitted = facts.get("corrected") or {}
    for name, sqnr in sorted(weight_sqnr(reference, precise).items(), key=lambda item: item[1]):
        # A weight that was fitted to its inputs lies where its file says, or is damaged.
        wanted = min(least, fitted[name] - _SLACK_DB) if name in fitted else least
        if sqnr < wanted:
            yield f"the weight of {name} is not the reference's (SQNR {sqnr:.1f} dB under {wanted:.0f} dB)"


def _wrong_scales(precise: ir.Model, data: CalibrationData) -> Iterator[str]:
    for name, loss in sorted(scale_losses(precise, data).items(), key=lambda item: -item[1]):
        if loss > MOST_LOSS_DB:
            yield f"the scale of {name} does not fit it ({loss:.1f} dB worse than the best, over {MOST_LOSS_DB:.0f} dB)"


def _worst(reasons: Iterator[str]) -> list[str]:
    found = list(reasons)
    more = [f"and {len(found) - _SHOWN} more like it"] if len(found) > _SHOWN else []
    return found[:_SHOWN] + more
