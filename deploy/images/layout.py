"""Preprocessed images in the layout and type of a network's input: channels first or last, normalised or raw."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.specs import Dim, TensorSpec

_DTYPES = ("float32", "float16", "uint8")


def takes_images(spec: TensorSpec) -> bool:
    """Whether ``spec`` is a batch of RGB images: ``[batch, 3, height, width]`` or ``[batch, height, width, 3]``."""
    return len(spec.shape) == 4 and spec.dtype in _DTYPES and 3 in (spec.shape[1], spec.shape[3])


def channels_last(spec: TensorSpec) -> bool:
    """Whether the channels of an image input are its last axis, as TensorFlow's exporters leave it."""
    return spec.shape[1] != 3


def sides(spec: TensorSpec) -> tuple[Dim, Dim]:
    """Height and width of an image input."""
    height, width = spec.shape[1:3] if channels_last(spec) else spec.shape[2:4]
    return height, width


def as_input(images: npt.NDArray[np.float32], spec: TensorSpec) -> npt.NDArray[Any]:
    """float32 ``[images, 3, height, width]`` as ``spec`` wants it; integers are rounded."""
    values = images if spec.dtype.startswith("float") else np.rint(images)
    laid_out = values.transpose(0, 2, 3, 1) if channels_last(spec) else values
    return np.ascontiguousarray(laid_out, spec.dtype)
