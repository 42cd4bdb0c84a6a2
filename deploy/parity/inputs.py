"""Inputs for a comparison: real images where the user gives them, else synthetic ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from deploy.errors import InputError
from deploy.images.layout import as_input, sides, takes_images
from deploy.images.preprocess import normalize
from deploy.images.synthetic import synthetic_images
from deploy.runtime.base import Array
from deploy.specs import Preprocessing, TensorSpec, batch_of, follows_batch

# Below what integers are drawn where the graph does not tell: masks, and any table has two rows.
_FEW = 2


def synthetic_batches(
    inputs: Sequence[TensorSpec],
    preprocessing: Preprocessing | None,
    sizes: Sequence[int],
    seed: int = 0,
    below: Mapping[str, int] | None = None,
) -> Iterator[dict[str, Array]]:
    """Batches of the given sizes for ``inputs``: normalised synthetic images, or seeded noise for other tensors.

    Args:
        inputs: what to feed; those that do not follow the batch keep their shape.
        preprocessing: of the images among them.
        sizes: one batch of each.
        seed: the same gives the same batches.
        below: integer input → the first number too large for it (:func:`deploy.graph.indices.index_limits`).

    Raises:
        InputError: an axis other than the first is dynamic, so that no input can be made up.
    """
    batch, limits = batch_of(inputs), below or {}
    for index, size in enumerate(sizes):
        shapes = {spec: _shape(spec, size if follows_batch(spec, batch) else None) for spec in inputs}
        yield {
            spec.name: _made_up(spec, shape, preprocessing, _Source(seed + index, limits.get(spec.name, _FEW)))
            for spec, shape in shapes.items()
        }


class _Source:
    """Where an input's values come from: a seed, and what integers stay below."""

    def __init__(self, seed: int, below: int) -> None:
        self.seed, self.below = seed, below
        self.random = np.random.default_rng(seed)


def _shape(spec: TensorSpec, rows: int | None) -> tuple[int, ...]:
    shape = spec.shape if rows is None else (rows, *spec.shape[1:])
    known = tuple(dim for dim in shape if isinstance(dim, int))
    if len(known) != len(shape):
        raise InputError(f"cannot make up an input of unknown size for {spec}", fix="Give real ones with --data.")
    return known


def _made_up(spec: TensorSpec, shape: tuple[int, ...], preprocessing: Preprocessing | None, source: _Source) -> Array:
    if preprocessing is not None and takes_images(spec):
        height, width = sides(TensorSpec(spec.name, spec.dtype, shape))
        images = synthetic_images(shape[0], (int(height), int(width)), source.seed)
        return as_input(np.stack([normalize(image, preprocessing) for image in images]), spec)
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "iu":
        below = 256 if dtype == np.uint8 else source.below
        return source.random.integers(0, below, shape).astype(dtype)
    if dtype.kind == "b":
        return source.random.integers(0, 2, shape).astype(dtype)
    return np.asarray(source.random.standard_normal(shape), dtype)
