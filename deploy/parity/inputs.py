"""Inputs for a comparison: real images where the user gives them, else synthetic ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from deploy.errors import InputError
from deploy.images.preprocess import normalize
from deploy.images.synthetic import synthetic_images
from deploy.runtime.base import Array
from deploy.specs import Preprocessing, TensorSpec


def synthetic_batches(
    inputs: Sequence[TensorSpec], preprocessing: Preprocessing | None, sizes: Sequence[int], seed: int = 0
) -> Iterator[dict[str, Array]]:
    """Batches of the given sizes for ``inputs``: normalised synthetic images, or seeded noise for other tensors.

    Raises:
        InputError: an axis other than the first is dynamic, so that no input can be made up.
    """
    for index, size in enumerate(sizes):
        yield {spec.name: _made_up(spec, preprocessing, size, seed + index) for spec in inputs}


def _made_up(spec: TensorSpec, preprocessing: Preprocessing | None, rows: int, seed: int) -> Array:
    shape = [dim for dim in spec.shape[1:] if isinstance(dim, int)]
    if len(shape) != len(spec.shape) - 1:
        raise InputError(f"cannot make up an input of unknown size for {spec}", fix="Give real ones with --data.")
    if preprocessing is not None and len(shape) == 3 and shape[0] == 3:
        images = synthetic_images(rows, (shape[1], shape[2]), seed)
        return np.stack([normalize(image, preprocessing) for image in images]).astype(spec.dtype)
    return np.random.default_rng(seed).standard_normal((rows, *shape)).astype(spec.dtype)
