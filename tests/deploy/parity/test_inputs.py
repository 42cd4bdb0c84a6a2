from __future__ import annotations

import numpy as np
import pytest

from deploy.errors import InputError
from deploy.images.preprocess import normalize
from deploy.images.synthetic import synthetic_images
from deploy.parity.inputs import synthetic_batches
from deploy.specs import Preprocessing, TensorSpec

IMAGE = TensorSpec("input", "float32", ("batch", 3, 24, 32))
HOW = Preprocessing(28, (24, 32))


def batches(specs, how, sizes, seed=0):
    return list(synthetic_batches(specs, how, sizes, seed))


def test_batches_have_the_sizes_asked_for_and_fit():
    made = batches([IMAGE], HOW, (1, 5, 2))
    assert [len(feeds["input"]) for feeds in made] == [1, 5, 2]
    for feeds in made:
        IMAGE.check(feeds["input"])


def test_images_are_normalised_as_the_network_wants():
    (feeds,) = batches([IMAGE], HOW, (3,), seed=4)
    expected = np.stack([normalize(image, HOW) for image in synthetic_images(3, (24, 32), 4)])
    np.testing.assert_array_equal(feeds["input"], expected)
    assert abs(feeds["input"].mean()) < 1
    assert 0.3 < feeds["input"].std() < 2


def test_a_seed_gives_the_same_images_and_another_others():
    first, again, other = (batches([IMAGE], HOW, (2, 2), seed)[1]["input"] for seed in (0, 0, 7))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_two_images_are_alike():
    images = np.concatenate([feeds["input"] for feeds in batches([IMAGE], HOW, (2, 3))])
    assert len({image.tobytes() for image in images}) == 5


@pytest.mark.parametrize(
    ("spec", "how"),
    [
        (IMAGE, None),
        (TensorSpec("input", "float32", ("batch", 1, 24, 32)), HOW),
        (TensorSpec("input", "float16", ("batch", 40)), HOW),
        (TensorSpec("input", "int64", (4, 7)), None),
    ],
)
def test_what_is_no_image_gets_noise_of_its_type(spec, how):
    (feeds,) = batches([spec], how, (4,))
    spec.check(feeds["input"])
    assert feeds["input"].std() > 0.5


def test_every_input_is_fed():
    mask = TensorSpec("mask", "float32", ("batch", 5))
    (feeds,) = batches([IMAGE, mask], HOW, (2,))
    assert {name: array.shape for name, array in feeds.items()} == {"input": (2, 3, 24, 32), "mask": (2, 5)}


@pytest.mark.parametrize("how", [HOW, None])
def test_a_size_that_is_not_known_cannot_be_made_up(how):
    spec = TensorSpec("input", "float32", ("batch", 3, "height", 32))
    with pytest.raises(
        InputError, match=r"unknown size for input float32\[batch, 3, height, 32\]. Give real ones with --data"
    ):
        batches([spec], how, (1,))
