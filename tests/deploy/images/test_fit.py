"""Where images come to lie, and boxes find the way back, in every mode."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torchvision_operators  # noqa: F401 - before torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from deploy.images.fit import Fit, fit
from deploy.images.preprocess import fit_uint8, preprocess
from deploy.specs import Preprocessing

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
SIDES = st.integers(1, 90) | st.sampled_from([1, 2, 31, 32, 33, 400])
CROPS = st.tuples(st.integers(1, 64), st.integers(1, 64))


def letterbox(crop: tuple[int, int] = (64, 64)) -> Preprocessing:
    return Preprocessing(max(crop), crop, "linear", ZERO, ONE, "letterbox")


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)


def by_opencv(image: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    """YOLOv5's letterbox with auto=False and scaleup=True."""
    height, width = image.shape[:2]
    ratio = min(crop[0] / height, crop[1] / width)
    inner = max(round(width * ratio), 1), max(round(height * ratio), 1)
    across, down = (crop[1] - inner[0]) / 2, (crop[0] - inner[1]) / 2
    if inner != (width, height):
        image = cv2.resize(image, inner, interpolation=cv2.INTER_LINEAR)
    top, bottom, left, right = (round(x) for x in (down - 0.1, down + 0.1, across - 0.1, across + 0.1))
    grey = (114, 114, 114)
    return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=grey)


@settings(max_examples=300, deadline=None)
@given(height=SIDES, width=SIDES, crop=CROPS)
def test_letterbox_equals_opencv(height: int, width: int, crop: tuple[int, int]) -> None:
    image = pixels(height, width)
    ours, theirs = fit_uint8(image, letterbox(crop)), by_opencv(image, crop)
    assert ours.shape == theirs.shape == (*crop, 3)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@settings(max_examples=100, deadline=None)
@given(height=SIDES, width=SIDES, crop=CROPS, interpolation=st.sampled_from(["bilinear", "bicubic"]))
def test_squash_equals_torchvision(height: int, width: int, crop: tuple[int, int], interpolation: str) -> None:
    image = pixels(height, width)
    filters = {"bilinear": transforms.InterpolationMode.BILINEAR, "bicubic": transforms.InterpolationMode.BICUBIC}
    theirs = transforms.Resize(crop, filters[interpolation], antialias=True)(Image.fromarray(image))
    ours = fit_uint8(image, Preprocessing(min(crop), crop, interpolation, mode="squash"))
    np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_letterbox_is_normalised_as_any_other() -> None:
    image = pixels(20, 31)
    np.testing.assert_array_equal(
        preprocess(image, letterbox()), (fit_uint8(image, letterbox()).transpose(2, 0, 1) / np.float32(255))
    )


@pytest.mark.parametrize(
    ("original", "crop", "expected"),
    [
        ((1080, 1920), (640, 640), Fit((1080, 1920), (360, 640), (140, 0))),
        ((500, 375), (640, 640), Fit((500, 375), (640, 480), (0, 80))),
        ((427, 640), (640, 640), Fit((427, 640), (427, 640), (106, 0))),  # 106 above, 107 below
        ((1, 10_000), (640, 640), Fit((1, 10_000), (1, 640), (319, 0))),
        ((640, 640), (640, 640), Fit((640, 640), (640, 640), (0, 0))),
    ],
)
def test_where_a_letterboxed_image_lies(original: tuple[int, int], crop: tuple[int, int], expected: Fit) -> None:
    assert fit(original, letterbox(crop)) == expected


MODES = [
    letterbox((48, 64)),
    Preprocessing(48, (48, 64), mode="squash"),
    Preprocessing(40, (32, 36)),
    Preprocessing(24, (32, 36)),
]


@settings(max_examples=200, deadline=None)
@given(how=st.sampled_from(MODES), height=st.integers(20, 300), width=st.integers(20, 300), data=st.data())
def test_boxes_find_the_way_back(how: Preprocessing, height: int, width: int, data: st.DataObject) -> None:
    placed = fit((height, width), how)
    box = np.array([data.draw(st.floats(0, limit)) for limit in (width, height, width, height)])
    scale = np.array([placed.resized[1] / width, placed.resized[0] / height] * 2)
    there = box * scale + np.array([placed.offset[1], placed.offset[0]] * 2)
    np.testing.assert_allclose(placed.to_original(there), box, atol=1e-9)


@pytest.mark.parametrize("how", MODES, ids=lambda how: f"{how.mode}-{how.resize}")
def test_a_bright_spot_is_found_where_it_is(how: Preprocessing) -> None:
    image = np.zeros((90, 120, 3), np.uint8)
    image[40:52, 57:69] = 255
    seen = np.argwhere(fit_uint8(image, how)[..., 0] > 127)
    (top, left), (bottom, right) = seen.min(axis=0), seen.max(axis=0) + 1
    found = fit((90, 120), how).to_original(np.array([left, top, right, bottom]))
    pixel = 120 / fit((90, 120), how).resized[1]
    np.testing.assert_allclose(found, [57, 40, 69, 52], atol=pixel)


def test_boxes_are_clipped_to_the_image() -> None:
    placed = fit((100, 200), letterbox((64, 64)))
    boxes = np.array([[-5.0, -5, 70, 70], [0, 0, 3, 3]], np.float32)
    np.testing.assert_array_equal(placed.to_original(boxes), [[0, 0, 200, 100], [0, 0, 3 * 200 / 64, 0]])
