from __future__ import annotations

import numpy as np
import pytest

from deploy.images.layout import as_input, channels_last, sides, takes_images
from deploy.specs import TensorSpec


def spec(*shape, dtype="float32"):
    return TensorSpec("image", dtype, shape)


@pytest.mark.parametrize(
    ("shape", "last", "expected"),
    [
        (("N", 3, 8, 6), False, (8, 6)),
        (("N", 8, 6, 3), True, (8, 6)),
        (("N", 3, 8, 3), False, (8, 3)),
        (("N", "H", "W", 3), True, ("H", "W")),
        ((2, 3, "H", "W"), False, ("H", "W")),
    ],
)
def test_which_axis_holds_the_channels(shape, last, expected):
    assert takes_images(spec(*shape))
    assert (channels_last(spec(*shape)), sides(spec(*shape))) == (last, expected)


@pytest.mark.parametrize("shape", [("N", 1, 8, 6), ("N", 3, 8), ("N", 8, 6, 4), ()])
def test_what_takes_no_images(shape):
    assert not takes_images(spec(*shape))
    assert not takes_images(spec("N", 3, 8, 6, dtype="int64"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_images_in_the_type_and_layout_of_an_input(dtype):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 6)).astype(np.float32)
    almost = images - np.float32(1e-4) if dtype == "uint8" else images
    first, last = as_input(almost, spec("N", 3, 8, 6, dtype=dtype)), as_input(almost, spec("N", 8, 6, 3, dtype=dtype))
    assert first.dtype == last.dtype == dtype
    assert last.flags.c_contiguous
    np.testing.assert_array_equal(first, images)
    np.testing.assert_array_equal(last, images.transpose(0, 2, 3, 1))
