"""Resizing by linear interpolation without antialiasing: OpenCV's ``INTER_LINEAR``, without OpenCV."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.images.decode import RgbImage

# Rows at a time: what is computed on the way stays in the cache, and is not asked of the system anew.
_BLOCK = 32

_Taps = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]


def resize_linear(image: RgbImage, size: tuple[int, int]) -> RgbImage:
    """uint8 ``[height, width, 3]`` → ``[*size, 3]``: pixel centres at half a pixel, two neighbours along each axis.

    Within one grey level of OpenCV, which rounds its weights to 11 bits. (Pillow's affine transform has the same rule,
    but cuts fractions off, which darkens by 0.4 of a level, and is slower.)
    """
    if size == image.shape[:2]:
        return image
    height, width = image.shape[:2]
    rows = image.reshape(height, width * 3)
    above, below, down = _taps(height, size[0])
    columns = _by_channel(_taps(width, size[1]))
    resized = np.empty((size[0], size[1] * 3), np.uint8)
    for start in range(0, size[0], _BLOCK):
        block = slice(start, start + _BLOCK)
        mixed = _mix(*_lines(rows, above[block], below[block], columns), down[block, None])
        mixed += np.float32(0.5)  # rounds half up, as the assignment cuts
        resized[block] = mixed
    return resized.reshape(*size, 3)


def _lines(
    rows: npt.NDArray[np.uint8], above: npt.NDArray[np.intp], below: npt.NDArray[np.intp], columns: _Taps
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The rows ``above`` and ``below``, resized along the second axis: each once where they lie close together."""
    first, last = above[0], below[-1] + 1
    if last - first > 2 * len(above):  # far apart: most rows in between are not needed
        return _across(rows[above], columns), _across(rows[below], columns)
    lines = _across(rows[first:last], columns)
    return lines[above - first], lines[below - first]


def _across(rows: npt.NDArray[np.uint8], columns: _Taps) -> npt.NDArray[np.float32]:
    left, right, weight = columns
    first, second = (np.take(rows, taps, axis=1).astype(np.float32) for taps in (left, right))
    return _mix(first, second, weight)


def _by_channel(taps: _Taps) -> _Taps:
    """Those of pixels, for the three channels of each, one behind the other."""
    first, second, weight = taps
    channels = np.arange(3)
    return (3 * first[:, None] + channels).ravel(), (3 * second[:, None] + channels).ravel(), np.repeat(weight, 3)


def _mix(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], weight: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """``first + (second - first) * weight``, in place of ``second``."""
    second -= first
    second *= weight
    second += first
    return second


def _taps(length: int, size: int) -> _Taps:
    """For each of ``size`` new positions: the two old ones beside it, and the share of the second."""
    places = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, length - 1)
    first = places.astype(np.intp)
    return first, np.minimum(first + 1, length - 1), (places - first).astype(np.float32)
