"""INT8 by ONNX Runtime's own quantizer, as its examples do it: a data reader and ``quantize_static``.

A peer of ``benchmarks/quantization.py``. Symmetric INT8, per-channel weights and Q/DQ nodes, as ours.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _by_hand import arguments, image_files, pixels, placement
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import create_calibrator

BATCH = 4
# Of the default, 128 bins for 128 quantized ones, nothing can be clipped: it is MinMax. Both signs share the bins, and
# INT8 has 255 levels. On a MobileNetV3 512 bins did best: 29.0 dB, where 2048 for 256 gave 19.1 and 2048 for 128 17.5.
ENTROPY_BINS = {"num_bins": 512, "num_quantized_bins": 256}


class Reader(CalibrationDataReader):
    def __init__(self, files: list[Path], size: int) -> None:
        self._batches = self._read(files, size)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)

    def _read(self, files: list[Path], size: int) -> Iterator[dict[str, np.ndarray]]:
        # The calibrators that make histograms want batches of one size.
        for start in range(0, len(files) - BATCH + 1, BATCH):
            yield {"input": np.stack([pixels(path, size) for path in files[start : start + BATCH]])}


def main() -> None:
    args = arguments(__doc__, tuple(method.name for method in CalibrationMethod))
    if args.method == "Entropy":
        _set_bins()
    options: dict[str, Any] = {"ActivationSymmetric": True, "WeightSymmetric": True}
    chosen = placement(args)
    where = {} if chosen is None else _placed(chosen, options)
    quantize_static(
        args.graph,
        args.output,
        Reader(image_files(args.images), args.size),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[args.method],
        extra_options=options,
        **where,
    )


def _set_bins() -> None:
    """``quantize_static`` has no option for them: its call of the calibrator is given them on the way."""
    # The package has a function of this name as well, which an import statement would find.
    module = importlib.import_module("onnxruntime.quantization.quantize")
    module.create_calibrator = _with_bins


def _with_bins(*args: Any, extra_options: dict[str, Any], **kwargs: Any) -> Any:
    return create_calibrator(*args, extra_options={**extra_options, **ENTROPY_BINS}, **kwargs)


def _placed(chosen: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Q/DQ on inputs only.

    An Add would get them on both inputs: it is left out, and reads Q/DQ where another node has its skip branch
    quantized, for all readers of a tensor share them. Scales of a Concat's inputs cannot be tied.
    """
    nodes = {name: op for name, op in chosen["nodes"].items() if name not in chosen["residuals"]}
    types = sorted(set(nodes.values()))
    options |= {"OpTypesToExcludeOutputQuantization": types, "QuantizeBias": False}
    return {"op_types_to_quantize": types, "nodes_to_quantize": list(nodes)}


if __name__ == "__main__":
    main()
