"""Linear resizing is compared with OpenCV's on the same pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.images.linear import resize_linear

SIDES = st.integers(1, 80) | st.sampled_from([1, 2, 3, 127, 300])


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)


def opencv(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def difference(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return resize_linear(image, size).astype(int) - opencv(image, size)


@settings(max_examples=300, deadline=None)
@given(height=SIDES, width=SIDES, size=st.tuples(SIDES, SIDES))
def test_within_one_grey_level_of_opencv(height: int, width: int, size: tuple[int, int]) -> None:
    assert np.abs(difference(pixels(height, width), size)).max() <= 1


@pytest.mark.parametrize("size", [(360, 640), (480, 640), (640, 361), (101, 77), (639, 640)])
@pytest.mark.parametrize("shape", [(1080, 1920), (375, 500), (97, 1201)])
def test_neither_brighter_nor_darker_than_opencv(shape: tuple[int, int], size: tuple[int, int]) -> None:
    off = difference(pixels(*shape), size)
    assert np.abs(off).max() <= 1
    assert abs(off.mean()) < 0.2


def test_the_same_size_is_the_image_itself() -> None:
    image = pixels(9, 7)
    assert resize_linear(image, (9, 7)) is image


def test_the_image_is_not_changed() -> None:
    image = pixels(20, 30)
    before = image.copy()
    resize_linear(image, (13, 41))
    np.testing.assert_array_equal(image, before)
