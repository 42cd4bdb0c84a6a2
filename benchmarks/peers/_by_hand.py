"""What the quantizers by hand share: arguments, images as the networks were trained on them, a placement."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def arguments(description: str | None, methods: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("graph", type=Path)
    parser.add_argument("images", type=Path, help="the folder of calibration images")
    parser.add_argument("--size", type=int, required=True, help="side of the network's input in pixels")
    parser.add_argument("--method", choices=methods, required=True)
    parser.add_argument("--placement", type=Path, help="what to quantize (default: what the quantizer would)")
    parser.add_argument("-o", "--output", type=Path, required=True)
    return parser.parse_args()


def image_files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def pixels(path: Path, size: int) -> npt.NDArray[np.float32]:
    """``[3, size, size]``: the shorter side resized to ``size``, the middle cut out, normalised."""
    image = Image.open(path).convert("RGB")
    scale = size / min(image.size)
    image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    values = np.asarray(image.crop((left, top, left + size, top + size)), np.float32)
    return np.ascontiguousarray(((values / 255 - MEAN) / STD).transpose(2, 0, 1))


def placement(args: argparse.Namespace) -> dict[str, Any] | None:
    """As ``benchmarks/_placement.py`` writes it."""
    return json.loads(args.placement.read_text(encoding="utf-8")) if args.placement else None
