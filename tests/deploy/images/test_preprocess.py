"""Preprocessing is compared with torchvision's transforms on the same pixels: equal bits, not close numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torchvision_operators  # noqa: F401 - before torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from deploy.errors import InputError
from deploy.images.preprocess import fit_uint8, normalize, preprocess
from deploy.specs import Preprocessing

FILTERS = {"bilinear": transforms.InterpolationMode.BILINEAR, "bicubic": transforms.InterpolationMode.BICUBIC}


def torchvision_crop(image: np.ndarray, how: Preprocessing) -> Image.Image:
    resize = transforms.Resize(how.resize, FILTERS[how.interpolation], antialias=True)
    return transforms.CenterCrop(how.crop)(resize(Image.fromarray(image)))


def torchvision_tensor(image: np.ndarray, how: Preprocessing) -> np.ndarray:
    tensor = transforms.ToTensor()(torchvision_crop(image, how))
    return transforms.Normalize(how.mean, how.std)(tensor).numpy()


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)


SIDES = st.integers(1, 90) | st.sampled_from([1, 2, 31, 32, 33, 400])


@settings(max_examples=250, deadline=None)
@given(
    height=SIDES,
    width=SIDES,
    resize=st.integers(1, 48),
    crop=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    interpolation=st.sampled_from(sorted(FILTERS)),
)
def test_crop_equals_torchvision(
    height: int, width: int, resize: int, crop: tuple[int, int], interpolation: str
) -> None:
    how = Preprocessing(resize, crop, interpolation)
    image = pixels(height, width)
    cropped = fit_uint8(image, how)
    assert cropped.shape == (*crop, 3)
    np.testing.assert_array_equal(cropped, np.asarray(torchvision_crop(image, how)))


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (233, 232), (1, 640), (640, 1), (100, 100)])
def test_preprocess_equals_torchvision(height: int, width: int, interpolation: str) -> None:
    how = Preprocessing(232, (224, 224), interpolation)
    image = pixels(height, width)
    ours = preprocess(image, how)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    np.testing.assert_array_equal(ours, torchvision_tensor(image, how))


@pytest.mark.parametrize(
    "how",
    [
        Preprocessing(16, (16, 16)),
        Preprocessing(16, (16, 16), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        Preprocessing(16, (16, 16), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        Preprocessing(16, (16, 16), mean=(0.1, 0.2, 0.3), std=(0.3, 0.7, 1e-3)),
    ],
    ids=["imagenet", "half", "identity", "odd"],
)
def test_normalize_equals_torchvision_for_every_value(how: Preprocessing) -> None:
    every_value = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    np.testing.assert_array_equal(normalize(every_value, how), torchvision_tensor(every_value, how))


def test_the_image_is_not_changed() -> None:
    image = pixels(20, 30)
    before = image.copy()
    preprocess(image, Preprocessing(20, (24, 24)))
    np.testing.assert_array_equal(image, before)


def test_too_elongated_an_image_is_refused_before_memory_is_taken() -> None:
    line = np.broadcast_to(np.uint8(0), (1, 60_000, 3))
    with pytest.raises(InputError, match=r"a 60000x1 image is too elongated for resize 232.*13920000x232 pixels"):
        fit_uint8(line, Preprocessing(232, (224, 224)))
