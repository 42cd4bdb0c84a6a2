"""Decoded images → the network's input.

``crop`` equals torchvision's evaluation transform, ``squash`` its ``Resize((height, width))``: on a PIL image both are
Pillow's antialiased resize, so Pillow does it here too; OpenCV's and the GPU resizers give other pixels. ``letterbox``
is YOLO's, whose resize is OpenCV's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from deploy.errors import InputError
from deploy.images.decode import RgbImage, check_pixels
from deploy.images.fit import Size, fit
from deploy.specs import Preprocessing

# What is put around an image that does not fill the input: torchvision's black, YOLO's grey.
_FILL = {"crop": 0, "squash": 0, "letterbox": 114}


def preprocess(image: RgbImage, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """uint8 ``[height, width, 3]`` RGB → float32 ``[3, *crop]``: resize, crop or pad, normalise.

    Raises:
        InputError: the image is so elongated that resizing its shorter side gives too many pixels.
    """
    return normalize(fit_uint8(image, preprocessing), preprocessing)


def fit_uint8(image: RgbImage, preprocessing: Preprocessing) -> RgbImage:
    """The image at the network's size as uint8 ``[*crop, 3]``, before normalisation. Raises as :func:`preprocess`."""
    placed = fit((image.shape[0], image.shape[1]), preprocessing)
    resized = _resize(image, placed.resized, preprocessing)
    return _put(resized, placed.offset, preprocessing.crop, _FILL[preprocessing.mode])


def normalize(image: RgbImage, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """uint8 ``[height, width, 3]`` → float32 ``[3, height, width]``: ``(pixel / 255 - mean) / std`` per channel.

    The order and the precision of the steps are those of ``ToTensor`` and ``Normalize``: the results are the same bits.
    """
    mean = np.asarray(preprocessing.mean, np.float32)[:, None, None]
    std = np.asarray(preprocessing.std, np.float32)[:, None, None]
    values: npt.NDArray[np.float32] = image.transpose(2, 0, 1).astype(np.float32, order="C")
    values /= np.float32(255)
    values -= mean
    values /= std
    return values


def _resize(image: RgbImage, size: Size, preprocessing: Preprocessing) -> RgbImage:
    if size == image.shape[:2]:
        return image
    if preprocessing.interpolation == "linear":
        from deploy.images.linear import resize_linear

        return resize_linear(image, size)
    import PIL.Image

    height, width = image.shape[:2]
    try:
        check_pixels(size[1], size[0])
    except InputError as error:
        raise InputError(
            f"a {width}x{height} image is too elongated for {preprocessing}", got=error.got, expected=error.expected
        ) from error
    filters = {"bilinear": PIL.Image.Resampling.BILINEAR, "bicubic": PIL.Image.Resampling.BICUBIC}
    return np.asarray(PIL.Image.fromarray(image).resize(size[::-1], filters[preprocessing.interpolation]))


def _put(image: RgbImage, offset: Size, crop: Size, fill: int) -> RgbImage:
    """The part of ``image`` that lies in the crop when its corner is at ``offset``, ``fill`` around it."""
    rows, into_rows = _overlap(image.shape[0], offset[0], crop[0])
    columns, into_columns = _overlap(image.shape[1], offset[1], crop[1])
    inside = image[rows, columns]
    if inside.shape[:2] == crop:
        return inside
    whole = np.full((*crop, 3), fill, np.uint8)
    whole[into_rows, into_columns] = inside
    return whole


def _overlap(length: int, offset: int, crop: int) -> tuple[slice, slice]:
    """Where to take from, and where to put it, along one axis."""
    taken = slice(max(-offset, 0), min(crop - offset, length))
    return taken, slice(taken.start + offset, taken.stop + offset)
