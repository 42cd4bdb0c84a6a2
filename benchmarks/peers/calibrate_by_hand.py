"""INT8 by ONNX Runtime's own quantizer, as its examples do it: a data reader and ``quantize_static``.

The peer of ``benchmarks/calibration_memory.py``. Per-channel weights and Q/DQ nodes as ours.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from PIL import Image

CROP, BATCH = 224, 4
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


class Reader(CalibrationDataReader):
    def __init__(self, paths: list[Path]) -> None:
        self._batches = self._read(paths)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)

    def _read(self, paths: list[Path]) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(paths), BATCH):
            yield {"input": np.stack([_image(path) for path in paths[start : start + BATCH]])}


def _image(path: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(path).convert("RGB").resize((CROP, CROP)), np.float32)
    return ((pixels / 255 - MEAN) / STD).transpose(2, 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph")
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--method", choices=[method.name for method in CalibrationMethod], required=True)
    parser.add_argument("-o", "--output", required=True)
    args = parser.parse_args()
    quantize_static(
        args.graph,
        args.output,
        Reader(sorted(args.images.iterdir())[: args.count]),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[args.method],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )


if __name__ == "__main__":
    main()
