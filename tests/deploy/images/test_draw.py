"""What is drawn lies inside the image, can be read, and no label or size breaks it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import ImageDraw

from deploy.images.detect import Detection
from deploy.images.draw import colour, draw_caption, draw_detections, text_colour

SIZES = [(1, 1), (3, 200), (48, 64), (64, 64), (480, 640), (64, 2000), (1080, 1920), (4320, 7680)]
LABELS = [
    "person",
    "собака",
    "狗",
    "كلب",
    "🐕 family 👨‍👩‍👧",
    "two\nlines\tand a tab",
    "a very long name " * 20,
    "\ud83d",
    None,
]


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def detection(box: tuple[float, ...], label: str | None = "person", index: int = 0) -> Detection:
    return Detection(box, index, label, 0.87)


def corners(height: int, width: int) -> list[tuple[float, float, float, float]]:
    """Boxes that reach into every corner, and beyond."""
    xs, ys = (-5.0, width * 0.3), (-5.0, height * 0.3)
    return [(x, y, x + width * 0.8, y + height * 0.8) for x, y in itertools.product(xs, ys)]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, float, float]]:
    """Where text was written: left, top, right, bottom of its ink."""
    places, write = [], ImageDraw.ImageDraw.text

    def watch(self: ImageDraw.ImageDraw, xy, text, fill=None, font=None, **others):
        places.append(self.textbbox(xy, text, font))
        write(self, xy, text, fill, font, **others)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", watch)
    return places


@pytest.mark.parametrize("size", SIZES[2:], ids=str)
def test_labels_lie_inside_the_image(size: tuple[int, int], written: list[tuple[float, ...]]) -> None:
    drawn = draw_detections(grey(*size), [detection(box) for box in corners(*size)])
    assert drawn.size == size[::-1]
    assert len(written) == 4
    for left, top, right, bottom in written:
        assert 0 <= left < right <= size[1]
        assert 0 <= top < bottom <= size[0]


@pytest.mark.parametrize("size", [(64, 64), (480, 640), (4320, 7680)], ids=str)
def test_letters_grow_with_the_image(size: tuple[int, int], written: list[tuple[float, ...]]) -> None:
    draw_detections(grey(*size), [detection((10, 10, 50, 50))])
    ((_, top, _, bottom),) = written
    assert max(5, sum(size) / 2 * 0.012) < bottom - top < min(size) * 0.25


@pytest.mark.parametrize("size", SIZES[:5], ids=str)
@pytest.mark.parametrize("label", LABELS, ids=ascii)
def test_any_label_on_any_size(label: str | None, size: tuple[int, int]) -> None:
    image = grey(*size)
    drawn = draw_detections(image, [detection((0, 0, size[1], size[0]), label)])
    assert drawn.size == size[::-1]
    assert (image == 128).all(), "the image that was given is not drawn into"
    assert (np.asarray(drawn) != 128).any()
    assert draw_caption(image, [f"12.34 %  {label}"]).height > size[0]


def test_the_box_is_drawn_where_it_is() -> None:
    drawn = np.asarray(draw_detections(grey(480, 640), [detection((100, 200, 300, 400))]))
    edge = np.argwhere((drawn == colour(0)).all(axis=2) & (np.arange(480)[:, None] >= 230))
    assert (edge[:, 1].min(), edge[:, 1].max(), edge[:, 0].max()) == (100, 300, 400)
    assert (drawn[300, 200] == 128).all()


def test_a_box_without_an_area_is_a_point() -> None:
    assert draw_detections(grey(64, 64), [detection((70, 70, 60, 60)), detection((-9, -9, -1, -1))]).size == (64, 64)


def test_the_best_is_on_top() -> None:
    box = (10, 10, 50, 50)
    drawn = np.asarray(draw_detections(grey(480, 640), [detection(box, index=0), detection(box, index=1)]))
    assert tuple(drawn[50, 30]) == colour(0)


def test_classes_have_colours_of_their_own() -> None:
    colours = np.array([colour(index) for index in range(80)], float)
    distances = np.linalg.norm(colours[:, None] - colours, axis=2)[~np.eye(80, dtype=bool)]
    assert distances.min() > 10
    neighbours = np.linalg.norm(np.diff(colours, axis=0), axis=1)
    assert neighbours.min() > 200


@pytest.mark.parametrize("index", range(80))
def test_text_stands_out_from_its_background(index: int) -> None:
    def luminance(colour: tuple[int, int, int]) -> float:
        linear = [(c / 255 / 12.92) if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(colour(index)), luminance(text_colour(colour(index)))))
    assert (light + 0.05) / (dark + 0.05) >= 4.5, "WCAG 2 asks for 4.5"


def test_a_caption_hides_nothing_of_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 300, 3), np.uint8)
    captioned = np.asarray(draw_caption(image, ["93.10 %  cat", "1.00 %  dog"]))
    np.testing.assert_array_equal(captioned[:100], image)
    assert (captioned[100:] == 255).any()
