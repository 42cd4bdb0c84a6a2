"""Images made from a seed, for checks that must run where no photograph is at hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

# Grid sizes: noise at one scale alone would give every image the same pooled features.
_SCALES = (1, 3, 9, 27)


def synthetic_images(count: int, size: tuple[int, int], seed: int = 0) -> list[npt.NDArray[np.uint8]]:
    """``count`` RGB images, uint8 ``[height, width, 3]``, with structure from the whole image down to a few pixels."""
    generator = np.random.default_rng(seed)
    return [_image(generator, size) for _ in range(count)]


def _image(generator: np.random.Generator, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    height, width = size
    total = np.zeros((height, width, 3), np.float32)
    for side in _SCALES:
        grid = generator.integers(0, 256, (side, side, 3), np.uint8)
        total += np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR), np.float32)
    return np.round(total / len(_SCALES)).astype(np.uint8)
