"""Decoded images → the network's input, equal to torchvision's evaluation transform.

torchvision's ``Resize`` on a PIL image is Pillow's antialiased resize, so Pillow does it here too; OpenCV's and the GPU
resizers give other pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from deploy.errors import InputError
from deploy.images.decode import RgbImage, check_pixels
from deploy.specs import Preprocessing


def preprocess(image: RgbImage, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """uint8 ``[height, width, 3]`` RGB → float32 ``[3, *crop]``: resize, centre crop, normalise.

    Raises:
        InputError: the image is so elongated that resizing its shorter side gives too many pixels.
    """
    return normalize(crop_uint8(image, preprocessing), preprocessing)


def crop_uint8(image: RgbImage, preprocessing: Preprocessing) -> RgbImage:
    """The resized centre as uint8 ``[*crop, 3]``: torchvision's ``Resize(resize)`` and ``CenterCrop(crop)``.

    Where the crop is larger than the resized image, the rest is black. Raises as :func:`preprocess`.
    """
    return _centre_crop(_resize(image, preprocessing), *preprocessing.crop)


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


def _resize(image: RgbImage, preprocessing: Preprocessing) -> RgbImage:
    import PIL.Image

    height, width = image.shape[:2]
    short, long = sorted((height, width))
    resized_long = int(preprocessing.resize * long / short)
    size = (preprocessing.resize, resized_long) if width <= height else (resized_long, preprocessing.resize)
    if size == (width, height):
        return image
    try:
        check_pixels(*size)
    except InputError as error:
        raise InputError(
            f"a {width}x{height} image is too elongated for {preprocessing}", got=error.got, expected=error.expected
        ) from error
    filters = {"bilinear": PIL.Image.Resampling.BILINEAR, "bicubic": PIL.Image.Resampling.BICUBIC}
    return np.asarray(PIL.Image.fromarray(image).resize(size, filters[preprocessing.interpolation]))


def _centre_crop(image: RgbImage, height: int, width: int) -> RgbImage:
    rows, into_rows = _centre(image.shape[0], height)
    columns, into_columns = _centre(image.shape[1], width)
    if image[rows, columns].shape[:2] == (height, width):
        return image[rows, columns]
    cropped = np.zeros((height, width, 3), np.uint8)
    cropped[into_rows, into_columns] = image[rows, columns]
    return cropped


def _centre(length: int, crop: int) -> tuple[slice, slice]:
    """Where to take from, and where to put it, along one axis."""
    if crop > length:
        before = (crop - length) // 2
        return slice(0, length), slice(before, before + length)
    # torchvision rounds half to even.
    start = round((length - crop) / 2)
    return slice(start, start + crop), slice(0, crop)
