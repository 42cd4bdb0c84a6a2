"""Whether FP16 holds what flows through a network: judged on real images and learnt weights, or said not to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir

from deploy.data.calibration import CalibrationData
from deploy.graph.fp16 import audited_tensors, range_audit, weights_outside_fp16
from deploy.graph.headroom import headroom
from deploy.quantize.calibrate import observe
from deploy.quantize.observers import MaxObserver

REAL, NO_IMAGES, RANDOM = "real images", "not audited: no images were given", "not judged: random weights"
NOT_AUDITED = (
    "FP16's range was NOT audited: no images were given, and an activation beyond 65504 becomes infinite. "
    "Give typical images: --calibration-data DIR"
)
# As many tensors as the manifest names.
_NEAREST = 5


def peaks_on(graph: ir.Model, data: CalibrationData | None) -> dict[str, float]:
    """Max |x| of the audited tensors of the FP32 ``graph``; none without data."""
    if data is None:
        return {}
    observers = {name: MaxObserver() for name in audited_tensors(graph)}
    observe(graph, observers, data)
    return {name: observer.amax for name, observer in observers.items()}


def kept_fp32(graph: ir.Model, peaks: Mapping[str, float], note: Callable[[str], None]) -> dict[str, str]:
    """Nodes that must not compute in FP16 → reason; ``peaks`` are max |x| of the audited tensors on real images."""
    kept = weights_outside_fp16(graph) | range_audit(graph, peaks)
    for node, reason in kept.items():
        note(f"{node} stays FP32: {reason}")
    return kept


def audit_facts(precise: ir.Model, peaks: Mapping[str, float], weights: str) -> dict[str, Any]:
    """What the manifest says of FP16's range: on what evidence it was judged, and which tensors come nearest its end.

    Args:
        precise: the FP16 or INT8 graph.
        peaks: max |x| of the FP32 graph's tensors on real images; empty without images.
        weights: their source. What random ones make of an image tells nothing of what learnt ones will.
    """
    if not peaks:
        return {"range_audit": NO_IMAGES}
    if weights == "random":
        return {"range_audit": RANDOM}
    nearest = list(headroom(precise, peaks).items())[:_NEAREST]
    return {
        "range_audit": REAL,
        "fp16_headroom": [{"tensor": name, "max": peaks[name], "headroom": times} for name, times in nearest],
    }
