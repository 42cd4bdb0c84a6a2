"""Outputs of a detector → detections in the pixels of the images."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.errors import CheckFailed, InputError
from deploy.images.detect import Detection, detect
from deploy.images.fit import Fit
from deploy.specs import NmsSettings

# 100x200 pixels at half their size in 64x128, 16 rows down.
HALVED = Fit((100, 200), (50, 100), (16, 0))
HOW = NmsSettings()


def outputs() -> dict[str, np.ndarray]:
    """Two images: a dog (and the same again, worse), and nothing."""
    boxes = np.float32([[[10, 26, 30, 46], [10, 26, 30, 45], [0, 0, 5, 5]], [[1, 1, 2, 2]] * 3])
    scores = np.float32([[[0.1, 0.9], [0.1, 0.8], [0.2, 0.1]], [[0.1, 0.2]] * 3])
    return {"boxes": boxes, "scores": scores}


def test_boxes_come_back_to_the_pixels_of_each_image() -> None:
    first, second = detect(outputs(), [HALVED, HALVED], HOW, ("cat", "dog"))
    assert first == [Detection((20.0, 20.0, 60.0, 60.0), 1, "dog", pytest.approx(0.9))]
    assert second == []


def test_what_lies_in_the_border_alone_is_not_in_the_image() -> None:
    found = outputs()
    found["boxes"][0, 0] = [10, 2, 30, 15]
    assert [d.score for d in detect(found, [HALVED, HALVED], HOW)[0]] == [pytest.approx(0.8)]


def test_without_labels_there_is_the_index() -> None:
    ((found,), _) = detect(outputs(), [HALVED, HALVED], HOW)
    assert (found.index, found.label) == (1, None)


def test_suppressed_in_the_graph_already() -> None:
    rows = np.zeros((1, 5, 6), np.float32)
    rows[0, 0] = [10, 26, 30, 46, 0.9, 1]
    rows[0, 1] = [10, 26, 30, 46, 0.5, 0]
    rows[0, 2] = [10, 26, 30, 46, 0.3, 0]
    found = detect({"detections": rows}, [HALVED], NmsSettings(score_threshold=0.4), ("cat", "dog"))
    assert [(d.label, d.box) for d in found[0]] == [("dog", (20, 20, 60, 60)), ("cat", (20, 20, 60, 60))]
    assert len(detect({"detections": rows}, [HALVED], NmsSettings(max_detections=1))[0]) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["boxes", "scores"])
def test_what_is_not_finite_fails(name: str, bad: float) -> None:
    broken = outputs()
    broken[name][1, 2, 0] = bad
    with pytest.raises(CheckFailed, match=rf"not finite \(got 1 of \d+ numbers in '{name}' are NaN or infinite"):
        detect(broken, [HALVED, HALVED], HOW)


def test_large_numbers_are_finite() -> None:
    fine = outputs()
    fine["boxes"][:, :, 2:] = np.float32(1e38)
    assert len(detect(fine, [HALVED, HALVED], HOW)) == 2


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"boxes": np.zeros((1, 2, 4), np.float32)}, r"not those of a detector \(got boxes\[1, 2, 4\]"),
        (
            {"boxes": np.zeros((1, 2, 4), np.float32), "scores": np.zeros((1, 3, 2), np.float32)},
            r"scores\[1, 3, 2\]; expected boxes\[images, n, 4\] and scores\[images, n, classes\]",
        ),
    ],
)
def test_outputs_of_something_else(wrong: dict[str, np.ndarray], error: str) -> None:
    with pytest.raises(InputError, match=error):
        detect(wrong, [HALVED], HOW)


def test_labels_of_another_model() -> None:
    with pytest.raises(InputError, match=r"not this model's \(got 3 labels; expected 2\)"):
        detect(outputs(), [HALVED, HALVED], HOW, ("a", "b", "c"))
    rows = np.float32([[[10, 26, 30, 46, 0.9, 7]]])
    with pytest.raises(InputError, match=r"not this model's \(got 2 labels; expected one for 7\)"):
        detect({"detections": rows}, [HALVED], HOW, ("a", "b"))
