"""The preprocessing of a graph that does not say which it wants."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.errors import InputError
from deploy.specs import Preprocessing, TensorSpec

# torchvision's evaluation transforms resize to 256 for a crop of 224.
_RESIZE_OVER_CROP = 256 / 224


def default_preprocessing(inputs: Sequence[TensorSpec], image_size: tuple[int, int] | None = None) -> Preprocessing:
    """ImageNet's usual evaluation transform for a graph with one float32 input ``[batch, 3, height, width]``.

    Args:
        inputs: the graph's inputs.
        image_size: height and width in pixels, where they are dynamic.

    Raises:
        InputError: the graph does not take one RGB image in that layout, or its size is not known.
    """
    if len(inputs) != 1 or not _takes_rgb(inputs[0]):
        raise InputError(
            "this graph has no manifest and does not look like an image classifier",
            got=", ".join(map(str, inputs)),
            expected="one float32 input [batch, 3, height, width]",
        )
    spec = inputs[0]
    given = image_size or (None, None)
    height, width = (dim if isinstance(dim, int) else size for dim, size in zip(spec.shape[2:], given))
    if height is None or width is None:
        raise InputError("this graph has no manifest and any image size", got=spec, fix="Give --image-size S.")
    return Preprocessing(round(min(height, width) * _RESIZE_OVER_CROP), (height, width))


def _takes_rgb(spec: TensorSpec) -> bool:
    return len(spec.shape) == 4 and spec.shape[1] == 3 and spec.dtype == "float32"
