"""A detector's work on the host: letterbox beside OpenCV's resize, and NMS over YOLOv5's 25,200 predictions.

python benchmarks/detection.py
python benchmarks/detection.py --repeats 50 --json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
from _measure import describe, machine

from deploy.images.linear import resize_linear
from deploy.images.nms import select
from deploy.specs import NmsSettings

# (height, width) of the photo, and of what it is resized to inside 640x640.
SIZES = {"1920x1080": ((1080, 1920), (360, 640)), "400x300": ((300, 400), (480, 640))}
PREDICTIONS, CLASSES, HITS = 25_200, 80, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rows = {name: _resized(*sizes, args.repeats) for name, sizes in SIZES.items()}
    rows[f"NMS {PREDICTIONS}x{CLASSES}"] = {"ours_ms": _nms(args.repeats)}
    where = machine("numpy", "opencv-python-headless")
    if args.json:
        print(json.dumps({"benchmark": "detection", "machine": where, "rows": rows}, indent=2))
        return
    print(describe(where))
    for name, row in rows.items():
        beside = f", OpenCV {row['opencv_ms']:.2f} ms: {row['ratio']:.1f} times" if "ratio" in row else ""
        print(f"{name}: {row['ours_ms']:.2f} ms{beside}")


def _resized(shape: tuple[int, int], size: tuple[int, int], repeats: int) -> dict[str, float]:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    ours = _milliseconds(lambda: resize_linear(image, size), repeats)
    theirs = _milliseconds(lambda: cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR), repeats)
    return {"ours_ms": ours, "opencv_ms": theirs, "ratio": ours / theirs}


def _nms(repeats: int) -> float:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 600, (PREDICTIONS, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 200, (PREDICTIONS, 2))], axis=1).astype(np.float32)
    scores = rng.uniform(0, 0.2, (PREDICTIONS, CLASSES)).astype(np.float32)
    scores[rng.choice(PREDICTIONS, HITS, replace=False), rng.integers(0, CLASSES, HITS)] = rng.uniform(0.3, 1, HITS)
    return _milliseconds(lambda: select(boxes, scores, NmsSettings()), repeats)


def _milliseconds(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = perf_counter()
        work()
        seconds.append(perf_counter() - start)
    return 1000 * median(seconds)


if __name__ == "__main__":
    main()
