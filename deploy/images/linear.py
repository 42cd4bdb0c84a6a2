"""Resizing by linear interpolation without antialiasing: OpenCV's ``INTER_LINEAR``, without OpenCV."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.images.decode import RgbImage

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
    columns = _taps(width, size[1])
    if height > 2 * size[0]:  # then most rows are never looked at
        upper, lower = _across(rows[above], columns), _across(rows[below], columns)
    else:
        everything = _across(rows, columns)
        upper, lower = everything[above], everything[below]
    mixed = _mix(upper, lower, down[:, None])
    mixed += np.float32(0.5)  # rounds half up, as the conversion cuts
    return mixed.astype(np.uint8).reshape(*size, 3)


def _across(rows: npt.NDArray[np.uint8], columns: _Taps) -> npt.NDArray[np.float32]:
    """Rows of pixels ``[rows, width * 3]``, resized along the second axis."""
    left, right, weight = columns
    channels = np.arange(3)
    first, second = (
        np.take(rows, (3 * taps[:, None] + channels).ravel(), axis=1).astype(np.float32) for taps in (left, right)
    )
    return _mix(first, second, np.repeat(weight, 3))


def _mix(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], weight: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """``first + (second - first) * weight``, in place of ``second``: at these sizes memory is what takes time."""
    second -= first
    second *= weight
    second += first
    return second


def _taps(length: int, size: int) -> _Taps:
    """For each of ``size`` new positions: the two old ones beside it, and the share of the second."""
    places = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, length - 1)
    first = places.astype(np.intp)
    return first, np.minimum(first + 1, length - 1), (places - first).astype(np.float32)
