"""The preprocessing of a graph that does not say which it wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deploy.errors import InputError
from deploy.images.layout import sides, takes_images
from deploy.specs import RAW_PIXELS, Preprocessing, TensorSpec

# torchvision's evaluation transforms resize to 256 for a crop of 224.
_RESIZE_OVER_CROP = 256 / 224


def default_preprocessing(inputs: Sequence[TensorSpec], image_size: tuple[int, int] | None = None) -> Preprocessing:
    """ImageNet's usual evaluation transform for a graph with one input of RGB images, channels first or last.

    Where it takes uint8, the pixels are not normalised.

    Args:
        inputs: the graph's inputs.
        image_size: height and width in pixels, where they are dynamic.

    Raises:
        InputError: the graph does not take one RGB image, or its size is not known.
    """
    if len(inputs) != 1 or not takes_images(inputs[0]):
        raise InputError(
            "nothing says how images are prepared for this graph, and its inputs are not those of an image network",
            got=", ".join(map(str, inputs)),
            expected="one input [batch, 3, height, width] or [batch, height, width, 3], float32, float16 or uint8",
            fix="Feed arrays: verify and build take a FILE.npz.",
        )
    spec = inputs[0]
    given = image_size or (None, None)
    height, width = (dim if isinstance(dim, int) else size for dim, size in zip(sides(spec), given))
    if height is None or width is None:
        raise InputError("this graph says no image size", got=spec, fix="Give --image-size S.")
    usual = Preprocessing(round(min(height, width) * _RESIZE_OVER_CROP), (height, width))
    mean, std = RAW_PIXELS
    return replace(usual, mean=mean, std=std) if spec.dtype == "uint8" else usual


def describe_default(preprocessing: Preprocessing) -> str:
    """In words, for the warning that it is assumed."""
    usual = (preprocessing.mean, preprocessing.std) == (Preprocessing.mean, Preprocessing.std)
    return f"'{preprocessing}'" + (" with ImageNet's mean and std" if usual else "")
