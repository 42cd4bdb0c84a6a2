from __future__ import annotations

import numpy as np
import pytest

from deploy.errors import InputError
from deploy.images.default import default_preprocessing
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
        (TensorSpec("input", "uint8", (4, 7)), None),
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


def test_integers_stay_below_the_table_they_pick_from():
    ids, mask = TensorSpec("ids", "int64", ("batch", 50)), TensorSpec("mask", "bool", ("batch", 50))
    (feeds,) = synthetic_batches([ids, mask], None, (4,), below={"ids": 30})
    assert 20 < feeds["ids"].max() < 30
    assert feeds["ids"].min() >= 0
    assert set(np.unique(feeds["mask"])) == {False, True}
    (few,) = synthetic_batches([ids], None, (4,))
    assert set(np.unique(few["ids"])) == {0, 1}


@pytest.mark.parametrize("shape", [("batch", 24, 32, 3), (2, 3, 24, 32)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16"])
def test_images_come_in_every_layout_and_type(shape, dtype):
    spec = TensorSpec("image", dtype, shape)
    how = default_preprocessing([spec])
    (feeds,) = batches([spec], how, (2,))
    TensorSpec("image", dtype, (2, *shape[1:])).check(feeds["image"])
    images = feeds["image"] if shape[3] == 3 else feeds["image"].transpose(0, 2, 3, 1)
    expected = np.stack(synthetic_images(2, (24, 32), 0))
    if dtype == "uint8":
        np.testing.assert_array_equal(images, expected)
    else:
        wanted = np.stack([normalize(image, HOW) for image in expected]).transpose(0, 2, 3, 1)
        np.testing.assert_allclose(images, wanted, atol=2e-3 if dtype == "float16" else 1e-6)


def test_what_does_not_follow_the_batch_keeps_its_shape():
    specs = [TensorSpec("x", "float32", ("batch", 7)), TensorSpec("table", "float32", (5, 7))]
    specs.append(TensorSpec("scale", "float32", ()))
    (feeds,) = batches(specs, None, (3,))
    assert {name: array.shape for name, array in feeds.items()} == {"x": (3, 7), "table": (5, 7), "scale": ()}
    (alone,) = batches([TensorSpec("x", "float32", (7,))], None, (3,))
    assert alone["x"].shape == (7,)
