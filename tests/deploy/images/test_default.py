from __future__ import annotations

import numpy as np
import pytest

from deploy.errors import InputError
from deploy.images.default import default_preprocessing, describe_default
from deploy.images.preprocess import normalize
from deploy.specs import Preprocessing, TensorSpec


def image(*shape, dtype="float32"):
    return TensorSpec("image", dtype, shape)


@pytest.mark.parametrize(
    ("shape", "image_size", "expected"),
    [
        (("batch", 3, 224, 224), None, Preprocessing(256, (224, 224))),
        ((1, 3, 224, 224), (64, 64), Preprocessing(256, (224, 224))),
        (("batch", 3, 64, 64), None, Preprocessing(73, (64, 64))),
        (("batch", 3, 192, 256), None, Preprocessing(219, (192, 256))),
        (("batch", 3, "height", "width"), (224, 224), Preprocessing(256, (224, 224))),
        (("batch", 3, 192, "width"), (224, 224), Preprocessing(219, (192, 224))),
        (("batch", 64, 64, 3), None, Preprocessing(73, (64, 64))),
        ((1, 192, 256, 3), None, Preprocessing(219, (192, 256))),
        (("batch", "height", "width", 3), (224, 224), Preprocessing(256, (224, 224))),
    ],
)
def test_the_usual_transform_for_the_graphs_size(shape, image_size, expected):
    assert default_preprocessing([image(*shape)], image_size) == expected


@pytest.mark.parametrize("image_size", [32, 64, 224, 299, 600])
def test_the_crop_always_fits_in_what_was_resized(image_size):
    found = default_preprocessing([image("batch", 3, "h", "w")], (image_size, image_size))
    assert found.resize >= max(found.crop)


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [image("batch", 3, 8, 8), image("batch", 3, 8, 8)],
        [image("batch", 1, 8, 8)],
        [image("batch", 8, 8, 1)],
        [image("batch", "channels", 8, 8)],
        [image(3, 8, 8)],
        [image("batch", 3, 8, 8, dtype="int8")],
        [image("batch", 3, 8, 8, dtype="float64")],
    ],
)
def test_what_is_no_image_classifier(inputs):
    with pytest.raises(InputError, match=r"nothing says how images are prepared for this graph.*one input \[batch, 3,"):
        default_preprocessing(inputs)


@pytest.mark.parametrize("shape", [("batch", 3, "h", "w"), ("batch", 3, 64, "w"), ("batch", 3, "h", 64)])
def test_a_size_that_must_be_given(shape):
    with pytest.raises(InputError, match="says no image size .*Give --image-size S"):
        default_preprocessing([image(*shape)])


@pytest.mark.parametrize("shape", [("batch", 3, 8, 8), ("batch", 8, 8, 3)])
def test_a_graph_of_bytes_gets_the_pixels_themselves(shape):
    how = default_preprocessing([image(*shape, dtype="uint8")])
    pixels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    np.testing.assert_array_equal(np.rint(normalize(pixels, how)).transpose(1, 2, 0), pixels)
    assert describe_default(how).endswith("raw pixels'")
    assert describe_default(default_preprocessing([image(*shape)])).endswith("with ImageNet's mean and std")
    assert default_preprocessing([image(*shape, dtype="float16")]) == default_preprocessing([image(*shape)])
