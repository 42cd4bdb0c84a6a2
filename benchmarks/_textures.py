"""Images made from a number, for training where no photographs are at hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.float32]

# Photographs' mean and deviation in pixels of 0 to 1, about: equal in every texture, so that the mean colour and the
# contrast of an image do not tell which one it is.
MEAN, DEVIATION = 0.45, 0.22
GRATINGS, BLOBS, EDGES = 3, 6, 3
OCTAVES = (2, 4, 8, 16, 32)  # squares of noise along a side


def texture(index: int, side: int) -> npt.NDArray[np.uint8]:
    """Texture number ``index``, uint8 ``[side, side, 3]``: noise, gratings, blobs and edges in its own mixture."""
    rng = np.random.default_rng(index)
    total = _noise(rng, side)
    for part, count in ((_grating, GRATINGS), (_blob, BLOBS), (_edge, EDGES)):
        for _ in range(count):
            total += rng.uniform(0.3, 1) * part(rng, side)[:, :, None] * _colour(rng)
    total = (total - total.mean((0, 1))) / total.std((0, 1))
    return np.round(255 * np.clip(MEAN + DEVIATION * total, 0, 1)).astype(np.uint8)


def _noise(rng: np.random.Generator, side: int) -> Pixels:
    """Smooth coloured noise; a steep spectrum gives clouds, a flat one grain."""
    steepness = rng.uniform(0, 1.5)
    total = np.zeros((side, side, 3), np.float32)
    for octave, squares in enumerate(OCTAVES):
        grid = rng.integers(0, 256, (squares, squares, 3), np.uint8)
        layer = np.asarray(Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC), np.float32)
        total += (layer / 128 - 1) * np.exp2(-steepness * octave)
    return total


def _grating(rng: np.random.Generator, side: int) -> Pixels:
    waves = rng.uniform(2, 16)  # along a side
    return np.sin(2 * np.pi * waves * _slope(rng, side) + rng.uniform(0, 2 * np.pi))


def _blob(rng: np.random.Generator, side: int) -> Pixels:
    """An ellipse with a soft border, of a tenth to half of the side."""
    (across, along), (wide, long) = _centred(rng, side), rng.uniform(0.05, 0.25, 2)
    return np.clip(4 - 4 * np.hypot(across / wide, along / long), -1, 1)


def _edge(rng: np.random.Generator, side: int) -> Pixels:
    """One half of the image light, the other dark."""
    return np.sign(_slope(rng, side))


def _slope(rng: np.random.Generator, side: int) -> Pixels:
    """The distance from a line near the centre, in sides."""
    return _centred(rng, side)[0]


def _centred(rng: np.random.Generator, side: int) -> tuple[Pixels, Pixels]:
    """Coordinates in sides, turned by some angle around some point."""
    angle, (left, top) = rng.uniform(0, np.pi), rng.uniform(0.1, 0.9, 2)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    x, y = x - np.float32(left), y - np.float32(top)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _colour(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    return rng.uniform(-1, 1, 3).astype(np.float32)
