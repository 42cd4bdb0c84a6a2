"""Does each scale of an INT8 graph fit what really flows there?

The end-to-end error of a network hides a wrong scale behind the noise of all the others. Looked at alone, a scale that
belongs to another tensor stands out.
"""

from __future__ import annotations

import onnx_ir as ir

from deploy.data.calibration import CalibrationData
from deploy.graph.irtools import constant
from deploy.graph.qdq import INT8_MAX
from deploy.graph.twin import twin
from deploy.quantize.calibrate import observe
from deploy.quantize.observers import HistogramObserver
from deploy.quantize.ranges import by_mse, loss_db

# Calibrated scales lose up to 11 dB against the best one (entropy, trained MobileNetV3-Small).
MOST_LOSS_DB = 15.0
# With fewer images a range that is rarely used looks like a wrong scale: 8 photographs failed a sound graph, 16 did not
# with `mse` and 64 not with `max`.
LEAST_IMAGES = 64


def scale_losses(precise: ir.Model, data: CalibrationData) -> dict[str, float]:
    """Quantized activation → dB of error beyond what the best scale for ``data`` would make; 0 is the best.

    A tensor that is zero on all of ``data`` tells nothing and is left out.
    """
    judged = twin(precise)
    scales = {
        str(node.inputs[0].name): float(scale)
        for node in judged.graph
        if node.op_type == "QuantizeLinear" and node.inputs[0] is not None
        if (scale := constant(node.inputs[1])) is not None and scale.size == 1
    }
    observers = {name: HistogramObserver() for name in scales}
    observe(judged, observers, data)
    return {
        name: loss_db(observer.histogram, INT8_MAX * scales[name], than=by_mse(observer.histogram))
        for name, observer in observers.items()
        if observer.amax
    }
