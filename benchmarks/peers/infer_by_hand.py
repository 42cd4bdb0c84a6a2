"""The shortest script that classifies one image as ``python infer.py`` does: ONNX Runtime, Pillow, numpy.

The peer of ``benchmarks/infer.py``. The same resize, crop, normalisation, threads and top 5; no manifest, no labels,
no errors worth reading, no other formats.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import onnxruntime as ort
from PIL import Image

RESIZE, CROP = 256, 224
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def main() -> None:
    graph, path = sys.argv[1:]
    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    image = Image.open(path).convert("RGB")
    width, height = image.size
    short, long = sorted(image.size)
    resized = int(RESIZE * long / short)
    image = image.resize((RESIZE, resized) if width <= height else (resized, RESIZE), Image.Resampling.BILINEAR)
    left, top = round((image.width - CROP) / 2), round((image.height - CROP) / 2)
    pixels = np.asarray(image.crop((left, top, left + CROP, top + CROP)), np.float32)
    tensor = ((pixels / 255 - MEAN) / STD).transpose(2, 0, 1)[None]
    (logits,) = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(tensor)})
    exponents = np.exp(logits[0].astype(np.float64) - logits[0].max())
    for index in np.argsort(-logits[0])[:5]:
        print(f"{100 * exponents[index] / exponents.sum():6.2f} %  {index}")


if __name__ == "__main__":
    main()
