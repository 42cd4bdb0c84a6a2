"""Suppression is compared with one written plainly, pair by pair, and with OpenCV's."""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.errors import InputError
from deploy.images.nms import iou, select
from deploy.specs import NmsSettings


def plain_iou(one: np.ndarray, other: np.ndarray) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])  # noqa: E731
    return width * height / (area(one) + area(other) - width * height)


def plain_nms(boxes: np.ndarray, scores: np.ndarray, how: NmsSettings) -> list[tuple[int, int]]:
    """(box, class), best first: every pair is looked at."""
    found: list[tuple[int, int]] = []
    for box in sorted(range(len(boxes)), key=lambda box: (-scores[box].max(), box)):
        index = int(scores[box].argmax())
        if scores[box].max() <= np.float32(how.score_threshold):
            continue
        if all(index != kept or plain_iou(boxes[box], boxes[b]) <= how.iou_threshold for b, kept in found):
            found.append((box, index))
    return found[: how.max_detections]


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 80),
    classes=st.integers(1, 5),
    how=st.builds(NmsSettings, st.floats(0, 1), st.floats(0, 1), st.integers(1, 50)),
)
def test_it_selects_what_a_plain_one_does(
    seed: int, count: int, classes: int, how: NmsSettings, predictions: Callable[..., dict[str, np.ndarray]]
) -> None:
    made = predictions(seed, 1, count, classes)
    boxes, scores = made["boxes"][0], made["scores"][0]
    kept, indices, best = select(boxes, scores, how)
    wanted = plain_nms(boxes.astype(np.float64), scores, how)
    np.testing.assert_array_equal(kept, boxes[[box for box, _ in wanted]])
    assert indices.tolist() == [index for _, index in wanted]
    assert best.tolist() == [scores[box].max() for box, _ in wanted]


def test_opencv_selects_the_same(predictions: Callable[..., dict[str, np.ndarray]]) -> None:
    made = predictions(3, 1, 300, 4)
    boxes, scores = made["boxes"][0], made["scores"][0]
    best, classes = scores.max(axis=1), scores.argmax(axis=1)
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    theirs = cv2.dnn.NMSBoxesBatched(sides.tolist(), best.tolist(), classes.tolist(), 0.25, 0.45)
    _, _, ours = select(boxes, scores, NmsSettings(0.25, 0.45, 300))
    assert 20 < len(ours) < 300
    np.testing.assert_array_equal(ours, np.sort(best[np.asarray(theirs).ravel()])[::-1])


def test_boxes_of_another_class_stay() -> None:
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 9]])
    scores = np.float32([[0.9, 0.1], [0.2, 0.8], [0.7, 0.1]])
    _, classes, best = select(boxes, scores, NmsSettings())
    assert (classes.tolist(), best.tolist()) == ([0, 1], [np.float32(0.9), np.float32(0.8)])


def test_a_suppressed_box_suppresses_nothing() -> None:
    boxes = np.float32([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    scores = np.float32([[0.9], [0.8], [0.7]])
    kept, _, _ = select(boxes, scores, NmsSettings(iou_threshold=0.3))
    np.testing.assert_array_equal(kept, boxes[[0, 2]])


def test_boxes_without_an_area_overlap_nothing() -> None:
    point = np.float32([[5, 5, 5, 5], [5, 5, 5, 5]])
    np.testing.assert_array_equal(iou(point[0], point), [0, 0])


def test_25200_boxes_of_80_classes_take_milliseconds(predictions: Callable[..., dict[str, np.ndarray]]) -> None:
    made = predictions(0, 1, 25_200, 80, 640)
    boxes, scores = made["boxes"][0], made["scores"][0] * np.float32(0.2)
    scores[::100] *= 4
    start = time.process_time()
    kept, _, _ = select(boxes, scores, NmsSettings())
    assert len(kept) > 100
    assert time.process_time() - start < 2  # milliseconds; 25200 in a Python loop would take many seconds


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"score_threshold": 1.5}, r"the score threshold is a share \(got 1.5; expected 0 to 1\)"),
        ({"iou_threshold": float("nan")}, "the iou threshold is a share"),
        ({"max_detections": 0}, "the detections of an image are counted"),
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, float], error: str) -> None:
    with pytest.raises(InputError, match=error):
        NmsSettings(**wrong)
