"""Where an image lies in the network's input, and the way back to its own pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.specs import Preprocessing

Size = tuple[int, int]


@dataclass(frozen=True)
class Fit:
    """An image of the size ``original`` is resized to ``resized`` and its corner comes to ``offset``.

    All are (height, width) in pixels; what a negative offset moves out of the input is cut off.
    """

    original: Size
    resized: Size
    offset: Size

    def to_original(self, boxes: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Boxes ``[..., 4]`` (x1, y1, x2, y2) in pixels of the input → in pixels of the image, clipped to it."""
        (height, width), (top, left) = self.original, self.offset
        scale = (width / self.resized[1], height / self.resized[0])
        moved = (boxes.astype(np.float64) - (left, top, left, top)) * (scale * 2)
        return np.clip(moved, 0, (width, height, width, height))


def fit(original: Size, preprocessing: Preprocessing) -> Fit:
    """What ``preprocessing`` makes of an image of the size ``original`` (height, width)."""
    resized = {"crop": _shorter_side, "squash": _whole, "letterbox": _inside}[preprocessing.mode]
    offset = _letterbox_offset if preprocessing.mode == "letterbox" else _centre
    size = resized(original, preprocessing)
    height, width = preprocessing.crop
    return Fit(original, size, (offset(size[0], height), offset(size[1], width)))


def _shorter_side(original: Size, preprocessing: Preprocessing) -> Size:
    height, width = original
    long = int(preprocessing.resize * max(original) / min(original))
    return (long, preprocessing.resize) if width <= height else (preprocessing.resize, long)


def _whole(original: Size, preprocessing: Preprocessing) -> Size:
    height, width = preprocessing.crop
    scale = preprocessing.resize / min(height, width)
    return int(height * scale), int(width * scale)


def _inside(original: Size, preprocessing: Preprocessing) -> Size:
    ratio = min(preprocessing.crop[0] / original[0], preprocessing.crop[1] / original[1])
    return max(round(original[0] * ratio), 1), max(round(original[1] * ratio), 1)


def _centre(length: int, crop: int) -> int:
    # torchvision rounds half to even where it cuts, and down where it pads.
    return (crop - length) // 2 if crop > length else -round((length - crop) / 2)


def _letterbox_offset(length: int, crop: int) -> int:
    # An odd pixel goes below and to the right (YOLOv5).
    return round((crop - length) / 2 - 0.1)
